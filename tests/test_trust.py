"""Files from strangers: what they must not do, and what is said instead."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

import dataset
import preprocess
import preprocessing.archives
import preprocessing.pipeline
import preprocessing.store
import system.paths
from arg import PreprocessConfig
from model import read_checkpoint
from networks.weights import read_weights
from system.errors import UserError
from tests.conftest import one_error_line

RATE = 8000
REPOSITORY = Path(__file__).parents[1]


def write(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).integers(-9000, 9000, 800).astype(np.int16), RATE)
    return path


# ------------------------------------------------------------------------------------------------------ archives


def packed(path: Path, *members: tuple[tarfile.TarInfo, bytes], **options: Any) -> Path:
    with tarfile.open(path, "w:gz", **options) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def member(name: str, content: bytes = b"sound", kind: bytes = tarfile.REGTYPE, target: str = "") -> Any:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content) if kind == tarfile.REGTYPE else 0, kind, target
    return info, content


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([member("../out.wav")], "no file or folder"),
        ([member("no/../../out.wav")], "no file or folder"),
        ([member("..")], "no file or folder"),
        (
            [member("no/link", kind=tarfile.SYMTYPE, target="{outside}"), member("no/link/out.wav")],
            "no file or folder",
        ),
        (
            [member("no/link", kind=tarfile.SYMTYPE, target="../.."), member("no/link/out.wav")],
            "no file or folder",
        ),
        ([member("no/a.wav", kind=tarfile.LNKTYPE, target="{outside}/secret")], "no file or folder"),
        ([member("no/a.wav", kind=tarfile.LNKTYPE, target="../../secret")], "no file or folder"),
        ([member("no/a.wav", kind=tarfile.CHRTYPE)], "no file or folder"),
        ([member("no/a.wav", kind=tarfile.BLKTYPE)], "no file or folder"),
        ([member("no/a.wav", kind=tarfile.FIFOTYPE)], "no file or folder"),
        ([member("no", b""), member("no/a.wav")], "cannot be unpacked"),  # a file, then a folder of that name
    ],
)
def test_an_archive_cannot_reach_out_of_its_folder(tmp_path: Path, bad: list[Any], message: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    for info, _ in bad:
        info.name, info.linkname = (text.replace("{outside}", str(outside)) for text in (info.name, info.linkname))
    archive = packed(tmp_path / "archive", member("yes/good.wav"), *bad)
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match=message):
        preprocessing.archives._unpack(archive, tmp_path / "in" / "data")
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert {path.name for path in tmp_path.iterdir()} == {"outside", "archive", "in"}
    inside = {path.relative_to(tmp_path / "in" / "data").as_posix() for path in (tmp_path / "in" / "data").rglob("*")}
    assert inside <= {"yes", "yes/good.wav", "no"}


def test_names_that_only_look_odd_stay_in_the_folder(tmp_path: Path) -> None:
    names = ["./no/a.wav", "no/./b.wav", "no/..d.wav", "no/-rf", "no/=1.wav"]
    preprocessing.archives._unpack(packed(tmp_path / "archive", *map(member, names)), tmp_path / "data")
    found = {path.relative_to(tmp_path / "data").as_posix() for path in (tmp_path / "data").rglob("*.wav")}
    assert found == {"no/a.wav", "no/b.wav", "no/..d.wav", "no/=1.wav"}


def test_an_absolute_name_is_one_in_the_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside" / "out.wav"
    preprocessing.archives._unpack(packed(tmp_path / "archive", member(str(outside))), tmp_path / "data")
    assert not outside.exists()
    assert (tmp_path / "data" / str(outside)[1:]).exists()


@pytest.mark.parametrize("how", ["one large file", "many empty files"])
def test_an_archive_that_grows_without_end_is_not_unpacked(tmp_path: Path, how: str) -> None:
    if how == "one large file":
        members, message = [member("no/a.wav", bytes(40 << 20))], "grows over 20 times at 'no/a.wav'"
    else:
        members, message = [member(f"no/{n:04}.wav", b"") for n in range(3000)], "grows over 20 times"
    archive = packed(tmp_path / "archive", *members, format=tarfile.GNU_FORMAT)
    tracemalloc.start()
    with pytest.raises(UserError, match=message):
        preprocessing.archives._unpack(archive, tmp_path / "data")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
    assert sum(path.stat().st_size for path in (tmp_path / "data").rglob("*")) < 1 << 20


# ----------------------------------------------------------------------------------------------------- manifests


def test_a_manifest_reads_nothing_outside_its_folder(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for n in range(4):
        write(root / f"{n}.wav", n)
    secret = write(tmp_path / "secret.wav", 9)
    write(tmp_path / "data2" / "near.wav", 10)
    bad = ["../secret.wav", "x/../../secret.wav", str(secret), "..", "../data2/near.wav", "..\\secret.wav", "/dev/zero"]
    rows = [f"{n}.wav,{'xy'[n % 2]}" for n in range(4)] + [f"{path},x" for path in bad] + ["./x/../3.wav,y"]
    (root / "all.csv").write_text("\n".join(["path,label", *rows]))
    preprocessing.pipeline.preprocess(PreprocessConfig(root, tmp_path / "work", manifest=root / "all.csv", folds=2))
    assert preprocessing.store.load_clips(tmp_path / "work")["fname"].tolist() == ["0.wav", "1.wav", "2.wav", "3.wav"]
    rejected = preprocessing.store.load_rejected(tmp_path / "work").set_index("fname")["reason"]
    assert rejected.pop("3.wav").endswith("repeats line 5")
    assert set(rejected.index) == set(bad)
    assert rejected.str.contains("leaves the folder").all()


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


# -------------------------------------------------------------------------------------------------- checkpoints


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("code from a file has run",))


@pytest.mark.parametrize("kind", ["pickle", "torch", "module"])
def test_a_file_that_would_run_code_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = tmp_path / "last.ckpt"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"format": 1, "config": Evil()}, protocol=2))
    else:
        torch.save({"format": 1, "config": Evil()} if kind == "torch" else nn.Linear(2, 2), path)
    what = r"torch\.nn\.modules\.linear\.Linear" if kind == "module" else "print"
    for read in (read_checkpoint, read_weights):
        with pytest.raises(UserError, match=rf"it would run code, (builtins\.)?{what}, and is refused") as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "weights_only" not in str(caught.value)  # torch's advice to let it run
    assert "code from a file" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a"),
        (b"hello", "damaged, or another kind of file"),
        (b"PK\x03\x04" + bytes(100), "not a"),
    ],
)
def test_a_file_of_another_kind(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    for read in (read_checkpoint, read_weights):
        with pytest.raises(UserError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("written", "way_out"),
    [(99, "made by a newer version: update this project"), (0, "train again with --restart"), ("x", "train again")],
)
def test_another_version_says_what_to_do(tmp_path: Path, written: Any, way_out: str) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"format": written, "config": {}, "state_dict": {}}, path)
    with pytest.raises(UserError, match=f"format {written}, .*{way_out}"):
        read_checkpoint(path)


# ------------------------------------------------------------------------------------------------------ the disk


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
