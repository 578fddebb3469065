"""Decode audio files to int16 samples at one sample rate, in processes that a bad file cannot take along."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from preprocessing.audiofile import UNKNOWN, AudioFile, FFmpegFile, FloatLevels, LastFile, UnusableError, open_audio
from preprocessing.store import writing
from preprocessing.workers import STALL_SECONDS, isolated
from system.console import progress
from system.errors import UserError
from system.paths import SCRATCH
from system.processes import watchdog

if TYPE_CHECKING:
    from preprocessing.files import File

Floats = NDArray[np.float32]
CHUNK_FILES = 128  # files that a decoding process takes at a time
CHUNK_BYTES = 4 << 20  # ... or fewer, where they are long
SECOND_BYTES = 200_000  # of a recording that parts are cut out of, about: 48 kHz, two channels of 16 bits
BLOCK_VALUES = 1 << 18  # of a long file, read at a time: frames x channels
COPY_BYTES = 1 << 20  # of samples at a time
SPARE_SECONDS = 0.1  # that a part may end after its recording: times are often rounded
LONGEST_HOURS = 24  # of a file: a few bytes of FLAC can stand for hours, and would fill the disk
UNREADABLE = (OSError, ValueError, RuntimeError, MemoryError)  # soundfile's and soxr's are RuntimeErrors
Key = tuple[str, str, int, int]  # of a file: split, fname, size, time of its last change


class Audio(NamedTuple):
    """What decoding a file gave; a file without usable audio has a reason and no samples."""

    offset: int = 0  # in samples, in WAVES
    length: int = 0  # samples
    sample_rate: int = 0  # Hz, of the file
    channels: int = 0
    digest: str = ""  # of the decoded samples
    peak_db: float = 0.0  # the levels as audit.measure has them
    rms_db: float = 0.0
    dc: float = 0.0
    clipped: float = 0.0
    truncated: int = 0  # 1 where the header promises more than there is
    reason: str = ""


class Decoded(NamedTuple):
    """A few files' samples back to back, and for each file where its own begin, their number, and why it has none."""

    waves: NDArray[np.int16]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    reason: list[str]


class Source(NamedTuple):
    """What is read of a file."""

    path: str
    start: float = 0.0  # seconds
    end: float = 0.0  # seconds; 0: up to the file's end
    full_scale: float = 1.0  # of float samples


class _Chunk(NamedTuple):
    """Several files decoded: their samples back to back in a file, and for each its audio, with offsets into those."""

    samples: Path
    audios: list[Audio]
    bands: Floats  # (usable files, bands), as `spectral_bands` has them, or (0, 0)


class Header(NamedTuple):
    """What the header of a file says."""

    rate: int = 0  # Hz; 0 where it cannot be read
    frames: int = 0
    floating: bool = False  # its samples are floats
    reason: str = ""  # why it cannot be read


def decode_stream(
    files: Sequence[File], sample_rate: int, scratch: Path, full_scale: float = 1.0
) -> Generator[Decoded, None, None]:
    """Decode `files` in order, at `sample_rate` (Hz), with a bounded number under way whatever their number.

    `full_scale` is that of float samples.

    Samples pass through `scratch`, a folder that is made and removed. What is not asked for is not decoded.
    """
    with _folder(scratch):
        sources = _chunks(files, lambda file: full_scale)
        for path, audios, _ in _decode_chunks(sources, sample_rate, scratch, compare=False):
            # copy on write, only since torch asks for memory that may be written
            waves = np.memmap(path, "<i2", "c") if path.stat().st_size else np.empty(0, np.int16)
            path.unlink()  # the map keeps the samples
            offset, length = (np.array(column, np.int64) for column in zip(*(a[:2] for a in audios), strict=True))
            yield Decoded(waves, offset, length, [audio.reason for audio in audios])


def decode_files(
    files: Sequence[File],
    sample_rate: int,
    waves: Path,
    note_down: Callable[[list[tuple[File, Audio]]], None] = lambda chunk: None,
    full_scale: Mapping[str, float] = MappingProxyType({}),
) -> tuple[list[Audio], Floats]:
    """Decode `files` on all cores and append their samples, in their order, to `waves`.

    Returns the audio of each, and the `spectral_bands` of those that have some, (usable files, bands). `note_down` is
    given each chunk of files when its samples are there. `full_scale` is that of a split's float samples, where not 1.
    """
    parts = [np.empty((0, 0), np.float32)]
    if not files:
        return [], parts[0]
    waves.parent.mkdir(parents=True, exist_ok=True)
    scratch = waves.parent / SCRATCH
    with _folder(scratch), waves.open("ab") as out:
        out.write(b"\0" * (out.tell() % 2))  # a run that was killed may have left half a sample

        def written() -> Iterator[Audio]:
            rest, buffer = iter(files), memoryview(bytearray(COPY_BYTES))  # new memory for each part takes longer
            sources = _chunks(files, lambda file: full_scale.get(file.split, 1.0))
            for samples, audios, bands in _decode_chunks(sources, sample_rate, scratch, compare=True):
                start = out.tell() // 2
                with samples.open("rb", buffering=0) as decoded:
                    while size := decoded.readinto(buffer):
                        out.write(buffer[:size])
                samples.unlink()
                out.flush()
                placed = [a._replace(offset=start + a.offset) if a.length else a for a in audios]
                if len(bands):
                    parts.append(bands)
                note_down(list(zip(islice(rest, len(placed)), placed, strict=True)))
                yield from placed

        done = list(progress(written(), len(files), "decoding"))
        os.fsync(out.fileno())
    return done, np.concatenate(parts[1:] or parts)


@contextlib.contextmanager
def _folder(scratch: Path) -> Iterator[None]:
    """An empty folder at `scratch` while the body runs."""
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    scratch.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _decode_chunks(sources: Iterable[list[Source]], sample_rate: int, scratch: Path, compare: bool) -> Iterator[_Chunk]:
    """`_read_chunk` of all in order."""

    def lost(_: Source, reason: str) -> _Chunk:
        audio = Audio(reason=f"unreadable: its decoder {reason}")
        return _Chunk(_Samples(scratch).close(), [audio], np.empty((0, 0), np.float32))

    read = partial(_read_chunk, sample_rate=sample_rate, scratch=scratch, compare=compare)
    return isolated(read, sources, lost)


def _chunks(files: Iterable[File], full_scale: Callable[[File], float]) -> Iterator[list[Source]]:
    """What `files` are read from, in lists of at most CHUNK_FILES and about CHUNK_BYTES."""
    chunk: list[Source] = []
    size = 0
    for file in files:
        chunk.append(Source(file.path, file.start, file.end, full_scale(file)))
        size += min(file.size, int((file.end - file.start) * SECOND_BYTES)) if file.end else file.size
        if len(chunk) == CHUNK_FILES or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class _Samples:
    """Little-endian int16 samples as they are decoded, in a file in `folder`.

    So no clip is too long for the memory of a process. Nor are samples sent from process to process, which takes longer
    than the page cache does.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with writing(folder):
            self._file = tempfile.NamedTemporaryFile(dir=folder, delete=False)  # noqa: SIM115 (handed over)
        self._count = 0
        self._last = np.empty(0, np.int16)

    def __len__(self) -> int:
        return self._count

    def append(self, samples: NDArray[np.int16]) -> None:
        if len(samples):
            self._last = samples.astype("<i2", copy=False)
            with writing(self._folder):  # no fault of the file that is read
                self._file.write(self._last.data)
            self._count += len(samples)

    def since(self, start: int) -> NDArray[np.int16]:
        """Those from `start` on, which are some."""
        if len(self._last) == self._count - start:
            return self._last
        with writing(self._folder):
            self._file.flush()
        return np.memmap(self._file.name, "<i2", "r", offset=2 * start)

    def forget(self, start: int) -> None:
        """Drop those from `start` on."""
        with writing(self._folder):
            self._file.seek(2 * start)
            self._file.truncate()
        self._count, self._last = start, self._last[:0]

    def close(self) -> Path:
        with writing(self._folder):
            self._file.close()
        return Path(self._file.name)


def _read_chunk(
    sources: list[Source], sample_rate: int, scratch: Path, compare: bool = True, patience: float = STALL_SECONDS
) -> _Chunk:
    """Decode several files, or parts of them; this process ends where nothing can be read for `patience` seconds.

    With `compare`, what near duplicates are found by comes with it, computed here, while samples are in the cache.
    """
    from preprocessing.duplicates import spectral_bands

    samples, audios = _Samples(scratch), []
    with watchdog(patience) as progressed, contextlib.closing(LastFile()) as last:
        for source in sources:
            start = len(samples)
            progressed()
            try:
                rate, channels, truncated = _read(source, last, sample_rate, samples, progressed)
            except UNREADABLE as error:
                samples.forget(start)
                audios.append(Audio(reason=_reason(error)))
                continue
            progressed(math.inf)
            wave = samples.since(start)
            audios.append(described(wave, start, rate, channels, truncated))
    written, bands = samples.close(), np.empty((0, 0), np.float32)
    if compare and len(samples):
        offset, length = np.array([audio[:2] for audio in audios if audio.length], np.int64).T
        bands = spectral_bands(np.memmap(written, "<i2", "r"), offset, length, sample_rate)
    return _Chunk(written, audios, bands)


def _reason(error: Exception) -> str:
    """Why a file is not used, from what reading it raised."""
    reason = getattr(error, "error_string", "") or getattr(error, "strerror", "") or str(error)
    if not isinstance(error, UnusableError):
        reason = f"unreadable: {reason or type(error).__name__}"
    return " ".join(reason.replace("Error : ", "").split()).rstrip(".")


def described(wave: NDArray[np.int16], offset: int, sample_rate: int, channels: int, truncated: int = 0) -> Audio:
    """The samples `wave` of a file as `Audio`: their digest and levels."""
    from preprocessing.audit import measure

    peak_db, rms_db, dc, clipped = measure(wave)
    # As many digits as mean something, so that the table is the same everywhere; + 0.0: there is no -0.0.
    levels = round(peak_db, 2) + 0.0, round(rms_db, 2) + 0.0, round(dc, 5) + 0.0, round(clipped, 6)
    return Audio(offset, len(wave), sample_rate, channels, digest_of(wave), *levels, truncated)


def digest_of(samples: NDArray[np.int16]) -> str:
    return hashlib.sha1(samples.astype("<i2", copy=False).data, usedforsecurity=False).hexdigest()[:16]


def _read(
    source: Source, last: LastFile, sample_rate: int, into: _Samples, progressed: Callable[[], None]
) -> tuple[int, int, int]:
    """Append a file's audio, or a part's, to `into`, resampled to `sample_rate` (Hz), its channels averaged.

    `progressed` is called after each block. Returns the file's own sample rate, its channels, and 1 where its header
    promises more than there is, else 0.
    UnusableError says what is wrong with a file's content or name; soundfile's errors pass.
    """
    import soxr

    with last.whole(source.path) if not source.end else last.part(source.path, source.start) as file:
        rate, channels, begin, frames = file.rate, file.channels, len(into), 0
        exact = channels == 1 and rate == sample_rate and file.int16
        resampler = None if rate == sample_rate else soxr.ResampleStream(rate, sample_rate, 1, "float32", "HQ")
        at_once = min(max(BLOCK_VALUES // channels, 1), file.frames + 1)  # + 1: a short read is the last one
        levels = FloatLevels() if file.floating else None
        start, left = _skip(file, source, at_once, progressed)
        more = True
        while more:
            block = file.read(min(at_once, left), "int16" if exact else "float32")
            progressed()
            frames += len(block)
            if frames > LONGEST_HOURS * 3600 * rate:
                raise UnusableError(f"longer than {LONGEST_HOURS} h: cut it into clips")
            left -= len(block)
            more = len(block) == at_once and left > 0
            if exact:
                into.append(block[:, 0])
                continue
            if levels:
                levels.add(block)
                block /= source.full_scale
            mono = block.mean(1)
            if not np.isfinite(mono).all():
                raise UnusableError("holds NaN or infinite samples")
            into.append(_to_int16(resampler.resample_chunk(mono) if resampler else mono))
        if source.end and left:
            _insist_inside(source, start + frames, rate)
        if levels:
            levels.insist(source.full_scale)
        truncated = not source.end and file.truncated(frames)
    if resampler:
        into.append(_to_int16(resampler.resample_chunk(np.empty(0, np.float32), last=True)))
    if len(into) == begin:
        raise UnusableError("empty: holds no samples")
    return rate, channels, int(truncated)


def _skip(
    file: AudioFile | FFmpegFile, source: Source, at_once: int, progressed: Callable[[], None]
) -> tuple[int, int]:
    """Go to where `source` starts; returns that, or the file's end where it comes before, and the frames to read."""
    start, end = round(source.start * file.rate), round(source.end * file.rate)
    while file.at < start and len(file.read(min(at_once, start - file.at), "float32")):
        progressed()
    return file.at, max(end - start, 0) if source.end else sys.maxsize


def _insist_inside(source: Source, last: int, rate: int) -> None:
    """UnusableError where a part begins or ends behind its file's end, found at frame `last`."""
    end = last / rate
    if source.end > end + SPARE_SECONDS or source.start >= end:
        part = f"{source.start:g} to {source.end:g} s"
        raise UnusableError(f"lies beyond its recording's end: {part}, and that is at {end:.2f} s")


def _to_int16(wave: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16)


def common_rate(paths: Sequence[str]) -> int:
    """The most common sample rate (Hz) by the headers: of a sample, or of all files where that leaves a doubt."""

    def rates(paths: Sequence[str]) -> Counter[int]:
        return Counter(header.rate for header in headers(paths) if not header.reason)

    found = rates(paths[:: math.ceil(len(paths) / 1000)])
    if not found or max(found.values()) <= 0.6 * found.total():
        found = rates(paths)
    if not found:
        why = next(headers(paths[:1])).reason
        raise UserError(f"none of the {len(paths):,} clips can be read, {paths[0]} for one: {why}")
    return max(found, key=lambda rate: (found[rate], rate))


def durations(paths: Sequence[str]) -> list[float]:
    """How long each file is by its header, in seconds; NaN where that cannot be read, or does not say."""
    found = headers(paths)
    return [header.frames / header.rate if header.rate and header.frames < UNKNOWN else math.nan for header in found]


def headers(paths: Sequence[str]) -> Iterator[Header]:
    """The header of each file, in order."""
    chunks = (list(paths[start : start + CHUNK_FILES]) for start in range(0, len(paths), CHUNK_FILES))
    lost = "unreadable: its decoder {}"
    return chain.from_iterable(isolated(_read_headers, chunks, lambda _, how: [Header(reason=lost.format(how))]))


def _read_headers(paths: list[str]) -> list[Header]:
    """`headers` of several files."""
    found = []
    with watchdog(STALL_SECONDS) as progressed:
        for path in paths:
            progressed()
            try:
                with open_audio(path) as file:
                    found.append(Header(file.rate, file.frames, file.floating))
            except UNREADABLE as error:
                found.append(Header(reason=_reason(error)))
    return found
