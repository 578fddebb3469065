"""The made speech is what it says it is, and the demo's closing report reads the files as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import system.errors
from demo import run
from tests.trained import MODEL, make

pytest.importorskip("espeakng_loader", reason="the demo's synthesiser is not installed: requirements-demo.txt")

from demo import speech

VOICES, TEST_VOICES = 3, 2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "speech"
    speech.make_speech(root, VOICES, TEST_VOICES)
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.wav")}


def speakers(root: Path, split: str) -> set[str]:
    return {path.name.split("_nohash_")[0] for path in (root / split).glob("*/*_nohash_*.wav")}


def test_tree_is_a_folder_a_class(root: Path) -> None:
    files = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    noise = {file.name for file in files if file.parts[1] == "_background_noise_"}
    assert noise == {"white.wav", "pink.wav"}
    assert len(files) == len(speech.WORDS) * (VOICES + TEST_VOICES) + len(noise)
    assert {path.name for path in root.iterdir()} == {"train", "test"}
    assert {path.name for path in (root / "test").iterdir()} == set(speech.WORDS)
    assert {path.name for path in (root / "train").iterdir()} == {*speech.WORDS, "_background_noise_"}
    assert list(root.parent.iterdir()) == [root]  # nothing is left beside it


def test_speakers_are_distinct_and_not_shared_by_the_splits(root: Path) -> None:
    assert len(speakers(root, "train")) == VOICES
    assert len(speakers(root, "test")) == TEST_VOICES
    assert not speakers(root, "train") & speakers(root, "test")
    clips = contents(root)
    assert len(set(clips.values())) == len(clips)


def test_clips_are_short_audible_and_not_clipped(root: Path) -> None:
    for path in root.rglob("*_nohash_*.wav"):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (speech.SAMPLE_RATE, 1, "PCM_16")
        assert 1.0 <= info.duration < 1.5
        peak = np.abs(soundfile.read(path)[0]).max()
        assert 0.05 < peak < 0.8, path


def test_the_seed_decides_every_byte(root: Path, tmp_path: Path) -> None:
    speech.make_speech(tmp_path / "again", VOICES, TEST_VOICES)
    assert contents(tmp_path / "again") == contents(root)
    speech.make_speech(tmp_path / "other", 1, 0, seed=1)
    assert not speakers(tmp_path / "other", "train") & speakers(root, "test")


def test_unknown_and_doubled_voices_are_left_out() -> None:
    unknown = speech.Voice("no-accent+m1")
    voice = speech.Voice("en-us+m1")
    double = speech.Voice("en-us+m1", words_per_minute=180)
    spoken = list(speech._speak([unknown, voice, double]))
    assert [voice for voice, _ in spoken] == [voice]
    words = spoken[0][1]
    assert len(words) == len(speech.WORDS)
    assert all(0.1 < len(word) / speech.SAMPLE_RATE < 1.5 for word in words)


def test_made_speech_never_overwrites(root: Path) -> None:
    with pytest.raises(system.errors.UserError, match="not empty"):
        speech.make_speech(root, 1, 0)


@pytest.fixture
def work(store_work: Path, tmp_path: Path) -> Path:
    """Two runs: the better one is right on 15 of 18 clips in each of its two folds."""
    shutil.copytree(store_work, tmp_path / "work")
    make(tmp_path / "work", 9, "worse")
    make(tmp_path / "work", 15)
    return tmp_path / "work"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("high/x.wav,high\nlow/x.wav,high\n", "test accuracy         0.5000 (95% interval 0.0945-0.9055 over 2 clips)"),
        ("x.wav,high\ny.wav,low\n", "test accuracy         unknown: no labels"),
    ],
)
def test_report(work: Path, tmp_path: Path, rows: str, expected: str) -> None:
    submission = tmp_path / "submission.csv"
    submission.write_text("fname,label\n" + rows)
    report = run.report(work, submission)
    assert "out-of-fold accuracy  0.8333 (95% interval" in report
    assert f"checkpoints           {work / 'runs' / MODEL}-16x16\n" in report
    assert expected in report
    scripts = [line.split()[1:] for line in report.splitlines()[-4:]]
    assert scripts == [["preprocess.py", "-i", "DATASET"], ["train.py"], ["inference.py"], ["report.py"]]


def test_report_without_test_clips(work: Path, tmp_path: Path) -> None:
    report = run.report(work, tmp_path / "submission.csv")
    assert "over 6 groups of 36 clips)" in report
    assert "test accuracy" not in report


def test_report_with_a_submission_of_probabilities(work: Path, tmp_path: Path) -> None:
    submission = tmp_path / "submission.csv"
    submission.write_text("id,high,low,sweep\nx.wav,0.5,0.5,0\n")
    assert "unknown: no labels" in run.report(work, submission)


def test_a_failing_script_stops_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text("raise SystemExit(3)")
    with pytest.raises(system.errors.UserError, match=r"train\.py stopped with status 3"):
        run._run("train.py")


def test_a_missing_data_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--data", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
