"""A made speech data set: thirty words said by espeak-ng's voices, laid out as a folder a class.

It stands in for recordings where there are none, so that the project can be tried and tested without a download.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from system.errors import UserError

# fmt: off
WORDS = (
    "bed", "bird", "cat", "dog", "down", "eight", "five", "four", "go", "happy", "house", "left", "marvin", "nine",
    "no", "off", "on", "one", "right", "seven", "sheila", "six", "stop", "three", "tree", "two", "up", "wow", "yes",
    "zero",
)
# fmt: on
ACCENTS = ("en", "en-029", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-x-rp", "en-us", "en-us-nyc")
SAMPLE_RATE = 16_000  # Hz, of the clips; espeak-ng's own is another
CLIP_SAMPLES = SAMPLE_RATE  # a longer word makes a longer clip

Wave = NDArray[np.float64]


@dataclass(frozen=True)
class Voice:
    """A speaker: one of espeak-ng's voices at a rate and a pitch of its own."""

    name: str  # accent+variant
    words_per_minute: int = 160
    pitch: int = 50  # 0 to 99

    @property
    def speaker(self) -> str:
        """The name as hexadecimal digits: fit for file names, which not all variants' names are."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:8]


def make_speech(root: Path, voices: int, test_voices: int, seed: int = 0) -> None:
    """Write ``train/<word>/<speaker>_nohash_0.wav`` of `voices` speakers, ``test/`` alike of others, and two noises.

    It is built beside `root` and renamed into place: a `root` that exists is complete. The same seed gives the same
    bytes.
    """
    if root.exists() and any(root.iterdir()):
        raise UserError(f"{root}: not empty; remove it, or name another folder for the made speech")
    building = root.with_name(f"{root.name}.part")
    shutil.rmtree(building, ignore_errors=True)
    rng = np.random.default_rng(seed)
    candidates = _draw_voices(rng)

    speakers = 0
    for voice, words in itertools.islice(_speak(candidates), voices + test_voices):
        split = "test" if speakers < test_voices else "train"
        for word, wave in zip(WORDS, words, strict=True):
            _write(building / split / word / f"{voice.speaker}_nohash_0.wav", _record(wave, rng))
        speakers += 1
    if speakers < voices + test_voices:
        raise UserError(f"{voices + test_voices} voices: espeak-ng has {speakers} distinct ones; ask for fewer")

    for name, tilt_db in (("white", 0), ("pink", -3)):
        noise = _filter(rng.standard_normal(10 * SAMPLE_RATE), tilt_db)
        _write(building / "train" / "_background_noise_" / f"{name}.wav", 0.1 * noise / noise.std())
    building.rename(root)


# ----------------------------------------------------------------------------------------------------- speaking


def _draw_voices(rng: np.random.Generator) -> list[Voice]:
    """Every variant once, in random order, each with an accent, a rate and a pitch.

    A variant is a timbre: were it used again with another accent, a test speaker could sound like a training one.
    """
    variants = sorted(path.name for path in Path(_espeak().get_data_path(), "voices", "!v").iterdir())
    return [
        Voice(f"{rng.choice(ACCENTS)}+{variant}", int(rng.integers(120, 191)), int(rng.integers(30, 71)))
        for variant in rng.permutation(variants)
    ]


def _speak(voices: Sequence[Voice]) -> Iterator[tuple[Voice, list[Wave]]]:
    """Each voice's words at SAMPLE_RATE, without voices that espeak-ng lacks or that sound like an earlier one."""
    heard = set()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for voice, spoken in zip(voices, pool.map(_say_in_new_process, voices), strict=True):
                if spoken is None:
                    continue
                sound, words = spoken
                if sound not in heard:
                    heard.add(sound)
                    yield voice, words
        finally:
            pool.shutdown(cancel_futures=True)


def _say_in_new_process(voice: Voice) -> tuple[str, list[Wave]] | None:
    """`say`, in a process of its own.

    The library keeps state (flutter, noise) from word to word, which neither setting the voice nor initialising
    again resets: only a new process says the same thing the same way.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(say, voice).result()


def say(voice: Voice) -> tuple[str, list[Wave]] | None:
    """A digest of how the voice sounds at the usual rate and pitch, and its WORDS; None where espeak-ng lacks it."""
    espeak = _espeak()
    library = ctypes.CDLL(espeak.get_library_path())
    synchronous, dont_exit = 2, 0x8000
    rate = library.espeak_Initialize(synchronous, 0, espeak.get_data_path().encode(), dont_exit)
    if rate <= 0:
        raise UserError("espeak-ng does not start: reinstall espeakng-loader (requirements-demo.txt)")
    parts: list[NDArray[np.int16]] = []

    def keep(samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0  # continue

    def synthesise(word: str) -> NDArray[np.int16]:
        parts.clear()
        text = word.encode()
        size, utf8 = ctypes.c_size_t(len(text) + 1), 1
        if library.espeak_Synth(text, size, 0, 0, 0, utf8, None, None) or not parts:
            raise RuntimeError(f"espeak-ng says nothing for {word!r} in voice {voice.name}")
        return np.concatenate(parts)

    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)(keep)
    library.espeak_SetSynthCallback(callback)
    library.espeak_ng_SetRandSeed(ctypes.c_long(0))  # of the breath in some voices; random otherwise
    if library.espeak_SetVoiceByName(voice.name.encode()):  # otherwise the previous voice would keep speaking
        return None
    sound = hashlib.sha256(synthesise("seven").tobytes()).hexdigest()
    for parameter, value in ((1, voice.words_per_minute), (3, voice.pitch)):
        library.espeak_SetParameter(parameter, value, 0)
    return sound, [_trim(soxr.resample(synthesise(word) / 32768, rate, SAMPLE_RATE)) for word in WORDS]


def _espeak() -> Any:
    try:
        import espeakng_loader
    except ImportError:
        raise UserError("espeakng-loader is missing: pip install -r requirements-demo.txt") from None
    return espeakng_loader


# ---------------------------------------------------------------------------------------------------- recording


def _trim(wave: Wave) -> Wave:
    """Without the silence before and after, which tells the synthesiser rather than the word."""
    loud = np.flatnonzero(np.abs(wave) > 0.02 * np.abs(wave).max())
    return wave[loud[0] : loud[-1] + 1]


def _record(word: Wave, rng: np.random.Generator) -> Wave:
    """The word as some microphone in some room might have it: off centre, coloured, noisy, at any level."""
    clip = np.zeros(max(CLIP_SAMPLES, len(word)))
    start = round(rng.uniform(0.3, 0.7) * (len(clip) - len(word)))
    clip[start : start + len(word)] = word
    clip = _filter(clip, tilt_db=rng.uniform(-4, 4), cutoff=rng.uniform(3000, 8000))
    loudness = np.sqrt(np.sum(clip**2) / len(word))
    noise = _filter(rng.standard_normal(len(clip)), tilt_db=rng.uniform(-6, 0))
    snr_db = rng.uniform(10, 30)
    clip += noise / noise.std() * loudness * 10 ** (-snr_db / 20)
    peak_db = rng.uniform(-24, -3)
    return clip / np.abs(clip).max() * 10 ** (peak_db / 20)


def _filter(wave: Wave, tilt_db: float, cutoff: float = np.inf) -> Wave:
    """Tilt the spectrum by so many dB an octave, level at 1 kHz, and roll it off above `cutoff` Hz."""
    frequency = np.maximum(np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE), 50)
    octaves = np.log2(frequency / 1000)
    response = 10 ** (tilt_db * octaves / 20) / np.sqrt(1 + (frequency / cutoff) ** 8)
    return np.fft.irfft(np.fft.rfft(wave) * response, len(wave))


def _write(path: Path, wave: Wave) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, SAMPLE_RATE, subtype="PCM_16")
