"""From a name in a table to the file that is there: other folders, endings, capitals, Unicode forms, separators."""

from __future__ import annotations

import difflib
import heapq
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Sequence, Set
from functools import cached_property
from itertools import takewhile
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from preprocessing.files import AUDIO_SUFFIXES

OTHER_ENDINGS = frozenset({".mp4", ".mkv", ".mov", ".avi", ".sph", ".npy"})  # that stand in tables for those of audio
SEARCHED = 2_000  # names, those that begin and end most alike, that are compared in full to find a near one


class Match(NamedTuple):
    """Which of the names a text means."""

    name: str | None  # None: none, or not one alone
    how: str = ""  # what it took: "" nothing, else of "folder", "case", "ending", "zeros", "unicode", with commas
    several: tuple[str, ...] = ()  # the names among which nothing decides


class Matcher:
    """Finds which of many names (POSIX paths relative to a root) a text means.

    A text means the name that ends as it does. Between the two may differ: the folders in front (a folder that the
    text names is passed over only if no folder of other names is called so: train/1.wav is never test/1.wav), the kind
    of slashes, capitals, the Unicode form, and the ending, if it is one of audio or missing. A number may lack zeros in
    front, and end with .0, where nothing else is meant. What differs least counts, and it must be one name alone.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    @cached_property
    def _exact(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.names)}

    @cached_property
    def _by_stem(self) -> dict[str, list[int]]:
        found = defaultdict(list)
        for row, name in enumerate(self.names):
            found[folded(without_ending(name.rpartition("/")[2]))].append(row)
        return found

    @cached_property
    def _by_number(self) -> dict[int, list[int]]:
        found = defaultdict[int, list[int]](list)
        for stem, rows in self._by_stem.items():
            if stem.isdecimal():
                found[int(stem)] += rows
        return found

    @cached_property
    def folders(self) -> set[str]:
        """What the folders in the names are called, `folded`."""
        folders = {name.rpartition("/")[0] for name in self.names}
        return {folded(part) for folder in folders for part in folder.split("/")} - {""}

    def find(self, text: str, hints: Collection[str] = (), against: Set[str] = frozenset()) -> Match:
        """The name that `text` means. Of several, the one with most folders called like one of `hints`, such as fold3.

        None in a folder that is called like one of `against`, unless the text names that. Both are `folded`.
        """
        if text in self._exact:
            return Match(text)
        text = tidy(text)
        if text in self._exact:
            return Match(text)
        parts = [part for part in text.split("/") if part]
        if not parts:
            return Match(None)
        ranked = defaultdict(list)
        for row in self._candidates(parts[-1]):
            name = self.names[row].split("/")
            rank = self._rank(parts, name)
            if rank is not None and not (against and against & _folders(name) - _folders(parts)):
                ranked[rank].append(self.names[row])
        if not ranked:
            return Match(None)
        best = min(ranked)
        names = ranked[best]
        if len(names) > 1 and hints:
            fits = [len(_folders(name.split("/")) & set(hints)) for name in names]
            names = [name for name, fit in zip(names, fits, strict=True) if fit == max(fits)]
        if len(names) > 1:
            return Match(None, several=tuple(names))
        return Match(names[0], ", ".join(self._differences(text, names[0])))

    def _candidates(self, last: str) -> list[int]:
        """The rows whose last part is `last` but for capitals, form and ending."""
        whole = self._by_stem.get(folded(last), [])  # a text without an ending may hold dots
        stripped = folded(without_ending(last))
        found = whole + self._by_stem.get(stripped, []) if stripped != folded(last) else whole
        if not found and (number := number_of(stripped)) is not None:
            found = self._by_number.get(number, [])
        return found

    def _rank(self, text: list[str], name: list[str]) -> tuple[int, ...] | None:
        """How far `name` is from `text`, both in parts; None where a folder contradicts."""
        shared = 0
        while shared + 1 < min(len(text), len(name)) and folded(text[-2 - shared]) == folded(name[-2 - shared]):
            shared += 1
        passed_over = text[: len(text) - 1 - shared]
        own_folders = _folders(name) if passed_over else set()
        if any(folded(part) in self.folders and folded(part) not in own_folders for part in passed_over):
            return None
        tail, own = text[-1 - shared :], name[-1 - shared :]
        other_form = normalised("/".join(tail)) != normalised("/".join(own))
        other_case = folded("/".join(tail)) != folded("/".join(own))  # an ending
        suffix = f".{tail[-1].rpartition('.')[2].lower()}" if other_case else ""
        return other_case, bool(suffix in AUDIO_SUFFIXES), other_form, len(passed_over), len(name) - len(own)

    @staticmethod
    def _differences(text: str, name: str) -> list[str]:
        """In what the two differ."""
        (folder, _, last), (own_folder, _, own_last) = text.rpartition("/"), name.rpartition("/")
        found = ["folder"] if folded(folder) != folded(own_folder) else []
        pairs = [(last, own_last)] + ([] if found else [(folder, own_folder)])
        if folded(last) != folded(own_last):
            pairs[0] = without_ending(last), without_ending(own_last)
            if folded(pairs[0][0]) != folded(pairs[0][1]):
                found.append("zeros")
            else:
                found.append("ending")
        if any(normalised(a) != normalised(b) and folded(a) == folded(b) for a, b in pairs):
            found.append("case")
        if any(a != b and normalised(a) == normalised(b) for a, b in pairs):
            found.append("unicode")
        return found

    def nearest(self, text: str) -> str | None:
        """The name that looks most like `text`, for a message; None where nothing does."""
        match = self.find(text)
        if match.name or match.several:
            return match.name or match.several[0]
        last = folded(tidy(text).rpartition("/")[2])
        if same := self._candidates(last):
            return self.names[same[0]]
        stem, stems = without_ending(last), list(self._by_stem)
        if len(stems) > SEARCHED:
            stems = heapq.nlargest(SEARCHED, stems, key=lambda other: _shared(stem, other))
        close = difflib.get_close_matches(stem, stems, n=1, cutoff=0.6)
        return self.names[self._by_stem[close[0]][0]] if close else None

    def twins(self) -> list[tuple[str, str]]:
        """Names that differ only in their Unicode form."""
        seen: dict[str, str] = {}
        found = []
        for name in self.names:
            if not name.isascii():
                other = seen.setdefault(normalised(name), name)
                if other is not name:
                    found.append((other, name))
        return found


def passed_over(text: str, name: str) -> int:
    """How many folders of a text are not those that a name ends with."""
    parts, own = tidy(text).split("/")[:-1], name.split("/")[:-1]
    while parts and own and folded(parts[-1]) == folded(own[-1]):
        parts.pop()
        own.pop()
    return len(parts)


def _folders(parts: Sequence[str]) -> set[str]:
    return {folded(part) for part in parts[:-1]}


def _shared(one: str, other: str) -> int:
    """How many characters two texts share at their beginning and at their end."""
    return sum(
        sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False)))
        for texts in ((one, other), (one[::-1], other[::-1]))
    )


def normalised(text: str) -> str:
    """In one Unicode form (NFC), as names are compared."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """In one Unicode form and without capitals."""
    return normalised(text).casefold()


def number_of(stem: str) -> int | None:
    """The number that a name is, as spreadsheets write it: 7 and 7.0 for 007."""
    stem = stem.removesuffix(".0")
    return int(stem) if stem.isdecimal() and len(stem) < 20 else None


def without_ending(name: str) -> str:
    """A file's name without the ending, where that is one of audio."""
    stem, dot, ending = name.rpartition(".")
    return stem if dot and stem and f".{ending.lower()}" in AUDIO_SUFFIXES | OTHER_ENDINGS else name


def tidy(text: str) -> str:
    """A path as POSIX has it: Windows separators (where it has no others) and a drive, a URL's host, ./ and // go."""
    if "://" in text:
        text = unquote(urlsplit(text).path)
    if "\\" in text and "/" not in text:
        text = text.replace("\\", "/")
        if text[1:2] == ":":
            text = text[2:]
    return "/".join(part for part in text.split("/") if part not in ("", "."))
