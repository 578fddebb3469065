"""Label clips with an ensemble: ``python inference.py -t 224 -m dla60_res2next -f 5 -a y``.

Everything about features and classes comes from the checkpoints. torch and what builds on it are imported where they
are used, so that ``-h`` and a mistyped flag answer at once.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from arg import InferenceConfig, RunConfig, UserError, command, parse_inference
from results import BAD, SCRATCH, Results, partial_results
from submission import ClipForm, probabilities_path, read_form, write_submission
from util import (
    clock,
    format_accuracy,
    hard_vote,
    keep_memory,
    pick_device,
    pick_precision,
    prefetched,
    progress,
    soft_vote,
    temper,
    weighted_vote,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from model import Classifier
    from testclips import Batch, TestClips

BATCHES_AHEAD = 2  # that are decoded or gathered while the networks are busy
HALF_TOLERANCE = 0.02  # largest difference of a probability from float32's


@command
def main(argv: Sequence[str] | None = None) -> None:
    config = parse_inference(argv)
    if config.check is not None:
        from check import check

        check(config)
    else:
        infer(config)


def infer(config: InferenceConfig) -> None:
    """Load the ensemble, label the clips with it, and write the submission and its probabilities."""
    keep_memory()
    device = pick_device(config.gpu)
    if config.output.is_dir():
        raise UserError(f"-o {config.output}: is a folder; name the CSV to write")
    label(config, load_ensemble(config), device)


def label(config: InferenceConfig, ensemble: Ensemble, device: torch.device) -> None:
    """Find the clips, predict those that an interrupted run has not, and write the submission."""
    from testclips import find_clips_to_label

    clips = find_clips_to_label(config, ensemble.models[0].config)
    form = read_form(clips.sample_submission, clips.names, ensemble.classes)
    key = {  # all that a clip's probabilities hang on beside the clip
        "checkpoints": ensemble.digests,
        "clips": clips.origin(),
        "views": ensemble.views,
        "ensemble": config.ensemble,
        "weights": None if ensemble.weights is None else ensemble.weights.tolist(),
        "temperature": ensemble.temperature,
        "batch size": config.batch_size,
        "precision": pick_precision(config.precision, device),
        "device": device.type,
    }
    identities, keep_bad = clips.identities(config.batch_size), config.on_bad_clip == "majority"
    with partial_results(config.output, key, len(ensemble.classes), identities, keep_bad) as results:
        predict_clips(config, ensemble, clips, results, device)
        report(config, form, clips, ensemble, results)
        results.remove()


# ------------------------------------------------------------------------------------------------- the ensemble


@dataclass(frozen=True)
class Ensemble:
    """The networks, the hashes of the checkpoints they are from, and how they are put together."""

    models: list[Classifier]
    digests: list[str]
    views: int  # of each clip: 0 to this, exclusive
    weights: NDArray[np.float64] | None = None  # (models, views), of a weighted ensemble; None: all alike
    temperature: float = 1.0

    @property
    def classes(self) -> tuple[str, ...]:
        return self.models[0].config.classes

    def mean(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """(models, views, B, classes) -> (B, classes): the mean, or with weights that, and the temperature."""
        if self.weights is None:
            return soft_vote(probabilities.mean(1))
        members = probabilities.reshape(-1, *probabilities.shape[2:])
        return temper(weighted_vote(members, self.weights.ravel()), self.temperature)


def load_ensemble(config: InferenceConfig) -> Ensemble:
    """Every fold of every run, checked to belong together. UserError names what is missing or does not.

    The runs of a weighted ensemble are those of ensemble.json.
    """
    import torch

    from model import fold_batch_norm, read_checkpoint, restore_classifier
    from reporting.ensembling import read_ensemble
    from testclips import file_digest

    spec = read_ensemble(config.work) if config.ensemble == "weighted" else None
    if spec:
        config = dataclasses.replace(config, runs=spec.runs, folds=config.folds or spec.folds)
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
    if spec:
        spec.check_trained_on(config.work, first)
    models = [restore_classifier(path, checkpoint) for path, checkpoint in zip(paths, checkpoints, strict=True)]
    for model in models:
        features, draw = model.config.features, torch.Generator().manual_seed(0)
        fold_batch_norm(model.net, torch.randn(2, 1, features.n_mels, features.frames, generator=draw))
    digests = [file_digest(path) for path in paths]
    if spec is None:
        return Ensemble(models, digests, views_of(config))
    weights = spec.network_weights(len(config.folds), config.tta)
    return Ensemble(models, digests, weights.shape[1], weights, spec.temperature)


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


# ---------------------------------------------------------------------------------------------------- prediction


def predict_clips(
    config: InferenceConfig, ensemble: Ensemble, clips: TestClips, results: Results, device: torch.device
) -> None:
    """Append the ensemble's probabilities of the clips that `results` does not have yet."""
    import torch

    total = -(-len(clips) // config.batch_size)
    said = f"networks: {len(ensemble.models)}, views: {ensemble.views}, {config.ensemble} vote, {device}"
    print(f"{len(clips):,} clips, {said}", flush=True)
    if results.rows:
        print(f"going on after {results.rows:,} clips that an interrupted run labelled")
    started = time.monotonic()
    strict = config.on_bad_clip == "error"
    waves = clips.waves(config.batch_size, results.rows, results.folder / SCRATCH, strict)
    ahead = prefetched(map(pinned, waves) if device.type == "cuda" else waves, BATCHES_AHEAD)
    try:
        rows = predict_rows(config, ensemble, ahead, results, device)
        identities = islice(clips.identities(config.batch_size), results.batches, None)
        labelled = results.append((identity, row) for (_, identity), row in zip(identities, rows, strict=True))
        for _ in progress(labelled, total - results.batches, "labelling, batch"):
            pass
    except torch.OutOfMemoryError as error:
        raise UserError(f"out of memory on {device}: use a smaller --batch-size than {config.batch_size}") from error
    except KeyboardInterrupt:
        if results.rows:
            print(f"{results.rows:,} clips are labelled; the same command goes on from there", file=sys.stderr)
        raise
    finally:
        ahead.close()
        waves.close()
    print(f"labelled in {clock(time.monotonic() - started)}")


def predict_rows(
    config: InferenceConfig, ensemble: Ensemble, batches: Iterator[Batch], results: Results, device: torch.device
) -> Iterator[NDArray[np.float32]]:
    """(B, classes) probabilities of each batch; rows of BAD for clips that could not be read."""
    from model import predict

    unread: deque[NDArray[np.bool_]] = deque()
    first = next(batches, None)
    if first is None:
        return
    dtype = choose_precision(config, ensemble, first[0], results, device)
    hard = config.ensemble == "hard"

    def waves() -> Iterator[Tensor]:
        for wave, bad in chain([first], batches):
            unread.append(bad)
            yield wave

    for probabilities in predict(ensemble.models, waves(), ensemble.views, device, dtype):
        rows = (hard_vote(probabilities.mean(1)) if hard else ensemble.mean(probabilities)).astype(np.float32)
        if not np.isfinite(rows).all():
            raise UserError(f"the networks' output is not a number in {dtype}: use --precision 32, or train again")
        rows[unread.popleft()] = BAD
        yield rows


def choose_precision(
    config: InferenceConfig, ensemble: Ensemble, wave: Tensor, results: Results, device: torch.device
) -> torch.dtype:
    """The precision asked for, or float32 where its error on the first batch, `wave`, is too large; says which."""
    import torch

    from model import predict

    dtypes = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    dtype = dtypes.get(pick_precision(config.precision, device), torch.float32)
    if dtype == torch.float32 or results.float32:
        return torch.float32
    exact, half = (
        ensemble.mean(next(predict(ensemble.models, [wave], ensemble.views, device, kind)))
        for kind in (torch.float32, dtype)
    )
    difference = float(np.abs(exact - half).max())
    said = f"{str(dtype).removeprefix('torch.')}: probabilities within {difference:.1e} of float32's in the first batch"
    if difference <= HALF_TOLERANCE:  # false, too, where it is not a number
        print(said, flush=True)
        return dtype
    print(f"{said}, more than {HALF_TOLERANCE:g}: float32 it is", flush=True)
    results.give_up_half()
    return torch.float32


def views_of(config: InferenceConfig) -> int:
    from transform import VIEWS

    return VIEWS if config.tta else 1


def pinned(batch: Batch) -> Batch:
    """A batch in memory that is copied to a GPU while other things happen."""
    wave, bad = batch
    return wave.pin_memory(), bad


# ----------------------------------------------------------------------------------------------- the submission


def report(config: InferenceConfig, form: ClipForm, clips: TestClips, ensemble: Ensemble, results: Results) -> None:
    """Write the submission and the probabilities beside it, and say how the labels look; where known, how good."""
    from check import tell_labels

    counts = ensemble.models[0].config.class_counts
    prior = np.array(counts, np.float32) / sum(counts)  # what is known of a clip that cannot be read
    right = labelled = bad = 0

    def rows_at(index: NDArray[np.int64]) -> NDArray[np.float32]:
        nonlocal right, labelled, bad
        inside = index < len(clips)  # the others are `clips.lost`
        rows = np.full((len(index), len(counts)), BAD, np.float32)
        rows[inside] = results.read(index[inside])
        unread = rows[:, 0] == BAD
        rows[unread] = prior
        target = np.full(len(index), -1)
        target[inside] = clips.target[index[inside]]
        known = (target >= 0) & ~unread
        right += int((rows[known].argmax(1) == target[known]).sum())
        labelled += int(known.sum())
        bad += int(unread.sum())
        return rows

    written = write_submission(config.output, form, ensemble.classes, rows_at)
    tell_labels(written, written.near_ties, ensemble.classes, np.array(counts))
    if bad:
        print(f"warning: {bad} clips could not be read and got the largest class", file=sys.stderr)
    if labelled:
        left_out = f", without {bad} that could not be read" if bad else ""
        print(f"test accuracy {format_accuracy(right / labelled, labelled)}{left_out}")
    print(f"{config.output}: {len(form.ids):,} clips; probabilities in {probabilities_path(config.output)}")


if __name__ == "__main__":
    sys.exit(main())
