"""The times in a manifest that cut clips out of recordings."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from preprocessing.decode import SPARE_SECONDS, durations

CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:[.,]\d+)?)")  # 0:01:05.5
NUMBER = re.compile(r"\d+(?:[.,]\d*)?(?:e[-+]?\d+)?|\.\d+", re.IGNORECASE)
NONE = ("", "nan", "na", "n/a", "none", "null", "-")  # cells without a time


class Times(NamedTuple):
    """The cells of a row that has some, and the file they are about."""

    path: str
    start: str
    end: str
    duration: str  # counts where there is no column for the end


class Part(NamedTuple):
    """What a row's times mean."""

    start: float = 0.0  # seconds
    end: float = 0.0  # seconds; 0: the whole file
    fault: str = ""


def seconds(cell: str) -> float | None:
    """A time in seconds: 65, 65.0, 65,0 or 0:01:05; None where the cell is none."""
    cell = cell.strip().removesuffix("s").rstrip()
    if clock := CLOCK.fullmatch(cell):
        hours, minutes, rest = clock.groups()
        return 3600 * int(hours or 0) + 60 * int(minutes) + float(rest.replace(",", "."))
    return float(cell.replace(",", ".")) if NUMBER.fullmatch(cell) else None


def read_parts(rows: Sequence[Times], unit: Mapping[str, float], insist: bool) -> tuple[list[Part], str]:
    """The part of its file that each row means, and why none is ('' where they are).

    The times are not obeyed where no part lies strictly inside its file, or where most are as long as their file and
    lie outside it: such are times in another recording, that the file was cut from. With `insist`, or where no header
    tells how long its file is, they are obeyed all the same. `unit` has the seconds in a unit of each column. A row
    without times means its whole file, as all rows do whose times are those of their whole files.
    """
    parts = [_part(row, unit) for row in rows]
    paths = list(dict.fromkeys(row.path for row in rows))
    lasts = dict(zip(paths, durations(paths), strict=True))
    inside = elsewhere = entire = 0
    example = ""
    for row, part in zip(rows, parts, strict=True):
        whole, length = lasts[row.path], part.end - part.start
        if part.fault or not part.end or math.isnan(whole):
            continue
        spare = min(SPARE_SECONDS, whole / 10)
        inside += part.end <= whole + spare and length < whole - spare
        entire += part.start <= spare and abs(part.end - whole) <= spare
        if part.end > whole + spare:
            elsewhere += abs(length - whole) <= spare
            example = example or f" ({part.start:g} to {part.end:g} s in a file of {whole:.2f} s)"
    known = not all(map(math.isnan, lasts.values()))  # else decoding rejects those that do not lie in their files
    if not insist and entire == sum(bool(part.end or part.fault) for part in parts):
        return [Part()] * len(rows), ""
    if not insist and known and not inside:
        return [Part()] * len(rows), f"no row's part lies inside its file{example}"
    if not insist and elsewhere > inside:
        return [Part()] * len(rows), f"most lie outside their files, which are as long as they are{example}"
    return [_in_file(part, lasts[row.path]) for row, part in zip(rows, parts, strict=True)], ""


def _part(row: Times, unit: Mapping[str, float]) -> Part:
    """What the cells say; an end of infinity is that of the file."""
    values: dict[str, float | None] = {}
    for name, cell in zip(Times._fields[1:], row[1:], strict=True):
        time = seconds(cell)
        if time is None and cell.casefold() not in NONE:
            return Part(fault=f"{name} {cell!r} is no time in seconds")
        values[name] = time if time is None else time * unit[name]
    start, end, duration = values["start"], values["end"], values["duration"]
    if start is None and end is None and duration is None:
        return Part()
    start = start or 0.0
    if end is None:
        end = math.inf if duration is None else start + duration
    if end <= start:
        return Part(fault=f"its part ends at {end:g} s, and starts at {start:g} s")
    return Part(start, end)


def _in_file(part: Part, whole: float) -> Part:
    """`part` in a file that lasts `whole` seconds (NaN: unknown), or the reason why it is not in it."""
    if part.fault or not part.end or math.isnan(whole):
        return Part(fault="its part has no end") if part.end == math.inf else part
    end = whole if part.end == math.inf else part.end
    if part.start >= whole or end > whole + SPARE_SECONDS:
        return Part(fault=f"{part.start:g} to {end:g} s does not lie in the file, which lasts {whole:.2f} s")
    return Part(part.start, end)
