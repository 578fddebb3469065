"""Decoding processes: crashes, hangs, memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preprocessing.decode
import preprocessing.folds
import preprocessing.pipeline
import preprocessing.store
import preprocessing.workers
import system.paths
from preprocessing.files import File
from system.errors import UserError
from system.processes import HANGS
from tests.preparing import RATE, REPOSITORY, noise, write


class Deadly(str):
    """A path that ends the process that unpickles it, as a file that crashes the decoder would."""

    def __reduce__(self) -> tuple[Any, ...]:
        return signal.raise_signal, (signal.SIGSEGV,)


class Endless(str):
    """A path over which the process that unpickles it ends as its watchdog would end it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (HANGS,)


def test_a_file_that_crashes_or_hangs_its_decoder_is_rejected_by_name(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.wav", 1))
    fatal = {40: Deadly(path), 41: Endless(path), 127: Deadly(path), 299: Deadly(path)}
    files = [File("train", f"{n}", 0, 0, "x", fatal.get(n, path)) for n in range(300)]
    audios, bands = preprocessing.decode.decode_files(files, RATE, tmp_path / system.paths.WAVES)
    assert len(bands) == 296
    assert {n: audio.reason for n, audio in enumerate(audios) if audio.reason} == {
        40: "unreadable: its decoder crashes (SIGSEGV)",
        41: "unreadable: its decoder hangs, no sound came in 30 s",
        127: "unreadable: its decoder crashes (SIGSEGV)",
        299: "unreadable: its decoder crashes (SIGSEGV)",
    }
    waves = np.fromfile(tmp_path / system.paths.WAVES, "<i2").reshape(296, 1600)
    assert (waves == noise(1)).all()
    assert [audio.offset for audio in audios if not audio.reason] == list(range(0, 296 * 1600, 1600))
    assert not (tmp_path / system.paths.SCRATCH).exists()


def test_a_decoder_without_progress_is_ended(tmp_path: Path) -> None:
    """The watchdog of a real read: opening a FIFO waits for ever, and nothing else ends it."""
    pipe, wave = tmp_path / "pipe.wav", write(tmp_path / "a.wav", 1)
    os.mkfifo(pipe)
    code = (
        "import os, sys, pathlib, preprocessing.decode as decode; from preprocessing.files import File; "
        "os.path.isfile = lambda path: True; file = File('', '', 0, 0, '', sys.argv[1]); "
        "decode._read_chunk([file], 8000, pathlib.Path(sys.argv[2]), patience=0.5)"
    )
    for path, status in ((wave, 0), (pipe, HANGS)):
        command = [sys.executable, "-c", code, str(path), str(tmp_path)]
        assert subprocess.run(command, cwd=REPOSITORY, timeout=30).returncode == status


def test_processes_that_cannot_start_are_no_fault_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing.workers, "SPARE_BYTES", Deadly("x"))
    with pytest.raises(UserError, match=r"a decoding process crashes \(SIGSEGV\) before it has begun: free memory"):
        list(preprocessing.workers.isolated(len, [["a"], ["b"]], lambda path, reason: 0))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell how much memory is used")
def test_a_decoding_process_has_so_much_memory_and_no_more() -> None:
    def fill(size: int) -> Any:
        return next(preprocessing.workers.isolated(eval, [f"len(bytearray({size}))"], lambda path, reason: 0))  # type: ignore[arg-type]

    assert fill(preprocessing.workers.SPARE_BYTES // 2) == preprocessing.workers.SPARE_BYTES // 2
    with pytest.raises(MemoryError):
        fill(preprocessing.workers.SPARE_BYTES + (64 << 20))


def test_what_a_task_raises_is_raised() -> None:
    with pytest.raises(TypeError, match="int"):
        list(preprocessing.workers.isolated(int, [["a"]], lambda path, reason: 0))  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):  # which is not taken for the death of the process
        list(preprocessing.workers.isolated(os.scandir, ["/nowhere"], lambda path, reason: 0))  # type: ignore[arg-type]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not tell which processes there are")
def test_decoding_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    hang = f"open({str(told)!r}, 'w').write(str(__import__('os').getpid())) and __import__('time').sleep(60)"
    code = f"from preprocessing.workers import isolated; next(isolated(eval, [{hang!r}], None))"
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY) as parent:
        while not (told.exists() and told.read_text()):
            time.sleep(0.01)
        parent.kill()
    stat = Path(f"/proc/{told.read_text()}/stat")
    until = time.monotonic() + 20
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until
        time.sleep(0.01)
