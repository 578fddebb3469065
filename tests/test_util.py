"""Metrics against scikit-learn, losses against torch, the rest by hand."""

from __future__ import annotations

import io
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

import system.console
import system.devices
import system.files
import training.runs
import util
from system.devices import chip_features
from system.errors import UserError
from util import prefetched


@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_scikit_learn(seed: int) -> None:
    draw = np.random.default_rng(seed)
    truth, predicted = draw.integers(0, 7, (2, 200))
    truth[truth == 3] = 2  # a class that is predicted but never true
    truth[truth == 6], predicted[predicted == 6] = 5, 5  # and one that is in neither
    assert util.accuracy(truth, predicted) == pytest.approx(accuracy_score(truth, predicted), abs=1e-12)
    expected = f1_score(truth, predicted, average="macro", zero_division=0)
    assert util.macro_f1(truth, predicted, 7) == pytest.approx(expected, abs=1e-12)


def test_wilson_interval_by_hand() -> None:
    low, high = util.wilson_interval(0.9, 100)  # centre 0.88520, half width 0.05962
    assert (round(low, 4), round(high, 4)) == (0.8256, 0.9448)
    assert util.wilson_interval(1.0, 10)[1] == pytest.approx(1)
    assert util.wilson_interval(0.0, 0) == (0, 1)


def test_soft_vote_is_the_mean() -> None:
    probabilities = np.array([[[0.6, 0.4]], [[0.1, 0.9]]])
    np.testing.assert_allclose(util.soft_vote(probabilities), [[0.35, 0.65]])


def test_hard_vote_counts_and_breaks_ties_by_the_mean() -> None:
    members = np.array(
        [
            [[0.5, 0.4, 0.1], [0.9, 0.1, 0.0]],
            [[0.5, 0.4, 0.1], [0.1, 0.6, 0.3]],
            [[0.0, 1.0, 0.0], [0.1, 0.0, 0.9]],
        ]
    )  # clip 0: two votes for class 0, though class 1 has the largest mean; clip 1: one vote each
    votes = util.hard_vote(members)
    np.testing.assert_array_equal(votes.argmax(1), [0, 2])
    np.testing.assert_allclose(votes.sum(1), 1)
    np.testing.assert_allclose(votes[0], [(2 + 1 / 6) / 3.5, (1 + 0.3) / 3.5, (0.2 / 6) / 3.5])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(smoothing: float) -> None:
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0, 1, 2, 3, 4, 0])
    rows = torch.nn.functional.one_hot(target, 5).float()
    expected = torch.nn.functional.cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(util.cross_entropy(logits, rows, smoothing), expected)
    rows[2] = 0  # unlabelled
    assert util.cross_entropy(logits, rows, smoothing)[2] == 0


@pytest.mark.parametrize(
    ("power", "balance", "expected"),
    [
        (0, 0, [1, 1, 0]),
        (1, 0, [100 / 190, 100 / 10, 0]),  # scikit-learn's "balanced": clips / (classes * clips of the class)
        (0.5, 0, [0.856205, 3.732107, 0]),  # 190^-0.5 = 0.0725476, 10^-0.5 = 0.3162278; mean over clips 0.0847315
        (1, 1, [0.1, 1.9, 0]),  # drawn evenly: the mean over classes is 1
    ],
)
def test_class_weights_are_1_on_average_over_the_clips_drawn(
    power: float, balance: float, expected: list[float]
) -> None:
    assert util.class_weights((190, 10, 0), power, balance) == pytest.approx(expected, abs=1e-5)


def test_the_hardest_share_of_a_batch() -> None:
    loss = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    assert util.hardest_mean(loss, 0.9) == 6  # without the 1
    assert util.hardest_mean(loss, 1.0) == 5.5
    assert util.hardest_mean(loss, 0.001) == 10


def test_draws_hang_on_the_whole_key() -> None:
    keys = [(0,), (0, 0), (0, 1), (1, 0), (0, 0, 0)]
    assert len({util.seed_of(*key) for key in keys}) == len(keys)
    first, again = (torch.rand(3, generator=util.generator("cpu", 1, 2)) for _ in range(2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_replacing_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with system.files.replacing(path) as beside:
        beside.write_text("old")

    def fail() -> None:
        with system.files.replacing(path) as beside:
            beside.write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_update_table_replaces_the_row_of_the_same_key(tmp_path: Path) -> None:
    path = tmp_path / "summary.csv"
    (tmp_path / ".summary.csv.4711.tmp").touch()  # of a process that was killed
    for fold, score in (("1", "0.5"), ("0", "0.6"), ("1", "0.7")):
        training.runs.update_table(path, {"run": "a,b", "fold": fold, "score": score}, key=("run", "fold"))
    training.runs.update_table(path, {"run": "a,b", "fold": "full"}, key=("run", "fold"))
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert table.to_numpy().tolist() == [["a,b", "0", "0.6"], ["a,b", "1", "0.7"], ["a,b", "full", ""]]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert system.devices.pick_device(None).type == "cpu"
    with pytest.raises(UserError, match="-g cpu"):
        system.devices.pick_device("0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert system.devices.pick_device("1") == torch.device("cuda", 1)
    assert system.devices.pick_device(None) == torch.device("cuda", 0)
    with pytest.raises(UserError, match="0 to 1"):
        system.devices.pick_device("2")


@pytest.mark.parametrize(("capability", "expected"), [((9, 0), "bf16-mixed"), ((7, 5), "16-mixed")])
def test_mixed_precision_follows_the_chip(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert system.devices.pick_precision("auto", torch.device("cuda", 0)) == expected
    assert system.devices.pick_precision("auto", torch.device("cpu")) == "32-true"
    assert system.devices.pick_precision("16", torch.device("cpu")) == "16-mixed"


@pytest.mark.parametrize(
    ("table", "native"),
    [
        ("processor\t: 0\nmodel name\t: a chip bf16\nflags\t\t: fpu avx512f avx512_bf16 vme\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_vnni\nbugs\t: bf16\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),
        ("", False),
    ],
)
def test_chips_that_have_bfloat16(monkeypatch: pytest.MonkeyPatch, table: str, native: bool) -> None:
    monkeypatch.setattr(system.devices, "open", lambda _: io.StringIO(table), raising=False)
    monkeypatch.setattr(system.devices, "chip_features", chip_features)
    assert system.devices.native_bfloat16() == native


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_clock(seconds: float, text: str) -> None:
    assert system.console.clock(seconds) == text


def test_progress_passes_everything_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(system.console.progress(iter(range(5)), 5, "counting", every_seconds=0)) == [0, 1, 2, 3, 4]
    assert "counting: 3 of 5" in capsys.readouterr().err


def test_prefetching_keeps_order_and_raises_what_was_raised() -> None:
    def broken() -> Iterator[int]:
        yield from range(5)
        raise ValueError("the sixth")

    assert list(prefetched(range(100))) == list(range(100))
    seen: list[int] = []
    with pytest.raises(ValueError, match="the sixth"):
        seen.extend(prefetched(broken()))
    stream = prefetched(broken())
    assert [next(stream) for _ in range(5)] == list(range(5))


def test_prefetching_stays_a_bounded_way_ahead_and_ends_when_closed() -> None:
    made: list[int] = []

    def counting() -> Iterator[int]:
        for number in itertools.count():
            made.append(number)
            yield number

    stream = prefetched(counting(), ahead=2)
    next(stream)
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(made) == 3  # one taken, two ready
    stream.close()
    assert not any(thread.name.startswith("prefetch") for thread in threading.enumerate())
