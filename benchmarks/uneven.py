"""Uneven classes: what drawing rare classes more often and weighing them in the loss give.

    python -m benchmarks.uneven tones       # 190 tones of 600 Hz and 10 of 690 Hz, pitch off by 6 %: who finds the ten
    python -m benchmarks.uneven words       # gsc12, cut so that a word has 40 to 400 clips

Networks are trained by train.py in --work, which keeps what is done; at 32 x 32, as many epochs as it chooses. Tables
are of the out-of-fold answers. Intervals are 95 %, of a bootstrap over speakers (or clips).
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from arg import PreprocessConfig
from benchmarks.common import GSC12
from util import confusion, macro_f1_of_counts

WAYS = {
    "as they are": (),
    "balance 0.5": ("--balance", "0.5"),
    "balance 1": ("--balance", "1"),
    "class weights 0.5": ("--class-weights", "0.5"),
    "class weights 1": ("--class-weights", "1"),
    "class weights 1, more": ("--class-weights", "1", "--augment", "more"),
}
TONES = {"frequent": (600, 190), "rare": (690, 10)}  # Hz and clips
JITTER = 0.06  # standard deviation of a clip's frequency, as a share of it
FEWEST, MOST = 40, 400  # clips of a word
RESAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.uneven", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("tones", "words"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of data and training")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("-m", "--model", default="test_resnet")
    parser.add_argument("-w", "--work", type=Path, default=Path("work-uneven"))
    options = parser.parse_args()
    prepare = prepare_tones if options.what == "tones" else prepare_words
    folders = [options.work / f"{options.what}{seed}" for seed in options.seeds]
    for seed, folder in zip(options.seeds, folders, strict=True):
        prepared(folder, seed, prepare)
        for way in options.ways:
            train_all(folder, options.model, way, seed)
    print(table(folders, options.model, options.ways))


def prepared(folder: Path, seed: int, prepare: Callable[[Path, int], PreprocessConfig]) -> None:
    from preprocessing.pipeline import preprocess
    from system.paths import STORE

    if not (folder / STORE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(io.StringIO()):
            preprocess(prepare(folder, seed))


def prepare_tones(folder: Path, seed: int) -> PreprocessConfig:
    import soundfile

    time = np.arange(4000) / 8000
    for kind, (name, (hertz, clips)) in enumerate(TONES.items()):
        (folder / "clips" / name).mkdir(parents=True, exist_ok=True)
        for clip in range(clips):
            draw = np.random.default_rng([seed, kind, clip])
            wave = 0.3 * np.sin(2 * np.pi * hertz * (1 + JITTER * draw.standard_normal()) * time)
            wave += 0.03 * draw.standard_normal(len(time))
            soundfile.write(folder / "clips" / name / f"{clip}.wav", wave.astype(np.float32), 8000)
    return PreprocessConfig(folder / "clips", folder)


def prepare_words(folder: Path, seed: int) -> PreprocessConfig:
    """The words get FEWEST to MOST clips, in even steps of their logarithm and in a drawn order."""
    draw = np.random.default_rng(seed)
    words = sorted(path.name for path in (GSC12 / "train").iterdir() if not path.name.startswith("_"))
    rows = ["path,label,group"]
    for word, clips in zip(draw.permutation(words), np.geomspace(FEWEST, MOST, len(words)).round(), strict=True):
        names = sorted(path.name for path in (GSC12 / "train" / word).iterdir())
        chosen = draw.choice(names, int(min(clips, len(names))), replace=False)
        rows += [f"train/{word}/{name},{word},{name.partition('_nohash_')[0]}" for name in chosen]
    (folder / "cut.csv").write_text("\n".join(rows) + "\n")
    return PreprocessConfig(GSC12, folder, folds=3, manifest=folder / "cut.csv")


def tag_of(way: str) -> str:
    return way.replace(" ", "_").replace(",", "")


def train_all(folder: Path, model: str, way: str, seed: int) -> None:
    """Train all folds, but for those that are."""
    import train

    words = ["-w", str(folder), "-t", "32", "-m", model, "-g", "cpu", "--seed", str(seed), "--tag", tag_of(way)]
    with contextlib.redirect_stdout(io.StringIO()):
        if train.main([*words, *WAYS[way]]):
            raise SystemExit(f"{folder}: training failed")


def answers(folder: Path, model: str, way: str) -> NDArray[np.int64]:
    """(groups, C, C) numbers of out-of-fold answers, by true class and predicted one."""
    from reporting.gather import find_runs, held_out_clips

    clips = held_out_clips(folder)
    (run,) = find_runs(clips, [f"{model}-32x32-{tag_of(way)}"])
    classes, predicted = len(clips.classes), run.mean.argmax(1)
    counts = [confusion(clips.truth[own], predicted[own], classes) for own in groups_of(clips.group)]
    return np.stack(counts)


def groups_of(group: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    order = np.argsort(group, kind="stable")
    return np.split(order, np.cumsum(np.bincount(group))[:-1])


def scores(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Accuracy, balanced accuracy, macro F1 and the rarest class's recall, of (C, C) numbers of answers."""
    true, predicted, both = counts.sum(1), counts.sum(0), counts.diagonal()
    recall = both[true > 0] / true[true > 0]
    rarest = recall[true[true > 0].argmin()]
    return np.array([both.sum() / true.sum(), recall.mean(), macro_f1_of_counts(true, predicted, both), rarest])


def table(folders: list[Path], model: str, ways: list[str]) -> str:
    """The mean over seeds of each way's scores, and by how much they differ from those of the first."""
    heads = ("accuracy", "balanced accuracy", "macro F1", "recall of the rarest")
    lines = [f"{'':24}" + "".join(f"{head:>38}" for head in heads)]
    counts = {way: [answers(folder, model, way) for folder in folders] for way in ways}
    for way in ways:
        draw = np.random.default_rng(0)
        value = np.mean([scores(own.sum(0)) for own in counts[way]], axis=0)
        resampled = []
        for _ in range(RESAMPLES):
            drawn = [draw.integers(len(own), size=len(own)) for own in counts[way]]
            both = [
                np.mean([scores(own[rows].sum(0)) for own, rows in zip(counts[one], drawn, strict=True)], axis=0)
                for one in (way, ways[0])
            ]
            resampled.append(both[0] - both[1])
        low, high = 100 * np.percentile(resampled, [2.5, 97.5], axis=0)
        gain = 100 * (value - np.mean([scores(own.sum(0)) for own in counts[ways[0]]], axis=0))
        cells = [
            f"{value[at]:.3f}" + (f"; {gain[at]:+.1f} ({low[at]:+.1f} to {high[at]:+.1f})" if way != ways[0] else "")
            for at in range(len(heads))
        ]
        lines.append(f"{way:24}" + "".join(f"{cell:>38}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
