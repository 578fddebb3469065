"""A run is one recipe: its folds have the same settings, and where an older version mixed them that is said."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

import inference
import report
import train
from model import read_checkpoint
from tests.conftest import one_error_line
from training.runs import mixed_settings

NETWORK = ["-t", "32", "-m", "test_resnet", "-g", "cpu"]
RUN = "test_resnet-32x32"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.tuning.expected_seconds", lambda *_: 1.0)
    monkeypatch.setattr("callback.draw_curve", lambda *_: None)


def epochs(work: Path) -> list[int]:
    folders = sorted((work / "runs" / RUN).iterdir())
    return [read_checkpoint(folder / "last.ckpt")["config"].optim.epochs for folder in folders]


def follow(said: str, work: Path) -> int:
    """Run the train.py command that a text ends with."""
    words = shlex.split(said.strip().splitlines()[-1].removeprefix("next: "))
    assert words[:2] == ["python", "train.py"]
    return train.main(words[2:])


def test_a_fold_with_another_setting_is_refused(
    store_work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = shutil.copytree(store_work, tmp_path / "work")
    command = [*NETWORK, "-w", str(work)]
    assert train.main([*command, "-f", "0", "--epochs", "2"]) == 0
    assert train.main([*command, "-f", "1", "--epochs", "1"]) == 2
    line = one_error_line(capsys)
    assert "fold 0 of this run has other settings (optim.epochs 2 -> 1)" in line
    assert "--tag NAME" in line
    assert "--restart -f 0,1" in line
    assert not (work / "runs" / RUN / "fold1" / "last.ckpt").exists()
    assert train.main([*command, "-f", "1", "--epochs", "1", "--tag", "short"]) == 0
    assert train.main([*command, "-f", "0,1", "--epochs", "1", "--restart"]) == 0
    assert epochs(work) == [1, 1]
    assert train.main([*command, "-f", "0", "--epochs", "2", "--restart"]) == 0  # as for a single fold
    said = capsys.readouterr().out
    assert "folds differ in optim.epochs: 2 in fold 0, 1 in fold 1" in said
    assert follow(said, work) == 0
    assert epochs(work) == [2, 2]
    assert mixed_settings(read_checkpoint(path)["config"] for path in (work / "runs" / RUN).glob("*/last.ckpt")) == ""


def test_what_an_older_version_mixed_is_said(
    store_work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = shutil.copytree(store_work, tmp_path / "work")
    command = [*NETWORK, "-w", str(work)]
    assert train.main([*command, "-f", "0", "--epochs", "2"]) == 0
    assert train.main([*command, "-f", "1", "--epochs", "1", "--tag", "x"]) == 0
    shutil.move(work / "runs" / f"{RUN}-x" / "fold1", work / "runs" / RUN / "fold1")
    shutil.rmtree(work / "runs" / f"{RUN}-x")
    mixed = "folds differ in optim.epochs: 2 in fold 0, 1 in fold 1"
    capsys.readouterr()
    assert inference.main([*command, "-f", "2", "-o", str(tmp_path / "out.csv")]) == 0
    assert f"warning: {RUN}: {mixed}" in capsys.readouterr().err
    assert report.main(["-w", str(work)]) == 0
    said = capsys.readouterr().out
    assert f"{RUN}: incomplete, {mixed}" in said
    again = next(line for line in said.splitlines() if line.strip().startswith("python train.py"))
    assert train.main([*command, "-f", "0", "--epochs", "2"]) == 0  # nothing left to do
    said = capsys.readouterr().out
    assert mixed in said
    assert follow(again, work) == 0
    assert len(set(epochs(work))) == 1
    assert report.main(["-w", str(work)]) == 0
    assert "folds differ" not in capsys.readouterr().out
