"""Manifests: a table with a row a clip."""

from __future__ import annotations

import functools
import shlex
from collections import Counter
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from arg import PreprocessConfig
from preprocessing.columns import TIMES, Columns, choose_columns, is_milliseconds
from preprocessing.files import File, finder, group_finder, part_of
from preprocessing.layouts import fold_of, split_of
from preprocessing.locating import Located, Locator
from preprocessing.matching import folded
from preprocessing.tables import Table, read_table
from preprocessing.times import Part, Times, read_parts

EXAMPLES = 3  # rows without a file for which the nearest is looked up
# What it took to find a file, as `Match.how` has it, in words.
FOUND = {
    "manifest": "relative to the manifest's folder",
    "folder": "without their folder",
    "ending": "with another ending or none",
    "case": "in other capitals",
    "zeros": "with other zeros in front",
    "unicode": "in another Unicode form",
}


class Manifest(NamedTuple):
    root: Path  # what the names of its files are relative to
    files: list[File]
    notes: list[str]  # what a person should know


class _Entry(NamedTuple):
    """A row of the table."""

    line: int
    value: dict[str, str]  # role -> cell
    fault: str = ""  # of the row as a whole
    found: Located = Located("")
    part: Part = Part()


def read_manifest(manifest: Path, root: Path, config: PreprocessConfig) -> Manifest:
    """A file for each row of a table, whose names are relative to `root`, and what a person should know.

    A name that is no path relative to `root` or to the manifest's folder means the file below `root` that `Matcher`
    finds. Where `root` holds no audio but the folder above holds what is named, that is the root. A row that cannot be
    used is a file with a reason. UserError where no row can be.

    All values are text: a label 007, 1e5 or 2024-01-02 stays as it is.
    """
    table = read_table(manifest)
    locator, notes = _place(manifest, root, table)
    columns = choose_columns(
        manifest, table, dict(config.columns), bool(config.label_pattern), locator.is_file, locator.means_file
    )
    entries = _locate(_entries(columns), locator, split_of(manifest.stem))
    entries, cut = _cut(entries, columns, config)
    files, more = _files(entries, columns, locator.root, config)
    return Manifest(locator.root, files, [*notes, *columns.notes, *_how(entries), *cut, *more])


def _place(manifest: Path, root: Path, table: Table) -> tuple[Locator, list[str]]:
    """What finds the files below `root`, or below the folder above where only that has them."""
    locator = Locator(root, manifest)
    sample = [cell.strip() for _, row in table.rows[:EXAMPLES] for cell in row] + table.header
    if any(map(locator.is_file, sample)) or locator.holds_audio():
        return locator, []
    above = Locator(root.parent, manifest)
    if not any(map(above.means_file, sample)):
        return locator, []
    return above, [f"{root} holds no audio, so names are relative to the folder above: {root.parent}"]


def _entries(columns: Columns) -> list[_Entry]:
    width, entries = len(columns.header), []
    for line, row in columns.rows:
        if len(row) < width or any(cell.strip() for cell in row[width:]):
            at = columns.at["path"]
            value = {"path": row[at] if at < len(row) else ""}
            entries.append(_Entry(line, value, f"{len(row)} fields where the header has {width}"))
            continue
        value = {role: row[at].strip() for role, at in columns.at.items()}
        entries.append(_Entry(line, value, "" if value["path"] else "names no file"))
    return entries


def _locate(entries: list[_Entry], locator: Locator, split: str | None) -> list[_Entry]:
    """The rows with their files; `split` is what the manifest's own name says.

    A file that a row names exactly is not that of a row which names it inexactly, nor one that a row names with its
    folder that of a row which names it with another.
    """
    entries = [e if e.fault else e._replace(found=locator.exact(e.value["path"])) for e in entries]
    if all(entry.fault or entry.found.path for entry in entries):
        return entries
    taken = {entry.found.fname: (-1, entry.line) for entry in entries if entry.found.path}
    hints_of = _hints(entries, locator.folders, split)
    matched: dict[int, Located] = {}
    for index, entry in enumerate(entries):
        if not entry.fault and not entry.found.path:
            found = locator.match(entry.value["path"], entry.found, *hints_of(entry))
            matched[index] = found
            if found.path and (found.how != "unicode" or found.fname not in taken):
                taken[found.fname] = min(taken.get(found.fname, (9999, 0)), (found.passed_over, entry.line))
    examples = EXAMPLES
    for index, found in matched.items():
        entry = entries[index]
        if found.path and found.how != "unicode" and taken[found.fname][0] < found.passed_over:
            reason = f"no such file: the nearest, {found.fname}, is that of line {taken[found.fname][1]}"
            found = entry.found._replace(reason=reason)
        elif not found.path and examples:
            examples -= 1
            found = found._replace(reason=locator.explain(entry.value["path"], found))
        entries[index] = entry._replace(found=found)
    return entries


def _cut(entries: list[_Entry], columns: Columns, config: PreprocessConfig) -> tuple[list[_Entry], list[str]]:
    """The rows with the parts of their files that their times mean, and what to say of that."""
    roles = [role for role in TIMES if role in columns.at]
    if not roles:
        return entries, []
    named = [f"{role}={columns.header[columns.at[role]]}" for role in roles]
    rows = [index for index, entry in enumerate(entries) if entry.found.path]
    times = [Times(entries[at].found.path, *(entries[at].value.get(role, "") for role in TIMES)) for at in rows]
    unit = {role: 0.001 if is_milliseconds(columns.header[columns.at[role]]) else 1.0 for role in roles}
    parts, why_not = read_parts(times, unit, insist=not set(TIMES).isdisjoint(role for role, _ in config.columns))
    if why_not:
        return entries, [f"times of the manifest ({', '.join(named)}) are not obeyed: {why_not}; --columns "
                         f"{shlex.join(named)} cuts all the same"]  # fmt: skip
    entries = list(entries)
    for index, part in zip(rows, parts, strict=True):
        entries[index] = entries[index]._replace(part=part, fault=part.fault)
    cut = [entry.found.fname for entry in entries if entry.part.end]
    said = f"clips that are parts of recordings ({', '.join(named)}): {len(cut):,}, of {len(set(cut)):,} files"
    return entries, [said] if cut else []


def _hints(
    entries: Sequence[_Entry], folders: Set[str], split: str | None
) -> Callable[[_Entry], tuple[frozenset[str], frozenset[str]]]:
    """Which of `folders` the file of a row may be in by its cells, and which not: those of others.

    A file in a folder that is called like another row's fold, split or label is not this row's. One folder that is
    called like a label, such as the data set's, tells nothing. `split` is that of rows that name none.
    """
    labels = {name for entry in entries if (name := folded(entry.value.get("label", ""))) in folders}
    telling = {name for name in labels if not name.isdecimal() and not split_of(name)}
    folds = {name: fold for name in folders if (fold := fold_of(name))}
    splits = {name: kind for name in folders if name not in labels and (kind := split_of(name))}

    @functools.cache
    def of_cells(fold: str, split_cell: str, label: str) -> tuple[frozenset[str], frozenset[str]]:
        number = fold_of(f"fold {fold.removesuffix('.0')}") or fold_of(fold)
        kind = _split(split_cell) if split_cell else split
        own = {fold, number, number.zfill(2), folded(label)} - {"", "00"}
        own |= {name for name, other in folds.items() if other == number}
        own |= {name for name, other in splits.items() if other == kind}
        wrong = telling - {folded(label)} if len(telling) > 1 else set()
        if fold:
            wrong |= {name for name, other in folds.items() if other != number}
        if split_cell:
            wrong |= {name for name, other in splits.items() if (other == "test") != (kind == "test")}
        return frozenset(own), frozenset(wrong)

    def hints_of(entry: _Entry) -> tuple[frozenset[str], frozenset[str]]:
        value = entry.value
        hints, wrong = of_cells(value.get("fold", ""), value.get("split", ""), value.get("label", ""))
        return (hints | {folded(value["group"])} if value.get("group") else hints), wrong

    return hints_of


@functools.cache
def _split(cell: str) -> str | None:
    """The split that a cell names: train, validation, test or noise; None where it is none of them."""
    return {"": "train", "noise": "noise"}.get(cell.lower()) or split_of(cell)


def _how(entries: Sequence[_Entry]) -> list[str]:
    """How the names were found that are no paths as they stand."""
    counts = Counter(how for entry in entries for how in entry.found.how.split(", ") if entry.found.path and how)
    if not counts:
        return []
    example = next(entry for entry in entries if entry.found.path and entry.found.how)
    said = ", ".join(f"{counts[how]:,} {words}" for how, words in FOUND.items() if counts[how])
    return [f"of {len(entries):,} names in the manifest were found {said} ({example.value['path']} is "
            f"{example.found.fname})"]  # fmt: skip


def _files(
    entries: Sequence[_Entry], columns: Columns, root: Path, config: PreprocessConfig
) -> tuple[list[File], list[str]]:
    """The file of each row, and notes."""
    label_by_name, group_by_name = finder(config.label_pattern, "label"), group_finder(config)
    group_column = "group" in columns.at and config.group != "none" and not config.group_pattern
    files: list[File] = []
    first: dict[str, tuple[int, int]] = {}  # fname -> line, index in files
    validation = 0
    for line, value, fault, found, part in entries:

        def rejected(fname: str, reason: str, split: str = "", label: str = "", line: int = line) -> None:
            files.append(File(split, fname or f"(line {line})", 0, 0, label, "", reason=f"line {line}: {reason}"))

        if fault:
            rejected(found.fname or value["path"], fault)
            continue
        named = _split(value.get("split", ""))
        if named is None:
            rejected(found.fname, f"split {value['split']!r} is none of train, validation, test, noise")
            continue
        split = "train" if named == "validation" else named
        recording = found.fname
        fname = part_of(recording, part.start, part.end) if part.end else recording
        label = "" if split == "noise" else label_by_name(recording) if label_by_name else value["label"]
        if not found.path:
            rejected(fname, found.reason, split, label)
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
        if split == "train" and not label:
            rejected(fname, "no label", split)
            continue
        group = value["group"] if group_column else group_by_name(recording)
        if part.end and config.group != "none":
            group = group or recording
        facts = split, fname, found.size, found.mtime_ns, label, found.path, group, value.get("fold", "")
        files.append(File(*facts, start=part.start, end=part.end))
        validation += named == "validation"
    notes = []
    if validation:
        notes.append(f"{validation:,} validation clips of the manifest stay in training, where folds take their turn")
    return files, notes
