"""Folders that are splits or folds rather than classes, by their names."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Set
from pathlib import Path
from typing import NamedTuple

from preprocessing.files import AUDIO_SUFFIXES, find, inside, some, subfolders
from system.errors import UserError

SPLIT_WORDS = {
    **dict.fromkeys(["train", "training", "trn"], "train"),
    **dict.fromkeys(["val", "valid", "validation", "dev", "devel", "development"], "validation"),
    **dict.fromkeys(["test", "testing", "tst", "eval", "evaluation"], "test"),
}
# What is found beside such a word: audio_train, train_wavs, TestSet.
DRESS = frozenset(
    {
        *("audio", "audios", "sound", "sounds", "wave", "waves", "wav", "wavs", "flac", "mp3", "ogg"),
        *("data", "dataset", "set", "split", "folder", "files", "clips", "samples", "recordings"),
    }
)
NUMBERED = re.compile(
    r"(train|test|val|dev|eval|split|set|subset|part|partition|batch|chunk|cv)[\W_]*\d+", re.IGNORECASE
)
CLASSES_ALL_THE_SAME = "--label-pattern '^(?P<label>[^/]+)/'"
FOLDERS_INSIDE = "--label-pattern '^[^/]+/(?P<label>[^/]+)/'"


class LayoutError(UserError):
    """Folders that are called like splits or folds, where no reading of them is clear."""


class Layout(NamedTuple):
    """Where the clips of a data set lie."""

    train: list[Path]  # folders of a folder a class, or of a folder a fold with these; the first is the main one
    test: Path | None  # the clips to label
    notes: list[str]


def words_of(name: str) -> list[str]:
    """The words and numbers in a name, but those that only say that it is audio: Train_Set is train, fold01 fold 01."""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name).casefold()
    words = re.findall(r"[^\W\d_]+|\d+", spaced)
    return [word for word in words if word not in DRESS] or words


def split_of(name: str) -> str | None:
    """The split that a folder's name, or a cell in a table, stands for: train, validation or test."""
    words = words_of(name)
    if len(words) != 1:
        return None
    return SPLIT_WORDS.get(words[0]) or SPLIT_WORDS.get(re.sub(r"(data|set)+$", "", words[0]))


def fold_of(name: str) -> str:
    """The number (or the letter) of the fold that a folder's name stands for: fold_01 is 1; '' where it is none."""
    words = sorted(words_of(name), key=lambda word: word != "fold")
    if len(words) != 2 or words[0] != "fold" or not (words[1].isdecimal() or len(words[1]) == 1):
        return ""
    return str(int(words[1])) if words[1].isdecimal() else words[1]


def find_layout(root: Path) -> Layout:
    """Where the clips to train on and those to label lie below `root`.

    A folder with the name of a split is that where another split is beside it, or class folders are in it, and
    ordinary folders do not speak against it: a class may be called train, too.
    """
    names = subfolders(root)
    kinds = {name: kind for name in names if (kind := split_of(name))}
    trains, valid, tests = ([name for name, kind in kinds.items() if kind == split] for split in
                            ("train", "validation", "test"))  # fmt: skip
    exact = "train" in trains
    trains = ["train"] if exact else trains
    nested = any(subfolders(root / name) for name in trains)
    ordinary = [name for name in names if not looks_like_split(name) and not fold_of(name)]
    if tests and valid and not trains:
        trains, valid = valid, []
    if not trains or not (
        (exact and "test" in tests)
        or (nested and (exact or tests or valid))
        or ((nested or tests or valid) and not any(_holds_audio(root / name) for name in ordinary))
    ):
        return _unsplit(root, kinds)
    test = next((name for name in ("test", *tests) if name in tests), None)
    notes = []
    if trains != ["train"] or test not in (None, "test"):
        to_label = f", of the clips to label: {test}" if test else ""
        notes.append(f"folder of the clips to train on: {', '.join(trains)}{to_label}")
    for name in valid:
        notes.append(f"{name}/: its clips stay in training, where folds take their turn")
    folders = [_inside(root / name) for name in (*trains, *valid)]
    return Layout(folders, inside(root / test) if test else None, notes)


def _unsplit(root: Path, kinds: dict[str, str]) -> Layout:
    """The layout where `root` has the classes, or the folds; a test folder may be beside the folds."""
    tests = [name for name, kind in kinds.items() if kind == "test"]
    if len(folds_in(root)) > 1:
        return Layout([root], inside(root / tests[0]) if tests else None, [])
    notes = [f"{name}/ counts as a class: clips to label are looked for there only where there is a train/"
             for name in tests] + [
             f"{name}/ counts as a class, as there is no test/ beside, nor any folder in it"
             for name, kind in kinds.items() if kind == "train"]  # fmt: skip
    return Layout([root], None, notes)


def folds_in(folder: Path) -> dict[str, str]:
    """The folders in it that are folds by their names, and which, in order; none where there is only one of them."""
    folds = {name: fold for name in subfolders(folder) if (fold := fold_of(name))}
    folds = dict(sorted(folds.items(), key=lambda item: (len(item[1]), item[1])))
    return folds if len(folds) > 1 else {}


def check_classes(inner: Mapping[str, Set[str]], folder: Path) -> list[str]:
    """What to say of class folders by their names and those of the folders in each, class -> names.

    LayoutError where all classes are called like splits, folds or parts of a data set.
    """
    classes = sorted(inner)
    kinds = {kind for name in classes if (kind := looks_like_split(name))}
    nested = f", or the folders in these with {FOLDERS_INSIDE}" if any(inner.values()) else ""
    odd = all(looks_like_split(name) or fold_of(name) or NUMBERED.fullmatch(name) for name in classes)
    if odd and (len(kinds) > 1 or any(fold_of(n) or split_of(n) or NUMBERED.fullmatch(n) for n in classes)):
        raise LayoutError(
            f"{folder}: the folders in it are called like splits or folds, not like classes: "
            f"{some(classes, 'folder')}; name the labels with --manifest CSV, or take these names as classes with "
            f"{CLASSES_ALL_THE_SAME}{nested}"
        )
    every = sorted(set().union(*inner.values()))
    if len(splits := [name for name in every if split_of(name) or fold_of(name)]) > 1:
        return [f"in the class folders there are {some(splits, 'folder')}, which are not used as splits or folds: name "
                "those in the columns split or fold of a --manifest"]  # fmt: skip
    if len(inner) > 1 and len(every) > 1 and all(names == set(every) for names in inner.values()):
        return [f"in each class folder there are {some(every, 'folder')}: if those are the classes, {FOLDERS_INSIDE}"]
    return []


def _inside(folder: Path) -> Path:
    """`inside` a folder, or that in it which is all there is and only says that it is audio: train/wav."""
    names = subfolders(folder)
    if len(names) != 1 or not set(words_of(names[0])) <= DRESS or _flat_audio(folder):
        return inside(folder)
    return folder / names[0]


def _flat_audio(folder: Path) -> bool:
    return any(Path(entry.name).suffix.lower() in AUDIO_SUFFIXES for entry in os.scandir(folder))


def looks_like_split(name: str) -> str:
    """The split that some word of a name stands for: train-clean-100; '' where none does."""
    return next((SPLIT_WORDS[word] for word in words_of(name) if word in SPLIT_WORDS), "") or split_of(name) or ""


def _holds_audio(folder: Path) -> bool:
    return next(find(folder, folder, "", Counter()), None) is not None
