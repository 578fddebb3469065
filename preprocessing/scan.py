"""Find the clips of a data set: class folders, official lists, noise recordings."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from arg import CHALLENGES, PreprocessConfig
from preprocessing.files import (
    AUDIO_SUFFIXES,
    File,
    find,
    finder,
    folder_label,
    group_finder,
    prefix_of,
    printable,
    some,
    store_order,
    subfolders,
)
from preprocessing.labels import check_names, label_map, map_labels
from preprocessing.layouts import LayoutError, check_classes, find_layout, folds_in, split_of
from preprocessing.manifest import read_manifest
from preprocessing.matching import Matcher
from preprocessing.proposals import propose
from preprocessing.sample import Sample
from preprocessing.silence import SILENCE, wants_silence
from preprocessing.testset import find_test_set
from preprocessing.words import group_by_words
from system.errors import UserError

NOISE_FOLDER = "_background_noise_"
LAYOUTS = (
    "give a folder that holds a folder a class, or train/ (a folder a class) and test/ (the clips to label), or name "
    "the labels with --manifest or --label-pattern"
)


class DataSet(NamedTuple):
    root: Path
    test_root: Path | None  # a folder of test clips, which their names are relative to
    sample: Sample | None  # the sample submission
    files: list[File]  # in the order of the store: by split, then by name
    notes: list[str]  # what a person should know about them


def scan(config: PreprocessConfig) -> DataSet:
    """Every clip of the data set that `config` names; UserError where there is nothing to train on."""
    assert config.input_path is not None
    if not config.input_path.is_dir():
        raise UserError(f"{config.input_path}: no such folder; {LAYOUTS}")
    root = config.input_path.resolve()
    if config.manifest:
        where, test_root = config.manifest, None
        root, files, notes = read_manifest(config.manifest, root, config)
    else:
        try:
            where, test_root, files, notes = _read_folders(root, config)
        except LayoutError as error:
            raise UserError(f"{error}{propose(root, config, _count_classes)}") from None
    if config.group == "names":
        files = group_by_words(files)
    if mapping := label_map(config):
        files, more = map_labels(files, mapping)
        notes += more
    classes = {file.label for file in files if file.split == "train" and not file.reason}
    if config.challenge and not classes & set(CHALLENGES[config.challenge]):
        raise UserError(f"--challenge {config.challenge}: no class is one of its words: "
                        f"{' '.join(CHALLENGES[config.challenge])}")  # fmt: skip
    if wants_silence(config):
        classes |= {SILENCE} if classes else set()
    if not classes:
        why = _first_faults(files)
        if config.manifest:
            raise UserError("; ".join([f"{where}: names no clip to train on{why}", *notes]))
        ways_out = propose(root, config, _count_classes) or f"; {LAYOUTS}"
        told = "; ".join(["", *notes])
        raise UserError(f"{where}: no clips found in class folders{why}{told}{ways_out}")
    if len(classes) == 1:
        after = " after --map" if config.map else ""
        told = "; ".join(["", *notes]) + _first_faults(files)
        ways_out = told if config.manifest else propose(root, config, _count_classes)
        ways_out = ways_out or f"; {LAYOUTS}"
        raise UserError(f"{where}: the only class{after} is {classes.pop()!r}, and at least 2 are needed{ways_out}")
    notes += check_names(files, config.map)
    if unknown := sorted({file.label for file in files if file.split == "test"} - classes - {""}):
        notes.append(f"test clips taken as unlabelled, as no class is called so: {some(unknown, 'label')}")
        files = [f._replace(label="") if f.split == "test" and f.label not in classes else f for f in files]
    if config.noise:
        noise, more = _read_noise(config.noise, files)
        files, notes = files + noise, notes + more
    if wants_silence(config) and not any(file.split == "noise" for file in files):
        raise UserError(f"--silence: there is no noise recording: put some into {NOISE_FOLDER}/, or give --noise DIR; "
                        "--silence 0 makes no such class")  # fmt: skip
    if twins := Matcher([file.fname for file in files if not file.reason]).twins():
        names = some([f"{one!a} and {other!a}" for one, other in twins], "pair")
        notes.append(f"files whose names differ only in their Unicode form: {names}")
    sample, files, more = find_test_set(config, root, files)
    notes += more
    files.sort(key=store_order)
    return DataSet(root, test_root, sample, files, notes)


def _read_folders(root: Path, config: PreprocessConfig) -> tuple[Path, Path | None, list[File], list[str]]:
    """The folder of the training clips, that of the test clips, all files, and notes, from the layout under `root`."""
    tops, test, notes = find_layout(root)
    train = tops[0]
    if root not in tops:
        used = {top.relative_to(root).parts[0] for top in (*tops, *([test] if test else []))}
        noise = config.noise and config.noise.resolve()
        beside = [name for name in subfolders(root) if name not in used]
        if unused := [name for name in beside if (root / name).resolve() != noise]:
            notes.append(
                f"not used, as there is a {train.relative_to(root).parts[0]}/ beside: {some(unused, 'folder')}"
            )

    others = Counter[str]()
    files = list[File]()
    for top in tops:
        found, more = _read_classes(top, root, config, others)
        files += found
        notes += more
    files, more = _apply_lists(files, root, train, test)
    notes += more
    if test:
        label_of = finder(config.label_pattern, "label") or folder_label
        files += find(test, test, "test", others, label_of, group_finder(config))
    places = dict.fromkeys([root, root / "train", root / "train" / "audio", *(top.parent for top in tops), *tops])
    for folder in places:
        if folder.is_relative_to(root) and (folder / NOISE_FOLDER).is_dir():
            files += [f._replace(label="") for f in find(folder / NOISE_FOLDER, root, "noise", others)]
    if others:
        notes.append(f"not audio by their names and ignored: {_kinds(others)}")
    return train, test, files, notes


def _read_classes(
    top: Path, root: Path, config: PreprocessConfig, others: Counter[str]
) -> tuple[list[File], list[str]]:
    """The clips to train on below `top`, where there is a folder a class or, around these, a folder a fold; notes.

    Files of other kinds are counted in `others`. LayoutError where all folders are called like splits or folds, but
    are not such ones.
    """
    folds, notes = folds_in(top), list[str]()
    prefix = prefix_of(top, root)
    label_of = finder(config.label_pattern, "label") or (
        (lambda name: folder_label(name.partition("/")[2])) if folds else folder_label
    )
    files = list(find(top, root, "train", others, label_of, group_finder(config)))
    if folds:
        places = [file.fname.removeprefix(prefix).partition("/")[0] for file in files]
        files = [file._replace(fold=folds[at]) for file, at in zip(files, places, strict=True) if at in folds]
        if files and not any(file.label for file in files):
            raise LayoutError(f"{top}: {some(list(folds), 'fold')} without class folders inside; name the labels with "
                            "--manifest CSV or --label-pattern REGEX")  # fmt: skip
        notes.append(f"the folds are those of the folders {', '.join(folds)}, whatever -k says")
        if unused := [name for name in subfolders(top) if name not in folds and not split_of(name)]:
            notes.append(f"not used, as there are folds beside: {some(unused, 'folder')}")
    elif not config.label_pattern:
        labels = {file.label for file in files} - {""}
        inner: dict[str, set[str]] = {label: set() for label in labels}
        for file in files:
            if len(parts := file.fname.removeprefix(prefix).split("/")) > 2:
                inner[parts[0]].add(parts[1])
        notes += check_classes(inner, top)
        if empty := [name for name in subfolders(top) if name not in labels]:
            notes.append(f"no class, as there is no clip inside: {some(empty, 'folder')}")
    missing = "no label: --label-pattern does not match its name" if config.label_pattern else "lies in no class folder"
    return [file if file.label else file._replace(reason=missing) for file in files], notes


def _first_faults(files: Sequence[File]) -> str:
    faults = [f"{file.fname}: {file.reason}" for file in files if file.reason][:3]
    return f" ({' | '.join(faults)})" if faults else ""


def _count_classes(root: Path, config: PreprocessConfig) -> int:
    return len({file.label for file in _read_folders(root, config)[2] if file.split == "train" and not file.reason})


def _kinds(others: Counter[str]) -> str:
    return f"{others.total():,} files ({', '.join(f'{count:,} {kind}' for kind, count in others.most_common(3))})"


def _read_noise(folder: Path, files: Sequence[File]) -> tuple[list[File], list[str]]:
    """The recordings under `folder`, named by their full path, but those that `files` has as noise already; notes.

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
    notes = [f"not audio by their names and ignored in {folder}: {_kinds(others)}"] if others else []
    resolved = functools.cache(lambda name: str(Path(name).resolve()))

    def place(file: File) -> tuple[str, str]:  # the same whatever links lead to its folder
        return resolved(os.path.dirname(file.path)), os.path.basename(file.path)  # noqa: PTH119, PTH120

    there = {place(file): file for file in files if not file.reason}
    for file in found:
        if (clip := there.get(place(file))) and clip.split != "noise":
            raise UserError(f"--noise {folder}: {printable(clip.fname)} in it is a {clip.split} clip; keep noise "
                            "outside the data set, or in a folder of it whose name begins with _")  # fmt: skip
    return [file for file in found if place(file) not in there], notes


def _apply_lists(files: list[File], root: Path, train: Path, test: Path | None) -> tuple[list[File], list[str]]:
    """Make the clips that an official testing_list.txt names the test set, where there is no folder of test clips.

    Those of validation_list.txt stay in training: each fold is a validation set.
    """

    def read(name: str) -> set[str]:
        folders = [train, *(folder for folder in train.parents if folder.is_relative_to(root))]
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        lines = path.read_text("utf-8-sig", errors="replace").splitlines() if path else []
        return {line.strip().replace("\\", "/").removeprefix("./") for line in lines if line.strip()}

    notes = []
    if validation := read("validation_list.txt"):
        notes.append(
            f"validation_list.txt: its {len(validation):,} clips stay in training, where folds take their turn"
        )
    testing = read("testing_list.txt")
    if not testing:
        return files, notes
    if test:
        notes.append(f"testing_list.txt: its {len(testing):,} clips stay in training, as there is a test/ beside")
        return files, notes
    prefix = prefix_of(train, root)
    if absent := sorted(testing - {file.fname.removeprefix(prefix) for file in files}):
        notes.append(f"testing_list.txt names what is not there: {some(absent, 'clip')}")
    return [f._replace(split="test") if f.fname.removeprefix(prefix) in testing else f for f in files], notes
