"""Which sample submission beside a data set is used, which test clips it names, and what a misfit says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import inference
import preprocess
import train
from arg import PreprocessConfig
from preprocessing.scan import scan
from preprocessing.store import load_clips, load_store
from system.errors import UserError
from tests.conftest import one_error_line
from tests.preparing import touch, write

TEST = ("a3", "a4")


def data_set(root: Path) -> Path:
    """Four clips with labels in Train.csv, two without, all in audio/; nothing in them."""
    touch(root / "audio", "a1.wav a2.wav a3.wav a4.wav a5.wav a6.wav")
    rows = ["audio/a1.wav,no", "audio/a2.wav,yes", "audio/a5.wav,no", "audio/a6.wav,yes"]
    (root / "Train.csv").write_text("\n".join(["fname,label", *rows, ""]))
    return root


def sample(path: Path, ids: tuple[str, ...] = TEST, form: str = "audio/{}.wav", cell: str = "no") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in ["id,label", *(f"{form.format(id_)},{cell}" for id_ in ids)]))
    return path


def found(root: Path, **options: Any) -> tuple[Path | None, list[str], str]:
    """The sample submission that is used, the test clips, the notes."""
    data = scan(PreprocessConfig(root, **{"manifest": root / "Train.csv", **options}))
    tests = [file.fname for file in data.files if file.split == "test"]
    return data.sample.path if data.sample else None, tests, "\n".join(data.notes)


@pytest.mark.parametrize(
    "name",
    [
        *("data/SampleSubmission.csv", "data/sampleSubmission.csv", "data/sample_submission_v2.csv"),
        *("data/sample-submission.tsv", "data/submission_format.csv", "data/SAMPLE_SUBMISSION.CSV"),
        *("sample_submission.csv", "data/meta/sample_submission.csv", "data/a/b/SampleSubmission.csv"),
    ],
)
@pytest.mark.parametrize("form", ["audio/{}.wav", "{}.wav", "{}", "elsewhere/{}.mp3"])
def test_a_sample_near_the_data_is_found(tmp_path: Path, name: str, form: str) -> None:
    path = sample(tmp_path / name, form=form)
    used, tests, notes = found(data_set(tmp_path / "data"))
    assert used == path
    assert tests == ["audio/a3.wav", "audio/a4.wav"]
    assert f"test clips are those that {path.name} names: 2 clips" in notes


def test_a_sample_beside_the_manifest_is_found(tmp_path: Path) -> None:
    root = data_set(tmp_path / "data")
    (tmp_path / "lists").mkdir()
    manifest = (root / "Train.csv").rename(tmp_path / "lists" / "Train.csv")
    path = sample(tmp_path / "lists" / "SampleSubmission.csv")
    assert found(root, manifest=manifest)[:2] == (path, ["audio/a3.wav", "audio/a4.wav"])


def test_one_sample_is_used_and_the_others_are_said(tmp_path: Path) -> None:
    root = data_set(tmp_path / "data")
    old, new = sample(root / "sample_submission.csv", ("b1", "b2")), sample(root / "sample_submission_2.csv")
    used, tests, notes = found(root)
    assert (used, len(tests)) == (new, 2)  # the one that fits
    assert f"sample submission {old}: not used, as 2 ids without a clip (such as audio/b1.wav" in notes
    used, tests, notes = found(root, sample_submission=old)
    assert (used, tests) == (old, [])
    third = sample(root / "sample_submission_3.csv")
    assert f"{third}: not used, as {new.name} is; --sample-submission CSV takes another" in found(root)[2]
    new.unlink()
    third.unlink()
    assert found(root)[0] == old  # a misfit is told when the data are prepared
    below = sample(root / "kaggle" / "Sample_Submission.csv")
    used, tests, notes = found(root)
    assert (used, len(tests)) == (below, 2)
    assert f"sample submission {old}: not used, as 2 ids without a clip" in notes


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("data/x/sample_submission.csv", "id,label\nb1,no\n", "not used, as 1 id without a clip (such as b1"),
        ("sample_submission.csv", "id,label\nrec_5,no\nrec_10,no\n", "not used, as its ids name times in recordings"),
        ("sample_submission.csv", "id,label\n", "not used, as it has no rows"),
        ("data/sample_submission.csv", "", "not used, as not a sample submission, as it is empty"),
        ("data/sample_submission.csv.zip", "PK", "not used, as it is no CSV: unpack or convert it"),
    ],
)
def test_a_sample_that_is_not_used_is_said(tmp_path: Path, name: str, text: str, said: str) -> None:
    root = data_set(tmp_path / "data")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    used, tests, notes = found(root)
    assert (used, tests) == (None, [])
    assert said in notes


def test_a_sample_that_is_given_must_be_one(tmp_path: Path) -> None:
    root = data_set(tmp_path / "data")
    with pytest.raises(UserError, match=r"none\.csv: cannot be read"):
        found(root, sample_submission=root / "none.csv")


def test_clips_to_label_that_are_training_clips_are_said(tmp_path: Path) -> None:
    root = data_set(tmp_path / "data")
    sample(root / "sample_submission.csv", ("a1", *TEST))
    _, tests, notes = found(root)
    assert tests == ["audio/a1.wav", "audio/a3.wav", "audio/a4.wav"]
    assert "names clips to label that are training clips, too: 1 clip (audio/a1.wav)" in notes


def test_of_two_clips_of_one_name_the_one_that_is_not_trained_on_is_meant(tmp_path: Path) -> None:
    touch(tmp_path, "audio_train/1.wav audio_train/2.wav audio_test/1.wav audio_test/2.wav")
    (tmp_path / "train.csv").write_text("fname,label\naudio_train/1.wav,no\naudio_train/2.wav,yes\n")
    for form in ("{}.wav", "{}", "audio_test/{}.wav"):
        sample(tmp_path / "sample_submission.csv", ("1", "2"), form)
        _, tests, notes = found(tmp_path, manifest=tmp_path / "train.csv")
        assert tests == ["audio_test/1.wav", "audio_test/2.wav"]
        assert "training clips, too" not in notes


def test_the_sample_names_further_test_clips(tmp_path: Path) -> None:
    root = data_set(tmp_path / "data")
    rows = (root / "Train.csv").read_text().replace("label\n", "label,split\n").replace("a6.wav,yes", "a6.wav,yes,test")
    (root / "Train.csv").write_text(rows.replace(",no\n", ",no,train\n").replace(",yes\n", ",yes,train\n"))
    sample(root / "sample_submission.csv", ("a6", *TEST))
    _, tests, notes = found(root)
    assert tests == ["audio/a3.wav", "audio/a4.wav", "audio/a6.wav"]
    assert "more test clips are those that sample_submission.csv names: 2 clips" in notes
    sample(root / "sample_submission.csv", ("a1", "a6"))
    assert found(root)[1] == ["audio/a6.wav"]  # a1 is trained on: a misfit


def test_rows_without_a_label_that_the_sample_names_are_no_fault(tmp_path: Path) -> None:
    root = data_set(tmp_path / "data")
    with (root / "Train.csv").open("a") as file:
        file.write("audio/a3.wav,\naudio/a4.wav,\n")
    sample(root / "sample_submission.csv")
    data = scan(PreprocessConfig(root, manifest=root / "Train.csv"))
    assert [(file.fname, file.reason) for file in data.files if file.split == "test" or file.reason] == [
        ("audio/a3.wav", ""),
        ("audio/a4.wav", ""),
    ]


def test_a_folder_of_clips_to_label_is_no_class(tmp_path: Path) -> None:
    touch(tmp_path, "no/1.wav no/2.wav yes/1.wav yes/2.wav clips/7.wav clips/8.wav")
    sample(tmp_path / "sample_submission.csv", ("7", "8"), "{}.wav")
    data = scan(PreprocessConfig(tmp_path))
    assert {file.label for file in data.files if file.split == "train"} == {"no", "yes"}
    assert [file.fname for file in data.files if file.split == "test"] == ["clips/7.wav", "clips/8.wav"]
    assert any("names all clips in it: 1 folder (clips)" in note for note in data.notes)


def prepared(folder: Path, text: str) -> dict[str, object]:
    """The facts of a store of two classes, whose sample submission is `text`."""
    for number in range(12):
        write(folder / "data" / "train" / ("no", "yes")[number % 2] / f"{number}.wav", number)
    for number in (20, 21):
        write(folder / "data" / "test" / f"{number}.wav", number)
    (folder / "data" / "sample_submission.csv").write_text(text)
    assert preprocess.main(["-i", str(folder / "data"), "-w", str(folder / "work"), "-k", "2"]) == 0
    return load_store(folder / "work")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,label\n20.wav,no\n21.wav,yes\n", "fits, an id and a label, 2 rows"),
        ("id,label\n21,no\n", "fits, an id and a label, 1 row; 1 other test clip not labelled"),
        ("id,Yes,No\n20,0,0\n21,0,0\n", "fits, an id and a column for each class, 2 rows"),
        ("id,probability\n20,0\n21,0\n", "fits, an id and the probability of yes, 2 rows"),
        ("id,label\n20,no yes\n21,yes no\n", "fits, an id and the 2 likeliest labels, with ' ' between, 2 rows"),
    ],
)
def test_a_sample_that_fits_is_said(tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "sample_misfit" not in prepared(tmp_path, text)
    assert f"sample submission {tmp_path / 'data' / 'sample_submission.csv'}: {said}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,label\n20,silence\n21,silence\n", "labels that are no class: 1 label (silence); classes are 2 classes"),
        (
            "id,no,yes,unknown\n20,0,0,0\n21,0,0,0\n",
            "no class for 1 column (unknown); preprocess.py --map OLD=unknown joins",
        ),
        ("id,label\n20,no\n22,no\n", "1 id without a clip (such as 22"),
        ("20.wav,no\n21.wav,no\n", "the first row names a clip (20.wav): put a header above it"),
        ("row_id,label\nx_5,no\nx_10,no\n", "its ids name times in recordings (x_5, x_10)"),
    ],
)
def test_a_misfit_is_said_when_data_are_prepared_and_before_training(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = prepared(tmp_path, text)
    warning = f"warning: sample submission {tmp_path / 'data' / 'sample_submission.csv'} does not fit: "
    assert warning in (out := capsys.readouterr().out)
    assert said in out
    assert said in str(store["sample_misfit"])
    asked = ["-w", str(tmp_path / "work"), "-f", "0", "-m", "test_resnet", "-t", "32", "-g", "cpu", "--epochs", "1"]
    assert train.main(["--limit", "4", "--batch-size", "4", "--optimizer", "adamw", *asked]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(warning)]
    assert line.endswith(str(store["sample_misfit"]).rpartition("does not fit: ")[2])
    del store["sample_misfit"]  # as older stores are
    (tmp_path / "work" / "store.json").write_text(json.dumps(store))
    assert train.main(["--limit", "4", "--batch-size", "4", "--optimizer", "adamw", *asked]) == 0
    assert "does not fit" not in capsys.readouterr().err
    ready = ["-t", "32", "-m", "test_resnet", "-f", "0,", "-g", "cpu", "-w", str(tmp_path / "work")]
    code = inference.main([*ready, "-o", str(tmp_path / "out.csv")])
    if "labels that are no class" in said:
        assert code == 0
        assert "labels that are no class: 1 label (silence)" in capsys.readouterr().err
    else:
        assert code == 2
        assert said in one_error_line(capsys)


def test_a_given_sample_stays_where_options_are_those_of_the_last_run(tmp_path: Path) -> None:
    prepared(tmp_path, "id,label\n20,no\n")
    given = tmp_path / "list.csv"
    given.write_text("id,label\n21,no\n")
    asked = ["-w", str(tmp_path / "work")]
    data = ["-i", str(tmp_path / "data"), "-k", "2"]
    assert preprocess.main([*asked, *data, "--sample-submission", str(given)]) == 0
    assert load_store(tmp_path / "work")["sample_submission"] == str(given)
    assert preprocess.main([*asked, "--relabel", "none"]) == 0
    assert load_store(tmp_path / "work")["sample_submission"] == str(given)
    assert preprocess.main([*asked, *data]) == 0
    assert load_store(tmp_path / "work")["sample_submission"] == str(tmp_path / "data" / "sample_submission.csv")
    assert len(load_clips(tmp_path / "work")) == 14
