"""One audio file, opened and read in blocks; nothing else opens audio files."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from arg import HIGHEST_RATE, LOWEST_RATE
from preprocessing.audit import CLIPPED_SHARE
from preprocessing.files import FFMPEG_SUFFIXES, UNSAFE_NAME

UNKNOWN = 1 << 60  # frames of a file whose header does not say how many; or more
INT16_SCALE = 32768.0  # full scale of float samples that are 16-bit numbers
OVERSHOOT = 2.0  # full scales that a few samples may reach, which are clipped

# How files begin that FFmpeg reads: its name for that, from which byte on, what is there. Given the name it guesses
# nothing: it takes no text for a playlist of other files, and no noise for a stream.
CONTAINERS: dict[str, tuple[int, tuple[bytes, ...]]] = {
    "mov": (4, (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")),
    "matroska": (0, (b"\x1aE\xdf\xa3",)),
    "asf": (0, (b"0&\xb2u\x8ef\xcf\x11",)),
    "amr": (0, (b"#!AMR",)),
    "ogg": (0, (b"OggS",)),
    "wav": (0, (b"RIFF", b"RF64")),
    "flac": (0, (b"fLaC",)),
    "caf": (0, (b"caff",)),
    "aiff": (0, (b"FORM",)),
    "au": (0, (b".snd",)),
    "nistsphere": (0, (b"NIST_1A",)),
    "aac": (0, (b"\xff\xf1", b"\xff\xf9", b"ID3")),  # ID3 before another kind of stream: libsndfile reads that
}
FFMPEG_ALONE = {"mov": "mp4", "matroska": "webm", "asf": "wma", "amr": "amr", "aac": "aac"}  # as people call them
STREAMS = {"aac", "amr"}  # without a header for the whole: their lengths are estimates, often wrong
WHOLE = {"mov", "matroska"}  # whose headers tell the length of what is heard


class UnusableError(ValueError):
    """A file that can be read but not used; the text is the reason."""


class AudioFile:
    """A file that libsndfile reads."""

    def __init__(self, path: str) -> None:
        import soundfile

        self._file: Any = soundfile.SoundFile(path)
        self.at = 0  # the frame that is read next
        self.slow: bool = self._file.format == "MP3"  # to seek in it anew (others are quick; a Vorbis must not go back)
        self.rate: int = self._file.samplerate  # Hz
        self.channels: int = self._file.channels
        self.frames: int = self._file.frames  # as its header says; of an MP3, an estimate
        self.int16: bool = self._file.subtype == "PCM_16"  # nothing is lost when it is read as that
        self.floating: bool = self._file.subtype in ("FLOAT", "DOUBLE")  # as stored: nothing says what full scale is
        # After each read soundfile would seek, and an MP3's decoder begin anew in the middle; in a pipe it does not.
        self._file.seekable = lambda: False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def seek(self, frame: int) -> None:
        """Go to `frame` from the beginning, or towards it: some codecs cannot."""
        with contextlib.suppress(RuntimeError):  # soundfile's
            self.at = self._file.seek(min(frame, self.frames))

    def read(self, frames: int, kind: str) -> NDArray[Any]:
        """The next `frames`, (frames, channels), int16 or float32 of full scale 1; fewer are the last ones."""
        block = self._file.read(frames, kind, always_2d=True)
        self.at += len(block)
        return block

    def truncated(self, frames: int) -> bool:
        """Whether `frames`, all that could be read, are fewer than the header promises."""
        return frames < self.frames - self.rate // 20 or _mended(self._file.extra_info)


class FFmpegFile:
    """A file that FFmpeg reads, through PyAV, with the same attributes; what encoders add in front, it leaves out."""

    int16 = False
    slow = True

    def __init__(self, path: str, container: str) -> None:
        import av

        self.at = 0
        with _plain_errors():  # "file:": what stands before a colon in a name is no protocol
            self._file = av.open(f"file:{path}", format=container, metadata_errors="ignore")
        self._blocks = self._decoded()
        first = next(self._blocks, None)
        if first is None:
            self._file.close()
            raise UnusableError("empty: holds no samples")
        self._waiting = [first]
        audio = self._file.streams.audio[0]
        self.channels = first.shape[1]
        self.floating = audio.codec_context.name.startswith(("pcm_f32", "pcm_f64"))
        self._container = container
        self.frames = UNKNOWN
        if container in STREAMS:
            return
        if audio.duration and audio.time_base:
            self.frames = int(audio.duration * audio.time_base * self.rate)
        elif self._file.duration and len(self._file.streams) == 1:  # else it may be that of pictures
            self.frames = self._file.duration * self.rate // 1_000_000

    def _decoded(self) -> Generator[NDArray[np.float32], None, None]:
        """The frames as they come, (frames, channels); UnusableError where there are none or they change."""
        audio = self._file.streams.audio
        if not audio:
            raise UnusableError("holds no sound")
        if audio[0].codec_context is None:
            raise UnusableError("holds sound of a kind that FFmpeg does not know")
        found, waiting, length = None, None, 0
        with _plain_errors():
            for frame in self._file.decode(audio[0]):
                kind = frame.sample_rate, frame.layout.nb_channels
                if found is None:
                    found, self.rate, self._position = kind, frame.sample_rate, frame.pts or 0
                if kind != found:
                    raise UnusableError("its sample rate or its channels change")
                if waiting is not None:
                    yield waiting
                samples = frame.to_ndarray()
                samples = samples.T if frame.format.is_planar else samples.reshape(-1, kind[1])
                if samples.dtype == np.uint8:
                    samples = samples.astype(np.int16) - 128 << 8
                scale = 1.0 if samples.dtype.kind == "f" else 2.0 ** (1 - 8 * samples.itemsize)
                waiting = np.multiply(samples, scale, dtype=np.float32, casting="unsafe")
                # The last block of an MP4 is filled up, and its duration says what counts.
                length = frame.duration if frame.time_base == Fraction(1, frame.sample_rate) else 0
        if waiting is not None:
            yield waiting[: length or None]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._blocks.close()
        self._file.close()

    def seek(self, frame: int) -> None:
        """As `AudioFile.seek`, to a second before; only where the container counts frames: others round times."""
        audio = self._file.streams.audio[0]
        if audio.time_base != Fraction(1, self.rate) or self.at <= frame < self.at + 2 * self.rate:
            return
        for at in (max(frame - self.rate, 0), 0):  # a second is enough for a decoder to settle
            self._blocks.close()
            with _plain_errors():
                self._file.seek(at, stream=audio)
            self._blocks = self._decoded()
            self._waiting = [next(self._blocks, np.empty((0, self.channels), np.float32))]
            self.at = self._position
            if len(self._waiting[0]) and self.at <= at:
                break

    def read(self, frames: int, kind: str) -> NDArray[Any]:
        count = sum(map(len, self._waiting))
        while count < frames and (block := next(self._blocks, None)) is not None:
            self._waiting.append(block)
            count += len(block)
        samples = np.concatenate(self._waiting)
        self._waiting = [samples[frames:]]
        self.at += min(frames, len(samples))
        return samples[:frames]

    def truncated(self, frames: int) -> bool:
        return self._container in WHOLE and self.frames < UNKNOWN and frames < self.frames - self.rate // 20


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """PyAV's errors in the body as ValueErrors: they are of many kinds, where a file is damaged."""
    try:
        yield
    except (UnusableError, ImportError):
        raise
    except Exception as error:
        raise ValueError(getattr(error, "strerror", "") or str(error)) from error


Audible = AudioFile | FFmpegFile


class FloatLevels:
    """What float samples tell about their full scale, block by block."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._small = True  # all are -1, 0 or 1: silence, with the last bit's noise if they are 16-bit numbers
        self._values = 0
        self._beyond = dict.fromkeys((1.0, INT16_SCALE), 0)

    def add(self, block: NDArray[np.float32]) -> None:
        size = np.abs(block)
        self.peak = float(np.maximum(self.peak, size.max(initial=0)))  # NaN stays
        self._small = self._small and self.peak <= 1 and not (size % 1).any()
        self._values += size.size
        for scale in self._beyond:
            self._beyond[scale] += int(np.count_nonzero(size > scale))

    @property
    def tells(self) -> bool:
        """Whether they tell anything; silence does not, nor does what no kind of sample holds."""
        return not self._small and self.peak < 2**32

    def fits(self, scale: float) -> bool:
        """Whether `scale` can be full scale: little, and few, beyond it."""
        few = self._beyond[scale] <= CLIPPED_SHARE * self._values
        return self.peak <= scale or (few and self.peak <= OVERSHOOT * scale)

    def insist(self, scale: float) -> None:
        """UnusableError where `scale` is not their full scale."""
        if not self.fits(scale):
            limit = f"\N{PLUS-MINUS SIGN}{scale:,.0f}"
            peak = f"{self.peak:,.0f}" if self.peak >= 100 else f"{self.peak:.3g}"
            raise UnusableError(f"float samples beyond {limit}, the full scale (peak {peak}): save them scaled "
                                "to that, or as 16-bit integers")  # fmt: skip
        if scale > 1 and self.peak <= 1 and not self._small:
            raise UnusableError(f"float samples within \N{PLUS-MINUS SIGN}1 (peak {self.peak:.3g}) beside files whose "
                                f"full scale is {scale:,.0f}: save all alike")  # fmt: skip


class LastFile:
    """The file that was read last, open for its next part: to open a long one, and to seek in it, takes time."""

    def __init__(self) -> None:
        self._path = ""
        self._file: Audible | None = None

    def close(self) -> None:
        if self._file:
            self._file.__exit__()
        self._file = None

    def open(self, path: str, start: float) -> Audible:
        """The file at `path`, at `start` (seconds) or before; errors as those of `open_audio`."""
        file = self._file if path == self._path else None
        if file and file.slow:
            file.seek(round(start * file.rate))
        if not file or not file.slow or file.at > round(start * file.rate):
            self.close()
            file = self._file = open_audio(path)
            self._path = path
            if start:
                file.seek(round(start * file.rate))
        return file


def open_audio(path: str) -> Audible:
    """The file at `path`; UnusableError for a name, a kind of file or a sample rate that is not read.

    What libsndfile does not read is left to FFmpeg. Their errors pass: RuntimeError, ValueError, OSError.
    """
    if UNSAFE_NAME.search(path):
        raise UnusableError("its name holds a control character or is not UTF-8")
    if not os.path.isfile(path):  # noqa: PTH113 (a Path for each of 60,000 files is slow)
        raise UnusableError("not a file: a dangling link, a pipe or a device")  # opening a pipe would wait for ever
    file: Audible
    try:
        file = AudioFile(path)
    except RuntimeError as error:  # soundfile's
        file = _through_ffmpeg(path, error)
    if not LOWEST_RATE <= file.rate <= HIGHEST_RATE:  # a damaged header: resampling from 1 Hz would fill the memory
        file.__exit__()
        limits = f"{LOWEST_RATE} to {HIGHEST_RATE:,} Hz"
        raise UnusableError(f"its sample rate is {file.rate:,} Hz, not one from {limits}: is its header damaged?")
    return file


def _through_ffmpeg(path: str, error: RuntimeError) -> FFmpegFile:
    """The file at `path`, or libsndfile's `error` where FFmpeg is not asked to read it, or cannot either."""
    with open(path, "rb") as file:  # noqa: PTH123
        start = file.read(16)
    container = next((name for name, (at, marks) in CONTAINERS.items() if start.startswith(marks, at)), "")
    if not container:
        raise error
    name, suffix = Path(path), Path(path).suffix.lower()
    kind = suffix[1:] if suffix in FFMPEG_SUFFIXES else FFMPEG_ALONE.get(container)
    try:
        return FFmpegFile(path, container)
    except ImportError:
        if kind is None:
            raise error from None
        converted = shlex.quote(name.stem + (".flac" if suffix == ".wav" else ".wav"))
        way_out = f"ffmpeg -i {shlex.quote(name.name)} {converted}"
        raise UnusableError(f"{kind} is not read without PyAV: pip install av, or convert: {way_out}") from None
    except ValueError:
        if kind is None:
            raise error from None
        raise


def _mended(log: str) -> bool:
    """Whether libsndfile's log of a file tells of a size (of a WAV or an AIFF) that is more than there is.

    What was written to a pipe has the largest size there is, and is whole.
    """
    return "(should be" in log and any(
        int(actual) < int(promised) < 0x7FFF_0000
        for promised, actual in re.findall(r": (\d+) \(should be (\d+)\)", log)
    )
