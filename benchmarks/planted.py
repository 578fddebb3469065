"""How many wrong labels are found, where it is known which are: some labels of a data set are swapped at random.

    python -m benchmarks.planted ../shared/data/gsc12 --work /tmp/planted
    python -m benchmarks.planted --work /tmp/planted                      # the report of a training that is finished
    python -m benchmarks.planted --work /tmp/tiny -- -t 32 -m resnet18 -f 0 --epochs 1 --limit 200

The training clips stay where they are: a manifest in the work folder (planted.csv: path, label, original) names them,
with 5 % of the labels replaced by another class, drawn evenly. A network is trained on these labels, by default in all
folds, and never told which were swapped. Then its held-out predictions rank the clips.

Prints, for the first 5 % and 10 % of the clips in that order and for those that confident learning suspects, how many
of the swapped labels are among them (recall) and how many of them are swapped (precision), with 95 % intervals of 2,000
bootstrap draws of whole speakers, and a JSON line. What was wrong in the data set already counts against the precision.
Copies to the sample of which one was swapped are left out, as preprocess.py does with two labels for one recording.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from arg import PreprocessConfig, TrainConfig, parse_train, run_name
from benchmarks.leak import GSC12, interval
from preprocessing.pipeline import preprocess
from preprocessing.scan import scan
from preprocessing.store import load_clips, load_store
from reporting.suspects import by_suspicion, judge
from system.files import replacing
from system.paths import STORE
from train import train
from training.fold import quieten

MANIFEST = "planted.csv"
TRAINING = "-t 32 -m resnet18 -f all"
SHARES = (0.05, 0.10)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planted", description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, default=GSC12, help="a data set, as for preprocess.py")
    parser.add_argument("--work", type=Path, help="a folder that is kept, and gone on with; default: a temporary one")
    parser.add_argument("--share", type=float, default=0.05, help="of the labels that are swapped")
    parser.add_argument("--seed", type=int, default=0, help="of the swaps")
    arguments = list(sys.argv[1:] if argv is None else argv)
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:split])
    if not options.data.is_dir():
        sys.exit(f"{options.data} is missing: give the folder of a data set")
    quieten()
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch) / "work"
        prepare(options.data, work, options.share, options.seed)
        config = parse_train([*(arguments[split + 1 :] or TRAINING.split()), "-w", str(work)])
        train(config)
        report(work, config)


def prepare(data: Path, work: Path, share: float, seed: int) -> None:
    """Swap labels and prepare `work`, unless that is done; what is there is kept whatever `share` and `seed` say."""
    manifest = work / MANIFEST
    if not manifest.exists():
        files = [file for file in scan(PreprocessConfig(data)).files if file.split == "train" and not file.reason]
        original = np.array([file.label for file in files], object)
        with replacing(manifest) as beside, beside.open("w", encoding="utf-8", newline="") as text:
            writer = csv.writer(text)
            writer.writerow(("path", "label", "original"))
            paths = [file.fname for file in files]
            writer.writerows(zip(paths, swapped(original, share, seed), original, strict=True))
    if not (work / STORE).exists():
        preprocess(PreprocessConfig(data, work, manifest=manifest))


def swapped(labels: NDArray[np.object_], share: float, seed: int) -> NDArray[np.object_]:
    """`labels` (n,) with a `share` of them replaced by any of the other classes."""
    draw = np.random.default_rng(seed)
    classes, index = np.unique(labels.astype(str), return_inverse=True)
    chosen = draw.permutation(len(labels))[: round(share * len(labels))]
    index[chosen] = (index[chosen] + draw.integers(1, len(classes), len(chosen))) % len(classes)
    return classes.astype(object)[index]


def report(work: Path, config: TrainConfig) -> None:
    """Print what the held-out predictions of the run say about the labels, of the folds that there are."""
    found = held_out(work, config)
    truth, original = found["target"], found["original"]
    planted = truth != original
    if not planted.any():
        sys.exit(f"none of the {len(truth):,} clips held out has a swapped label: train more folds, or raise --share")
    judged = judge(truth, found["probabilities"])
    order = by_suspicion(judged).index.to_numpy()
    first = {f"first {share:.0%}": order[: math.ceil(share * len(order))] for share in SHARES}
    sets = first | {"suspected": np.flatnonzero(judged["suspected"])}

    draw = np.random.default_rng(0)

    def share_of(which: NDArray[np.bool_], among: NDArray[np.bool_]) -> tuple[float, float, float]:
        """The share of clips `among` some that are `which`, with its interval."""
        counts = pd.DataFrame({"which": which & among, "among": among}).groupby(found["speaker"]).sum()
        return interval(draw, rate, counts.to_numpy(np.int64))

    everywhere = np.ones(len(truth), bool)
    right = judged["predicted"].to_numpy() == original
    result: dict[str, Any] = {
        "clips": len(truth),
        "swapped": int(planted.sum()),
        "folds": found["folds"],
        "accuracy against the original labels": share_of(right, everywhere),
        "accuracy against the given labels": share_of(judged["predicted"].to_numpy() == truth, everywhere),
    }
    lines = [f"{name:38} {mean:.4f}  {low:.4f} to {high:.4f}"
             for name, (mean, low, high) in list(result.items())[3:]]  # fmt: skip
    for name, rows in sets.items():
        if not len(rows):  # suspected
            continue
        inside = np.zeros(len(truth), bool)
        inside[rows] = True
        result[name] = {"clips": len(rows), "recall": share_of(inside, planted), "precision": share_of(planted, inside)}
        for kind in ("recall", "precision"):
            mean, low, high = result[name][kind]
            lines.append(f"{f'{name} ({len(rows):,} clips), {kind}':38} {mean:.4f}  {low:.4f} to {high:.4f}")
    print(
        f"\n{len(truth):,} clips held out, {planted.sum():,} with a swapped label",
        *lines,
        json.dumps(result),
        sep="\n",
        flush=True,
    )


def rate(counts: NDArray[np.int64]) -> float:
    """A share from (speakers, 2) counts; nan of a draw of speakers without anything to count."""
    which, among = counts.sum(0)
    return float(which / among) if among else math.nan


def held_out(work: Path, config: TrainConfig) -> dict[str, Any]:
    """The predictions of all folds that there are.

    target and original: (n,) classes as given and as they were; probabilities: (n, classes), the mean over the views;
    speaker: (n,) names; folds: how many.
    """
    features = config.features.resolve(*(load_store(work)[key] for key in ("sample_rate", "clip_samples")))
    run = work / "runs" / run_name(config.model, features.n_mels, features.frames, config.tag)
    parts = []
    for path in sorted(run.glob("fold*/oof.npz")):
        with np.load(path) as part:
            parts.append((part["fname"], part["target"], part["probabilities"].mean(0)))
            classes = part["classes"].tolist()
    if not parts:
        sys.exit(f"{run}: no fold is finished: train one")
    fname, target, probabilities = (np.concatenate(column) for column in zip(*parts, strict=True))
    manifest = pd.read_csv(work / MANIFEST, dtype=str, keep_default_na=False).set_index("path")
    group = load_clips(work).set_index("fname")["group"]
    speaker = group[fname].to_numpy(object)
    return {
        "target": target,
        "original": manifest["original"][fname].map({name: index for index, name in enumerate(classes)}).to_numpy(),
        "probabilities": probabilities,
        "speaker": np.where(speaker == "", fname, speaker),
        "folds": len(parts),
    }


if __name__ == "__main__":
    main()
