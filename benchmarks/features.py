"""Speed and exactness of the batched LogMel against librosa, clip by clip, and against the FFT alone.

    python -m benchmarks.features -t 64 224

- LogMel: the module, normalisation included, on a batch of waves;
- librosa: melspectrogram and power_to_db of one clip after the other, float32;
- FFT: nothing but torch.fft.rfft of as many frames in the precision that LogMel uses: what no such code can beat.

All on one thread, interleaved, then LogMel and the FFT on two. Prints a table and a JSON line for each size:
milliseconds a clip, medians over the rounds, and the largest difference in dB from librosa run in float64.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

from arg import FeatureConfig, FeatureOptions
from benchmarks.common import machine, open_store, timed
from benchmarks.usual import librosa_decibels
from dataset import FRAMES_AT_ONCE, LogMel, as_float, thin
from system.devices import keep_memory

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features", description=__doc__.splitlines()[0])
    parser.add_argument("-t", "--sizes", type=int, nargs="+", default=[64, 224], metavar="N")
    parser.add_argument("--clips", type=int, default=64, metavar="N", help="a batch")
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    parser.add_argument("--data", type=Path, help="default: ../shared/data/gsc12, else made clips")
    parser.add_argument("-w", "--work", type=Path, help="a store that is there already, instead of --data")
    options = parser.parse_args()
    keep_memory()
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        store = open_store(options.work, options.data, Path(scratch))
        clips = thin(store.clips("train"), options.clips, (0,))
        wave = as_float(clips.windows(np.arange(len(clips)), store.clip_samples))
        print(machine())
        for size in options.sizes:
            config = FeatureOptions(size, size).resolve(store.sample_rate, store.clip_samples)
            report(config, measure(config, wave, options.rounds), differences(config, wave), len(wave))


def padded(config: FeatureConfig, wave: Tensor) -> NDArray[np.float32]:
    """What librosa is given: LogMel does the padding itself."""
    extra = config.padded_samples - config.clip_samples
    return F.pad(wave, (extra // 2, extra - extra // 2)).numpy()


def measure(config: FeatureConfig, wave: Tensor, rounds: int) -> dict[str, list[float]]:
    """Milliseconds a clip of each way, one figure a round."""
    front = LogMel(config)
    waves = padded(config, wave)
    kind = torch.float32 if front.single else torch.float64
    frames = torch.randn(2 * FRAMES_AT_ONCE, config.n_fft, dtype=kind)

    def fft(threads: int) -> None:
        block = frames[: threads * FRAMES_AT_ONCE]  # the cache holds them, as it does LogMel's
        for _ in range(len(wave) * config.frames // len(block)):
            torch.fft.rfft(block)

    def librosa() -> None:
        for clip in waves:
            librosa_decibels(clip, config)

    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "LogMel": (1, lambda: front(wave)),
        "librosa": (1, librosa),
        "FFT": (1, lambda: fft(1)),
        "LogMel, 2 threads": (2, lambda: front(wave)),
        "FFT, 2 threads": (2, lambda: fft(2)),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (threads, way) in ways.items():
            torch.set_num_threads(threads)
            with threadpool_limits(threads):  # of the library that NumPy multiplies with
                took[name].append(timed(way, 1, CPU, warm_up=1) / len(wave) * 1000)
    return took


def differences(config: FeatureConfig, wave: Tensor) -> dict[str, float]:
    """The largest difference in dB, over all clips, from librosa in float64."""
    waves = padded(config, wave)
    ours = LogMel(config).decibels(wave).transpose(1, 2).numpy()
    largest = {"LogMel": 0.0, "librosa": 0.0}
    for clip, decibels in zip(waves, ours, strict=True):
        exact = librosa_decibels(clip.astype(np.float64), config)
        for name, found in (("LogMel", decibels), ("librosa", librosa_decibels(clip, config))):
            largest[name] = max(largest[name], float(np.abs(found - exact).max()))
    return largest


def report(config: FeatureConfig, took: dict[str, list[float]], differs: dict[str, float], clips: int) -> None:
    middle = {name: median(values) for name, values in took.items()}
    kind = "float32" if LogMel(config).single else "float64"
    print(f"\n{config.n_mels} x {config.frames}, n_fft {config.n_fft}, batches of {clips}, FFT in {kind}")
    print(f"{'':20}{'ms/clip':>9}{'min':>9}{'max':>9}   max. difference, dB")
    for name, values in took.items():
        print(f"{name:20}{middle[name]:>9.3f}{min(values):>9.3f}{max(values):>9.3f}", end="")
        print(f"   {differs[name]:.1e}" if name in differs else "")
    ratio = {
        "librosa/LogMel": round(middle["librosa"] / middle["LogMel"], 2),
        "FFT's share": round(middle["FFT"] / middle["LogMel"], 3),
        "FFT's share, 2 threads": round(middle["FFT, 2 threads"] / middle["LogMel, 2 threads"], 3),
    }
    print(", ".join(f"{name} {value}" for name, value in ratio.items()))
    print(json.dumps({"size": config.frames, "ms_per_clip": middle, **ratio, "difference_db": differs}))


if __name__ == "__main__":
    main()
