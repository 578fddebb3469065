"""The sample submission beside a data set, and the test clips that it names."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from arg import PreprocessConfig
from preprocessing.files import File, find, group_finder, some
from preprocessing.ids import Ints, find_rows, id_faults
from preprocessing.sample import Sample, compact, form_of, read_sample
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
    own, others = _find_samples(root, config.manifest) if config.sample_submission is None else ([], [])
    listing = _Listing(config, root, files)
    if config.sample_submission is not None:
        chosen: Sample | None = read_sample(config.sample_submission.resolve())
        notes: list[str] = []
    else:
        chosen, notes = _choose(own, others, listing)
    if chosen is None:
        return TestSet(None, files, notes)
    among, rows = listing.match(chosen)
    named = {among[row].fname: among[row] for row in rows.tolist() if row >= len(listing.given)}
    if config.manifest is None and (folders := _not_classes(files, {file.path for file in named.values()})):
        notes.append(f"no class, as {chosen.path.name} names all clips in it: {some(folders, 'folder')}")
        files = [file for file in files if file.split != "train" or file.label not in folders]
    trained = {file.path for file in files if file.split == "train" and not file.reason}
    if also := [name for name, file in named.items() if file.path in trained]:
        notes.append(f"{chosen.path.name} names clips to label that are training clips, too: {some(also, 'clip')}")
    if named:
        more = "more test clips" if listing.given else "test clips"
        notes.append(f"{more} are those that {chosen.path.name} names: {some(list(named), 'clip')}")
    kept = [file for file in files if not (file.reason and not file.label and file.fname in named)]  # rows without one
    return TestSet(chosen, kept + list(named.values()), notes)


def _not_classes(files: list[File], named: set[str]) -> list[str]:
    """The labels of which every training clip is at one of the paths `named`, if at least two others are left."""
    train = [file for file in files if file.split == "train" and not file.reason]
    others = {file.label for file in train if file.path not in named}
    wholly = sorted({file.label for file in train} - others)
    return wholly if len(others) > 1 else []


class _Listing:
    """The clips among which those of a sample are: the data set's test clips, and other audio files below its root."""

    def __init__(self, config: PreprocessConfig, root: Path, files: list[File]) -> None:
        self._config, self._root, self._files = config, root, files
        self.given = [file for file in files if file.split == "test"]
        self._matched: dict[Path, tuple[list[File], Ints]] = {}

    @cached_property
    def _trained(self) -> set[str]:
        return {file.path for file in self._files if file.split == "train" and not file.reason}

    @cached_property
    def _all(self) -> list[File]:
        """The test clips and the other files. Training clips are among these only where there are no test clips."""
        known = {file.path for file in self._files if file.split != "train"} | (self._trained if self.given else set())
        found = find(self._root, self._root, "test", Counter(), lambda name: "", group_finder(self._config))
        return self.given + sorted(file for file in found if file.path not in known)

    def match(self, sample: Sample) -> tuple[list[File], Ints]:
        """Files, and the row of each id of the sample among them, -1 for none."""
        if sample.path not in self._matched:
            files = self.given
            rows = find_rows(sample.ids, [file.fname for file in files])
            if (rows < 0).any():
                files = self._all
                trained = {file.fname for file in files if file.path in self._trained}
                rows = find_rows(sample.ids, [file.fname for file in files], trained)
            self._matched[sample.path] = files, rows
        return self._matched[sample.path]

    def faults(self, sample: Sample) -> str:
        files, rows = self.match(sample)
        return id_faults(sample.ids, rows, [file.fname for file in files], sample.id_title)


def _find_samples(root: Path, manifest: Path | None) -> tuple[list[Path], list[Path]]:
    """Sample submissions by their names: those in the data set's folder or beside the manifest, and those near it."""
    beside = [root] + ([manifest.resolve().parent] if manifest else [])
    own = [path for folder in dict.fromkeys(beside) for path in _samples_in(folder)]
    if any(path.suffix.lower() in TABLES for path in own):
        return own, []
    near = [path for folder in dict.fromkeys(folder.parent for folder in beside) for path in _samples_in(folder)]
    for top, folders, _ in os.walk(root):
        depth = len(Path(top).relative_to(root).parts)
        near += _samples_in(Path(top)) if depth else []
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < DEPTH else []
    return own, [path for path in dict.fromkeys(near) if path not in own]


def _samples_in(folder: Path) -> list[Path]:
    """The one that is called sample submission and no more comes first."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name[0] != "."]
    except OSError:
        return []
    found = [Path(folder, name) for name in names if "sub" in name.lower() and _is_sample(Path(name))]
    return sorted(found, key=lambda path: (not _is_usual(path), path.name))


def _is_sample(path: Path) -> bool:
    suffix = path.suffix.lower()
    stem = path.stem.removesuffix(".csv") if suffix in PACKED else path.stem
    return suffix in TABLES + PACKED and SAMPLE_NAME.fullmatch(compact(stem)) is not None


def _is_usual(path: Path) -> bool:
    return compact(path.stem) == USUAL_NAME


def _choose(own: list[Path], others: list[Path], listing: _Listing) -> tuple[Sample | None, list[str]]:
    """The sample to go by, and why others are not used: the data set's that fits best, or another that fits."""
    refused: dict[Path, str] = {}
    fair: list[tuple[int, Sample]] = []  # how bad each is
    for path in [*own, *others]:
        if path.suffix.lower() not in TABLES:
            refused[path] = "it is no CSV: unpack or convert it"
            continue
        try:
            sample = read_sample(path)
        except UserError as error:
            refused[path] = str(error).removeprefix(f"{path}: ")
            continue
        faults = listing.faults(sample)
        ours = path in own and (_is_usual(path) or bool((listing.match(sample)[1] >= 0).any()))
        if ours or (len(sample.ids) and not faults):
            fair.append((bool(faults), sample))
        else:
            refused[path] = faults or "it has no rows"
    best = min(fair, key=lambda pair: pair[0], default=None)
    chosen = best[1] if best else None
    refused |= {sample.path: f"{chosen.path.name} is" for _, sample in fair if chosen and sample is not chosen}
    notes = [f"sample submission {path}: not used, as {why}; {ANOTHER}" for path, why in refused.items()]
    return chosen, notes


def compared(sample: Sample, classes: Sequence[str], names: Sequence[str]) -> tuple[str, str]:
    """How a sample submission fits the classes and the test clips' names: in a line, and why not ('' where it does)."""
    reading = form_of(sample, tuple(classes))
    rows = find_rows(sample.ids, names)
    faults = id_faults(sample.ids, rows, names, sample.id_title) if len(sample.ids) else "it names no clip"
    misfit = "; ".join(filter(None, (reading.misfit, faults)))
    if misfit:
        return "", f"sample submission {sample.path} does not fit: {misfit}"
    beyond = len(names) - len(np.unique(rows))
    more = f"; {beyond:,} other test clips are not labelled" if beyond else ""
    return f"sample submission {sample.path}: fits, {reading.what}, {len(sample.ids):,} rows{more}", ""
