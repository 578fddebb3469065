"""One file to label, files longer than the window, float files in a folder to label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

import inference
from tests.conftest import RATE, one_error_line, tone
from tests.preparing import prepare, write
from tests.test_inference import arguments, batch_rows, save_two_folds


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with nothing but two folds of random weights, windows of half a second; not to be written to."""
    return save_two_folds(tmp_path_factory.mktemp("runs"))


def labelled(runs: Path, output: Path, clips: Path, *options: str) -> list[str]:
    output.parent.mkdir(parents=True, exist_ok=True)
    inference.main(arguments(runs, output, clips, *options))
    return output.read_text().splitlines()


def test_one_file_is_labelled_as_in_a_folder_of_it(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(0)
    for n in range(3):
        write(tmp_path / "clips" / f"{n} x.wav", tone("low", draw), RATE)
    whole = labelled(runs, tmp_path / "all" / "s.csv", tmp_path / "clips")
    one = labelled(runs, tmp_path / "one" / "s.csv", tmp_path / "clips" / "1 x.wav")
    assert one == [whole[0], whole[2]]
    assert one[1].startswith("1 x.wav,")
    link = tmp_path / "link.WAV"
    link.symlink_to(tmp_path / "clips" / "1 x.wav")
    assert labelled(runs, tmp_path / "link" / "s.csv", link)[1] == one[1].replace("1 x.wav", "link.WAV")
    inference.main(["-w", str(runs), "-i", str(tmp_path / "clips" / "1 x.wav"), "--check", str(tmp_path / "one/s.csv")])
    assert "would be accepted, 1 row" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("notes.txt", "notes.txt: not audio by its name (.3gp .aac"),
        ("no suffix", "no suffix: not audio by its name"),
        ("text.wav", "text.wav: unreadable: Format not recognised; mend or remove it"),
        ("nowhere.wav", "nowhere.wav: no such folder or file"),
        ("a.pth", "a.pth: not audio by its name"),
    ],
)
def test_what_is_no_audio_is_one_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    if not name.startswith("nowhere"):
        (tmp_path / name).write_text("some text")
    assert inference.main(arguments(runs, tmp_path / "s.csv", tmp_path / name))
    assert said in one_error_line(capsys)


def test_longer_clips_are_said_when_they_are_labelled(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(0)
    for n, seconds in enumerate((0.3, 0.5, 0.62, 0.63, 3.0)):
        write(tmp_path / "clips" / f"{n}.wav", tone("low", draw, seconds), RATE)
    labelled(runs, tmp_path / "one" / "s.csv", tmp_path / "clips")
    said = "warning: 2 clips longer than the window of 0.5 s by a quarter or more, up to 3.0 s: judged by their"
    assert said in capsys.readouterr().err
    (tmp_path / "clips" / "3.wav").unlink()
    (tmp_path / "clips" / "4.wav").unlink()
    labelled(runs, tmp_path / "two" / "s.csv", tmp_path / "clips")
    assert "longer" not in capsys.readouterr().err


def test_a_resumed_run_counts_the_longer_clips_that_it_has_labelled_before(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(0)
    for n in range(10):
        write(tmp_path / "clips" / f"{n}.wav", tone("low", draw, 2.0 if n in (1, 9) else 0.5), RATE)
    with monkeypatch.context() as patch:
        batch_rows(patch, stop_after=1)
        assert inference.main(arguments(runs, tmp_path / "s.csv", tmp_path / "clips")) == 130
    assert inference.main(arguments(runs, tmp_path / "s.csv", tmp_path / "clips")) == 0
    said = capsys.readouterr()
    assert "resuming after 4 clips" in said.out
    assert "warning: 2 clips longer than the window" in said.err


def test_longer_clips_are_said_when_they_are_prepared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    for label in ("no", "yes"):
        for n in range(12):
            write(tmp_path / "data" / "train" / label / f"{n}.wav", tone("low", draw), RATE)
    prepare(tmp_path / "data" / "train", tmp_path / "work")
    assert "longer than the window" not in capsys.readouterr().out
    write(tmp_path / "data" / "train" / "no" / "long.wav", tone("low", draw, 0.7), RATE)
    for n in range(2):
        write(tmp_path / "data" / "test" / f"{n}.wav", tone("low", draw, 30), RATE)
    prepare(tmp_path / "data", tmp_path / "work again")
    out = capsys.readouterr().out
    said = (
        "warning: longer than the window of 0.5 s by a quarter or more: 1 training clip and 2 test clips, up to 30.0 s."
    )
    assert said in out
    assert "--clip-seconds 30 takes all of them" in out
    prepare(tmp_path / "data", tmp_path / "work again", clip_seconds=30.0)
    assert "longer than the window" not in capsys.readouterr().out


def test_floats_in_a_folder_to_label_follow_the_same_rule(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(0)
    waves = [np.rint(32768 * tone("low", draw)) for _ in range(3)]
    for n, wave in enumerate(waves):
        write(tmp_path / "whole" / f"{n}.wav", wave.astype(np.int16), RATE)
        write(tmp_path / "floats" / f"{n}.wav", wave.astype(np.float32), RATE, subtype="FLOAT")
    expected = labelled(runs, tmp_path / "a" / "s.csv", tmp_path / "whole")
    assert "divided" not in capsys.readouterr().out
    assert labelled(runs, tmp_path / "b" / "s.csv", tmp_path / "floats") == expected
    assert "float samples of test files are divided by 32,768: they go up to" in capsys.readouterr().out
    assert labelled(runs, tmp_path / "c" / "s.csv", tmp_path / "floats" / "1.wav")[1] == expected[2]
    soundfile.write(tmp_path / "floats" / "3.wav", tone("low", draw), RATE, subtype="FLOAT")
    assert inference.main(arguments(runs, tmp_path / "d.csv", tmp_path / "floats"))
    assert "0.wav: float samples beyond" in one_error_line(capsys)
