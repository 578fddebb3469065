"""The submission: its header and order, from a sample or plain; writing and checking it, thousands of rows at a time.

A check takes what competition platforms do, strictly: UTF-8, commas, cells in double quotes or not, lines that end in
LF or CRLF, blank lines; every id once, in the sample's order, and nothing more. A byte order mark is remarked on.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from arg import UserError
from util import Floats, Names, remove_leftovers, replacing

Ints = NDArray[np.int64]
BLOCK_ROWS = 8192  # read and written at a time
NEAR_TIE = 0.1  # difference of a clip's two largest probabilities, below which it is near a tie
SUM_TOLERANCE = 0.01  # of probabilities that may have been rounded to three digits
CULPRITS_SHOWN = 3  # of each problem
CELL_SHOWN = 60  # letters


# ------------------------------------------------------------------------------------------------------- the form


@dataclass(frozen=True)
class Form:
    """What the submission must look like."""

    header: tuple[str, ...]
    ids: Sequence[str]  # as they stand in the first column, in order
    probabilities: bool  # a column a class, instead of the label


@dataclass(frozen=True)
class ClipForm(Form):
    """A form whose clips are known."""

    rows: Ints  # the clip of each id


def read_form(path: Path | None, fnames: Sequence[str], classes: tuple[str, ...]) -> ClipForm:
    """Header and order from the sample submission at `path`, or fname,label by name where there is none.

    UserError where it does not fit the clips and classes.
    """
    if path is None:
        in_order = all(one <= other for one, other in pairwise(fnames))
        order = range(len(fnames)) if in_order else sorted(range(len(fnames)), key=fnames.__getitem__)
        ids = fnames if in_order else Names(fnames[row] for row in order)
        for one, other in pairwise(ids):
            if one == other:
                raise UserError(f"{one}: several clips have this name; rename them")
        return ClipForm(("fname", "label"), ids, probabilities=False, rows=np.array(order, np.int64))
    form = read_sample(path, classes)
    return ClipForm(form.header, form.ids, form.probabilities, match_ids(form.ids, fnames, path))


def read_sample(path: Path, classes: tuple[str, ...]) -> Form:
    """The form that a sample submission shows. UserError where it is none for these classes."""
    import pandas as pd

    read: Any = {"dtype": str, "keep_default_na": False}
    try:
        header = tuple(pd.read_csv(path, nrows=0, **read).columns)
        with pd.read_csv(path, usecols=[0], chunksize=BLOCK_ROWS, **read) as parts:
            ids = Names(id_ for part in parts for id_ in part.iloc[:, 0])
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a sample submission ({error})") from error
    probabilities = len(header) > 2 and set(header[1:]) == set(classes)
    if len(header) != 2 and not probabilities:
        raise UserError(f"{path}: need an id and a label, or an id and a column for each of {', '.join(classes)}")
    return Form(header, ids, probabilities)


def probability_form(form: Form, classes: tuple[str, ...]) -> Form:
    """The form of the file of all probabilities that is written beside a submission."""
    return Form((form.header[0], *classes), form.ids, probabilities=True)


def match_ids(ids: Sequence[str], fnames: Sequence[str], path: Path) -> Ints:
    """The position of each id's clip: by its whole path, else by its name, else by its name without the extension."""
    for key in (str, lambda fname: Path(fname).name, lambda fname: Path(fname).stem):
        if (rows := _match(ids, fnames, key)) is not None:
            return rows
    repeated = len(ids) - len(set(ids))
    unknown, missing = sorted(set(ids) - set(fnames)), sorted(set(fnames) - set(ids))
    kinds = {"ids without a clip": unknown, "clips without an id": missing}
    what = [f"{len(names)} {kind} (such as {names[0]})" for kind, names in kinds.items() if names]
    what += [f"{repeated} ids more than once"] if repeated else []
    raise UserError(f"{path}: its ids are not the clips to label: {', '.join(what)}; see -i and --sample-submission")


def _match(ids: Sequence[str], fnames: Sequence[str], key: Callable[[str], str]) -> Ints | None:
    """For each id the position of the one name that has it as its key; None unless they match one to one.

    By sorted hashes, then name by name: a dictionary of a million names takes ten times the memory.
    """
    if len(ids) != len(fnames):
        return None
    of_id = np.fromiter(map(hash, ids), np.int64, len(ids))
    of_name = np.fromiter((hash(key(fname)) for fname in fnames), np.int64, len(fnames))
    by_id, by_name = of_id.argsort(), of_name.argsort()
    if (np.diff(of_name[by_name]) == 0).any():
        return None
    rows = np.empty(len(ids), np.int64)
    rows[by_id] = by_name
    return rows if all(key(fnames[int(row)]) == id_ for row, id_ in zip(rows, ids, strict=True)) else None


# ---------------------------------------------------------------------------------------------------------- writing


def probabilities_path(output: Path) -> Path:
    """Where the probabilities of a submission stand."""
    return output.with_name(f"{output.stem}_probabilities.csv")


def write_submission(
    output: Path, form: ClipForm, classes: tuple[str, ...], rows_at: Callable[[Ints], NDArray[np.float32]]
) -> Check:
    """Write the submission, and every probability beside it; returns what is in them.

    `rows_at` gives the probabilities of clips, (n, classes), by their positions. Both files are read again before they
    take their places: UserError, and nothing is written, where one would be rejected.
    """
    import pandas as pd

    names = np.array(classes, object)
    for path in (output, probabilities_path(output)):
        remove_leftovers(path)
    with contextlib.ExitStack() as stack:
        paths = [  # the last is renamed first
            stack.enter_context(replacing(path)) for path in (output, probabilities_path(output))
        ]
        with contextlib.ExitStack() as open_files:
            short_file, full_file = (
                open_files.enter_context(path.open("w", encoding="utf-8", newline="")) for path in paths
            )
            for start in range(0, max(1, len(form.ids)), BLOCK_ROWS):  # the header, where there is no clip
                rows = rows_at(form.rows[start : start + BLOCK_ROWS])
                ids = form.ids[start : start + BLOCK_ROWS]
                full = pd.DataFrame(rows, columns=list(classes))
                full.insert(0, form.header[0], ids, allow_duplicates=True)
                short = pd.DataFrame({form.header[0]: ids, form.header[1]: names[rows.argmax(1)]})
                submission = full[list(form.header)] if form.probabilities else short
                for table, file in ((full, full_file), (submission, short_file)):
                    table.to_csv(file, index=False, header=start == 0)
        found = check_submission(paths[0], form, classes)
        probabilities = check_submission(paths[1], probability_form(form, classes), classes)
        if problems := [*found.problems, *probabilities.problems]:
            raise UserError(f"{output}: not written, since it would be rejected: {'; '.join(problems)}")
    return dataclasses.replace(found, near_ties=probabilities.near_ties)


# --------------------------------------------------------------------------------------------------------- checking


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
