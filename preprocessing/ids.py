"""Which clips the row ids of a submission mean."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import compress, islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessing.files import printable
from preprocessing.matching import Matcher, folded, tidy, without_ending
from system.console import counted
from system.errors import UserError

Ints = NDArray[np.int64]
SHOWN = 3  # ids of each kind, in a message
LOOKED_AT = 1000  # ids that tell whether they name times
# What an id that names a time ends with: recording_5, recording_0_5, file.ogg@5.0, rec-12.5s, rec_0-5
_TIME = r"(.+?)[_@#: -]+(?:t=)?(\d+(?:\.\d+)?)s?"
TIME, TIMES = re.compile(_TIME), re.compile(_TIME + r"[_,:-](\d+(?:\.\d+)?)s?")


def hashes(names: Iterable[str]) -> Ints:
    """64 bits of each name, which stand for it: a table of a million names would take 80 MB and more.

    Two of a million different names have the same bits in one of 37 million such tables.
    """
    return np.fromiter(map(hash, names), np.int64)


def match_ids(
    ids: Sequence[str], fnames: Sequence[str], path: Any, title: str = "", unlikely: Container[str] = ()
) -> Ints:
    """The position of each id's clip. UserError where an id means none, or two the same, or where their title does.

    There may be clips that no id means. `path` is the file of the ids, `unlikely` as in `find_rows`.
    """
    rows = find_rows(ids, fnames, unlikely)
    if windows := windows_of(ids, rows, fnames):
        raise UserError(f"{path}: {windows}")
    if wrong := id_faults(ids, rows, fnames, title):
        raise UserError(f"{path}: its ids are not the clips to label: {wrong}; give the folder that holds them, -i "
                        "FOLDER, or prepare the data with preprocess.py --sample-submission")  # fmt: skip
    return rows


def find_rows(ids: Sequence[str], fnames: Sequence[str], unlikely: Container[str] = ()) -> Ints:
    """The position of each id's clip, -1 where it means none, or not one alone.

    An id means the clip of that name, of that name in another folder, or of that name but for its ending; what else
    `Matcher` allows is tried with the ids that are left then, since it takes more memory. Of several clips, one that is
    not `unlikely` (training clips) is meant.
    """
    import pandas as pd

    rows = np.full(len(ids), -1, np.int64)

    def take(left: Ints, key: Callable[[str], str]) -> None:
        known = pd.Index(hashes(map(key, fnames)))
        alone = np.flatnonzero(~known.duplicated(keep=False))
        found = known[alone].get_indexer(hashes(key(ids[row]) for row in left.tolist()))
        rows[left[found >= 0]] = alone[found[found >= 0]]

    take(np.arange(len(ids)), str)
    if (rows < 0).any():
        parents = {name.rpartition("/")[0] for name in fnames}
        folders = {part for parent in parents for part in folded(parent).split("/")}
        for key in (_last, _bare):  # the folders of an id are passed over where no folder of the clips is called so
            free = [row for row in np.flatnonzero(rows < 0).tolist() if folders.isdisjoint(_folders(ids[row]))]
            take(np.array(free, np.int64), key)
    left = np.flatnonzero(rows < 0)
    if len(left) and len(fnames):
        row_of = {fname: at for at, fname in enumerate(fnames)}
        matcher = Matcher(list(row_of))
        for row in left.tolist():
            name, _, several = matcher.find(ids[row].strip())
            if name is None and len(likely := [one for one in several if one not in unlikely]) == 1:
                name = likely[0]
            if name is not None:
                rows[row] = row_of[name]
    return rows


def _last(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def _bare(name: str) -> str:
    return without_ending(_last(name))


def _folders(id_: str) -> list[str]:
    return [part for part in folded(tidy(id_)).split("/")[:-1] if part not in ("", "..")]


def id_faults(ids: Sequence[str], rows: Ints, fnames: Sequence[str], title: str = "") -> str:
    """Why ids do not mean clips one by one, '' where they do; `rows` are those that `find_rows` has found.

    Where `title`, which stands above them, means a clip, the header is missing.
    """
    import pandas as pd

    like_id = any(map(str.isdigit, title)) or without_ending(title) != title
    if like_id and any(_bare(title) == _bare(name) for name in fnames):
        return f"the first row names a clip ({printable(title)}): put a header above it, such as fname,label"
    lost, found = rows < 0, pd.Index(rows)
    if not lost.any() and found.is_unique:
        return ""
    if windows := windows_of(ids, rows, fnames):
        return windows
    what = []
    if number := int(lost.sum()):
        shown = ", ".join(_with_nearest(list(islice(compress(ids, lost), SHOWN)), fnames))
        what.append(f"{counted(number, 'id')} without a clip (such as {shown}{', ...' if number > SHOWN else ''})")
    if repeated := int(pd.Index(hashes(ids)).duplicated().sum()):
        what.append(f"{counted(repeated, 'id')} more than once")
    again = found.duplicated() & ~lost
    if (number := int(again.sum()) - repeated) > 0:
        shown = " and ".join(map(printable, islice(compress(ids, rows == rows[again.argmax()]), 2)))
        what.append(f"{counted(number, 'id')} for another id's clip (such as {shown})")
    return ", ".join(what)


def _with_nearest(ids: list[str], fnames: Sequence[str]) -> Iterator[str]:
    matcher = Matcher(list(fnames))
    for id_ in ids:
        if several := matcher.find(id_).several:
            yield printable(f"{id_}, which may be {' or '.join(several[:2])}")
        else:
            nearest = matcher.nearest(id_)
            yield printable(f"{id_}, nearest is {nearest}" if nearest else id_)


def windows_of(ids: Sequence[str], rows: Ints, fnames: Sequence[str]) -> str:
    """What to say of ids without a clip that name times in recordings, as recording_5 and recording_10; '' otherwise.

    They do where what stands before the time is a file, or where the times of one recording are multiples of a step.
    """
    ids = list(islice(compress(ids, rows < 0), LOOKED_AT))
    names = {_bare(name) for name in fnames} if ids else set()
    for pattern in (TIMES, TIME):
        times = defaultdict[str, set[float]](set)
        for match in filter(None, (pattern.fullmatch(without_ending(id_)) for id_ in ids)):
            first, last = float(match[2]), float(match[pattern.groups])
            if pattern is TIME or first < last:
                times[match[1]].add(last)
        if _on_grid(times.values()) or any(_bare(recording) in names for recording in times):
            return (
                f"its ids name times in recordings ({printable(', '.join(ids[:2]))}): windows of recordings are not "
                f"labelled yet; cut the recordings into files that are called as the ids are ({printable(ids[0])}.wav)"
            )
    return ""


def _on_grid(times: Iterable[set[float]]) -> bool:
    """Whether the times of each recording are those of one grid from its start: 5, 10, 15, or 0, 2.5, 5."""
    several = [sorted(found) for found in times if len(found) > 1]
    steps = {round(later - earlier, 6) for found in several for earlier, later in pairwise(found)}
    if len(steps) != 1:
        return False
    step = steps.pop()
    return (step > 1 or step % 1 > 0) and all(found[0] in (0, step) for found in several)
