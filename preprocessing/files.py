"""Audio files as they are found on disk, and what their names tell."""

from __future__ import annotations

import dataclasses
import os
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from arg import PreprocessConfig
from system.errors import UserError
from util import Names

SPLITS = ("train", "test", "noise")

FFMPEG_SUFFIXES = frozenset({".m4a", ".aac", ".wma", ".webm", ".amr", ".mp4", ".3gp", ".mka", ".mkv"})
AUDIO_SUFFIXES = FFMPEG_SUFFIXES | {
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64")
}  # these soundfile reads, those PyAV
SPEAKER = re.compile(r"(.+?)_nohash_\d+")
PART = re.compile(r"#t=[0-9.]+,[0-9.]+$")
UNSAFE_NAME = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # control characters and bytes that are not UTF-8


class File(NamedTuple):
    """An audio file as found; the same `key` later means the same content."""

    split: str  # of SPLITS; '' for a row of a manifest that names no clip of its own
    fname: str
    size: int  # bytes
    mtime_ns: int
    label: str
    path: str
    group: str = ""
    fold: str = ""  # as a manifest has it
    reason: str = ""  # why it is not used, where that is known without opening it
    start: float = 0.0  # seconds: the part of the file that is the clip, whose name ends as `part_of` has it
    end: float = 0.0  # 0: the whole file

    @property
    def key(self) -> tuple[str, str, int, int]:
        return self[:4]


def store_order(file: File) -> tuple[int, str]:
    """The key by which files are sorted: by split, then by name."""
    return (*SPLITS, "").index(file.split), file.fname


def part_of(fname: str, start: float, end: float) -> str:
    """The name of a clip that is a part of a recording, in seconds: rec.wav#t=1.5,2.25 (W3C media fragment)."""
    return f"{fname}#t={_seconds(start)},{_seconds(end)}"


def _seconds(time: float) -> str:
    return f"{time:.6f}".rstrip("0").rstrip(".")


def recording_of(fname: str) -> str:
    """The file that a clip is, or is a part of."""
    return PART.sub("", fname)


def printable(name: str) -> str:
    return UNSAFE_NAME.sub("\N{REPLACEMENT CHARACTER}", name)


def some(names: Sequence[str], one: str, several: str = "") -> str:
    """How many and which: 3 folders (a, b, c), 9 folders (a, b, c, d, e, ...)."""
    shown = printable(", ".join(names[:5])) + (", ..." if len(names) > 5 else "")
    return f"{len(names):,} {one if len(names) == 1 else several or one + 's'} ({shown})"


def finder(pattern: str | None, name: str) -> Callable[[str], str] | None:
    """What the named group of `pattern` finds in a clip's name ('' where nothing); None without a pattern."""
    if pattern is None:
        return None
    search = re.compile(pattern).search
    return lambda text: (found[name] or "") if (found := search(recording_of(text))) else ""


def group_finder(config: PreprocessConfig) -> Callable[[str], str]:
    """The group that a clip's name tells, '' where it tells none; with --group names the other names tell it, too."""
    if config.group in ("none", "names"):
        return lambda name: ""
    by_pattern = finder(config.group_pattern, "group")
    return by_pattern or (lambda name: found[1] if (found := SPEAKER.match(name.rpartition("/")[2])) else "")


def inside(folder: Path) -> Path:
    """`folder`, or the folder audio/ in it where that is all there is: no other folder and no clip beside it."""
    if subfolders(folder) != ["audio"]:
        return folder
    beside = any(Path(entry.name).suffix.lower() in AUDIO_SUFFIXES for entry in os.scandir(folder))
    return folder if beside else folder / "audio"


def is_test_root(test_root: Path | None, folder: Path) -> bool:
    """Whether a folder of clips is the one that a store's test clips are from."""
    return test_root is not None and test_root in (folder.resolve(), folder.resolve() / "audio")


def subfolders(folder: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if _is_folder(e) and not e.name.startswith((".", "_")))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def folder_label(name: str) -> str:
    return name.split("/")[0] if "/" in name else ""


def prefix_of(top: Path, base: Path) -> str:
    return "" if top == base else f"{top.relative_to(base).as_posix()}/"


def find(
    top: Path,
    base: Path,
    split: str,
    others: Counter[str],
    label_of: Callable[[str], str] = folder_label,
    group_of: Callable[[str], str] = lambda name: "",
) -> Iterator[File]:
    """The audio files under `top`, named relative to `base`; their names below `top` give label and group.

    Files of other kinds are counted in `others`, by suffix.
    """
    prefix = prefix_of(top, base)
    skip = len(os.path.join(top, ""))  # noqa: PTH118
    for entry in _walk(str(top)):
        suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 (a Path for each of 60,000 files is slow)
        if suffix not in AUDIO_SUFFIXES:
            others[suffix or "without suffix"] += 1
            continue
        name = entry.path[skip:].replace(os.sep, "/")
        size, mtime_ns = file_stat(entry) or (0, 0)  # a dangling link: decoding gives the reason
        yield File(split, prefix + name, size, mtime_ns, label_of(name), entry.path, group_of(name))


def find_clips(path: Path) -> Iterator[File]:
    """The clips to label: audio files under the folder `path`, or under its audio/ where that is all there is in it.

    They are named relative to that. `path` may also be the only one. UserError where there is none.
    """
    suffixes = " ".join(sorted(AUDIO_SUFFIXES))
    if path.is_file():
        if path.suffix.lower() not in AUDIO_SUFFIXES:
            raise UserError(f"{path}: not audio by its name ({suffixes}); give a clip, or the folder of those to label")
        whole = path.parent.resolve() / path.name
        size, mtime_ns = file_stat(whole) or (0, 0)
        yield File("test", path.name, size, mtime_ns, "", str(whole))
        return
    if not path.is_dir():
        raise UserError(f"{path}: no such folder or file; give the folder of the clips to label, or a clip")
    top = inside(path.resolve())
    file = None
    for file in find(top, top, "test", Counter()):
        yield file
    if file is None:
        raise UserError(f"{path}: no audio file found ({suffixes})")


@dataclass(frozen=True)
class ClipFolder(Sequence[File]):
    """What `find_clips` finds, by name, in 28 bytes a clip and its name; a slice of it is one, too."""

    top: str  # ends with a slash
    names: Names  # of all clips, as they can be shown, relative to `top`
    odd: dict[int, str]  # the real names of those that cannot be, by row
    size: NDArray[np.int64]  # bytes
    mtime_ns: NDArray[np.int64]
    rows: range  # those that this is a slice of

    @classmethod
    def scan(cls, folder: Path) -> ClipFolder:
        found, size, mtime_ns, top = list[str](), array("q"), array("q"), ""
        for file in find_clips(folder):
            found.append(file.fname)
            size.append(file.size)
            mtime_ns.append(file.mtime_ns)
            top = file.path[: len(file.path) - len(file.fname)]
        order = np.array(sorted(range(len(found)), key=found.__getitem__), np.int64)
        odd = {row: found[index] for row, index in enumerate(order) if UNSAFE_NAME.search(found[index])}
        names = Names(printable(found[index]) for index in order)
        return cls(top, names, odd, np.array(size)[order], np.array(mtime_ns)[order], range(len(found)))

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> File: ...

    @overload
    def __getitem__(self, index: slice) -> ClipFolder: ...

    def __getitem__(self, index: int | slice) -> File | ClipFolder:
        if isinstance(index, slice):
            return dataclasses.replace(self, rows=self.rows[index])
        row = self.rows[index]
        name = self.names[row]
        path = self.top + self.odd.get(row, name)
        return File("test", name, int(self.size[row]), int(self.mtime_ns[row]), folder_label(name), path)


def file_stat(entry: os.DirEntry[str] | Path) -> tuple[int, int] | None:
    try:
        stat = entry.stat()
    except (OSError, ValueError):  # ValueError: a name with a NUL
        return None
    return stat.st_size, stat.st_mtime_ns


def _walk(folder: str) -> Iterator[os.DirEntry[str]]:
    """All files under `folder`, but hidden ones and those in folders that begin with '_' or '.'; links are followed.

    A folder named like an audio file is a folder all the same.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not _is_folder(entry):
                yield entry
            elif not entry.name.startswith("_"):
                if entry.is_symlink() and Path(folder).resolve().is_relative_to(Path(entry.path).resolve()):
                    continue  # a link to a folder that it is in: a loop
                yield from _walk(entry.path)
