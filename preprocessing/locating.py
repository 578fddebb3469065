"""The file that a name in a manifest means: at its path, or else below the root."""

from __future__ import annotations

import functools
import os
import shlex
import stat
from collections import Counter
from collections.abc import Set
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from preprocessing.files import AUDIO_SUFFIXES, File, find, some
from preprocessing.matching import Matcher, passed_over


class Located(NamedTuple):
    """A file that a name means, or why there is none."""

    fname: str  # relative to the root; where there is none, the name as it can be shown
    size: int = 0  # bytes
    mtime_ns: int = 0
    path: str = ""  # '' where there is none
    how: str = ""  # what it took to find it: as `Match.how` has it, or "manifest": relative to the manifest's folder
    reason: str = ""
    outside: bool = False  # there is a file of that path, outside the root
    passed_over: int = 0  # how many folders the name has that are not those of the file


class Locator:
    """Finds files below `root` by the names in a manifest."""

    def __init__(self, root: Path, manifest: Path) -> None:
        self.root = root
        self._folder = str(root)
        self._below = os.path.join(self._folder, "")  # noqa: PTH118 (a Path for each of 60,000 files is slow)
        beside = manifest.resolve().parent
        self._bases = [(self._folder, "")] + ([(str(beside), "manifest")] if beside != root else [])
        self._outside: set[str] = set()  # folders of files that were asked for
        self._found_inside = False
        self._real = functools.cache(os.path.realpath)

    def is_file(self, text: str) -> bool:
        """Whether it is the path of a file below the root."""
        return bool(text and self.exact(text).path)

    def means_file(self, text: str) -> bool:
        """Whether it is that, or some file below the root is meant by it, or one of several."""
        if not text or self.is_file(text):
            return bool(text)
        match = self._matcher.find(text)
        return bool(match.name or match.several)

    def holds_audio(self) -> bool:
        return next(find(self.root, self.root, "", Counter()), None) is not None

    @property
    def folders(self) -> Set[str]:
        """What the folders below the root that hold audio are called, `folded`."""
        return self._matcher.folders

    def exact(self, text: str) -> Located:
        """The file at that path, which is absolute, or relative to the root or else to the manifest's folder."""
        found = Located(text, reason="no such file")
        for base, how in self._bases:
            path = os.path.normpath(os.path.join(base, text))  # noqa: PTH118 (a Path keeps the ..)
            if "\\" in text and not os.path.lexists(path):  # written on Windows
                path = os.path.normpath(os.path.join(base, text.replace("\\", "/")))  # noqa: PTH118
            fname = self._relative(path)
            if not how:
                found = found._replace(fname=text) if fname is None else found._replace(fname=fname)
                if fname is None and not os.path.isabs(text):  # noqa: PTH117
                    found = found._replace(reason=f"leaves the folder {self.root}")
            try:
                status = os.stat(path)  # noqa: PTH116
            except (OSError, ValueError):  # ValueError: a name with a NUL
                continue
            if stat.S_ISDIR(status.st_mode):
                if not how and fname is not None:
                    found = found._replace(reason="not a file, but a folder")
                continue
            fname = fname or self._really(path)
            if fname is not None:
                self._found_inside = True
                return Located(fname, status.st_size, status.st_mtime_ns, path, how)
            if not found.outside:
                found = found._replace(fname=text, reason=f"leaves the folder {self.root}", outside=True)
                self._outside.add(os.path.dirname(path))  # noqa: PTH120
        return found

    def match(self, text: str, found: Located, hints: Set[str], against: Set[str]) -> Located:
        """The file below the root that a name means that is no path; `found` is what `exact` made of it.

        `hints` and `against` are as in `Matcher.find`.
        """
        match = self._matcher.find(text, hints, against)
        if match.name is None:
            return found._replace(reason=_ambiguous(match.several)) if match.several else found
        file = self._listing[match.name]
        if found.outside and not self._same(text, file.path):
            return found
        return Located(*file[1:4], file.path, match.how, passed_over=passed_over(text, match.name))

    def explain(self, text: str, found: Located) -> str:
        """The reason why a name has no file, with the nearest one that is there and what would mend it."""
        if found.outside:
            common = Path(os.path.commonpath([*self._outside, *([self._folder] if self._found_inside else [])]))
            is_clip = Path(text).suffix.lower() in AUDIO_SUFFIXES and common != common.parent
            return f"{found.reason}; -i {shlex.quote(str(common))} takes it" if is_clip else found.reason
        for folder in (self.root.parent, *(Path(base).parent for base, _ in self._bases)):
            if os.path.isfile(os.path.join(folder, text)):  # noqa: PTH113, PTH118
                return f"{found.reason} below {self.root}; -i {shlex.quote(str(folder))} takes it"
        if not self._listing:
            return f"{found.reason}, nor any audio below {self.root}: give the folder of the data set, -i DIR"
        match = self._matcher.find(text)
        if match.name:
            return f"{found.reason}; {match.name} lies in a folder of another label, fold or split"
        nearest = None if match.several else self._matcher.nearest(text)
        return f"{found.reason}; the nearest is {nearest}" if nearest else found.reason

    @cached_property
    def _listing(self) -> dict[str, File]:
        return {file.fname: file for file in find(self.root, self.root, "", Counter())}

    @cached_property
    def _matcher(self) -> Matcher:
        return Matcher(sorted(self._listing))

    def _relative(self, path: str) -> str | None:
        """A path relative to the root; None outside it."""
        return path[len(self._below) :].replace(os.sep, "/") if path.startswith(self._below) else None

    def _really(self, path: str) -> str | None:
        """The same, where links are on the way to the file, or it is one."""
        folder, name = os.path.split(path)
        return self._relative(os.path.join(self._real(folder), name)) or self._relative(self._real(path))  # noqa: PTH118

    def _same(self, text: str, path: str) -> bool:
        try:
            return any(os.path.samefile(os.path.join(base, text), path) for base, _ in self._bases)  # noqa: PTH118, PTH121
        except OSError:
            return False


def _ambiguous(names: tuple[str, ...]) -> str:
    if len({name.rpartition(".")[0] for name in names}) == 1:
        return f"means {some(names, 'file')}: name its ending"
    return f"means {some(names, 'file')}: name its folder, or give a column (fold, label, split) that does"
