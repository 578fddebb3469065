"""What is wrong with a submission, as competition platforms see it, and the command that says so (`--check`).

They are strict: UTF-8, commas, cells in double quotes or not, lines that end in LF or CRLF, blank lines; every id once,
in the sample's order, and nothing more. A byte order mark is remarked on.
"""

from __future__ import annotations

import csv
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
from prediction.forms import BLOCK_ROWS, Form, hashes, probabilities_path, probability_form, read_form, read_sample
from preprocessing.files import ClipFolder, is_test_root
from preprocessing.store import load_rejected, load_store, read_clips
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


@dataclass(frozen=True)
class Check:
    """What is in a submission, and what is wrong with it."""

    problems: tuple[str, ...]  # for each of which it would be rejected, with their number and the first culprits
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

    def lines(self) -> Iterator[str]:
        for kind, count in self.count.items():
            more = ", ..." if count > CULPRITS_SHOWN else ""
            yield f"{kind}: {count:,} ({', '.join(self.first[kind])}{more})"


def check_submission(path: Path, form: Form, classes: tuple[str, ...]) -> Check:
    """Compare a CSV with the form that it must have, in blocks of rows. UserError where the form's ids are not unique.

    All problems are listed, but for those behind a place where it cannot be read on.
    """
    import pandas as pd

    index = pd.Index(hashes(form.ids))
    if not index.is_unique:
        twice = form.ids[int(index.duplicated().argmax())]
        raise UserError(f"{twice}: stands more than once among the ids that a submission must have")
    problems, wanted, near_ties = Problems(), len(form.header), 0
    predicted = np.full(len(index), -1, np.int32)
    seen, last = np.zeros(len(index), np.bool_), -1  # the ids so far, and the place of the last one
    with path.open("rb") as start:
        mark = start.read(3) == b"\xef\xbb\xbf"
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = readable(file, problems)
        _, header = next(rows, (1, []))
        while block := list(islice(rows, BLOCK_ROWS)):
            place = index.get_indexer(hashes(cells[0] for _, cells in block))
            known = place >= 0
            new = known & ~pd.Series(place).duplicated().to_numpy()
            new[known] &= ~seen[place[known]]
            seen[place[new]] = True
            order = np.append(last, place[new])
            last, backwards = order[-1], new.copy()
            backwards[new] = np.diff(order) < 0
            sized = np.array([len(cells) == wanted for _, cells in block])
            empty = np.array(["" in cells for _, cells in block]) & sized
            problems.add(
                f"rows without exactly {wanted} cells",
                (f"{name(row)} has {len(row[1])}" for row in compress(block, ~sized)),
            )
            for kind, mask in (
                ("rows with an empty cell", empty),
                ("unknown ids", ~known),
                ("rows out of order", backwards),
                ("doubled ids", known & ~new),
            ):
                problems.add(kind, map(name, compress(block, mask)))
            whole = sized & ~empty
            label, near = predictions(list(compress(block, whole)), form, classes, problems)
            near_ties += near
            predicted[place[whole & known]] = label[known[whole]]
    problems.add("missing ids", (shown(form.ids[row]) for row in np.flatnonzero(~seen).tolist()))
    wrong = []
    if tuple(header) != form.header:
        found, asked = (",".join(map(shown, cells)) for cells in (header, form.header))
        wrong = [f"its header is {found or 'missing'}, not {asked}"]
    remarks = ["it begins with a byte order mark, which some platforms take for a part of the header"] if mark else []
    return Check((*wrong, *problems.lines()), tuple(remarks), predicted, near_ties if form.probabilities else None)


def readable(file: TextIO, problems: Problems) -> Iterator[Row]:
    """The rows as far as the file can be read, without blank lines."""
    reader = csv.reader(file, strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except UnicodeDecodeError:
        problems.add("it is not UTF-8 further on", [f"after line {reader.line_num}"])
    except csv.Error as error:
        problems.add("it cannot be read further on", [f"line {reader.line_num}: {error}"])


def predictions(rows: list[Row], form: Form, classes: tuple[str, ...], problems: Problems) -> tuple[Ints, int]:
    """The class of each row, which has as many cells as it should, and the number of near ties.

    That is the class which it names or of its largest probability, or -1.
    """
    class_of = {label: index for index, label in enumerate(classes)}
    if not form.probabilities:
        label = np.array([class_of.get(cells[1], -1) for _, cells in rows], np.int32)
        foreign = (f"{name(row)}: {shown(row[1][1])}" for row in compress(rows, label < 0))
        problems.add("labels that are no class", foreign)
        return label, 0
    columns = np.array([class_of[title] for title in form.header[1:]], np.int32)
    value = np.array([[number(cell) for cell in cells[1:]] for _, cells in rows]).reshape(-1, len(columns))
    numbers = np.all((value >= 0) & (value <= 1), axis=1)
    with np.errstate(invalid="ignore"):  # infinities
        total = value.sum(1)
        good = numbers & (np.abs(total - 1) <= SUM_TOLERANCE)
    problems.add("rows whose probabilities are not all numbers from 0 to 1", map(name, compress(rows, ~numbers)))
    other = numbers & ~good
    sums = (f"{name(row)}: {sum_:.3g}" for row, sum_ in zip(compress(rows, other), total[other], strict=True))
    problems.add("rows whose probabilities do not sum to 1", sums)
    best = np.sort(value[good], axis=1)[:, -2:]  # with a single class there is no second
    near = int((best[:, -1] - best[:, 0] < NEAR_TIE).sum()) if len(columns) > 1 else 0
    return np.where(good, columns[value.argmax(1)], -1), near


def number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan


def name(row: Row) -> str:
    """A row by its line and its id."""
    line, cells = row
    return f"line {line} {shown(cells[0])}"


def shown(cell: str) -> str:
    """A cell of a file from anywhere, for a line of a message."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in cell[:CELL_SHOWN])
    return text + ("..." if len(cell) > CELL_SHOWN else "")


def check(config: InferenceConfig, path: Path) -> None:
    """Say what is wrong with a CSV, and how its labels look; UserError where it would be rejected."""
    store = load_store(config.work) if (config.work / STORE).exists() else None
    classes, counts = training_labels(config.work, store)
    form, what = expected_form(config, store, classes)
    found = check_submission(path, form, classes)
    for problem in found.problems:
        print(problem)
    for remark in found.remarks:
        print(f"warning: {remark}", file=sys.stderr)
    near_ties = found.near_ties if form.probabilities else near_ties_beside(path, form, classes, found.predicted)
    tell_labels(found.predicted, near_ties, counts, classes)
    if found.problems:
        kinds = f"{len(found.problems)} problem{'s' if len(found.problems) > 1 else ''}"
        raise UserError(f"{path}: would be rejected, {kinds}, compared with {what}")
    print(f"{path}: would be accepted, {len(form.ids):,} rows as in {what}")


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
        raise UserError(
            f"{work} holds neither a store nor a run to tell the classes: give the folder that does, -w FOLDER"
        )
    from model import read_config

    run: RunConfig = read_config(path)["config"]
    return run.classes, np.array(run.class_counts)


def expected_form(config: InferenceConfig, store: dict[str, Any] | None, classes: tuple[str, ...]) -> tuple[Form, str]:
    """What the submission is compared with, and its name: a sample submission's rows, or else the clips to label."""
    folder, sample = config.input_path, config.sample_submission
    if sample is None and store is not None and store["sample_submission"]:
        test_root = store["test_root"] and Path(store["test_root"])
        sample = Path(store["sample_submission"]) if folder is None or is_test_root(test_root, folder) else None
    if sample is not None:
        return read_sample(sample, classes), str(sample)
    if folder is not None:
        return read_form(None, ClipFolder.scan(folder).names, classes), str(folder)
    if store is None:
        raise UserError(
            f"{config.work} holds no store to tell the ids: give --sample-submission, or the clips with -i FOLDER"
        )
    names = Names(names_of_tests(config.work))
    if not len(names):
        raise UserError(f"{store['root']} has no test clips: give --sample-submission, or the clips with -i FOLDER")
    return read_form(None, names, classes), f"the test clips of {config.work}"


def names_of_tests(work: Path) -> Iterator[str]:
    """The names of a store's test clips, with those that could not be read."""
    rejected = load_rejected(work)
    for part in chain(read_clips(work, ["fname", "split"]), [rejected]):
        yield from part["fname"][part["split"] == "test"]


def near_ties_beside(path: Path, form: Form, classes: tuple[str, ...], predicted: Ints) -> int | None:
    """The number of near ties in the probabilities beside a submission of labels; None where they are not of those."""
    beside = probabilities_path(path)
    if not beside.exists():
        return None
    other = check_submission(beside, probability_form(form, classes), classes)
    different = int((predicted != other.predicted).sum())
    if other.problems or different:
        why = "".join(other.problems[:1]) or f"{different:,} labels are not its most probable classes"
        print(f"warning: {beside}: not used: {why}", file=sys.stderr)
        return None
    return other.near_ties
