"""What the code of before wrote is read, labelled with and resumed: tests/data/before.tar.xz.

In it: `work`, a store of 12 tones and 4 to test, with fold 0 of bcresnet1 finished and fold 1 interrupted in its second
epoch (checkpoints of format 3); `resumed_oof.csv` and `test_probabilities.csv`, what that code made of both afterwards.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pandas as pd
import pytest
import torch

import inference
import train
from model import read_checkpoint
from reporting.gather import COMPLETE, find_runs, held_out_clips
from training.runs import warn_of_stale_runs

RUN = "bcresnet1-20x16"
NAMED = ["-m", "bcresnet1", "--n-mels", "20", "--frames", "16", "-g", "cpu"]
TRAIN = [*NAMED, "--epochs", "3", "--batch-size", "3"]


@pytest.fixture
def before(tmp_path: Path) -> Path:
    with tarfile.open(Path(__file__).parent / "data" / "before.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_runs_of_before_are_resumed_and_labelled_with(before: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = before / "work"
    assert train.main([*TRAIN, "-w", str(work)]) == 0
    said = capsys.readouterr().out
    assert "fold0: trained already" in said
    assert "epoch 2, batch 2\n" in said
    assert "all 2 folds" in said
    columns = ["fname", "label", "high", "low"]
    resumed, expected = (
        pd.read_csv(path) for path in (work / "runs" / RUN / "fold1" / "oof.csv", before / "resumed_oof.csv")
    )
    assert list(resumed) == columns
    pd.testing.assert_frame_equal(resumed, expected, check_exact=False, rtol=0, atol=1e-4)

    assert inference.main([*NAMED, "-w", str(work), "-o", str(before / "sub.csv")]) == 0
    labelled, expected = (pd.read_csv(before / name) for name in ("sub_probabilities.csv", "test_probabilities.csv"))
    pd.testing.assert_frame_equal(labelled, expected, check_exact=False, rtol=0, atol=1e-4)
    (run,) = find_runs(held_out_clips(work))
    assert run.status == COMPLETE


def test_other_settings_than_those_of_before_are_refused(before: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*TRAIN, "-w", str(before / "work"), "-f", "1", "--speed", "0"]) == 2
    assert "fold1: begun with other settings (augment.speed 0.1 -> 0.0)" in capsys.readouterr().err


def test_a_checkpoint_of_format_2_knows_no_change_of_speed(before: Path) -> None:
    path = before / "work" / "runs" / RUN / "fold0" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["format"] = 2
    del checkpoint["config"]["augment"]["speed"]
    torch.save(checkpoint, path)
    assert read_checkpoint(path)["config"].augment.speed == 0.0


def test_only_runs_on_other_folds_or_labels_are_stale(before: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = before / "work"
    table = (work / "clips.csv").read_text()
    warn_of_stale_runs(work)
    assert capsys.readouterr().out == ""
    (work / "clips.csv").write_text(table.replace(",train,0,", ",train,1,", 1))
    warn_of_stale_runs(work)
    said = capsys.readouterr().out
    assert f"since they were trained: {RUN}/fold0, {RUN}/fold1; train.py --restart" in said
    (work / "clips.csv").write_text(table)  # back to earlier data: the runs are good again
    warn_of_stale_runs(work)
    assert capsys.readouterr().out == ""
