"""Which column of a manifest is what: by the user's word, by the usual names, and by whose cells name files."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from preprocessing.files import AUDIO_SUFFIXES
from preprocessing.tables import Row, Table
from system.errors import UserError

SAMPLE = 30  # rows, spread over the table, whose cells are looked at
# Columns as people call them, the likeliest first; see `plain`.
COLUMN_NAMES = {
    "path": "path file filename fname filepath wav wavpath audio audiopath clip slicefilename audiofilepath audiofile "
    "audiofilename fn wavfile wavfilename wavfilepath soundfile relativepath fullpath recording clipname audioname "
    "wavname recordingname samplename itemid clipid utteranceid fileid trackid sampleid recordingid id beginpath "
    "beginfile sourcefile",
    "label": "label ebirdcode primarylabel class classname category word keyword command target labels tag tags "
    "emotion species speciesid scene scenelabel eventlabel classid labelid annotation sentence text transcript "
    "transcription",
    "group": "group speaker speakerid clientid user userid subject spkid srcfile fsid recording recordingid",
    "fold": "fold folds",
    "split": "split subset partition set",
    "start": "start starttime startseconds startsec starts begintime begin onset onsets tstart t0 tmin xmin timestart "
    "segmentstart clipstart startms starttimems beginms onsetms offset offsetms",
    "end": "end endtime endseconds endsec ends stoptime stop finish offset tend t1 tmax xmax timeend segmentend "
    "clipend endms endtimems stopms offsetms",
    "duration": "duration durationseconds durationsec durations durationms",
}
TIMES = ("start", "end", "duration")
# Other columns that a person may expect to count, by what they look like.
LOOKS_LIKE = {
    "times": "start starttime begin begintime onset offset end endtime stop tmin tmax duration startms endms "
    "startsample endsample startframe endframe from to",
    "weights": "weight weights sampleweight confidence",
    "labels": "secondarylabels secondarylabel otherlabels labels2",
    "groups": "author recordist uploader participant participantid patient patientid actor subjectid speakername "
    "session sessionid device location identifier",
    "splits": "usage datasplit splitname cvfold kfold foldid",
}


class ColumnsError(UserError):
    """A table that names files, but does not say clearly which column is what."""


class Columns(NamedTuple):
    """A table whose columns are understood."""

    header: list[str]  # of a table without one: 1, 2, ...
    rows: list[Row]
    at: dict[str, int]  # role -> column
    notes: list[str]


def plain(name: str) -> str:
    """A column's name without capitals, separators and what stands in parentheses: Begin Time (s) is begintime."""
    return re.sub(r"[\W_]+", "", re.sub(r"\(.*?\)", "", name)).casefold()


def is_milliseconds(name: str) -> bool:
    """Whether a column of times says so: start_ms, End (ms)."""
    return plain(name).endswith("ms") or bool(re.search(r"[\W_]ms\W*$", name.casefold()))


def choose_columns(
    manifest: Path,
    table: Table,
    named: Mapping[str, str],
    label_by_name: bool,
    is_file: Callable[[str], bool],
    means_file: Callable[[str], bool],
) -> Columns:
    """The columns of a manifest by their roles; UserError, with what to type, where that is not clear.

    `named` has what the user says, role to the name or the number (from 1) of a column. `is_file` tells whether a cell
    is the path of a file, `means_file` (slower) whether some file is meant by it.
    """
    rows = table.rows[:: max(1, len(table.rows) // SAMPLE)]
    header, notes = table.header, list[str]()

    def found(column: int, test: Callable[[str], bool]) -> int:
        return sum(test(row[column].strip()) for _, row in rows if column < len(row))

    def best(columns: Sequence[int]) -> int | None:
        """The column that names most files in the sample; the first of several, None where none does."""
        for test in (is_file, means_file):
            counts = {column: found(column, test) for column in columns}
            if any(counts.values()):
                return max(counts, key=lambda column: counts[column])
        return None

    headless = table.format.kind == "csv" and _is_data(header, named, is_file, means_file)
    if headless:
        first = 1 + table.format.skip, header
        table = table._replace(rows=[first, *table.rows])
        rows = [first, *rows]
        header = [str(number) for number in range(1, len(header) + 1)]
        notes.append(f"no header: the first line of {manifest.name} names a file, so its columns have numbers")
    at = _by_name(manifest, header, named)
    if headless and not {"path", "label"} <= named.keys():
        at |= _without_header(manifest, header, first[1], rows, at, label_by_name, best)
    usual = [plain(name) for name in header]
    for role, names in COLUMN_NAMES.items():
        free = [usual.index(name) for name in names.split() if name in usual]
        free = [column for column in free if column not in at.values()]
        if role in at or not free or role in TIMES or (role == "label" and label_by_name):
            continue
        if role == "path" and len(free) > 1:
            at[role] = free[0] if (right := best(free)) is None else right
        else:
            at[role] = free[0]
    at |= _times(usual, at)
    if label_by_name:
        at.pop("label", None)
    _insist(manifest, header, rows, at, label_by_name, best)
    if "path" not in named and not found(at["path"], is_file) and not found(at["path"], means_file):
        others = [column for column in range(len(header)) if column != at["path"]]
        if (right := best(others)) is not None:
            raise ColumnsError(
                f"{manifest}: its column {header[at['path']]!r} names no file, but {header[right]!r} does: say "
                f"--columns {_argument('path', header, right)}"
            )
    at = {role: at[role] for role in COLUMN_NAMES if role in at}  # in their order
    columns = ", ".join(f"{role}={header[column]}" for role, column in at.items())
    notes.insert(0, f"columns of the manifest: {columns}")
    return Columns(header, table.rows, at, notes + _unused(header, at))


def _times(usual: Sequence[str], at: Mapping[str, int]) -> dict[str, int]:
    """The columns of a part's start and end, or start and duration; none where one of the two is missing.

    An offset is the end where there is an onset or another start, and the start where there is a duration.
    """

    def column(role: str, but: int | None = None) -> int | None:
        free = [usual.index(name) for name in COLUMN_NAMES[role].split() if name in usual]
        return at.get(role, next((index for index in free if index not in (*at.values(), but)), None))

    start = column("start")
    end = None if start is None else column("end", start)
    duration = column("duration") if end is None else None
    if start is None or (end is None and duration is None):
        return {}
    times = {"start": start, "end": end, "duration": duration}
    return {role: index for role, index in times.items() if index is not None}


def _is_data(
    header: list[str], named: Mapping[str, str], is_file: Callable[[str], bool], means_file: Callable[[str], bool]
) -> bool:
    """Whether the first row of a table names a file, so that the table has no header."""
    cells = [name for name in header if name]
    if any(name in header and not name.isdecimal() for name in named.values()):
        return False
    if any(Path(cell).suffix.lower() in AUDIO_SUFFIXES or is_file(cell) for cell in cells):
        return True
    known = {name for names in COLUMN_NAMES.values() for name in names.split()}
    return not known & set(map(plain, cells)) and any(map(means_file, cells))


def _by_name(manifest: Path, header: list[str], named: Mapping[str, str]) -> dict[str, int]:
    """The columns that the user names, or numbers from 1."""
    at = {}
    for role, name in named.items():
        if name in header:
            at[role] = header.index(name)
        elif name.isdecimal() and 1 <= int(name) <= len(header):
            at[role] = int(name) - 1
        else:
            raise UserError(f"{manifest}: no column {name!r}; it has {', '.join(header)}")
    return at


def _without_header(
    manifest: Path,
    header: list[str],
    first: list[str],
    rows: Sequence[Row],
    at: Mapping[str, int],
    label_by_name: bool,
    best: Callable[[Sequence[int]], int | None],
) -> dict[str, int]:
    """Path and label in a table without a header, where one reading is clear: one column of files, one other."""
    free = [column for column in range(len(header)) if column not in at.values()]
    path = at.get("path")
    if path is None:
        path = best(free)
    if path is None:
        path = next((c for c in free if Path(first[c]).suffix.lower() in AUDIO_SUFFIXES), None)
    others = [column for column in free if column != path]
    if path is not None and not others and "label" not in at and not label_by_name:
        raise UserError(f"{manifest}: has names of files and no labels; give a table that has both, or --label-pattern")
    if path is not None and (label_by_name or "label" in at):
        return {"path": path}
    if path is not None and len(others) == 1:
        return {"path": path, "label": others[0]}
    kind = UserError if path is None else ColumnsError
    path = 0 if path is None else path
    guess = _likely_label(rows, others)
    label = "N" if guess is None else header[guess]
    shown = ", ".join(f"{name}: {cell}" for name, cell in zip(header, first, strict=True))
    raise kind(f"{manifest}: has no header (its first line: {shown}); say which column is what by their numbers: "
                    f"--columns path={header[path]} label={label}")  # fmt: skip


def _insist(
    manifest: Path,
    header: list[str],
    rows: Sequence[Row],
    at: Mapping[str, int],
    label_by_name: bool,
    best: Callable[[Sequence[int]], int | None],
) -> None:
    """UserError, with the likely column, where there is none for the path or for the label."""
    missing = [role for role in ("path", "label") if role not in at and not (role == "label" and label_by_name)]
    if not missing:
        return
    free = [column for column in range(len(header)) if column not in at.values()]
    guesses: dict[str, int] = {}
    for role in missing:
        rest = [column for column in free if column not in guesses.values()]
        guess = best(rest) if role == "path" else _likely_label(rows, rest)
        if guess is None:
            break
        guesses[role] = guess
    likely = " ".join(_argument(role, header, column) for role, column in guesses.items())
    names_files = "path" in at or "path" in guesses
    raise (ColumnsError if names_files else UserError)(
        f"{manifest}: which column is the {' and which the '.join(missing)}? It has {', '.join(header)}; say --columns "
        f"{' '.join(f'{role}=NAME' for role in missing)}{', likely --columns ' + likely if likely else ''}"
    )


def _argument(role: str, header: Sequence[str], column: int) -> str:
    """What names a column: its name or, where it has none of its own, its number."""
    name = header[column] if header[column] and header.count(header[column]) == 1 else str(column + 1)
    return shlex.quote(f"{role}={name}")


def _likely_label(rows: Sequence[Row], columns: Sequence[int]) -> int | None:
    """The column whose cells recur as labels do: several values, not all different, words rather than numbers.

    None of several columns of 0 and 1, which may be a class each.
    """
    found = {}
    flags = [
        column for column in columns if {row[column].strip() for _, row in rows if column < len(row)} == {"0", "1"}
    ]
    flags = flags if len(flags) > 1 else []
    for column in columns:
        cells = [row[column].strip() for _, row in rows if column < len(row)]
        values = set(cells) - {""}
        if len(values) > 1 and column not in flags:
            numbers = all(re.fullmatch(r"[-+0-9.,:]+", value) for value in values)
            found[column] = len(values) == len(cells), numbers, len(values)
    return min(found, key=lambda column: found[column], default=None)


def _unused(header: list[str], at: Mapping[str, int]) -> list[str]:
    """What to say of columns that are not used and look as if they should count."""
    kind_of = {name: kind for kind, names in LOOKS_LIKE.items() for name in names.split()}
    free = [name for column, name in enumerate(header) if column not in at.values() and plain(name) in kind_of]
    if not free:
        return []
    groups = [name for name in free if kind_of[plain(name)] == "groups"] if "group" not in at else []
    hint = ""
    if groups:
        group = _argument("group", header, header.index(groups[0]))
        hint = f"; --columns {group} keeps the clips of one {groups[0]} in one fold"
    times = [name for name in free if plain(name) in COLUMN_NAMES["start"].split() and plain(name) != "offset"]
    if times and "start" not in at:
        start = _argument("start", header, header.index(times[0]))
        hint += f"; --columns {start} end=NAME (seconds) cuts clips out of recordings"
    return [f"columns of the manifest that are not used: {', '.join(free)}{hint}"]
