"""The store in a work folder: its tables, its samples, and how both are replaced as a whole."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from arg import PreprocessConfig
from system.errors import UserError
from system.files import flush_folder, replacing
from system.options import command_line
from system.paths import CLIPS, NEXT, PICTURE, REJECTED, STORE

if TYPE_CHECKING:
    from pandas import DataFrame

    from preprocessing.decisions import Record

STORE_FORMAT = 2
SAMPLE_MISFIT = "sample_misfit"  # a fact of store.json
AUDIO_COLUMNS = [
    *("offset", "length", "size", "mtime_ns", "sample_rate", "channels", "digest"),
    *("peak_db", "rms_db", "dc", "clipped", "truncated"),
]
CLIP_COLUMNS = ["fname", "label", "group", "split", "fold", "flags", "cluster", *AUDIO_COLUMNS]
REJECTED_COLUMNS = ["fname", "split", "reason", "label", *AUDIO_COLUMNS]
TEXT_COLUMNS = {"fname", "label", "group", "split", "flags", "cluster", "reason", "digest"}
FLOAT_COLUMNS = {"peak_db", "rms_db", "dc", "clipped"}  # the others are int64


def load_store(work: Path) -> dict[str, Any]:
    """The facts about the store in `work` (store.json).

    Keys: format, root, test_root, sample_submission, sample_rate (Hz), clip_samples, classes (sorted), folds (as made),
    grouped (whether groups were found), counts (clips per split), options (those that decide labels and folds), noise
    (the folder of --noise; absent in older stores), sample_misfit (why the sample submission does not fit; absent where
    it does), full_scale (what a split's float samples were divided by; absent where there were none, and in older
    stores). UserError where it is missing, unreadable or of another format.
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
    return f"run {command_line(PreprocessConfig(Path('DATASET'), work))}"


def save_store(work: Path, store: dict[str, Any], clips: DataFrame, rejected: DataFrame, record: Record) -> bool:
    """Write what differs from the files in `work`, all of it or nothing; returns whether anything did."""
    from preprocessing.decisions import record_text
    from system.paths import RECORD

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
        settle(work)
    return bool(changed)


def settle(work: Path) -> None:
    """Put the tables of NEXT in their places, also those of a run that was killed at this."""
    from system.paths import RECORD

    if not (work / NEXT).is_dir():
        return
    if (work / NEXT / STORE).exists():
        (work / STORE).unlink(missing_ok=True)  # the old facts (sample rate, folds) must not be read with the new table
    for name in (RECORD, REJECTED, CLIPS, STORE):
        if (work / NEXT / name).exists():
            (work / NEXT / name).replace(work / name)
    flush_folder(work)
    (work / NEXT).rmdir()


# A full disk, a quota, a limit of files; a read-only disk, a folder of somebody else's.
CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Where the files in `folder` cannot be written in the body, UserError says so."""
    try:
        yield
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): make room, or make it writable, and run this again; what "
            "is done is kept"
        ) from error
