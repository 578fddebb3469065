"""Decoding: formats, rates, blocks, what cannot be used."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

import preprocessing.decode
import preprocessing.folds
import preprocessing.pipeline
import preprocessing.store
import preprocessing.workers
import system.paths
from preprocessing.files import File, part_of
from system.errors import UserError
from tests.conftest import decode_folder
from tests.preparing import RATE, fill, in_one_process, noise, prepare, reasons, samples_of, write


def decode(path: Path, rate: int, tmp_path: Path) -> NDArray[np.int16]:
    """One file through `decode_folder`."""
    folder, into = tmp_path / "one", tmp_path / "into"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(path, folder)
    clips, rejected = decode_folder(folder, rate, into)
    assert len(clips) == 1, rejected
    return samples_of(into, clips.iloc[0])


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("wav", {}),
        ("wav", {"subtype": "PCM_24"}),
        ("wav", {"subtype": "PCM_U8"}),
        ("wav", {"subtype": "FLOAT"}),
        ("wav", {"subtype": "ULAW"}),
        ("flac", {}),
        ("ogg", {}),
        ("mp3", {}),
        ("aiff", {}),
        ("opus", {"format": "OGG", "subtype": "OPUS"}),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_is_read_as_soundfile_reads_it(
    tmp_path: Path, suffix: str, options: dict[str, str], channels: int
) -> None:
    wave = noise(1, 8000 * channels).reshape(-1, channels)
    path = write(tmp_path / f"a.{suffix}", wave / 32768, RATE, **options)
    expected = soundfile.read(path, always_2d=True)[0].mean(1) * 32768
    decoded = decode(path, RATE, tmp_path)
    assert decoded.shape == expected.shape
    assert np.abs(decoded - expected).max() <= 0.51  # half a step of int16, and float32
    if channels == 1 and (suffix, options) in [("wav", {}), ("flac", {})]:
        assert np.array_equal(decoded, wave[:, 0])


@pytest.mark.parametrize("rate", [8000, 11_025, 44_100])
@pytest.mark.parametrize("block", [1 << 18, 1000])
def test_resampling_is_soxrs_also_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int, block: int
) -> None:
    in_one_process(monkeypatch)
    monkeypatch.setattr(preprocessing.decode, "BLOCK_VALUES", block)
    wave = noise(2, rate)
    expected = soxr.resample(wave.astype(np.float64) / 32768, rate, RATE, quality="HQ") * 32768
    decoded = decode(write(tmp_path / "a.wav", wave, rate), RATE, tmp_path)
    assert decoded.shape == expected.shape == (RATE,)
    assert np.abs(decoded - expected.clip(-32768, 32767)).max() <= 0.6


def test_a_long_file_is_never_whole_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fill(tmp_path / "data")
    long = noise(40, 100_000)
    write(root / "no" / "3 long.wav", long)
    bad = write(root / "no" / "4 long and bad.flac", noise(41, 100_000))
    bad.write_bytes(bad.read_bytes()[:-1000])
    write(root / "no" / "5 nan at its end.wav", np.append(long / 32768, np.nan), subtype="FLOAT")
    prepare(root, tmp_path / "whole")
    in_one_process(monkeypatch)
    monkeypatch.setattr(preprocessing.decode, "BLOCK_VALUES", 1000)
    monkeypatch.setattr(preprocessing.decode, "COPY_BYTES", 3000)
    clips = prepare(root, tmp_path / "file")
    for name in (system.paths.CLIPS, system.paths.WAVES, system.paths.REJECTED):
        assert (tmp_path / "file" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    clip = clips[clips["fname"] == "no/3 long.wav"].iloc[0]
    assert np.array_equal(samples_of(tmp_path / "file", clip), long)
    assert "long" in clip["flags"]
    assert set(reasons(tmp_path / "file")) == {"no/4 long and bad.flac", "no/5 nan at its end.wav"}
    assert not (tmp_path / "file" / system.paths.SCRATCH).exists()


@pytest.mark.parametrize("options", [{"format": "MP3"}, {"format": "OGG", "subtype": "OPUS"}, {"format": "FLAC"}])
def test_blocks_of_a_long_file_leave_no_seams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str]
) -> None:
    path = write(tmp_path / "a.wav", noise(3, 20_001), RATE, **options)
    whole = decode(path, RATE, tmp_path)
    in_one_process(monkeypatch)
    monkeypatch.setattr(preprocessing.decode, "BLOCK_VALUES", 1000)
    assert np.array_equal(decode(path, RATE, tmp_path / "again"), whole)


def test_int16_is_rounded_and_clipped_never_wrapped(tmp_path: Path) -> None:
    wave = np.array([0.0, 1.0, 2.0, -1.0, -2.0, 1.4 / 32768, 1.6 / 32768, -1.6 / 32768], np.float32)
    few = np.concatenate([wave, np.zeros(1992, np.float32)])  # one in a thousand is beyond full scale
    decoded = decode(write(tmp_path / "a.wav", few, subtype="FLOAT"), RATE, tmp_path)
    assert decoded[:8].tolist() == [0, 32767, 32767, -32768, -32768, 1, 2, -2]
    stereo = np.array([[100, 300], [-5, 5], [32767, 32767]], np.int16)
    assert decode(write(tmp_path / "b.wav", stereo), RATE, tmp_path).tolist() == [200, 0, 32767]


def test_what_cannot_be_used_is_listed_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, work = fill(tmp_path / "data" / "train", suffix="flac").parent, tmp_path / "work"
    write(root / "train" / "yes" / "empty.wav", noise(0, 0))
    write(root / "train" / "yes" / "nan.wav", np.array([0.1, np.nan]), subtype="FLOAT")
    write(root / "train" / "yes" / "inf.wav", np.array([0.1, -np.inf]), subtype="DOUBLE")
    (root / "train" / "yes" / "text.wav").write_text("version https://git-lfs.github.com/spec/v1")
    (root / "train" / "yes" / "zero.wav").touch()
    (root / "train" / "yes" / "two\nlines.wav").touch()
    cut = write(root / "test" / "cut.flac", 700)
    cut.write_bytes(cut.read_bytes()[:1000])
    write(root / "test" / "good.flac", 701)

    clips = prepare(root, work)
    assert clips["split"].value_counts().to_dict() == {"train": 12, "test": 1}
    why = reasons(work)
    assert why.pop("cut.flac") == "unreadable: flac decoder lost sync"
    assert why == {
        "train/yes/empty.wav": "empty: holds no samples",
        "train/yes/inf.wav": "holds NaN or infinite samples",
        "train/yes/nan.wav": "holds NaN or infinite samples",
        "train/yes/text.wav": "unreadable: Format not recognised",
        "train/yes/two\N{REPLACEMENT CHARACTER}lines.wav": "its name holds a control character or is not UTF-8",
        "train/yes/zero.wav": "unreadable: Format not recognised",
    }
    out = capsys.readouterr().out
    assert f"rejected: 7 files, see {work / system.paths.REJECTED}" in out
    assert "  2 unreadable (train)\n    train/yes/text.wav: unreadable: Format not recognised" in out
    assert "  1 unreadable (test)\n    cut.flac: unreadable" in out
    prepare(root, work)  # tries them again
    assert "nothing has changed" in capsys.readouterr().out


def test_many_processes_write_what_one_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fill(tmp_path / "data", clips=20, suffix="flac")
    (root / "yes" / "bad.wav").touch()
    monkeypatch.setattr(preprocessing.decode, "CHUNK_FILES", 3)
    prepare(root, tmp_path / "many")
    in_one_process(monkeypatch)
    prepare(root, tmp_path / "one")
    for name in (system.paths.CLIPS, system.paths.WAVES, system.paths.REJECTED, system.paths.STORE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def test_hours_in_a_few_bytes_do_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_one_process(monkeypatch)
    monkeypatch.setattr(preprocessing.decode, "LONGEST_HOURS", 0.01)
    monkeypatch.setattr(preprocessing.decode, "BLOCK_VALUES", 1000)
    write(tmp_path / "data" / "a.flac", np.zeros(36 * RATE, np.int16))
    write(tmp_path / "data" / "b.flac", np.zeros(36 * RATE + 1, np.int16))
    clips, rejected = decode_folder(tmp_path / "data", RATE, tmp_path / "into")
    assert clips["fname"].tolist() == ["a.flac"]
    assert rejected.to_numpy().tolist() == [["b.flac", "longer than 0.01 h: cut it into clips"]]
    assert (tmp_path / "into" / system.paths.WAVES).stat().st_size == 2 * 36 * RATE


def test_decode_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    for seed, name in enumerate(["b.wav", "a.flac", "yes/deep/x.wav", "_old/x.wav", ".trash/x.wav"]):
        write(folder / name, noise(seed, 1000 + seed), 8000 if name == "b.wav" else RATE)
    (folder / "bad.mp3").write_bytes(b"?")
    clips, rejected = decode_folder(folder, RATE, tmp_path / "into")
    assert clips.columns.tolist() == ["fname", "label", "offset", "length"]
    assert clips.to_numpy().tolist() == [
        ["a.flac", "", 0, 1001],
        ["b.wav", "", 1001, 2000],
        ["yes/deep/x.wav", "yes", 3001, 1002],
    ]
    assert np.array_equal(samples_of(tmp_path / "into", clips.iloc[2]), noise(2, 1002))
    assert rejected.columns.tolist() == ["fname", "reason"]
    assert rejected["fname"].tolist() == ["bad.mp3"]
    for bad in (tmp_path / "nowhere", tmp_path / "into"):
        with pytest.raises(UserError, match=bad.name):
            decode_folder(bad, RATE, tmp_path / "into")


def test_the_sample_rate_is_the_clips_most_common_one(tmp_path: Path) -> None:
    root = fill(tmp_path / "data")
    for n in range(7):
        write(root / "yes" / f"slow{n}.wav", n + 500, 8000)
    clips = prepare(root, tmp_path / "work")
    assert preprocessing.store.load_store(tmp_path / "work")["sample_rate"] == RATE
    assert clips["sample_rate"].value_counts().to_dict() == {RATE: 12, 8000: 7}
    assert set(clips["length"][clips["sample_rate"] == 8000]) == {3200}

    # A sample of the headers decides only where it is clear: here every third file misleads.
    paths = [str(root / "yes" / ("slow0.wav" if n % 3 == 0 else "0.wav")) for n in range(3000)]
    assert preprocessing.decode.common_rate(paths) == 8000  # all of the sample, which is what makes it cheap
    paths = [str(root / "yes" / ("slow0.wav" if n % 6 == 0 else "0.wav")) for n in range(3000)]
    assert preprocessing.decode.common_rate(paths) == RATE  # half of the sample: all headers are read


def part(path: Path, start: float, end: float) -> File:
    name = part_of(path.name, start, end)
    return File("train", name, path.stat().st_size, 0, "", str(path), start=start, end=end)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("wav", {}),
        ("wav", {"subtype": "GSM610"}),  # cannot be sought
        ("flac", {}),
        ("mp3", {}),
        ("ogg", {"subtype": "VORBIS"}),
        ("ogg", {"subtype": "OPUS"}),
    ],
)
def test_a_part_of_a_file_is_that_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, options: dict[str, str]
) -> None:
    in_one_process(monkeypatch)
    monkeypatch.setattr(preprocessing.decode, "BLOCK_VALUES", 7000)
    path = write(tmp_path / f"a.{suffix}", noise(1, 48_000), RATE, **options)
    whole = decode(path, RATE, tmp_path).astype(int)
    times = [(0, 0.5), (0.0, 3.0), (1.25, 1.3), (2.0, 3.05), (0.5, 2.5), (2.6, 2.9)]
    waves = tmp_path / "parts.i16"
    audios, _ = preprocessing.decode.decode_files([part(path, *both) for both in times], RATE, waves)
    samples = np.fromfile(waves, "<i2").astype(int)
    for (start, end), audio in zip(times, audios, strict=True):
        wave = samples[audio.offset : audio.offset + audio.length]
        expected = whole[round(start * RATE) : round(end * RATE)]
        assert wave.shape == expected.shape
        assert np.abs(wave - expected).max() <= 1  # an MP3's decoder rounds otherwise after a seek


def test_a_part_is_resampled_by_itself(tmp_path: Path) -> None:
    wave = noise(2, 16_000)
    path, waves = write(tmp_path / "a.wav", wave, 8000), tmp_path / "parts.i16"
    preprocessing.decode.decode_files([part(path, 0.5, 1.5)], RATE, waves)
    expected = soxr.resample(wave[4000:12_000].astype(np.float64) / 32768, 8000, RATE, quality="HQ") * 32768
    decoded = np.fromfile(waves, "<i2")
    assert decoded.shape == expected.shape == (RATE,)
    assert np.abs(decoded - expected.clip(-32768, 32767)).max() <= 0.6


def test_a_part_that_is_not_in_its_file_is_rejected_with_both_times(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(3, 2 * RATE))
    times = [(1.9, 2.1), (1.5, 2.11), (2.0, 2.05), (7.25, 8.0), (1.0, 1.0)]
    files = [part(path, *both) for both in times]
    audios, _ = preprocessing.decode.decode_files(files, RATE, tmp_path / "parts.i16")
    assert [(audio.length, audio.reason) for audio in audios] == [
        (1600, ""),
        (0, "lies beyond its recording's end: 1.5 to 2.11 s, and that is at 2.00 s"),
        (0, "lies beyond its recording's end: 2 to 2.05 s, and that is at 2.00 s"),
        (0, "lies beyond its recording's end: 7.25 to 8 s, and that is at 2.00 s"),
        (0, "empty: holds no samples"),
    ]


def test_durations_are_the_headers(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.{suffix}", noise(n, 4000 * (n + 1)), 8000) for n, suffix in enumerate(
        ["wav", "flac", "ogg", "mp3"])]  # fmt: skip
    (tmp_path / "text.wav").write_text("text")
    names = [str(path) for path in (*paths, tmp_path / "text.wav", tmp_path / "nowhere.wav")]
    seconds = preprocessing.decode.durations(names)
    assert seconds[:4] == [0.5, 1.0, 1.5, 2.0]
    assert np.isnan(seconds[4:]).all()
    assert preprocessing.decode.durations([]) == []
