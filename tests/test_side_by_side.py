"""Several folds at a time, each in a process of its own."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

import arg
import train
from arg import PreprocessConfig
from callback import Report
from preprocessing.pipeline import preprocess
from system.errors import UserError
from tests.conftest import one_error_line
from tests.test_arg import RUN
from training.table import Job, Table, seconds_left, summary, table_lines

TRAIN = ["-t", "32", "-m", "resnet10t", "--batch-size", "8", "--epochs", "2"]
NAME = "resnet10t-32x32"


@pytest.fixture
def work(data_root: Path, tmp_path: Path) -> Path:
    """A store of three folds."""
    preprocess(PreprocessConfig(data_root, tmp_path / "work", folds=3))
    return tmp_path / "work"


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
def test_folds_side_by_side_are_those_one_by_one_and_a_failing_one_stops_no_other(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = shutil.copytree(work, work.parent / "alone")
    blocked = work / "runs" / NAME / "fold0"
    blocked.parent.mkdir(parents=True)
    blocked.touch()  # where the fold's folder should be
    capsys.readouterr()
    assert train.main([*TRAIN, "-w", str(work), "-g", "cpu,cpu"]) == 2
    out, err = capsys.readouterr()
    assert "3 folds on cpu, cpu; threads for each: 1" in out
    assert "fold 0 failed on cpu" in err
    assert str(blocked) in err
    *_, error, command = re.split(r"error: (.*): python train.py", err)
    assert error.startswith("not trained: fold 0;")
    for fold in (1, 2):
        for epoch in (1, 2):
            assert f"fold {fold}, epoch {epoch}/2: loss" in out
        assert f"fold {fold} done in" in out
    assert "all 3 folds" not in out

    blocked.unlink()
    assert train.main(shlex.split(command)) == 0
    out = capsys.readouterr().out
    assert "fewer folds than devices: 1 of these stay idle" in out
    assert out.count("all 3 folds: out-of-fold accuracy") == 1

    torch.set_num_threads(1)
    assert train.main([*TRAIN, "-w", str(alone), "-g", "cpu"]) == 0
    for fold in range(3):
        ours, theirs = (folder / "runs" / NAME / f"fold{fold}" for folder in (work, alone))
        assert (ours / "oof.npz").read_bytes() == (theirs / "oof.npz").read_bytes()
        first, second = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (ours, theirs))
        assert first["config"] == second["config"]
        assert all(torch.equal(first["state_dict"][key], second["state_dict"][key]) for key in first["state_dict"])
        history = [pd.read_csv(folder / "history.csv").drop(columns="seconds") for folder in (ours, theirs)]
        pd.testing.assert_frame_equal(*history, check_exact=True)
    scores = [
        pd.read_csv(folder / "runs" / "summary.csv").drop(columns=["seconds", "command"]) for folder in (work, alone)
    ]
    pd.testing.assert_frame_equal(*scores, check_exact=True)


def test_a_killed_process_costs_its_fold_alone(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def kill_one() -> None:
        while not (children := multiprocessing.active_children()):
            time.sleep(0.05)
        children[0].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    assert train.main([*TRAIN, "-w", str(work), "-g", "cpu,cpu"]) == 2
    killer.join()
    err = capsys.readouterr().err
    assert "SIGKILL" in err
    (lost,) = re.findall(r"not trained: fold (\S+);", err)
    rest = {"0", "1", "2"} - {lost}
    assert set(pd.read_csv(work / "runs" / "summary.csv", dtype=str)["fold"]) == rest


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_command(work: Path, number: signal.Signals) -> None:
    script = Path(train.__file__)
    command = [sys.executable, str(script), *TRAIN, "--epochs", "1000", "-w", str(work), "-g", "cpu,cpu"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout
        assert process.stderr
        said = "epoch 1/" if number == signal.SIGINT else "threads for each"  # or as soon as there are any
        assert any(said in line for line in process.stdout)
        if number == signal.SIGKILL:
            time.sleep(1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.send_signal(number)
        error = process.stderr.read()
        if number == signal.SIGKILL:
            assert process.wait() == -number
        else:
            assert process.wait() == 130
            assert "0 of 3 folds done, 2 stopped" in process.stdout.read()
            assert error.strip().endswith("stopped by the user")
        assert "Traceback" not in error
    assert len(children) >= 2
    until = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_what_is_wrong_for_all_is_said_once_before_any_process_starts(
    store_work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, says in ((["-m", "resnet81"], "unknown model"), (["-g", "7,8"], "-g 7"), (["-f", "0,5"], "-f 5")):
        assert train.main([*TRAIN, "-g", "cpu,cpu", "-w", str(store_work), *options]) == 2
        assert says in one_error_line(capsys)


@pytest.mark.parametrize(
    ("text", "gpus"),
    [("0", ("0",)), ("0,2", ("0", "2")), ("1,1", ("1", "1")), ("cpu", ("cpu",)), ("cpu,cpu", ("cpu",) * 2)],
)
def test_devices_of_train(text: str, gpus: tuple[str, ...]) -> None:
    assert arg.parse_train(["-g", text]).gpus == gpus


@pytest.mark.parametrize("text", ["x", "", "0,", "0,cpu", "-1"])
def test_devices_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="-g"):
        arg.parse_train([f"-g={text}"])


def some_jobs() -> list[Job]:
    """At 100 s: one done, one half way, one that has just begun, two to come."""
    report = Report(1234, 2468, 99, 100, {"train_loss": 12.3456, "valid_accuracy": 0.5}, 123456.7, 40.0)
    return [
        Job(RUN, "done", "cuda:0", 0.0, 60.0, report, 90.0, 0.98765),
        Job(RUN, "training", "cuda:0", 60.0, report=report, reported=90.0),
        Job(RUN, "training", "cuda:1", 95.0),
        Job(RUN),
        Job(RUN),
    ]


def test_the_time_left() -> None:
    """A fold takes 65 s, the mean of 60 and 70. The devices are free at 130 and 160, then at 195 and 225."""
    assert seconds_left(some_jobs(), 2, now=100.0) == 125
    assert seconds_left(some_jobs()[1:2], 1, now=100.0) == 30
    assert seconds_left(some_jobs()[3:], 2, now=100.0) is None
    assert summary(some_jobs(), 2, now=100.0) == "1 of 5 folds done, 1 min 40 s so far, about 2 min 05 s left"


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits(width: int) -> None:
    lines = table_lines(some_jobs(), 100.0, width)
    assert len(lines) == 6
    assert max(map(len, lines)) == min(width - 1, 102)  # the bar grows up to 40 characters
    assert re.fullmatch(r"0 +cuda:0 +done, 1 min 00 s +99/100 +12.34 +0.9877", lines[1])
    assert re.fullmatch(r"0 +cuda:0 +#+\.+ +50% +99/100 +12.34 +0.5000 +123,457 +30 s", lines[2])
    bar = lines[2].split()[2]
    assert bar.count("#") == len(bar) // 2


def test_the_table_is_redrawn_in_place(capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal of 12 lines: with two folds all rows are shown, with many those under way."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 80, 0, 0))
    with os.fdopen(theirs, "w") as stream:
        jobs = some_jobs()[1:3]
        table = Table(jobs, stream)
        table.draw("first")
        assert os.read(ours, 10_000).decode().count("\r\n") == 4
        table.draw("first, again")
        assert os.read(ours, 10_000).decode().startswith("\x1b[4Ffirst, again")
        jobs += [Job(RUN) for _ in range(20)]
        table.draw("many")
        text = os.read(ours, 10_000).decode()
        assert text.startswith("\x1b[4Fmany")
        assert text.count("\r\n") == 4
        assert "waiting" not in text
        table.say("in between\n", error=True)
        assert os.read(ours, 10_000).decode() == "\x1b[4F\x1b[J"
    os.close(ours)
    assert capsys.readouterr().err == "in between\n"
