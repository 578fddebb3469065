"""The store: cells that look like formulas, full and read-only disks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import dataset
import preprocess
import preprocessing.archives
import preprocessing.pipeline
import preprocessing.store
import system.paths
from arg import PreprocessConfig
from tests.conftest import one_error_line

RATE = 8000


REPOSITORY = Path(__file__).parents[1]


def write(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).integers(-9000, 9000, 800).astype(np.int16), RATE)
    return path


CELLS = [
    "=1+2",
    "=cmd|' /C calc'!A0",
    "+1",
    "-1",
    "@SUM(1)",
    '=HYPERLINK("x")',
    "a,b",
    "0x10",
    "1e5",
    "NaN",
    " x",
    "'=1",
]


def test_cells_that_a_spreadsheet_would_run_stay_data(tmp_path: Path) -> None:
    root, work = tmp_path / "data", tmp_path / "work"
    cells = [cell.replace("/", "") for cell in CELLS]
    for n, cell in enumerate(cells):
        for take in range(2):
            write(root / cell / f"{cell}_nohash_{take}.wav", 2 * n + take)
    (root / cells[0] / "@bad.wav").write_bytes(b"")
    preprocessing.pipeline.preprocess(PreprocessConfig(root, work, folds=2))
    clips = dataset.Store.open(work).clips("train")
    assert sorted(clips.fname) == sorted(f"{cell}/{cell}_nohash_{take}.wav" for cell in cells for take in range(2))
    assert sorted(preprocessing.store.load_store(work)["classes"]) == sorted(cells)
    table = preprocessing.store.load_clips(work)
    assert list(table["label"]) == [name.split("/")[0] for name in table["fname"]]
    assert list(table["group"]) == list(table["label"])
    assert preprocessing.store.load_rejected(work)["fname"].tolist() == [f"{cells[0]}/@bad.wav"]


def run(root: Path, work: Path, limit_kib: int) -> subprocess.CompletedProcess[str]:
    """preprocess.py where no file can become larger than the limit, as on a full disk."""
    command = f'ulimit -f {limit_kib}; exec "$0" preprocess.py -i "$1" -w "$2" -k 2'
    arguments = ["bash", "-c", command, sys.executable, str(root), str(work)]
    return subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)


def test_a_disk_that_fills_up_loses_nothing(tmp_path: Path) -> None:
    root, work = tmp_path / "data", tmp_path / "work"
    for n in range(320):
        write(root / "xy"[n % 2] / f"{n}.wav", n)
    full = run(root, work, 420)  # the samples are 500 KiB
    assert full.returncode == 2
    assert full.stderr.splitlines()[-1] == (
        f"error: {work} cannot be written (File too large): make room, or make it writable, and run this again; what "
        "is done is kept"
    )
    assert "Traceback" not in full.stderr
    assert not (work / system.paths.STORE).exists()
    decoded = (work / system.paths.WAVES).stat().st_size
    assert decoded >= 256 * 1600  # two chunks; the rest was not taken for damaged files
    again = run(root, work, 10_000)
    assert again.returncode == 0, again.stderr
    assert "64 new or changed of 320 files decoded" in again.stdout
    assert len(preprocessing.store.load_clips(work)) == 320
    assert not len(preprocessing.store.load_rejected(work))


def test_a_decoding_process_without_room_blames_no_file(tmp_path: Path) -> None:
    root, work = tmp_path / "data", tmp_path / "work"
    for n in range(160):
        write(root / "xy"[n % 2] / f"{n}.wav", n)
    full = run(root, work, 80)  # a chunk of samples is 200 KiB
    assert full.returncode == 2
    assert full.stderr.splitlines()[-1].startswith(
        f"error: {work / system.paths.SCRATCH} cannot be written (File too large)"
    )
    assert not (work / system.paths.REJECTED).exists()


@pytest.mark.parametrize("made", ["before", "now"])
def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], made: str
) -> None:
    """As root, permissions stop nobody: here opening a file for writing does what a read-only disk would."""
    root, work = tmp_path / "data", tmp_path / "work"
    for n in range(8):
        write(root / "xy"[n % 2] / f"{n}.wav", n)
    if made == "before":
        preprocessing.pipeline.preprocess(PreprocessConfig(root, work, folds=2))
        write(root / "x" / "new.wav", 100)
    before = {path.name: path.read_bytes() for path in work.iterdir()} if work.exists() else {}
    opened = Path.open

    def read_only(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if set(mode) & set("wax+"):
            raise OSError(30, "Read-only file system", os.fspath(path))
        return opened(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", read_only)
    assert preprocess.main(["-i", str(root), "-w", str(work), "-k", "2"]) == 2
    line = one_error_line(capsys)
    assert line.startswith(f"error: {work} cannot be written (Read-only file system): make room, or make it writable")
    after = {path.name: path.read_bytes() for path in work.iterdir()} if work.exists() else {}
    assert after == before
