"""Label clips with an ensemble: ``python inference.py -t 224 -m dla60_res2next -f 5 -a y``.

Everything about features and classes comes from the checkpoints. torch and what builds on it are imported where they
are used, so that ``-h`` and a mistyped flag answer at once.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from arg import InferenceConfig, RunConfig, UserError, command, parse_inference
from util import accuracy, clock, format_accuracy, hard_vote, pick_device, progress, replacing, soft_vote

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from dataset import Clips, Store
    from model import Classifier


@command
def main(argv: Sequence[str] | None = None) -> None:
    infer(parse_inference(argv))


def infer(config: InferenceConfig) -> None:
    """Load the ensemble and the clips, predict, and write the submission and its probabilities."""
    device = pick_device(config.gpu)
    models = load_ensemble(config)
    classes = models[0].config.classes
    if config.output.is_dir():
        raise UserError(f"-o {config.output}: is a folder; name the CSV to write")
    with tempfile.TemporaryDirectory() as scratch:
        test = read_test(config, models[0], Path(scratch))
        form = read_form(config, test, classes)
        probabilities = predict_clips(config, models, test.clips, device)
    write_submission(config, form, test, classes, probabilities)


# ------------------------------------------------------------------------------------------------- the ensemble


def load_ensemble(config: InferenceConfig) -> list[Classifier]:
    """Every fold of every run, checked to belong together. UserError names what is missing or does not."""
    from model import read_checkpoint, restore_classifier

    paths = [path for run in config.runs for path in checkpoint_paths(config, run)]
    checkpoints = [read_checkpoint(path) for path in paths]
    first: RunConfig = checkpoints[0]["config"]
    seen: dict[Path, RunConfig] = {}  # by run, its first fold's
    for path, checkpoint in zip(paths, checkpoints, strict=True):
        run: RunConfig = checkpoint["config"]
        features = run.features
        last = checkpoint if config.checkpoint == "last" else read_checkpoint(path.with_name("last.ckpt"))
        if not last["finished"]:
            raise UserError(f"{path}: training has not finished; run its train.py command again")
        if config.size and config.size != (features.n_mels, features.frames):
            asked = "x".join(map(str, config.size))
            raise UserError(f"{path}: made for {features.n_mels}x{features.frames} features, not {asked}; see -t")
        if run.limit:
            print(f"warning: {path}: a dry run, trained on {run.limit} clips", file=sys.stderr)
        if run.classes != first.classes:
            raise UserError(f"{path}: knows other classes than {paths[0]}; give each data set its own --work")
        if run.folds_hash != first.folds_hash:
            raise UserError(f"{path}: stale, trained on other folds or labels than {paths[0]}; train it again")
        window, needed = ((f.sample_rate, f.clip_samples) for f in (features, first.features))
        if window != needed:
            raise UserError(
                f"{path}: takes {window[1]} samples at {window[0]} Hz, {paths[0]} {needed[1]} at {needed[0]}"
            )
        sibling = seen.setdefault(path.parents[1], run)
        if (run.model, features, run.limit) != (sibling.model, sibling.features, sibling.limit):
            raise UserError(
                f"{path}: another network, feature or --limit than in the run's other folds; train it again"
            )
    return [restore_classifier(path, checkpoint) for path, checkpoint in zip(paths, checkpoints, strict=True)]


def checkpoint_paths(config: InferenceConfig, run: str) -> list[Path]:
    """One checkpoint a fold. UserError where the run or any fold of it is missing."""
    runs = config.work / "runs"
    if not (runs / run).is_dir():
        have = sorted(path.name for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else []
        raise UserError(f"no run {run} in {runs}; there is {', '.join(have) or 'none: train one with train.py'}")
    paths = {fold: runs / run / f"fold{fold}" / f"{config.checkpoint}.ckpt" for fold in config.folds}
    missing = [str(fold) for fold, path in paths.items() if not path.exists()]
    if missing:
        folds = ",".join(missing)
        raise UserError(f"{runs / run}: no {config.checkpoint}.ckpt for fold {folds}; train with -f {folds}")
    return list(paths.values())


# ---------------------------------------------------------------------------------------------------- the clips


@dataclass(frozen=True)
class Test:
    """The clips to label."""

    clips: Clips
    bad: tuple[str, ...]  # names of those that could not be read
    class_counts: tuple[int, ...]  # of the training clips
    sample_submission: Path | None


def read_test(config: InferenceConfig, model: Classifier, scratch: Path) -> Test:
    """The store's test clips, or a folder's, decoded into `scratch`. UserError on a clip that cannot be read."""
    from dataset import Store
    from preprocess import STORE

    store = Store.open(config.work) if (config.work / STORE).exists() or config.input_path is None else None
    if store and store.folds_hash != model.config.folds_hash:
        print(f"warning: {config.work} has other folds or labels now than these runs were trained on", file=sys.stderr)
    if config.input_path is None:
        assert store is not None
        clips, rejected = store_test(store, model)
        ours = True
    else:
        clips, rejected = folder_test(config.input_path, model, scratch)
        folder = config.input_path.resolve()
        ours = store is not None and store.test_root in (folder, folder / "audio")
    if len(rejected) and config.on_bad_clip == "error":
        name, reason = rejected.iloc[0][["fname", "reason"]]
        more = f", and {len(rejected) - 1} more" if len(rejected) > 1 else ""
        raise UserError(f"{name}: {reason}{more}; mend or remove it, or use --on-bad-clip majority")
    return Test(
        clips=clips,
        bad=tuple(rejected["fname"]),
        class_counts=model.config.class_counts,
        sample_submission=config.sample_submission or (store.sample_submission if store and ours else None),
    )


def store_test(store: Store, model: Classifier) -> tuple[Clips, pd.DataFrame]:
    from preprocess import load_rejected

    features = model.config.features
    if store.sample_rate != features.sample_rate:
        raise UserError(
            f"{store.work} is at {store.sample_rate} Hz and the runs at {features.sample_rate}: give the clips with -i"
        )
    rejected = load_rejected(store.work)
    clips, rejected = store.clips("test", model.config.classes), rejected[rejected["split"] == "test"]
    if not len(clips) + len(rejected):
        raise UserError(f"{store.root} has no test clips: give a folder of clips with -i")
    return clips, rejected


def folder_test(folder: Path, model: Classifier, scratch: Path) -> tuple[Clips, pd.DataFrame]:
    from dataset import clips_of, read_waves
    from preprocess import decode_folder

    table, rejected = decode_folder(folder, model.config.features.sample_rate, scratch)
    return clips_of(table, read_waves(scratch), model.config.classes), rejected


# ----------------------------------------------------------------------------------------------- the submission


@dataclass(frozen=True)
class Form:
    """What the submission looks like."""

    header: tuple[str, ...]
    ids: tuple[str, ...]  # as they stand in the first column, in order
    fnames: tuple[str, ...]  # the clip of each
    probabilities: bool  # a column a class, instead of the label


def read_form(config: InferenceConfig, test: Test, classes: tuple[str, ...]) -> Form:
    """Header and order from the sample submission, or fname,label by name. UserError where it does not fit."""
    import pandas as pd

    fnames = sorted([*test.clips.fname, *test.bad])
    path = test.sample_submission
    if path is None:
        return Form(("fname", "label"), tuple(fnames), tuple(fnames), probabilities=False)
    try:
        sample = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a sample submission ({error})") from error
    header = tuple(sample.columns)
    probabilities = len(header) > 2 and set(header[1:]) == set(classes)
    if len(header) != 2 and not probabilities:
        raise UserError(f"{path}: need an id and a label, or an id and a column for each of {', '.join(classes)}")
    ids = tuple(sample[header[0]])
    return Form(header, ids, match_ids(ids, fnames, path), probabilities)


def match_ids(ids: Sequence[str], fnames: Sequence[str], path: Path) -> tuple[str, ...]:
    """The clip of each id: by its whole path, else by its name, else by its name without the extension."""
    for key in (str, lambda fname: Path(fname).name, lambda fname: Path(fname).stem):
        by_id = {key(fname): fname for fname in fnames}
        if len(by_id) == len(fnames) == len(ids) and by_id.keys() == set(ids):
            return tuple(by_id[id_] for id_ in ids)
    repeated = len(ids) - len(set(ids))
    unknown, missing = sorted(set(ids) - set(fnames)), sorted(set(fnames) - set(ids))
    kinds = {"ids without a clip": unknown, "clips without an id": missing}
    what = [f"{len(names)} {kind} (such as {names[0]})" for kind, names in kinds.items() if names]
    what += [f"{repeated} ids more than once"] if repeated else []
    raise UserError(f"{path}: its ids are not the clips to label: {', '.join(what)}; see -i and --sample-submission")


def predict_clips(
    config: InferenceConfig, models: Sequence[Classifier], clips: Clips, device: torch.device
) -> NDArray[Any]:
    """The ensemble's probabilities, (clips, classes)."""
    from dataset import Batches
    from model import predict
    from transform import VIEWS

    views = VIEWS if config.tta else 1
    vote = soft_vote if config.ensemble == "soft" else hard_vote
    classes, clip_samples = models[0].config.classes, models[0].config.features.clip_samples
    started = time.monotonic()
    print(
        f"{len(clips):,} clips, networks: {len(models)}, views: {views}, {config.ensemble} vote, {device}", flush=True
    )
    batches = Batches(clips, len(classes), clip_samples, config.batch_size)

    def rows() -> Iterator[NDArray[Any]]:
        for probabilities in predict(models, (wave for wave, _ in batches), views, device):
            yield vote(probabilities.mean(1))

    parts = list(progress(rows(), len(batches), "labelling, batch"))
    seconds = time.monotonic() - started
    print(f"labelled in {clock(seconds)}")
    return np.concatenate(parts) if parts else np.zeros((0, len(classes)), np.float32)


def write_submission(
    config: InferenceConfig, form: Form, test: Test, classes: tuple[str, ...], probabilities: NDArray[Any]
) -> None:
    """Write the submission and the probabilities beside it; where labels are known, say how good it is."""
    import pandas as pd

    prior = np.array(test.class_counts) / sum(test.class_counts)  # what is known of a clip that cannot be read
    position = {name: row for row, name in enumerate([*test.clips.fname, *test.bad])}
    rows = np.concatenate([probabilities, np.tile(prior, (len(test.bad), 1))], dtype=np.float32)
    rows = rows[[position[name] for name in form.fnames]]
    labels = [classes[index] for index in rows.argmax(1)]
    full = pd.DataFrame(rows, columns=list(classes))
    full.insert(0, form.header[0], form.ids, allow_duplicates=True)
    short = pd.DataFrame({form.header[0]: form.ids, form.header[1]: labels})
    submission = full[list(form.header)] if form.probabilities else short
    beside_name = config.output.with_name(f"{config.output.stem}_probabilities.csv")
    for path, content in ((beside_name, full), (config.output, submission)):
        with replacing(path) as beside:
            content.to_csv(beside, index=False)
    if test.bad:
        print(f"warning: {len(test.bad)} clips could not be read and got the largest class", file=sys.stderr)
    labelled = test.clips.target >= 0
    if labelled.any():
        truth, predicted = test.clips.target[labelled], probabilities[labelled].argmax(1)
        left_out = f", without {len(test.bad)} that could not be read" if test.bad else ""
        print(f"test accuracy {format_accuracy(accuracy(truth, predicted), len(truth))}{left_out}")
    print(f"{config.output}: {len(submission):,} clips; probabilities in {beside_name}")


if __name__ == "__main__":
    sys.exit(main())
