"""The full scale of float samples: 1, as it should be, or that of the 16-bit numbers that they came from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple, TypeVar

from preprocessing.audiofile import INT16_SCALE, FloatLevels, open_audio
from preprocessing.decode import BLOCK_VALUES, CHUNK_FILES, UNREADABLE, headers
from preprocessing.files import File
from preprocessing.workers import STALL_SECONDS, isolated
from system.processes import watchdog

Item = TypeVar("Item")
HEADERS = 1000  # of a split's files are read, evenly spread; of those that hold floats ...
FILES = 300  # ... the samples of so many, ...
BLOCKS = 10  # ... to so many blocks of each
PLAIN_PEAK = 256  # of the loudest: where it is less, they may as well have been divided by their standard deviation


class FullScale(NamedTuple):
    """What the float samples of a split are divided by."""

    value: float
    note: str  # what a person should know, '' where that is nothing


def full_scales(splits: Mapping[str, Sequence[File]]) -> dict[str, FullScale]:
    """The full scale of float samples in each split that has some.

    It is that of 16-bit numbers where this is plain: all of a split's float files go beyond 1, but for silent ones, and
    none goes beyond 32,768. Else it is 1. Many files are judged by a sample of them; decoding rejects each that its
    split's full scale does not fit.
    """
    paths = {
        split: dict.fromkeys(f.path for f in _spread(files, HEADERS) if not f.reason) for split, files in splits.items()
    }
    found = headers(list(chain.from_iterable(paths.values())))
    decided = {}
    for split, some in paths.items():
        floats = [path for path, header in zip(some, found, strict=False) if header.floating]
        if floats:
            decided[split] = _decide(split, _spread(floats, FILES))
    return decided


def _spread(items: Sequence[Item], most: int) -> Sequence[Item]:
    return items[:: max(1, math.ceil(len(items) / most))]


def _decide(split: str, paths: Sequence[str]) -> FullScale:
    levels = [level for level in _levels(paths) if level.tells]
    peak = max((level.peak for level in levels), default=0.0)
    if peak < PLAIN_PEAK or not all(level.peak > 1 and level.fits(INT16_SCALE) for level in levels):
        return FullScale(1.0, "")
    what = f"float samples of {split} files are divided by {INT16_SCALE:,.0f}"
    return FullScale(INT16_SCALE, f"{what}: they go up to {peak:,.0f} ({len(levels):,} looked at)")


def _levels(paths: Sequence[str]) -> Iterator[FloatLevels]:
    """The levels of each file that can be read."""
    chunks = (list(paths[start : start + CHUNK_FILES]) for start in range(0, len(paths), CHUNK_FILES))
    return chain.from_iterable(isolated(_read_levels, chunks, lambda path, how: []))


def _read_levels(paths: list[str]) -> list[FloatLevels]:
    found = []
    with watchdog(STALL_SECONDS) as progressed:
        for path in paths:
            levels = FloatLevels()
            try:
                with open_audio(path) as file:
                    for _ in range(BLOCKS):
                        progressed()
                        block = file.read(min(max(BLOCK_VALUES // file.channels, 1), file.frames + 1), "float32")
                        levels.add(block)
                        if not len(block):
                            break
            except UNREADABLE:
                continue
            found.append(levels)
    return found
