"""The sample submission: which form it asks for, which clips it names, and what is said where it does not fit."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

import inference
import preprocess
import train
from prediction.forms import read_form
from prediction.submission import write_submission
from preprocessing.ids import find_rows, id_faults, match_ids
from preprocessing.sample import Reading, form_of, read_sample
from preprocessing.store import load_clips, load_store
from system.errors import UserError
from tests.conftest import RATE, one_error_line
from util import Names

CLASSES = ("bark", "meow", "rain")


def reading(
    path: Path, text: str, classes: Sequence[str] = CLASSES, positive: str | None = None, encoding: str = "utf-8"
) -> Reading:
    path.write_bytes(text.encode(encoding))
    return form_of(read_sample(path), tuple(classes), positive)


# ------------------------------------------------------------------------------------------------------ the form


@pytest.mark.parametrize(
    ("titles", "columns"),
    [
        ("bark,meow,rain", (0, 1, 2)),
        ("Rain,BARK,Meow", (2, 0, 1)),
        ("prob_rain,prob_bark,prob_meow", (2, 0, 1)),
        ("rain_score,bark_score,meow_score", (2, 0, 1)),
        ("probRain,probBark,probMeow", (2, 0, 1)),
        (" bark, meow, rain", (0, 1, 2)),
    ],
)
def test_a_column_a_class(tmp_path: Path, titles: str, columns: tuple[int, ...]) -> None:
    found = reading(tmp_path / "s.csv", f"id,{titles}\na.wav,0,0,1\n")
    assert found.form.columns == columns
    assert found.form.header == tuple(f"id,{titles}".split(","))
    assert not found.misfit


def test_classes_that_capitals_alone_tell_apart_are_taken_as_they_are(tmp_path: Path) -> None:
    assert reading(tmp_path / "s.csv", "id,a,A\nx,0,1\n", ("A", "a")).form.columns == (1, 0)
    assert not reading(tmp_path / "s.csv", "id,a_,A\nx,0,1\n", ("A", "a")).usable


@pytest.mark.parametrize(
    ("titles", "said"),
    [
        ("rain,bark", "(meow), without which rows would not sum to 1; preprocess.py --map meow= trains"),
        ("rain,bark,meow,silence", "no class for 1 column (silence); preprocess.py --silence N"),
        ("rain,bark,moo", "no column for 1 class (meow); no class for 1 column (moo)"),
        ("rain,bark,meow,rain", "a class has two columns"),
        ("x,y", "its header is id,x,y and its first row a.wav,0,0"),
    ],
)
def test_other_columns_than_classes_are_shown_beside_them(tmp_path: Path, titles: str, said: str) -> None:
    found = reading(tmp_path / "s.csv", f"id,{titles}\na.wav{',0' * len(titles.split(','))}\n")
    assert not found.usable
    assert said in found.misfit
    assert "an id and a column for each of bark, meow, rain" in found.misfit
    assert f"its header is id,{titles} and its first row a.wav,0,0" in found.misfit


@pytest.mark.parametrize(
    ("cell", "best", "separator"),
    [
        ("bark", 1, " "),
        ("bark meow rain", 3, " "),
        ("rain bark", 2, " "),
        ('"bark, meow, rain"', 3, ", "),
        ('"bark,meow"', 2, ","),
        ("bark|meow|rain", 3, "|"),
        ("bark;meow", 2, ";"),
        ("bark bark bark", 3, " "),
        ("bark bark bark bark", 3, " "),  # there are no four
    ],
)
def test_several_labels_in_a_cell(tmp_path: Path, cell: str, best: int, separator: str) -> None:
    found = reading(tmp_path / "s.csv", f"id,label\na.wav,{cell}\nb.wav,rain\n")
    assert (found.form.best, found.misfit) == (best, "")
    if best > 1:
        assert found.form.separator == separator


def test_classes_with_spaces_are_told_apart_by_another_separator(tmp_path: Path) -> None:
    classes = ("dog bark", "rain")
    assert reading(tmp_path / "s.csv", "id,label\na,dog bark|rain\n", classes).form.separator == "|"
    assert reading(tmp_path / "s.csv", "id,label\na,dog bark\n", classes).form.best == 1
    for text in ('id,label\na,"0,1"\nb,"1,0"\n', "id;label\na;0,1\nb;1,0\n", 'id\tlabel\na\t"0,1"\n'):
        assert reading(tmp_path / "s.csv", text, ("0", "1")).form.best == 2  # and no decimal comma


@pytest.mark.parametrize(
    ("classes", "title", "cell", "positive"),
    [
        ("no yes", "probability", "0.5", "yes"),
        ("no yes", "target", "0", "yes"),
        ("no yes", "Probability", "", "yes"),
        ("no yes", "Probability", "nan", "yes"),
        ("false true", "score", "0", "true"),
        ("negative positive", "prediction", "1", "positive"),
        ("0 1", "probability", "0", "1"),
        ("0 1", "target", "0", "1"),
        ("0 1", "label", "0.5", "1"),
        ("no_whale whale", "is_whale", "0", "whale"),
        ("no_whale whale", "isWhale", "0", "whale"),
        ("lane road", "plane", "0.5", None),
        ("no_whale whale", "probability", "0", "whale"),
        ("bird not-bird", "p", "0.1", "bird"),
        ("background speech", "score", "0.5", "speech"),
        ("cat dog", "dog", "0", "dog"),
        ("cat dog", "P(cat)", "0.5", "cat"),
        ("cat dog", "probability", "0.5", None),
        ("cat dog", "label", "0.5", None),
        ("cat dog", "is_bird", "1", None),
        ("cat other", "dog", "0.5", None),
        ("bark meow rain", "probability", "0.3", None),
        ("bark meow rain", "probability", "", None),
        ("bark meow rain", "is_rain", "0", "rain"),
    ],
)
def test_a_column_of_numbers_is_a_probability(
    tmp_path: Path, classes: str, title: str, cell: str, positive: str | None
) -> None:
    names = tuple(classes.split())
    found = reading(tmp_path / "s.csv", f"id,{title}\na,{cell}\nb,{cell}\n", names)
    assert found.usable == (positive is not None)
    assert found.form.positive == (-1 if positive is None else names.index(positive))
    if positive is None:
        assert f"whose probability is column {title}? say inference.py --positive" in found.misfit
        assert reading(tmp_path / "s.csv", f"id,{title}\na,{cell}\n", names, names[0]).form.positive == 0


@pytest.mark.parametrize(
    ("classes", "title", "cell"),
    [
        ("0 1", "label", "0"),
        ("0 1 2 3", "target", "3"),
        ("0 1 2 3", "digit", "3"),
        ("no yes", "probability", "yes"),
        ("no yes", "label", "0"),  # stands for any
        ("bark meow rain", "label", "?"),
        ("bark meow rain", "label", ""),
        ("no yes", "label", "nan"),
    ],
)
def test_labels_stay_labels(tmp_path: Path, classes: str, title: str, cell: str) -> None:
    found = reading(tmp_path / "s.csv", f"id,{title}\na,{cell}\nb,{cell}\n", classes.split())
    assert (found.form.numbers, found.misfit) == (False, "")


def test_the_option_says_what_a_column_holds(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    assert reading(path, "id,target\na,0\n", ("0", "1"), "none").form.positive is None
    assert reading(path, "id,target\na,0\n", ("0", "1"), "0").form.positive == 0
    with pytest.raises(UserError, match="--positive x: no class; use bark or meow or rain, or none for labels"):
        reading(path, "id,p\na,0\n", CLASSES, "x")
    with pytest.raises(UserError, match="no single column of numbers; its header is id,label and its first row a,bark"):
        reading(path, "id,label\na,bark\n", CLASSES, "rain")


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (
            "silence silence",
            "no class: 1 label (silence); classes are 3 classes (bark, meow, rain); preprocess.py --sil",
        ),
        ("bark unknown", "no class: 1 label (unknown)"),
        ("Bark Rain", "preprocess.py --map bark=Bark rain=Rain calls them so"),
        ("Bark BARK", "classes are 3 classes (bark, meow, rain); preprocess.py --map OLD=NEW"),  # both cannot be bark
        ("0 2", "no class: 2 labels (0, 2)"),
    ],
)
def test_labels_that_are_no_class_are_named(tmp_path: Path, cells: str, said: str) -> None:
    one, two = cells.split()
    found = reading(tmp_path / "s.csv", f"id,label\na,{one}\nb,{two}\n")
    assert found.usable
    assert said in found.misfit


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_any_dialect(tmp_path: Path, delimiter: str, encoding: str) -> None:
    text = "id,label\r\na.wav,bark\r\né.wav,rain\r\n".replace(",", delimiter)
    found = reading(tmp_path / "s.csv", text, encoding=encoding)
    assert found.form.header == ("id", "label")
    assert list(found.form.ids) == ["a.wav", "é.wav"]
    assert found.form.format.delimiter == delimiter


@pytest.mark.parametrize(
    ("text", "first", "ids"),
    [
        (",id,label\n0,a,bark\n1,b,bark\n", 0, ["a", "b"]),
        ("Unnamed: 0,fname,bark,meow,rain\n0,a,0,0,1\n1,b,0,0,1\n", 0, ["a", "b"]),
        ("id,fname,label\n1,a,bark\n2,b,bark\n", 1, ["a", "b"]),
        (",id,bark,meow,rain\n0,10,0,0,1\n1,11,0,0,1\n", 0, ["10", "11"]),
        (",bark,meow,rain\n0,0,0,1\n1,0,0,1\n", None, ["0", "1"]),
        (",label\na,bark\nb,bark\n", None, ["a", "b"]),
    ],
)
def test_a_column_of_row_numbers_in_front(tmp_path: Path, text: str, first: int | None, ids: list[str]) -> None:
    found = reading(tmp_path / "s.csv", text)
    assert (found.form.first_number, list(found.form.ids), found.misfit) == (first, ids, "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ('{"id": 1}\n', "this is JSON"),
        ("id,label\na,bark,meow\n", "a,bark,meow has more cells than the header id,label"),
        ("PK\x03\x04", "ZIP"),
    ],
)
def test_what_is_no_sample_submission(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        reading(tmp_path / "s.csv", text)


# ------------------------------------------------------------------------------------------------------- the ids


@pytest.mark.parametrize(
    ("ids", "names", "rows"),
    [
        ("audio/08.wav audio/09.wav", "audio/07.wav audio/09.wav audio/08.wav", [2, 1]),
        ("audio/08.wav audio/09.wav", "07.wav 09.wav 08.wav", [2, 1]),
        ("08 09", "x/09.flac x/08.wav y/1.wav", [1, 0]),
        ("08.mp3", "x/08.wav", [0]),
        ("AUDIO/08.WAV", "1.wav audio/08.wav", [1]),
        ("audio\\08.wav", "audio/08.wav", [0]),
        ("train/1.wav", "test/1.wav train/2.wav", [-1]),
        ("1.wav 2.wav", "a/1.wav b/1.wav b/2.wav", [-1, 2]),
    ],
)
def test_an_id_means_the_one_clip_that_ends_so(ids: str, names: str, rows: list[int]) -> None:
    assert find_rows(Names(ids.split()), Names(names.split())).tolist() == rows


@pytest.mark.parametrize(
    ("ids", "names", "said"),
    [
        ("clip08 zzz", "clip_08.wav", "2 ids without a clip (such as clip08, nearest is clip_08.wav, zzz)"),
        ("a b c d", "x.wav", "4 ids without a clip (such as a, b, c, ...)"),
        ("1.wav", "a/1.wav b/1.wav", "such as 1.wav, which may be a/1.wav or b/1.wav"),
        ("08 08.wav", "08.wav", "1 id for another id's clip (such as 08 and 08.wav)"),
        ("08 08", "08.wav", "1 id more than once"),
    ],
)
def test_ids_that_mean_no_clip_are_said(ids: str, names: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        match_ids(Names(ids.split()), Names(names.split()), Path("s.csv"))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("ids", "names", "windows"),
    [
        ("recording_5 recording_10", "", True),
        ("recording_5 other_5", "recording.ogg", True),
        ("rec_0_5 rec_5_10", "", True),
        ("file.ogg@5.0 file.ogg@10.0", "", True),
        ("x_29201_5 x_29201_10 x_3_5 x_3_10", "", True),
        ("rec_2.5 rec_5.0", "", True),
        ("clip_1 clip_2 clip_3", "", False),
        ("s_nohash_0.wav s_nohash_1.wav", "", False),
        ("clip_17 clip_5 clip_90", "", False),
    ],
)
def test_ids_that_name_times_are_windows(ids: str, names: str, windows: bool) -> None:
    wanted, there = ids.split(), names.split()
    said = id_faults(wanted, find_rows(wanted, there), there)
    assert said.startswith(f"its ids name times in recordings ({wanted[0]}, {wanted[1]})") == windows
    assert ("ids without a clip" in said) != windows


# --------------------------------------------------------------------------------------------------- end to end


def sound(path: Path, kind: int, seed: int) -> None:
    draw = np.random.default_rng([kind, seed])
    time = np.arange(RATE // 4) / RATE
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.3 * np.sin(2 * np.pi * 400 * (1 + kind) * draw.uniform(0.97, 1.03) * time)
    soundfile.write(path, wave + 0.03 * draw.standard_normal(len(time)), RATE)


TEST = range(3, 18, 3)  # the clips without a label


def data_set(root: Path, classes: Sequence[str] = CLASSES, folder: str = "audio_files") -> Path:
    """Clips of train and test in one folder; Train.csv has the labels of some."""
    rows = []
    for number in range(18):
        kind = number % len(classes)
        sound(root / folder / f"{number:02}.wav", kind, number)
        rows += [] if number in TEST else [f"{folder}/{number:02}.wav,{classes[kind]}"]
    (root / "Train.csv").write_text("\n".join(["fname,label", *rows, ""]))
    return root


def sample_text(header: str, cell: str, id_: str = "audio_files/{:02}.wav", delimiter: str = ",") -> str:
    return "".join(f"{line}\n" for line in [header, *(f"{id_.format(n)}{delimiter}{cell}" for n in TEST)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ and work/ with a fold trained for an epoch, of three classes; not to be written to."""
    folder = tmp_path_factory.mktemp("sample")
    make_work(folder, CLASSES, sample_text("fname,bark,meow,rain", "0,0,0"))
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of two classes, neither of which is the positive one."""
    folder = tmp_path_factory.mktemp("two")
    make_work(folder, ("cat", "dog"), sample_text("fname,label", "cat"))
    return folder


def make_work(folder: Path, classes: Sequence[str], sample: str) -> None:
    root = data_set(folder / "data", classes)
    (root / "SampleSubmission.csv").write_text(sample)
    assert preprocess.main(["--manifest", str(root / "Train.csv"), "-w", str(folder / "work"), "-k", "2"]) == 0
    network = ["-t", "32", "-m", "test_resnet", "-g", "cpu", "--optimizer", "adamw", "--batch-size", "4"]
    assert train.main([*network, "-w", str(folder / "work"), "-f", "0", "--epochs", "1"]) == 0


def infer(folder: Path, output: Path, *options: Path | str) -> int:
    asked = [
        "-t",
        "32",
        "-m",
        "test_resnet",
        "-f",
        "0,",
        "-g",
        "cpu",
        "-a",
        "n",
        "-w",
        str(folder / "work"),
        "-o",
        str(output),
    ]
    return inference.main([*asked, *map(str, options)])


def check(folder: Path, path: Path, *options: Path | str) -> int:
    return inference.main(["--check", str(path), "-w", str(folder / "work"), *map(str, options)])


def test_the_sample_beside_the_data_names_the_test_clips(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = load_clips(trained / "work")
    test = clips[clips["split"] == "test"]
    assert list(test["fname"]) == [f"audio_files/{number:02}.wav" for number in TEST]
    assert load_store(trained / "work")["sample_submission"] == str(trained / "data" / "SampleSubmission.csv")
    assert "sample_misfit" not in load_store(trained / "work")
    copies = tmp_path / "copies"
    copies.mkdir()
    for number in TEST:
        shutil.copy(trained / "data" / "audio_files" / f"{number:02}.wav", copies)
    given = ("--sample-submission", trained / "data" / "SampleSubmission.csv")
    ways: list[tuple[Path | str, ...]] = [
        (),
        ("-i", trained / "data"),
        ("-i", trained / "data" / "audio_files"),
        ("-i", trained / "data", *given),
        ("-i", copies),
        ("-i", copies, *given),
    ]
    results = []
    for number, options in enumerate(ways):
        output = tmp_path / f"{number}.csv"
        assert infer(trained, output, *options) == 0
        results.append((output.read_bytes(), output.with_name(f"{number}_probabilities.csv").read_bytes()))
        assert check(trained, output, *options) == 0
    assert len(set(results)) == 1
    assert [line.split(",")[0] for line in results[0][0].decode().splitlines()] == ["fname", *test["fname"]]
    assert "labelling 5 clips that the sample submission names, and not 13 others" in capsys.readouterr().out
    sound(copies / "another.wav", 0, 99)  # which is not of this data set
    assert infer(trained, tmp_path / "more.csv", "-i", copies) == 0
    assert len(pd.read_csv(tmp_path / "more.csv")) == 6
    assert "takes those alone that the data set's sample submission names" in capsys.readouterr().out
    assert check(trained, tmp_path / "more.csv", "-i", copies) == 0
    assert infer(trained, tmp_path / "same.csv", "-i", copies, *given) == 0
    assert (tmp_path / "same.csv").read_bytes() == results[0][0]


FORMS = [
    ("fname,label", "bark", ","),
    ("fname,label", "bark meow", ","),
    ("fname,label", '"bark, rain, meow"', ","),
    ("fname;label", "bark|meow|rain", ";"),
    ("ID\tRAIN\tBARK\tMEOW", "0\t0\t0", "\t"),
    ("fname;prob_bark;prob_meow;prob_rain", "0,3;0,3;0,4", ";"),
    ("fname,is_rain", "0.5", ","),
    ("fname,label", "silence", ","),
]


@pytest.mark.parametrize(("header", "cell", "delimiter"), FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_submission_has_the_samples_form(
    trained: Path, tmp_path: Path, header: str, cell: str, delimiter: str, encoding: str
) -> None:
    sample, output = tmp_path / "sample.csv", tmp_path / "out.csv"
    sample.write_bytes(sample_text(header, cell, "{:02}", delimiter).encode(encoding))
    given = ("--sample-submission", sample)
    assert infer(trained, output, *given) == 0
    shares = pd.read_csv(tmp_path / "out_probabilities.csv", dtype={0: str})
    rows = list(csv.reader(output.read_text("utf-8").splitlines(), delimiter=delimiter))
    assert rows[0] == header.split(delimiter)
    assert [row[0] for row in rows[1:]] == [f"{number:02}" for number in TEST] == list(shares.iloc[:, 0])
    for row, share in zip(rows[1:], shares[list(CLASSES)].to_numpy(), strict=True):
        ranked = [CLASSES[index] for index in np.argsort(-share)]
        if "rain" in header.lower():
            columns = [CLASSES.index(t) for title in rows[0][1:] for t in CLASSES if t in title.lower()]
            values = [float(value.replace(",", ".")) for value in row[1:]]
            np.testing.assert_allclose(values, share[columns], atol=1e-6)
            assert ("," in "".join(row)) == ("," in cell and delimiter == ";")
        else:
            separator = next((one for one in (", ", "|", " ") if one in cell), None)
            assert row[1] == (separator.join(ranked[: len(cell.split(separator))]) if separator else ranked[0])
    assert check(trained, output, *given) == 0
    assert check(trained, sample, *given) == 0


def test_row_numbers_are_written_as_the_sample_has_them(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(",id,rain,meow,bark\n1,b.wav,0,0,0\n2,a.wav,0,0,0\n")
    form = read_form(tmp_path / "s.csv", Names(["x/a.wav", "x/b.wav"]), CLASSES)
    shares = np.array([[0.5, 0.25, 0.25], [0.0, 0.25, 0.75]], np.float32)
    write_submission(tmp_path / "o.csv", form, CLASSES, lambda rows: shares[rows])
    assert (tmp_path / "o.csv").read_text() == ",id,rain,meow,bark\n1,b.wav,0.75,0.25,0.0\n2,a.wav,0.25,0.25,0.5\n"


def test_which_class_a_probability_is_of_is_asked(
    two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, output = tmp_path / "sample.csv", tmp_path / "out.csv"
    sample.write_text(sample_text("fname,probability", "0.5"))
    given = ("--sample-submission", sample)
    assert infer(two, output, *given) == 2
    assert one_error_line(capsys).endswith("say inference.py --positive with one of cat, dog")
    assert infer(two, output, *given, "--positive", "dog") == 0
    shares = pd.read_csv(tmp_path / "out_probabilities.csv")
    np.testing.assert_allclose(pd.read_csv(output)["probability"], shares["dog"], atol=1e-6)
    assert check(two, output, *given, "--positive", "dog") == 0
    assert check(two, output, *given) == 0
    assert check(two, sample, *given) == 0
