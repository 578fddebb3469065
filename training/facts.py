"""What a plan depends on: the clips of a store, and the machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from system.devices import free_memory
from system.processes import cores
from util import class_weights

if TYPE_CHECKING:
    import torch

    from dataset import Store

HEARD_CLIPS, HEARD_FRAMES = 400, 64  # clips whose spectrum is looked at, frames of each
SPECTRUM_SAMPLES = 1024  # of a frame, or fewer where clips are shorter, ...
LEAST_SAMPLES = 64  # ... down to this, below which nothing is looked at
AROUND = 4  # bins of the spectrum on either side of one that are looked at with it
QUIET_DB = 70.0  # below the strongest tenth of a spectrum nothing is heard
ROUNDING = 4 / 12  # power of what 16 bits and dither add to every sample, in steps of them


@dataclass(frozen=True)
class Facts:
    """About the clips to train on."""

    sample_rate: int  # Hz
    window_samples: int
    clips: int  # that a fold's network learns from
    folds: int
    classes: int
    rarest: float  # what a clip of the rarest class weighs where classes count alike, in clips on average
    filled_hertz: float  # up to where the clips' spectrum is filled, at most half the sample rate
    noise: bool  # whether there are background recordings, a window of them at least

    @property
    def window_seconds(self) -> float:
        return self.window_samples / self.sample_rate


@dataclass(frozen=True)
class Machine:
    """What there is to compute on."""

    kind: str  # of torch.device: "cpu", "cuda" or "mps"
    memory_bytes: int  # that can be filled
    threads: int


def facts_of(store: Store) -> Facts:
    clips = store.clips("train")
    counts = np.bincount(clips.target, minlength=len(store.classes)).tolist()
    return Facts(
        sample_rate=store.sample_rate,
        window_samples=store.clip_samples,
        clips=len(clips) * (store.folds - 1) // store.folds,
        folds=store.folds,
        classes=len(store.classes),
        rarest=float(class_weights(counts, 1.0).max()),
        filled_hertz=filled_hertz(store),
        noise=len(store.noise()) >= store.clip_samples,
    )


def filled_hertz(store: Store) -> float:
    """Up to which frequency the training clips have a spectrum: half the sample rate unless they were filtered.

    A recording that was made at a lower rate, or compressed, has next to nothing above a limit. The mean is taken of
    the power spectra of clips spread over the store, each clip weighing alike, so that a part of them that goes higher
    counts for all. What rounding to 16 bits adds, at every frequency alike, is taken away.
    """
    clips = store.clips("train")
    chosen = np.linspace(0, len(clips) - 1, min(HEARD_CLIPS, len(clips))).astype(np.int64)
    typical = max(1, int(np.median(clips.length[chosen])))
    size = min(SPECTRUM_SAMPLES, 2 ** int(math.log2(typical)))
    half = store.sample_rate / 2
    if size < LEAST_SAMPLES:
        return half
    window = np.kaiser(size, 12.0)  # whose side lobes lie over 80 dB below
    waves, mean = clips.waves.numpy(), np.zeros(size // 2 + 1)
    for offset, length in zip(clips.offset[chosen].tolist(), clips.length[chosen].tolist(), strict=True):
        if length < size:
            continue
        starts = offset + np.linspace(0, length - size, min(HEARD_FRAMES, length // size)).astype(np.int64)
        frames = waves[starts[:, None] + np.arange(size)]  # (frames, size)
        power = (np.abs(np.fft.rfft(frames * window)) ** 2).mean(0) - ROUNDING * (window**2).sum()
        mean += np.maximum(power, 0) / max(power.sum(), 1.0)
    if not mean.any():
        return half
    around = sliding_window_view(np.pad(mean, AROUND, "edge"), 2 * AROUND + 1)
    level = 10 * np.log10(np.median(around, axis=1) + 1e-15)  # a single line, or a chance of noise, fills nothing
    heard = np.flatnonzero(level > np.quantile(level, 0.9) - QUIET_DB)
    return min(half, float((heard.max() + 1) * store.sample_rate / size))


def machine_of(device: torch.device) -> Machine:
    import torch

    if device.type == "cuda":
        return Machine("cuda", torch.cuda.get_device_properties(device).total_memory, cores())
    return Machine(device.type, free_memory(), torch.get_num_threads())
