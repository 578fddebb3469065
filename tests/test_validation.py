"""What a submission's check finds, and the command that tells it."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import inference
import prediction.validation
from model import save_checkpoint
from prediction.forms import read_form
from prediction.submission import write_submission
from prediction.validation import check_submission
from preprocessing.sample import Form
from preprocessing.tables import Format
from system.errors import UserError
from tests.conftest import CLASSES, one_error_line
from tests.test_arg import RUN
from util import Names

ROOT = Path(__file__).parents[1]
IDS = ("a.wav", "b,c.wav", "d.wav", "é.wav")
LABELS = Form(("fname", "label"), Names(IDS))
SHARES = Form(("id", "sweep", "high", "low"), Names(IDS[:2]), tuple(map(CLASSES.index, ("sweep", "high", "low"))))
GOOD = 'fname,label\na.wav,high\n"b,c.wav",low\nd.wav,high\né.wav,sweep\n'


def problems(path: Path, content: str | bytes, form: Form = LABELS) -> tuple[str, ...]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tuple(check_submission(path, form, CLASSES).problems.values())


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.rstrip("\n"),
        GOOD.replace("\n", "\r\n") + "\r\n\r\n",
        "".join(f'"{a}","{b}"\n' for a, b in [LABELS.header, *zip(IDS, ["low"] * 4, strict=True)]),
        b"\xef\xbb\xbf" + GOOD.encode(),
    ],
)
def test_what_platforms_take(content: str | bytes, tmp_path: Path) -> None:
    assert problems(tmp_path / "s.csv", content) == ()
    remarks = check_submission(tmp_path / "s.csv", LABELS, CLASSES).remarks
    assert len(remarks) == isinstance(content, bytes)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("d.wav,high\n", "", ["missing ids: 1 (d.wav)"]),
        ("d.wav,high\n", "d.wav,high\na.wav,low\n", ["doubled ids: 1 (line 5 a.wav)"]),
        ("d.wav", "x\x1b.wav", ["unknown ids: 1 (line 4 x\N{REPLACEMENT CHARACTER}.wav)", "missing ids: 1 (d.wav)"]),
        ("a.wav,high\n", "é.wav,low\na.wav,high\n", ["rows out of order: 1 (line 3 a.wav)", "doubled ids: 1 (line 6"]),
        ("fname,label", "label,fname", ["its header is label,fname, not fname,label"]),
        ("fname,label\n", "", ["its header is a.wav,high, not fname,label", "missing ids: 1 (a.wav)"]),
        ("a.wav,high", "a.wav,high ", ["labels that are no class: 1 (line 2 a.wav: high )"]),
        ("a.wav,high", "a.wav,High", ["labels that are no class: 1 (line 2 a.wav: High)"]),
        ("a.wav,high", "a.wav,", ["rows with an empty cell: 1 (line 2 a.wav)"]),
        ("a.wav,high", "a.wav", ["rows without exactly 2 cells: 1 (line 2 a.wav has 1)"]),
        ("a.wav,high", "a.wav,high,1", ["rows without exactly 2 cells: 1 (line 2 a.wav has 3)"]),
        ("é.wav,sweep\n", 'é.wav,"sweep', ["cannot be read further on: 1 (line 5: unexpected end of data)", "missing"]),
        (GOOD, "", ["its header is missing, not fname,label", "missing ids: 4 (a.wav, b,c.wav, d.wav, ...)"]),
    ],
)  # fmt: skip
def test_what_would_be_rejected(old: str, new: str, expected: list[str], tmp_path: Path) -> None:
    found = problems(tmp_path / "s.csv", GOOD.replace(old, new, 1))
    assert len(found) == len(expected), found
    assert all(text in line for text, line in zip(expected, found, strict=True)), found


def test_other_encodings_and_bad_samples(tmp_path: Path) -> None:
    assert problems(tmp_path / "s.csv", GOOD.encode("utf-16"))[1].startswith("it is not UTF-8 further on")
    with pytest.raises(UserError, match=r"a\.wav: the sample submission has this id more than once"):
        problems(tmp_path / "s.csv", GOOD, Form(LABELS.header, Names(["a.wav", "b.wav", "a.wav"])))


def test_rows_in_any_order_and_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against counting by hand, in blocks of three."""
    monkeypatch.setattr(prediction.validation, "BLOCK_ROWS", 3)
    draw = np.random.default_rng(0)
    ids = [f"{number}.wav" for number in range(12)]
    form = Form(LABELS.header, Names(ids))
    for _ in range(50):
        rows = draw.integers(0, 15, draw.integers(1, 20)).tolist()
        table = pd.DataFrame({"fname": [f"{row}.wav" for row in rows], "label": "low"})
        first = list(dict.fromkeys(row for row in rows if row < 12))
        expected = {
            "unknown ids": sum(row >= 12 for row in rows),
            "doubled ids": sum(row < 12 for row in rows) - len(first),
            "rows out of order": sum(one > other for one, other in pairwise(first)),
            "missing ids": 12 - len(first),
        }
        found = dict(
            re.findall(
                r"^([a-z ]+): (\d+) ", "\n".join(problems(tmp_path / "s.csv", table.to_csv(index=False), form)), re.M
            )
        )
        assert {kind: int(number) for kind, number in found.items()} == {k: n for k, n in expected.items() if n}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("0.5,0.2,0.3", ""),
        ("0.333,0.333,0.333", ""),
        ("1e-3,0.999,0", ""),
        ("0.5,0.2,0.2", "rows whose probabilities do not sum to 1: 1 (line 2 a.wav: 0.9)"),
        ("nan,0.5,0.5", "rows whose probabilities are not all numbers from 0 to 1: 1 (line 2 a.wav)"),
        ("inf,-inf,1", "rows whose probabilities are not all numbers"),
        ("-0.1,0.6,0.5", "rows whose probabilities are not all numbers"),
        ("low,0.5,0.5", "rows whose probabilities are not all numbers"),
        (",0.5,0.5", "rows with an empty cell: 1 (line 2 a.wav)"),
    ],
)
def test_probability_columns(row: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    found = problems(path, f'id,sweep,high,low\na.wav,{row}\n"b,c.wav",0.1,0.4,0.5\n', SHARES)
    assert expected in "".join(found)
    assert len(found) == (expected != "")
    check = check_submission(path, SHARES, CLASSES)
    assert check.predicted[1] == CLASSES.index("low")
    assert check.near_ties == (1 + (row == "0.333,0.333,0.333"))  # 0.4 and 0.5 are one, in floating point


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("low high", ""),
        ("sweep", ""),
        ("low low", "rows that name a label twice: 1 (line 2 a.wav)"),
        ("low high sweep", "rows of more than 2 labels: 1 (line 2 a.wav)"),
        ("low deep", "labels that are no class: 1 (line 2 a.wav: low deep)"),
        ("low|high", "labels that are no class: 1 (line 2 a.wav: low|high)"),
        ("", "rows with an empty cell: 1 (line 2 a.wav)"),
    ],
)
def test_several_labels_in_a_cell(cell: str, expected: str, tmp_path: Path) -> None:
    form = Form(LABELS.header, Names(IDS[:2]), best=2)
    found = problems(tmp_path / "s.csv", f'fname,label\na.wav,{cell}\n"b,c.wav",sweep high\n', form)
    assert "".join(found) == expected
    assert check_submission(tmp_path / "s.csv", form, CLASSES).predicted[1] == CLASSES.index("sweep")


@pytest.mark.parametrize("cell", ["0", "1.0", "5e-1", "1.01", "-0.1", "nan", "inf", "yes", "0,5"])
def test_the_probability_of_one_class(cell: str, tmp_path: Path) -> None:
    form = Form(("id", "p"), Names(IDS[:2]), positive=0)
    path = tmp_path / "s.csv"
    found = problems(path, f'id,p\na.wav,"{cell}"\n"b,c.wav",0.2\n', form)
    good = cell in ("0", "1.0", "5e-1")
    assert "".join(found) == (
        "" if good else "rows whose probabilities are not all numbers from 0 to 1: 1 (line 2 a.wav)"
    )
    check = check_submission(path, form, ("no", "yes"))
    assert check.predicted.tolist() == [-1 if not good else 1 if cell == "0" else 0, 1]
    assert check.near_ties == (cell == "5e-1")


def test_another_delimiter_is_said_and_the_rest_is_checked(tmp_path: Path) -> None:
    said = "its cells are separated by semicolons, not commas"
    assert problems(tmp_path / "s.csv", GOOD.replace(",", ";").replace("b;c", "b,c")) == (said,)
    found = problems(tmp_path / "s.csv", GOOD.replace(",", ";").replace("b;c", "b,c").replace("sweep", "deep"))
    assert found == (said, "labels that are no class: 1 (line 5 é.wav: deep)")
    tabs = Form(LABELS.header, LABELS.ids, format=Format("csv", delimiter="\t"))
    assert problems(tmp_path / "s.csv", GOOD, tabs) == ("its cells are separated by commas, not tabs",)
    colons = Form(LABELS.header, LABELS.ids, format=Format("csv", delimiter=":"))
    assert problems(tmp_path / "s.csv", GOOD, colons) == ("its cells are separated by commas, not ':'",)


def test_row_numbers_in_front(tmp_path: Path) -> None:
    form = Form(("", "id", "label"), Names(IDS[:2]), first_number=0)
    assert problems(tmp_path / "s.csv", ',id,label\n0,a.wav,low\n1,"b,c.wav",high\n', form) == ()
    found = problems(tmp_path / "s.csv", ',id,label\n1,a.wav,low\n1,"b,c.wav",high\n', form)
    assert found == ("rows that have another number in the first column: 1 (line 2 a.wav)",)


# ------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def good(store_work: Path, tmp_path: Path) -> Path:
    """What the store's test clips are labelled with, as it should be, and probabilities that fit."""
    fnames = sorted(f"{kind}/t{n}_nohash_0.wav" for kind in CLASSES for n in range(2))
    table = pd.DataFrame({"fname": fnames, "label": [Path(name).parent.name for name in fnames]})
    table.to_csv(tmp_path / "s.csv", index=False)
    beside = pd.DataFrame({"fname": fnames} | {name: 0.1 + 0.7 * (table["label"] == name) for name in CLASSES})
    beside.to_csv(tmp_path / "s_probabilities.csv", index=False)
    return tmp_path / "s.csv"


def check(path: Path, *options: Path | str) -> int:
    return inference.main(["--check", str(path), *map(str, options)])


def test_a_submission_is_checked_against_the_store(
    good: Path, store_work: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(good, "-w", store_work) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[1:] == [
        "near a tie: 0 labels (0.0%), whose two best classes are within 0.1",
        f"{good}: would be accepted, 6 rows as in the test clips of {store_work}",
    ]
    assert not said.err
    assert check(good, "-w", store_work, "-i", data_root / "test") == 0
    beside = good.with_name("s_probabilities.csv")
    beside.write_text(beside.read_text().replace("0.8", "0.05").replace("0.1,", "0.85,"))
    capsys.readouterr()
    assert check(good, "-w", store_work) == 0
    assert "s_probabilities.csv: not used" in capsys.readouterr().err

    good.write_text(good.read_text().replace("low", "deep"))
    assert check(good, "-w", store_work) == 2
    said = capsys.readouterr()
    assert "unknown ids: 2 (line 4 deep/t0_nohash_0.wav, line 5 deep/t1_nohash_0.wav)" in said.out
    assert said.err.splitlines()[-1].startswith(f"error: {good}: would be rejected, 3 problems, compared with the")


def test_a_submission_is_checked_against_a_sample(good: Path, store_work: Path, tmp_path: Path) -> None:
    sample = tmp_path / "sample.csv"
    sample.write_text("".join(reversed(good.read_text().replace("fname,label\n", "").splitlines(keepends=True))))
    sample.write_text("id,word\n" + sample.read_text())
    assert check(good, "-w", store_work, "--sample-submission", sample) == 2
    assert check(sample, "-w", store_work, "--sample-submission", sample) == 0


SAMPLES = {
    "labels": "id,label\n{0},low\n{1},high\n",
    "labels that are no class": "id,label\n{0},silence\n{1},silence\n",
    "another label that is no class": "id,label\n{0},Low\n{1},high\n",
    "empty cells": "id,label\n{0},\n{1},\n",
    "several labels": "id,label\n{0},low high\n{1},low low\n",
    "probabilities": "id,sweep,low,high\n{0},0.2,0.3,0.5\n{1},1,0,0\n",
    "probabilities that are no numbers": "id,sweep,low,high\n{0},a,b,c\n{1},-1,-1,-1\n",
    "zeros": "id,Sweep,LOW,high\n{0},0,0,0\n{1},0,0,0\n",
    "a class too few": "id,sweep,low\n{0},0,0\n{1},0,0\n",
    "a class too many": "id,sweep,low,high,deep\n{0},0,0,0,0\n{1},1,1,1,1\n",
    "one probability": "id,is_low\n{0},0.5\n{1},0.5\n",
    "whose probability": "id,probability\n{0},7\n{1},7\n",
    "semicolons": "id;sweep;low;high\n{0};0,2;0,3;0,5\n{1};1,0;0,0;0,0\n",
    "tabs": "id\tlabel\n{0}\tlow\n{1}\thigh\n",
    "row numbers": ",id,label\n0,{0},low\n1,{1},high\n",
    "spaces": "id, label\n{0}, low\n{1}, high\n",
    "quotes and blank lines": '"id","label"\r\n\r\n"{0}","low"\r\n"{1}","high"\r\n\r\n',
    "Excel": "sep=;\nid;label\n{0};low\n{1};high\n",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", SAMPLES)
def test_a_sample_is_accepted_as_a_submission(
    kind: str, encoding: str, store_work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, other = tmp_path / "sample.csv", tmp_path / "other.csv"
    text = SAMPLES[kind].format("low/t0_nohash_0", "high/t0_nohash_0")
    sample.write_bytes(text.encode(encoding))
    given = ("-w", store_work, "--sample-submission", sample)
    assert check(sample, *given) == 0
    said = capsys.readouterr()
    assert "would be accepted, 2 rows" in said.out
    assert f"every value is that of {sample}: this is the sample itself" in said.err

    lines = text.splitlines(keepends=True)
    for change in (lines[:-1], [*lines[:-2], lines[-1], lines[-2]], [*lines, lines[-1]], ["x" + lines[0], *lines[1:]]):
        if kind != "quotes and blank lines" and (kind != "Excel" or change[0] == lines[0]):
            other.write_bytes("".join(change).encode(encoding))
            assert check(other, *given) == 2


def test_what_the_sample_has_is_a_remark_and_what_it_has_not_an_error(
    store_work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, other = tmp_path / "sample.csv", tmp_path / "other.csv"
    sample.write_text("id,sweep,low,high\nlow/t0_nohash_0,0,0,0\nhigh/t0_nohash_0,0,0,0\n")
    given = ("-w", store_work, "--sample-submission", sample)
    other.write_text(sample.read_text().replace(",0,0,0", ",0.2,0.2,0.2"))
    assert check(other, *given) == 0
    said = capsys.readouterr().err
    assert "as in the sample, rows whose probabilities do not sum to 1: 2 (line 2 low/t0_nohash_0: 0.6" in said
    assert "the sample itself" not in said
    other.write_text(sample.read_text().replace(",0,0,0", ",low,0,nan", 1))
    assert check(other, *given) == 2
    assert "not all numbers from 0 to 1: 1 (line 2" in capsys.readouterr().out


def test_no_torch_is_needed(good: Path, store_work: Path) -> None:
    code = (
        "import sys, inference; inference.main(sys.argv[1:]); print({'torch', 'librosa', 'sklearn'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, "--check", str(good), "-w", str(store_work)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == [
        f"{good}: would be accepted, 6 rows as in the test clips of {store_work}",
        "set()",
    ]


@pytest.mark.parametrize("options", [["-m", "resnet18"], ["-a", "y"], ["--output", "x.csv"], ["-f", "2"], ["-t", "64"]])
def test_other_options_do_not_go_with_a_check(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert check(Path("s.csv"), *options) == 2
    assert "a check labels nothing" in one_error_line(capsys)


def test_without_classes_or_ids(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(good, "-w", tmp_path / "nothing") == 2
    assert "neither a store nor a run" in one_error_line(capsys)
    save_checkpoint(tmp_path / "work" / "runs" / "some" / "fold0" / "last.ckpt", RUN, {}, finished=True)
    assert check(good, "-w", tmp_path / "work") == 2
    assert "no store to tell the ids" in one_error_line(capsys)
    (tmp_path / "a.wav").touch()
    good.write_text("fname,label\na.wav,b\n")
    assert check(good, "-w", tmp_path / "work", "-i", tmp_path) == 0


def test_nothing_is_written_that_would_be_rejected(tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    output.write_text("stays")
    form = read_form(None, Names(["a.wav"]), CLASSES)
    with pytest.raises(UserError, match="not written, since it would be rejected: rows whose probabilities do not sum"):
        write_submission(output, form, CLASSES, lambda _: np.full((1, 3), 0.5, np.float32))
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert output.read_text() == "stays"


def test_the_option_for_a_sample_needs_one(good: Path, store_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(good, "-w", store_work, "--positive", "low") == 2
    assert "--positive low: no sample submission is found; give --sample-submission" in one_error_line(capsys)


def test_clips_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match=r"a\.wav: several clips have this name"):
        read_form(None, Names(["b.wav", "a.wav", "a.wav"]), CLASSES)
