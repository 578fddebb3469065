"""The sample submission beside a data set, and the test clips that it names."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from arg import PreprocessConfig
from preprocessing.files import File, find, group_finder, some
from preprocessing.ids import Ints, find_rows, id_faults
from preprocessing.sample import Sample, compact, form_of, read_sample
from system.console import counted
from system.errors import UserError

SAMPLE_NAME = re.compile(r"(sample|example|dummy|template)(submi.*|subs?\d*)|sub(mission)?(sample|format|example).*")
USUAL_NAME = "samplesubmission"
TABLES = (".csv", ".tsv", ".txt")
PACKED = (".zip", ".gz", ".7z", ".xz", ".bz2", ".rar", ".xlsx", ".xls", ".json", ".parquet")
DEPTH = 2  # folders below the root that are looked into
ANOTHER = "--sample-submission CSV takes another"


class TestSet(NamedTuple):
    """What a sample submission adds to a data set."""

    sample: Sample | None
    files: list[File]  # of the data set, with test clips that the sample alone names
    notes: list[str]


def find_test_set(config: PreprocessConfig, root: Path, files: list[File]) -> TestSet:
    """The sample submission that is given, or lies beside the data, and the clips it names as further test clips.

    UserError where the one that is given cannot be read.
    """
    listing = _Listing(config, root, files)
    if config.sample_submission is not None:
        chosen: _Candidate | None = listing.match(read_sample(config.sample_submission.resolve()))
        notes: list[str] = []
    else:
        chosen, notes = _choose(root, config.manifest, listing)
    if chosen is None:
        return TestSet(None, files, notes)
    title = chosen.sample.path.name
    tests = (chosen.files[row] for row in chosen.rows.tolist() if row >= len(listing.given))
    named = {file.fname: file for file in tests}
    if config.manifest is None and (folders := _not_classes(files, {file.path for file in named.values()})):
        notes.append(f"no class, as {title} names all clips in it: {some(folders, 'folder')}")
        files = [file for file in files if file.split != "train" or file.label not in folders]
    trained = {file.path for file in files if file.split == "train" and not file.reason}
    if also := [name for name, file in named.items() if file.path in trained]:
        notes.append(f"{title} names clips to label that are training clips, too: {some(also, 'clip')}")
    if named:
        more = "more test clips" if listing.given else "test clips"
        notes.append(f"{more} are those that {title} names: {some(list(named), 'clip')}")
    kept = [file for file in files if not (file.reason and not file.label and file.fname in named)]  # rows without one
    return TestSet(chosen.sample, kept + list(named.values()), notes)


def _not_classes(files: list[File], named: set[str]) -> list[str]:
    """The labels of which every training clip is at one of the paths `named`, if at least two others are left."""
    train = [file for file in files if file.split == "train" and not file.reason]
    others = {file.label for file in train if file.path not in named}
    wholly = sorted({file.label for file in train} - others)
    return wholly if len(others) > 1 else []


class _Candidate(NamedTuple):
    """A sample submission and the clips among which those of its ids are."""

    sample: Sample
    files: list[File]
    rows: Ints  # of each id's file, -1 for none
    faults: str  # as `id_faults` says them


class _Listing:
    """The clips among which those of a sample are: the data set's test clips, and other audio files below its root."""

    def __init__(self, config: PreprocessConfig, root: Path, files: list[File]) -> None:
        self._config, self._root, self._files = config, root, files
        self.given = [file for file in files if file.split == "test"]

    @cached_property
    def _all(self) -> tuple[list[File], set[str]]:
        """The test clips and the other files, and which of their names are training clips'.

        Training clips are among these only where there are no test clips.
        """
        trained = {file.path for file in self._files if file.split == "train" and not file.reason}
        known = {file.path for file in self._files if file.split != "train"} | (trained if self.given else set())
        found = find(self._root, self._root, "test", Counter(), lambda name: "", group_finder(self._config))
        files = self.given + sorted(file for file in found if file.path not in known)
        return files, {file.fname for file in files if file.path in trained}

    def match(self, sample: Sample) -> _Candidate:
        form, files = sample.form, self.given
        rows = find_rows(form.ids, [file.fname for file in files])
        if (rows < 0).any():
            files, trained = self._all
            rows = find_rows(form.ids, [file.fname for file in files], trained)
        faults = id_faults(form.ids, rows, [file.fname for file in files], form.header[form.id_at])
        return _Candidate(sample, files, rows, faults if len(rows) else "it has no rows")


def _choose(root: Path, manifest: Path | None, listing: _Listing) -> tuple[_Candidate | None, list[str]]:
    """The sample to go by, and why others are not used.

    That is the first that fits the clips, in the data set's folder or beside the manifest, else near these. Where none
    fits, it is the first of the former that is plainly for these data: its misfit is told when they are prepared.
    """
    own = list(dict.fromkeys([root] + ([manifest.resolve().parent] if manifest else [])))
    chosen: _Candidate | None = None
    refused: dict[Path, str] = {}
    meant: list[_Candidate] = []
    for folders in (own, _near(root, own)):
        for path in dict.fromkeys(path for folder in folders for path in _samples_in(folder)):
            try:
                if path.suffix.lower() not in TABLES:
                    raise UserError("it is no CSV: unpack or convert it")
                found = listing.match(read_sample(path))
            except UserError as error:
                refused[path] = str(error).removeprefix(f"{path}: ")
                continue
            if not found.faults:
                refused[path] = f"{chosen.sample.path.name} is" if chosen else ""
                chosen = chosen or found
            else:
                refused[path] = found.faults
                if folders is own and (_is_usual(path) or (found.rows >= 0).any()):
                    meant.append(found)
        if chosen:
            break
    chosen = chosen or next(iter(meant), None)
    if chosen:
        del refused[chosen.sample.path]
    return chosen, [f"sample submission {path}: not used, as {why}; {ANOTHER}" for path, why in refused.items()]


def _near(root: Path, own: list[Path]) -> Iterator[Path]:
    """The folders above those of the data set, and those below its root."""
    yield from (folder.parent for folder in own if folder.parent not in own)
    for top, folders, _ in os.walk(root):
        if Path(top) not in own:
            yield Path(top)
        deep = len(Path(top).relative_to(root).parts) >= DEPTH
        folders[:] = [] if deep else sorted(name for name in folders if not name.startswith("."))


def _samples_in(folder: Path) -> list[Path]:
    """Sample submissions by their names. The one that is called so and no more comes first."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name[0] != "."]
    except OSError:
        return []
    near = [Path(folder, name) for name in names if "sub" in name.lower() and name.lower().endswith(TABLES + PACKED)]
    found = [path for path in near if SAMPLE_NAME.fullmatch(compact(path.stem.removesuffix(".csv")))]
    return sorted(found, key=lambda path: (not _is_usual(path), path.name))


def _is_usual(path: Path) -> bool:
    return path.suffix.lower() in TABLES and compact(path.stem) == USUAL_NAME


def compared(sample: Sample, classes: Sequence[str], names: Sequence[str]) -> tuple[str, str]:
    """How a sample submission fits the classes and the test clips' names: in a line, and why not ('' where it does)."""
    reading = form_of(sample, tuple(classes))
    ids, title = reading.form.ids, reading.form.header[reading.form.id_at]
    rows = find_rows(ids, names)
    faults = id_faults(ids, rows, names, title) if len(ids) else "it names no clip"
    misfit = "; ".join(filter(None, (reading.misfit, faults)))
    if misfit:
        return "", f"sample submission {sample.path} does not fit: {misfit}"
    beyond = len(names) - len(np.unique(rows))
    more = f"; {counted(beyond, 'other test clip')} not labelled" if beyond else ""
    return f"sample submission {sample.path}: fits, {reading.what}, {counted(len(ids), 'row')}{more}", ""
