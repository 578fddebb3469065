"""As many threads as cores are free; that a run keeps its number when it resumes is in test_resume.py."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch

from system import threads


@pytest.mark.parametrize(("busy", "expected"), [(0.0, 4), (0.4, 4), (1.0, 3), (2.6, 1), (9.0, 1)])
def test_cores_that_others_keep_busy_are_not_counted(
    busy: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(100.0, 10.0)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "cores", lambda: 4)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    monkeypatch.setattr("time.sleep", lambda _: None)
    seconds = iter([50.0, 50.0 + 20 * busy])  # between the first and the third look at the clock
    monkeypatch.setattr(threads, "others_seconds", lambda: next(seconds))
    with threads.computing_threads(4):
        with threads.free_threads():
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 4


def test_the_environment_may_say_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(threads, "others_seconds", lambda: 0.0)
    with threads.computing_threads(2), threads.free_threads():
        assert torch.get_num_threads() == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/stat")
def test_a_busy_process_is_seen_and_this_one_is_not() -> None:
    before = threads.others_seconds()
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert threads.others_seconds() - before > 0.3
