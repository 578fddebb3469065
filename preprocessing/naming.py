"""What the names of files tell beside their folders: which part is the label, which part the speaker or recording.

A reading is proposed as options to type; it is used only when they are typed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from preprocessing.files import printable, recording_of
from preprocessing.matching import normalised
from preprocessing.words import CONDITIONS, COUNTERS, FIELD, MONTHS, MOST, NUMBERED, SPEAKERS, WORDS, WordGroups

ENDING = r"\.\w+$"
UUID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)
MEASURE = re.compile(r"\d+(?:db|k?hz|m?s|[ck]?m|rpm|bits?|kbps)")  # a condition, no speaker
YEAR, MONTH, DAY = r"(?:19|20)\d\d", "(?:0[1-9]|1[0-2])", "(?:0[1-9]|[12][0-9]|3[01])"
DATES = [  # rec20240131, 20240131t2359, 31012024, 240131, 31jan2024
    re.compile(rf"[^\W\d_]*{form}(?:t?\d{{4,6}}z?)?")
    for form in (
        YEAR + MONTH + DAY,
        DAY + MONTH + YEAR,
        r"\d\d" + MONTH + DAY,
        rf"\d\d?(?:{'|'.join(MONTHS)})(?:\d\d)?",
    )
]


class Reading(NamedTuple):
    """What names tell: in words, with counts and an example; and the options that take it."""

    says: str
    options: dict[str, str]  # fields of PreprocessConfig


class Shape(NamedTuple):
    """The names of a well-known data set: the form of a name without its ending, and patterns of its parts."""

    data_set: str
    stem: str
    label: str
    group: str


SHAPES = (
    Shape("ESC-50", r"\d-\d+-[A-Z](?:-\d+)?", rf"-[A-Z]-(?P<label>\d+){ENDING}", r"\d-(?P<group>\d+)-[A-Z]"),
    Shape("UrbanSound8K", r"\d+-\d-\d+-\d+", rf"-(?P<label>\d)-\d+-\d+{ENDING}",
          rf"(?P<group>\d+)-\d-\d+-\d+{ENDING}"),
    Shape("RAVDESS", r"0[1-3]-0[12]-0[1-8]-0[12]-0[12]-0[12]-\d\d", rf"-(?P<label>\d\d)(?:-\d\d){{4}}{ENDING}",
          rf"-(?P<group>\d\d){ENDING}"),
    Shape("CREMA-D", r"1\d{3}_[A-Z]{3}_[A-Z]{3}_[A-Z]{1,2}", rf"_(?P<label>[A-Z]{{3}})_[A-Z]+{ENDING}",
          r"(?P<group>1\d{3})_[A-Z]{3}_[A-Z]{3}_"),
    Shape("EMO-DB", r"\d\d[ab]\d\d[A-Z][a-z]?", rf"\d(?P<label>[A-Z])[a-z]?{ENDING}", r"(?P<group>\d\d)[ab]\d\d[A-Z]"),
    Shape("TESS", r"[OY]AF_[a-z]+_[a-z]+", rf"_(?P<label>[a-z]+){ENDING}", r"(?P<group>[OY]AF)_[a-z]+_"),
    Shape("SAVEE", r"(?:DC|JE|JK|KL)_(?:a|d|f|h|n|sa|su)\d\d", rf"_(?P<label>[a-z]+)\d+{ENDING}",
          r"(?P<group>DC|JE|JK|KL)_[a-z]+\d"),
)  # fmt: skip


class Column:
    """One part of all names: a word between separators, or a folder."""

    def __init__(
        self,
        name: str,  # for a message
        pattern: str,  # that finds it in a name, with {} for the name of the group
        values: Sequence[str],
        labels: Sequence[str],  # of each value
        folder: bool = False,
        before: str = "",  # the word that all names have in front of it, casefolded
    ) -> None:
        self.name, self.pattern, self.values, self.labels = name, pattern, values, labels
        self.folder, self.before = folder, before
        self.is_date = False
        self.count = Counter(values)
        self.pairs = Counter(zip(values, labels, strict=True))
        self.folded = {value.casefold() for value in self.count}
        self.in_capitals_too = len(self.folded) < len(self.count)  # no pattern joins these
        self.is_words = all(value.replace(" ", "").isalpha() for value in self.count)  # letters alone
        # its values are found under several labels; else it is finer than they are
        self.across = len(self.pairs) >= 1.5 * len(self.count)
        # something else tells clips apart that have its value and their label in common
        self.repeats = len(values) >= 1.5 * len(self.pairs)

    @cached_property
    def prefix(self) -> str | None:
        """The word before the number in all values, casefolded; None where they are no numbers."""
        found = {match[1] if (match := NUMBERED.fullmatch(value)) else None for value in self.folded}
        own = found.pop() if len(found) == 1 else None
        return own if own is None else own.strip("_- ") or self.before

    @cached_property
    def numbers(self) -> list[int]:
        return sorted(int(match[2]) for value in self.count if (match := NUMBERED.fullmatch(value)))

    @cached_property
    def digits(self) -> set[int]:
        """How many digits its numbers have."""
        return {len(match[2]) for value in self.count if (match := NUMBERED.fullmatch(value))}

    @cached_property
    def counts_up(self) -> bool:
        """Whether its numbers are those from 0 or 1 on, with few gaps."""
        if self.prefix is None:
            return False
        return self.numbers[0] <= 1 and self.numbers[-1] - self.numbers[0] < 1.25 * len(self.numbers) + 1

    @cached_property
    def named(self) -> bool:
        """Whether the word before its numbers or words says that they are speakers, recordings or the like."""
        return (self.before if self.prefix is None else self.prefix) in SPEAKERS

    @cached_property
    def is_said(self) -> bool:
        """Whether it holds words that labels are, or the ten digits."""
        if self.prefix == "" and self.digits == {1}:
            return self.numbers == list(range(10))
        return 2 * len(self.folded & WORDS) >= len(self.folded)

    @cached_property
    def able(self) -> bool:
        """Whether it may be a label or a group at all: most of its values, and of the clips, have company."""
        several = [clips for clips in self.count.values() if clips > 1]
        clips = len(self.values)
        recurs = 1 < len(self.count) <= clips / 2 and 2 * len(several) >= len(self.count) and 2 * sum(several) >= clips
        return recurs and not self.is_date and (self.prefix or "") not in COUNTERS and not self.folded <= CONDITIONS

    @cached_property
    def tells_label(self) -> bool:
        """Whether it is the label, or another word for it: (nearly) each label has one value."""
        best: dict[str, int] = defaultdict(int)
        for (_, label), clips in self.pairs.items():
            best[label] = max(best[label], clips)
        return sum(best.values()) >= MOST * len(self.values)

    @cached_property
    def holds_label(self) -> bool:
        """Whether the label stands in most of its values, beside something else: speakeroneFIVE."""
        folded = [(value.casefold(), label.casefold()) for value, label in self.pairs]
        return 2 * sum(label in value != label for value, label in folded) > len(folded)

    def splits(self, other: Column) -> bool:
        """Whether each value is of one value of `other` alone: a chapter of a speaker."""
        if self is other or len(other.count) > 1.02 * len(self.count):
            return False
        return len(set(zip(self.values, other.values, strict=True))) <= 1.02 * len(self.count)

    def shown(self, what: str, example: str) -> str:
        most = sorted(self.count, key=lambda value: (-self.count[value], value))[:3]
        more = ", ..." if len(self.count) > 3 else ""
        low, high = min(self.count.values()), max(self.count.values())
        clips = f"{low:,} clips each" if low == high else f"{low:,} to {high:,} clips each"
        return printable(
            f"{len(self.count):,} {what} in {self.name} ({', '.join(most)}{more}; {clips})"
            + (f", as in {example}" if example else "")
        )


def propose(names: Sequence[str], labels: Sequence[str]) -> Reading | None:
    """What the names of clips (relative paths) tell of groups, and of labels where `labels` are all empty.

    None where no reading stands out, or where it tells recordings from each other whose parts the clips are.
    """
    pairs = sorted((recording_of(name), label) for name, label in zip(names, labels, strict=True))
    if len(pairs) < 4:
        return None
    told = _read([name for name, _ in pairs], [label for _, label in pairs])
    recordings = {name for name, _ in pairs}
    if told and len(recordings) < len(pairs) and "group_pattern" in told.options:
        groups = {found["group"] for name in recordings if (found := re.search(told.options["group_pattern"], name))}
        return told if len(groups) < len(recordings) else None
    return told


def _read(names: Sequence[str], labels: Sequence[str]) -> Reading | None:
    """`propose` of names that are sorted."""
    labelled = any(labels)
    if shape := _by_shape(names, labels, labelled):
        return shape
    # a pattern takes letters and their accents for two, if they are
    columns, rows = _columns(names, labels) if all(normalised(name) == name for name in names) else ([], [])
    if columns and (place := _by_place(names, columns, rows, labelled)):
        return place
    loose = not columns or any(column.in_capitals_too or column.holds_label for column in columns)
    return _by_words(names, labels) if labelled and loose else None


def _stem(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0]


def _by_shape(names: Sequence[str], labels: Sequence[str], labelled: bool) -> Reading | None:
    """The reading of a well-known data set."""
    stems = [_stem(name) for name in names]
    for shape in SHAPES:
        rows = [row for row, found in enumerate(map(re.compile(shape.stem).fullmatch, stems)) if found]
        if len(rows) < MOST * len(names):
            continue
        own, place = [labels[row] for row in rows], f"their place in the names of {shape.data_set}"
        label, group = (
            Column(place, "", [found[1] if (found := find(names[row])) else "" for row in rows], own)
            for find in (re.compile(shape.label).search, re.compile(shape.group).search)
        )
        if not 1 < len(group.count) < len(rows):
            return None
        options, says = {"group_pattern": shape.group}, group.shown("groups", names[rows[0]])
        if not labelled or group.tells_label:  # folders are speakers
            options = {"label_pattern": shape.label, **options}
            says = f"{label.shown('labels', '')} and {says}"
        return Reading(says + _strays(len(names) - len(rows)), options)
    return None


def _strays(count: int) -> str:
    return f"; names of another form: {count:,}" if count else ""


def _by_place(names: Sequence[str], columns: Sequence[Column], rows: Sequence[int], labelled: bool) -> Reading | None:
    """The reading of names that have the same parts, `columns`, in the same order; `rows` are those names."""
    label = None
    if labelled:
        group = _group_column(columns)
        folders = next((column for column in columns if column.folder and column.tells_label), None)
        if folders is not None and (said := _said_by(folders, columns)):
            label, group = said, folders
    elif (label := _label_column(columns)) is None:
        return None
    else:
        again, _ = _columns([names[row] for row in rows], label.values)
        others = [own for own, column in zip(again, columns, strict=True)
                  if column is not label and not label.splits(column)]  # fmt: skip
        group = _group_column(others)
    found = {what: column for what, column in (("label", label), ("group", group)) if column}
    if not found:
        return None
    says = " and ".join(column.shown(f"{what}s", "") for what, column in found.items())
    options = {f"{what}_pattern": column.pattern.replace("{}", what) for what, column in found.items()}
    return Reading(f"{says}, as in {printable(names[rows[0]])}{_strays(len(names) - len(rows))}", options)


def _columns(names: Sequence[str], labels: Sequence[str]) -> tuple[list[Column], list[int]]:
    """The parts of the names of the most frequent form, but those that are the same in all, and the rows of those."""
    stems = [_stem(name) for name in names]
    if 2 * sum(map(bool, map(UUID.fullmatch, stems))) > len(stems):
        stems = [""] * len(stems)  # these tell nothing, but folders may
    forms = [(name.count("/"), tuple(FIELD.split(stem))) for name, stem in zip(names, stems, strict=True)]
    (depth, separators), size = Counter(forms).most_common(1)[0]
    if size < MOST * len(names):
        return [], []
    rows = [row for row, form in enumerate(forms) if form == (depth, separators)]
    own = [labels[row] for row in rows]
    folders, parts = [names[row].split("/")[:-1] for row in rows], [FIELD.findall(stems[row]) for row in rows]
    columns: list[Column] = []
    for level, values in enumerate(zip(*folders, strict=True)):
        pattern = "(?P<{}>[^/]+)/" + "[^/]+/" * (depth - 1 - level) + "[^/]+$"
        columns.append(Column(f"folder {level + 1}", pattern, values, own, folder=True))
    word = ""
    for at, values in enumerate(zip(*parts, strict=True)):
        before = _escaped(separators[at]) if at else "(?:^|/)" + _escaped(separators[0])
        after = r"[^\W_]+".join(map(_escaped, separators[at + 1 :])) + ENDING
        name = f"part {at + 1} of {len(separators) - 1} of the names"
        column = Column(name, f"{before}(?P<{{}}>[^\\W_]+){after}", values, own, before=word)
        word = values[0].casefold() if len(column.count) == 1 else ""
        columns.append(column)
        words = [value.rstrip("0123456789") for value in values]  # of yes03, no12 and yes14
        if column.prefix is None and all(map(NUMBERED.fullmatch, column.count)) and min(map(len, words)) > 2:
            pattern = f"{before}(?P<{{}}>[^\\W\\d_]+)\\d+{after}"
            columns.append(Column(f"the words before numbers in {name}", pattern, words, own))
    _mark_dates(columns)
    return [column for column in columns if len(column.count) > 1], rows


def _escaped(text: str) -> str:
    """`text` for a pattern, with no more backslashes than it takes."""
    return re.sub(r"([.^$*+?{}\[\]\\|()])", r"\\\1", text)


def _mark_dates(columns: Sequence[Column]) -> None:
    """Say of the columns that are dates that they are; beside a year small numbers and times are, too."""

    def is_year(column: Column) -> bool:
        return column.digits == {4} and column.prefix is not None and {n // 50 for n in column.numbers} <= {39, 40}

    year = any(map(is_year, columns))
    for column in columns:
        known = column.folded <= MONTHS or any(all(map(form.fullmatch, column.folded)) for form in DATES)
        beside = year and column.prefix is not None and (column.numbers[-1] < 60 or column.digits <= {4, 6})
        column.is_date = known or (beside and not column.named)


def _group_column(columns: Sequence[Column]) -> Column | None:
    """The part that tells the speaker or the recording; None where none stands out."""
    ranked = defaultdict[int, list[Column]](list)
    for at, column in enumerate(columns):
        finer = len(column.count) >= (2 if column.folder else 3) * len(set(column.labels))
        if not column.able or column.tells_label or column.in_capitals_too or not (column.across or finer):
            continue
        takes = column.is_words and max(map(len, column.count)) == 1  # A, B and C
        if column.is_said or column.holds_label or takes or all(map(MEASURE.fullmatch, column.folded)):
            continue
        counted = any(later.counts_up and not later.is_date and not later.tells_label for later in columns[at + 1 :])
        if column.named:
            ranked[0].append(column)
        elif column.folder:
            ranked[1].append(column)
        elif column.is_words or (column.repeats and not column.counts_up):
            ranked[2].append(column)
        elif column.repeats and len(column.count) > 2 and counted:  # else it may count these itself
            ranked[3].append(column)
    if not ranked:
        return None
    top = ranked[min(ranked)]
    best = [
        column
        for at, column in enumerate(top)
        if not any(  # of a chapter and its speaker the speaker, but not of a patient and the few devices
            len(other.count) >= min(5, len(column.count) / 5)
            and column.splits(other)
            and (other in top[:at] or not other.splits(column))
            for other in top
        )
    ]
    best.sort(key=lambda column: -len(column.count))
    return best[0] if len(best) == 1 or len(best[0].count) >= 1.5 * len(best[1].count) else None


def _label_column(columns: Sequence[Column]) -> Column | None:
    """The part that tells the label, where no folder does; None where none stands out."""
    able = [(at, column) for at, column in enumerate(columns) if column.able and not column.folder]
    words = [column for _, column in able if column.is_words]
    if said := [column for column in words if column.is_said]:
        return said[0]
    for at, column in able:
        digits = column.counts_up and column.digits == {1} and column.numbers[0] == 0 and not column.named
        takes = any(other.counts_up for other in columns[at + 1 :])  # else it counts these itself
        if digits and takes and (words or column.is_said):
            return column
    return words[0] if words else None


def _said_by(folders: Column, columns: Sequence[Column]) -> Column | None:
    """The part that tells what speakers say, if the folders are these and not the labels; None where not plainly so."""
    if folders.is_said or folders.folded <= CONDITIONS:
        return None
    if any(column.folder and column.splits(folders) for column in columns):  # these may be the speakers, of a region
        return None
    said = [
        column
        for column in columns
        if column is not folders and column.able and (column.prefix != "" or column.is_said)
        if 2 * len(column.pairs) >= len(column.count) * len(folders.count)  # most speakers say most of it
    ]
    said = [column for column in said if column.is_said] or said
    if len(said) != 1:
        return None
    codes = len(folders.count) > 2 and all(re.fullmatch(r"[^\W\d_]{0,6}[-_]?\d+", folder) for folder in folders.count)
    if codes and folders.prefix is not None:  # s01, 01, but neither fault1 nor 1
        codes = len(folders.prefix) < 3 and (
            folders.prefix != "" or any(name != "0" and name[0] == "0" for name in folders.count)
        )
    words = said[0].is_said and said[0].is_words
    return said[0] if folders.named or codes or words else None


def _by_words(names: Sequence[str], labels: Sequence[str]) -> Reading | None:
    """The reading of names whose words tell groups, in no fixed place and case."""
    found = WordGroups(names, labels)
    rows = [row for row, group in enumerate(found.groups) if group]
    if len(rows) < 0.8 * len(names) or found.several > 0.2:
        return None
    column = Column("the words of the names", "", [found.groups[row] for row in rows], [labels[row] for row in rows])
    if not (column.is_words or column.named or column.repeats):  # they may count clips
        return None
    if not (column.able and column.across and 3 * len(column.count) <= len(rows)) or column.tells_label:
        return None
    alone = len(names) - len(rows)
    says = column.shown("groups", names[rows[0]]) + (f"; names without any: {alone:,}" if alone else "")
    return Reading(says, {"group": "names"})
