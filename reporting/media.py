"""Sound and mel pictures of clips as data URIs, for a page that must stand alone and stay small.

Measured on 200 one-second clips of gsc12 (16 kHz; libsndfile 1.2.2, one thread of a busy machine):

| | bytes a clip | to encode | plays in |
|---|---|---|---|
| WAV, 16 bit | 31,700 | 0.1 ms | every browser |
| FLAC | 14,700 | 0.5 ms | every browser (Safari from version 11) |
| Ogg Opus at libsndfile's own bit rate | 4,000 | 34 to 63 ms | Chrome, Edge, Firefox; Safari from version 18.4 |

So FLAC, the very samples that the network heard, is used while all clips fit into the budget, and Opus otherwise.
A picture has 1,600 bytes at 64 x 64 and 32 colours, 1,900 at the largest size. 470 such clips fit as FLAC, and take a
second; 1,300 as Opus, and take one and a half minutes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from reporting.gather import HeldOut, Run

Floats = NDArray[np.floating[Any]]
Wave = NDArray[np.int16]
BUDGET_BYTES = 10_000_000  # of the page's 15 MB; the rest is for tables and clips that are only named
OPUS_RATES = (8000, 12_000, 16_000, 24_000, 48_000)  # Hz; libsndfile refuses others
MOST_ROWS, MOST_COLUMNS = 64, 96  # of a picture: as many as a card of the gallery shows
COLOURS = 32


class Media(NamedTuple):
    """A data URI or None for each clip: None from the first on that did not fit."""

    audio: list[str | None]
    mel: list[str | None]
    codec: str  # "FLAC" or "Opus"


def clip_media(
    waves: Sequence[Wave], sample_rate: int, mel: Sequence[Floats], budget_bytes: int = BUDGET_BYTES
) -> Media:
    """Sound and picture of the first clips, as many as fit into `budget_bytes` of data URIs.

    `waves` are (samples,) each, at `sample_rate` Hz, `mel` the (bands, frames) features of the same clips, low bands
    first, in dB or normalised. Both come in the order of the clips' importance. Opus takes longer than all else in a
    report (see above), so that it is better to ask for fewer clips than for more than FLAC can hold.
    """
    pictures = [data_uri("image/png", picture(feature)) for feature in mel]
    room = budget_bytes - sum(map(len, pictures))
    audio: list[str] = []
    for wave in waves:  # as FLAC, until it turns out that not all fit
        audio.append(data_uri("audio/flac", flac(wave, sample_rate)))
        room -= len(audio[-1])
        if room < 0:
            break
    codec = "FLAC" if room >= 0 else "Opus"
    if codec == "Opus":
        room, audio = budget_bytes, []
        for wave, image in zip(waves, pictures, strict=True):
            sound = data_uri("audio/ogg", opus(wave, sample_rate))
            room -= len(sound) + len(image)
            if room < 0:
                break
            audio.append(sound)
    absent = [None] * (len(waves) - len(audio))
    return Media([*audio, *absent], [*pictures[: len(audio)], *absent], codec)


def media_of(clips: HeldOut, runs: Sequence[Run], rows: NDArray[np.int64]) -> Media:
    """Sound and picture of clips by position: what the networks hear and, of the first run, what they see."""
    from dataset import LogMel, Store, as_float

    features = next(run.config.features for run in runs if run.config)
    waves = Store.open(clips.work).clips("train").windows(rows, clips.clip_samples)
    mel = LogMel(features)(as_float(waves))[:, 0]  # (rows, n_mels, frames)
    return clip_media(list(waves.numpy()), clips.sample_rate, list(mel.numpy()))


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def flac(wave: Wave, sample_rate: int) -> bytes:
    return _encoded(wave, sample_rate, "FLAC", "PCM_16")


def opus(wave: Wave, sample_rate: int) -> bytes:
    """Ogg Opus at the lowest of its rates that loses nothing, or at the highest."""
    import soxr

    rate = next((rate for rate in OPUS_RATES if rate >= sample_rate), OPUS_RATES[-1])
    if rate != sample_rate:
        wave = soxr.resample(wave, sample_rate, rate)
    return _encoded(wave, rate, "OGG", "OPUS")


def _encoded(wave: Wave, sample_rate: int, container: str, codec: str) -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, wave, sample_rate, format=container, subtype=codec)
    return file.getvalue()


def picture(feature: Floats) -> bytes:
    """A small PNG of a (bands, frames) feature, low bands at the bottom, in the colours of matplotlib's magma.

    Magma is perceptually uniform. The colours span the clip's own range but for the outermost percent below and
    thousandth above, so that one odd value does not darken the rest.
    """
    import matplotlib
    from PIL import Image

    low, high = np.percentile(feature, (1, 99.9))
    share = np.clip((feature - low) / max(float(high - low), 1e-9), 0, 1)
    rows, columns = share.shape
    grey = Image.fromarray(np.round(255 * share[::-1]).astype(np.uint8))
    grey = grey.resize((min(columns, MOST_COLUMNS), min(rows, MOST_ROWS)), Image.Resampling.BOX)
    level = np.round(np.asarray(grey) / 255 * (COLOURS - 1)).astype(np.uint8)
    image = Image.fromarray(level)
    image.putpalette(matplotlib.colormaps["magma"](np.linspace(0, 1, COLOURS), bytes=True)[:, :3].tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
