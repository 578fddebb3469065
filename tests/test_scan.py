"""The layouts in which a data set comes: folders, lists beside them, labels in names, noise."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import preprocessing.archives
import preprocessing.decode
import preprocessing.folds
import preprocessing.pipeline
import preprocessing.scan
import preprocessing.store
import preprocessing.workers
from preprocess import main
from system.errors import UserError
from tests.preparing import RATE, fill, noise, prepare, reasons, samples_of, scan, touch, write


def test_a_folder_a_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, work = fill(tmp_path / "data"), tmp_path / "work"
    write(root / "yes" / "deep" / "er" / "x.WAV", 900)
    write(root / "_background_noise_" / "hum.wav", noise(901, 5000))
    write(root / "_unused" / "x.wav", 902)
    write(root / ".hidden" / "x.wav", 903)
    write(root / "yes" / "._x.wav", 904)
    write(root / "loose.wav", 905)
    (root / "README.md").write_text("about")
    (root / "empty").mkdir()

    assert main(["-i", str(root), "-w", str(work)]) == 0
    clips = preprocessing.store.load_clips(work)
    yes = ["yes/0.wav", "yes/1.wav", "yes/2.wav", "yes/3.wav", "yes/4.wav", "yes/5.wav", "yes/deep/er/x.WAV"]
    assert list(clips["fname"]) == [f"no/{n}.wav" for n in range(6)] + yes + ["_background_noise_/hum.wav"]
    assert list(clips["label"]) == ["no"] * 6 + ["yes"] * 7 + [""]
    assert list(clips["split"]) == ["train"] * 13 + ["noise"]
    assert set(clips["fold"][:-1]) == {0, 1, 2, 3, 4}
    assert clips["fold"].iloc[-1] == -1
    assert not clips["group"].any()
    assert np.array_equal(samples_of(work, clips.iloc[-1]), noise(901, 5000))
    assert preprocessing.store.load_store(work) == {
        "format": 2,
        "root": str(root),
        "test_root": None,
        "sample_submission": None,
        "sample_rate": RATE,
        "clip_samples": 1600,
        "classes": ["no", "yes"],
        "folds": 5,
        "grouped": False,
        "counts": {"train": 13, "test": 0, "noise": 1},
        "options": {
            "folds": 5,
            "seed": 0,
            "group": "auto",
            "group_pattern": None,
            "label_pattern": None,
            "manifest": None,
            "columns": {},
        },
        "noise": None,
    }
    assert reasons(work) == {"loose.wav": "lies in no class folder"}
    out = capsys.readouterr().out
    assert "no groups found" in out
    assert "1 folder (empty)" in out
    assert "1 files (1 .md)" in out
    assert "1 lies in no class folder (train)" in out
    assert f"next: python train.py -w {work}" in out


@pytest.mark.parametrize("inner", ["", "audio"])
@pytest.mark.parametrize("noise_folder", ["", "train", "train/audio"])
def test_train_and_test_folders(tmp_path: Path, inner: str, noise_folder: str) -> None:
    root, work = tmp_path / "data", tmp_path / "work"
    fill(root / "train" / inner)
    for n in (10, 9):
        write(root / "test" / inner / f"clip_{n}.wav", 500 + n)
    hum = write(root / noise_folder / "_background_noise_" / "hum.wav", 600)
    (root / "sample_submission.csv").write_text("fname,label\n")

    clips = prepare(root, work)
    test = clips[clips["split"] == "test"]
    assert list(test["fname"]) == ["clip_10.wav", "clip_9.wav"]  # relative to the test folder, by code point
    assert list(test["label"]) == ["", ""]
    assert list(test["fold"]) == [-1, -1]
    assert list(clips["fname"][clips["split"] == "noise"]) == [hum.relative_to(root).as_posix()]
    train = clips[clips["split"] == "train"]
    assert train["fname"].str.startswith(f"train/{inner}".rstrip("/") + "/").all()
    store = preprocessing.store.load_store(work)
    assert store["test_root"] == str(root / "test" / inner)
    assert store["sample_submission"] == str(root / "sample_submission.csv")


def test_a_labelled_test_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    fill(root / "train")
    fill(root / "test", "yes part2", clips=2, seed=1)
    fill(root / "other", "yes", clips=1, seed=2)
    clips = prepare(root, tmp_path / "work")
    test = clips[clips["split"] == "test"]
    assert dict(zip(test["fname"], test["label"], strict=True)) == {
        "part2/0.wav": "",  # as many competitions split them: no class of that name
        "part2/1.wav": "",
        "yes/0.wav": "yes",
        "yes/1.wav": "yes",
    }
    out = capsys.readouterr().out
    assert "4 test clips (2 labelled)" in out
    assert "1 label (part2)" in out
    assert "1 folder (other)" in out


def test_labels_are_text(tmp_path: Path) -> None:
    labels = ["001", "1e5", "2024-01-02", "=cmd", "NA", "Straße, \"quoted\" 'x'", "nan", "null", "true"]
    root, work = tmp_path / "data", tmp_path / "work"
    fill(root, "")
    for c, label in enumerate(labels):
        for n in range(2):
            write(root / label / f"{label}_nohash_{n}.wav", 10 * c + n)
    clips = prepare(root, work, folds=2)
    assert sorted(set(clips["label"])) == preprocessing.store.load_store(work)["classes"] == sorted(labels)
    assert list(clips["fname"].str.split("/").str[0]) == list(clips["label"]) == list(clips["group"])


def test_links_are_followed_but_not_round(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere")
    root = tmp_path / "data"
    root.mkdir()
    for label in ("no", "yes"):
        (root / label).symlink_to(tmp_path / "elsewhere" / label)
    (tmp_path / "elsewhere" / "no" / "loop").symlink_to(tmp_path / "elsewhere" / "no")
    (tmp_path / "elsewhere" / "no" / "gone.wav").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "elsewhere" / "no" / "pipe.wav")  # opening it would wait for ever
    assert len(prepare(root, tmp_path / "work")) == 12
    assert set(reasons(tmp_path / "work")) == {"no/gone.wav", "no/pipe.wav"}


def test_a_test_list_makes_a_labelled_test_set(tmp_path: Path) -> None:
    root = touch(tmp_path, "no/a.wav no/b.wav yes/a.wav yes/b.wav yes/c.wav")
    (root / "testing_list.txt").write_text("no/b.wav\r\n./yes/b.wav\nyes/gone.wav\n\n")
    (root / "validation_list.txt").write_text("yes/c.wav\n")
    files, notes = scan(root)
    assert files == [
        ("train", "no/a.wav", "no", "", ""),
        ("train", "yes/a.wav", "yes", "", ""),
        ("train", "yes/c.wav", "yes", "", ""),
        ("test", "no/b.wav", "no", "", ""),
        ("test", "yes/b.wav", "yes", "", ""),
    ]
    assert "names what is not there: 1 clip (yes/gone.wav)" in notes
    assert "validation_list.txt: its 1 clips stay in training" in notes


def test_a_test_folder_goes_before_a_test_list(tmp_path: Path) -> None:
    root = touch(tmp_path, "train/audio/no/a.wav train/audio/no/b.wav train/audio/yes/a.wav test/audio/x.wav")
    (root / "train" / "testing_list.txt").write_text("no/b.wav")  # as a Kaggle competition has it
    files, notes = scan(root)
    assert [file[0] for file in files] == ["train"] * 3 + ["test"]
    assert "testing_list.txt: its 1 clips stay in training, as there is a test/ beside" in notes
    (root / "test" / "audio" / "x.wav").unlink()
    (root / "test" / "audio").rmdir()
    (root / "test").rmdir()
    assert [file[:2] for file in scan(root)[0]][-1] == ("test", "train/audio/no/b.wav")


def test_labels_and_groups_in_names(tmp_path: Path) -> None:
    root = touch(tmp_path, "7_ann_0.wav 7_bob_0.wav 8_ann_0.wav deep/8_bob_1.wav README.wav")
    files, _ = scan(root, label_pattern=r"(?P<label>\d)_[a-z]+_\d", group_pattern=r"_(?P<group>[a-z]+)_")
    assert files == [
        ("train", "7_ann_0.wav", "7", "ann", ""),
        ("train", "7_bob_0.wav", "7", "bob", ""),
        ("train", "8_ann_0.wav", "8", "ann", ""),
        ("train", "README.wav", "", "", "no label: --label-pattern does not match its name"),
        ("train", "deep/8_bob_1.wav", "8", "bob", ""),
    ]


def test_a_flat_train_folder_beside_a_flat_test_folder(tmp_path: Path) -> None:
    root = touch(tmp_path, "train/no_0.wav train/yes_0.wav test/yes_1.wav test/clip_1.wav")
    files, _ = scan(root, label_pattern=r"^(?P<label>[a-z]+)_\d")
    assert [file[:3] for file in files] == [
        ("train", "train/no_0.wav", "no"),
        ("train", "train/yes_0.wav", "yes"),
        ("test", "clip_1.wav", ""),
        ("test", "yes_1.wav", "yes"),
    ]


def test_noise_of_another_folder_beside_that_of_the_data_set(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", "train/no/a.wav train/yes/a.wav train/_background_noise_/a.wav noise/a.wav")
    street = touch(tmp_path / "street", "a.wav no/a.wav deep/er/a.FLAC LICENSE")
    alone, _ = scan(root)
    files, notes = scan(root, noise=street)
    more = [("noise", str(street / name), "", "", "") for name in ("a.wav", "deep/er/a.FLAC", "no/a.wav")]
    assert sorted(files) == sorted([*alone, *more])
    assert f"ignored in {street}: 1 files (1 without suffix)" in notes
    assert "not used, as there is a train/ beside: 1 folder (noise)" in notes

    files, notes = scan(root, noise=root / "noise")
    assert sorted(files) == sorted([*alone, ("noise", str(root / "noise" / "a.wav"), "", "", "")])
    assert "not used" not in notes
    for again in (root / "train" / "_background_noise_", tmp_path / "link"):  # what is there already counts once
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(root / "train" / "_background_noise_")
        assert scan(root, noise=again)[0] == alone


def test_no_clip_is_noise(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", "no/a.wav yes/a.wav hum/a.wav _hum/a.wav")
    assert [file[:2] for file in scan(root, noise=root / "_hum")[0]][-1] == ("noise", str(root / "_hum" / "a.wav"))
    (tmp_path / "link").symlink_to(root / "hum")
    for folder in (root, tmp_path, root / "hum", tmp_path / "link"):
        with pytest.raises(UserError, match=r"--noise .*/a.wav in it is a train clip; keep noise outside"):
            scan(root, noise=folder)
    touch(tmp_path / "split", "train/no/a.wav train/yes/a.wav test/a.wav")
    with pytest.raises(UserError, match=r"a\.wav in it is a test clip"):
        scan(tmp_path / "split", noise=tmp_path / "split" / "test")
    manifest = tmp_path / "all.csv"
    manifest.write_text("path,label,split\nno/a.wav,no,\nyes/a.wav,yes,\n_hum/a.wav,,noise\n")
    assert len(scan(root, noise=root / "hum", manifest=manifest)[0]) == 4
    assert len(scan(root, noise=root / "_hum", manifest=manifest)[0]) == 3
    with pytest.raises(UserError, match=r"no/a\.wav in it is a train clip"):
        scan(root, noise=root / "no", manifest=manifest)


def test_a_noise_folder_that_is_missing_or_empty(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", "no/a.wav yes/a.wav")
    with pytest.raises(UserError, match=r"--noise .*gone: no such folder; give another folder, or -i without"):
        scan(root, noise=tmp_path / "gone")
    touch(tmp_path / "texts", "about.txt")
    with pytest.raises(UserError, match=r"--noise .*texts: no audio file found \(.*\.wav .*\); give another folder"):
        scan(root, noise=tmp_path / "texts")


def test_speakers_in_names_unless_none_are_wanted(tmp_path: Path) -> None:
    root = touch(tmp_path, "no/ann_nohash_0.wav yes/ann_nohash_0.wav")
    assert [file[3] for file in scan(root)[0]] == ["ann", "ann"]
    assert [file[3] for file in scan(root, group="none")[0]] == ["", ""]
