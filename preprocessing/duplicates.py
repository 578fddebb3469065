"""Duplicates: clips of the same samples, and near duplicates, which are one recording in several forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from preprocessing.audit import BLOCK
from preprocessing.store import map_waves
from system.files import forget_pages
from system.processes import cores

if TYPE_CHECKING:
    from pandas import DataFrame

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

# Near duplicates; likewise.
WINDOW_SECONDS = 2.0  # the loudest part of a longer clip
LOW_HZ, HIGH_HZ = 100, 2500  # below: hum and offsets; above: what re-encoding and noise destroy first
LOWEST_AUDIBLE = 1000  # Hz, a sample rate: below it is infrasound, ...
PLAYED_RATE = 8000  # Hz: ... which is compared as if it were played at this rate
SHORTEST_SECONDS = 0.04  # of infrasound so played: a shorter clip is like many others
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


def near_duplicates(
    waves: NDArray[np.int16],
    offset: Ints,
    length: Ints,
    sample_rate: int,
    processes: int | None = None,
    bands: Floats | None = None,
) -> Ints:
    """Which clips are one recording, (n,): the number of each clip's cluster, that of the cluster's first clip.

    Found again: a recording that was shifted, made louder or softer, re-encoded, resampled or made noisier; another
    take is another recording. `waves` holds all clips, (samples,); `offset` and `length` (n,) say which samples are
    whose. Of a clip longer than WINDOW_SECONDS, only the loudest part of that length counts. `processes` threads work
    (default: one a core); the result is the same for any number. `bands`, (n, bands), are the clips' `spectral_bands`
    where they are known, else NaN.

    1. A fingerprint that neither shift nor gain changes: the magnitude spectrum in narrow bands. Its distance is
       Hellinger's.
    2. Candidates: near fingerprints in the same leaf of one of several random projection trees (Dasgupta and Freund,
       2008), so that the work grows as n log n.
    3. Each candidate is confirmed by the peak of the waveforms' generalised cross-correlation (Knapp and Carter, 1976),
       magnitudes compressed: other takes have other phases, however alike their spectra.
    """
    clips = _Clips(waves, np.asarray(offset, np.int64), np.asarray(length, np.int64), sample_rate)
    with ThreadPoolExecutor(processes or cores()) as pool:  # threads do: numpy and scipy release the interpreter
        prints, sound = _fingerprints(clips, pool, bands)
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
        self.shortest = 0
        if sample_rate < LOWEST_AUDIBLE:
            sample_rate = PLAYED_RATE
            self.shortest = round(SHORTEST_SECONDS * sample_rate)
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

    def no_bands(self) -> Floats:
        return np.zeros((len(self.start), self.bands.stop - self.bands.start), np.float32)

    def band_magnitudes(self, rows: Ints, size: int) -> Floats:
        """(rows,) -> square roots of the shares that bands have in the energy, (rows, bands); zeros without sound."""
        spectrum, rms = self.spectra(rows, size)
        power = spectrum.real**2 + spectrum.imag**2
        power = power.reshape(len(rows), -1, size // self.smallest).sum(2)  # (rows, bands)
        power[(rms < QUIET) | (self.length[rows] < self.shortest)] = 0
        return np.sqrt(power / np.maximum(power.sum(1, keepdims=True), 1e-12))

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


def spectral_bands(waves: NDArray[np.int16], offset: Ints, length: Ints, sample_rate: int) -> Floats:
    """The magnitude spectrum of each clip in narrow bands, (n, bands), of unit energy; zeros where there is no sound.

    Arguments are those of `near_duplicates`.
    """
    clips = _Clips(waves, offset, length, sample_rate)
    bands = clips.no_bands()
    for size, rows in clips.batches(clips.size):
        bands[rows] = clips.band_magnitudes(rows, size)
    return bands


def _fingerprints(clips: _Clips, pool: ThreadPoolExecutor, known: Floats | None) -> tuple[Floats, Ints]:
    """Fingerprints of the clips that hold any sound, (rows, up to DIMENSIONS), and which they are, (rows,)."""
    bands = clips.no_bands() * np.float32(np.nan) if known is None else known
    missing = np.flatnonzero(np.isnan(bands[:, 0]))

    def look(task: tuple[int, Ints]) -> None:
        size, part = task
        bands[missing[part]] = clips.band_magnitudes(missing[part], size)
        clips.forget()

    list(pool.map(look, clips.batches(clips.size[missing])))
    rows = np.flatnonzero(bands.any(1))
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


def reject_duplicates(table: DataFrame) -> DataFrame:
    """`table` with a reason for training clips whose decoded audio another one has too.

    Under one label the first by name is kept; under several, none can be trusted.
    """
    train = table[(table["split"] == "train") & (table["reason"] == "")]
    reason = table["reason"].to_list()
    repeated = train[train.duplicated(["digest", "length"], keep=False)]
    for _, same in repeated.groupby(["digest", "length"]):
        clips = list(zip(same.index, same["fname"], same["label"], strict=True))
        _, first_name, first_label = clips[0]
        rival = next(((name, label) for _, name, label in clips if label != first_label), None)
        for index, name, label in clips:
            if rival:
                other_name, other_label = rival if label == first_label else (first_name, first_label)
                reason[index] = f"same audio as {other_name}, labelled {other_label}"
            elif name != first_name:
                reason[index] = f"duplicate of {first_name}"
    return table.assign(reason=reason)


def find_clusters(
    clips: DataFrame,
    old: DataFrame | None,
    waves: Path,
    sample_rate: int,
    known: tuple[Ints, Floats],
    searched: NDArray[np.bool_],
) -> NDArray[np.object_]:
    """The near duplicates among `clips`, (n,): the name of the first clip of each one's cluster, or ''.

    They are looked for among those of `searched`, (n,), and only where the clips are not those of `old`, an earlier
    table. `known` is the `spectral_bands` of some clips and, in order, their offsets.
    """
    same = ["fname", "split", "digest"]
    if old is not None and np.array_equal(old[same].to_numpy(object), clips[same].to_numpy(object)):
        return old["cluster"].to_numpy(object)
    sound = clips[searched]
    offset, length = (sound[name].to_numpy(np.int64) for name in ("offset", "length"))
    bands = None
    if len(known[0]):
        at = np.searchsorted(known[0], offset).clip(max=len(known[0]) - 1)
        bands = known[1][at]
        bands[known[0][at] != offset] = np.nan
    number = near_duplicates(map_waves(waves), offset, length, sample_rate, bands=bands)
    names = sound["fname"].to_numpy(object)[number]
    names[np.bincount(number, minlength=len(number))[number] == 1] = ""
    cluster = np.full(len(clips), "", object)
    cluster[sound.index] = names
    return cluster
