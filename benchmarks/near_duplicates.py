"""Near duplicates: how many planted copies are found, at what price, and how the price grows.

    python -m benchmarks.near_duplicates                  # all parts: minutes, and 4 GB of scratch disk
    python -m benchmarks.near_duplicates --sizes 1000     # the curve up to 1,000 clips only

- margins: how far altered copies and different recordings lie from the thresholds;
- planted: altered copies of recorded clips among all training clips of gsc12, recall and precision;
- price: one core's seconds against reading the same files with soundfile, interleaved, medians over the rounds;
- curve: clips made of recorded ones (two at a time, at other speeds, mixed), one in 50 an altered copy, each size in
  a process of its own, for the peak of its memory.

Prints tables and a JSON line.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

import preprocessing.duplicates
from preprocessing.duplicates import near_duplicates

GSC12 = Path(__file__).parents[2] / "shared" / "data" / "gsc12"
RATE = 16_000

Wave = NDArray[np.int16]
Ints = NDArray[np.int64]


# ------------------------------------------------------------------------------------------------- alterations


def shift(wave: Wave, draw: np.random.Generator) -> Wave:
    """Up to 100 ms earlier or later; what leaves the clip is lost, silence fills the gap."""
    by = int(draw.integers(1, RATE // 10 + 1))
    gap = np.zeros(by, np.int16)
    return np.concatenate([gap, wave[:-by]] if draw.random() < 0.5 else [wave[by:], gap])


def gain(wave: Wave, draw: np.random.Generator) -> Wave:
    """Within +-12 dB; what is too loud is clipped."""
    return to_int16(wave * 10 ** (draw.uniform(-12, 12) / 20))


def mp3(wave: Wave, draw: np.random.Generator) -> Wave:
    """MP3 at 32 kbit/s, constant, and back: longer by the coder's delay and padding."""
    file = io.BytesIO()
    level = (160 - 32) / (160 - 8)  # libsndfile's scale from the highest to the lowest rate of MPEG-2 layer III
    soundfile.write(file, wave, RATE, format="MP3", bitrate_mode="CONSTANT", compression_level=level)
    file.seek(0)
    coded: Wave = soundfile.read(file, dtype="int16")[0]
    return coded


def resample(wave: Wave, draw: np.random.Generator) -> Wave:
    """To 8 kHz and back."""
    return to_int16(soxr.resample(soxr.resample(wave.astype(np.float64), RATE, 8000), 8000, RATE))


def noise(wave: Wave, draw: np.random.Generator) -> Wave:
    """White noise, 20 dB below the clip's mean power."""
    power = np.mean(wave.astype(np.float64) ** 2)
    return to_int16(wave + draw.standard_normal(len(wave)) * (power / 100) ** 0.5)


def together(wave: Wave, draw: np.random.Generator) -> Wave:
    """All of them, one after the other."""
    for alter in (shift, gain, resample, noise, mp3):
        wave = alter(wave, draw)
    return wave


def to_int16(wave: NDArray[Any]) -> Wave:
    return np.clip(np.rint(wave), -32768, 32767).astype(np.int16)


ALTERATIONS: tuple[Callable[[Wave, np.random.Generator], Wave], ...] = (shift, gain, mp3, resample, noise)


# ----------------------------------------------------------------------------------------------------- planted


def planted(
    names: Sequence[str], waves: Sequence[Wave], kinds: Sequence[Callable[..., Wave]], seeds: int
) -> dict[str, Any]:
    """Recall and precision over `seeds` draws of 200 copies of 300 clips; prints what was found wrongly.

    A pair counts as found when both clips are in one cluster. Pairs of clips that are equal to the sample, and of a
    copy with a clip that is equal to its original, are true.
    """
    found, planted_count = Counter[str](), Counter[str]()
    right, wrong = 0, Counter[str]()
    same = {wave.tobytes(): index for index, wave in reversed(list(enumerate(waves)))}
    recording = [same[wave.tobytes()] for wave in waves]  # the first clip that is equal
    for seed in range(seeds):
        draw = np.random.default_rng(seed)
        chosen = draw.choice(draw.choice(len(waves), 300, replace=False), 200, replace=False)
        alters = [kinds[index % len(kinds)] for index in range(200)]
        copies = [alter(waves[row], draw) for alter, row in zip(alters, chosen, strict=True)]
        cluster = near_duplicates(*joined([*waves, *copies]), RATE)
        truth = np.array([*recording, *(recording[row] for row in chosen)])
        for index, (alter, row) in enumerate(zip(alters, chosen, strict=True)):
            planted_count[alter.__name__] += 1
            found[alter.__name__] += int(cluster[len(waves) + index] == cluster[row])
        label = [*names, *(f"copy of {names[row]}" for row in chosen)]
        for low, high in pairs_of(cluster):
            if truth[low] == truth[high]:
                right += 1
            else:
                wrong[f"{label[low]} = {label[high]}"] += 1
    for pair, times in wrong.most_common(20):
        print(f"  not planted, {times} of {seeds} times: {pair}")
    return {
        "recall": round(found.total() / planted_count.total(), 4),
        "precision": round(right / max(1, right + wrong.total()), 4),
        "recall by kind": {kind: round(found[kind] / count, 4) for kind, count in planted_count.items()},
        "copies": planted_count.total(),
        "wrong pairs": wrong.total(),
    }


def joined(waves: Sequence[Wave]) -> tuple[Wave, Ints, Ints]:
    """Clips back to back: samples, offset, length."""
    length = np.array([len(wave) for wave in waves], np.int64)
    return np.concatenate(waves), np.cumsum(length) - length, length


def pairs_of(cluster: Ints) -> Iterator[tuple[int, int]]:
    for number in np.unique(cluster[cluster != np.arange(len(cluster))]):
        members = np.flatnonzero(cluster == number)
        yield from ((int(a), int(b)) for at, a in enumerate(members) for b in members[at + 1 :])


def margins(waves: Sequence[Wave]) -> dict[str, list[float]]:
    """Where altered copies of 300 clips and pairs of different recordings lie on the two scales of the finder."""
    draw = np.random.default_rng(0)
    waves = list({wave.tobytes(): wave for wave in waves}.values())
    chosen = draw.choice(len(waves), 300, replace=False)
    kinds = (*ALTERATIONS, together)
    copies = [alter(waves[row], draw) for alter in kinds for row in chosen]
    result: dict[str, list[float]] = {}
    with ThreadPoolExecutor() as pool:
        clips = preprocessing.duplicates._Clips(*joined([*waves, *copies]), RATE)
        prints, sound = preprocessing.duplicates._fingerprints(clips, pool)
        row_of = np.full(len(clips.start), -1)
        row_of[sound] = np.arange(len(sound))
        pairs = np.stack([np.tile(chosen, len(kinds)), len(waves) + np.arange(len(copies))], 1)
        ends = prints[row_of[pairs]]
        distance = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
        distance[(row_of[pairs] < 0).any(1)] = np.inf
        correlation = clips.correlations(pairs, pool)
        for index, alter in enumerate(kinds):
            part = slice(300 * index, 300 * (index + 1))
            result[f"{alter.__name__}: distance, 50 95 99 %"] = quantiles(distance[part], 50, 95, 99)
            result[f"{alter.__name__}: correlation, 50 5 1 %"] = quantiles(correlation[part], 50, 5, 1)
        originals = np.flatnonzero((row_of >= 0) & (np.arange(len(row_of)) < len(waves)))
        apart = distance_matrix(prints[row_of[originals]])
        low, high = np.nonzero(np.triu(apart < 0.35, 1))
        others = clips.correlations(originals[np.stack([low, high], 1)], pool)
    count = len(originals) * (len(originals) - 1) / 2
    for limit in (0.15, 0.2, 0.25, 0.3, 0.35):
        near = apart[low, high] < limit
        result[f"different within {limit}: pairs in a million, highest correlations"] = [
            round(1e6 * float(near.sum()) / count, 2),
            *quantiles(np.sort(others[near])[::-1][:3], 100, 50, 0),
        ]
    return result


def quantiles(values: NDArray[Any], *percent: int) -> list[float]:
    return [round(float(value), 3) for value in np.percentile(values, percent)]


def distance_matrix(points: NDArray[np.float32]) -> NDArray[np.float32]:
    square = (points**2).sum(1)
    return np.sqrt(np.maximum(square[:, None] + square - 2 * points @ points.T, 0))


# ------------------------------------------------------------------------------------------- price and growth


def price(paths: Sequence[Path], rounds: int) -> dict[str, float]:
    """One core's seconds for `paths`: decoding alone, and near_duplicates on a memory map of what that gave."""
    decoding, looking = [], []
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(rounds):
            start = time.process_time()
            waves = [soundfile.read(path, dtype="int16")[0] for path in paths]
            decoding.append(time.process_time() - start)
            samples, offset, length = joined(waves)
            samples.tofile(file.name)
            del waves, samples
            start = time.process_time()
            near_duplicates(np.memmap(file.name, "<i2", "r"), offset, length, RATE, processes=1)
            looking.append(time.process_time() - start)
    result = {"decoding s": median(decoding), "near duplicates s": median(looking)}
    return result | {"share": result["near duplicates s"] / result["decoding s"]}


def make(path: Path, recorded: Sequence[Wave], count: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Write `count` clips of a second to `path`: offset, length, the original of each (its own number where it is no
    copy), and the two recordings (clips, 2) that it is made of.

    A made clip is two recorded ones, each faster or slower by up to a quarter and turned round by a random lag, mixed.
    """
    draw = np.random.default_rng(count)
    length, original = np.zeros(count, np.int64), np.arange(count)
    recent: list[tuple[int, Wave]] = []
    used = Counter[int]()
    sources = draw.integers(len(recorded), size=(count, 2))

    def one(source: int) -> NDArray[np.float64]:
        wave = recorded[source]
        used[source] += 1
        speed = 0.8 + 0.45 * (used[source] * 0.6180339887 % 1)  # never nearly the same: that would be a copy
        grid = (np.arange(RATE) * speed + draw.integers(len(wave))) % len(wave)
        return np.interp(grid, np.arange(len(wave)), wave)

    with path.open("wb") as file:
        for index in range(count):
            if index % 50 == 49:
                original[index], source = recent[draw.integers(len(recent))]
                sources[index] = sources[original[index]]
                wave = ALTERATIONS[draw.integers(len(ALTERATIONS))](source, draw)
            else:
                wave = to_int16(0.7 * one(sources[index, 0]) + draw.uniform(0.2, 0.7) * one(sources[index, 1]))
                recent = [*recent[-49:], (index, wave)]
            length[index] = len(wave)
            file.write(wave.tobytes())
    return np.cumsum(length) - length, length, original, sources


def one_size(path: Path, offset: Ints, length: Ints, original: Ints, sources: Ints) -> dict[str, float]:
    """Seconds and memory of near_duplicates on the clips of a file; for a process of its own."""
    waves = np.memmap(path, "<i2", "r")
    sound = np.random.default_rng(0).integers(-9000, 9000, RATE * 8).astype(np.int16)
    near_duplicates(sound, RATE * np.arange(8), np.full(8, RATE), RATE)  # imports
    before = peak_kib()
    wall, cpu = time.perf_counter(), time.process_time()
    cluster = near_duplicates(waves, offset, length, RATE)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    copies = np.flatnonzero(original != np.arange(len(original)))
    others = [(low, high) for low, high in pairs_of(cluster) if original[low] != original[high]]
    shared = sum(not set(sources[low]).isdisjoint(sources[high]) for low, high in others)
    return {
        "clips": len(offset),
        "wall s": round(wall, 2),
        "cpu us a clip": round(cpu / len(offset) * 1e6, 1),
        "recall": round(float(np.mean(cluster[copies] == cluster[original[copies]])), 4),
        "pairs of one recording at two speeds": shared,
        "wrong pairs": len(others) - shared,
        "extra MiB": round((peak_kib() - before) / 1024),
    }


def peak_kib() -> int:
    """Peak of this process's resident memory, mapped files included (getrusage's starts from the parent's)."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.near_duplicates", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="draws of 200 planted copies")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of the price")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 10_000, 30_000, 100_000], help="of the curve")
    options = parser.parse_args()
    if not GSC12.is_dir():
        sys.exit(f"{GSC12} is missing: this needs recorded clips")
    paths = sorted((GSC12 / "train").rglob("*.flac"))
    names = [path.relative_to(GSC12 / "train").as_posix() for path in paths]
    waves = [soundfile.read(path, dtype="int16")[0] for path in paths]
    result: dict[str, Any] = {"margins": margins(waves)}
    for name, values in result["margins"].items():
        print(f"{name}: {values}")

    print(f"planted among {len(waves):,} clips")
    for what, kinds in (("one alteration each", ALTERATIONS), ("all alterations at once", (together,))):
        result[what] = planted(names, waves, kinds, options.seeds)
        print(f"{what}: {result[what]}")
    result["price"] = price(paths, options.rounds)
    print("one core: " + ", ".join(f"{name} {value:.3f}" for name, value in result["price"].items()))

    result["curve"] = []
    different = list({wave.tobytes(): wave for wave in waves}.values())
    context = multiprocessing.get_context("spawn")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as scratch, context.Pool(1) as pool:
            path = Path(scratch) / "waves.i16"
            result["curve"].append(pool.apply(one_size, (path, *make(path, different, size))))
        print(result["curve"][-1], flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
