"""Check a submission as competition platforms do, in blocks of rows.

Strictly: UTF-8, commas, cells in double quotes or not, lines that end in LF or CRLF, blank lines; every id once, in
the sample's order, and nothing more. A byte order mark is remarked on.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from prediction.forms import BLOCK_ROWS, Form
from system.errors import UserError
from util import Floats

Ints = NDArray[np.int64]
NEAR_TIE = 0.1  # difference of a clip's two largest probabilities, below which it is near a tie
SUM_TOLERANCE = 0.01  # of probabilities that may have been rounded to three digits
CULPRITS_SHOWN = 3  # of each problem
CELL_SHOWN = 60  # letters


@dataclass(frozen=True)
class Check:
    """What is in a submission, and what is wrong with it."""

    problems: tuple[str, ...]  # for each of which it would be rejected, with their number and the first culprits
    remarks: tuple[str, ...]  # on what only some platforms reject
    predicted: NDArray[np.int32]  # the class of each of the form's ids; -1 where it has none
    near_ties: int | None  # rows whose two largest probabilities are less than NEAR_TIE apart; None: no probabilities


def check_submission(path: Path, form: Form, classes: tuple[str, ...]) -> Check:
    """Compare a CSV with the form that it must have, in blocks of rows. UserError where the form's ids are not unique.

    All problems are listed, but for those behind a place where it cannot be read on.
    """
    checker = _Checker(form, classes)
    with path.open("rb") as file:
        mark = file.read(3) == b"\xef\xbb\xbf"
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = checker.readable(file)
        _, header = next(rows, (1, []))
        checker.header(header)
        while block := list(islice(rows, BLOCK_ROWS)):
            checker.rows(block)
    remarks = ["it begins with a byte order mark, which some platforms take for a part of the header"] if mark else []
    near_ties = checker.near_ties if form.probabilities else None
    return Check(checker.problems(), tuple(remarks), checker.predicted, near_ties)


class _Faults:
    """Kinds of faults in the order in which they were met, with their number and the first of each."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}
        self._first: dict[str, list[str]] = {}

    def add(self, kind: str, culprit: str) -> None:
        self._count[kind] = self._count.get(kind, 0) + 1
        first = self._first.setdefault(kind, [])
        if len(first) < CULPRITS_SHOWN:
            first.append(culprit)

    def lines(self) -> Iterator[str]:
        for kind, count in self._count.items():
            more = ", ..." if count > CULPRITS_SHOWN else ""
            yield f"{kind}: {count:,} ({', '.join(self._first[kind])}{more})"


class _Checker:
    """Takes a submission's header and then its rows, a block at a time."""

    def __init__(self, form: Form, classes: tuple[str, ...]) -> None:
        self.form, self.classes = form, classes
        self.faults = _Faults()
        self.predicted = np.full(len(form.ids), -1, np.int32)
        self.near_ties = 0
        self._places = _Places(form.ids)
        self._seen = np.zeros(len(form.ids), np.bool_)
        self._place = -1  # of the last row
        self._class_of = {name: index for index, name in enumerate(classes)}
        self._wrong_header = ""

    def readable(self, file: TextIO) -> Iterator[tuple[int, list[str]]]:
        """The number of each row's line, and its cells, as far as the file can be read; without blank lines."""
        reader = csv.reader(file, strict=True)
        try:
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
        except UnicodeDecodeError:
            self.faults.add("it is not UTF-8 further on", f"after line {reader.line_num}")
        except csv.Error as error:
            self.faults.add("it cannot be read further on", f"line {reader.line_num}: {error}")

    def header(self, cells: list[str]) -> None:
        if tuple(cells) != self.form.header:
            found, asked = (",".join(map(_shown, row)) for row in (cells, self.form.header))
            self._wrong_header = f"its header is {found or 'missing'}, not {asked}"

    def rows(self, block: list[tuple[int, list[str]]]) -> None:
        """`block`: a part of what is `readable`."""
        places = self._places.of([cells[0] for _, cells in block])
        whole = []  # the rows that may hold a prediction, and where it belongs
        for (line, cells), place in zip(block, places.tolist(), strict=True):
            id_ = f"line {line} {_shown(cells[0])}"
            if len(cells) != len(self.form.header):
                self.faults.add(f"rows without exactly {len(self.form.header)} cells", f"{id_} has {len(cells)}")
            elif "" in cells:
                self.faults.add("rows with an empty cell", id_)
            else:
                whole.append((id_, cells, place))
            if place < 0:
                self.faults.add("unknown ids", id_)
            elif self._seen[place]:
                self.faults.add("doubled ids", id_)
            else:
                self._seen[place] = True
                if place < self._place:
                    self.faults.add("rows out of order", id_)
                self._place = place
        if whole:
            label = self._argmax(whole) if self.form.probabilities else self._labels(whole)
            place = np.array([place for _, _, place in whole])
            self.predicted[place[place >= 0]] = label[place >= 0]

    def _labels(self, rows: list[tuple[str, list[str], int]]) -> Ints:
        """The class that each row names, -1 where there is no such class."""
        label = np.array([self._class_of.get(cells[1], -1) for _, cells, _ in rows])
        for row in np.flatnonzero(label < 0).tolist():
            id_, cells, _ = rows[row]
            self.faults.add("labels that are no class", f"{id_}: {_shown(cells[1])}")
        return label

    def _argmax(self, rows: list[tuple[str, list[str], int]]) -> Ints:
        """The class of each row's largest probability, -1 where they are no probabilities."""
        probabilities: Floats = np.array([[_number(cell) for cell in cells[1:]] for _, cells, _ in rows])
        numbers = np.all((probabilities >= 0) & (probabilities <= 1), axis=1)
        with np.errstate(invalid="ignore"):  # infinities
            total = probabilities.sum(1)
        good = numbers & (np.abs(total - 1) <= SUM_TOLERANCE)
        for row in np.flatnonzero(~good).tolist():
            id_ = rows[row][0]
            if numbers[row]:
                self.faults.add("rows whose probabilities do not sum to 1", f"{id_}: {total[row]:.3g}")
            else:
                self.faults.add("rows whose probabilities are not all numbers from 0 to 1", id_)
        if probabilities.shape[1] > 1:
            second, first = np.partition(probabilities[good], -2, axis=1)[:, -2:].T
            self.near_ties += int((first - second < NEAR_TIE).sum())
        columns = np.array([self._class_of[name] for name in self.form.header[1:]])
        return np.where(good, columns[probabilities.argmax(1)], -1)

    def problems(self) -> tuple[str, ...]:
        for row in np.flatnonzero(~self._seen).tolist():
            self.faults.add("missing ids", _shown(self.form.ids[row]))
        return (*([self._wrong_header] if self._wrong_header else []), *self.faults.lines())


class _Places:
    """Where each of many ids stands, by sorted hashes: a dictionary of a million takes ten times the memory."""

    def __init__(self, ids: Sequence[str]) -> None:
        """UserError where an id is not unique."""
        self._ids = ids
        hashes = np.fromiter(map(hash, ids), np.int64, len(ids))
        self._order = hashes.argsort(kind="stable")
        self._hashes = hashes[self._order]
        for at in np.flatnonzero(np.diff(self._hashes) == 0).tolist():
            id_ = ids[int(self._order[at])]
            if self._find(id_, at + 1) >= 0:
                raise UserError(f"{id_}: stands more than once among the ids that a submission must have")

    def of(self, ids: Sequence[str]) -> Ints:
        """The place of each, -1 where there is none."""
        first = self._hashes.searchsorted(np.fromiter(map(hash, ids), np.int64, len(ids)))
        return np.array([self._find(id_, at) for id_, at in zip(ids, first.tolist(), strict=True)], np.int64)

    def _find(self, id_: str, at: int) -> int:
        """The place of the first `id_` from the hash number `at` on."""
        wanted = hash(id_)
        while at < len(self._hashes) and self._hashes[at] == wanted:
            place = int(self._order[at])
            if self._ids[place] == id_:
                return place
            at += 1  # another one with the same hash
        return -1


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan


def _shown(cell: str) -> str:
    """A cell of a file from anywhere, for a line of a message."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in cell[:CELL_SHOWN])
    return text + ("..." if len(cell) > CELL_SHOWN else "")
