"""The sample submission: what it holds, and the form that it asks for."""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from arg import CHALLENGES
from preprocessing.files import printable, some
from preprocessing.matching import folded
from preprocessing.tables import Format, read_rows, table_format
from system.errors import UserError
from util import Names

BLOCK_ROWS = 8192  # read or written at a time
MOST_LABELS = 5000  # different cells, after which no more are looked at
SEPARATORS = "|;, "  # of several labels in a cell
UNKNOWN = -1  # in place of a class
NO_CLASS = "none"  # of --positive: the column holds labels
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
PLACEHOLDERS = {"", "nan", "na", "n/a", "none", "null", "nil"}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words in the title of a column of labels, of probabilities, and of either
LABEL_WORDS = _words("label labels class classes classname category word keyword command species tag tags")
SHARE_WORDS = _words("probability probabilities prob probs proba score scores confidence likelihood p")
EITHER_WORDS = _words(
    "target prediction predictions predicted predict pred is has y value outcome result output answer"
)
POSITIVE = _words("1 yes true positive pos y t present presence event target")
NEGATIVE = _words(
    "0 no false negative neg n f absent absence background noise none nothing other others silence unknown normal rest"
)
NEGATIONS = ("not", "no", "non", "without")
ID_NAMES = _words("id fname file filename name clip clipid audio path rowid key recording")


@dataclass(frozen=True)
class Form:
    """What a submission must look like: columns for the id and for the label, or in its place probabilities."""

    header: tuple[str, ...]  # of all columns
    ids: Sequence[str]
    columns: tuple[int, ...] = ()  # of probabilities in place of the label: the class of each, -1 where it is none
    positive: int | None = None  # the class whose probability stands in place of the label; or UNKNOWN
    best: int = 1  # labels in a cell, the likeliest first
    separator: str = " "  # between them
    first_number: int | None = None  # where running numbers stand before the ids
    format: Format = Format("csv")  # noqa: RUF009 (never changed)
    comma: bool = False  # in place of the decimal point

    @property
    def id_at(self) -> int:
        """The column of the ids; the labels or probabilities are behind it."""
        return int(self.first_number is not None)

    @property
    def titles(self) -> tuple[str, ...]:
        """The header of the columns behind the ids."""
        return self.header[self.id_at + 1 :]

    @property
    def numbers(self) -> bool:
        """Whether the cells are probabilities."""
        return bool(self.columns) or self.positive is not None


@dataclass(frozen=True)
class Sample:
    """What a sample submission holds."""

    path: Path
    form: Form  # as far as it does not depend on the classes
    first_row: list[str]
    cells: tuple[str, ...]  # the different cells of a single column behind the ids, in order

    def shown(self) -> str:
        """Its header and its first row, for a message."""
        header, row = (_shown(cells, self.form.format) for cells in (self.form.header, self.first_row))
        return f"its header is {header}" + (f" and its first row {row}" if row else "")


class Reading(NamedTuple):
    """What a sample submission asks for, given the classes."""

    form: Form
    what: str  # the form in words
    misfit: str = ""  # why it does not fit the classes
    usable: bool = True  # whether a submission can be written in this form all the same


def read_sample(path: Path) -> Sample:
    """The sample submission in a CSV of any usual dialect. UserError where there is none."""
    shape = table_format(path)
    if shape.kind != "csv":
        raise UserError(f"{path}: this is {shape.kind.upper()}, and a sample submission is a CSV")
    try:
        with closing(read_rows(path, shape)) as rows:
            return _collected(path, shape, (cells for _, cells in rows))
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"{path}: not a sample submission ({error}); give a CSV in UTF-8") from None


def _collected(path: Path, shape: Format, rows: Iterator[list[str]]) -> Sample:
    header = tuple(next(rows, ()))
    if not header:
        raise UserError(f"{path}: not a sample submission, as it is empty")
    first = block = list(islice(rows, BLOCK_ROWS))
    number = _first_number(header, first)
    at, ids, cells, comma = int(number is not None), Names(), dict[str, None](), False
    while block:
        if wide := next((row for row in block if len(row) > len(header)), None):
            found, asked = _shown(wide, shape), _shown(header, shape)
            raise UserError(f"{path}: not a sample submission, as {found} has more cells than the header {asked}")
        if number is not None and not _are_numbered(block, number + len(ids)):
            raise UserError(f"{path}: not a sample submission (its first column does not number the rows throughout)")
        ids.extend(row[at] if at < len(row) else "" for row in block)
        values = [cell.strip() for row in block for cell in row[at + 1 :]]
        if len(header) == at + 2 and len(cells) < MOST_LABELS:
            cells.update(dict.fromkeys(values))
        comma = comma or (shape.delimiter == ";" and any("," in cell and NUMBER.fullmatch(cell) for cell in values))
        block = list(islice(rows, BLOCK_ROWS))
    form = Form(header, ids, first_number=number, format=shape, comma=comma)
    return Sample(path, form, first[0] if first else [], tuple(cells))


def _shown(cells: Sequence[str], shape: Format) -> str:
    return printable(shape.delimiter.join(cells[:12]))


def _first_number(header: tuple[str, ...], rows: list[list[str]]) -> int | None:
    """With what number the first column begins, where it numbers the rows and the ids are in the second."""
    if len(header) < 3 or not rows or any(len(row) < 3 for row in rows) or rows[0][0] not in ("0", "1"):
        return None
    nameless = re.fullmatch(r"(unnamed(: 0)?|index)?", header[0].strip().lower())
    texts = not all(NUMBER.fullmatch(row[1].strip()) for row in rows)
    are_ids = compact(header[1]) in ID_NAMES or (nameless and texts)
    return int(rows[0][0]) if are_ids and _are_numbered(rows, int(rows[0][0])) else None


def _are_numbered(rows: list[list[str]], first: int) -> bool:
    return all(row[0] == str(number) for number, row in enumerate(rows, first))


# ----------------------------------------------------------------------------------------------------- the form


def form_of(sample: Sample, classes: tuple[str, ...], positive: str | None = None) -> Reading:
    """The form that a sample submission asks for; `positive` is what --positive says, where it is given.

    UserError where `positive` is no class.
    """
    if positive in classes:
        return _share(sample, classes, positive)
    if positive not in (None, NO_CLASS):
        raise UserError(f"--positive {positive}: no class; use {' or '.join(classes)}, or {NO_CLASS} for labels")
    if len(sample.form.titles) != 1:
        return _columns(sample, classes)
    return _single(sample, classes, may_be_share=positive is None)


def _columns(sample: Sample, classes: tuple[str, ...]) -> Reading:
    """A column a class."""
    titles = sample.form.titles
    columns = classes_called(titles, classes)
    form = replace(sample.form, columns=tuple(columns))
    what = "an id and a column for each class"
    if sorted(columns) == list(range(len(classes))):
        return Reading(form, what)
    absent = [name for index, name in enumerate(classes) if index not in columns]
    extra = [title for title, index in zip(titles, columns, strict=True) if index < 0]
    why = [f"{sample.shown()}: need an id and a label, or an id and a column for each of {', '.join(classes)}"]
    if not absent and not extra:
        why.append("a class has two columns")
    elif len(absent) < len(classes):  # else no column is called as a class
        if absent:
            why.append(f"no column for {some(absent, 'class', 'classes')}")
        if extra:
            why += [f"no class for {some(extra, 'column')}", _ways_out(extra, classes)]
        else:
            pairs = " ".join(shlex.quote(f"{name}=") for name in absent[:5])
            why[-1] += f", without which rows would not sum to 1; preprocess.py --map {pairs} trains without"
    return Reading(form, what, "; ".join(why), usable=False)


def classes_called(titles: Sequence[str], classes: tuple[str, ...]) -> list[int]:
    """The class of each title, -1 where it is none.

    Capitals, signs between words, and words that all titles share, as prob_, do not matter where no two classes are
    alike without them.
    """
    exact = {name: index for index, name in enumerate(classes)}
    index = {compact(name): index for name, index in exact.items()}
    if all(title in exact for title in titles) or len(index) < len(classes):
        return [exact.get(title.strip(), exact.get(title, -1)) for title in titles]
    found = [index.get(compact(title), -1) for title in titles]
    if len(titles) > 1 and max(found) < 0:
        words = [words_in(title) for title in titles]
        shared = set(words[0]).intersection(*words)
        found = [index.get("".join(word for word in own if word not in shared), -1) for own in words]
    return found if len(set(found) - {-1}) == sum(at >= 0 for at in found) else [-1] * len(titles)


def compact(text: str) -> str:
    """A name without capitals and signs between words."""
    return re.sub(r"[\W_]+", "", folded(text)) or folded(text)


def words_in(title: str) -> list[str]:
    """The words of prob_cat, prob(cat) or probCat."""
    return re.findall(r"[^\W_]+", folded(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", title)))


def _single(sample: Sample, classes: tuple[str, ...], may_be_share: bool) -> Reading:
    """One column behind the ids: a label, several labels, or the probability of a class."""
    title, cells = sample.form.titles[0], [cell for cell in sample.cells if cell]
    several = _several(sample, classes)
    if several and _is_label(title) and not several.misfit:  # with classes 0 and 1, "0,1" may be a number
        return several
    if may_be_share and _numbers(sample) and _is_share(title, cells, classes):
        return _share(sample, classes)
    foreign = [cell for cell in cells if cell not in classes]
    if foreign and several:
        return several
    if len(cells) == 1 and (_numbers(sample) or cells[0].lower() in PLACEHOLDERS or not compact(cells[0]).isalnum()):
        foreign = []  # it stands for any label
    return Reading(sample.form, "an id and a label", _foreign(foreign, classes))


def _foreign(labels: Sequence[str], classes: tuple[str, ...]) -> str:
    """What to say of labels that are no classes."""
    if not labels:
        return ""
    said = f"labels that are no class: {some(labels, 'label')}"
    called = classes_called(labels, classes)
    if min(called) >= 0:
        pairs = " ".join(shlex.quote(f"{classes[at]}={printable(label)}")
                         for at, label in zip(called[:5], labels, strict=False))  # fmt: skip
        return f"{said}; preprocess.py --map {pairs} calls them so"
    return f"{said}; classes are {some(classes, 'class', 'classes')}; {_ways_out(labels, classes)}"


def _ways_out(labels: Sequence[str], classes: Sequence[str]) -> str:
    """The options of preprocess.py that make classes of labels that are none."""
    plain = [compact(label) for label in labels]
    for name, words in CHALLENGES.items():
        if set(words) < set(classes) and set(plain) <= {"silence", "unknown"}:
            return f"preprocess.py --challenge {name} makes the classes of that challenge"
    ways = []
    if not {"silence", "background", "backgroundnoise"}.isdisjoint(plain):
        ways.append("preprocess.py --silence N makes a class of noise recordings")
    if others := [label for label in labels if compact(label) in ("unknown", "other", "others", "rest")]:
        ways.append(f"preprocess.py --map OLD={others[0]} joins classes in one")
    return " or ".join(ways) or "preprocess.py --map OLD=NEW renames classes"


def _is_label(title: str) -> bool:
    """Whether a column is called as labels are."""
    words = set(words_in(title))
    return bool(words & LABEL_WORDS) and not words & SHARE_WORDS


def _numbers(sample: Sample) -> bool:
    """Whether the cells of the single column are numbers, or empty."""
    cells = [cell for cell in sample.cells if cell.lower() not in ("", "nan")]
    return all(NUMBER.fullmatch(cell) and (sample.form.comma or "," not in cell) for cell in cells)


def _is_share(title: str, cells: Sequence[str], classes: tuple[str, ...]) -> bool:
    """Whether a column of numbers holds the probability of a class, and no labels that are numbers."""
    words = set(words_in(title))
    share, either = bool(words & SHARE_WORDS), bool(words & EITHER_WORDS)
    called = _named_class(title, classes) is not None
    foreign = [cell for cell in cells if cell not in classes and cell.lower() != "nan"]
    if any(float(cell.replace(",", ".")) % 1 for cell in foreign):
        return True
    labels = bool(cells) and not foreign
    if len(classes) > 2:
        return not labels and (share or called)
    return share or (not _is_label(title) and (either or bool(foreign) or (called and not labels)))


def _share(sample: Sample, classes: tuple[str, ...], positive: str | None = None) -> Reading:
    """The probability of one class. UserError where there are other columns than one of numbers."""
    if len(sample.form.titles) != 1 or not _numbers(sample):
        raise UserError(f"--positive {positive}: {sample.path} has no single column of numbers; {sample.shown()}")
    title = sample.form.titles[0]
    index = classes.index(positive) if positive else _positive_class(title, classes)
    if index is not None:
        return Reading(replace(sample.form, positive=index), f"an id and the probability of {classes[index]}")
    question = f"whose probability is column {printable(title)}? say inference.py --positive with one of"
    misfit = f"{sample.shown()}: {question} {', '.join(classes)}"
    return Reading(replace(sample.form, positive=UNKNOWN), "an id and a probability", misfit, usable=False)


def _named_class(title: str, classes: tuple[str, ...]) -> int | None:
    """The class that a column is called after, as is_whale, whale_probability or p(whale) is."""
    index = {compact(name): index for index, name in enumerate(classes)}
    return index.get(compact(title), index.get("".join(_own_words(title))))


def _own_words(title: str) -> list[str]:
    """The words of a title but those that any column may have."""
    usual = SHARE_WORDS | EITHER_WORDS | LABEL_WORDS | POSITIVE | {"of", "the", "contains"}
    return [word for word in words_in(title) if word not in usual]


def _positive_class(title: str, classes: tuple[str, ...]) -> int | None:
    """The class that a column of probabilities is meant for: the one in its title, else the positive one of two.

    Yes, 1 and the like are positive; so is whatever stands against no, background and the like, or against its own
    negation, unless the title names something else. None where it is not clear.
    """
    if (named := _named_class(title, classes)) is not None:
        return named
    if len(classes) != 2:
        return None
    one, other = map(compact, classes)
    for index, positive, negative in ((0, one, other), (1, other, one)):
        if positive in POSITIVE and negative not in POSITIVE:
            return index
        against = negative in NEGATIVE or negative in {word + positive for word in NEGATIONS}
        if against and positive not in NEGATIVE and not _own_words(title):
            return index
    return None


def _several(sample: Sample, classes: tuple[str, ...]) -> Reading | None:
    """Several labels in a cell, the likeliest first; None where no separator makes classes of most of the words."""
    alike = set(map(compact, classes))
    for separator in SEPARATORS:
        lists = {cell: words_of(cell, separator) for cell in sample.cells if cell}
        words = list(dict.fromkeys(word for found in lists.values() for word in found))
        longest = max(lists, key=lambda cell: len(lists[cell]), default="")
        best = len(lists.get(longest, ()))
        if best > 1 and 2 * sum(compact(word) in alike for word in words) >= len(words):
            between = re.search(rf"\s*{re.escape(separator)}\s*", longest) if separator != " " else None
            form = replace(sample.form, best=min(best, len(classes)), separator=between[0] if between else " ")
            what = f"an id and the {form.best} likeliest labels, with {form.separator!r} between"
            return Reading(form, what, _foreign([word for word in words if word not in classes], classes))
    return None


def words_of(cell: str, separator: str) -> list[str]:
    """The labels in a cell."""
    return [word.strip() for word in cell.split(separator.strip() or None)]
