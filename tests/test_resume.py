"""A training that is interrupted anywhere, and gone on with, ends as the one that never was: bit by bit, on a CPU."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import callback
import train
from callback import RunFiles
from model import Classifier, read_checkpoint
from tests.conftest import one_error_line
from tests.crash import Died, dies_at

OPTIONS = ["-t", "32", "-m", "resnet10t", "--batch-size", "8", "--lr", "4e-3", "-g", "cpu", "-f", "0", "--epochs", "2"]
FOLD = Path("runs", "resnet10t-32x32", "fold0")


@pytest.fixture(autouse=True)
def _saved_after_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(callback, "SAVE_SHARE", float("inf"))
    monkeypatch.setattr("tune.expected_seconds", lambda *_: 1.0)  # which takes a second


@pytest.fixture
def work(store_work: Path, tmp_path: Path) -> Path:
    shutil.copytree(store_work, tmp_path / "work")
    return tmp_path / "work"


def run(work: Path, *options: str) -> int:
    return train.main([*OPTIONS, "-w", str(work), *options])


def outcome(work: Path) -> dict[str, Any]:
    """All that a fold leaves, but for seconds."""
    folder = work / FOLD
    result: dict[str, Any] = {name: (folder / name).read_bytes() for name in ("oof.npz", "oof.csv")}
    result["history"] = pd.read_csv(folder / "history.csv").drop(columns="seconds").to_csv()
    for name in ("last.ckpt", "best.ckpt"):
        checkpoint = read_checkpoint(folder / name)
        assert [row["epoch"] for row in checkpoint.pop("history", [])] == [0, 1][: None if name == "last.ckpt" else 0]
        weights = {key: value.numpy().tobytes() for key, value in checkpoint.pop("state_dict").items()}
        result[name] = {key: value for key, value in checkpoint.items() if key != "seconds"}, weights
    return result


@pytest.fixture(scope="module")
def whole(store_work: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `run` leaves when nothing happens."""
    work = tmp_path_factory.mktemp("whole") / "work"
    shutil.copytree(store_work, work)
    assert run(work) == 0
    assert not list((work / FOLD).glob(".*.tmp"))
    return outcome(work)


def test_x(work, whole):
    with dies_at(None, work) as steps:
        assert run(work) == 0
    print(steps, len(steps))
    assert outcome(work) == whole
