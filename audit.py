"""What is odd about a data set's clips: levels, flags, near duplicates, and a picture of it all.

Works on decoded samples and tables of clips; files are none of its business. scipy, pandas and matplotlib are imported
where they are used, so that ``preprocess.py -h`` answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from util import forget_pages, replacing

if TYPE_CHECKING:
    from pandas import DataFrame

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

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

# Near duplicates; likewise.
WINDOW_SECONDS = 2.0  # the loudest part of a longer clip
LOW_HZ, HIGH_HZ = 100, 2500  # below: hum and offsets; above: what re-encoding and noise destroy first
FADE_SECONDS = 0.05  # at both ends: a hard edge is a click, and clicks look alike
QUIET = 1.0  # RMS in steps of int16: below it a clip has nothing to compare
BAND_HZ = 16  # about, of the fingerprint
DIMENSIONS = 48  # of the fingerprint, after principal components
TREES = 10
LEAF = 16  # clips, up to twice as many
NEAREST = 3  # candidates of a clip
NEAR = 0.2  # distance of fingerprints: farther is no candidate
WHITEN = 0.25  # exponent of the magnitudes in the correlation; 1 keeps them, 0 discards them
SAME = 0.65  # correlation of two clips that are one recording
CHAINED = 0.4  # the same, of two that another clip links
BATCH_BYTES = 1 << 21  # of float32 samples at a time: about what stays in the cache
BLOCK = 1 << 18  # samples of a long clip at a time


# -------------------------------------------------------------------------------------------- levels and flags


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


# --------------------------------------------------------------------------------------------- near duplicates


def near_duplicates(
    waves: NDArray[np.int16], offset: Ints, length: Ints, sample_rate: int, processes: int | None = None
) -> Ints:
    """Which clips are one recording, (n,): the number of each clip's cluster, that of the cluster's first clip.

    Found again: a recording that was shifted, made louder or softer, re-encoded, resampled or made noisier; another
    take is another recording. `waves` holds all clips, (samples,); `offset` and `length` (n,) say which samples are
    whose. Of a clip longer than WINDOW_SECONDS, only the loudest part of that length counts. `processes` threads work
    (default: one a core); the result is the same for any number.

    1. A fingerprint that neither shift nor gain changes: the magnitude spectrum in narrow bands. Its distance is
       Hellinger's.
    2. Candidates: near fingerprints in the same leaf of one of several random projection trees (Dasgupta and Freund,
       2008), so that the work grows as n log n.
    3. Each candidate is confirmed by the peak of the waveforms' generalised cross-correlation (Knapp and Carter, 1976),
       magnitudes compressed: other takes have other phases, however alike their spectra.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    clips = _Clips(waves, np.asarray(offset, np.int64), np.asarray(length, np.int64), sample_rate)
    with ThreadPoolExecutor(processes or cores) as pool:  # threads do: numpy and scipy release the interpreter
        prints, sound = _fingerprints(clips, pool)
        row = np.zeros(len(offset), np.int64)
        row[sound] = np.arange(len(sound))

        def same(pairs: Ints, least: float = SAME) -> Ints:
            return pairs[clips.correlations(pairs, pool) >= least]

        pairs = same(sound[_candidates(prints, pool)])
        while True:
            cluster = _clusters(len(offset), pairs, lambda more: same(more, CHAINED))
            # A crowd of copies may fall apart, as each knows its nearest alone: the first ones look for each other.
            first = np.unique(cluster[cluster != np.arange(len(cluster))])
            more = same(first[_candidates(prints[row[first]], pool)])
            if not len(more):
                return cluster
            pairs = np.concatenate([pairs, more])


class _Clips:
    """The part of each clip that is compared, and its spectra; lengths in samples, bins of the FFT of `size`."""

    def __init__(self, waves: NDArray[np.int16], offset: Ints, length: Ints, sample_rate: int) -> None:
        self.mapped = waves
        self.waves = np.asarray(waves)  # a slice of a plain array costs less
        window = max(1, round(WINDOW_SECONDS * sample_rate))
        self.start, self.length = offset.copy(), np.minimum(length, window)
        for row in np.flatnonzero(length > window):
            self.start[row] += self._loudest(int(offset[row]), int(length[row]), window, max(1, sample_rate // 100))
        self.fade = np.linspace(0, 1, max(2, round(FADE_SECONDS * sample_rate)), dtype=np.float32)
        # Powers of two: a band is then a whole number of bins in each, and clips of different lengths can be compared.
        self.smallest = 2 ** round(np.log2(sample_rate / BAND_HZ))
        self.size = np.maximum(self.smallest, 2 ** np.ceil(np.log2(np.maximum(self.length, 1))).astype(np.int64))
        width = sample_rate / self.smallest  # Hz
        self.bands = slice(round(LOW_HZ / width), max(round(min(HIGH_HZ, 0.45 * sample_rate) / width), 8))

    def _loudest(self, offset: int, length: int, window: int, step: int) -> int:
        """The first of the `window` samples of a longer clip that hold most energy, to `step` samples."""
        parts = []
        block = max(1, BLOCK // step) * step
        for start in range(offset, offset + length // step * step, block):
            wave = self.waves[start : min(start + block, offset + length)].astype(np.float32)
            parts.append(wave[: len(wave) // step * step].reshape(-1, step).var(1))  # an offset is no energy
            self.forget()
        energy = np.concatenate([[0.0], np.cumsum(np.concatenate(parts), dtype=np.float64)])
        steps = window // step
        return int(np.argmax(energy[steps:] - energy[:-steps])) * step

    def forget(self) -> None:
        forget_pages(self.mapped)

    def batches(self, size: Ints) -> Iterator[tuple[int, Ints]]:
        """Positions in `size` (n,), the FFT that each needs: parts with the same one, fit for the cache, in order."""
        for one in np.unique(size):
            rows = np.flatnonzero(size == one)
            at_once = max(1, BATCH_BYTES // (4 * int(one)))
            for first in range(0, len(rows), at_once):
                yield int(one), rows[first : first + at_once]

    def spectra(self, rows: Ints, size: int) -> tuple[NDArray[np.complex64], Floats]:
        """(rows,) -> the compared bins of the FFTs of `size`, (rows, bins), and the RMS of each clip, (rows,)."""
        import scipy.fft

        wave = np.zeros((len(rows), size), np.float32)
        rms = np.zeros(len(rows), np.float32)
        for length in np.unique(self.length[rows]):  # most clips of a data set have the same
            which = np.flatnonzero(self.length[rows] == length)
            clips = sliding_window_view(self.waves, length)[self.start[rows[which]]].astype(np.float32)
            clips -= clips.mean(1, keepdims=True)
            rms[which] = np.sqrt(np.einsum("ij,ij->i", clips, clips) / length)
            edge = min(len(self.fade), length // 2)
            clips[:, :edge] *= self.fade[:edge]
            clips[:, length - edge :] *= self.fade[:edge][::-1]
            wave[which, :length] = clips
        per_band = size // self.smallest
        bins = slice(self.bands.start * per_band, self.bands.stop * per_band)
        return scipy.fft.rfft(wave, overwrite_x=True)[:, bins], rms

    def correlations(self, pairs: Ints, pool: ThreadPoolExecutor) -> Floats:
        """(pairs, 2) rows -> the peak of each pair's correlation, (pairs,) from 0 to 1, at any lag and polarity."""
        import scipy.fft

        peak = np.zeros(len(pairs), np.float32)
        size = self.size[pairs].max(1, initial=0)

        def correlate(task: tuple[int, Ints]) -> None:
            size, part = task
            left, right = (_whitened(self.spectra(pairs[part, side], size)[0]) for side in (0, 1))
            first = self.bands.start * (size // self.smallest)
            last = first + left.shape[1]
            lags = size
            while lags // 4 > 1.25 * last:  # no more lags than the band needs
                lags //= 2
            product = np.zeros((len(part), lags // 2 + 1), np.complex64)
            product[:, first:last] = left * right.conj()
            peak[part] = np.abs(scipy.fft.irfft(product, lags, overwrite_x=True)).max(1) * (lags / 2)
            self.forget()

        list(pool.map(correlate, self.batches(size)))
        return peak


def _whitened(spectrum: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Spectra (rows, bins) with magnitudes to the power of WHITEN, of unit energy."""
    power = spectrum.real**2 + spectrum.imag**2
    power += 1e-3 * power.mean(1, keepdims=True) + 1e-6  # nothing is made of the gaps between harmonics
    spectrum = spectrum * power ** ((WHITEN - 1) / 2)
    energy = (spectrum.real**2 + spectrum.imag**2).sum(1, keepdims=True)
    return spectrum / np.sqrt(energy + 1e-12)


def _fingerprints(clips: _Clips, pool: ThreadPoolExecutor) -> tuple[Floats, Ints]:
    """Fingerprints of the clips that hold any sound, (rows, up to DIMENSIONS), and which they are, (rows,)."""
    bands = np.zeros((len(clips.start), clips.bands.stop - clips.bands.start), np.float32)
    sound = np.zeros(len(bands), bool)

    def look(task: tuple[int, Ints]) -> None:
        size, rows = task
        spectrum, rms = clips.spectra(rows, size)
        power = spectrum.real**2 + spectrum.imag**2
        per_band = size // clips.smallest
        power = (power.reshape(-1, per_band) @ np.ones(per_band, np.float32)).reshape(len(rows), -1)  # (rows, bands)
        total = power.sum(1, keepdims=True)
        bands[rows] = np.sqrt(power / np.maximum(total, 1e-12))
        sound[rows] = rms >= QUIET
        clips.forget()

    list(pool.map(look, clips.batches(clips.size)))
    rows = np.flatnonzero(sound)
    bands = bands[rows]
    some = bands[:: max(1, len(bands) // 4096)]
    if len(some):
        bands -= some.mean(0)
    _, axes = np.linalg.eigh(some.T @ some)  # of a view of bands: centred too
    return bands @ axes[:, ::-1][:, :DIMENSIONS], rows


def _candidates(prints: Floats, pool: ThreadPoolExecutor) -> Ints:
    """Pairs (pairs, 2) of near rows of `prints` (n, d), the lower row first: about NEAREST of each row at most."""
    n = len(prints)
    if n < 2:
        return np.zeros((0, 2), np.int64)
    code = np.unique(np.concatenate(list(pool.map(lambda tree: _tree(prints, tree), range(TREES)))))
    low, high = code // n, code % n
    parts = range(0, len(code), BLOCK)  # all differences at once may be many
    ends = ((low[part : part + BLOCK], high[part : part + BLOCK]) for part in parts)
    distance = np.concatenate([[], *(((prints[a] - prints[b]) ** 2).sum(1) for a, b in ends)])
    one, other, distance = np.concatenate([low, high]), np.concatenate([high, low]), np.tile(distance, 2)
    order = np.lexsort((other, distance, one))
    one, other = one[order], other[order]
    rank = np.arange(len(one)) - np.searchsorted(one, one)  # among the candidates of the same clip
    code = np.unique((np.minimum(one, other) * n + np.maximum(one, other))[rank < NEAREST])
    return np.stack([code // n, code % n], 1)


def _tree(prints: Floats, seed: int) -> Ints:
    """Near pairs (low * n + high) that one random tree puts into the same leaf: it halves them on random directions."""
    n = len(prints)
    draw = np.random.default_rng(seed)
    depth = max(0, int(np.log2(n / LEAF)))
    size = -(-n // 2**depth)
    order = np.concatenate([draw.permutation(n), np.full(2**depth * size - n, n)])  # n: nothing, to make leaves equal
    key = prints @ draw.standard_normal((prints.shape[1], depth), np.float32)  # (n, depth)
    key = np.concatenate([key, np.full((1, depth), np.inf, np.float32)])
    for level in range(depth):
        order = order.reshape(2**level, -1)
        half = order.shape[1] // 2
        order = np.take_along_axis(order, np.argpartition(key[order, level], half, axis=1), axis=1)

    padded = np.concatenate([prints, np.zeros((1, prints.shape[1]), np.float32)])
    square = (padded**2).sum(1)
    square[n] = np.inf
    found = []
    for leaf in np.array_split(order.reshape(-1, size), -(-(2**depth) // 512)):  # (leaves, size)
        inside = padded[leaf]
        distance = square[leaf][:, :, None] + square[leaf][:, None, :] - 2 * inside @ inside.transpose(0, 2, 1)
        distance[:, range(size), range(size)] = np.inf
        which, row = np.nonzero((distance < NEAR**2).any(2))
        distance = distance[which, row]
        nearest = np.argpartition(distance, min(NEAREST, size) - 1, axis=1)[:, :NEAREST]
        keep = np.take_along_axis(distance, nearest, 1) < NEAR**2
        one, other = np.broadcast_to(leaf[which, row, None], keep.shape)[keep], leaf[which[:, None], nearest][keep]
        found.append(np.minimum(one, other) * n + np.maximum(one, other))
    return np.concatenate(found)


def _clusters(n: int, pairs: Ints, confirm: Callable[[Ints], Ints]) -> Ints:
    """The first clip of each clip's cluster, (n,), from confirmed `pairs` (pairs, 2), the lower clip first.

    Every clip of a cluster has been confirmed against its first one: `confirm` takes further pairs and returns those
    that hold. Without that, a chain of doubtful pairs would make one cluster of half the clips.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, part = connected_components(coo_array((np.ones(len(pairs)), pairs.T), shape=(n, n)), directed=False)
    first = np.unique(part, return_index=True)[1][part]  # of the whole chain
    linked = {(int(low), int(high)) for low, high in pairs}
    more = [(int(first[row]), int(row)) for row in np.flatnonzero(first != np.arange(n))]
    more = [pair for pair in more if pair not in linked]
    if more:
        pairs = np.concatenate([pairs, confirm(np.array(more))])
    cluster = np.arange(n)
    leads = np.ones(n, bool)
    for low, high in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]:
        if leads[low] and leads[high]:
            cluster[high], leads[high] = low, False
    return cluster


# -------------------------------------------------------------------------------------------------- the picture


def draw_audit(table: DataFrame, classes: Sequence[str], sample_rate: int, path: Path) -> None:
    """Write a PNG of the clips in `table`: durations, levels, and clips of each class.

    `table` has label, length (samples at `sample_rate`, Hz), peak_db and rms_db; clips of no class in `classes` count
    for durations and levels alone.
    """
    from matplotlib.figure import Figure

    columns = -(-len(classes) // 50)
    rows = -(-len(classes) // columns)
    bars_height = 0.9 + 0.17 * max(rows, 4)
    figure = Figure(figsize=(11, 3 + bars_height), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(3, bars_height))  # typed as one of them
    above, below = parts

    durations, levels = above.subplots(1, 2)
    durations.hist(table["length"] / sample_rate, bins=50, color="C0")
    durations.set(xlabel="duration (s)", ylabel="clips", yscale="log", title=f"{len(table):,} clips")
    edges = np.arange(FLOOR_DB, 1.5, 1.5)
    for name, label in (("peak_db", "peak"), ("rms_db", "RMS")):
        levels.hist(table[name], bins=edges, alpha=0.6, label=label)
    levels.set(xlabel="level (dB re full scale)", ylabel="clips", yscale="log", title="levels")
    levels.legend()

    count = table["label"].value_counts().reindex(classes, fill_value=0)
    middle = float(count.median())
    axes = below.subplots(1, columns, sharex=True, squeeze=False)[0]
    for column, part in zip(axes, np.array_split(np.arange(len(classes)), columns), strict=True):
        column.barh(range(len(part)), count.iloc[part], color="C0", height=0.8)
        column.axvline(middle, color="C3", linewidth=1)
        column.set_yticks(range(len(part)), [short(classes[row]) for row in part], fontsize=8)
        column.set(ylim=(max(rows, 4) - 0.4, -0.6), xlabel="clips")
        column.margins(y=0)
    below.suptitle(f"clips of each of {len(classes)} classes (line: the median, {middle:,.0f})", fontsize=11)
    with replacing(path) as beside:
        figure.savefig(beside, format="png", dpi=110)


def short(name: str) -> str:
    """A class name for a picture: not too long, and no formula even with dollar signs."""
    name = name if len(name) <= 24 else f"{name[:23]}…"
    return name.replace("$", r"\$")
