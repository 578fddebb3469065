"""Pieces of noise recordings as a class (--silence), and the speech challenge that wants them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preprocessing.scan
import preprocessing.store
from arg import CHALLENGES, parse_preprocess
from preprocess import main
from preprocessing.sample import form_of, read_sample
from preprocessing.silence import _shares, _starts
from system.errors import UserError
from tests.conftest import one_error_line
from tests.preparing import RATE, fill, fold_of, noise, prepare, reasons, samples_of, touch, write


def recordings(root: Path, seconds: dict[str, float]) -> Path:
    """Noise recordings of so many seconds, beside clips of 0.1 s."""
    for row, (name, length) in enumerate(seconds.items()):
        write(root / "_background_noise_" / f"{name}.wav", noise(900 + row, round(length * RATE)))
    return root


def pieces_of(clips: Any) -> Any:
    return clips[clips["label"] == "silence"]


def test_pieces_of_noise_are_a_class_in_folds_by_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, work = recordings(fill(tmp_path / "data", clips=9), dict.fromkeys("abcd", 0.7)), tmp_path / "work"
    recordings(root, {"tiny": 0.05})
    clips = prepare(root, work, folds=3, silence=21)
    pieces = pieces_of(clips)
    assert len(pieces) == 21
    assert set(pieces["length"]) == {1600}
    assert pieces["group"].value_counts().to_dict() == {
        "_background_noise_/a.wav": 6,  # the one that is left over goes to the first
        **dict.fromkeys((f"_background_noise_/{name}.wav" for name in "bcd"), 5),
    }
    assert pieces.groupby("group")["fold"].nunique().max() == 1
    assert pieces["fold"].nunique() == 3
    noises = clips[clips["split"] == "noise"].set_index("fname")
    assert len(noises) == 5  # they stay noise, too
    for name, own in pieces.groupby("group"):
        whole, begins = noises.loc[name], sorted(own["offset"] - noises["offset"][name])
        assert begins[0] >= 0
        assert begins[-1] + 1600 <= whole["length"]
        assert np.diff(begins).min() >= 1600  # none overlap
        first = own.sort_values("offset").iloc[0]
        assert first["fname"].startswith(f"{name}#t={f'{begins[0] / RATE:.6f}'.rstrip('0').rstrip('.')},")
        assert np.array_equal(samples_of(work, first), samples_of(work, whole)[begins[0] : begins[0] + 1600])
    store = preprocessing.store.load_store(work)
    assert store["classes"] == ["no", "silence", "yes"]
    assert store["options"]["silence"] == 21
    out = capsys.readouterr().out
    assert "class silence: 21 pieces of 0.1 s of 4 recordings" in out
    assert "not used, as shorter than 0.1 s: 1 recording (_background_noise_/tiny.wav)" in out
    assert "no groups found" in out  # of the words
    assert "name no group" not in out
    assert "near duplicates" not in out
    assert "to free" not in out

    waves, folds = (work / "waves.i16").stat().st_size, fold_of(clips)
    assert fold_of(prepare(root, work, folds=3, silence=21)) == folds
    assert "nothing has changed" in capsys.readouterr().out
    again = prepare(root, tmp_path / "again", folds=3, silence=21)
    assert again["fname"].tolist() == clips["fname"].tolist()
    assert prepare(root, work, folds=3, silence=21, seed=1)["fname"].tolist() != clips["fname"].tolist()
    assert not len(pieces_of(prepare(root, work, folds=3)))
    assert (work / "waves.i16").stat().st_size == waves


def test_more_pieces_than_there_is_room_for_overlap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = recordings(fill(tmp_path / "data", clips=9), {"a": 0.95, "b": 0.35, "c": 0.1})
    pieces = pieces_of(prepare(root, tmp_path / "work", silence=40))
    assert pieces["group"].str[-5].value_counts().to_dict() == {"a": 30, "b": 9, "c": 1}
    assert not pieces["cluster"].any()
    assert not pieces["fname"].duplicated().any()
    out = capsys.readouterr().out
    assert "which overlap, as there is room for 13" in out
    assert "so some folds hold none: 1 class (silence)" in out  # three recordings, five folds


def test_pieces_without_sound_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = fill(tmp_path / "data", clips=9)
    write(root / "_background_noise_" / "a.wav", np.concatenate([np.zeros(8000, np.int16), noise(901, 8000)]))
    pieces = pieces_of(prepare(root, tmp_path / "work", silence=10))
    assert 4 <= len(pieces) <= 6
    assert f"{10 - len(pieces)} pieces left out, as all their samples are the same" in capsys.readouterr().out
    assert not reasons(tmp_path / "work")


def test_how_pieces_are_dealt_out() -> None:
    ones = np.ones(3, np.int64)
    assert _shares(7, ones, np.array([1, 9, 9])).tolist() == [1, 3, 3]
    assert _shares(8, ones, np.array([1, 9, 9])).tolist() == [1, 4, 3]
    assert _shares(19, ones, np.array([1, 9, 9])).tolist() == [1, 9, 9]
    assert _shares(2, ones, np.array([5, 5, 5])).tolist() == [1, 1, 0]
    for number, length, apart in ((5, 100, True), (10, 100, True), (11, 100, False), (91, 100, False), (1, 10, True)):
        begins = _starts(length, 10, number, np.random.default_rng(0))
        assert len(begins) == len(set(begins.tolist())) == number
        assert begins.min() >= 0
        assert begins.max() + 10 <= length
        assert not apart or (np.diff(begins) >= 10).all()


def test_no_pieces_without_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, work = fill(tmp_path / "data"), str(tmp_path / "work")
    words = ["-i", str(root), "-w", work, "--silence"]
    assert main([*words, "4"]) == 2
    assert "no noise recording: put some into _background_noise_/, or give --noise DIR" in one_error_line(capsys)
    assert main([*words, "0"]) == 0
    assert main([*words, "-1"]) == 2
    recordings(root, {"a": 0.05})
    assert main([*words, "4"]) == 2
    assert "no noise recording is as long as the window, 0.1 s" in one_error_line(capsys)
    write(tmp_path / "street" / "b.wav", noise(903, 3200))
    assert main([*words, "400", "--noise", str(tmp_path / "street")]) == 2
    assert "have at most 11 pieces of 0.1 s" in one_error_line(capsys)
    assert main([*words, "2", "--noise", str(tmp_path / "street")]) == 0
    assert len(pieces_of(preprocessing.store.load_clips(tmp_path / "work"))) == 2


def test_a_person_decides_about_pieces_too(tmp_path: Path) -> None:
    root, work = recordings(fill(tmp_path / "data"), {"a": 1, "b": 1}), tmp_path / "work"
    names = pieces_of(prepare(root, work, folds=2, silence=6))["fname"].tolist()
    suspects = tmp_path / "suspects.csv"
    rows = [f'"{names[0]}",silence,,drop', f'"{names[1]}",silence,yes,relabel', "no/0.wav,no,silence,relabel"]
    suspects.write_text("\n".join(["fname,label,suggested,action", *rows]))
    assert main(["-w", str(work), "--relabel", str(suspects)]) == 0  # with the options of the last run
    clips = preprocessing.store.load_clips(work).set_index("fname")
    assert clips["label"][names[1]] == "yes"
    assert clips["label"]["no/0.wav"] == "silence"
    assert reasons(work) == {names[0]: "dropped by suspects.csv"}


CHALLENGE = {"yes": 8, "no": 6, "go": 10, "bed": 5, "cat": 9}


def fill_challenge(root: Path) -> Path:
    """A small data set in the layout of the Kaggle speech challenge."""
    for c, (word, clips) in enumerate(CHALLENGE.items()):
        for n in range(clips):
            write(root / "train" / "audio" / word / f"{n % 4:04x}_nohash_{n // 4}.wav", 100 * c + n)
    for n in range(4):
        write(root / "test" / "audio" / f"clip_{n:09x}.wav", 2000 + n)
    for name in "ab":
        write(root / "train" / "audio" / "_background_noise_" / f"{name}.wav", noise(ord(name), RATE))
    rows = [f"clip_{n:09x}.wav,silence" for n in (2, 0, 3, 1)]
    (root / "sample_submission.csv").write_text("\n".join(["fname,label", *rows, ""]))
    return root


def test_the_speech_challenge_is_one_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, work = fill_challenge(tmp_path / "data"), tmp_path / "work"
    words = ["-i", str(root), "-w", str(work), "-k", "2", "--challenge", "speech-commands"]
    assert main(words) == 0
    clips = preprocessing.store.load_clips(work)
    train = clips[clips["split"] == "train"]
    assert train["label"].value_counts().to_dict() == {"yes": 8, "no": 6, "go": 10, "unknown": 14, "silence": 8}
    out = capsys.readouterr().out
    assert "unknown from 2 labels (bed, cat), 14 clips" in out
    assert "class silence: 8 pieces" in out  # the median of 6, 8 and 10
    assert "is no class" not in out
    assert main(words) == 0
    assert "nothing has changed" in capsys.readouterr().out

    assert main([*words, "--silence", "3", "--map", "bed=bed", "*="]) == 0  # each part can be changed
    clips = preprocessing.store.load_clips(work)
    train = clips[clips["split"] == "train"]
    assert train["label"].value_counts().to_dict() == {"yes": 8, "no": 6, "go": 10, "bed": 5, "silence": 3}
    assert main([*words, "--silence", "0"]) == 0
    assert "silence" not in preprocessing.store.load_store(work)["classes"]


def test_a_sample_with_silence_names_the_challenge(tmp_path: Path) -> None:
    (tmp_path / "sample.csv").write_text("fname,label\na.wav,silence\n")
    sample, words = read_sample(tmp_path / "sample.csv"), CHALLENGES["speech-commands"]
    assert "preprocess.py --challenge speech-commands" in form_of(sample, (*words, "bed", "cat")).misfit
    assert "preprocess.py --silence N" in form_of(sample, (*words[1:], "bed", "cat")).misfit


def test_a_challenge_of_other_words(tmp_path: Path) -> None:
    root = touch(tmp_path, "ja/a.wav nein/a.wav _background_noise_/a.wav")
    with pytest.raises(UserError, match="--challenge speech-commands: no class is one of its words: yes no up"):
        preprocessing.scan.scan(parse_preprocess(["-i", str(root), "--challenge", "speech-commands"]))


def test_the_speech_challenge_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import inference
    import train

    root, work, output = fill_challenge(tmp_path / "data"), tmp_path / "work", tmp_path / "submission.csv"
    assert main(["-i", str(root), "-w", str(work), "-k", "2", "--challenge", "speech-commands"]) == 0
    size = ["-t", "16", "-m", "resnet10t", "-w", str(work)]
    assert train.main([*size, "-f", "0", "--epochs", "1", "-g", "cpu"]) == 0
    assert inference.main([*size, "-f", "0,", "-a", "n", "-g", "cpu", "-o", str(output)]) == 0
    with output.open(newline="") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows] == ["fname", *(f"clip_{n:09x}.wav" for n in (2, 0, 3, 1))]
    assert {row[1] for row in rows[1:]} <= {"yes", "no", "go", "unknown", "silence"}
    for path in (output, root / "sample_submission.csv"):
        capsys.readouterr()
        assert inference.main(["-w", str(work), "--check", str(path)]) == 0
        assert "would be accepted, 4 rows" in capsys.readouterr().out
