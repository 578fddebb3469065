"""Copies of clips as data sets have them: shifted, louder, coded, resampled, noisier."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

RATE = 16_000

Wave = NDArray[np.int16]
Ints = NDArray[np.int64]


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


ALTERATIONS: tuple[Callable[[Wave, np.random.Generator], Wave], ...] = (shift, gain, mp3, resample, noise)


def to_int16(wave: NDArray[Any]) -> Wave:
    return np.clip(np.rint(wave), -32768, 32767).astype(np.int16)


def joined(waves: Sequence[Wave]) -> tuple[Wave, Ints, Ints]:
    """Clips back to back: samples, offset, length."""
    length = np.array([len(wave) for wave in waves], np.int64)
    return np.concatenate(waves), np.cumsum(length) - length, length
