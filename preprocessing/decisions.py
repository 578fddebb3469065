"""A person's decisions about clips: the list that is edited, the record of them, and what they change."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import io
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from system.errors import UserError
from system.paths import RECORD

if TYPE_CHECKING:
    from pandas import DataFrame

RELABEL, DROP, KEEP = "relabel", "drop", "keep"
ACTIONS = (RELABEL, DROP, KEEP)

# Of the list that a person edits; --relabel reads the first four, whatever stands beside them and in any order.
LIST_COLUMNS = ("fname", "label", "suggested", "action", "p_label", "p_suggested", "group", "fold", "reason")
READ_COLUMNS = LIST_COLUMNS[:4]


@dataclass(frozen=True)
class Decision:
    """What a person decided about a training clip; relabel.csv has a row for each."""

    fname: str
    label: str  # in the data set
    action: str  # of ACTIONS
    new_label: str  # from then on; of a dropped clip the one that it had
    fold: int  # that it was in, so that a dropped clip finds back; -1: none
    date: str  # ISO 8601
    source: str  # name of the list

    def same(self, other: Decision | None) -> bool:
        """Whether both have the same effect."""
        return other is not None and (self.label, self.action, self.new_label) == (
            other.label,
            other.action,
            other.new_label,
        )


Record = dict[str, Decision]  # by fname


def read_record(work: Path) -> Record:
    """The decisions on record in `work`, none where there is no record. UserError where it cannot be read."""
    path = work / RECORD
    if not path.exists():
        return {}
    names = [field.name for field in dataclasses.fields(Decision)]
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:  # an editor may have put a mark there
            rows = list(csv.reader(text, strict=True))
        if rows[:1] != [names]:
            raise ValueError(f"its columns are not {','.join(names)}")
        decisions = [
            Decision(fname, label, action, new_label, int(fold), date, source)
            for fname, label, action, new_label, fold, date, source in rows[1:]
        ]
        if unknown := {decision.action for decision in decisions} - set(ACTIONS):
            raise ValueError(f"its action {unknown.pop()!r} is none of {', '.join(ACTIONS)}")
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}): mend it, or delete it to take all decisions back") from None
    return {decision.fname: decision for decision in decisions}


def forget_folds(record: Record) -> Record:
    """`record` without the folds of its clips."""
    return {fname: dataclasses.replace(decision, fold=-1) for fname, decision in record.items()}


def record_text(record: Record) -> str:
    """relabel.csv, by fname."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in dataclasses.fields(Decision))
    writer.writerows(dataclasses.astuple(record[fname]) for fname in sorted(record))
    return text.getvalue()


def describe(record: Record) -> str:
    """How many clips were relabelled, dropped and kept."""
    count = Counter(decision.action for decision in record.values())
    return f"{count[RELABEL]:,} relabelled, {count[DROP]:,} dropped, {count[KEEP]:,} kept"


def read_list(path: Path, labels: Mapping[str, str], folds: Mapping[str, int], record: Record) -> Record:
    """`record` with the decisions of an edited list. Rows without an action decide nothing.

    `labels` are those of the data set's training clips, `folds` the folds of those in use, both by fname. A row's label
    must be the clip's in the data set or on record. ``keep`` says that the label in the row is right, whatever the
    record says, so it also takes a decision back. UserError, and no decision counts, where any row has a fault.
    """
    from preprocessing.files import printable
    from preprocessing.tables import read_table

    header, rows, _ = read_table(path)
    column = {name: header.index(name) for name in READ_COLUMNS if name in header}
    if missing := [name for name in READ_COLUMNS if name not in column]:
        raise UserError(f"{path}: no column {missing[0]!r}; --relabel needs {', '.join(READ_COLUMNS)}")
    classes = sorted(set(labels.values()))
    today = datetime.date.today().isoformat()
    found: dict[str, tuple[int, Decision]] = {}
    faults = []
    for line, row in rows:
        cells = {name: unshielded(row[at]) if at < len(row) else "" for name, at in column.items()}
        if not cells["action"].strip():
            continue
        try:
            if len(row) > len(header):
                raise UserError(f"{len(row)} fields where the header has {len(header)}")
            decided = _decide(cells, labels, classes, record.get(cells["fname"]))
            decision = Decision(*decided, folds.get(decided[0], -1), today, printable(path.name))
            before, other = found.setdefault(decision.fname, (line, decision))
            if not decision.same(other):
                raise UserError(f"{decision.fname}: contradicts line {before}")
        except UserError as error:
            faults.append(f"{path}, line {line}: {error}")
    if faults:
        more = f" ({len(faults) - 1:,} more lines have faults)" if len(faults) > 1 else ""
        raise UserError(f"{faults[0]}{more}; nothing was changed")
    return record | {fname: decision for fname, (_, decision) in found.items() if not decision.same(record.get(fname))}


def _decide(
    cells: Mapping[str, str], labels: Mapping[str, str], classes: Sequence[str], before: Decision | None
) -> tuple[str, str, str, str]:
    """The first four fields of the Decision that a row of the list makes; `before` is the one on record.

    UserError says what is wrong with the row.
    """
    fname, action = cells["fname"], cells["action"].strip().lower()
    if action not in ACTIONS:
        raise UserError(f"action {cells['action']!r}: use {', '.join(ACTIONS)}, or nothing")
    if fname not in labels:
        raise UserError(f"{fname!r}: the data set has no such training clip")
    label = labels[fname]
    if before is not None and before.label != label:
        before = None  # it was about another label
    now = before.new_label if before else label
    if cells["label"] not in (label, now):
        raise UserError(f"{fname}: is labelled {now!r}, not {cells['label']!r} as here; export the list again")
    if action == DROP:
        return fname, label, DROP, now
    new_label = cells["suggested"] if action == RELABEL else cells["label"]
    if new_label not in classes:
        raise UserError(f"{fname}: {new_label!r} under suggested is no class; use one of {', '.join(classes)}")
    return fname, label, KEEP if new_label == label else RELABEL, new_label


def shielded(text: str) -> str:
    """`text` for a cell of a spreadsheet, which would run one that begins with = + - or @: an apostrophe goes first."""
    return f"'{text}" if re.match(r"'*[=+\-@]", text) else text


def unshielded(text: str) -> str:
    """What `shielded` was given, and any other text as it is."""
    return text[1:] if re.match(r"'+[=+\-@]", text) else text


def apply_record(table: DataFrame, record: Record) -> tuple[DataFrame, list[str]]:
    """`table` (fname, label, split, reason, digest, length) with label and reason as decided, and what to say of it.

    A decision is about a recording: copies to the sample that bear the same label in the data set, and that nobody
    decided about, share it. Else a relabelled clip would contradict its copies, and one of them take the place of a
    clip that was dropped. A decision about a clip that is gone, or whose label in the data set has changed, has no
    effect.
    """
    from preprocessing.files import some

    if not record:
        return table, []
    train = table[(table["split"] == "train") & (table["reason"] == "")]
    label, reason = table["label"].to_list(), table["reason"].to_list()
    row_of = dict(zip(train["fname"], train.index.tolist(), strict=True))
    audio_of = dict(
        zip(train["fname"], zip(train["digest"], train["length"], train["label"], strict=True), strict=True)
    )
    copies = defaultdict(list)
    for fname, audio in audio_of.items():
        copies[audio].append(fname)
    void = []
    for _, decision in sorted(record.items()):  # the order of the list would count once, that of the record later
        if decision.fname not in row_of or audio_of[decision.fname][2] != decision.label:
            void.append(decision.fname)
            continue
        alike = [fname for fname in copies[audio_of[decision.fname]] if fname not in record]
        for fname in (decision.fname, *alike):
            if decision.action == RELABEL:
                label[row_of[fname]] = decision.new_label
            elif decision.action == DROP:
                why = f", as is {decision.fname}, of the same audio" if fname != decision.fname else ""
                reason[row_of[fname]] = f"dropped by {decision.source}{why}"
    table = table.assign(label=label, reason=reason)
    notes = []
    if void:
        notes.append(f"in {RECORD} without effect, as the clip is gone or has another label now: {some(void, 'clip')}")
    left = {label[row] for row in row_of.values() if not reason[row]}
    if lost := sorted(set(train["label"]) - left):
        notes.append(f"no clip is left, by what {RECORD} says, of {some(lost, 'class', 'classes')}")
    return table, notes
