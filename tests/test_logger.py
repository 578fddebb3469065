"""What TensorBoard is given of a fold, and that nothing of the fold depends on it."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import callback
import train
from model import Classifier
from system.paths import EVENTS
from tests.conftest import CLASSES, one_error_line
from tests.test_resume import BATCHES, at_batch, outcome
from training.tensorboard import CURVES, draw_confusion, pixels
from util import confusion

OPTIONS = ["-t", "32", "-m", "test_resnet", "--batch-size", "6", "-g", "cpu", "-f", "0", "--epochs", "3"]
FOLD = Path("runs", "test_resnet-32x32", "fold0")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, no pictures, and no checkpoint but at the end of an epoch."""
    monkeypatch.setattr(callback, "SAVE_SHARE", float("inf"))
    monkeypatch.setattr("training.tuning.expected_seconds", lambda *_: 1.0)
    monkeypatch.setattr(callback, "draw_curve", lambda *_: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def work(store_work: Path, tmp_path: Path) -> Path:
    shutil.copytree(store_work, tmp_path / "work")
    return tmp_path / "work"


def run(work: Path, *options: str) -> int:
    return train.main([*OPTIONS, "-w", str(work), *options])


def events(work: Path) -> Any:
    return EventAccumulator(str(work / FOLD / EVENTS)).Reload()


def assert_complete(work: Path) -> None:
    """Each epoch of history.csv stands there once, and so do settings, scores and the matrix."""
    found, history = events(work), pd.read_csv(work / FOLD / "history.csv")
    for column, tag in CURVES.items():
        scalars = found.Scalars(tag)
        assert [event.step for event in scalars] == [1, 2, 3]
        np.testing.assert_allclose([event.value for event in scalars], history[column], rtol=1e-6)
    (configuration,) = found.Tensors("configuration/text_summary")
    assert b'"model": "test_resnet"' in configuration.tensor_proto.string_val[0]
    hparams = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert all(name in hparams for name in (b"optim.lr", b"features.n_mels", b"augment.gain_db"))
    accuracy = pd.read_csv(work / "runs" / "summary.csv")["accuracy"][0]
    assert [event.value for event in found.Scalars("final/accuracy")] == [pytest.approx(accuracy)]
    (image,) = found.Images("confusion")
    assert image.encoded_image_string.startswith(b"\x89PNG")
    assert image.width > 300


def test_events_follow_the_history_whatever_happens(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = shutil.copytree(work, work.with_name("plain"))
    assert run(plain) == 0
    assert not (plain / FOLD / EVENTS).exists()

    def fail() -> None:
        raise RuntimeError("a crash")

    with monkeypatch.context() as patch:
        at_batch(2 * BATCHES, fail, patch)
        with pytest.raises(RuntimeError, match="a crash"):
            run(work, "--logger", "tensorboard")
    assert [event.step for event in events(work).Scalars("loss/training")] == [1, 2]
    assert run(work, "--logger", "tensorboard") == 0
    assert_complete(work)
    first, logged = outcome(plain), outcome(work)
    assert first == logged  # weights, history and predictions, bit by bit

    assert run(work, "--restart") == 0
    assert not (work / FOLD / EVENTS).exists()
    (work / FOLD / "oof.csv").unlink()
    monkeypatch.setattr(Classifier, "training_step", lambda *_: pytest.fail("is trained again"))
    assert run(work, "--logger", "tensorboard") == 0
    assert_complete(work)


def test_events_that_cannot_be_written_stop_nothing(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    assert run(work, "--logger", "tensorboard", "--epochs", "1") == 0
    assert capsys.readouterr().err.count("no more events for TensorBoard, training continues: [Errno 28]") == 1


def test_without_the_package(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    assert run(work, "--logger", "tensorboard", "-w", str(work / "not prepared")) == 2
    assert "pip install tensorboard" in one_error_line(capsys)


def test_names_of_any_kind_leave_the_matrix_its_place() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels(draw_confusion(np.eye(3, dtype=np.int64), ["x" * 250, "$a", "b$"]))


def test_the_matrix_is_scikit_learns() -> None:
    truth, predicted = np.random.default_rng(0).integers(0, 3, (2, 50))
    expected = confusion_matrix(truth, predicted, labels=range(len(CLASSES)))
    np.testing.assert_array_equal(confusion(truth, predicted, 3), expected)
