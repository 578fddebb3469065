"""The full scale of float samples: 1, as it should be, or that of the 16-bit numbers that they came from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TypeVar

from preprocessing.audiofile import INT16_SCALE, Audible, FloatLevels
from preprocessing.decode import BLOCK_VALUES, Header, header, inspected
from preprocessing.files import File

Item = TypeVar("Item")
HEADERS = 1000  # of a split's files are read, evenly spread; of those that hold floats ...
FILES = 300  # ... the samples of so many, ...
BLOCKS = 10  # ... to so many blocks of each
PLAIN_PEAK = 256  # of the loudest: where it is less, they may as well have been divided by their standard deviation


def full_scales(splits: Mapping[str, Sequence[File]]) -> tuple[dict[str, float], list[str]]:
    """The full scale of float samples in each split that has some, and what a person should know of that.

    It is that of 16-bit numbers where this is plain: all of a split's float files go beyond 1, but for silent ones, and
    none goes beyond 32,768. Else it is 1. Many files are judged by a sample of them; decoding rejects each that its
    split's full scale does not fit.
    """
    paths = {
        split: dict.fromkeys(f.path for f in _spread(files, HEADERS) if not f.reason) for split, files in splits.items()
    }
    found = inspected(header, list(chain.from_iterable(paths.values())))
    scales, notes = dict[str, float](), list[str]()
    for split, some in paths.items():
        heads = zip(some, found, strict=False)  # the next ones
        floats = [path for path, head in heads if isinstance(head, Header) and head.floating]
        if not floats:
            continue
        looked = inspected(_levels, _spread(floats, FILES))
        levels = [level for level in looked if isinstance(level, FloatLevels) and level.tells]
        peak = max((level.peak for level in levels), default=0.0)
        plain = peak >= PLAIN_PEAK and all(level.peak > 1 and level.fits(INT16_SCALE) for level in levels)
        scales[split] = INT16_SCALE if plain else 1.0
        if plain:
            notes.append(f"float samples of {split} files are divided by {INT16_SCALE:,.0f}: they go up to {peak:,.0f} "
                         f"({len(levels):,} looked at)")  # fmt: skip
    return scales, notes


def _spread(items: Sequence[Item], most: int) -> Sequence[Item]:
    return items[:: max(1, math.ceil(len(items) / most))]


def _levels(file: Audible, progressed: Callable[[], None]) -> FloatLevels:
    levels = FloatLevels()
    for _ in range(BLOCKS):
        block = file.read(max(BLOCK_VALUES // file.channels, 1), "float32")
        progressed()
        levels.add(block)
        if not len(block):
            break
    return levels
