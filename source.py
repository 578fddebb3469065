"""Find the clips of a data set and what is known of them: class folders, a manifest, split lists, an archive.

Nothing here opens an audio file. What the archives and manifests need is imported where it is used.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from arg import PreprocessConfig, UserError
from util import Names, locked, progress

SPLITS = ("train", "test", "noise")
# What soundfile reads, and what it does not but is audio all the same: those are listed as unreadable, not passed over.
AUDIO_SUFFIXES = frozenset(
    {
        *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64"),
        *(".m4a", ".aac", ".wma", ".webm", ".amr"),
    }
)
NOISE_FOLDER = "_background_noise_"
SPEAKER = re.compile(r"(.+?)_nohash_\d+")
UNSAFE_NAME = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # control characters and bytes that are not UTF-8
LAYOUTS = (
    "give a folder that holds a folder a class, or train/ (a folder a class) and test/ (the clips to label), or name "
    "the labels with --manifest or --label-pattern"
)

# Columns of a manifest as people call them, the likeliest first.
COLUMN_NAMES = {
    "path": "path file filename file_name fname filepath file_path wav wav_path audio audio_path clip slice_file_name",
    "label": "label class class_name classname category word keyword command target",
    "group": "group speaker speaker_id client_id user user_id subject",
    "fold": "fold folds",
    "split": "split subset partition set",
}
SPLIT_NAMES = {
    **dict.fromkeys(["", "train", "training", "val", "valid", "validation", "dev"], "train"),
    **dict.fromkeys(["test", "testing", "eval", "evaluation"], "test"),
    "noise": "noise",
}

ARCHIVES = "http://download.tensorflow.org/data"  # of Google Speech Commands (CC BY 4.0)
GROWTH = 20  # of an archive when it is unpacked; clips grow by half or so
HEADER_BYTES = 1 << 20  # of a member of an archive, at most; also what a small one may grow by
PATIENCE_SECONDS = 8.0  # for a server to answer, or to go on sending


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

    @property
    def key(self) -> tuple[str, str, int, int]:
        return self[:4]


class DataSet(NamedTuple):
    root: Path
    test_root: Path | None  # a folder of test clips, which their names are relative to
    sample_submission: Path | None
    files: list[File]  # in the order of the store: by split, then by name
    notes: list[str]  # what a person should know about them


def scan(config: PreprocessConfig) -> DataSet:
    """Every clip of the data set that `config` names; UserError where there is nothing to train on."""
    assert config.input_path is not None
    if not config.input_path.is_dir():
        raise UserError(f"{config.input_path}: no such folder; {LAYOUTS}")
    root, notes = config.input_path.resolve(), list[str]()
    if config.manifest:
        where, test_root, files = config.manifest, None, _read_manifest(config.manifest, root, config, notes)
    else:
        where, test_root, files = _read_folders(root, config, notes)
    classes = {file.label for file in files if file.split == "train" and not file.reason}
    if not classes:
        why = next((f" ({file.fname}: {file.reason})" for file in files if file.reason), "")
        raise UserError(f"{where}: no clips found in class folders{why}; {LAYOUTS}"
                        if not config.manifest else f"{where}: names no clip to train on{why}")  # fmt: skip
    if len(classes) == 1:
        raise UserError(f"{where}: the only class is {classes.pop()!r}, and at least 2 are needed; {LAYOUTS}")
    if unknown := sorted({file.label for file in files if file.split == "test"} - classes - {""}):
        notes.append(f"test clips taken as unlabelled, as no class is called so: {some(unknown, 'label')}")
        files = [f._replace(label="") if f.split == "test" and f.label not in classes else f for f in files]
    if config.noise:
        files += _read_noise(config.noise, files, notes)
    order = {split: index for index, split in enumerate((*SPLITS, ""))}
    files.sort(key=lambda file: (order[file.split], file.fname))
    sample = root / "sample_submission.csv"
    return DataSet(root, test_root, sample if sample.is_file() else None, files, notes)


def printable(name: str) -> str:
    return UNSAFE_NAME.sub("\N{REPLACEMENT CHARACTER}", name)


def some(names: Sequence[str], one: str, several: str = "") -> str:
    """How many and which: 3 folders (a, b, c), 9 folders (a, b, c, d, e, ...)."""
    shown = printable(", ".join(names[:5])) + (", ..." if len(names) > 5 else "")
    return f"{len(names):,} {one if len(names) == 1 else several or one + 's'} ({shown})"


def _search(pattern: str | None, name: str) -> Callable[[str], str] | None:
    """What the named group of `pattern` finds in a text ('' where nothing); None without a pattern."""
    if pattern is None:
        return None
    search = re.compile(pattern).search
    return lambda text: (found[name] or "") if (found := search(text)) else ""


def _group_of(config: PreprocessConfig) -> Callable[[str], str]:
    """The group that a clip's name tells, '' where it tells none."""
    if config.group == "none":
        return lambda name: ""
    by_pattern = _search(config.group_pattern, "group")
    return by_pattern or (lambda name: found[1] if (found := SPEAKER.match(name.rpartition("/")[2])) else "")


# ------------------------------------------------------------------------------------------------------- folders


def _read_folders(root: Path, config: PreprocessConfig, notes: list[str]) -> tuple[Path, Path | None, list[File]]:
    """The folder of the training clips, that of the test clips, and all files, from the layout under `root`."""
    train, test = root, None
    if (root / "train").is_dir() and ((root / "test").is_dir() or _folders(root / "train")):
        train = inside(root / "train")
        test = inside(root / "test") if (root / "test").is_dir() else None
        noise = config.noise and config.noise.resolve()
        beside = [name for name in _folders(root) if name not in ("train", "test")]
        if unused := [name for name in beside if (root / name).resolve() != noise]:
            notes.append(f"not used, as there is a train/ beside: {some(unused, 'folder')}")
    elif (root / "test").is_dir():
        notes.append("test/ counts as a class: clips to label are looked for there only where there is a train/")

    others = Counter[str]()
    label_of, group_of = _search(config.label_pattern, "label") or folder_label, _group_of(config)
    files = list(find(train, root, "train", others, label_of, group_of))
    missing = "no label: --label-pattern does not match its name" if config.label_pattern else "lies in no class folder"
    files = [file if file.label else file._replace(reason=missing) for file in files]
    named = {file.label for file in files}
    if not config.label_pattern and (empty := [name for name in _folders(train) if name not in named]):
        notes.append(f"no class, as there is no clip inside: {some(empty, 'folder')}")
    files = _apply_lists(files, root, train, test, notes)
    if test:
        files += find(test, test, "test", others, label_of, group_of)
    for folder in (root, root / "train", root / "train" / "audio"):
        if (folder / NOISE_FOLDER).is_dir():
            files += [f._replace(label="") for f in find(folder / NOISE_FOLDER, root, "noise", others)]
    if others:
        notes.append(f"not audio by their names and ignored: {_kinds(others)}")
    return train, test, files


def _kinds(others: Counter[str]) -> str:
    return f"{others.total():,} files ({', '.join(f'{count:,} {kind}' for kind, count in others.most_common(3))})"


def _read_noise(folder: Path, files: Sequence[File], notes: list[str]) -> list[File]:
    """The recordings under `folder`, named by their full path, but those that `files` has as noise already.

    So they are never called like a file of the data set. UserError where there is none, or one is a clip to train on
    or to test with.
    """
    way_out = "give another folder, or -i without --noise for none"
    if not folder.is_dir():
        raise UserError(f"--noise {folder}: no such folder; {way_out}")
    top, others = folder.resolve(), Counter[str]()
    found = sorted(file._replace(fname=file.path, label="") for file in find(top, top, "noise", others))
    if not found:
        raise UserError(f"--noise {folder}: no audio file found ({' '.join(sorted(AUDIO_SUFFIXES))}); {way_out}")
    if others:
        notes.append(f"not audio by their names and ignored in {folder}: {_kinds(others)}")
    resolved = functools.cache(lambda name: str(Path(name).resolve()))

    def place(file: File) -> tuple[str, str]:  # the same whatever links lead to its folder
        name, _, last = file.path.rpartition("/")
        return resolved(name), last

    there = {place(file): file for file in files if not file.reason}
    for file in found:
        if (clip := there.get(place(file))) and clip.split != "noise":
            raise UserError(f"--noise {folder}: {printable(clip.fname)} in it is a {clip.split} clip; keep noise "
                            "outside the data set, or in a folder of it whose name begins with _")  # fmt: skip
    return [file for file in found if place(file) not in there]


def _apply_lists(files: list[File], root: Path, train: Path, test: Path | None, notes: list[str]) -> list[File]:
    """Make the clips that an official testing_list.txt names the test set, where there is no folder of test clips.

    Those of validation_list.txt stay in training: each fold is a validation set.
    """

    def read(name: str) -> set[str]:
        folders = [train, *(folder for folder in train.parents if folder.is_relative_to(root))]
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        lines = path.read_text("utf-8-sig", errors="replace").splitlines() if path else []
        return {line.strip().replace("\\", "/").removeprefix("./") for line in lines if line.strip()}

    if validation := read("validation_list.txt"):
        notes.append(
            f"validation_list.txt: its {len(validation):,} clips stay in training, where folds take their turn"
        )
    testing = read("testing_list.txt")
    if not testing:
        return files
    if test:
        notes.append(f"testing_list.txt: its {len(testing):,} clips stay in training, as there is a test/ beside")
        return files
    prefix = _prefix(train, root)
    if absent := sorted(testing - {file.fname.removeprefix(prefix) for file in files}):
        notes.append(f"testing_list.txt names what is not there: {some(absent, 'clip')}")
    return [f._replace(split="test") if f.fname.removeprefix(prefix) in testing else f for f in files]


def inside(folder: Path) -> Path:
    """`folder`, or the folder audio/ in it where that is all there is: no other folder and no clip beside it."""
    if _folders(folder) != ["audio"]:
        return folder
    beside = any(Path(entry.name).suffix.lower() in AUDIO_SUFFIXES for entry in os.scandir(folder))
    return folder if beside else folder / "audio"


def is_test_root(test_root: Path | None, folder: Path) -> bool:
    """Whether a folder of clips is the one that a store's test clips are from."""
    return test_root is not None and test_root in (folder.resolve(), folder.resolve() / "audio")


def _folders(folder: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if _is_folder(e) and not e.name.startswith((".", "_")))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def folder_label(name: str) -> str:
    return name.split("/")[0] if "/" in name else ""


def _prefix(top: Path, base: Path) -> str:
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
    prefix = _prefix(top, base)
    skip = len(str(top).rstrip("/")) + 1
    for entry in _walk(str(top)):
        suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 (a Path for each of 60,000 files is slow)
        if suffix not in AUDIO_SUFFIXES:
            others[suffix or "without suffix"] += 1
            continue
        name = entry.path[skip:]
        size, mtime_ns = _stat(entry) or (0, 0)  # a dangling link: decoding gives the reason
        yield File(split, prefix + name, size, mtime_ns, label_of(name), entry.path, group_of(name))


def find_clips(folder: Path) -> Iterator[File]:
    """The clips to label: audio files under `folder`, or under its audio/ where that is all there is in it.

    They are named relative to that. UserError where there is none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of the clips to label")
    top = inside(folder.resolve())
    file = None
    for file in find(top, top, "test", Counter()):
        yield file
    if file is None:
        raise UserError(f"{folder}: no audio file found ({' '.join(sorted(AUDIO_SUFFIXES))})")


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
            top = file.path.removesuffix(file.fname)
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


def _stat(entry: os.DirEntry[str] | Path) -> tuple[int, int] | None:
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


# ----------------------------------------------------------------------------------------------------- manifests


def _read_manifest(manifest: Path, root: Path, config: PreprocessConfig, notes: list[str]) -> list[File]:
    """A file for each row of a CSV (or a TSV), whose paths are relative to `root`; one with a reason where it fails.

    All values are text: a label 007, 1e5 or 2024-01-02 stays as it is.
    """
    header, rows = read_rows(manifest)
    column = _choose_columns(manifest, header, dict(config.columns), bool(config.label_pattern))
    notes.append("columns of the manifest: " + ", ".join(f"{role}={header[at]}" for role, at in column.items()))
    label_by_name, group_by_name = _search(config.label_pattern, "label"), _group_of(config)
    group_column = "group" in column and config.group != "none" and not config.group_pattern
    files: list[File] = []
    first: dict[str, tuple[int, int]] = {}  # fname -> line, index in files
    validation = 0
    for line, row in rows:

        def rejected(fname: str, reason: str, split: str = "", label: str = "", line: int = line) -> None:
            files.append(File(split, fname or f"(line {line})", 0, 0, label, "", reason=f"line {line}: {reason}"))

        if len(row) != len(header):
            rejected(row[column["path"]] if column["path"] < len(row) else "",
                     f"{len(row)} fields where the header has {len(header)}")  # fmt: skip
            continue
        value = {role: row[at].strip() for role, at in column.items()}
        split = SPLIT_NAMES.get(value.get("split", "").lower())
        fname, path = _locate(root, value["path"])
        if not value["path"]:
            rejected("", "names no file")
            continue
        if split is None:
            rejected(fname, f"split {value['split']!r} is none of train, validation, test, noise")
            continue
        label = "" if split == "noise" else label_by_name(fname) if label_by_name else value["label"]
        if fname.startswith("../") or fname == "..":
            rejected(value["path"], f"leaves the folder {root}", split, label)
            continue
        if fname in first:
            other_line, index = first[fname]
            other = files[index]
            if (other.split, other.label) == (split, label):
                rejected(fname, f"repeats line {other_line}")
            else:
                what = f"{other.split} {other.label!r} in line {other_line}, {split} {label!r} in line {line}"
                files[index] = other._replace(reason=f"line {other_line}: contradicts line {line} ({what})")
                rejected(fname, f"contradicts line {other_line} ({what})")
            continue
        first[fname] = line, len(files)
        stat = _stat(path)
        if stat is None:
            rejected(fname, "no such file", split, label)
        elif split == "train" and not label:
            rejected(fname, "no label", split)
        else:
            group = value["group"] if group_column else group_by_name(fname)
            files.append(File(split, fname, *stat, label, str(path), group, value.get("fold", "")))
            validation += split == "train" and value.get("split", "").lower() not in ("", "train", "training")
    if validation:
        notes.append(f"{validation:,} validation clips of the manifest stay in training, where folds take their turn")
    return files


def read_rows(manifest: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header of a CSV, and its rows but empty ones, each with the line it ends at."""
    import csv

    try:
        with manifest.open(encoding="utf-8-sig", newline="") as text:
            start = text.readline()
            text.seek(0)
            delimiter = max(",\t;", key=start.count)
            reader = csv.reader(text, delimiter=delimiter, strict=True)
            rows = [(reader.line_num, row) for row in reader if any(field.strip() for field in row)]
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"{manifest}: cannot be read ({error}); give a CSV in UTF-8 with a header") from None
    if not rows:
        raise UserError(f"{manifest}: empty; give a CSV with a header and a row a clip")
    return [name.strip() for name in rows[0][1]], rows[1:]


def _choose_columns(manifest: Path, header: list[str], named: Mapping[str, str], label_by_name: bool) -> dict[str, int]:
    """Where in the header each role stands: as named by the user, else by the usual names."""
    column = {}
    lower = [name.lower().replace(" ", "_") for name in header]
    for role, usual in COLUMN_NAMES.items():
        if role in named:
            if named[role] not in header:
                raise UserError(f"{manifest}: no column {named[role]!r}; it has {', '.join(header)}")
            column[role] = header.index(named[role])
        elif found := [name for name in usual.split() if name in lower]:
            column[role] = lower.index(found[0])
    if label_by_name:
        column.pop("label", None)
    for role in ("path",) if label_by_name else ("path", "label"):
        if role not in column:
            raise UserError(
                f"{manifest}: which column is the {role}? It has {', '.join(header)}; say --columns {role}=NAME"
            )
    return column


def _locate(root: Path, text: str) -> tuple[str, Path]:
    """A manifest's path relative to `root`, beginning with ../ where it leaves it, and the file that is meant."""
    folder = str(root)
    path = os.path.normpath(os.path.join(folder, text))  # noqa: PTH118 (a Path keeps the ..)
    if "\\" in text and not os.path.lexists(path):  # written on Windows
        path = os.path.normpath(os.path.join(folder, text.replace("\\", "/")))  # noqa: PTH118
    return os.path.relpath(path, folder), Path(path)


# ------------------------------------------------------------------------------------------------------ archives


def download(name: str, folder: Path, base: str = ARCHIVES) -> None:
    """Fetch the archive `base`/`name`.tar.gz and unpack it to `folder`, unless that holds something already.

    The folder appears when it is complete: both steps work beside it. UserError where the server cannot be reached,
    sends something else or too little, or where the archive holds what does not belong into a folder.
    """
    import shutil
    import tempfile

    folder = folder.absolute()
    with locked(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir() and any(folder.iterdir()):
            print(f"{folder} is there: nothing downloaded")
            return
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _fetch(f"{base}/{name}.tar.gz", scratch / "archive")
            _unpack(scratch / "archive", scratch / "data")
            if folder.is_dir():
                folder.rmdir()
            (scratch / "data").rename(folder)
        finally:
            shutil.rmtree(scratch)


def _fetch(url: str, path: Path) -> None:
    import http.client
    import urllib.error
    import urllib.request

    print(f"downloading {url}", file=sys.stderr)
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer, path.open("wb") as out:
            size = int(answer.headers.get("Content-Length") or -1)
            blocks = iter(lambda: answer.read(1 << 20), b"")
            for block in progress(blocks, -(-size >> 20) if size >= 0 else 0, "downloading (MiB)"):
                out.write(block)
            have = out.tell()
    except urllib.error.HTTPError as error:
        raise UserError(f"{url}: the server answers {error.code} {error.reason}") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"{url}: cannot be fetched ({reason}); fetch and unpack it elsewhere, and give -i") from None
    if size >= 0 and have != size:
        raise UserError(f"{url}: only {have:,} of {size:,} bytes came; run this again")


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a .tar.gz to `folder`, which is made; UserError where it holds what no archive of clips does."""
    import gzip
    import tarfile
    import zlib

    class Bounded(gzip.GzipFile):
        """Does not fill the memory where a header says that it is itself that long."""

        def read(self, size: int | None = -1) -> bytes:
            if size is None or not 0 <= size <= HEADER_BYTES:
                raise UserError(f"the archive has a header of {size or 0:,} bytes: not unpacked")
            return super().read(size)

    print("unpacking", file=sys.stderr)
    folder.mkdir()
    left = GROWTH * archive.stat().st_size + HEADER_BYTES
    try:
        with Bounded(archive) as unzipped, tarfile.open(fileobj=unzipped, mode="r:") as tar:
            for member in tar:
                if not (member.isfile() or member.isdir()):
                    raise UserError(f"the archive holds {member.name!r}, neither a file nor a folder: not unpacked")
                if not Path(os.path.normpath(folder / member.name)).is_relative_to(folder):
                    raise UserError(f"the archive holds {member.name!r}, which leaves the folder: not unpacked")
                left -= member.size + tarfile.BLOCKSIZE
                if left < 0:
                    raise UserError(f"the archive grows over {GROWTH} times at {member.name!r}, as no audio does: "
                                    "not unpacked")  # fmt: skip
                tar.extract(member, folder, set_attrs=False, filter="data")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UserError(f"the archive cannot be unpacked ({error})") from None
