"""Tables as people have them are read as the same rows of text, and what is no table is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from preprocessing.tables import read_table
from system.errors import UserError

HEADER = ["fname", "label"]
ROWS = [["a 1.wav", "007"], ["b,2.wav", "1e5"], ["é;3.wav", "no"]]


def written(path: Path, delimiter: str, encoding: str = "utf-8", first: str = "") -> Path:
    lines = [delimiter.join(f'"{cell}"' for cell in row) for row in (HEADER, *ROWS)]
    path.write_bytes((first + "\r\n".join(lines) + "\r\n\r\n").encode(encoding))
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_any_delimiter_and_encoding_gives_the_same_rows(tmp_path: Path, delimiter: str, encoding: str) -> None:
    table = read_table(written(tmp_path / "t.csv", delimiter, encoding))
    assert table.header == HEADER
    assert table.rows == [(2, ROWS[0]), (3, ROWS[1]), (4, ROWS[2])]
    assert table.format.delimiter == delimiter


def test_excel_names_its_delimiter_in_a_line_before(tmp_path: Path) -> None:
    table = read_table(written(tmp_path / "t.csv", ";", "utf-8-sig", "sep=;\r\n"))
    assert table.header == HEADER
    assert table.rows[0] == (3, ROWS[0])


def test_commas_in_cells_do_not_outvote_the_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("fname\tlabel\na.wav\tbark,meow,rain\nb.wav\train\n")
    assert [row for _, row in read_table(path).rows] == [["a.wav", "bark,meow,rain"], ["b.wav", "rain"]]


def test_json_lines_and_lists_are_tables(tmp_path: Path) -> None:
    objects = [{"audio_filepath": "a.wav", "duration": 1.5, "label": "yes"},
               {"audio_filepath": "b.wav", "label": None, "tags": ["x", "y"], "more": {"ok": True}}]  # fmt: skip
    header = ["audio_filepath", "duration", "label", "tags", "more.ok"]
    rows = [["a.wav", "1.5", "yes", "", ""], ["b.wav", "", "", "x,y", "true"]]
    lines, list_ = tmp_path / "lines.json", tmp_path / "list.json"
    lines.write_text("\n".join(map(json.dumps, objects)))
    list_.write_text(json.dumps(objects, indent=1))
    for path in (lines, list_):
        table = read_table(path)
        assert table.header == header
        assert [row for _, row in table.rows] == rows


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04....", "Excel workbook"),
        (gzip.compress(b"fname,label\n"), "compressed"),
        (b"RIFF....WAVE", "sound file"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b'{"a": {"b": 1},\n "c": 2}', "one JSON object"),
        (b"[1, 2]", "not a list of objects"),
        (b"fname,label\n\xe9.wav,yes\n", "UTF-8"),
        (b'fname,label\n"a.wav,yes\n', "cannot be read"),
        (b"", "empty"),
        (b"PAR1....PAR1", "Parquet"),
    ],
)
def test_what_is_no_table_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        read_table(path)
    assert str(path) in str(error.value)


def test_words_with_spaces_between_where_the_first_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("audio/a.wav dog 1\naudio/b.wav cat 2\n")
    assert read_table(path)[:2] == (["audio/a.wav", "dog", "1"], [(2, ["audio/b.wav", "cat", "2"])])
    path.write_text("a 0.wav\na 1.wav\n")
    assert read_table(path).header == ["a 0.wav"]


def test_a_list_in_a_json_object(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    for text in ('{"data": [{"wav": "a.wav", "labels": "x"}]}', '{\n"data": [\n{"wav": "a.wav", "labels": "x"}]}'):
        path.write_text(text)
        assert read_table(path)[:2] == (["wav", "labels"], [(1, ["a.wav", "x"])])
    for text in ('{"a.wav": "x", "b.wav": "y"}', '{"path": ["a.wav"], "label": ["x"]}', '{"a": {"b": 1}}'):
        path.write_text(text)
        with pytest.raises(UserError, match="this is one JSON object, not a table"):
            read_table(path)
