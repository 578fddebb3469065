"""Labels as a person wants them: joined, renamed and dropped by --map, and what is odd about their names."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from preprocessing.files import File, printable, some
from system.errors import UserError

DROPPED = "dropped by --map"  # the reason of a training clip
ANY = "*"  # in an old label: any text
# Columns of a table for --map as people call them.
OLD_NAMES = "old old_label old_name from from_label label class source original before word category"
NEW_NAMES = "new new_label new_name to to_label target mapped mapped_to after superclass group"


def read_map(entries: Sequence[tuple[str, ...]]) -> dict[str, str]:
    """Old label to new one, as --map names them: in files, (name,), and pairs, (old, new); what comes later counts.

    UserError where a file is no such table, or gives a label two new ones.
    """
    mapping: dict[str, str] = {}
    for entry in entries:
        path = Path("=".join(entry))
        if len(entry) == 2 and not path.is_file():
            mapping[entry[0]] = entry[1]
        else:
            mapping |= _read_file(path)
    return mapping


def _read_file(path: Path) -> dict[str, str]:
    """The pairs of a table of two columns, with or without a header, or of two columns that a header names."""
    from preprocessing.tables import read_table

    if not path.is_file():
        raise UserError(f"--map {path}: no such file; give a file of old and new labels, or pairs: --map OLD=NEW")
    table = read_table(path)
    names = [name.lower().replace(" ", "_") for name in table.header]
    old, new = (
        next((at for at, name in enumerate(names) if name in usual.split()), -1) for usual in (OLD_NAMES, NEW_NAMES)
    )
    rows = table.rows
    if old < 0 or new < 0:  # no header
        old, new = 0, 1
        rows = [(1, table.header), *rows]
        if len(table.header) != 2:
            raise UserError(f"--map {path}: needs two columns, old label and new label, but its first row is "
                            f"{printable(', '.join(table.header))}")  # fmt: skip
    mapping: dict[str, str] = {}
    for line, row in rows:
        if len(row) != len(table.header) or not row[old].strip():
            raise UserError(f"--map {path}, line {line}: needs an old label and a new one (empty: drop its clips), not "
                            f"{printable(','.join(row))}")  # fmt: skip
        value = row[new].strip()
        if mapping.setdefault(row[old].strip(), value) != value:
            raise UserError(f"--map {path}, line {line}: {row[old].strip()} has another new label above")
    return mapping


def map_labels(files: Sequence[File], mapping: Mapping[str, str]) -> tuple[list[File], list[str]]:
    """`files` with new labels in training and test, and what to say of them.

    A training clip whose new label is empty gets a reason; such a test clip is left out. UserError where no clip has
    any of the old labels.
    """
    trained = Counter(file.label for file in files if file.split == "train" and file.label and not file.reason)
    tested = Counter(file.label for file in files if file.split == "test" and file.label)
    new, absent = _resolve(mapping, set(trained), set(tested))
    notes = []
    if absent:
        says = f"no clip has the label {', '.join(_with_nearest(label, [*trained, *tested]) for label in absent[:5])}"
        says += f" and {len(absent) - 5} more" if len(absent) > 5 else ""
        if not new:
            raise UserError(f"--map: {says}; the labels are {some(sorted(trained), 'label')}")
        notes.append(f"--map: {says}")
    count = trained + tested
    origin = defaultdict(list)
    for old in sorted(new):
        origin[new[old]].append(old)
    changed = {target: olds for target, olds in origin.items() if olds != [target]}
    made = [
        f"{target} from {some(olds, 'label')}, {sum(count[old] for old in olds):,} clips"
        for target, olds in sorted(changed.items())
        if target
    ]
    if made:
        more = f"; and {len(made) - 5:,} more" if len(made) > 5 else ""
        notes.append(f"labels joined or renamed: {'; '.join(made[:5])}{more}")
    if gone := origin.get("", []):
        notes.append(f"labels dropped: {some(gone, 'label')}, {sum(count[old] for old in gone):,} clips")

    def mapped(file: File) -> File:
        target = new.get(file.label, file.label) if file.split in ("train", "test") else file.label
        if target or file.reason or not file.label:
            return file._replace(label=target or file.label)
        return file._replace(reason=DROPPED)

    done = [mapped(file) for file in files]
    return [file for file in done if not (file.split == "test" and file.reason == DROPPED)], notes


def _resolve(mapping: Mapping[str, str], trained: set[str], tested: set[str]) -> tuple[dict[str, str], list[str]]:
    """The new label of each label that `mapping` means, and the old ones in it that no clip has.

    A label in full goes before one with *, and of these the longest. * never means what only test clips are called: it
    may be the name of a folder.
    """
    known = sorted(trained | tested)
    by_form = defaultdict(list)
    for label in known:
        by_form[_in_one_form(label)].append(label)
    new, absent = {}, []
    patterns = []
    for old, target in mapping.items():
        if old in trained or old in tested:
            new[old] = target
        elif ANY in old:
            patterns.append(old)
        elif same := by_form.get(_in_one_form(old)):
            new |= dict.fromkeys(same, target)
        else:
            absent.append(old)
    for pattern in sorted(patterns, key=len, reverse=True):
        fits = re.compile(".*".join(map(re.escape, pattern.split(ANY))), re.DOTALL).fullmatch
        found = [label for label in sorted(trained) if label not in new and fits(label)]
        new |= dict.fromkeys(found, mapping[pattern])
        if not found and pattern != ANY:
            absent.append(pattern)
    return new, absent


def _in_one_form(label: str) -> str:
    return unicodedata.normalize("NFC", label.strip())


def _with_nearest(label: str, labels: Sequence[str]) -> str:
    folded = {other.casefold(): other for other in sorted(labels)}
    near = difflib.get_close_matches(label.casefold(), folded, 1)
    return printable(f"{label!r}" + (f" (did you mean {folded[near[0]]!r}?)" if near else ""))
