"""From a name in a table to the file that is there: other folders, endings, capitals, Unicode forms, separators."""

from __future__ import annotations

import difflib
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import NamedTuple

from preprocessing.files import AUDIO_SUFFIXES

SEARCHED = 20_000  # names that are compared letter by letter to find a near one


class Match(NamedTuple):
    """Which of the names a text means."""

    name: str | None  # None: none, or not one alone
    how: str = ""  # what it took: "" nothing, else "folder", "case", "ending", "unicode", in words with commas
    several: tuple[str, ...] = ()  # the names among which nothing decides


class Matcher:
    """Finds which of many names (POSIX paths relative to a root) a text means.

    A text means the name that ends as it does. Between the two may differ: the folders in front (a folder that the
    text names is passed over only if no folder of the names is called so: train/1.wav is never test/1.wav), the kind of
    slashes, capitals, the Unicode form, and the ending, if it is one of audio or missing. What differs least counts,
    and it must be one name alone.
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
    def _folders(self) -> set[str]:
        folders = {name.rpartition("/")[0] for name in self.names}
        return {folded(part) for folder in folders for part in folder.split("/")} - {""}

    def find(self, text: str, hints: Sequence[str] = ()) -> Match:
        """The name that `text` means. Of several, the one with a folder called like one of `hints`, such as fold3."""
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
            if (rank := self._rank(parts, self.names[row].split("/"))) is not None:
                ranked[rank].append(self.names[row])
        if not ranked:
            return Match(None)
        best = min(ranked)
        names = ranked[best]
        if len(names) > 1 and hints:
            wanted = {folded(hint) for hint in hints if hint}
            names = [name for name in names if wanted & {folded(part) for part in name.split("/")[:-1]}] or names
        if len(names) > 1:
            return Match(None, several=tuple(names))
        return Match(names[0], ", ".join(self._differences(text, names[0])))

    def _candidates(self, last: str) -> list[int]:
        """The rows whose last part is `last` but for capitals, form and ending."""
        whole = self._by_stem.get(folded(last), [])  # a text without an ending may hold dots
        stripped = folded(PurePosixPath(last).stem)
        return whole + self._by_stem.get(stripped, []) if stripped != folded(last) else whole

    def _rank(self, text: list[str], name: list[str]) -> tuple[int, ...] | None:
        """How far `name` is from `text`, both in parts; None where a folder contradicts."""
        shared = 0
        while shared + 1 < min(len(text), len(name)) and folded(text[-2 - shared]) == folded(name[-2 - shared]):
            shared += 1
        passed_over = text[: len(text) - 1 - shared]
        if any(folded(part) in self._folders for part in passed_over):
            return None
        tail, own = text[-1 - shared :], name[-1 - shared :]
        other_form = normalised("/".join(tail)) != normalised("/".join(own))
        other_case = folded("/".join(tail)) != folded("/".join(own))  # an ending
        suffix = PurePosixPath(tail[-1]).suffix.lower() if other_case else ""
        return other_case, bool(suffix in AUDIO_SUFFIXES), other_form, len(passed_over), len(name) - len(own)

    @staticmethod
    def _differences(text: str, name: str) -> list[str]:
        """In what the two differ."""
        (folder, _, last), (own_folder, _, own_last) = text.rpartition("/"), name.rpartition("/")
        found = ["folder"] if folded(folder) != folded(own_folder) else []
        pairs = [(last, own_last)] + ([] if found else [(folder, own_folder)])
        if folded(last) != folded(own_last):
            found.append("ending")
            pairs[0] = without_ending(last), without_ending(own_last)
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
        stems = list(self._by_stem)[:SEARCHED]
        close = difflib.get_close_matches(without_ending(last), stems, n=1, cutoff=0.6)
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


def normalised(text: str) -> str:
    """In one Unicode form (NFC), as names are compared."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """In one Unicode form and without capitals."""
    return normalised(text).casefold()


def without_ending(name: str) -> str:
    """A file's name without the ending, where that is one of audio."""
    stem, dot, ending = name.rpartition(".")
    return stem if dot and stem and f".{ending.lower()}" in AUDIO_SUFFIXES else name


def tidy(text: str) -> str:
    """A path as POSIX has it: Windows separators (where it has no others) and a drive, ./ and // are gone."""
    if "\\" in text and "/" not in text:
        text = text.replace("\\", "/")
        if text[1:2] == ":":
            text = text[2:]
    return "/".join(part for part in text.split("/") if part not in ("", "."))
