"""Pieces of the noise recordings as a class of their own (--silence)."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from arg import CHALLENGES, PreprocessConfig
from preprocessing.decode import Audio, described
from preprocessing.files import File, part_of, recording_of, some
from system.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame

Ints = NDArray[np.int64]
SILENCE = "silence"  # the class
NEAREST_SECONDS = 0.01  # from the begin of a piece to that of the next


class Pieces(NamedTuple):
    """Training clips that are parts of noise recordings, whose samples are there already."""

    files: list[File]
    audios: list[Audio]
    notes: list[str]


def wants_silence(config: PreprocessConfig) -> bool:
    return bool(config.silence) or (config.silence is None and config.challenge is not None)


def cut_silence(
    config: PreprocessConfig,
    files: Sequence[File],
    audios: Sequence[Audio],
    waves: NDArray[np.int16],
    sample_rate: int,
    window: int,
) -> Pieces:
    """As many pieces of the noise recordings as wanted, each of `window` samples at `sample_rate` (Hz).

    They are spread evenly over the recordings that are long enough, and over each of these, where chance (the seed)
    moves them a little. They overlap only where there is no room. UserError where there are not so many.
    """
    count = config.silence if config.silence is not None else _as_many_as_a_word(config, files, audios)
    heard = [(file, audio) for file, audio in zip(files, audios, strict=True) if file.split == "noise" and audio.length]
    long = sorted(pair for pair in heard if pair[1].length >= window)
    seconds = window / sample_rate
    if not long:
        raise UserError(f"--silence: no noise recording is as long as the window, {seconds:g} s: give longer ones with "
                        "--noise DIR, or a smaller --clip-seconds")  # fmt: skip
    length = np.array([audio.length for _, audio in long])
    room = length // window
    overlap = count > room.sum()
    most = 1 + (length - window) // max(1, round(NEAREST_SECONDS * sample_rate)) if overlap else room
    if count > most.sum():
        raise UserError(f"--silence {count}: the noise recordings have at most {most.sum():,} pieces of {seconds:g} s; "
                        f"use --silence {most.sum()} or less, or give more recordings with --noise DIR")  # fmt: skip
    share = _shares(count, room if overlap else np.ones_like(room), most)
    pieces, constant = Pieces([], [], []), 0
    for (file, audio), number in zip(long, share.tolist(), strict=True):
        draw = np.random.default_rng([config.seed % 2**32, zlib.crc32(file.fname.encode("utf-8", "surrogatepass"))])
        for start in _starts(audio.length, window, number, draw).tolist():
            wave = waves[audio.offset + start : audio.offset + start + window]
            if wave.min() == wave.max():  # the next one would be its duplicate
                constant += 1
                continue
            begin, end = start / sample_rate, (start + window) / sample_rate
            group = "" if config.group == "none" else file.fname
            pieces.files.append(
                file._replace(split="train", fname=part_of(file.fname, begin, end), label=SILENCE, group=group)
            )
            pieces.audios.append(described(wave, audio.offset + start, audio.sample_rate, audio.channels))
    if not pieces.files:
        raise UserError("--silence: the noise recordings hold no sound at all: give others with --noise DIR")
    says = f"{len(pieces.files):,} pieces of {seconds:g} s of {some([file.fname for file, _ in long], 'recording')}"
    if overlap:
        says += f", which overlap, as there is room for {room.sum():,}"
    pieces.notes.append(f"class {SILENCE}: {says}")
    if constant:
        pieces.notes.append(f"class {SILENCE}: {constant:,} pieces left out, as all their samples are the same")
    if short := [file.fname for file, audio in heard if audio.length < window]:
        pieces.notes.append(f"class {SILENCE}: not used, as shorter than {seconds:g} s: {some(short, 'recording')}")
    return pieces


def _as_many_as_a_word(config: PreprocessConfig, files: Sequence[File], audios: Sequence[Audio]) -> int:
    """The median of the numbers of clips that the words of the challenge have."""
    words = CHALLENGES[config.challenge or ""]
    count = Counter(file.label for file, audio in zip(files, audios, strict=True)
                    if file.split == "train" and audio.length and file.label in words)  # fmt: skip
    return max(1, round(float(np.median(list(count.values()))))) if count else 1


def _shares(count: int, weight: Ints, most: Ints) -> Ints:
    """`count` dealt out in proportion to `weight`, (n,), but no more than `most`, (n,), to one; the first get more."""
    share = np.zeros_like(most)
    while left := int(count - share.sum()):
        free = np.flatnonzero(share < most)
        more = left * weight[free] // weight[free].sum()
        more[:left] += not more.any()
        share[free] = np.minimum(share[free] + more, most[free])
    return share


def _starts(length: int, window: int, number: int, draw: np.random.Generator) -> Ints:
    """Where so many pieces of a recording of `length` samples begin, (number,): one in each equal part of it."""
    apart = number * window <= length
    places = length if apart else length - window + 1  # that are dealt out: samples, or begins
    edge = np.arange(number + 1) * places // max(number, 1)
    last = edge[1:] - (window if apart else 1)
    return edge[:-1] + (draw.random(number) * (last - edge[:-1] + 1)).astype(np.int64)


def are_pieces(clips: DataFrame) -> NDArray[np.bool_]:
    """Which clips are parts of noise recordings, (n,)."""
    noise = set(clips.loc[clips["split"] == "noise", "fname"])
    part = (clips["fname"].str.contains("#t=", regex=False) & (clips["split"] == "train")).to_numpy(bool)
    found = np.zeros(len(clips), np.bool_)
    found[part] = [recording_of(name) in noise for name in clips.loc[part, "fname"]]
    return found
