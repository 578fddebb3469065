"""Later runs, and runs after one that was killed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from sklearn.model_selection import StratifiedGroupKFold

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
from tests.preparing import (
    RATE,
    REPOSITORY,
    fill,
    fill_speakers,
    fold_of,
    in_one_process,
    noise,
    prepare,
    reasons,
    samples_of,
    sklearn_folds,
    write,
)


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
    (work / system.paths.WAVES).write_bytes(bytes(2_000_001))  # half a sample at its end
    clips = prepare(root, work)
    assert clips["offset"][0] == 1_000_001
    assert np.array_equal(samples_of(work, clips.iloc[0]), noise(0))
    assert f"delete {work / system.paths.WAVES} and run this again" in capsys.readouterr().out
    (work / system.paths.WAVES).write_bytes(bytes(1_000_000))  # less than a MiB is not worth a word
    assert fold_of(prepare(root, work)) == fold_of(clips)
    assert "to free" not in capsys.readouterr().out
    (work / system.paths.WAVES).unlink()
    prepare(root, work)
    assert (work / system.paths.WAVES).stat().st_size == 12 * 3200


def test_a_killed_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, work = fill(tmp_path / "data"), tmp_path / "work"
    in_one_process(monkeypatch)
    monkeypatch.setattr(preprocessing.decode, "CHUNK_FILES", 2)
    read_chunk = preprocessing.decode._read_chunk
    read: list[str] = []

    def dying(files: list[File], **options: Any) -> Any:
        read.extend(Path(file.path).name for file in files)
        if len(read) > 8:
            raise KeyboardInterrupt
        return read_chunk(files, **options)

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
