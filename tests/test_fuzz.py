"""Some hundred damaged files through preprocess.py as a whole; `python -m benchmarks.fuzz` takes tens of thousands."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import soundfile

import preprocessing.decode
import system.paths
from benchmarks import fuzz
from tests.conftest import decode_folder

FILES, SEED = 500, 7


def test_the_whole_files_are_whole(tmp_path: Path) -> None:
    for n, (kind, data) in enumerate(fuzz.whole_files().items()):
        (tmp_path / f"{n:02} {kind}").write_bytes(data)
    clips, rejected = decode_folder(tmp_path, fuzz.RATE, tmp_path / "into")
    assert not len(rejected), rejected
    assert len(clips) == len(fuzz.whole_files())


def test_parts_and_checksums_are_those_of_the_formats() -> None:
    draw = np.random.default_rng(0)
    for data in fuzz.whole_files().values():
        assert b"".join(fuzz.parts_of(data, draw)) == data
        if data[:4] == b"OggS":
            assert fuzz.with_checksums(data) == data
    assert [part[:4] for part in fuzz.riff_chunks(fuzz.whole_files()["chunks.wav"])] == [
        b"RIFF", b"LIST", b"bext", b"cue ", b"fmt ", b"data", b"smpl", b"odd ", b"inst", b"",
    ]  # fmt: skip


def test_every_damaged_file_is_a_row_or_a_rejection(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    names = []
    for index in range(FILES):
        kind, data = fuzz.mutated(SEED, index)
        names.append(f"{index:03} {kind}")
        (folder / names[-1]).write_bytes(data)
    clips, rejected = decode_folder(folder, fuzz.RATE, tmp_path / "into")
    assert sorted([*clips["fname"], *rejected["fname"]]) == names
    assert len(clips) > FILES / 5
    assert len(rejected) > FILES / 5
    assert rejected["reason"].str.len().between(5, 200).all()
    assert not rejected["reason"].str.contains("decoder (?:crashes|hangs)", regex=True).any()
    assert (clips["length"] > 0).all()
    assert (tmp_path / "into" / system.paths.WAVES).stat().st_size == 2 * clips["length"].sum()


def test_each_file_alone_takes_little_time_and_memory() -> None:
    outcomes = [outcome for _, _, outcome in fuzz.fuzz(100, SEED + 1)]
    assert len(outcomes) == 100
    assert not any(fuzz.failure(outcome) for outcome in outcomes)
    assert max(outcome.peak_kib for outcome in outcomes) < fuzz.MEMORY_MIB * 1024


def test_the_damage_hangs_on_seed_and_index_alone() -> None:
    assert fuzz.mutated(3, 5) == fuzz.mutated(3, 5)
    assert len({fuzz.mutated(3, index)[1] for index in range(50)}) > 45


def test_memory_does_not_follow_the_header(tmp_path: Path) -> None:
    """A WAV of 65,535 channels, of 2 GiB, of 4 GiB, at 2**32 - 1 Hz, with frames of 64 KiB: by its header alone."""
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(4000, np.int16), 8000, subtype="PCM_16")
    data, paths = path.read_bytes(), []
    for at, size, value in [(22, 2, 2**16 - 1), (40, 4, 2**31 - 1), (4, 4, 2**32 - 1), (24, 4, 2**32 - 1),
                            (32, 2, 2**16 - 1)]:  # fmt: skip
        paths.append(tmp_path / f"{at}.wav")
        paths[-1].write_bytes(data[:at] + value.to_bytes(size, "little") + data[at + size :])
    tracemalloc.start()
    outcomes = fuzz.decode([str(path) for path in paths], tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(outcome.samples <= 8000 for outcome in outcomes)
    assert peak < 8 * 4 * preprocessing.decode.BLOCK_VALUES
