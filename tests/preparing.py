"""Data sets for the tests of preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

import preprocessing.decode
import preprocessing.folds
import preprocessing.pipeline
import preprocessing.store
import preprocessing.workers
import system.paths
from arg import PreprocessConfig
from tests.altered import to_int16

RATE = 16_000


REPOSITORY = Path(__file__).parents[1]


SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def noise(seed: int, samples: int = 1600) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-9000, 9000, samples).astype(np.int16)


def write(path: Path, wave: NDArray[Any] | int, rate: int = RATE, **options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(wave) if isinstance(wave, int) else wave, rate, **options)
    return path


def fill(root: Path, classes: str = "no yes", clips: int = 6, suffix: str = "wav", seed: int = 0) -> Path:
    """`clips` different clips in a folder a class."""
    for c, label in enumerate(classes.split()):
        for n in range(clips):
            write(root / label / f"{n}.{suffix}", 1000 * seed + 100 * c + n)
    return root


def fill_speakers(root: Path, speakers: int = 12, classes: str = "no yes up") -> Path:
    """Each speaker says some of the words, several times."""
    rng = np.random.default_rng(5)
    for speaker in range(speakers):
        for label in classes.split():
            for n in range(rng.integers(0, 4) if speaker else 1):
                write(root / label / f"{speaker:04x}_nohash_{n}.wav", int(rng.integers(1 << 40)))
    return root


def prepare(root: Path, work: Path, **options: Any) -> Any:
    preprocessing.pipeline.preprocess(PreprocessConfig(root, work, **options))
    return preprocessing.store.load_clips(work)


def in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode here, not in other processes: there, what a test changes would not count."""
    monkeypatch.setattr(preprocessing.decode, "isolated", lambda task, chunks, lost: map(task, chunks))


def samples_of(work: Path, clip: Any) -> NDArray[np.int16]:
    return np.fromfile(work / system.paths.WAVES, "<i2")[clip.offset : clip.offset + clip.length]


def reasons(work: Path) -> dict[str, str]:
    rejected = preprocessing.store.load_rejected(work)
    return dict(zip(rejected["fname"], rejected["reason"], strict=True))


def fold_of(clips: Any) -> dict[str, int]:
    return dict(zip(clips["fname"], clips["fold"], strict=True))


def sklearn_folds(splitter: Any, clips: Any) -> list[int]:
    grouped = clips["group"].any()
    units = clips["group"].where(clips["group"] != "", clips["fname"]) if grouped else None
    fold = np.full(len(clips), -1)
    for index, (_, held_out) in enumerate(splitter.split(clips["fname"], clips["label"], units)):
        fold[held_out] = index
    return fold.tolist()


def touch(root: Path, names: str) -> Path:
    for name in names.split():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def scan(root: Path, **options: Any) -> tuple[list[tuple[str, ...]], str]:
    """(split, fname, label, group, reason) of each file, and the notes."""
    data = preprocessing.scan.scan(PreprocessConfig(root, **options))
    return [(f.split, f.fname, f.label, f.group, f.reason) for f in data.files], "\n".join(data.notes)


def voice(seed: int, seconds: float = 1.0) -> NDArray[np.int16]:
    """A gliding buzz with formants, between noise: as unlike another seed's as two takes of a word."""
    draw = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = draw.uniform(90, 250) * (1 + 0.1 * np.sin(2 * np.pi * draw.uniform(0.5, 3) * time + draw.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    wave = sum(draw.uniform(0.1, 1) / k * np.sin(k * phase + draw.uniform(0, 6)) for k in range(1, 20))
    envelope = np.exp(-0.5 * ((time / seconds - draw.uniform(0.35, 0.65)) / 0.12) ** 2)
    return to_int16(5000 * envelope * wave + 20 * draw.standard_normal(len(time)))
