"""A fold with a deadline: its schedule is run through in the time there is, by a clock that counts steps."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import callback
import train
import training.deadline
from arg import parse_train
from dataset import Store
from model import Classifier, read_checkpoint
from training.fold import train_fold
from training.resolve import resolve

OPTIONS = ["-t", "32", "-m", "test_resnet", "--batch-size", "6", "-g", "cpu", "-f", "0", "--epochs", "10"]
OPTIONS += ["--optimizer", "muon"]
FOLD = Path("runs", "test_resnet-32x32", "fold0")  # 10 epochs of 3 steps


class Clock:
    """Stands for time.monotonic() of the deadline: a training step takes a second, or more from a step on."""

    def __init__(self, patch: pytest.MonkeyPatch, slow_from: int = 10**6, slow: float = 1.0) -> None:
        self.now, self.steps, self.rates = 0.0, 0, []  # type: float, int, list[float]
        step = Classifier.training_step

        def training_step(model: Classifier, batch: Any, batch_index: int) -> Any:
            self.now += slow if self.steps >= slow_from else 1.0
            self.steps += 1
            self.rates.append(model.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
            return step(model, batch, batch_index)

        patch.setattr(Classifier, "training_step", training_step)
        patch.setattr(training.deadline, "time", self)
        patch.setattr(training.deadline, "CLOSING", 0.0)

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.tuning.expected_seconds", lambda *_: 1.0)
    monkeypatch.setattr("training.tuning.look_seconds", lambda *_: 0.0)
    monkeypatch.setattr(callback, "draw_curve", lambda *_: None)


@pytest.fixture
def work(store_work: Path, tmp_path: Path) -> Path:
    shutil.copytree(store_work, tmp_path / "work")
    return tmp_path / "work"


def fold(work: Path, ends: float) -> dict[str, Any]:
    config, store = parse_train([*OPTIONS, "-w", str(work)]), Store.open(work)
    train_fold(config, store, resolve(config, store, 0), torch.device("cpu"), ends=ends)
    return read_checkpoint(work / FOLD / "last.ckpt")


def test_time_enough_changes_nothing(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(work, tmp_path / "other")
    assert train.main([*OPTIONS, "-w", str(tmp_path / "other")]) == 0
    usual = read_checkpoint(tmp_path / "other" / FOLD / "last.ckpt")
    Clock(monkeypatch)
    found = fold(work, ends=31.0)
    assert "ahead" not in found
    assert all(torch.equal(value, usual["state_dict"][name]) for name, value in found["state_dict"].items())


@pytest.mark.parametrize("seconds", [8, 17, 25])
def test_the_schedule_is_run_through_in_the_time(work: Path, monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    clock = Clock(monkeypatch)
    found = fold(work, ends=seconds)
    assert found["finished"]
    assert seconds - 1 <= clock.steps <= seconds
    assert found["epochs_trained"] == pytest.approx(clock.steps / 3)
    assert clock.rates[-1] < 0.2 * max(clock.rates)  # it has come down
    falling = clock.rates[clock.rates.index(max(clock.rates)) :]
    assert falling == sorted(falling, reverse=True)


def test_a_neighbour_that_starts_in_the_middle(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.deadline, "RECENT", 3)
    clock = Clock(monkeypatch, slow_from=12, slow=2.0)
    assert fold(work, ends=31.0)["finished"]
    assert clock.now <= 31
    assert 12 + 9 - 1 <= clock.steps <= 12 + 9  # 12 of a second, then 9 of two seconds are 30
    assert clock.rates[-1] < 0.2 * max(clock.rates)


def test_looks_that_would_fill_the_time_do_not_end_it(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten looks of 3 s are more than there is; of 25 s the scores take 1.5 x 4 x 3, which leaves 7 for steps."""
    monkeypatch.setattr("training.tuning.look_seconds", lambda *_: 3.0)
    monkeypatch.setattr(training.deadline, "WARM", 0)
    clock = Clock(monkeypatch)
    assert fold(work, ends=25.0)["finished"]
    assert 6 <= clock.steps <= 7


def test_it_is_over_even_if_there_is_no_time_left(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    found = fold(work, ends=0.0)
    assert clock.steps == 1
    assert found["finished"]
    assert (work / FOLD / "oof.npz").exists()


def test_an_interrupted_fold_keeps_its_place_in_the_schedule(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(callback, "SAVE_SHARE", float("inf"))
    clock, step = Clock(monkeypatch), Classifier.training_step

    def broken(model: Classifier, batch: Any, batch_index: int) -> Any:
        if clock.steps == 9:
            raise KeyboardInterrupt
        return step(model, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", broken)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fold(work, ends=15.0)
    ahead = read_checkpoint(work / FOLD / "last.ckpt")["ahead"]
    assert ahead > 0
    found = fold(work, ends=time.monotonic() + 10**6)  # as much time as it takes: no more is left out
    assert found["ahead"] == ahead
    assert clock.steps <= 31 - int(ahead)
