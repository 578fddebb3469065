"""Decode a data set once, check it and split it into folds: the store that training reads.

The only module that opens audio files; `source` finds them, `audit` judges them. Both, and pandas, soundfile, soxr and
scikit-learn, are imported where they are used, so that ``-h`` answers at once and a decoding process starts with
nothing that it does not need.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import multiprocessing
import os
import re
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, count, islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from arg import NO_LIST, PreprocessConfig, UserError, command, parse_preprocess
from util import clock, flush_folder, locked, main_module_hidden, progress, replacing

if TYPE_CHECKING:
    from pandas import DataFrame

    from relabel import Record
    from source import DataSet, File

Result = TypeVar("Result")

CLIPS = "clips.csv"
WAVES = "waves.i16"
STORE = "store.json"
REJECTED = "rejected.csv"
PICTURE = "audit.png"
JOURNAL = ".journal"  # what a run under way has decoded; gone once the tables name it
SCRATCH = ".decoded"  # folder of samples on their way from the decoding processes to WAVES
NEXT = ".next"  # folder of complete tables that are to replace those in use
STORE_FORMAT = 2

AUDIO_COLUMNS = [
    *("offset", "length", "size", "mtime_ns", "sample_rate", "channels", "digest"),
    *("peak_db", "rms_db", "dc", "clipped", "truncated"),
]
CLIP_COLUMNS = ["fname", "label", "group", "split", "fold", "flags", "cluster", *AUDIO_COLUMNS]
REJECTED_COLUMNS = ["fname", "split", "reason", "label", *AUDIO_COLUMNS]
TEXT_COLUMNS = {"fname", "label", "group", "split", "flags", "cluster", "reason", "digest"}
FLOAT_COLUMNS = {"peak_db", "rms_db", "dc", "clipped"}  # the others are int64

CHUNK_FILES = 32  # files that a decoding process takes at a time
CHUNK_BYTES = 4 << 20  # ... or fewer, where they are long
BLOCK_VALUES = 1 << 18  # of a long file, read at a time: frames x channels
COPY_BYTES = 1 << 20  # of samples at a time
LONGEST_HOURS = 24  # of a file: a few bytes of FLAC can stand for hours, and would fill the disk
STALL_SECONDS = 30.0  # without a block from a decoder: it hangs
SPARE_BYTES = 1 << 30  # of memory that a decoding process may take, whatever a file's header asks for

Key = tuple[str, str, int, int]  # of a file: split, fname, size, time of its last change


class _Audio(NamedTuple):
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


# ---------------------------------------------------------------------------------------------------- the store


def load_store(work: Path) -> dict[str, Any]:
    """The facts about the store in `work` (store.json).

    Keys: format, root, test_root, sample_submission, sample_rate (Hz), clip_samples, classes (sorted), folds (as made),
    grouped (whether groups were found), counts (clips per split), options (those that decide labels and folds), noise
    (the folder of --noise; absent in older stores). UserError where it is missing, unreadable or of another format.
    """
    path = work / STORE
    try:
        store = json.loads(path.read_text("utf-8"))
        if not isinstance(store, dict):
            raise ValueError("not a JSON object")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {_prepare_again(work)}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): {_prepare_again(work)}") from None
    if store.get("format") != STORE_FORMAT:
        raise UserError(f"{path} has format {store.get('format')}, not {STORE_FORMAT}: {_prepare_again(work)}")
    return store


def load_clips(work: Path) -> DataFrame:
    """One row a usable clip (clips.csv), by split (train, test, noise) and then by name.

    Text columns: fname (a full path where --noise found it), label ('' where unknown), group (the speaker or ''),
    split, flags (separated by spaces), cluster (the first of the clips that this is a near duplicate of, or ''),
    digest. Integers: fold (-1 outside train), offset and length (samples of WAVES), size (bytes) and mtime_ns of the
    file, its sample_rate (Hz) and channels, truncated (0 or 1). The levels are real numbers. UserError where the table
    is missing or unreadable.
    """
    return _load_table(work / CLIPS, CLIP_COLUMNS)


def load_rejected(work: Path) -> DataFrame:
    """One row a file that could not be used (rejected.csv): fname, split, reason, and what else is known of it.

    UserError where the table is missing or unreadable.
    """
    return _load_table(work / REJECTED, REJECTED_COLUMNS)


def read_clips(work: Path, columns: list[str], rows: int = 50_000) -> Iterator[DataFrame]:
    """Some columns of clips.csv, `rows` at a time, so that a large table takes no more memory than a small one."""
    yield from _read_table(work / CLIPS, CLIP_COLUMNS, usecols=columns, chunksize=rows)


def _load_table(path: Path, columns: list[str]) -> DataFrame:
    (table,) = _read_table(path, columns)
    return table


def _read_table(path: Path, columns: list[str], **options: Any) -> Iterator[DataFrame]:
    import pandas as pd

    kinds = {**dict.fromkeys(TEXT_COLUMNS, "str"), **dict.fromkeys(FLOAT_COLUMNS, "float64")}
    dtypes = {name: kinds.get(name, "int64") for name in columns}
    try:
        header = list(pd.read_csv(path, nrows=0))
        if header != columns:
            raise ValueError(f"its columns are not {','.join(columns)}")
        table = pd.read_csv(path, dtype=dtypes, na_filter=False, **options)  # a class may be called NA
        yield from table if options.get("chunksize") else [table]
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {_prepare_again(path.parent)}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): {_prepare_again(path.parent)}") from None


def map_waves(waves: Path) -> NDArray[np.int16]:
    """The samples of WAVES, not read before they are used; a killed run may have left half a sample at their end."""
    return np.memmap(waves, "<i2", "r", shape=(waves.stat().st_size // 2,))


def _prepare_again(work: Path) -> str:
    return f"run python preprocess.py -i DATASET -w {shlex.quote(str(work))}"


def _save(work: Path, store: dict[str, Any], clips: DataFrame, rejected: DataFrame, record: Record) -> bool:
    """Write what differs from the files in `work`, all of it or nothing; returns whether anything did."""
    from relabel import RECORD, record_text

    new = {RECORD: record_text(record)} if record or (work / RECORD).exists() else {}
    new |= {
        REJECTED: rejected.to_csv(index=False, lineterminator="\n"),
        CLIPS: clips.to_csv(index=False, lineterminator="\n"),
        STORE: json.dumps(store, indent=1, ensure_ascii=False) + "\n",
    }
    old = {name: path.read_bytes() if (path := work / name).exists() else None for name in new}
    changed = {name: text.encode() for name, text in new.items() if text.encode() != old[name]}
    if changed:
        (work / PICTURE).unlink(missing_ok=True)  # it shows the old ones
        beside = work / f"{NEXT}.tmp"
        shutil.rmtree(beside, ignore_errors=True)
        for name, content in changed.items():
            with replacing(beside / name) as path:
                path.write_bytes(content)
        beside.rename(work / NEXT)  # from here on the new ones count
        flush_folder(work)
        _settle(work)
    return bool(changed)


def _settle(work: Path) -> None:
    """Put the tables of NEXT in their places, also those of a run that was killed at this."""
    from relabel import RECORD

    if not (work / NEXT).is_dir():
        return
    if (work / NEXT / STORE).exists():
        (work / STORE).unlink(missing_ok=True)  # the old facts (sample rate, folds) must not be read with the new table
    for name in (RECORD, REJECTED, CLIPS, STORE):
        if (work / NEXT / name).exists():
            (work / NEXT / name).replace(work / name)
    flush_folder(work)
    (work / NEXT).rmdir()


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """A system error in what is done to the files in `folder` becomes a UserError that says so."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}): make room, or make it writable, and run this "
            "again; what is done is kept"
        ) from error


# ------------------------------------------------------------------------------------------------------ decoding


class Decoded(NamedTuple):
    """A few files' samples back to back, and for each file where its own begin, their number, and why it has none."""

    waves: NDArray[np.int16]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    reason: list[str]


def decode_stream(files: Sequence[File], sample_rate: int, scratch: Path) -> Generator[Decoded, None, None]:
    """Decode `files` in order, at `sample_rate` (Hz), with a bounded number under way whatever their number.

    Samples pass through `scratch`, a folder that is made and removed. What is not asked for is not decoded.
    """
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    scratch.mkdir(parents=True)
    try:
        for path, audios in _decode_chunks(files, sample_rate, scratch):
            # copy on write, only since torch asks for memory that may be written
            waves = np.memmap(path, "<i2", "c") if path.stat().st_size else np.empty(0, np.int16)
            path.unlink()  # the map keeps the samples
            offset, length = (np.array(column, np.int64) for column in zip(*(a[:2] for a in audios), strict=True))
            yield Decoded(waves, offset, length, [audio.reason for audio in audios])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _table(files: Sequence[File], audios: Iterable[_Audio]) -> DataFrame:
    import pandas as pd

    from source import File, printable

    columns = [*File._fields[:-1], *_Audio._fields]
    rows = [(*file[:-1], *audio) for file, audio in zip(files, audios, strict=True)]
    table = pd.DataFrame(rows, columns=columns)
    for name in ("fname", "label", "group"):
        table[name] = [printable(text) for text in table[name]]
    return table


def _decode(
    files: Sequence[File],
    sample_rate: int,
    waves: Path,
    note_down: Callable[[list[tuple[File, _Audio]]], None] = lambda chunk: None,
) -> list[_Audio]:
    """Decode `files` on all cores and append their samples, in their order, to `waves`.

    `note_down` is told of each chunk of files when its samples are there.
    """
    if not files:
        return []
    waves.parent.mkdir(parents=True, exist_ok=True)
    scratch = waves.parent / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    scratch.mkdir()
    try:
        with waves.open("ab") as out:
            out.write(b"\0" * (out.tell() % 2))  # such a run may have left half a sample, too

            def written() -> Iterator[_Audio]:
                rest, buffer = iter(files), memoryview(bytearray(COPY_BYTES))
                for samples, audios in _decode_chunks(files, sample_rate, scratch):
                    start = out.tell() // 2
                    with samples.open("rb", buffering=0) as decoded:
                        while size := decoded.readinto(buffer):
                            out.write(buffer[:size])
                    samples.unlink()
                    out.flush()
                    placed = [a._replace(offset=start + a.offset) if a.length else a for a in audios]
                    note_down([(file, audio) for audio, file in zip(placed, rest)])  # noqa: B905 (the rest is to come)
                    yield from placed

            done = list(progress(written(), len(files), "decoding"))
            os.fsync(out.fileno())
        return done
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _decode_chunks(files: Sequence[File], sample_rate: int, scratch: Path) -> Iterator[tuple[Path, list[_Audio]]]:
    """`_read_chunk` of all files in order."""

    def lost(_: str, reason: str) -> tuple[Path, list[_Audio]]:
        return _Samples(scratch).close(), [_Audio(reason=f"unreadable: its decoder {reason}")]

    read = partial(_read_chunk, sample_rate=sample_rate, scratch=scratch, patience=STALL_SECONDS)
    return _isolated(read, _chunks(files), lost)


def _isolated(
    task: Callable[[list[str]], Result], chunks: Iterable[list[str]], lost: Callable[[str, str], Result]
) -> Iterator[Result]:
    """`task` of each chunk of paths, in their order, by processes that a bad file may take along.

    Where one dies, another goes on with that chunk, file by file; for a file over which it dies again, `lost` is told
    its path and what it does to a process. So a chunk may give several results. Few chunks are under way at a time:
    memory stays flat. What `task` raises is raised here.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rest = iter(chunks)
    first = list(islice(rest, cores))
    rest = chain(first, rest)
    processes = [_Process(task) for _ in first]
    results: dict[int, list[Result]] = {}  # of the chunks under way
    left: dict[int, int] = {}  # parts of each that are still to come
    sent = 0

    def collect(process: _Process[Result]) -> None:
        part = process.parts[0]
        try:
            result = process.receive()
        except (EOFError, OSError):  # it has died
            reason = process.end(grace=0.1)
            process.parts.popleft()
            if part.again:
                results[part.chunk].append(lost(part.paths[0], reason))
                left[part.chunk] -= 1
            else:
                alone = [_Part(part.chunk, [path], again=True) for path in part.paths]
                process.parts.extendleft(reversed(alone))
                left[part.chunk] += len(alone) - 1
            process.start()
            return
        if isinstance(result, Exception):
            raise result
        process.parts.popleft()
        results[part.chunk].append(result)
        left[part.chunk] -= 1

    def send(process: _Process[Result], chunk: int) -> bool:
        """Whether there was another chunk to send."""
        paths = next(rest, None)
        if paths is not None:
            results[chunk], left[chunk] = [], 1
            process.send(_Part(chunk, paths))
        return paths is not None

    try:
        for chunk in count():
            while True:
                for process in processes:
                    while len(process.parts) < 2 and sent < chunk + 4 * len(processes) and send(process, sent):
                        sent += 1
                if chunk == sent:
                    return
                busy = {process.pipe: process for process in processes if process.parts}
                for pipe in wait(list(busy), None if left[chunk] else 0):
                    collect(busy[pipe])  # type: ignore[index]
                if not left[chunk]:
                    break
            del left[chunk]
            yield from results.pop(chunk)
    finally:
        for process in processes:
            process.end()


class _Part(NamedTuple):
    """Files that a process takes at a time."""

    chunk: int
    paths: list[str]
    again: bool = False  # a process has died over it already


class _Process(Generic[Result]):
    """A process that does parts in turn; where it has died, `end` and `start` make another, which does them instead."""

    pipe: Connection

    def __init__(self, task: Callable[[list[str]], Result]) -> None:
        self._task = task
        self.parts = deque[_Part]()  # under way, in order
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("forkserver")  # the first one costs a start, the others next to nothing
        context.set_forkserver_preload(["preprocess", "audit", "soundfile", "soxr"])
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._task), daemon=True)
        with main_module_hidden():
            self._process.start()
        theirs.close()
        self._started = False
        for part in self.parts:
            self._send(part)

    def send(self, part: _Part) -> None:
        self.parts.append(part)
        self._send(part)

    def _send(self, part: _Part) -> None:
        with contextlib.suppress(OSError):  # it has died, as `receive` will say
            self.pipe.send(part.paths)

    def receive(self) -> Result | Exception:
        """What came of the first part; EOFError or OSError is raised where the process has died over it."""
        if not self._started:
            try:
                self.pipe.recv()
            except (EOFError, OSError):
                raise UserError(f"a decoding process {self.end(grace=0.1)} before it has begun: free memory") from None
            self._started = True
        return self.pipe.recv()

    def end(self, grace: float = 0) -> str:
        """End it; returns what a file must have done to it where it ends by itself in `grace` seconds."""
        self.pipe.close()
        self._process.join(grace)
        self._process.kill()
        self._process.join()
        code = self._process.exitcode or 0
        if code == -signal.SIGALRM:
            return f"hangs, no sound came in {STALL_SECONDS:g} s"
        return f"crashes ({signal.Signals(-code).name if code < 0 else f'exit status {code}'})"


def _work(pipe: Connection, task: Callable[[list[str]], Any]) -> None:
    """What a decoding process does: `task` of what comes through the pipe, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent alone
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries say of damaged files: the reasons are in REJECTED
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    _limit_memory()
    with contextlib.suppress(EOFError, OSError):  # the parent has ended
        pipe.send("ready")
        while True:
            paths = pipe.recv()
            try:
                result = task(paths)
            except Exception as error:
                result = error
            pipe.send(result)


def _limit_memory() -> None:
    """Let this process take SPARE_BYTES more memory than it has, where the system tells how much that is (Linux)."""
    status = Path("/proc/self/status")
    if found := re.search(r"VmData:\s*(\d+) kB", status.read_text()) if status.exists() else None:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = int(found[1]) * 1024 + SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def _chunks(files: Iterable[File]) -> Iterator[list[str]]:
    """The paths of `files` in lists of at most CHUNK_FILES and about CHUNK_BYTES."""
    chunk: list[str] = []
    size = 0
    for file in files:
        chunk.append(file.path)
        size += file.size
        if len(chunk) == CHUNK_FILES or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class _Samples:
    """Little-endian int16 samples as they are decoded, in a file in `folder`.

    So no clip is too long for the memory of the process that decodes it, nor for that of the one that collects; nor
    are samples copied from process to process, which takes longer than the page cache does.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with _writing(folder):
            self._file = tempfile.NamedTemporaryFile(dir=folder, delete=False)  # noqa: SIM115 (handed over)
        self._count = 0
        self._last = np.empty(0, np.int16)

    def __len__(self) -> int:
        return self._count

    def append(self, samples: NDArray[np.int16]) -> None:
        if len(samples):
            self._last = samples.astype("<i2", copy=False)
            with _writing(self._folder):  # no fault of the file that is read
                self._file.write(self._last.data)
            self._count += len(samples)

    def since(self, start: int) -> NDArray[np.int16]:
        """Those from `start` on, which are some."""
        if len(self._last) == self._count - start:
            return self._last
        with _writing(self._folder):
            self._file.flush()
        return np.memmap(self._file.name, "<i2", "r", offset=2 * start)

    def forget(self, start: int) -> None:
        """Drop those from `start` on."""
        with _writing(self._folder):
            self._file.seek(2 * start)
            self._file.truncate()
        self._count, self._last = start, self._last[:0]

    def close(self) -> Path:
        with _writing(self._folder):
            self._file.close()
        return Path(self._file.name)


def _read_chunk(paths: list[str], sample_rate: int, scratch: Path, patience: float = 0) -> tuple[Path, list[_Audio]]:
    """The samples of several files back to back, and for each file its audio, with offsets into those samples.

    SIGALRM ends the process where nothing can be read for `patience` seconds; 0: it waits.
    """
    from audit import measure

    samples, audios = _Samples(scratch), []
    for path in paths:
        start = len(samples)
        try:
            rate, channels, truncated = _read(path, sample_rate, samples, patience)
        except (OSError, ValueError, RuntimeError, MemoryError) as error:  # soundfile's and soxr's are RuntimeErrors
            samples.forget(start)
            reason = getattr(error, "error_string", "") or getattr(error, "strerror", "") or str(error)
            if not isinstance(error, _UnusableError):
                reason = f"unreadable: {reason or type(error).__name__}"
            audios.append(_Audio(reason=" ".join(reason.replace("Error : ", "").split()).rstrip(".")))
            continue
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        wave = samples.since(start)
        peak_db, rms_db, dc, clipped = measure(wave)
        # As many digits as mean something, so that the table is the same everywhere; + 0.0: there is no -0.0.
        levels = round(peak_db, 2) + 0.0, round(rms_db, 2) + 0.0, round(dc, 5) + 0.0, round(clipped, 6)
        audios.append(_Audio(start, len(wave), rate, channels, _digest(wave), *levels, truncated))
    return samples.close(), audios


def _digest(samples: NDArray[np.int16]) -> str:
    return hashlib.sha1(samples.astype("<i2", copy=False).data, usedforsecurity=False).hexdigest()[:16]


class _UnusableError(ValueError):
    """A file that can be read but not used; the text is the reason."""


def _read(path: str, sample_rate: int, into: _Samples, patience: float) -> tuple[int, int, int]:
    """Append a file's audio to `into`, resampled to `sample_rate` (Hz), its channels averaged.

    Returns its own sample rate, its channels, and 1 where its header promises more than there is, else 0.
    _UnusableError says what is wrong with a file's content or name; soundfile's errors pass.
    """
    import soxr

    signal.setitimer(signal.ITIMER_REAL, patience)
    with _open(path) as file:
        rate, channels, start, frames = file.samplerate, file.channels, len(into), 0
        if not 1000 <= rate <= 384_000:  # a damaged header: resampling from 1 Hz would fill the memory
            raise _UnusableError(f"its sample rate is {rate} Hz")
        exact = channels == 1 and rate == sample_rate and file.subtype == "PCM_16"
        resampler = None if rate == sample_rate else soxr.ResampleStream(rate, sample_rate, 1, "float32", "HQ")
        # After each read soundfile would seek, and an MP3's decoder begin anew in the middle; in a pipe it does not.
        file.seekable = lambda: False
        at_once = min(max(BLOCK_VALUES // channels, 1), file.frames + 1)  # + 1: a short read is the last one
        more = True
        while more:
            block = file.read(at_once, "int16" if exact else "float32", always_2d=True)
            signal.setitimer(signal.ITIMER_REAL, patience)
            frames += len(block)
            if frames > LONGEST_HOURS * 3600 * rate:
                raise _UnusableError(f"longer than {LONGEST_HOURS} h: cut it into clips")
            more = len(block) == at_once
            if exact:
                into.append(block[:, 0])
                continue
            mono = block.mean(1)
            if not np.isfinite(mono).all():
                raise _UnusableError("holds NaN or infinite samples")
            into.append(_to_int16(resampler.resample_chunk(mono) if resampler else mono))
        truncated = frames < file.frames - rate // 20 or _mended(file.extra_info)  # an MP3's is an estimate
    if resampler:
        into.append(_to_int16(resampler.resample_chunk(np.empty(0, np.float32), last=True)))
    if len(into) == start:
        raise _UnusableError("empty: holds no samples")
    return rate, channels, int(truncated)


def _mended(log: str) -> bool:
    """Whether libsndfile's log of a file tells of a size (of a WAV or an AIFF) that is more than there is.

    What was written to a pipe has the largest size there is, and is whole.
    """
    return "(should be" in log and any(
        int(actual) < int(promised) < 0x7FFF_0000
        for promised, actual in re.findall(r": (\d+) \(should be (\d+)\)", log)
    )


def _open(path: str) -> Any:
    """The soundfile.SoundFile at `path`; _UnusableError for a name or a kind of file that is not opened."""
    import soundfile

    from source import UNSAFE_NAME

    if UNSAFE_NAME.search(path):
        raise _UnusableError("its name holds a control character or is not UTF-8")
    if not os.path.isfile(path):  # noqa: PTH113 (a Path for each of 60,000 files is slow)
        raise _UnusableError("not a file: a dangling link, a pipe or a device")  # opening a pipe would wait for ever
    return soundfile.SoundFile(path)


def _to_int16(wave: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16)


def _common_rate(paths: Sequence[str]) -> int:
    """The most common sample rate (Hz) by the headers: of a sample, or of all files where that leaves a doubt."""

    def rates(paths: Sequence[str]) -> Counter[int]:
        chunks = [list(paths[start : start + CHUNK_FILES]) for start in range(0, len(paths), CHUNK_FILES)]
        read = partial(_read_rates, patience=STALL_SECONDS)
        return sum(_isolated(read, chunks, lambda path, reason: Counter[int]()), Counter[int]())

    found = rates(paths[:: math.ceil(len(paths) / 1000)])
    if not found or max(found.values()) <= 0.6 * found.total():
        found = rates(paths)
    if not found:
        raise UserError(f"none of the {len(paths):,} clips can be read, {paths[0]} for one: are they audio files?")
    return max(found, key=lambda rate: (found[rate], rate))


def _read_rates(paths: list[str], patience: float) -> Counter[int]:
    """How many files have which sample rate (Hz); decoding tells why the others have none."""
    found = Counter[int]()
    for path in paths:
        signal.setitimer(signal.ITIMER_REAL, patience)
        with contextlib.suppress(OSError, ValueError, RuntimeError, MemoryError), _open(path) as file:
            found[file.samplerate] += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    return found


# ------------------------------------------------------------------------------------------------- killed runs


def _resume(work: Path, facts: Mapping[str, Any]) -> dict[Key, _Audio]:
    """What the journal of a run that was killed says is in WAVES and is there, and whose `facts` were these.

    Without one, or with that of another data set or rate, a new journal is begun.
    """
    path, waves = work / JOURNAL, work / WAVES
    try:
        lines = path.read_text("ascii").splitlines()
        if not waves.exists() or not waves.stat().st_size or json.loads(lines[0]) != facts:
            raise ValueError("another data set")
    except (OSError, ValueError, IndexError):
        with replacing(path) as beside:
            beside.write_text(json.dumps(facts), "ascii")
        return {}
    samples = map_waves(waves)
    known = {}
    for line in lines[1:]:
        try:
            entries = json.loads(line)
        except ValueError:  # cut off when a run was killed
            continue
        for key, values in entries:
            audio = _Audio(*values)
            if audio.digest == _digest(samples[audio.offset : audio.offset + audio.length]):
                known[tuple(key)] = audio
    return known


def _note_down(work: Path, chunk: Iterable[tuple[File, _Audio]]) -> None:
    """Add to the journal what has just been written to WAVES."""
    entries = [(file.key, audio) for file, audio in chunk if audio.length]
    with (work / JOURNAL).open("a", encoding="ascii") as journal:
        journal.write("\n" + json.dumps(entries))  # first: the last line may be cut off


# --------------------------------------------------------------------------------------------- checks and folds


def _reject_duplicates(table: DataFrame) -> None:
    """Give a reason to training clips whose decoded audio another one has too.

    Under one label the first by name is kept; under several, none can be trusted.
    """
    train = table[(table["split"] == "train") & (table["reason"] == "")]
    repeated = train[train.duplicated(["digest", "length"], keep=False)]
    for _, same in repeated.groupby(["digest", "length"]):
        clips = list(zip(same.index, same["fname"], same["label"], strict=True))
        _, first_name, first_label = clips[0]
        rival = next(((name, label) for _, name, label in clips if label != first_label), None)
        for index, name, label in clips:
            if rival:
                other_name, other_label = rival if label == first_label else (first_name, first_label)
                table.loc[index, "reason"] = f"same audio as {other_name}, labelled {other_label}"
            elif name != first_name:
                table.loc[index, "reason"] = f"duplicate of {first_name}"


def assign_folds(clips: DataFrame, folds: int, seed: int, known: Mapping[str, int]) -> NDArray[np.int64]:
    """The fold of each clip, (n,): classes as even as may be, all clips of a group in one fold.

    `clips` has fname, label, group and cluster ('' where there is none), by fname. Groups that near duplicates link
    count as one. Clips in `known` (fname to fold) keep their fold and new ones join them; a group whose clips have
    several goes where most are. Without any, scikit-learn splits. UserError where there are fewer groups than folds.
    """
    grouped = bool((clips["group"] != "").any())
    names, unit = np.unique(_units(clips).astype(str), return_inverse=True)
    label = np.unique(clips["label"].to_numpy(str), return_inverse=True)[1]
    if len(names) < folds:
        raise UserError(f"{len(names)} groups cannot fill {folds} folds: use -k {len(names)} or less")

    fold = np.array([known.get(name, -1) for name in clips["fname"]], np.int64)
    fold[fold >= folds] = -1  # there were more of them
    if (fold >= 0).any():
        votes = np.zeros((len(names), folds), np.int64)
        np.add.at(votes, (unit[fold >= 0], fold[fold >= 0]), 1)
        by_unit = np.where(votes.any(1), votes.argmax(1), -1)
        fold = _fill_folds(by_unit[unit], unit, label, folds)
        if len(np.unique(fold)) == folds:
            return fold
    if np.bincount(label[np.unique(unit, return_index=True)[1]]).max() >= folds:  # scikit-learn refuses smaller ones
        fold = _stratified_folds(unit, label, folds, seed, grouped)
        if len(np.unique(fold)) == folds:
            return fold
    return _fill_folds(np.full(len(clips), -1, np.int64), unit, label, folds)


def _units(clips: DataFrame) -> NDArray[np.object_]:
    """What must stay in one fold, a name for each clip: clips joined by groups and near duplicates share one.

    It is the group of the first of them, or that clip itself.
    """
    unit = np.arange(len(clips))
    joined = [np.unique(clips[key].where(clips[key] != "", "\0" + clips["fname"]), return_inverse=True)[1]
              for key in ("group", "cluster")]  # fmt: skip
    while True:  # until no chain of groups and clusters leads to an earlier clip
        before = unit
        for key in joined:
            first = np.full(len(clips), len(clips))
            np.minimum.at(first, key, unit)
            unit = first[key]
        if np.array_equal(unit, before):
            return clips["group"].where(clips["group"] != "", clips["fname"]).to_numpy(object)[unit]


def _stratified_folds(
    unit: NDArray[np.int64], label: NDArray[np.int64], folds: int, seed: int, grouped: bool
) -> NDArray[np.int64]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    # Without groups, units are clips and a few clusters: their first clips are split, which is much faster.
    rows = np.arange(len(unit)) if grouped else np.sort(np.unique(unit, return_index=True)[1])
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    fold = np.full(unit.max() + 1, -1, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of small classes: the summary names them
        splits = kind(folds, shuffle=True, random_state=seed % 2**32).split(label[rows], label[rows], unit[rows])
        for index, (_, held_out) in enumerate(splits):
            fold[unit[rows[held_out]]] = index
    return fold[unit]


def _fill_folds(
    fold: NDArray[np.int64], unit: NDArray[np.int64], label: NDArray[np.int64], folds: int
) -> NDArray[np.int64]:
    """`fold` with a value in place of each -1, whole units at a time, the largest first.

    A unit goes where the squared shares of its classes grow least, then to the smallest fold: an empty one first.
    """
    fold = fold.copy()
    counts = np.zeros((folds, label.max() + 1))  # clips of each class in each fold
    np.add.at(counts, (fold[fold >= 0], label[fold >= 0]), 1)
    weight = 1.0 / np.bincount(label) ** 2
    order = np.flatnonzero(fold < 0)
    order = order[np.argsort(unit[order], kind="stable")]
    units = np.split(order, np.flatnonzero(np.diff(unit[order])) + 1) if len(order) else []
    for rows in sorted(units, key=len, reverse=True):
        cost = counts[:, label[rows]] @ weight[label[rows]]
        best = np.lexsort((counts.sum(1), cost.round(12)))[0]
        fold[rows] = best
        np.add.at(counts, (best, label[rows]), 1)
    return fold


def _check_disjoint(train: DataFrame) -> None:
    """A group or a recording in two folds would make every score too good."""
    for key in ("group", "cluster", "digest"):
        apart = train[train[key] != ""].groupby(key)["fold"].nunique()
        if (apart > 1).any():
            raise AssertionError(f"{key} {apart.idxmax()} lies in several folds")


def _given_folds(clips: DataFrame, notes: list[str]) -> tuple[dict[str, int], int]:
    """The folds that a manifest gives to `clips`, as fname to index, and how many there are.

    Their values are any text; in order, they are the folds 0, 1, ...
    """

    def order(value: str) -> tuple[float, str]:
        try:
            return float(value), value
        except ValueError:
            return math.inf, value

    values = sorted(set(clips["fold"]) - {""}, key=order)
    if not values:
        return {}, 0
    if len(values) == 1:
        raise UserError(f"the manifest has all its clips in fold {values[0]}: at least 2 folds are needed")
    if values != [str(index) for index in range(len(values))]:
        notes.append(f"folds {', '.join(values[:12])} of the manifest are 0 to {len(values) - 1} here")
    index = {value: number for number, value in enumerate(values)}
    return {name: index[value] for name, value in zip(clips["fname"], clips["fold"], strict=True) if value}, len(values)


# ------------------------------------------------------------------------------------------------------ the audit


def _clusters(clips: DataFrame, old: DataFrame | None, waves: Path, sample_rate: int) -> NDArray[np.object_]:
    """The near duplicates among `clips` but noise, (n,): the name of the first clip of each one's cluster, or ''.

    They are looked for only where the clips are not those of `old`, an earlier table.
    """
    from audit import near_duplicates

    same = ["fname", "split", "digest"]
    if old is not None and np.array_equal(old[same].to_numpy(object), clips[same].to_numpy(object)):
        return old["cluster"].to_numpy(object)
    heard = clips[clips["split"] != "noise"]
    offset, length = (heard[name].to_numpy(np.int64) for name in ("offset", "length"))
    number = near_duplicates(map_waves(waves), offset, length, sample_rate)
    names = heard["fname"].to_numpy(object)[number]
    names[np.bincount(number, minlength=len(number))[number] == 1] = ""
    cluster = np.full(len(clips), "", object)
    cluster[heard.index] = names
    return cluster


def _flags(clips: DataFrame, sample_rate: int) -> list[str]:
    """What is odd about each clip, words with spaces between: audit.flags, and what comparing clips tells.

    truncated: the file ends before its header says; near-duplicate: of another clip; two-labels: and training clips
    of the cluster bear different ones; in-train: a test clip that is a duplicate, near or exact, of a training clip.
    """
    from audit import flags

    heard = clips["split"] != "noise"
    train, test = clips[clips["split"] == "train"], clips["split"] == "test"
    labels = train[train["cluster"] != ""].groupby("cluster")["label"].nunique()
    audio = clips["digest"] + " " + clips["length"].astype(str)
    near = clips["cluster"] != ""
    more = {
        "truncated": clips["truncated"] == 1,
        "near-duplicate": near,
        "two-labels": clips["cluster"].isin(labels.index[labels > 1]),
        "in-train": test & (audio.isin(audio[train.index]) | near & clips["cluster"].isin(labels.index)),
    }
    words = [""] * len(clips)
    for index, found in zip(np.flatnonzero(heard), flags(clips[heard], sample_rate), strict=True):
        words[index] = found
    for name, mask in more.items():
        for index in np.flatnonzero(mask):
            words[index] = f"{words[index]} {name}".strip()
    return words


def _insist(clips: DataFrame, rejected: DataFrame, record: Record) -> None:
    """UserError where any file is left out, but by a person's decision, or any clip flagged: --strict."""
    from relabel import DROP

    dropped = [decision.fname for decision in record.values() if decision.action == DROP]
    rejected = rejected[(rejected["split"] != "train") | ~rejected["fname"].isin(dropped)]
    flagged = clips[clips["flags"] != ""]
    if not len(rejected) + len(flagged):
        return
    column, row = ("reason", rejected.iloc[0]) if len(rejected) else ("flags", flagged.iloc[0])
    counts = f"{len(rejected):,} files would be left out, {len(flagged):,} clips flagged"
    raise UserError(f"{row['fname']}: {row[column]} ({counts}; without --strict, {REJECTED} and {CLIPS} list them)")


# ------------------------------------------------------------------------------------------------ from end to end


def preprocess(config: PreprocessConfig) -> None:
    """Bring the store in `config.work` up to date with the data set, and print what a person should check.

    Only new and changed files are decoded, and known clips keep their folds, unless the options that decide them have
    changed. What a person decided about clips (`config.relabel`, and the record of earlier decisions) is applied.
    UserError where there is nothing to train on, or where `config.strict` finds anything amiss.
    """
    from audit import draw_audit
    from source import download, scan

    started = time.monotonic()
    config = _complete(config)
    if config.download and config.input_path:
        download(config.download, config.input_path)
    data = scan(config)
    work = config.work
    with _writing(work), locked(work / ".lock"):
        _settle(work)
        notes = list(data.notes)
        old = _previous(config, data.root, notes)
        record = _decided(config, data, old)
        sample_rate, known, new = _hear(config, data, old)
        clips, rejected = _judge(data, known, old.clips, record, work / WAVES, sample_rate, notes)
        if config.strict:
            _insist(clips, rejected, record)
        folds = _split(clips, config, old.folds, notes)
        store = _facts(config, data, clips, sample_rate, folds)
        changed = _save(work, store, clips[CLIP_COLUMNS], rejected[REJECTED_COLUMNS], record)
        (work / JOURNAL).unlink(missing_ok=True)
        if changed or not (work / PICTURE).exists():
            draw_audit(clips[clips["split"] != "noise"], store["classes"], sample_rate, work / PICTURE)
        used = 2 * int(clips["length"].sum() + rejected["length"].sum())
        if (spare := (work / WAVES).stat().st_size - used) > used:
            notes.append(f"delete {work / WAVES} and run this again to free {spare >> 20:,} MiB no clip uses")
    if (work / "runs").is_dir() and old.clips is not None and _to_learn(old.clips) != _to_learn(clips):
        notes.append("what was trained before is stale: train.py --restart trains it again, --tag NAME beside it")
    seconds = time.monotonic() - started
    what = f"{new:,} new or changed of {len(data.files):,} files decoded" if changed else "nothing has changed"
    print(*_summary(config, store, clips, rejected, record, notes), f"{what}, {clock(seconds)}", "", sep="\n")
    option = "" if work == PreprocessConfig(Path()).work else f" -w {shlex.quote(str(work))}"
    print(f"next: python train.py -t 64 -m resnet18 -f all{option}")


def _to_learn(clips: DataFrame) -> list[list[Any]]:
    """What a run hangs on: name, label and fold of each training clip."""
    rows: list[list[Any]] = clips.loc[clips["split"] == "train", ["fname", "label", "fold"]].to_numpy(object).tolist()
    return rows


def _complete(config: PreprocessConfig) -> PreprocessConfig:
    """`config`; where it names no data set, that of the store in its work folder, with the options of that."""
    if config.input_path is not None:
        return config
    if (config.work / NEXT).is_dir():  # of a run that was killed: the store may lack its facts
        with _writing(config.work), locked(config.work / ".lock"):
            _settle(config.work)
    store = load_store(config.work)
    manifest, columns = store["options"]["manifest"], store["options"]["columns"]
    options = store["options"] | {"manifest": manifest and Path(manifest), "columns": tuple(columns.items())}
    return dataclasses.replace(
        config,
        **options,
        input_path=Path(store["root"]),
        sample_rate=store["sample_rate"],
        clip_seconds=store["clip_samples"] / store["sample_rate"],
        noise=config.noise or (Path(store["noise"]) if store.get("noise") else None),
    )


def _decided(config: PreprocessConfig, data: DataSet, old: _Earlier) -> Record:
    """What a person decided about clips: what is on record, with what --relabel brings."""
    from relabel import read_list, read_record

    if config.relabel == NO_LIST:
        return {}
    record = read_record(config.work)
    if not old.folds:  # those on record are of another split, and would move what stands with a clip that comes back
        record = {fname: dataclasses.replace(decision, fold=-1) for fname, decision in record.items()}
    if config.relabel is None:
        return record
    labels = {file.fname: file.label for file in data.files if file.split == "train" and not file.reason}
    return read_list(config.relabel, labels, old.folds, record)


def _hear(config: PreprocessConfig, data: DataSet, old: _Earlier) -> tuple[int, dict[Key, _Audio], int]:
    """The sample rate (Hz) of the store, the audio of every file, and how many files were decoded for that."""
    train = [file.path for file in data.files if file.split == "train" and not file.reason]
    sample_rate = config.sample_rate or (old.store and old.store["sample_rate"]) or _common_rate(train)
    known = dict(old.known) if old.store and old.store["sample_rate"] == sample_rate else {}
    new = [file for file in data.files if not file.reason and file.key not in known]
    if new:
        facts = {"format": STORE_FORMAT, "root": str(data.root), "sample_rate": sample_rate}
        known |= _resume(config.work, facts)
        new = [file for file in new if file.key not in known]
        audios = _decode(new, sample_rate, config.work / WAVES, partial(_note_down, config.work))
        known |= zip((file.key for file in new), audios, strict=True)
    return sample_rate, known, len(new)


def _judge(
    data: DataSet,
    known: Mapping[Key, _Audio],
    old: DataFrame | None,
    record: Record,
    waves: Path,
    sample_rate: int,
    notes: list[str],
) -> tuple[DataFrame, DataFrame]:
    """The usable clips, flagged, with the folds that a manifest gives ('' for none), and the files left out."""
    from relabel import apply_record

    table = _table(data.files, (_Audio(reason=file.reason) if file.reason else known[file.key] for file in data.files))
    notes += apply_record(table, record)
    _reject_duplicates(table)
    clips = table[table["reason"] == ""].reset_index(drop=True)
    rejected = table[table["reason"] != ""].reset_index(drop=True)
    if clips.loc[clips["split"] == "train", "label"].nunique() < 2:
        why = f"{rejected['fname'][0]}: {rejected['reason'][0]}"
        raise UserError(f"{data.root}: fewer than 2 classes have a usable clip ({why})")
    clips["cluster"] = _clusters(clips, old, waves, sample_rate)
    clips["flags"] = _flags(clips, sample_rate)
    return clips, rejected


def _split(clips: DataFrame, config: PreprocessConfig, known: Mapping[str, int], notes: list[str]) -> int:
    """Replace the folds in `clips` by their indices; returns how many there are.

    Those of a manifest go before those that are `known` from an earlier run. What was given up goes to `notes`.
    """
    is_train = clips["split"] == "train"
    train = clips[is_train]
    given, folds = _given_folds(train, notes)
    train = _fold_sized(train, folds or config.folds, notes)
    if not folds:
        given, folds = dict(known), min(config.folds, len(set(_units(train))))
        if folds < 2:
            raise UserError("all clips are of one group, so none can be held out: see --group none")
        if folds < config.folds:
            notes.append(f"{folds} folds, not {config.folds}: there are no more groups to hold out")
    fold = assign_folds(train, folds, config.seed, given)
    if moved := sum(given.get(name, at) != at for name, at in zip(train["fname"], fold, strict=True)):
        notes.append(f"clips that left their fold, so that groups and duplicates stay on one side: {moved:,}")
    clips["fold"] = -1
    clips.loc[is_train, "fold"] = fold
    _check_disjoint(train.assign(fold=fold))
    return folds


def _fold_sized(train: DataFrame, folds: int, notes: list[str]) -> DataFrame:
    """`train` without the clusters that would leave too little to split, the largest first; they go to `notes`.

    Clips that one sound fills, such as a beep, are all near duplicates, and link all groups into one.
    """
    from source import some

    size = train["cluster"].map(train["cluster"].value_counts()).where(train["cluster"] != "", 0)
    alone = train.assign(cluster="")
    enough = min(folds, len(set(_units(alone))))
    largest = max(len(train) / 2, Counter(_units(alone)).most_common(1)[0][1])
    for limit in sorted(set(size), reverse=True):
        kept = train.assign(cluster=train["cluster"].where(size <= limit, ""))
        units = Counter(_units(kept))
        if len(units) >= enough and units.most_common(1)[0][1] <= largest:
            break
    if given_up := sorted(set(train["cluster"]) - set(kept["cluster"])):
        notes.append("near duplicates that may lie in several folds, as together with their groups they leave too "
                     f"little to hold out: {(size > limit).sum():,} clips in {some(given_up, 'cluster')}")  # fmt: skip
    return kept


def _facts(config: PreprocessConfig, data: DataSet, clips: DataFrame, sample_rate: int, folds: int) -> dict[str, Any]:
    """What store.json says."""
    from source import SPLITS

    train = clips[clips["split"] == "train"]
    return {
        "format": STORE_FORMAT,
        "root": str(data.root),
        "test_root": data.test_root and str(data.test_root),
        "sample_submission": data.sample_submission and str(data.sample_submission),
        "sample_rate": sample_rate,
        "clip_samples": _window(train["length"], sample_rate, config.clip_seconds),
        "classes": sorted(set(train["label"])),
        "folds": folds,
        "grouped": bool((train["group"] != "").any()),
        "counts": {split: int((clips["split"] == split).sum()) for split in SPLITS},
        "options": _options(config),
        "noise": config.noise and str(config.noise.resolve()),
    }


def _options(config: PreprocessConfig) -> dict[str, Any]:
    """The options that decide labels and folds, as store.json has them."""
    names = ("folds", "seed", "group", "group_pattern", "label_pattern")
    manifest = config.manifest and str(config.manifest.resolve())
    return {**{name: getattr(config, name) for name in names}, "manifest": manifest, "columns": dict(config.columns)}


class _Earlier(NamedTuple):
    """What an earlier run left in the store; empty where there was none, or none to go on from."""

    store: dict[str, Any] | None = None
    clips: DataFrame | None = None
    known: dict[Key, _Audio] = {}  # noqa: RUF012 (never changed)
    folds: dict[str, int] = {}  # noqa: RUF012


def _previous(config: PreprocessConfig, root: Path, notes: list[str]) -> _Earlier:
    """What an earlier run on `root` left in the store: its facts, the audio of its files, the folds of its clips.

    Folds are empty where an option that decides them differs. What cannot be used goes to `notes`.
    """
    import pandas as pd

    from relabel import RECORD, read_record
    from source import File

    if not (config.work / STORE).exists():
        return _Earlier()
    try:
        old = load_store(config.work)
        clips, rejected = load_clips(config.work), load_rejected(config.work)
    except UserError as error:
        notes.append(f"everything is decoded anew: {error}")
        return _Earlier()
    if old["root"] != str(root):
        notes.append(f"everything is decoded anew: {config.work} held {old['root']}")
        if (config.work / RECORD).exists() and config.relabel != NO_LIST:
            notes.append(f"{config.work / RECORD} was made for that, and goes for what has the same name and label "
                         "here: --relabel none takes it back")  # fmt: skip
        return _Earlier()
    train = clips[clips["split"] == "train"]
    folds = {}
    if old["options"] == _options(config):
        dropped = {decision.fname: decision.fold for decision in read_record(config.work).values()}
        folds = dropped | dict(zip(train["fname"], train["fold"], strict=True))

    # Duplicates have been decoded too. What could not be read is tried again: a permission changes no time of a file.
    decoded = pd.concat([rejected[rejected["length"] > 0], clips.assign(reason="")])
    samples = (config.work / WAVES).stat().st_size // 2 if (config.work / WAVES).exists() else 0
    if (decoded["offset"] + decoded["length"]).max() > samples:
        notes.append(f"everything is decoded anew: {config.work / WAVES} is shorter than {CLIPS} says")
        return _Earlier(store=old, folds=folds)
    keys = decoded[list(File._fields[:4])].itertuples(index=False, name=None)
    audios = decoded[list(_Audio._fields[:-1])].itertuples(index=False, name=None)
    known = {key: _Audio(*audio) for key, audio in zip(keys, audios, strict=True)}
    return _Earlier(old, clips, known, folds)


def _window(lengths: NDArray[np.int64], sample_rate: int, clip_seconds: float | None) -> int:
    """Samples of the window: `clip_seconds`, or the 95th percentile of `lengths` (samples) rounded up to 0.1 s."""
    if clip_seconds is None:
        tenths = float(np.percentile(lengths, 95)) / sample_rate * 10
        clip_seconds = max(1, math.ceil(round(tenths, 2))) / 10  # a resampled second may be a sample too long
    return max(1, round(clip_seconds * sample_rate))


# ------------------------------------------------------------------------------------------------------- summary


def _summary(
    config: PreprocessConfig,
    store: dict[str, Any],
    clips: DataFrame,
    rejected: DataFrame,
    record: Record,
    notes: list[str],
) -> list[str]:
    """The lines that a person checks before training."""
    import pandas as pd

    from relabel import RECORD, describe
    from source import some

    train = clips[clips["split"] == "train"]
    test = clips[clips["split"] == "test"]
    counts = pd.crosstab(train["label"], train["fold"]).reindex(columns=range(store["folds"]), fill_value=0)
    rows = [(label, [*row, sum(row)]) for label, *row in counts.itertuples(name=None)]
    rows.append(("all", [*counts.sum(), len(train)]))
    rows.append(("classes", [*(counts > 0).sum(), len(counts)]))
    unit = pd.Series(_units(train), train.index)  # groups, joined where near duplicates link them
    if store["grouped"]:
        groups = unit.groupby(train["fold"]).nunique()
        rows.append(("groups", [*groups, sum(groups)]))
    header = ("class", [*(f"fold {fold}" for fold in range(store["folds"])), "clips"])
    rows.insert(0, header)
    width = max(len(label) for label, _ in rows)
    lines = [f"{label:<{width}}" + "".join(f"{cell:>8}" for cell in cells) for label, cells in rows]
    if len(counts) > 40:
        lines[11 : len(counts) - 9] = [f"... {len(counts) - 20} more classes"]
    torn = int((train[train["cluster"] != ""].groupby("cluster")["fold"].nunique() > 1).sum())
    but = f" but {torn:,} clusters, see below" if torn else ""
    lines.append(f"checked: no group and no duplicate is in two folds{but}")

    rate = store["sample_rate"]
    lines += [
        "",
        f"{len(train):,} clips of {len(counts):,} classes to train on, {len(test):,} test clips "
        f"({(test['label'] != '').sum():,} labelled), {store['counts']['noise']:,} noise recordings",
        f"{rate:,} Hz, window {store['clip_samples'] / rate:g} s, {clock(clips['length'].sum() / rate)} of audio",
    ]
    if config.group == "auto" and not store["grouped"]:
        notes.append("no groups found (names like <speaker>_nohash_<n>, a manifest's column, --group-pattern): if one "
                     "speaker's clips lie in several folds, scores will be too good")  # fmt: skip
    elif store["grouped"] and (alone := int((train["group"] == "").sum())):
        notes.append(f"{alone:,} clips name no group: each is one for itself")
    units = unit.groupby(train["label"]).nunique()
    if small := list(units.index[units < store["folds"]]):
        what = "groups" if store["grouped"] else "clips"
        notes.append(f"fewer {what} than folds, so some folds hold none: {some(small, 'class', 'classes')}")
    found = Counter(word for flags in clips["flags"] for word in flags.split())
    if found["in-train"]:
        notes.append(f"the same audio is in train (flag in-train): {found['in-train']:,} of {len(test):,} test clips")
    if known := int((test["group"].isin(set(train["group"]) - {""})).sum()):
        notes.append(f"of a group that is in train: {known:,} of {len(test):,} test clips")
    if found:
        kinds = ", ".join(f"{count:,} {word}" for word, count in found.most_common())
        lines.append(f"flagged, and kept: {kinds}; see {config.work / CLIPS} and {config.work / PICTURE}")
    if clusters := clips.loc[clips["cluster"] != "", "cluster"].nunique():
        lines.append(f"near duplicates: {found['near-duplicate']:,} clips in {clusters:,} clusters")
    if record:
        lines.append(f"decided by hand: {describe(record)}; see {config.work / RECORD}")
    lines += [f"warning: {note}" for note in notes]

    if len(rejected):
        lines.append(f"rejected: {len(rejected):,} files, see {config.work / REJECTED}")
        kinds = rejected["reason"].str.replace(r"^line \d+: ", "", regex=True)
        kinds = (
            kinds.str.split(r":| of | as | line | \(", regex=True).str[0]
            + " ("
            + rejected["split"].replace("", "manifest")
            + ")"
        )
        for kind, same in rejected.groupby(kinds, sort=False):
            lines.append(f"  {len(same):,} {kind}")
            examples = zip(same["fname"][:3], same["reason"][:3], strict=True)
            lines += [f"    {name}: {reason}" for name, reason in examples]
    return lines


@command
def main(argv: Sequence[str] | None = None) -> None:
    preprocess(parse_preprocess(argv))


if __name__ == "__main__":
    from preprocess import main as imported  # so that decoding processes find what they do: see main_module_hidden

    sys.exit(imported())
