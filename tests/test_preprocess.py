"""preprocess.py as a whole: its errors, two at once, real clips."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import preprocess
import preprocessing.archives
import preprocessing.decode
import preprocessing.folds
import preprocessing.pipeline
import preprocessing.scan
import preprocessing.store
import preprocessing.workers
import system.paths
from arg import parse_preprocess
from preprocess import main
from system.errors import UserError
from tests.preparing import RATE, REPOSITORY, SHARED_DATA, fill, prepare, write


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "give the data set: -i DIR, --manifest CSV or --download NAME"),
        ("-i x --label-pattern (?P<word>.)", "mark the label in it as"),
        ("-i x --group-pattern (", "--group-pattern .: missing"),
        ("-i x --group-pattern (?P<group>.) --group none", "give one"),
        ("-i x --columns path=a", "give the --manifest that has them"),
        ("--manifest x --columns path", "use ROLE=NAME"),
        ("--manifest x --columns word=a", "--columns word=...: use path, label, group, fold, split"),
        ("--manifest x --download speech_commands_v0.01", "give one"),
    ],
)
def test_options_that_do_not_fit(options: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_preprocess(options.split())
