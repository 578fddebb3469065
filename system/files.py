"""Files that are complete or absent: written beside their place, flushed, and renamed into it."""

from __future__ import annotations

import contextlib
import errno
import glob
import mmap
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray


def keep_file(path: Path, other: Path) -> None:
    """Have what stands at `path` at `other`, too; `path` may be replaced then, but not written to."""
    with replacing(other) as beside:
        try:
            beside.hardlink_to(path)
        except OSError:  # a file system without such links
            shutil.copyfile(path, beside)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; flushed and renamed into place at the end, removed if the body fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        with beside.open("rb+") as written:
            os.fsync(written.fileno())
        beside.replace(path)
        flush_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Have the disk know what has been renamed in `folder`, so that a power cut does not undo it; not on Windows."""
    try:
        held = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folder
        return
    try:
        os.fsync(held)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems know no such thing
            raise
    finally:
        os.close(held)


def remove_leftovers(path: Path) -> None:
    """Remove what `replacing` left beside `path` in processes that were killed; for whoever alone writes there now."""
    for beside in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        beside.unlink(missing_ok=True)


def forget_pages(array: NDArray[Any]) -> None:
    """Give back the memory of what was read of a memory map: pages of the file would add up to all of it.

    Nothing happens to an array of another kind, nor on Windows.
    """
    mapped = getattr(array, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)
