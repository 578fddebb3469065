"""How much too good scores are when a speaker's clips lie in several folds, on recorded words.

    python -m benchmarks.leak -t 32 -m resnet18 --epochs 8 --minutes 15

A fifth of the speakers of gsc12's training clips is set aside as a test. The others are split twice into five folds,
at random (preprocess.py --group none) and by speaker, and the same network is trained on each. The held-out clips of
the folds say how good it should be, the test how good it is. Folds of both splits are trained in turn, as many as
the time allows.

Prints accuracies with 95 % intervals, and a JSON line. The intervals are of 2,000 bootstrap draws of whole speakers:
clips of one speaker are no independent trials.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from arg import PreprocessConfig, parse_inference, parse_train
from inference import infer
from preprocessing.pipeline import preprocess
from train import train
from training.fold import quieten

GSC12 = Path(__file__).parents[2] / "shared" / "data" / "gsc12"
SPLITS = {"random": "none", "grouped": "auto"}  # and preprocess's --group
FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leak", description=__doc__.splitlines()[0])
    parser.add_argument("-t", "--size", type=int, default=32)
    parser.add_argument("-m", "--model", default="resnet18")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="of the speakers set aside")
    parser.add_argument("--minutes", type=float, default=60, help="no fold is begun later")
    options = parser.parse_args()
    if not GSC12.is_dir():
        sys.exit(f"{GSC12} is missing: this needs recorded clips")
    quieten()
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "data"
        set_aside(root, options.seed)
        for split, group in SPLITS.items():
            preprocess(PreprocessConfig(root, Path(scratch) / split, FOLDS, group=group))
        held_out: dict[str, list[pd.DataFrame]] = {split: [] for split in SPLITS}
        test: dict[str, list[pd.DataFrame]] = {split: [] for split in SPLITS}
        for fold in range(FOLDS):
            if fold and time.monotonic() > end:
                break
            for split in SPLITS:
                oof, tested = train_and_test(options, Path(scratch) / split, fold)
                held_out[split].append(oof)
                test[split].append(tested)
            report(held_out, test)


def set_aside(root: Path, seed: int) -> None:
    """Link the clips of a fifth of the speakers into root/test, the others into root/train, in a folder a word."""
    paths = sorted((GSC12 / "train").rglob("*.flac"))
    speakers = sorted({speaker_of(path.name) for path in paths})
    chosen = set(np.random.default_rng(seed).permutation(speakers)[: len(speakers) // 5])
    for path in paths:
        link = root / ("test" if speaker_of(path.name) in chosen else "train") / path.parent.name / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())


def speaker_of(fname: str) -> str:
    return Path(fname).name.split("_nohash_")[0]


def train_and_test(options: argparse.Namespace, work: Path, fold: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Probabilities by clip (fname, then a column a class) of what the fold held out, and of the test."""
    kind = ["-w", str(work), "-t", str(options.size), "-m", options.model]
    train(parse_train([*kind, "-f", str(fold), "--epochs", str(options.epochs)]))
    config = parse_inference([*kind, "-a", "y", "-o", str(work / f"test{fold}.csv")])
    infer(dataclasses.replace(config, folds=(fold,)))
    (oof,) = work.glob(f"runs/*/fold{fold}/oof.csv")
    return (
        pd.read_csv(oof, index_col="fname").drop(columns="label"),
        pd.read_csv(work / f"test{fold}_probabilities.csv", index_col="fname"),
    )


def report(held_out: dict[str, list[pd.DataFrame]], test: dict[str, list[pd.DataFrame]]) -> None:
    draw = np.random.default_rng(0)
    result: dict[str, object] = {"folds": len(held_out["random"])}
    lines, rows = [], {}
    for split in SPLITS:
        rows[split] = oof = by_speaker([pd.concat(held_out[split])])
        single = by_speaker(test[split])
        ensemble = by_speaker([sum(test[split][1:], test[split][0])])
        outcomes = {
            "out of fold": interval(draw, rate, oof),
            "test, single folds": interval(draw, rate, single),
            "test, ensemble": interval(draw, rate, ensemble),
            "out of fold - test, single folds": interval(draw, lambda a, b: rate(a) - rate(b), oof, single),
            "out of fold - test, ensemble": interval(draw, lambda a, b: rate(a) - rate(b), oof, ensemble),
        }
        result[split] = outcomes
        lines += [f"{split:8} {name:34} {mean:7.4f}  {low:7.4f} to {high:7.4f}"
                  for name, (mean, low, high) in outcomes.items()]  # fmt: skip
    if result["folds"] == FOLDS:  # the same clips of the same speakers
        pair = np.hstack([rows["random"], rows["grouped"]])
        result["random - grouped"] = gap = interval(draw, lambda a: rate(a[:, :2]) - rate(a[:, 2:]), pair)
        lines.append(f"random - grouped, out of fold: {gap[0]:.4f}  {gap[1]:.4f} to {gap[2]:.4f}")
    print(f"\nfolds trained: {result['folds']} of {FOLDS}", *lines, json.dumps(result), "", sep="\n", flush=True)


def by_speaker(tables: list[pd.DataFrame]) -> NDArray[np.int64]:
    """Right answers and answers of each speaker over all `tables`, (speakers, 2)."""
    right = pd.concat([
        pd.Series(table.columns[table.to_numpy().argmax(1)] == [Path(name).parent.name for name in table.index],
                  index=[speaker_of(name) for name in table.index])
        for table in tables
    ])  # fmt: skip
    return right.groupby(level=0).agg(["sum", "count"]).to_numpy(np.int64)


def rate(answers: NDArray[np.int64]) -> float:
    right, all_of_them = answers.sum(0)
    return float(right / all_of_them)


def interval(
    draw: np.random.Generator, score: Callable[..., float], *answers: NDArray[np.int64]
) -> tuple[float, float, float]:
    """A score of speakers' answers, with the limits between which 95 % of the bootstrap's lie."""
    scores = [score(*(a[draw.integers(len(a), size=len(a))] for a in answers)) for _ in range(2000)]
    low, high = np.nanpercentile(scores, [2.5, 97.5])  # nan: of a draw that holds nothing to count
    return round(score(*answers), 4), round(float(low), 4), round(float(high), 4)


if __name__ == "__main__":
    main()
