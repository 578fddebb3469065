"""What a plan depends on: the clips of a store, and the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from system.devices import free_memory
from system.processes import cores
from util import class_weights

if TYPE_CHECKING:
    import torch

    from dataset import Store

HEARD_CLIPS = 400  # whose spectrum is looked at
QUIET_DB = 70.0  # below the strongest tenth of a spectrum nothing is heard


@dataclass(frozen=True)
class Facts:
    """About the clips to train on."""

    sample_rate: int  # Hz
    window_seconds: float
    clips: int  # that a fold's network learns from
    folds: int
    classes: int
    rarest: float  # how many times rarer the rarest class is than the average one
    filled_hertz: float  # up to where the clips' spectrum is filled, at most half the sample rate
    noise: bool  # whether there are background recordings, a window of them at least


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
        window_seconds=store.clip_samples / store.sample_rate,
        clips=len(clips) * (store.folds - 1) // store.folds,
        folds=store.folds,
        classes=len(store.classes),
        rarest=float(class_weights(counts, 1.0).max()),
        filled_hertz=filled_hertz(store),
        noise=len(store.noise()) >= store.clip_samples,
    )


def filled_hertz(store: Store) -> float:
    """Up to which frequency the training clips have a spectrum: half the sample rate unless they were filtered.

    A recording that was made at a lower rate, or compressed, has next to nothing above a limit. Of clips spread over
    the store the mean power spectrum is taken, each clip weighing alike.
    """
    clips = store.clips("train")
    chosen = np.linspace(0, len(clips) - 1, min(HEARD_CLIPS, len(clips))).astype(np.int32)
    waves = clips.windows(chosen, store.clip_samples).numpy()
    size = min(1024, waves.shape[1] // 2 * 2)
    frames = waves[:, : waves.shape[1] // size * size].reshape(-1, size).astype(np.float32)
    power = np.abs(np.fft.rfft(frames * np.hanning(size).astype(np.float32))) ** 2
    power = power.reshape(len(waves), -1, power.shape[1]).mean(1)
    power /= np.maximum(power.sum(1, keepdims=True), 1e-9)
    level = 10 * np.log10(power.mean(0) + 1e-15)
    heard = np.flatnonzero(level > np.quantile(level, 0.9) - QUIET_DB)
    return float((heard.max() + 1) * store.sample_rate / size)


def machine_of(device: torch.device) -> Machine:
    import torch

    if device.type == "cuda":
        return Machine("cuda", torch.cuda.get_device_properties(device).total_memory, cores())
    return Machine(device.type, free_memory(), torch.get_num_threads())
