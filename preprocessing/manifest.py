"""Manifests: a CSV with a row a clip."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from arg import PreprocessConfig
from preprocessing.files import File, file_stat, finder, group_finder
from system.errors import UserError

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


def read_manifest(manifest: Path, root: Path, config: PreprocessConfig) -> tuple[list[File], list[str]]:
    """A file for each row of a CSV (or a TSV), whose paths are relative to `root`, and what a person should know.

    A row that cannot be used is a file with a reason.

    All values are text: a label 007, 1e5 or 2024-01-02 stays as it is.
    """
    header, rows = read_rows(manifest)
    column = _choose_columns(manifest, header, dict(config.columns), bool(config.label_pattern))
    notes = ["columns of the manifest: " + ", ".join(f"{role}={header[at]}" for role, at in column.items())]
    label_by_name, group_by_name = finder(config.label_pattern, "label"), group_finder(config)
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
        stat = file_stat(path)
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
    return files, notes


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
    try:
        return os.path.relpath(path, folder).replace(os.sep, "/"), Path(path)
    except ValueError:  # on another drive of Windows
        return f"../{text}", Path(path)
