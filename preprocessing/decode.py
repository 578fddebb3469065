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
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from preprocessing.audiofile import UNKNOWN, Audible, FloatLevels, LastFile, UnusableError, open_audio
from preprocessing.store import writing
from preprocessing.workers import STALL_SECONDS, isolated
from system.console import progress
from system.errors import UserError
from system.paths import SCRATCH
from system.processes import watchdog

if TYPE_CHECKING:
    from preprocessing.files import File

Item = TypeVar("Item")
Look = Callable[[Audible, Callable[[], None]], Item]  # at an open file; what it calls after each block
Floats = NDArray[np.float32]
CHUNK_FILES = 128  # files that a decoding process takes at a time
CHUNK_BYTES = 4 << 20  # ... or fewer, where they are long
SECOND_BYTES = 200_000  # of a recording that parts are cut out of, about: 48 kHz, two channels of 16 bits
BLOCK_VALUES = 1 << 18  # of a long file, read at a time: frames x channels
COPY_BYTES = 1 << 20  # of samples at a time
SPARE_SECONDS = 0.1  # that a part may end after its recording: times are often rounded
LONGEST_HOURS = 24  # of a file: a few bytes of FLAC can stand for hours, and would fill the disk
UNREADABLE = (OSError, ValueError, RuntimeError, MemoryError)  # soundfile's and soxr's are RuntimeErrors
ALL_ONE: Mapping[str, float] = {}  # never changed
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


class _Chunk(NamedTuple):
    """Several files decoded: their samples back to back in a file, and for each its audio, with offsets into those."""

    samples: Path
    audios: list[Audio]
    bands: Floats  # (usable files, bands), as `spectral_bands` has them, or (0, 0)


class Header(NamedTuple):
    """What the header of a file says."""

    rate: int  # Hz
    frames: int
    floating: bool  # its samples are floats


def decode_stream(
    files: Sequence[File], sample_rate: int, scratch: Path, full_scale: Mapping[str, float] = ALL_ONE
) -> Generator[Decoded, None, None]:
    """Decode `files` in order, at `sample_rate` (Hz), with a bounded number under way whatever their number.

    Samples pass through `scratch`, a folder that is made and removed. What is not asked for is not decoded.
    `full_scale` is that of a split's float samples, where not 1.
    """
    with _folder(scratch):
        for path, audios, _ in _decode_chunks(files, sample_rate, scratch, full_scale, compare=False):
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
    full_scale: Mapping[str, float] = ALL_ONE,
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
            for samples, audios, bands in _decode_chunks(files, sample_rate, scratch, full_scale, compare=True):
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


def _decode_chunks(
    files: Iterable[File], sample_rate: int, scratch: Path, full_scale: Mapping[str, float], compare: bool
) -> Iterator[_Chunk]:
    """`_read_chunk` of all files in order."""

    def lost(_: File, reason: str) -> _Chunk:
        audio = Audio(reason=f"unreadable: its decoder {reason}")
        return _Chunk(_Samples(scratch).close(), [audio], np.empty((0, 0), np.float32))

    read = partial(_read_chunk, sample_rate=sample_rate, scratch=scratch, full_scale=full_scale, compare=compare)
    return isolated(read, _chunks(files), lost)


def _chunks(files: Iterable[File]) -> Iterator[list[File]]:
    """`files` in lists of at most CHUNK_FILES and about CHUNK_BYTES."""
    chunk: list[File] = []
    size = 0
    for file in files:
        chunk.append(file)
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
    files: list[File],
    sample_rate: int,
    scratch: Path,
    full_scale: Mapping[str, float] = ALL_ONE,
    compare: bool = True,
    patience: float = STALL_SECONDS,
) -> _Chunk:
    """Decode several files; this process ends where nothing can be read for `patience` seconds.

    With `compare`, what near duplicates are found by comes with it, computed here, while samples are in the cache.
    """
    from preprocessing.duplicates import spectral_bands

    samples, audios = _Samples(scratch), []
    with watchdog(patience) as progressed, contextlib.closing(LastFile()) as last:
        for file in files:
            start, scale = len(samples), full_scale.get(file.split, 1.0)
            progressed()
            try:
                rate, channels, truncated = _read(file, last, sample_rate, scale, samples, progressed)
            except UNREADABLE as error:
                samples.forget(start)
                last.close()
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
    clip: File, last: LastFile, sample_rate: int, full_scale: float, into: _Samples, progressed: Callable[[], None]
) -> tuple[int, int, int]:
    """Append the audio of `clip` to `into`, resampled to `sample_rate` (Hz), its channels averaged.

    `progressed` is called after each block. Returns the file's own sample rate, its channels, and 1 where its header
    promises more than there is, else 0.
    UnusableError says what is wrong with a file's content or name; soundfile's errors pass.
    """
    import soxr

    file = last.open(clip.path, clip.start)
    rate, channels, begin = file.rate, file.channels, len(into)
    exact = channels == 1 and rate == sample_rate and file.int16
    resampler = None if rate == sample_rate else soxr.ResampleStream(rate, sample_rate, 1, "float32", "HQ")
    at_once = min(max(BLOCK_VALUES // channels, 1), file.frames + 1)  # + 1: a short read is the last one
    levels = FloatLevels() if file.floating else None
    start = round(clip.start * rate)
    left = max(round(clip.end * rate) - start, 0) if clip.end else sys.maxsize
    while file.at < start and len(file.read(min(at_once, start - file.at), "float32")):
        progressed()
    first, more = file.at, True
    while more:
        block = file.read(min(at_once, left), "int16" if exact else "float32")
        progressed()
        if file.at - first > LONGEST_HOURS * 3600 * rate:
            raise UnusableError(f"longer than {LONGEST_HOURS} h: cut it into clips")
        left -= len(block)
        more = len(block) == at_once and left > 0
        if exact:
            into.append(block[:, 0])
            continue
        if levels:
            levels.add(block)
            block /= full_scale
        mono = block.mean(1)
        if not np.isfinite(mono).all():
            raise UnusableError("holds NaN or infinite samples")
        into.append(_to_int16(resampler.resample_chunk(mono) if resampler else mono))
    end = file.at / rate
    if clip.end and left and (clip.end > end + SPARE_SECONDS or clip.start >= end):
        part = f"{clip.start:g} to {clip.end:g} s"
        raise UnusableError(f"lies beyond its recording's end: {part}, and that is at {end:.2f} s")
    if levels:
        levels.insist(full_scale)
    if resampler:
        into.append(_to_int16(resampler.resample_chunk(np.empty(0, np.float32), last=True)))
    if len(into) == begin:
        raise UnusableError("empty: holds no samples")
    return rate, channels, int(not clip.end and file.truncated(file.at))


def _to_int16(wave: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16)


def common_rate(paths: Sequence[str]) -> int:
    """The most common sample rate (Hz) by the headers: of a sample, or of all files where that leaves a doubt."""
    for some in (paths[:: math.ceil(len(paths) / 1000)], paths):
        found = list(inspected(header, some))
        rates = Counter(head.rate for head in found if isinstance(head, Header))
        if rates and max(rates.values()) > 0.6 * rates.total():
            break
    if not rates:
        raise UserError(f"none of the {len(paths):,} clips can be read, {paths[0]} for one: {found[0]}")
    return max(rates, key=lambda rate: (rates[rate], rate))


def durations(paths: Sequence[str]) -> list[float]:
    """How long each file is by its header, in seconds; NaN where that cannot be read, or does not say."""
    found = inspected(header, paths)
    return [head.frames / head.rate if isinstance(head, Header) and head.frames < UNKNOWN else math.nan
            for head in found]  # fmt: skip


def header(file: Audible, _: Callable[[], None]) -> Header:
    return Header(file.rate, file.frames, file.floating)


def inspected(look: Look[Item], paths: Sequence[str]) -> Iterator[Item | str]:
    """What `look` finds in each file, in order, in other processes; of one that cannot be read, why."""
    chunks = (list(paths[start : start + CHUNK_FILES]) for start in range(0, len(paths), CHUNK_FILES))
    lost = "unreadable: its decoder {}"
    return chain.from_iterable(isolated(partial(_inspect, look), chunks, lambda _, how: [lost.format(how)]))


def _inspect(look: Look[Item], paths: list[str]) -> list[Item | str]:
    found: list[Item | str] = []
    with watchdog(STALL_SECONDS) as progressed:
        for path in paths:
            progressed()
            try:
                with open_audio(path) as file:
                    found.append(look(file, progressed))
            except UNREADABLE as error:
                found.append(_reason(error))
    return found
