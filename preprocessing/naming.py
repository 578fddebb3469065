"""What the names of files tell beside their folders: which part is the label, which part the speaker or recording.

A reading is proposed as options to type, never taken by itself.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from preprocessing.files import printable, recording_of
from preprocessing.matching import normalised
from preprocessing.words import CONDITIONS, COUNTERS, DAYS, FIELD, MOST, NUMBERED, SPEAKERS, WORDS, WordGroups

ENDING = r"\.\w+$"
UUID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)


MONTH, DAY, TIME = "(?:0[1-9]|1[0-2])", "(?:0[1-9]|[12][0-9]|3[01])", r"(?:t?\d{4,6}z?)?"
DATES = [  # with letters in front: rec20240131; the last is 31jan2024
    re.compile(rf"[^\W\d_]*{form}{TIME}")
    for form in (
        *(rf"(?:19|20)\d\d{MONTH}{DAY}", rf"{DAY}{MONTH}(?:19|20)\d\d", rf"{MONTH}{DAY}(?:19|20)\d\d"),
        *(rf"\d\d{MONTH}{DAY}", rf"{DAY}{MONTH}\d\d", rf"{MONTH}{DAY}\d\d"),
        r"\d{1,2}(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*(?:\d\d)?(?:\d\d)?",
    )
]


class Reading(NamedTuple):
    """What names tell: in words, with counts and an example; and the options that take it."""

    says: str
    options: dict[str, str]  # fields of PreprocessConfig


class Shape(NamedTuple):
    """The names of a data set that is well known: of a file without its ending, and where its parts are."""

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
        self, name: str, pattern: str, values: Sequence[str], labels: Sequence[str], folder: bool = False
    ) -> None:
        self.name = name  # for a message
        self.pattern = pattern  # that finds it in a name, with {} for the name of the group
        self.values = values
        self.folder = folder
        self.before = ""  # the word that all names have in front of it
        self.is_date = False
        self.count = Counter(values)
        self.own = labels  # of each value
        self.pairs = Counter(zip(values, labels, strict=True))
        self.labels = Counter(labels)

    @cached_property
    def prefix(self) -> str | None:
        """The word before the number in all values, casefolded; None where they are no numbers."""
        found = {match[1].casefold() if (match := NUMBERED.fullmatch(value)) else None for value in self.count}
        own = found.pop() if len(found) == 1 else None
        return own if own is None else own.strip("_- ") or self.before

    @cached_property
    def numbers(self) -> list[int]:
        return sorted(int(NUMBERED.fullmatch(value)[2]) for value in self.count)  # type: ignore[index]

    @cached_property
    def counts_up(self) -> bool:
        """Whether its numbers are those from 0 or 1 on, with few gaps."""
        if self.prefix is None:
            return False
        return self.numbers[0] <= 1 and self.numbers[-1] - self.numbers[0] < 1.25 * len(self.numbers) + 1

    @cached_property
    def counts_letters(self) -> bool:
        """Whether its values are the first letters of the alphabet: takes."""
        letters = sorted({value.casefold() for value in self.count})
        return (
            not self.named
            and all(map(re.compile("[a-z]").fullmatch, letters))
            and ord(letters[-1]) - ord("a") <= len(letters)
        )

    @cached_property
    def named(self) -> bool:
        """Whether the word before its numbers or words says that they are speakers, recordings or the like."""
        return (self.before if self.prefix is None else self.prefix) in SPEAKERS

    @cached_property
    def is_words(self) -> bool:
        """Letters alone."""
        return all(value.replace(" ", "").isalpha() for value in self.count)

    @cached_property
    def is_said(self) -> bool:
        """Whether it holds words that labels are, or the ten digits."""
        if self.prefix == "" and all(len(value) == 1 for value in self.count):
            return self.numbers == list(range(10))
        return 2 * sum(value.casefold() in WORDS for value in self.count) >= len(self.count)

    @cached_property
    def recurs(self) -> bool:
        """Whether most of its values, and of the clips, have company."""
        several = [clips for clips in self.count.values() if clips > 1]
        clips = len(self.values)
        return 1 < len(self.count) <= clips / 2 and 2 * len(several) >= len(self.count) and 2 * sum(several) >= clips

    @cached_property
    def tells_label(self) -> bool:
        """Whether it is the label, or another word for it: (nearly) each label has one value."""
        best: dict[str, int] = defaultdict(int)
        for (_, label), clips in self.pairs.items():
            best[label] = max(best[label], clips)
        return sum(best.values()) >= MOST * len(self.values)

    @cached_property
    def across(self) -> bool:
        """Whether its values are found under several labels; else it is finer than they are."""
        return len(self.pairs) >= 1.5 * len(self.count)

    @cached_property
    def repeats(self) -> bool:
        """Whether something else tells clips apart that have its value and their label in common."""
        return len(self.values) >= 1.5 * len(self.pairs)

    @cached_property
    def in_capitals_too(self) -> bool:
        """Whether values differ only in capitals: no pattern joins them."""
        return len({value.casefold() for value in self.count}) < len(self.count)

    @cached_property
    def holds_label(self) -> bool:
        """Whether the label stands in most of its values, beside something else: speakeroneFIVE."""
        folded = [(value.casefold(), label.casefold()) for value, label in self.pairs]
        return 2 * sum(label in value != label for value, label in folded) > len(folded)

    def splits(self, other: Column) -> bool:
        """Whether each value is of one value of `other` alone: a chapter of a speaker."""
        return len(set(zip(self.values, other.values, strict=True))) <= 1.02 * len(self.count)

    def under(self, label: Column) -> Column:
        """The same with the values of another column as labels."""
        column = Column(self.name, self.pattern, self.values, label.values, self.folder)
        column.before, column.is_date = self.before, self.is_date
        return column

    def option(self, group: str) -> str:
        return self.pattern.replace("{}", group)

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
    told = _read([name for name, _ in pairs], [label for _, label in pairs])
    recordings = {name for name, _ in pairs}
    if told and len(recordings) < len(pairs) and "group_pattern" in told.options:
        groups = {found["group"] for name in recordings if (found := re.search(told.options["group_pattern"], name))}
        return told if len(groups) < len(recordings) else None
    return told


def _read(names: Sequence[str], labels: Sequence[str]) -> Reading | None:
    """`propose` of names that are sorted."""
    if len(names) < 4:
        return None
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
    few = names[:: math.ceil(len(names) / 100)]
    for shape in SHAPES:
        fits = re.compile(shape.stem).fullmatch
        if sum(bool(fits(_stem(name))) for name in few) < len(few) / 2:
            continue
        rows = [row for row, name in enumerate(names) if fits(_stem(name))]
        if len(rows) < MOST * len(names):
            continue
        place = f"their place in the names of {shape.data_set}"
        found = {
            what: [match[what] if (match := re.search(pattern, names[row])) else "" for row in rows]
            for what, pattern in (("group", shape.group), ("label", shape.label))
        }
        group, label = (Column(place, "", found[what], [labels[row] for row in rows]) for what in found)
        if not any(clips > 1 for clips in group.count.values()) or len(group.count) < 2:
            return None
        options = {"group_pattern": shape.group}
        says = group.shown("groups", names[rows[0]])
        if not labelled or group.tells_label:  # folders are speakers
            if "" in label.count:
                return None
            options = {"label_pattern": shape.label, **options}
            says = f"{label.shown('labels', '')} and {says}"
        return Reading(says + _strays(len(names) - len(rows)), options)
    return None


def _strays(count: int) -> str:
    return f"; names of another form: {count:,}" if count else ""


def _by_place(names: Sequence[str], columns: Sequence[Column], rows: Sequence[int], labelled: bool) -> Reading | None:
    """The reading of names that have the same parts, `columns`, in the same order; `rows` are those names."""
    example, strays = names[rows[0]], _strays(len(names) - len(rows))
    if not labelled:
        label = _label_column(columns)
        if label is None:
            return None
        others = [column for column in columns if column is not label and not label.splits(column)]
        group = _group_column([column.under(label) for column in others])
    else:
        label, folders = None, next((column for column in columns if column.folder and column.tells_label), None)
        group = _group_column(columns)
        if folders is not None and (said := _said_by(folders, columns)):
            label, group = said, folders
    if group is None and label is None:
        return None
    options, says = {}, []
    if label is not None:
        options["label_pattern"] = label.option("label")
        says.append(label.shown("labels", "" if group else example))
    if group is not None:
        options["group_pattern"] = group.option("group")
        says.append(group.shown("groups", example))
    return Reading(" and ".join(says) + strays, options)


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
    levels = [
        Column(
            f"folder {level + 1}",
            "(?P<{}>[^/]+)/" + "[^/]+/" * (depth - 1 - level) + "[^/]+$",
            [part[level] for part in folders],
            own,
            folder=True,
        )
        for level in range(depth)
    ]
    columns: list[Column] = []
    for at in range(len(separators) - 1):
        before = _escaped(separators[at]) if at else "(?:^|/)" + _escaped(separators[0])
        after = r"[^\W_]+".join(map(_escaped, separators[at + 1 :])) + ENDING
        name, values = f"part {at + 1} of {len(separators) - 1} of the names", [part[at] for part in parts]
        column = Column(name, f"{before}(?P<{{}}>[^\\W_]+){after}", values, own)
        if columns and len(columns[-1].count) == 1:
            column.before = columns[-1].values[0].casefold()
        columns.append(column)
        columns += _word_and_number(column, before, after)
    _mark_dates(levels)
    _mark_dates(columns)
    return [column for column in (*levels, *columns) if len(column.count) > 1], rows


def _escaped(text: str) -> str:
    """`text` for a pattern, with no more backslashes than it takes."""
    return re.sub(r"([.^$*+?{}\[\]\\|()])", r"\\\1", text)


def _word_and_number(column: Column, before: str, after: str) -> list[Column]:
    """The words in front of the numbers of a column that has several, as a column: of yes03, no12 and yes14."""
    if column.prefix is not None or not all(map(NUMBERED.fullmatch, column.count)):
        return []
    words = [value.rstrip("0123456789") for value in column.values]
    if any(len(word) < 3 for word in words) or 2 * len(set(words)) > len(column.count):
        return []
    pattern = f"{before}(?P<{{}}>[^\\W\\d_]+)\\d+{after}"
    return [Column(f"the words before numbers in {column.name}", pattern, words, column.own)]


def _mark_dates(columns: Sequence[Column]) -> None:
    """Say of the columns that are dates, or times after these, that they are."""

    def within(at: int, low: int, high: int, *digits: int) -> bool:
        if not 0 <= at < len(columns) or columns[at].prefix is None:
            return False
        sized = all(len(value) - len(value.rstrip("0123456789")) in digits for value in columns[at].count)
        return sized and low <= columns[at].numbers[0] and columns[at].numbers[-1] <= high

    for at, column in enumerate(columns):
        last = at - 1
        values = {value.casefold() for value in column.count}
        if values <= DAYS or any(all(map(form.fullmatch, values)) for form in DATES):
            last = at
        for year, month, day in ((at, at + 1, at + 2), (at + 2, at + 1, at), (at + 2, at, at + 1)):
            if within(year, 1990, 2039, 4) and within(month, 1, 12, 1, 2) and within(day, 1, 31, 1, 2):
                last = at + 2
        while last >= at and (within(last + 1, 0, 59, 2) or within(last + 1, 0, 23_59_59, 4, 6)):
            last += 1
        for dated in columns[at : last + 1]:
            dated.is_date = True


def _able(column: Column) -> bool:
    """Whether a column may be a label or a group at all."""
    return column.recurs and not column.is_date and (column.prefix or "") not in COUNTERS


def _counts_on(columns: Sequence[Column]) -> bool:
    """Whether some column counts takes, so that another number need not."""
    return any(column.counts_up and not column.is_date and not column.tells_label for column in columns)


def _group_column(columns: Sequence[Column]) -> Column | None:
    """The part that tells the speaker or the recording; None where none stands out."""
    ranked = defaultdict(list)
    for at, column in enumerate(columns):
        finer = len(column.count) >= (2 if column.folder else 3) * len(column.labels)
        if not _able(column) or column.tells_label or column.in_capitals_too or not (column.across or finer):
            continue
        if (
            column.is_said
            or column.holds_label
            or column.counts_letters
            or {value.casefold() for value in column.count} <= CONDITIONS
        ):
            continue
        if column.named:
            ranked[0].append(column)
        elif column.folder:
            ranked[1].append(column)
        elif column.is_words or (column.repeats and not column.counts_up):
            ranked[2].append(column)
        elif column.repeats and len(column.count) > 2 and _counts_on(columns[at + 1 :]):
            ranked[3].append(column)
    if not ranked:
        return None
    best = list[Column]()
    for column in ranked[min(ranked)]:
        # of a chapter and its speaker the speaker, but not of a patient and the few devices
        coarser = [other for other in ranked[min(ranked)] if other is not column and column.splits(other)]
        coarser = [other for other in coarser if len(other.count) >= min(5, len(column.count) / 5)]
        if not any(other in best or not other.splits(column) for other in coarser):
            best.append(column)
    best.sort(key=lambda column: -len(column.count))
    return best[0] if len(best) == 1 or len(best[0].count) >= 1.5 * len(best[1].count) else None


def _label_column(columns: Sequence[Column]) -> Column | None:
    """The part that tells the label, where no folder does; None where none stands out."""
    words = [column for column in columns if not column.folder and _able(column) and column.is_words]
    words = [column for column in words if not {value.casefold() for value in column.count} <= CONDITIONS]
    for column in words:
        if column.is_said:
            return column
    for at, column in enumerate(columns):
        digits = column.counts_up and all(len(value) == 1 for value in column.count) and column.numbers[0] == 0
        takes = any(other.counts_up for other in columns[at + 1 :])  # else it counts these itself
        able = _able(column) and not column.named and not column.folder
        if digits and takes and able and (words or column.is_said):
            return column
    return words[0] if words else None


def _said_by(folders: Column, columns: Sequence[Column]) -> Column | None:
    """The part that tells what speakers say, if the folders are these and not the labels; None where not plainly so."""
    if folders.is_said or {folder.casefold() for folder in folders.count} <= CONDITIONS:
        return None
    said = [
        column
        for column in columns
        if column is not folders and _able(column) and (column.prefix != "" or column.is_said)
        if 2 * len(column.pairs) >= len(column.count) * len(folders.count)  # most speakers say most of it
    ]
    said = [column for column in said if column.is_said] or said
    if len(said) != 1:
        return None
    codes = len(folders.count) > 2 and all(re.fullmatch(r"[^\W\d_]{0,6}[-_]?\d+", folder) for folder in folders.count)
    if codes and folders.prefix is not None:  # s01, 01, but neither fault1 nor 1
        codes = len(folders.prefix) < 3 and (folders.prefix != "" or any(map(re.compile("0.").match, folders.count)))
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
    wordy = not set(column.count) <= CONDITIONS and 3 * len(column.count) <= len(rows)
    if not (wordy and column.recurs and column.across) or column.tells_label:
        return None
    alone = len(names) - len(rows)
    says = column.shown("groups", names[rows[0]]) + (f"; names without any: {alone:,}" if alone else "")
    return Reading(says, {"group": "names"})
