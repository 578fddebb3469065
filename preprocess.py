"""Decode a data set once, check it and split it into folds: the store that training reads.

The only module that opens audio files. pandas, soundfile, soxr and scikit-learn are imported where they are used, so
that ``-h`` answers at once and a decoding process starts with nothing that it does not need.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import re
import shlex
import signal
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from arg import PreprocessConfig, UserError, command, parse_preprocess
from util import clock, locked, progress, replacing

if TYPE_CHECKING:
    from pandas import DataFrame

CLIPS = "clips.csv"
WAVES = "waves.i16"
STORE = "store.json"
REJECTED = "rejected.csv"
STORE_FORMAT = 1

SPLITS = ("train", "test", "noise")
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3", ".opus", ".aif", ".aiff"})
NOISE_FOLDER = "_background_noise_"
SPEAKER = re.compile(r"(.+?)_nohash_\d+")
UNSAFE_NAME = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # control characters and bytes that are not UTF-8
LAYOUTS = "give a folder that holds a folder a class, or train/ (a folder a class) and test/ (the clips to label)"

AUDIO_COLUMNS = ["offset", "length", "size", "mtime_ns", "sample_rate", "channels", "digest"]
CLIP_COLUMNS = ["fname", "label", "group", "split", "fold", *AUDIO_COLUMNS]
REJECTED_COLUMNS = ["fname", "split", "reason", "label", *AUDIO_COLUMNS]
TEXT_COLUMNS = {"fname", "label", "group", "split", "reason", "digest"}  # the others are int64

CHUNK_FILES = 32  # files that a decoding process takes at a time
CHUNK_BYTES = 16 << 20  # … or fewer, where they are long
BLOCK_FRAMES = 1 << 18  # of a long file, read at a time
POOL_FILES = 64  # fewer are decoded before a pool of processes has started


class _File(NamedTuple):
    """An audio file as found; the same `key` later means the same content."""

    split: str
    fname: str
    size: int  # bytes
    mtime_ns: int
    label: str
    path: str

    @property
    def key(self) -> tuple[str, str, int, int]:
        return self[:4]


class _Audio(NamedTuple):
    """What decoding a file gave; a file without usable audio has a reason and no samples."""

    offset: int = 0  # in samples, in WAVES
    length: int = 0  # samples
    sample_rate: int = 0  # Hz, of the file
    channels: int = 0
    digest: str = ""  # of the decoded samples
    reason: str = ""


class _DataSet(NamedTuple):
    root: Path
    test_root: Path | None
    sample_submission: Path | None
    files: list[_File]  # in the order of the store: by split, then by name
    notes: list[str]  # what a person should know about the folders


# ---------------------------------------------------------------------------------------------------- the store


def load_store(work: Path) -> dict[str, Any]:
    """The facts about the store in `work` (store.json).

    Keys: format, root, test_root, sample_submission, sample_rate (Hz), clip_samples, classes (sorted), folds, seed,
    group, grouped (whether speakers were found), counts (clips per split). UserError where it is missing, unreadable
    or of another format.
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

    Text columns: fname, label ('' where unknown), group (the speaker or ''), split, digest. Integers: fold (-1 outside
    train), offset and length (samples of WAVES), size (bytes) and mtime_ns of the file, its sample_rate (Hz) and
    channels. UserError where the table is missing or unreadable.
    """
    return _load_table(work / CLIPS, CLIP_COLUMNS)


def load_rejected(work: Path) -> DataFrame:
    """One row a file that could not be used (rejected.csv): fname, split, reason, and what else is known of it.

    UserError where the table is missing or unreadable.
    """
    return _load_table(work / REJECTED, REJECTED_COLUMNS)


def _load_table(path: Path, columns: list[str]) -> DataFrame:
    import pandas as pd

    dtypes = {name: "str" if name in TEXT_COLUMNS else "int64" for name in columns}
    try:
        table = pd.read_csv(path, dtype=dtypes, na_filter=False)  # a class may be called NA
        if list(table.columns) != columns:
            raise ValueError(f"its columns are not {','.join(columns)}")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {_prepare_again(path.parent)}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): {_prepare_again(path.parent)}") from None
    return table


def _prepare_again(work: Path) -> str:
    return f"run python preprocess.py -i DATASET -w {shlex.quote(str(work))}"


def _save(work: Path, store: dict[str, Any], clips: DataFrame, rejected: DataFrame) -> bool:
    """Write what differs from the files in `work`; returns whether anything did."""
    new = {
        REJECTED: rejected.to_csv(index=False, lineterminator="\n"),
        CLIPS: clips.to_csv(index=False, lineterminator="\n"),
        STORE: json.dumps(store, indent=1, ensure_ascii=False) + "\n",
    }
    old = {name: path.read_bytes() if (path := work / name).exists() else None for name in new}
    changed = [name for name, text in new.items() if text.encode() != old[name]]
    if STORE in changed:
        # Were this process killed between the two renames, the old facts (sample rate, folds) would be read with the
        # new table.
        (work / STORE).unlink(missing_ok=True)
    for name in changed:
        with replacing(work / name) as beside:
            beside.write_bytes(new[name].encode())
    return bool(changed)


# ------------------------------------------------------------------------------------------------------ scanning


def _scan(root: Path) -> _DataSet:
    """Find the layout under `root` and every audio file in it; UserError where there is nothing to train on."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; {LAYOUTS}")
    root = root.resolve()
    train, test, notes = root, None, []
    if (root / "train").is_dir() and ((root / "test").is_dir() or _folders(root / "train")):
        train = _inside(root / "train")
        test = _inside(root / "test") if (root / "test").is_dir() else None
        if unused := [name for name in _folders(root) if name not in ("train", "test")]:
            notes.append(f"not used, as there is a train/ beside: {_some(unused, 'folder')}")
    elif (root / "test").is_dir():
        notes.append("test/ counts as a class: clips to label are looked for there only where there is a train/")

    others = Counter[str]()
    clips = _find(train, root, "train", others)
    files = [file for file in clips if file.label]
    if not files:
        raise UserError(f"{train}: no clips found in class folders; {LAYOUTS}")
    classes = {file.label for file in files}
    if len(classes) == 1:
        raise UserError(f"{train}: the only class is {classes.pop()!r}, and at least 2 are needed; {LAYOUTS}")
    if len(files) < len(clips):
        notes.append(f"not used, as they lie in no class folder: {len(clips) - len(files):,} clips in {train}")
    if empty := [name for name in _folders(train) if name not in classes]:
        notes.append(f"no class, as there is no clip inside: {_some(empty, 'folder')}")

    if test:
        labelled = _find(test, test, "test", others)
        if unknown := sorted({file.label for file in labelled} - classes - {""}):
            notes.append(f"clips taken as unlabelled, as no class is called so: {_some(unknown, 'folder')} of test/")
        files += [file if file.label in classes else file._replace(label="") for file in labelled]
    for folder in (root, root / "train", root / "train" / "audio"):
        if (folder / NOISE_FOLDER).is_dir():
            files += [f._replace(label="") for f in _find(folder / NOISE_FOLDER, root, "noise", others)]
    if others:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in others.most_common(3))
        notes.append(f"not audio by their names and ignored: {others.total():,} files ({kinds})")

    files.sort(key=lambda file: (SPLITS.index(file.split), file.fname))
    sample = root / "sample_submission.csv"
    return _DataSet(root, test, sample if sample.is_file() else None, files, notes)


def _inside(folder: Path) -> Path:
    """`folder`, or the folder audio/ in it where there is no other."""
    return folder / "audio" if _folders(folder) == ["audio"] else folder


def _folders(folder: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith((".", "_")))


def _find(top: Path, base: Path, split: str, others: Counter[str]) -> list[_File]:
    """The audio files under `top`, labelled by the folder of `top` they are in and named relative to `base`.

    Files of other kinds are counted in `others`, by suffix.
    """
    prefix = "" if top == base else f"{top.relative_to(base).as_posix()}/"
    skip = len(str(top)) + 1
    files = []
    for entry in _walk(str(top)):
        suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 (a Path for each of 60,000 files is slow)
        if suffix not in AUDIO_SUFFIXES:
            others[suffix or "without suffix"] += 1
            continue
        name = entry.path[skip:]
        try:
            stat = entry.stat()
            size, mtime_ns = stat.st_size, stat.st_mtime_ns
        except OSError:  # a dangling link: decoding gives the reason
            size, mtime_ns = 0, 0
        label = name.split("/")[0] if "/" in name else ""
        files.append(_File(split, prefix + name, size, mtime_ns, label, entry.path))
    return files


def _walk(folder: str) -> Iterator[os.DirEntry[str]]:
    """All files under `folder`, but hidden ones and those in folders that begin with '_' or '.'; links are followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                yield entry
            elif not entry.name.startswith("_"):
                if entry.is_symlink() and Path(folder).resolve().is_relative_to(Path(entry.path).resolve()):
                    continue  # a link to a folder that it is in: a loop
                yield from _walk(entry.path)


# ------------------------------------------------------------------------------------------------------ decoding


def decode_folder(folder: Path, sample_rate: int, into: Path) -> tuple[DataFrame, DataFrame]:
    """Decode every audio file under `folder` once, at `sample_rate` (Hz), and append the samples to `into`/WAVES.

    Returns the clips (fname, label, offset, length; the last two in samples) and the rejected files (fname, reason),
    both by name. fname is relative to `folder`, or to `folder`/audio where that is its only folder; label is the name
    of the top folder a clip is in, '' for one that is in none. UserError where there is no audio file.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of the clips to label")
    top = _inside(folder.resolve())
    files = sorted(_find(top, top, "test", Counter()))
    if not files:
        raise UserError(f"{folder}: no audio file found ({' '.join(sorted(AUDIO_SUFFIXES))})")
    table = _table(files, _decode(files, sample_rate, into / WAVES))
    usable = table["reason"] == ""
    return (
        table.loc[usable, ["fname", "label", "offset", "length"]].reset_index(drop=True),
        table.loc[~usable, ["fname", "reason"]].reset_index(drop=True),
    )


def _table(files: Sequence[_File], audios: Iterable[_Audio]) -> DataFrame:
    import pandas as pd

    columns = [*_File._fields, *_Audio._fields]
    table = pd.DataFrame([(*file, *audio) for file, audio in zip(files, audios, strict=True)], columns=columns)
    for name in ("fname", "label"):
        table[name] = [_printable(text) for text in table[name]]
    return table


def _decode(files: Sequence[_File], sample_rate: int, waves: Path) -> list[_Audio]:
    """Decode `files` on all cores and append their samples, in their order, to `waves`."""
    if not files:
        return []
    waves.parent.mkdir(parents=True, exist_ok=True)
    with waves.open("ab") as out:
        out.write(b"\0" * (out.tell() % 2))  # a run that was killed may have left half a sample

        def written() -> Iterator[_Audio]:
            for samples, audios in _decode_chunks(files, sample_rate):
                start = out.tell() // 2
                out.write(samples)
                yield from (a._replace(offset=start + a.offset) if a.length else a for a in audios)

        done = list(progress(written(), len(files), "decoding"))
        out.flush()
        os.fsync(out.fileno())
    return done


def _decode_chunks(files: Sequence[_File], sample_rate: int) -> Iterator[tuple[bytes, list[_Audio]]]:
    """`_read_chunk` of all files in order, with few chunks under way at a time so that memory stays flat."""
    chunks = list(_chunks(files))
    if len(files) < POOL_FILES:
        yield from (_read_chunk(chunk, sample_rate) for chunk in chunks)
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ProcessPoolExecutor(
        min(cores, len(chunks)),
        multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),  # Ctrl-C is for the parent, which ends them
    )
    pending: deque[tuple[list[str], Future[tuple[bytes, list[_Audio]]]]] = deque()
    try:
        for chunk in chunks:
            pending.append((chunk, pool.submit(_read_chunk, chunk, sample_rate)))
            if len(pending) > 2 * cores:
                yield pending[0][1].result()
                pending.popleft()
        while pending:
            yield pending[0][1].result()
            pending.popleft()
    except BrokenProcessPool:
        first, last = pending[0][0][0], pending[-1][0][-1]
        raise UserError(
            f"a decoding process died at a file between {first} and {last}: free memory, or find the damaged file "
            "and move it away, then run this again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _chunks(files: Iterable[_File]) -> Iterator[list[str]]:
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


def _read_chunk(paths: list[str], sample_rate: int) -> tuple[bytes, list[_Audio]]:
    """The samples of several files back to back, and for each file its audio, with offsets into those samples."""
    waves, audios, offset = [], [], 0
    for path in paths:
        try:
            samples, source_rate, channels = _read(path, sample_rate)
        except (OSError, ValueError, RuntimeError, MemoryError) as error:  # soundfile's and soxr's are RuntimeErrors
            reason = getattr(error, "error_string", "") or getattr(error, "strerror", "") or str(error)
            if not isinstance(error, _UnusableError):
                reason = f"unreadable: {reason or type(error).__name__}"
            audios.append(_Audio(reason=" ".join(reason.replace("Error : ", "").split()).rstrip(".")))
            continue
        wave = samples.tobytes()
        digest = hashlib.blake2b(wave, digest_size=8).hexdigest()
        audios.append(_Audio(offset, len(samples), source_rate, channels, digest))
        waves.append(wave)
        offset += len(samples)
    return b"".join(waves), audios


def _printable(name: str) -> str:
    return UNSAFE_NAME.sub("\N{REPLACEMENT CHARACTER}", name)


class _UnusableError(ValueError):
    """A file that can be read but not used; the text is the reason."""


def _read(path: str, sample_rate: int) -> tuple[NDArray[np.int16], int, int]:
    """Samples (n,) of a file as little-endian int16 at `sample_rate` (Hz), channels averaged; its own rate, channels.

    _UnusableError says what is wrong with a file's content or name; soundfile's errors pass.
    """
    import soxr

    blocks = []
    with _open(path) as file:
        rate, channels = file.samplerate, file.channels
        if not 1000 <= rate <= 384_000:  # a damaged header: resampling from 1 Hz would fill the memory
            raise _UnusableError(f"its sample rate is {rate} Hz")
        exact = channels == 1 and rate == sample_rate and file.subtype == "PCM_16"
        resampler = None if rate == sample_rate else soxr.ResampleStream(rate, sample_rate, 1, "float32", "HQ")
        while len(block := file.read(BLOCK_FRAMES, "int16" if exact else "float32", always_2d=True)):
            if exact:
                blocks.append(block[:, 0])
                continue
            if not np.isfinite(block).all():
                raise _UnusableError("holds NaN or infinite samples")
            mono = block.mean(1)
            blocks.append(_to_int16(resampler.resample_chunk(mono) if resampler else mono))
    if resampler:
        blocks.append(_to_int16(resampler.resample_chunk(np.empty(0, np.float32), last=True)))
    samples = np.concatenate(blocks) if blocks else np.empty(0, np.int16)
    if not len(samples):
        raise _UnusableError("empty: holds no samples")
    return samples.astype("<i2", copy=False), rate, channels


def _open(path: str) -> Any:
    """The soundfile.SoundFile at `path`; _UnusableError for a name or a kind of file that is not opened."""
    import soundfile

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
        found = Counter[int]()
        for path in paths:
            try:
                with _open(path) as file:
                    found[file.samplerate] += 1
            except (OSError, ValueError, RuntimeError):
                continue  # decoding gives the reason
        return found

    found = rates(paths[:: math.ceil(len(paths) / 1000)])
    if not found or max(found.values()) <= 0.6 * found.total():
        found = rates(paths)
    if not found:
        raise UserError(f"none of the {len(paths):,} clips can be read, {paths[0]} for one: are they audio files?")
    return max(found, key=lambda rate: (found[rate], rate))


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

    `clips` has fname, label and group ('': the clip is its own group), by fname. Clips in `known` (fname to fold) keep
    their fold and new ones join them; without any, scikit-learn splits. UserError where there are fewer groups than
    folds.
    """
    grouped = bool((clips["group"] != "").any())
    names, unit = np.unique(_units(clips).to_numpy(str), return_inverse=True)
    label = np.unique(clips["label"].to_numpy(str), return_inverse=True)[1]
    if len(names) < folds:
        what = "speakers" if grouped else "clips"
        raise UserError(f"{len(names)} {what} cannot fill {folds} folds: use -k {len(names)} or less")

    fold = np.array([known.get(name, -1) for name in clips["fname"]], np.int64)
    if (fold >= 0).any():
        by_unit = np.full(len(names), -1, np.int64)
        by_unit[unit[fold >= 0]] = fold[fold >= 0]
        fold = _fill_folds(by_unit[unit], unit, label, folds)
        if len(np.unique(fold)) == folds:
            return fold
    if np.bincount(label).max() >= folds:  # scikit-learn refuses where every class is smaller
        fold = _stratified_folds(unit, label, folds, seed, grouped)
        if len(np.unique(fold)) == folds:
            return fold
    return _fill_folds(np.full(len(clips), -1, np.int64), unit, label, folds)


def _units(clips: DataFrame) -> Any:
    """What must stay in one fold, a Series: the speaker of each clip, or the clip itself."""
    return clips["group"].where(clips["group"] != "", clips["fname"])


def _stratified_folds(
    unit: NDArray[np.int64], label: NDArray[np.int64], folds: int, seed: int, grouped: bool
) -> NDArray[np.int64]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    fold = np.full(len(unit), -1, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of small classes: the summary names them
        splits = kind(folds, shuffle=True, random_state=seed % 2**32).split(label, label, unit)
        for index, (_, held_out) in enumerate(splits):
            fold[held_out] = index
    return fold


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
    """A speaker or a recording in two folds would make every score too good."""
    for key in ("group", "digest"):
        apart = train[train[key] != ""].groupby(key)["fold"].nunique()
        if (apart > 1).any():
            raise AssertionError(f"{key} {apart.idxmax()} lies in several folds")


# ------------------------------------------------------------------------------------------------ from end to end


def preprocess(config: PreprocessConfig) -> None:
    """Bring the store in `config.work` up to date with the data set, and print what a person should check.

    Only new and changed files are decoded, and known clips keep their folds, unless the options that decide them have
    changed. UserError where there is nothing to train on or too little for the folds.
    """
    started = time.monotonic()
    data = _scan(config.input_path)
    with locked(config.work / ".lock"):
        notes = list(data.notes)
        old, known, folds = _previous(config, data.root, notes)
        train_paths = [file.path for file in data.files if file.split == "train"]
        sample_rate = config.sample_rate or (old and old["sample_rate"]) or _common_rate(train_paths)
        if old and old["sample_rate"] != sample_rate:
            known = {}
        new = [file for file in data.files if file.key not in known]
        known |= zip((file.key for file in new), _decode(new, sample_rate, config.work / WAVES), strict=True)

        table = _table(data.files, (known[file.key] for file in data.files))
        _reject_duplicates(table)
        speakers = [SPEAKER.match(Path(name).name) if config.group == "auto" else None for name in table["fname"]]
        table["group"] = [match[1] if match else "" for match in speakers]
        table.loc[table["split"] != "train", "group"] = ""
        table["fold"] = -1
        clips = table[table["reason"] == ""].reset_index(drop=True)
        rejected = table[table["reason"] != ""].reset_index(drop=True)
        is_train = clips["split"] == "train"
        classes = sorted(set(clips.loc[is_train, "label"]))
        if len(classes) < 2:
            why = f"{rejected['fname'][0]}: {rejected['reason'][0]}"
            raise UserError(f"{data.root}: fewer than 2 classes have a usable clip ({why})")
        clips.loc[is_train, "fold"] = assign_folds(clips[is_train], config.folds, config.seed, folds)
        _check_disjoint(clips[is_train])

        store = {
            "format": STORE_FORMAT,
            "root": str(data.root),
            "test_root": data.test_root and str(data.test_root),
            "sample_submission": data.sample_submission and str(data.sample_submission),
            "sample_rate": sample_rate,
            "clip_samples": _window(clips.loc[is_train, "length"], sample_rate, config.clip_seconds),
            "classes": classes,
            "folds": config.folds,
            "seed": config.seed,
            "group": config.group,
            "grouped": bool((clips["group"] != "").any()),
            "counts": {split: int((clips["split"] == split).sum()) for split in SPLITS},
        }
        spare = (config.work / WAVES).stat().st_size - 2 * int(table["length"].sum())
        if spare > 2 * int(table["length"].sum()):
            notes.append(f"delete {config.work / WAVES} and run this again to free {spare >> 20:,} MiB no clip uses")
        changed = _save(config.work, store, clips[CLIP_COLUMNS], rejected[REJECTED_COLUMNS])
    seconds = time.monotonic() - started
    what = f"{len(new):,} new or changed of {len(data.files):,} files decoded" if changed else "nothing has changed"
    print(*_summary(config, store, clips, rejected, notes), f"{what}, {clock(seconds)}", "", sep="\n")
    work = "" if config.work == PreprocessConfig(Path()).work else f" -w {shlex.quote(str(config.work))}"
    print(f"next: python train.py -t 64 -m resnet18 -f all{work}")


def _previous(
    config: PreprocessConfig, root: Path, notes: list[str]
) -> tuple[dict[str, Any] | None, dict[tuple[str, str, int, int], _Audio], dict[str, int]]:
    """What an earlier run on `root` left in the store: its facts, the audio of its files, the folds of its clips.

    Folds are empty where an option that decides them differs. What cannot be used goes to `notes`.
    """
    import pandas as pd

    if not (config.work / STORE).exists():
        return None, {}, {}
    try:
        old = load_store(config.work)
        clips, rejected = load_clips(config.work), load_rejected(config.work)
    except UserError as error:
        notes.append(f"everything is decoded anew: {error}")
        return None, {}, {}
    if old["root"] != str(root):
        notes.append(f"everything is decoded anew: {config.work} held {old['root']}")
        return None, {}, {}
    same_split = all(old[name] == getattr(config, name) for name in ("folds", "seed", "group"))
    train = clips[clips["split"] == "train"]
    folds = dict(zip(train["fname"], train["fold"], strict=True)) if same_split else {}

    # Duplicates have been decoded too. What could not be read is tried again: a permission changes no time of a file.
    decoded = pd.concat([rejected[rejected["length"] > 0], clips.assign(reason="")])
    samples = (config.work / WAVES).stat().st_size // 2 if (config.work / WAVES).exists() else 0
    if (decoded["offset"] + decoded["length"]).max() > samples:
        notes.append(f"everything is decoded anew: {config.work / WAVES} is shorter than {CLIPS} says")
        return old, {}, folds
    keys = decoded[list(_File._fields[:4])].itertuples(index=False, name=None)
    audios = decoded[list(_Audio._fields[:-1])].itertuples(index=False, name=None)
    return old, {key: _Audio(*audio) for key, audio in zip(keys, audios, strict=True)}, folds


def _window(lengths: NDArray[np.int64], sample_rate: int, clip_seconds: float | None) -> int:
    """Samples of the window: `clip_seconds`, or the 95th percentile of `lengths` (samples) rounded up to 0.1 s."""
    if clip_seconds is None:
        tenths = float(np.percentile(lengths, 95)) / sample_rate * 10
        clip_seconds = max(1, math.ceil(round(tenths, 2))) / 10  # a resampled second may be a sample too long
    return max(1, round(clip_seconds * sample_rate))


# ------------------------------------------------------------------------------------------------------- summary


def _summary(
    config: PreprocessConfig, store: dict[str, Any], clips: DataFrame, rejected: DataFrame, notes: list[str]
) -> list[str]:
    """The lines that a person checks before training."""
    import pandas as pd

    train = clips[clips["split"] == "train"]
    test = clips[clips["split"] == "test"]
    counts = pd.crosstab(train["label"], train["fold"]).reindex(columns=range(config.folds), fill_value=0)
    rows = [(label, [*row, sum(row)]) for label, *row in counts.itertuples(name=None)]
    rows.append(("all", [*counts.sum(), len(train)]))
    if store["grouped"]:
        speakers = _units(train).groupby(train["fold"]).nunique()
        rows.append(("speakers", [*speakers, sum(speakers)]))
    header = ("class", [*(f"fold {fold}" for fold in range(config.folds)), "clips"])
    rows.insert(0, header)
    width = max(len(label) for label, _ in rows)
    lines = [f"{label:<{width}}" + "".join(f"{cell:>8}" for cell in cells) for label, cells in rows]
    if len(counts) > 40:
        lines[11 : len(counts) - 9] = [f"... {len(counts) - 20} more classes"]

    rate = store["sample_rate"]
    lines += [
        "",
        f"{len(train):,} clips of {len(counts):,} classes to train on, {len(test):,} test clips "
        f"({(test['label'] != '').sum():,} labelled), {store['counts']['noise']:,} noise recordings",
        f"{rate:,} Hz, window {store['clip_samples'] / rate:g} s, {clock(clips['length'].sum() / rate)} of audio",
    ]
    if store["grouped"]:
        alone = int((train["group"] == "").sum())
        lines.append("no speaker is in two folds" + (f" ({alone:,} clips name no speaker)" if alone else ""))
    elif config.group == "auto":
        notes.append("no speakers found in the names (<speaker>_nohash_<n>): if one speaker's clips lie in several "
                     "folds, scores will be too good")  # fmt: skip
    units = _units(train).groupby(train["label"]).nunique()
    if small := list(units.index[units < config.folds]):
        what = "speakers" if store["grouped"] else "clips"
        notes.append(f"fewer {what} than folds, so some folds hold none: {_some(small, 'class', 'classes')}")
    seen = set(zip(train["digest"], train["length"], strict=True))
    if leaked := sum(audio in seen for audio in zip(test["digest"], test["length"], strict=True)):
        notes.append(f"the same audio is in train: {leaked:,} of {len(test):,} test clips")
    lines += [f"warning: {note}" for note in notes]

    if len(rejected):
        lines.append(f"rejected: {len(rejected):,} files, see {config.work / REJECTED}")
        kinds = rejected["reason"].str.split(r":| of | as ", regex=True).str[0] + " (" + rejected["split"] + ")"
        for kind, same in rejected.groupby(kinds, sort=False):
            lines.append(f"  {len(same):,} {kind}")
            examples = zip(same["fname"][:3], same["reason"][:3], strict=True)
            lines += [f"    {name}: {reason}" for name, reason in examples]
    return lines


def _some(names: Sequence[str], one: str, several: str = "") -> str:
    """How many and which: 3 folders (a, b, c), 9 folders (a, b, c, d, e, ...)."""
    shown = _printable(", ".join(names[:5])) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} {one if len(names) == 1 else several or one + 's'} ({shown})"


@command
def main(argv: Sequence[str] | None = None) -> None:
    config = parse_preprocess(argv)
    try:
        preprocess(config)
    except OSError as error:  # a full disk, a folder that may not be read or written
        raise UserError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
