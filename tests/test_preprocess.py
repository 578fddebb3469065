"""Scanning, decoding, the audit, the folds and the store, on small generated data sets and a few real clips."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

import preprocess
import preprocessing.decode
import preprocessing.folds
import preprocessing.pipeline
import preprocessing.store
import preprocessing.workers
import system.paths
from arg import NO_LIST, PreprocessConfig
from dataset import Store
from preprocess import main
from preprocessing.files import File
from system.errors import UserError
from system.processes import HANGS
from tests.conftest import decode_folder

RATE = 16_000
REPOSITORY = Path(__file__).parents[1]
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def noise(seed: int, samples: int = 1600) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-9000, 9000, samples).astype(np.int16)


def write(path: Path, wave: NDArray[Any] | int, rate: int = RATE, **options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(wave) if isinstance(wave, int) else wave, rate, **options)
    return path


def fill(root: Path, classes: str = "no yes", clips: int = 6, suffix: str = "wav", seed: int = 0) -> Path:
    """`clips` different clips in a folder a class."""
    for c, label in enumerate(classes.split()):
        for n in range(clips):
            write(root / label / f"{n}.{suffix}", 1000 * seed + 100 * c + n)
    return root


def fill_speakers(root: Path, speakers: int = 12, classes: str = "no yes up") -> Path:
    """Each speaker says some of the words, several times."""
    rng = np.random.default_rng(5)
    for speaker in range(speakers):
        for label in classes.split():
            for n in range(rng.integers(0, 4) if speaker else 1):
                write(root / label / f"{speaker:04x}_nohash_{n}.wav", int(rng.integers(1 << 40)))
    return root


def prepare(root: Path, work: Path, **options: Any) -> Any:
    preprocessing.pipeline.preprocess(PreprocessConfig(root, work, **options))
    return preprocessing.store.load_clips(work)


def in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode here, not in other processes: there, what a test changes would not count."""
    monkeypatch.setattr(preprocessing.decode, "isolated", lambda task, chunks, lost: map(task, chunks))


def samples_of(work: Path, clip: Any) -> NDArray[np.int16]:
    return np.fromfile(work / system.paths.WAVES, "<i2")[clip.offset : clip.offset + clip.length]


def reasons(work: Path) -> dict[str, str]:
    rejected = preprocessing.store.load_rejected(work)
    return dict(zip(rejected["fname"], rejected["reason"], strict=True))


def fold_of(clips: Any) -> dict[str, int]:
    return dict(zip(clips["fname"], clips["fold"], strict=True))


# ------------------------------------------------------------------------------------------------------- layouts


def test_a_folder_a_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, work = fill(tmp_path / "data"), tmp_path / "work"
    write(root / "yes" / "deep" / "er" / "x.WAV", 900)
    write(root / "_background_noise_" / "hum.wav", noise(901, 5000))
    write(root / "_unused" / "x.wav", 902)
    write(root / ".hidden" / "x.wav", 903)
    write(root / "yes" / "._x.wav", 904)
    write(root / "loose.wav", 905)
    (root / "README.md").write_text("about")
    (root / "empty").mkdir()

    assert main(["-i", str(root), "-w", str(work)]) == 0
    clips = preprocessing.store.load_clips(work)
    yes = ["yes/0.wav", "yes/1.wav", "yes/2.wav", "yes/3.wav", "yes/4.wav", "yes/5.wav", "yes/deep/er/x.WAV"]
    assert list(clips["fname"]) == [f"no/{n}.wav" for n in range(6)] + yes + ["_background_noise_/hum.wav"]
    assert list(clips["label"]) == ["no"] * 6 + ["yes"] * 7 + [""]
    assert list(clips["split"]) == ["train"] * 13 + ["noise"]
    assert set(clips["fold"][:-1]) == {0, 1, 2, 3, 4}
    assert clips["fold"].iloc[-1] == -1
    assert not clips["group"].any()
    assert np.array_equal(samples_of(work, clips.iloc[-1]), noise(901, 5000))
    assert preprocessing.store.load_store(work) == {
        "format": 2,
        "root": str(root),
        "test_root": None,
        "sample_submission": None,
        "sample_rate": RATE,
        "clip_samples": 1600,
        "classes": ["no", "yes"],
        "folds": 5,
        "grouped": False,
        "counts": {"train": 13, "test": 0, "noise": 1},
        "options": {
            "folds": 5,
            "seed": 0,
            "group": "auto",
            "group_pattern": None,
            "label_pattern": None,
            "manifest": None,
            "columns": {},
        },
        "noise": None,
    }
    assert reasons(work) == {"loose.wav": "lies in no class folder"}
    out = capsys.readouterr().out
    assert "no groups found" in out
    assert "1 folder (empty)" in out
    assert "1 files (1 .md)" in out
    assert "1 lies in no class folder (train)" in out
    assert f"next: python train.py -w {work}" in out


def test_a_work_folder_in_the_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = fill(tmp_path / "my files" / "data")
    assert main(["-i", str(root), "-w", str(root / "work")]) == 2
    way_out = f"whose folders are classes; give another: -w '{root.with_name('work')}'"
    assert capsys.readouterr().err == f"error: -w {root / 'work'}: lies in the data set {root}, {way_out}\n"
    assert not (root / "work").exists()
    prepare(root, tmp_path / "work")
    (tmp_path / "work").rename(root / "work")  # as one that was prepared there before
    assert main(["-i", str(root), "-w", str(root / "work")]) == 0


def test_classes_called_like_columns(tmp_path: Path) -> None:
    names = "fname label id group fold split flags cluster digest index 0"
    clips = prepare(fill(tmp_path / "data", names, clips=2), tmp_path / "work", folds=2)
    assert preprocessing.store.load_store(tmp_path / "work")["classes"] == sorted(names.split())
    assert clips.groupby("label")["fold"].nunique().eq(2).all()


@pytest.mark.parametrize("inner", ["", "audio"])
@pytest.mark.parametrize("noise_folder", ["", "train", "train/audio"])
def test_train_and_test_folders(tmp_path: Path, inner: str, noise_folder: str) -> None:
    root, work = tmp_path / "data", tmp_path / "work"
    fill(root / "train" / inner)
    for n in (10, 9):
        write(root / "test" / inner / f"clip_{n}.wav", 500 + n)
    hum = write(root / noise_folder / "_background_noise_" / "hum.wav", 600)
    (root / "sample_submission.csv").write_text("fname,label\n")

    clips = prepare(root, work)
    test = clips[clips["split"] == "test"]
    assert list(test["fname"]) == ["clip_10.wav", "clip_9.wav"]  # relative to the test folder, by code point
    assert list(test["label"]) == ["", ""]
    assert list(test["fold"]) == [-1, -1]
    assert list(clips["fname"][clips["split"] == "noise"]) == [hum.relative_to(root).as_posix()]
    train = clips[clips["split"] == "train"]
    assert train["fname"].str.startswith(f"train/{inner}".rstrip("/") + "/").all()
    store = preprocessing.store.load_store(work)
    assert store["test_root"] == str(root / "test" / inner)
    assert store["sample_submission"] == str(root / "sample_submission.csv")


def test_a_labelled_test_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    fill(root / "train")
    fill(root / "test", "yes part2", clips=2, seed=1)
    fill(root / "other", "yes", clips=1, seed=2)
    clips = prepare(root, tmp_path / "work")
    test = clips[clips["split"] == "test"]
    assert dict(zip(test["fname"], test["label"], strict=True)) == {
        "part2/0.wav": "",  # as many competitions split them: no class of that name
        "part2/1.wav": "",
        "yes/0.wav": "yes",
        "yes/1.wav": "yes",
    }
    out = capsys.readouterr().out
    assert "4 test clips (2 labelled)" in out
    assert "1 label (part2)" in out
    assert "1 folder (other)" in out


def test_labels_are_text(tmp_path: Path) -> None:
    labels = ["001", "1e5", "2024-01-02", "=cmd", "NA", "Straße, \"quoted\" 'x'", "nan", "null", "true"]
    root, work = tmp_path / "data", tmp_path / "work"
    fill(root, "")
    for c, label in enumerate(labels):
        for n in range(2):
            write(root / label / f"{label}_nohash_{n}.wav", 10 * c + n)
    clips = prepare(root, work, folds=2)
    assert sorted(set(clips["label"])) == preprocessing.store.load_store(work)["classes"] == sorted(labels)
    assert list(clips["fname"].str.split("/").str[0]) == list(clips["label"]) == list(clips["group"])


def test_links_are_followed_but_not_round(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere")
    root = tmp_path / "data"
    root.mkdir()
    for label in ("no", "yes"):
        (root / label).symlink_to(tmp_path / "elsewhere" / label)
    (tmp_path / "elsewhere" / "no" / "loop").symlink_to(tmp_path / "elsewhere" / "no")
    (tmp_path / "elsewhere" / "no" / "gone.wav").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "elsewhere" / "no" / "pipe.wav")  # opening it would wait for ever
    assert len(prepare(root, tmp_path / "work")) == 12
    assert set(reasons(tmp_path / "work")) == {"no/gone.wav", "no/pipe.wav"}


# ------------------------------------------------------------------------------------------------------ decoding


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
    decoded = decode(write(tmp_path / "a.wav", wave, subtype="FLOAT"), RATE, tmp_path)
    assert decoded.tolist() == [0, 32767, 32767, -32768, -32768, 1, 2, -2]
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
        "import os, sys, pathlib, preprocessing.decode as decode; os.path.isfile = lambda path: True; "
        "decode._read_chunk(sys.argv[1:2], 8000, pathlib.Path(sys.argv[2]), patience=0.5)"
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
        return next(preprocessing.workers.isolated(eval, [f"len(bytearray({size}))"], lambda path, reason: 0))  # type: ignore[arg-type, list-item]

    assert fill(preprocessing.workers.SPARE_BYTES // 2) == preprocessing.workers.SPARE_BYTES // 2
    with pytest.raises(MemoryError):
        fill(preprocessing.workers.SPARE_BYTES + (64 << 20))


def test_what_a_task_raises_is_raised() -> None:
    with pytest.raises(TypeError, match="int"):
        list(preprocessing.workers.isolated(int, [["a"]], lambda path, reason: 0))  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):  # which is not taken for the death of the process
        list(preprocessing.workers.isolated(os.scandir, ["/nowhere"], lambda path, reason: 0))  # type: ignore[arg-type, list-item]


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


@pytest.mark.parametrize(
    ("seconds", "clip_seconds", "window"),
    [
        ([1.0] * 9 + [0.3], None, 1.0),
        ([1.0000625] * 10, None, 1.0),  # a sample too many is rounding, not length
        ([1.01] * 10, None, 1.1),
        ([1.0] * 96 + [9.0] * 4, None, 1.0),
        ([0.7] * 10, None, 0.7),  # 0.7 * 10 is 7.000000000000001 in places
        ([0.01] * 10, None, 0.1),
        ([1.0] * 10, 2.5, 2.5),
    ],
)
def test_the_window(seconds: list[float], clip_seconds: float | None, window: float) -> None:
    for rate in (8000, 16_000, 44_100, 48_000):
        lengths = np.array([round(s * rate) for s in seconds])
        assert preprocessing.pipeline._window(lengths, rate, clip_seconds) == round(window * rate)


# ------------------------------------------------------------------------------------------- duplicates and folds


def test_duplicates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, work = fill(tmp_path / "data" / "train").parent, tmp_path / "work"
    write(root / "train" / "no" / "copy.flac", noise(2))  # another container, the same samples as no/2.wav
    write(root / "train" / "no" / "both.wav", 800)
    write(root / "train" / "yes" / "both.wav", 800)
    write(root / "train" / "yes" / "again.wav", 800)
    write(root / "test" / "seen.wav", 103)  # yes/3.wav
    write(root / "test" / "twin1.wav", 801)
    write(root / "test" / "twin2.wav", 801)

    clips = prepare(root, work)
    assert reasons(work) == {
        "train/no/copy.flac": "duplicate of train/no/2.wav",  # the first by name is kept
        "train/no/both.wav": "same audio as train/yes/again.wav, labelled yes",
        "train/yes/again.wav": "same audio as train/no/both.wav, labelled no",
        "train/yes/both.wav": "same audio as train/no/both.wav, labelled no",
    }
    assert clips["split"].value_counts().to_dict() == {"train": 12, "test": 3}
    out = capsys.readouterr().out
    assert "the same audio is in train (flag in-train): 1 of 3 test clips" in out
    flags = dict(zip(clips["fname"], clips["flags"], strict=True))
    assert "in-train" in flags["seen.wav"]
    assert "in-train" not in flags["twin1.wav"]
    assert "3 same audio (train)" in out

    # They are known from now on: nothing is decoded or appended again.
    size = (work / system.paths.WAVES).stat().st_size
    prepare(root, work)
    assert "nothing has changed" in capsys.readouterr().out
    assert (work / system.paths.WAVES).stat().st_size == size


def test_near_duplicates_stay_in_one_fold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, work = tmp_path / "data", tmp_path / "work"
    for speaker in range(8):
        for label, base in (("no", 0), ("yes", 100)):
            write(root / "train" / label / f"s{speaker}_nohash_0.wav", noise(base + speaker, 8000))

    def again(name: str, seed: int) -> None:
        write(root / name, (0.5 * np.roll(noise(seed, 8000), 300)).astype(np.int16))

    again("train/no/s1_nohash_9.wav", 0)  # of s0: two speakers linked
    again("train/yes/s2_nohash_9.wav", 1)  # of a no by s1, as a yes by s2: three
    again("test/near.wav", 103)
    write(root / "test" / "other.wav", noise(200, 8000))
    clips = prepare(root, work, folds=3)
    by_name = clips.set_index("fname")
    fold = by_name["fold"]
    linked = [name for name in by_name.index if name.split("/")[-1].startswith(("s0", "s1", "s2"))]
    assert fold[linked].nunique() == 1
    assert by_name["cluster"][by_name["cluster"] != ""].to_dict() == {
        "train/no/s0_nohash_0.wav": "train/no/s0_nohash_0.wav",
        "train/no/s1_nohash_0.wav": "train/no/s1_nohash_0.wav",
        "train/no/s1_nohash_9.wav": "train/no/s0_nohash_0.wav",
        "train/yes/s2_nohash_9.wav": "train/no/s1_nohash_0.wav",
        "train/yes/s3_nohash_0.wav": "train/yes/s3_nohash_0.wav",
        "near.wav": "train/yes/s3_nohash_0.wav",
    }
    flags = by_name["flags"]
    assert flags["train/no/s1_nohash_9.wav"] == "near-duplicate"
    assert flags["train/no/s1_nohash_0.wav"] == flags["train/yes/s2_nohash_9.wav"] == "near-duplicate two-labels"
    assert flags["near.wav"] == "near-duplicate in-train"
    assert flags["other.wav"] == ""
    out = capsys.readouterr().out
    assert "checked: no group and no duplicate is in two folds" in out
    assert "the same audio is in train (flag in-train): 1 of 2 test clips" in out
    assert "flagged, and kept: 6 near-duplicate, 2 two-labels, 1 in-train" in out
    assert "near duplicates: 6 clips in 3 clusters" in out
    assert [line.split()[-1] for line in out.splitlines()[3:6]] == ["18", "2", "6"]  # all, classes, groups

    # A copy that links two folds: the clips of the smaller part leave theirs, and that is said.
    first, second = (next(n for n in ("s3", "s4", "s5", "s6", "s7") if fold[f"train/no/{n}_nohash_0.wav"] == f) for f in
                     sorted(set(fold[fold >= 0]) - {fold[linked[0]]}))  # fmt: skip
    again(f"train/no/{first}_nohash_8.wav", int(second[1]))
    after = prepare(root, work, folds=3).set_index("fname")["fold"]
    assert after[f"train/no/{first}_nohash_8.wav"] == after[f"train/no/{second}_nohash_0.wav"]
    assert "clips that left their fold, so that groups and duplicates stay on one side: " in capsys.readouterr().out


def test_near_duplicates_that_leave_nothing_to_hold_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, work = fill_speakers(tmp_path / "data"), tmp_path / "work"
    for speaker in range(12):  # one beep, which all know
        write(root / "up" / f"{speaker:04x}_nohash_9.wav", np.roll(noise(7, 8000), 100 * speaker))
    write(root / "no" / "0003_nohash_9.wav", np.roll(noise(8, 8000), 100))
    write(root / "no" / "0004_nohash_9.wav", noise(8, 8000))
    clips = prepare(root, work)
    assert clips["cluster"].value_counts().tolist()[1:] == [12, 2]
    assert clips.groupby("group")["fold"].nunique().max() == 1
    fold = fold_of(clips)
    assert fold["no/0003_nohash_9.wav"] == fold["no/0004_nohash_9.wav"]
    out = capsys.readouterr().out
    assert "checked: no group and no duplicate is in two folds but 1 clusters, see below" in out
    assert "leave too little to hold out: 12 clips in 1 cluster (up/0000_nohash_9.wav)" in out


def test_an_unchanged_data_set_is_not_searched_for_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    root, work = fill(tmp_path / "data"), tmp_path / "work"
    (root / "yes" / "bad.wav").touch()  # tried again each time
    clips = prepare(root, work)
    monkeypatch.setattr(preprocessing.duplicates, "near_duplicates", None)
    assert prepare(root, work).equals(clips)
    write(root / "yes" / "new.wav", 777)
    with pytest.raises(TypeError):
        prepare(root, work)


def test_too_few_groups_make_fewer_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n, name in enumerate(["yes/s_nohash_0.wav", "no/s_nohash_1.wav", "no/t_nohash_0.wav"]):
        write(tmp_path / "data" / name, n)
    clips = prepare(tmp_path / "data", tmp_path / "work", folds=3)
    assert sorted(clips.groupby("group")["fold"].first()) == [0, 1]
    assert preprocessing.store.load_store(tmp_path / "work")["folds"] == 2
    assert "2 folds, not 3: there are no more groups to hold out" in capsys.readouterr().out
    prepare(tmp_path / "data", tmp_path / "work", folds=3)
    assert "nothing has changed" in capsys.readouterr().out

    write(tmp_path / "data" / "no" / "u_nohash_0.wav", 9)  # and more folds where there are more groups
    more = prepare(tmp_path / "data", tmp_path / "work", folds=3)
    assert set(more["fold"]) == {0, 1, 2}
    assert fold_of(clips).items() <= fold_of(more).items()
    (tmp_path / "data" / "no" / "t_nohash_0.wav").unlink()
    assert set(prepare(tmp_path / "data", tmp_path / "work", folds=3)["fold"]) == {0, 1}


def test_a_manifest_gives_groups_and_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = fill(tmp_path / "data", clips=4)
    rows = [f"{label}/{n}.wav,{label},{n % 3},{n % 2}" for label in ("no", "yes") for n in range(4)]
    (root / "all.csv").write_text("\n".join(["path,label,speaker,fold", *rows]))
    clips = prepare(root, tmp_path / "work", manifest=root / "all.csv")
    assert clips["group"].tolist() == ["0", "1", "2", "0"] * 2
    # Speaker 0 has as many clips in fold 0 as in fold 1: all go to the first.
    assert clips["fold"].tolist() == [0, 1, 0, 0] * 2
    assert "clips that left their fold, so that groups and duplicates stay on one side: 2" in capsys.readouterr().out
    clips = prepare(root, tmp_path / "work", manifest=root / "all.csv", group="none")
    assert clips["fold"].tolist() == [0, 1, 0, 1] * 2


def test_other_options_keep_the_audio_but_not_the_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = fill_speakers(tmp_path / "data")
    prepare(root, tmp_path / "work")
    capsys.readouterr()
    clips = prepare(root, tmp_path / "work", group_pattern=r"(?P<group>.)_nohash")
    assert "0 new or changed" in capsys.readouterr().out
    assert clips["group"].str.len().max() == 1
    assert clips.groupby("group")["fold"].nunique().max() == 1


def sklearn_folds(splitter: Any, clips: Any) -> list[int]:
    grouped = clips["group"].any()
    units = clips["group"].where(clips["group"] != "", clips["fname"]) if grouped else None
    fold = np.full(len(clips), -1)
    for index, (_, held_out) in enumerate(splitter.split(clips["fname"], clips["label"], units)):
        fold[held_out] = index
    return fold.tolist()


def test_folds_are_scikit_learns_and_keep_speakers_together(tmp_path: Path) -> None:
    root = fill_speakers(tmp_path / "data")
    write(root / "yes" / "anonymous.wav", 1)
    clips = prepare(root, tmp_path / "work", folds=3, seed=7)
    assert clips["group"].tolist() == [
        name.split("/")[1].split("_nohash_")[0] if "_nohash_" in name else "" for name in clips["fname"]
    ]
    splitter = StratifiedGroupKFold(3, shuffle=True, random_state=7)
    assert clips["fold"].tolist() == sklearn_folds(splitter, clips)
    assert clips[clips["group"] != ""].groupby("group")["fold"].nunique().max() == 1
    assert preprocessing.store.load_store(tmp_path / "work")["grouped"] is True

    clips = prepare(root, tmp_path / "work", folds=3, seed=7, group="none")
    assert not clips["group"].any()
    assert clips["fold"].tolist() == sklearn_folds(StratifiedKFold(3, shuffle=True, random_state=7), clips)
    assert preprocessing.store.load_store(tmp_path / "work")["grouped"] is False


def test_the_same_seed_gives_the_same_table_in_another_folder(tmp_path: Path) -> None:
    root = fill_speakers(tmp_path / "data")
    for work, seed in (("a", 3), ("b", 3), ("c", 4)):
        prepare(root, tmp_path / work, seed=seed)
    a, b, c = ((tmp_path / work / system.paths.CLIPS).read_bytes() for work in "abc")
    assert a == b != c


@pytest.mark.filterwarnings("error")
def test_a_class_with_few_speakers_is_split_as_well_as_may_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = fill_speakers(tmp_path / "data")
    for n in range(8):
        write(root / "rare" / f"000{n % 2}_nohash_{n}.wav", n)  # two speakers for five folds
    clips = prepare(root, tmp_path / "work")
    assert clips.groupby("group")["fold"].nunique().max() == 1
    assert clips[clips["label"] == "rare"]["fold"].nunique() == 2
    captured = capsys.readouterr()
    assert "fewer groups than folds, so some folds hold none: 1 class (rare)" in captured.out
    assert not captured.err


def test_every_class_smaller_than_the_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = prepare(fill(tmp_path / "data", "a b c", clips=3), tmp_path / "work", folds=4)
    assert sorted(np.bincount(clips["fold"])) == [2, 2, 2, 3]
    assert clips.groupby(["label", "fold"]).size().max() == 1
    assert "fewer clips than folds, so some folds hold none: 3 classes (a, b, c)" in capsys.readouterr().out


def components(clips: Any) -> Any:
    """Clips joined by a group or a cluster, found the slow way."""
    import pandas as pd

    unit = list(range(len(clips)))
    for key in ("group", "cluster"):
        first: dict[str, int] = {}
        for row, value in enumerate(clips[key]):
            if value:
                old, new = unit[row], unit[first.setdefault(value, row)]
                unit = [new if u == old else u for u in unit]
    return pd.Series(unit)


def test_assigning_folds_keeps_what_it_promises_on_random_tables() -> None:
    import pandas as pd

    rng = np.random.default_rng(0)
    for _ in range(60):
        n, folds = int(rng.integers(6, 80)), int(rng.integers(2, 6))
        group = [f"s{g}" if g < 30 else "" for g in rng.integers(0, 40, n)]
        label = [f"c{c}" for c in rng.integers(0, rng.integers(2, 9), n)]
        cluster = [f"n{c}" if c < 5 else "" for c in rng.integers(0, 60, n)]
        names = [f"{i:03}.wav" for i in range(n)]
        clips = pd.DataFrame({"fname": names, "label": label, "group": group, "cluster": cluster})
        unit = components(clips)
        if unit.nunique() < folds:
            continue
        assert clips.groupby(preprocessing.folds.units_of(clips)).ngroup().nunique() == unit.nunique()
        fold = preprocessing.folds.assign_folds(clips, folds, 0, {})
        assert set(fold) == set(range(folds))
        assert pd.Series(fold).groupby(unit).nunique().max() == 1
        # Forget the folds of some clips: the others keep theirs, and no group is torn apart.
        known = {name: int(f) for name, f in zip(clips["fname"], fold, strict=True) if rng.random() < 0.8}
        if set(known.values()) != set(range(folds)):
            continue
        again = preprocessing.folds.assign_folds(clips, folds, 99, known)
        assert all(again[i] == known[name] for i, name in enumerate(clips["fname"]) if name in known)
        assert pd.Series(again).groupby(unit).nunique().max() == 1


def test_new_clips_go_where_their_class_is_rarest() -> None:
    import pandas as pd

    names = [f"{n:02}" for n in range(9)]
    clips = pd.DataFrame({"fname": names, "label": ["a"] * 3 + ["b"] * 6, "group": "", "cluster": ""})
    known = {"00": 0, "01": 1, "03": 0, "04": 0, "05": 1, "06": 2}
    # "02", the third a, goes to the fold without one; the new b's fill folds 1 and 2 up to the two of fold 0.
    assert preprocessing.folds.assign_folds(clips, 3, 0, known).tolist() == [0, 1, 2, 0, 0, 1, 2, 1, 2]


# --------------------------------------------------------------------------------------------------- later runs


def test_a_later_run_decodes_what_is_new_and_keeps_the_folds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, work = fill_speakers(tmp_path / "data"), tmp_path / "work"
    before = prepare(root, work)
    assert f"{len(before)} new or changed of {len(before)} files decoded" in capsys.readouterr().out
    waves = (work / system.paths.WAVES).read_bytes()

    write(root / "yes" / "0003_nohash_9.wav", 1)  # a new clip of a known speaker
    write(root / "yes" / "ffff_nohash_0.wav", 2)  # a new speaker
    changed, gone = before["fname"][3], before["fname"][5]
    write(root / changed, noise(3, 2000))
    (root / gone).unlink()
    after = prepare(root, work)
    assert f"3 new or changed of {len(before) + 1} files decoded" in capsys.readouterr().out
    assert (work / system.paths.WAVES).read_bytes()[: len(waves)] == waves
    assert (work / system.paths.WAVES).stat().st_size == len(waves) + 2 * (1600 + 1600 + 2000)
    assert set(after["fname"]) - set(before["fname"]) == {"yes/0003_nohash_9.wav", "yes/ffff_nohash_0.wav"}
    assert set(before["fname"]) - set(after["fname"]) == {gone}
    old, new = fold_of(before), fold_of(after)
    assert all(old[name] == new[name] for name in old.keys() & new.keys())
    assert after.groupby("group")["fold"].nunique().max() == 1
    for clip in after.itertuples():
        assert np.array_equal(samples_of(work, clip), soundfile.read(root / clip.fname, dtype="int16")[0])

    table = (work / system.paths.CLIPS).read_bytes()
    stamp = (work / system.paths.CLIPS).stat().st_mtime_ns
    prepare(root, work)
    assert "nothing has changed" in capsys.readouterr().out
    assert ((work / system.paths.CLIPS).read_bytes(), (work / system.paths.CLIPS).stat().st_mtime_ns) == (table, stamp)

    fresh = prepare(root, work, seed=1)  # another seed: a new assignment, and nothing decoded
    assert "0 new or changed" in capsys.readouterr().out
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=1)
    assert fresh["fold"].tolist() == sklearn_folds(splitter, fresh)


def test_a_folder_of_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, work, street = fill(tmp_path / "data"), tmp_path / "work", tmp_path / "street"
    write(root / "_background_noise_" / "hum.wav", 900)
    before, folds_hash = prepare(root, work, folds=3), Store.open(work).folds_hash
    long = write(street / "night" / "hum.wav", noise(901, 90 * RATE))  # longer than any clip
    slow = write(street / "hum.flac", noise(902, 8000), 8000)  # at another sample rate
    write(street / "copy.wav", 0)  # a training clip's samples: no duplicate of it
    bad = street / "bad.wav"
    bad.write_bytes(b"RIFF")
    capsys.readouterr()

    assert main(["--noise", str(street), "-w", str(work)]) == 0
    out = capsys.readouterr().out
    assert "4 new or changed of 17 files decoded" in out
    assert "12 clips of 2 classes to train on, 0 test clips (0 labelled), 4 noise recordings" in out
    clips = preprocessing.store.load_clips(work)
    assert list(clips["fname"][12:]) == [*(str(street / n) for n in ("copy.wav", "hum.flac", "night/hum.wav")),
                                         "_background_noise_/hum.wav"]  # fmt: skip
    assert set(clips["split"][12:]) == {"noise"}
    assert np.array_equal(samples_of(work, clips.iloc[14]), noise(901, 90 * RATE))
    assert clips["length"][13] == RATE
    assert list(reasons(work)) == [str(bad)]
    assert clips[:12].equals(before[:12])
    store = Store.open(work)
    assert (store.folds, store.folds_hash, store.classes) == (3, folds_hash, ("no", "yes"))
    assert len(store.noise()) == 90 * RATE + RATE + 1600 + 1600

    write(slow, noise(903, 4000), 8000)  # changed, removed, and mended by now
    long.unlink()
    write(bad, 904)
    preprocessing.pipeline.preprocess(PreprocessConfig(None, work, relabel=NO_LIST))  # the folder is on record
    assert "2 new or changed of 16 files decoded" in capsys.readouterr().out
    assert list(preprocessing.store.load_clips(work)["length"][12:]) == [1600, 1600, 8000, 1600]
    assert not reasons(work)
    main(["--noise", str(street), "-w", str(work)])
    assert "nothing has changed" in capsys.readouterr().out

    street.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"--noise .*street: no such folder"):
        preprocessing.pipeline.preprocess(PreprocessConfig(None, work, relabel=NO_LIST))
    assert prepare(root, work, folds=3).equals(before)  # -i alone: as it was
    assert main(["--noise", str(tmp_path / "moved"), "-w", str(work), "--seed", "1"]) == 2
    assert "--seed: give -i too; --noise alone keeps the options of the last run" in capsys.readouterr().err


def test_the_sample_rate_stays_until_it_is_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, work = fill(tmp_path / "data"), tmp_path / "work"
    folds = fold_of(prepare(root, work, sample_rate=8000))
    assert set(prepare(root, work)["length"]) == {800}
    capsys.readouterr()
    clips = prepare(root, work, sample_rate=RATE, clip_seconds=0.5)
    assert "12 new or changed" in capsys.readouterr().out
    assert np.array_equal(samples_of(work, clips.iloc[0]), noise(0))
    assert fold_of(clips) == folds
    assert preprocessing.store.load_store(work)["clip_samples"] == 8000


def test_a_damaged_or_foreign_store_is_made_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, work = fill(tmp_path / "data"), tmp_path / "work"
    clips = prepare(root, work)

    def damage(name: str, content: bytes, culprit: str) -> None:
        (work / name).write_bytes(content)
        if name in (system.paths.STORE, system.paths.CLIPS):
            with pytest.raises(UserError, match=r"(?s)\.(json|csv) .*run python preprocess.py -i DATASET -w"):
                preprocessing.store.load_store(work), preprocessing.store.load_clips(work)
        capsys.readouterr()
        again = prepare(root, work)
        out = capsys.readouterr().out
        assert "everything is decoded anew" in out
        assert culprit in out
        assert fold_of(again) == fold_of(clips)
        assert np.array_equal(samples_of(work, again.iloc[7]), noise(101))

    damage(system.paths.WAVES, (work / system.paths.WAVES).read_bytes()[:-1], "shorter")
    damage(system.paths.STORE, b"{", "cannot be read")
    damage(system.paths.STORE, b"[]", "not a JSON object")
    damage(system.paths.STORE, json.dumps({"format": 1}).encode(), "format 1")
    damage(system.paths.CLIPS, b"fname,label\na,b\n", "columns")
    damage(system.paths.CLIPS, b"", "cannot be read")

    shutil.copytree(root, tmp_path / "moved")  # same names and sizes, but nothing says that it is the same audio
    prepare(tmp_path / "moved", work)
    assert f"held {root}" in capsys.readouterr().out

    empty = tmp_path / "empty"
    for load in (preprocessing.store.load_store, preprocessing.store.load_clips, preprocessing.store.load_rejected):
        with pytest.raises(UserError, match="is missing: run python preprocess"):
            load(empty)


def test_what_a_killed_run_left_behind_does_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, work = fill(tmp_path / "data"), tmp_path / "work"
    work.mkdir()
    (work / system.paths.WAVES).write_bytes(bytes(100_001))  # half a sample at its end
    clips = prepare(root, work)
    assert clips["offset"][0] == 50_001
    assert np.array_equal(samples_of(work, clips.iloc[0]), noise(0))
    assert f"delete {work / system.paths.WAVES} and run this again" in capsys.readouterr().out
    (work / system.paths.WAVES).unlink()
    assert fold_of(prepare(root, work)) == fold_of(clips)
    assert (work / system.paths.WAVES).stat().st_size == 12 * 3200


def test_a_killed_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, work = fill(tmp_path / "data"), tmp_path / "work"
    in_one_process(monkeypatch)
    monkeypatch.setattr(preprocessing.decode, "CHUNK_FILES", 2)
    read_chunk = preprocessing.decode._read_chunk
    read: list[str] = []

    def dying(paths: list[str], **options: Any) -> Any:
        read.extend(Path(path).name for path in paths)
        if len(read) > 8:
            raise KeyboardInterrupt
        return read_chunk(paths, **options)

    monkeypatch.setattr(preprocessing.decode, "_read_chunk", dying)
    with pytest.raises(KeyboardInterrupt):
        prepare(root, work)
    assert len(read) == 10  # the last chunk of two was not finished
    (work / system.paths.WAVES).write_bytes(
        (work / system.paths.WAVES).read_bytes()[:-100] + bytes(101)
    )  # one clip has not come to disk
    with (work / system.paths.JOURNAL).open("a") as journal:
        journal.write('\n[[["train", "yes/9')  # cut off
    write(root / "no" / "1.wav", 50)  # changed since
    monkeypatch.setattr(preprocessing.decode, "_read_chunk", read_chunk)
    clips = prepare(root, work)
    assert "6 new or changed of 12 files decoded" in capsys.readouterr().out
    for clip in clips.itertuples():
        assert np.array_equal(samples_of(work, clip), soundfile.read(root / clip.fname, dtype="int16")[0])
    assert not (work / system.paths.JOURNAL).exists()
    prepare(root, work)
    assert "nothing has changed" in capsys.readouterr().out


def test_what_a_killed_process_has_decoded_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, work = fill(tmp_path / "data", clips=100), tmp_path / "work"
    command = [sys.executable, str(REPOSITORY / "preprocess.py"), "-i", str(root), "-w", str(work)]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while run.poll() is None and not (
        (journal := work / system.paths.JOURNAL).exists() and journal.stat().st_size > 1000
    ):
        time.sleep(0.001)
    run.kill()
    run.wait()
    resumed = (work / system.paths.JOURNAL).exists()  # else it was faster than this test
    assert len(prepare(root, work)) == 200
    new = int(capsys.readouterr().out.partition(" new or changed")[0].rpartition("\n")[2] or 0)
    assert new < 200 or not resumed


def test_two_runs_at_once(tmp_path: Path) -> None:
    root, work = fill(tmp_path / "data"), tmp_path / "work"
    command = [sys.executable, str(REPOSITORY / "preprocess.py"), "-i", str(root), "-w", str(work)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [run.communicate(timeout=60)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert sorted("nothing has changed" in output for output in outputs) == [False, True]
    assert (work / system.paths.WAVES).stat().st_size == 12 * 3200


def test_a_script_without_a_main_guard(tmp_path: Path) -> None:
    """It runs once: decoding processes do not import it, to wait there for the lock that it holds."""
    root, work, script = fill(tmp_path / "data"), tmp_path / "work", tmp_path / "script.py"
    script.write_text(f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(REPOSITORY)!r})
from arg import PreprocessConfig
from preprocessing.pipeline import preprocess
print("once")
preprocess(PreprocessConfig(Path({str(root)!r}), Path({str(work)!r})))
""")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("once") == 1
    assert len(preprocessing.store.load_clips(work)) == 12


# -------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("files", "folds", "message"),
    [
        ([], 5, "no clips found"),
        (["a.wav", "b.wav"], 5, "no clips found in class folders"),
        (["train/a.wav", "test/b.wav"], 5, "train: no clips found in class folders"),  # not classes train and test
        (["yes/a.wav", "yes/b.wav"], 2, "the only class is 'yes'"),
        (["yes/s_nohash_0.wav", "no/s_nohash_1.wav"], 3, "all clips are of one group"),
        (["yes/a.wav", "yes/b.wav", "no/bad.wav"], 2, "fewer than 2 classes have a usable clip .no/bad.wav: unread"),
        (["yes/bad.wav", "no/bad.wav"], 2, "none of the 2 clips can be read"),
    ],
)
def test_errors_name_the_culprit(tmp_path: Path, files: list[str], folds: int, message: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for n, name in enumerate(files):
        path = write(root / name, n)
        if path.name == "bad.wav":
            path.write_bytes(b"bad")
    with pytest.raises(UserError, match=message):
        prepare(root, tmp_path / "work", folds=folds)


def test_main(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "missing"
    assert preprocess.main(["-i", str(missing), "-w", str(tmp_path / "work")]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"error: {missing}: no such folder; give a folder that holds a folder a class")
    assert not (tmp_path / "work").exists()

    root = fill(tmp_path / "data")
    (tmp_path / "file").touch()
    assert preprocess.main(["-i", str(root), "-w", str(tmp_path / "file")]) == 2  # the work folder is a file
    assert capsys.readouterr().err.count("\n") == 1
    assert preprocess.main(["-i", str(root), "-w", str(tmp_path / "work"), "-k", "3"]) == 0
    assert set(preprocessing.store.load_clips(tmp_path / "work")["fold"]) == {0, 1, 2}


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = "import sys, preprocess; print([m for m in ('torch', 'pandas', 'sklearn', 'soundfile') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=REPOSITORY, text=True).strip() == "[]"


# ---------------------------------------------------------------------------------------------------- real clips


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"{SHARED_DATA} is missing")
def test_real_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = SHARED_DATA / "gsc30_sample"
    clips = prepare(root, tmp_path)
    store = preprocessing.store.load_store(tmp_path)
    assert store["counts"] == {"train": 300, "test": 0, "noise": 2}
    assert len(store["classes"]) == 30
    assert (store["sample_rate"], store["clip_samples"], store["grouped"]) == (RATE, RATE, True)
    train = clips[clips["split"] == "train"]
    assert train.groupby("group")["fold"].nunique().max() == 1
    waves = np.fromfile(tmp_path / system.paths.WAVES, "<i2")
    assert len(waves) == clips["length"].sum()  # each clip once
    for clip in clips.iloc[::25].itertuples():
        expected = soundfile.read(root / clip.fname, dtype="int16")[0]
        assert np.array_equal(waves[clip.offset : clip.offset + clip.length], expected)
    assert "checked: no group and no duplicate is in two folds" in capsys.readouterr().out
