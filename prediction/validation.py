"""What is wrong with a submission, as competition platforms see it, and the command that says so (`--check`).

They are strict: UTF-8, the sample's delimiter, cells in double quotes or not, lines that end in LF or CRLF, blank
lines; every id once, in the sample's order, and nothing more. A byte order mark is remarked on. So is what the sample
submission has itself: it is no problem.
"""

from __future__ import annotations

import csv
import filecmp
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, compress, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from numpy.typing import NDArray

from arg import InferenceConfig
from prediction.distribution import NEAR_TIE, tell_labels
from prediction.forms import probabilities_path, probability_form, read_form, sample_for_folder
from preprocessing.files import ClipFolder
from preprocessing.ids import hashes
from preprocessing.sample import BLOCK_ROWS, Form, form_of, read_sample, words_of
from preprocessing.store import load_rejected, load_store, read_clips
from preprocessing.tables import Format, table_format
from system.console import counted
from system.errors import UserError
from system.paths import LAST, STORE
from util import Names

if TYPE_CHECKING:
    from arg import RunConfig

Ints = NDArray[np.integer[Any]]
Row = tuple[int, list[str]]  # the number of its line, its cells
SUM_TOLERANCE = 0.01  # of probabilities that may have been rounded to three digits
CULPRITS_SHOWN = 3  # of each problem
CELL_SHOWN = 60  # letters
DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True)
class Check:
    """What is in a submission, and what is wrong with it."""

    problems: dict[str, str]  # for each kind what it is rejected for, with their number and the first culprits
    remarks: tuple[str, ...]  # on what only some platforms reject
    predicted: NDArray[np.int32]  # the class of each of the form's ids; -1 where it has none
    near_ties: int | None  # rows whose two largest probabilities are less than NEAR_TIE apart; None: no probabilities


class Problems:
    """The number of culprits of each kind of problem, and the first of them."""

    def __init__(self) -> None:
        self.count = Counter[str]()
        self.first = defaultdict[str, list[str]](list)

    def add(self, kind: str, culprits: Iterable[str]) -> None:
        for culprit in culprits:
            self.count[kind] += 1
            if self.count[kind] <= CULPRITS_SHOWN:
                self.first[kind].append(culprit)

    def lines(self) -> dict[str, str]:
        """What to say of each kind."""
        more = {kind: ", ..." if count > CULPRITS_SHOWN else "" for kind, count in self.count.items()}
        return {kind: f"{kind}: {self.count[kind]:,} ({', '.join(first)}{more[kind]})"
                for kind, first in self.first.items()}  # fmt: skip


def check_submission(path: Path, form: Form, classes: tuple[str, ...]) -> Check:
    """Compare a CSV with the form that it must have, in blocks of rows. UserError where the form's ids are not unique.

    All problems are listed, but for those behind a place where it cannot be read on.
    """
    import pandas as pd

    index = pd.Index(hashes(form.ids))
    if not index.is_unique:
        twice = form.ids[int(index.duplicated().argmax())]
        raise UserError(f"{shown(twice)}: the sample submission has this id more than once")
    problems, wanted, near_ties, at = Problems(), len(form.header), 0, form.id_at
    predicted = np.full(len(index), -1, np.int32)
    seen, last = np.zeros(len(index), np.bool_), -1  # the ids so far, and the place of the last one
    with path.open("rb") as start:
        mark = start.read(3) == b"\xef\xbb\xbf"
    shape = shape_of(path, form)
    with path.open(encoding=shape.encoding, newline="") as file:
        rows = readable(file, shape, problems, at)
        _, header = next(rows, (1, []))
        while block := list(islice(rows, BLOCK_ROWS)):
            place = index.get_indexer(hashes(cells[at] for _, cells in block))
            known = place >= 0
            new = known & ~pd.Series(place).duplicated().to_numpy()
            new[known] &= ~seen[place[known]]
            seen[place[new]] = True
            order = np.append(last, place[new])
            last, backwards = order[-1], new.copy()
            backwards[new] = np.diff(order) < 0
            sized = np.array([len(cells) == wanted for _, cells in block])
            empty = np.array(["" in cells for _, cells in block]) & sized
            wrong_size = (f"{name(row, at)} has {len(row[1])}" for row in compress(block, ~sized))
            problems.add(f"rows without exactly {wanted} cells", wrong_size)
            if form.first_number is not None:
                numbers = [str(form.first_number + row) for row in place.tolist()]
                other = known & [cells[0] != own for (_, cells), own in zip(block, numbers, strict=True)]
                problems.add("rows that have another number in the first column", named(block, other, at))
            for kind, mask in (
                ("rows with an empty cell", empty),
                ("unknown ids", ~known),
                ("rows out of order", backwards),
                ("doubled ids", known & ~new),
            ):
                problems.add(kind, named(block, mask, at))
            whole = sized & ~empty
            label, near = predictions(list(compress(block, whole)), form, classes, problems)
            near_ties += near
            predicted[place[whole & known]] = label[known[whole]]
    problems.add("missing ids", (shown(form.ids[row]) for row in np.flatnonzero(~seen).tolist()))
    wrong = {}
    if shape.delimiter != form.format.delimiter:
        there, asked = (DELIMITER_NAMES.get(own, repr(own)) for own in (shape.delimiter, form.format.delimiter))
        wrong["delimiter"] = f"its cells are separated by {there}, not {asked}"
    if tuple(header) != form.header:
        titles, asked = (form.format.delimiter.join(map(shown, cells)) for cells in (header, form.header))
        wrong["header"] = f"its header is {titles or 'missing'}, not {asked}"
    remarks = ["it begins with a byte order mark, which some platforms take for a part of the header"] if mark else []
    ties = near_ties if form.numbers else None
    return Check(wrong | problems.lines(), tuple(remarks), predicted, ties)


def shape_of(path: Path, form: Form) -> Format:
    """How to read a submission: as UTF-8, or in the sample's own encoding where it has that; with its own delimiter."""
    own = form.format
    try:
        found = table_format(path)
    except UserError:  # the reader says why
        found = Format("csv")
    encoding = own.encoding if found.encoding == own.encoding != "utf-8" else "utf-8-sig"
    shape = Format("csv", encoding, own.delimiter, own.skip if found.skip == own.skip else 0)
    with path.open(encoding=encoding, errors="replace") as file:
        header = next(islice(file, shape.skip, None), "")
    other = found.kind == "csv" and found.delimiter in header and own.delimiter not in header
    return shape._replace(delimiter=found.delimiter) if other else shape


def readable(file: TextIO, shape: Format, problems: Problems, at: int = 0) -> Iterator[Row]:
    """The rows as far as the file can be read, without blank lines; those without an id have an empty one."""
    for _ in range(shape.skip):
        file.readline()
    reader = csv.reader(file, delimiter=shape.delimiter, strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num + shape.skip, cells if len(cells) > at else [*cells, ""]
    except UnicodeDecodeError:
        problems.add("it is not UTF-8 further on", [f"after line {reader.line_num}"])
    except csv.Error as error:
        problems.add("it cannot be read further on", [f"line {reader.line_num}: {error}"])


def predictions(rows: list[Row], form: Form, classes: tuple[str, ...], problems: Problems) -> tuple[Ints, int]:
    """The class of each row, which has as many cells as it should, and the number of near ties.

    That is the class which it names (first) or of its largest probability, or -1.
    """
    at = form.id_at
    if not form.numbers:
        class_of = {label: index for index, label in enumerate(classes)}
        labels = [words_of(cells[at + 1], form.separator) if form.best > 1 else [cells[at + 1]] for _, cells in rows]
        twice = np.array([len(set(words)) < len(words) for words in labels], np.bool_)
        problems.add("rows that name a label twice", named(rows, twice, at))
        many = np.array([len(words) > form.best for words in labels], np.bool_)
        problems.add(f"rows of more than {form.best} labels", named(rows, many, at))
        foreign = np.array([any(word not in class_of for word in words) for words in labels], np.bool_)
        cells_of = (f"{name(row, at)}: {shown(row[1][at + 1])}" for row in compress(rows, foreign))
        problems.add("labels that are no class", cells_of)
        return np.array([class_of.get(words[0], -1) if words else -1 for words in labels], np.int32), 0
    value = np.array([[number(cell, form.comma) for cell in cells[at + 1 :]] for _, cells in rows])
    value = value.reshape(-1, len(form.titles))
    numbers = np.all((value >= 0) & (value <= 1), axis=1)
    problems.add("rows whose probabilities are not all numbers from 0 to 1", named(rows, ~numbers, at))
    if form.positive is None:
        columns = np.array(form.columns, np.int32)
    elif len(classes) == 2 and form.positive >= 0:
        columns, value = np.array([form.positive, 1 - form.positive]), np.hstack([value, 1 - value])
    else:  # what the other classes have is not known
        return np.full(len(rows), -1), 0
    with np.errstate(invalid="ignore"):  # infinities
        total = value.sum(1)
        good = numbers & (np.abs(total - 1) <= SUM_TOLERANCE)
    other = numbers & ~good
    sums = (f"{name(row, at)}: {sum_:.3g}" for row, sum_ in zip(compress(rows, other), total[other], strict=True))
    problems.add("rows whose probabilities do not sum to 1", sums)
    best = np.sort(value[good], axis=1)[:, -2:]  # with a single class there is no second
    near = int((best[:, -1] - best[:, 0] < NEAR_TIE).sum()) if len(columns) > 1 else 0
    return np.where(good, columns[value.argmax(1)], -1), near


def number(cell: str, comma: bool = False) -> float:
    try:
        return float(cell.replace(",", ".") if comma else cell)
    except ValueError:
        return np.nan


def name(row: Row, at: int) -> str:
    """A row by its line and its id, the cell `at`."""
    line, cells = row
    return f"line {line} {shown(cells[at])}"


def named(rows: list[Row], mask: NDArray[np.bool_], at: int) -> Iterator[str]:
    return (name(row, at) for row in compress(rows, mask))


def shown(cell: str) -> str:
    """A cell of a file from anywhere, for a line of a message."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in cell[:CELL_SHOWN])
    return text + ("..." if len(cell) > CELL_SHOWN else "")


def check(config: InferenceConfig, path: Path) -> None:
    """Say what is wrong with a CSV, and how its labels look; UserError where it would be rejected."""
    store = load_store(config.work) if (config.work / STORE).exists() else None
    classes, counts = training_labels(config.work, store)
    form, what, sample = expected_form(config, store, classes)
    found = check_submission(path, form, classes)
    as_sample = check_submission(sample, form, classes).problems if sample and found.problems else {}
    problems = [text for kind, text in found.problems.items() if kind not in as_sample]
    remarks = [f"as in the sample, {text}" for kind, text in found.problems.items() if kind in as_sample]
    if sample and filecmp.cmp(path, sample, shallow=False):
        remarks.append(f"every value is that of {sample}: this is the sample itself")
    for problem in problems:
        print(problem)
    for remark in (*found.remarks, *remarks):
        print(f"warning: {remark}", file=sys.stderr)
    near_ties = found.near_ties if form.numbers else near_ties_beside(path, form, classes, found.predicted)
    tell_labels(found.predicted, near_ties, counts, classes)
    if problems:
        raise UserError(f"{path}: would be rejected, {counted(len(problems), 'problem')}, compared with {what}")
    print(f"{path}: would be accepted, {counted(len(form.ids), 'row')} as in {what}")


def training_labels(work: Path, store: dict[str, Any] | None) -> tuple[tuple[str, ...], Ints]:
    """The classes and their numbers of training clips: of the store or, without one, of a run's checkpoint."""
    if store is not None:
        classes = tuple(store["classes"])
        count = Counter[str]()
        for part in read_clips(work, ["label", "split"]):
            count.update(part["label"][part["split"] == "train"])
        return classes, np.array([count[name] for name in classes])
    path = min((work / "runs").glob(f"*/fold*/{LAST}"), default=None)
    if path is None:
        raise UserError(f"{work}: neither a store nor a run to tell the classes; give the folder that does, -w FOLDER")
    from model import read_config

    run: RunConfig = read_config(path)["config"]
    return run.classes, np.array(run.class_counts)


def expected_form(
    config: InferenceConfig, store: dict[str, Any] | None, classes: tuple[str, ...]
) -> tuple[Form, str, Path | None]:
    """What the submission is compared with, and its name: a sample submission's rows, or else the clips to label.

    The sample submission is believed where it does not fit the classes.
    """
    folder, sample = config.input_path, config.sample_submission
    if sample is None and folder is not None:
        files = ClipFolder.scan(folder)
        sample, _ = sample_for_folder(config, files)
    elif sample is None and store is not None and store["sample_submission"]:
        sample = Path(store["sample_submission"])
    if sample is not None:
        reading = form_of(read_sample(sample), classes, config.positive)
        if not reading.form.titles:
            raise UserError(f"{sample}: {reading.misfit}")
        if reading.misfit:
            print(f"warning: {sample}: {reading.misfit}", file=sys.stderr)
        return reading.form, str(sample), sample
    if folder is not None:
        return read_form(None, files.names, classes, config.positive), str(folder), None
    ways = "give --sample-submission, or the clips with -i FOLDER"
    if store is None:
        raise UserError(f"{config.work} holds no store to tell the ids: {ways}")
    parts = chain(read_clips(config.work, ["fname", "split"]), [load_rejected(config.work)])
    names = Names(name for part in parts for name in part["fname"][part["split"] == "test"])
    if not len(names):
        raise UserError(f"{store['root']} has no test clips: {ways}")
    return read_form(None, names, classes, config.positive), f"the test clips of {config.work}", None


def near_ties_beside(path: Path, form: Form, classes: tuple[str, ...], predicted: Ints) -> int | None:
    """The number of near ties in the probabilities beside a submission of labels; None where they are not of those."""
    beside = probabilities_path(path)
    if not beside.exists():
        return None
    other = check_submission(beside, probability_form(form, classes), classes)
    different = int((predicted != other.predicted).sum())
    if other.problems or different:
        why = next(iter(other.problems.values()), "") or f"{different:,} labels are not its most probable classes"
        print(f"warning: {beside}: not used: {why}", file=sys.stderr)
        return None
    return other.near_ties
