"""Tables as people have them: CSV with any of the usual delimiters and encodings, JSON lines, Parquet."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from preprocessing.files import AUDIO_SUFFIXES
from system.errors import UserError

DELIMITERS = ",\t;|"  # where several fit equally well, the first
HEAD_BYTES = 1 << 16  # that tell what a file is
HEAD_ROWS = 50  # that tell the delimiter
BYTE_ORDER_MARKS = {  # the longest first: UTF-32's begins as UTF-16's does
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
OTHER_KINDS = {  # how files begin that are no tables
    b"PK\x03\x04": "an Excel workbook or another ZIP archive, not a CSV: save the sheet as CSV, or unpack it",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook, not a CSV: save the sheet as CSV",
    b"\x1f\x8b": "compressed (gzip), not a CSV: unpack it",
    b"RIFF": "a sound file (RIFF), not a CSV",
    b"fLaC": "a sound file (FLAC), not a CSV",
    b"OggS": "a sound file (Ogg), not a CSV",
    b"ID3": "a sound file (MP3), not a CSV",
    b"%PDF": "a PDF, not a CSV",
    b"<": "a web page or XML, not a CSV: was the download an error page?",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: run git lfs pull",
}

Row = tuple[int, list[str]]  # the number of the line that it ends at, its cells


class Format(NamedTuple):
    """How a text file holds a table."""

    kind: str  # "csv", "json" (a list of objects, or an object a line) or "parquet"
    encoding: str = "utf-8"  # of Python; those with a byte order mark take it away
    delimiter: str = ","
    skip: int = 0  # lines before the table: Excel's sep=;


class Table(NamedTuple):
    """A table whose cells are all text."""

    header: list[str]  # its first row: whether that names the columns is for the reader to say
    rows: list[Row]  # the others but empty ones
    format: Format


def read_table(path: Path) -> Table:
    """The table in a file, all cells as text: a label 007, 1e5 or 2024-01-02 stays as it is.

    UserError where the file is none, says what it is instead, or is empty.
    """
    shape = table_format(path)
    if shape.kind == "parquet":
        return _from_objects(_read_parquet(path), shape)
    try:
        if shape.kind == "json":
            return _from_objects(_read_json(path, shape.encoding), shape)
        with closing(read_rows(path, shape)) as rows:
            table = list(rows)
    except (OSError, UnicodeError, csv.Error, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from None
    if not table:
        raise UserError(f"{path}: empty; give a CSV with a header and a row a clip")
    return Table([name.strip() for name in table[0][1]], table[1:], shape)


def read_rows(path: Path, shape: Format) -> Generator[Row]:
    """The rows of a CSV but empty ones, the header first. OSError, UnicodeError or csv.Error where it is damaged."""
    with path.open(encoding=shape.encoding, newline="") as text:
        for _ in range(shape.skip):
            text.readline()
        reader = csv.reader(text, delimiter=shape.delimiter, strict=True)
        for row in reader:
            if any(field.strip() for field in row):
                yield reader.line_num + shape.skip, row


def table_format(path: Path) -> Format:
    """How the file holds a table, by its first bytes. UserError where it is none, or cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from None
    if head.startswith(b"PAR1"):
        return Format("parquet")
    encoding = _encoding(head)
    if encoding == "utf-8":
        for start, kind in OTHER_KINDS.items():
            if head.lstrip().startswith(start):
                raise UserError(f"{path}: this is {kind}")
    try:
        lines = codecs.getincrementaldecoder(encoding)().decode(head).splitlines(keepends=True)
    except UnicodeError as error:
        raise _unreadable(path, error) from None
    if len(head) == HEAD_BYTES and len(lines) > 1:
        lines.pop()  # cut off
    first = next((line.strip() for line in lines if line.strip()), "")
    if first.startswith(("{", "[")):
        return Format("json", encoding)
    if first.lower().startswith("sep=") and len(first) == 5:  # Excel's
        return Format("csv", encoding, first[4], lines.index(next(line for line in lines if line.strip())) + 1)
    return Format("csv", encoding, _delimiter(lines))


def _encoding(head: bytes) -> str:
    """By the byte order mark or, without one, by the zero bytes that letters have in UTF-16."""
    for mark, name in BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return name
    even, odd = (head[:1000][at::2] for at in (0, 1))
    for zeros, letters, name in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if zeros and zeros.count(0) > 0.5 * len(zeros) and letters.count(0) == 0:
            return name
    return "utf-8"


def _delimiter(lines: list[str]) -> str:
    """The delimiter that makes most columns of the header, and as many in most rows below it."""

    def fit(delimiter: str) -> tuple[float, int]:
        try:
            rows = [row for row in islice(csv.reader(lines, delimiter=delimiter), HEAD_ROWS) if row]
        except csv.Error:
            return 0.0, 0
        width = len(rows[0]) if rows else 0
        return (sum(len(row) == width for row in rows) / len(rows) if width > 1 else 0.0), width

    fits = {delimiter: fit(delimiter) for delimiter in DELIMITERS}
    if not any(width > 1 for _, width in fits.values()) and fit(" ")[0] == 1.0 and all(map(_names_audio, lines)):
        return " "
    return max(DELIMITERS, key=lambda delimiter: (fits[delimiter][0] >= 0.5, fits[delimiter][1]))


def _names_audio(line: str) -> bool:
    """Whether the first word of a line, which is not all, is an audio file's name."""
    return not line.strip() or Path(line.split(" ")[0]).suffix.lower() in AUDIO_SUFFIXES


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be read ({error}); give a CSV in UTF-8 with a header")


def _read_json(path: Path, encoding: str) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON list, or of a file with one a line."""
    text = path.read_text(encoding)
    if text.lstrip().startswith("["):
        found = list(enumerate(json.loads(text), 1))
    else:
        try:
            found = [(number, json.loads(line)) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        except ValueError:
            found = [(1, json.loads(text))]  # one object over several lines, or a plainer error
        if len(found) == 1:
            found = _list_in(path, found[0][1])
    if not all(isinstance(item, dict) for _, item in found):
        raise UserError(f"{path}: this is JSON, but not a list of objects: give a CSV, or an object a line")
    return found


def _list_in(path: Path, item: Any) -> list[tuple[int, Any]]:
    """The list of objects that is all there is in an object."""
    values = list(item.values()) if isinstance(item, dict) else []
    if len(values) != 1 or not isinstance(values[0], list):
        raise _one_object(path)
    return list(enumerate(values[0], 1))


def _one_object(path: Path) -> UserError:
    return UserError(f"{path}: this is one JSON object, not a table: give a CSV, or an object a line")


def _read_parquet(path: Path) -> list[tuple[int, dict[str, Any]]]:
    import pandas as pd

    try:
        table = pd.read_parquet(path)
    except ImportError:
        raise UserError(f"{path}: this is Parquet, not a CSV: pip install pyarrow, or save it as CSV") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: this is Parquet that cannot be read ({error}); save it as CSV") from None
    records = table.to_dict("records")
    for key, value in (records[0] if records else {}).items():
        if isinstance(value.get("bytes") if isinstance(value, dict) else value, bytes):
            raise UserError(f"{path}: this Parquet holds the sound itself, in its column {key!r}: write the clips to "
                            "files, and name those in a table")  # fmt: skip
    return list(enumerate(records, 1))


def _from_objects(objects: list[tuple[int, dict[str, Any]]], shape: Format) -> Table:
    """A table with a column a key, in the order in which keys come; a key that an object lacks is an empty cell."""
    flat = [(line, dict(_leaves(item))) for line, item in objects]
    header = list(dict.fromkeys(key for _, item in flat for key in item))
    return Table(header, [(line, [item.get(key, "") for key in header]) for line, item in flat], shape)


def _leaves(item: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The values of an object as text, those of an object in it by dotted names."""
    for key, value in item.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _text(value)


def _text(value: Any) -> str:
    if value is None or value != value:  # not a number
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    if hasattr(value, "tolist"):  # NumPy's
        return _text(value.tolist())
    return str(value)
