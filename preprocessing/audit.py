"""What is odd about clips: levels and flags."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from system.files import forget_pages

if TYPE_CHECKING:
    from pandas import DataFrame

Ints = NDArray[np.int64]
FULL_SCALE = 32768
FLOOR_DB = -100.0

# Flags; docs/data.md says how each was decided on recorded clips.
SILENT_DB = -65.0  # RMS below this
CLIPPED_SHARE = 0.001  # of the samples, in flat runs at the extremes …
CLIPPED_PEAK_DB = -20.0  # … of a clip that is this loud: a quiet one has flat runs from its few steps alone
DC_SHARE = 0.01  # of full scale
DURATION_RATIO = 2.0  # at least this many times shorter or longer than the median
DURATION_SPREADS = 5.0  # and at least this many standard deviations of the log duration (by its median deviation)

# How far the loud parts of a clip stand over the quiet ones.
FRAME_SECONDS = 0.02
LOUD_SHARE, QUIET_SHARE = 0.95, 0.20  # quantiles of the frames' powers
BLOCK = 1 << 18  # samples of a long clip at a time


class Levels(NamedTuple):
    """How loud a clip is, and signs of a bad recording."""

    peak_db: float  # dB re full scale, at least FLOOR_DB
    rms_db: float  # the same, about the mean: an offset is no sound
    dc: float  # mean, share of full scale
    clipped: float  # share of the samples in runs of 3 or more at the clip's own maximum or minimum


def measure(samples: NDArray[np.int16]) -> Levels:
    """The levels of a clip of one or more samples, (n,) int16; about 20 us for 16,000 of them."""
    high, low = int(samples.max()), int(samples.min())
    total, squares, flat = 0.0, 0.0, 0
    for start in range(0, len(samples), BLOCK):
        block = samples[start : start + BLOCK]
        wave = block.astype(np.float32)
        wave -= (high + low) / 2  # sums of small numbers keep their digits
        total += float(wave.sum())
        squares += float(np.dot(wave, wave))
        if high > low:
            flat += _flat(block, high, low)
    mean = total / len(samples)
    rms = max(squares / len(samples) - mean**2, 0.0) ** 0.5
    dc = (mean + (high + low) / 2) / FULL_SCALE
    return Levels(_decibels(max(high, -low)), _decibels(rms), dc, flat / len(samples))


def _flat(block: NDArray[np.int16], high: int, low: int) -> int:
    """Samples in runs of 3 or more at the extremes; a run over the edge of a block may count as shorter."""
    extreme = (block == high) | (block == low)
    third = extreme[2:] & extreme[1:-1] & extreme[:-2]
    if not third.any():
        return 0
    run = np.zeros_like(extreme)
    for shift in range(3):
        run[shift : shift + len(third)] |= third
    return int(np.count_nonzero(run))


def _decibels(level: float) -> float:
    return max(20 * float(np.log10(level / FULL_SCALE)), FLOOR_DB) if level > 0 else FLOOR_DB


def loud_over_quiet_db(waves: NDArray[np.int16], offset: Ints, length: Ints, sample_rate: int) -> NDArray[np.float64]:
    """How far each clip's loud frames stand over its quiet ones, dB, (n,): about its signal-to-noise ratio.

    That is the 95th percentile of the power in frames of 20 ms over the 20th, each frame about its own mean and never
    less than the rounding to 16 bits has. A recording that is loud throughout gives little, however clean. `waves`
    holds all clips, (samples,); `offset` and `length` (n,) say which samples are whose.
    """
    size = max(1, round(FRAME_SECONDS * sample_rate))
    frames = np.maximum(length // size, 1)
    ratio = np.zeros(len(offset))
    order = np.argsort(offset, kind="stable")
    done = np.cumsum(frames[order] * size)
    plain = np.asarray(waves)
    for rows in np.split(order, np.flatnonzero(np.diff(done // (4 * BLOCK))) + 1):  # a million samples at a time
        count = frames[rows]
        clip = np.repeat(np.arange(len(rows)), count)
        start = np.repeat(offset[rows], count) + size * (
            np.arange(len(clip)) - np.repeat(np.cumsum(count) - count, count)
        )
        power = np.empty(len(clip))
        for part in range(0, len(clip), BLOCK // size):
            which = slice(part, part + BLOCK // size)
            power[which] = _power(plain, start[which], np.minimum(size, length[rows][clip[which]]))
        power = 10 * np.log10(np.maximum(power, 1 / 12))
        power = power[np.lexsort((power, clip))]
        first = np.cumsum(count) - count
        loud, quiet = (
            power[first + np.rint(share * (count - 1)).astype(np.int64)] for share in (LOUD_SHARE, QUIET_SHARE)
        )
        ratio[rows] = loud - quiet
        forget_pages(waves)
    return ratio


def _power(waves: NDArray[np.int16], start: Ints, size: Ints) -> NDArray[np.float64]:
    """Variances of frames of `waves`, (frames,)."""
    power = np.empty(len(start))
    for one in np.unique(size):  # but for clips that are shorter than a frame, all are alike
        which = np.flatnonzero(size == one)
        frames = sliding_window_view(waves, one)[start[which]].astype(np.float32)
        frames -= frames.mean(1, keepdims=True)
        power[which] = np.einsum("ij,ij->i", frames, frames) / one
    return power


def flags(table: DataFrame, sample_rate: int) -> list[str]:
    """What is odd about each clip: words out of silent, clipped, dc, short, long, resampled, with spaces between.

    `table` has length (samples at `sample_rate`, Hz), sample_rate (Hz, of the file) and the fields of `Levels`. short
    and long are relative to the median of the rows given.
    """
    if not len(table):
        return []
    log_length = np.log(table["length"].to_numpy(np.float64))
    off = log_length - np.median(log_length)
    spread = 1.4826 * float(np.median(np.abs(off)))  # the standard deviation, were it normal
    limit = max(np.log(DURATION_RATIO), DURATION_SPREADS * spread)
    found = {
        "silent": table["rms_db"] < SILENT_DB,
        "clipped": (table["clipped"] > CLIPPED_SHARE) & (table["peak_db"] > CLIPPED_PEAK_DB),
        "dc": table["dc"].abs() > DC_SHARE,
        "short": off < -limit,
        "long": off > limit,
        "resampled": table["sample_rate"] != sample_rate,
    }
    rows = zip(*(np.asarray(mask, bool) for mask in found.values()), strict=True)
    return [" ".join(name for name, on in zip(found, row, strict=True) if on) for row in rows]


def flag_clips(clips: DataFrame, sample_rate: int) -> list[str]:
    """What is odd about each clip, words with spaces between: `flags`, and what comparing clips tells.

    truncated: the file ends before its header says; near-duplicate: of another clip; two-labels: and training clips
    of the cluster bear different ones; in-train: a test clip that is a duplicate, near or exact, of a training clip.
    """
    heard = clips["split"] != "noise"
    train, test = clips[clips["split"] == "train"], clips["split"] == "test"
    labels = train[train["cluster"] != ""].groupby("cluster")["label"].nunique()
    audio = clips["digest"] + " " + clips["length"].astype(str)
    near = clips["cluster"] != ""
    more = {
        "truncated": clips["truncated"] == 1,
        "near-duplicate": near,
        "two-labels": clips["cluster"].isin(labels.index[labels > 1]),
        "in-train": test & (audio.isin(audio[train.index]) | near & clips["cluster"].isin(labels.index)),
    }
    words = [""] * len(clips)
    for index, found in zip(np.flatnonzero(heard), flags(clips[heard], sample_rate), strict=True):
        words[index] = found
    for name, mask in more.items():
        for index in np.flatnonzero(mask):
            words[index] = f"{words[index]} {name}".strip()
    return words
