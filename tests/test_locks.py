"""Locks between processes, and work where there are none."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import socket
import threading
from pathlib import Path

import pytest

import inference
import preprocess
import report
import system.locks
import train
from system.errors import UserError
from system.locks import claimed, locked

TRAIN = ["-t", "32", "-m", "resnet10t", "--batch-size", "8", "--epochs", "1", "-g", "cpu"]


def test_a_claim_names_its_holder_and_leaves_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "deep" / ".lock"
    with claimed(lock, "it is being made", "wait for it"):
        holder = rf"^it is being made by process {os.getpid()} on {socket.gethostname()} since \d{{4}}-.*: wait for it$"
        for _ in range(2):
            with pytest.raises(UserError, match=holder), claimed(lock, "it is being made", "wait for it"):
                pass
        assert lock.exists()
    assert not lock.exists()
    with claimed(lock, "", ""):
        pass


def _claim_and_die(lock: Path) -> None:
    with claimed(lock, "", ""):
        os._exit(1)


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    process = multiprocessing.get_context("spawn").Process(target=_claim_and_die, args=(lock,))
    process.start()
    process.join()
    assert f"process {process.pid} " in lock.read_text()
    with claimed(lock, "it is held", "wait"):
        assert f"process {os.getpid()} " in lock.read_text()


@pytest.mark.parametrize("made_anew", [False, True])
def test_a_claim_does_not_hold_a_file_that_its_last_holder_has_removed(
    made_anew: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor where a third process has made, and holds, a new file under that name."""
    lock, take, third = tmp_path / ".lock", system.locks._take, contextlib.ExitStack()

    def just_removed(file: int, path: Path, wait: bool) -> bool:
        monkeypatch.setattr(system.locks, "_take", take)
        path.unlink()
        if made_anew:
            third.enter_context(claimed(path, "", ""))
        return take(file, path, wait)

    monkeypatch.setattr(system.locks, "_take", just_removed)
    expected = pytest.raises(UserError, match="it is held") if made_anew else contextlib.nullcontext()
    with third, expected, claimed(lock, "it is held", "wait"):
        assert lock.exists()


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path / ".lock"):
            order.append("second")

    with locked(tmp_path / ".lock"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize("reason", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_every_command_warns_and_works(
    reason: int, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(file: object, operation: int) -> None:
        raise OSError(reason, os.strerror(reason))

    def warned() -> list[str]:
        system.locks._warned.clear()
        return [line for line in capsys.readouterr().err.splitlines() if "without locks" in line]

    monkeypatch.setattr(fcntl, "flock", fails)
    warned()
    work, output = tmp_path / "work", tmp_path / "out" / "submission.csv"
    assert preprocess.main(["-i", str(data_root), "-w", str(work), "-k", "2"]) == 0
    advice = "is on a file system without locks: run one command at a time on it"
    assert warned() == [f"warning: {work} {advice}"]
    assert train.main([*TRAIN, "-w", str(work), "-f", "all"]) == 0
    assert warned() == [f"warning: {work / 'runs'} {advice}"]
    options = ["-t", "32", "-m", "resnet10t", "-f", "2", "-g", "cpu", "-w", str(work), "-o", str(output)]
    assert inference.main(options) == 0
    assert warned() == [f"warning: {output.with_name('submission.csv.partial')} {advice}"]
    assert report.main(["-w", str(work)]) == 0
    assert sorted(path.name for path in output.parent.iterdir()) == ["submission.csv", "submission_probabilities.csv"]
