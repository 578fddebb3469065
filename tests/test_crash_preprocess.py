"""preprocess.py killed at each step that it takes on the disk, then run again: as if nothing had happened."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import preprocessing.decode
import preprocessing.picture
import preprocessing.store
import preprocessing.workers
import system.paths
from arg import PreprocessConfig
from preprocessing.decisions import read_record
from preprocessing.pipeline import preprocess
from system.errors import UserError
from system.files import replacing
from tests.crash import Died, dies_at

RATE = 8000


def write(root: Path, name: str, seed: int) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.random.default_rng(seed).integers(-9000, 9000, 500 + seed).astype(np.int16)
    soundfile.write(path, wave, RATE)


def draw(clips: Any, classes: list[str], sample_rate: int, path: Path) -> None:
    """A picture that shows which clips it is of, and takes no second to draw."""
    with replacing(path) as beside:
        beside.write_text(" ".join(clips["fname"]))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(preprocessing.decode, "CHUNK_FILES", 4)
    # Decoded here, so that what the decoding processes do on the disk is steps, too.
    monkeypatch.setattr(preprocessing.decode, "isolated", lambda task, chunks, lost: map(task, chunks))
    monkeypatch.setattr(preprocessing.picture, "draw_picture", draw)
    root = tmp_path / "data"
    for speaker in range(4):
        for label in ("no", "yes"):
            write(root, f"{label}/s{speaker}_nohash_0.wav", 10 * speaker + (label == "yes"))
    write(root, "_background_noise_/hum.wav", 99)
    (root / "yes" / "bad.wav").write_bytes(b"RIFF")
    return root


def outcome(work: Path) -> dict[str, Any]:
    """All that a later step reads; where in WAVES a clip lies is none of it."""
    clips, rejected = preprocessing.store.load_clips(work), preprocessing.store.load_rejected(work)
    waves = np.fromfile(work / system.paths.WAVES, "<i2")
    return {
        "clips": clips.drop(columns="offset").to_csv(),
        "rejected": rejected.to_csv(),
        "store": preprocessing.store.load_store(work),
        "samples": [waves[c.offset : c.offset + c.length].tolist() for c in clips.itertuples()],
        "picture": (work / system.paths.PICTURE).read_text(),
        "decisions": read_record(work),
        "files": sorted(path.name for path in work.iterdir()),
    }


def at_every_step(run: Callable[[], object], work: Path, before: Path | None) -> int:
    """Let `run` die at each of its steps, from what `before` holds, and go on; returns how many there are."""

    def begin() -> None:
        shutil.rmtree(work, ignore_errors=True)
        if before:
            shutil.copytree(before, work)

    begin()
    with dies_at(None, work) as steps:
        run()
    expected = outcome(work)
    for step, what in enumerate(steps):
        begin()
        with pytest.raises(Died), dies_at(step, work):
            run()
        run()
        assert outcome(work) == expected, f"step {step}: {what}"
    begin()
    for step in range(0, len(steps), 3):  # and once in a run that is killed again and again
        with contextlib.suppress(Died), dies_at(step, work):
            run()
    run()
    assert outcome(work) == expected
    return len(steps)


def test_a_first_run(root: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert at_every_step(lambda: preprocess(PreprocessConfig(root, work, folds=2, picture=True)), work, None) > 25


def test_a_later_run_with_new_and_changed_clips(root: Path, tmp_path: Path) -> None:
    """The old table must not be lost before the new one counts: known clips keep their folds."""
    work, before = tmp_path / "work", tmp_path / "before"
    preprocess(PreprocessConfig(root, before, folds=2, picture=True))
    known = dict(preprocessing.store.load_clips(before)[["fname", "fold"]].to_numpy())
    for take in range(1, 4):
        write(root, f"no/s{take}_nohash_{take}.wav", 100 + take)
    write(root, "yes/t_nohash_0.wav", 200)
    write(root, "yes/s0_nohash_0.wav", 201)
    (root / "no" / "s3_nohash_0.wav").unlink()
    assert at_every_step(lambda: preprocess(PreprocessConfig(root, work, folds=2, picture=True)), work, before) > 25
    assert all(
        known.get(name, fold) == fold
        for name, fold in preprocessing.store.load_clips(work)[["fname", "fold"]].to_numpy()
    )


def test_decisions_about_clips(root: Path, tmp_path: Path) -> None:
    """They are on record and applied, or neither; giving them again changes nothing."""
    work, before, decisions = tmp_path / "work", tmp_path / "before", tmp_path / "suspects.csv"
    preprocess(PreprocessConfig(root, before, folds=2, picture=True))
    decisions.write_text(
        "fname,label,suggested,action\nno/s1_nohash_0.wav,no,yes,relabel\nyes/s2_nohash_0.wav,yes,no,drop\n"
    )
    assert (
        at_every_step(
            lambda: preprocess(PreprocessConfig(None, work, relabel=decisions, picture=True)),
            work,
            before,
        )
        > 10
    )


def test_a_store_half_replaced_is_never_read(root: Path, tmp_path: Path) -> None:
    """At any moment what a reader finds is a whole store, the old one or the new one, or none, which it says."""
    work, before = tmp_path / "work", tmp_path / "before"
    preprocess(PreprocessConfig(root, before, folds=2, picture=True))
    write(root, "no/new_nohash_0.wav", 300)
    config = PreprocessConfig(root, work, folds=3, sample_rate=4000)
    counts = set()
    for step in range(1000):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(before, work)
        died = False
        try:
            with dies_at(step, work):
                preprocess(config)
        except Died:
            died = True
        with contextlib.suppress(UserError):
            store, clips = preprocessing.store.load_store(work), preprocessing.store.load_clips(work)
            sound = clips[clips["split"] == "train"]
            assert (store["folds"], store["sample_rate"]) == ((2, RATE) if len(sound) == 8 else (3, 4000))
            assert set(sound["fold"]) == set(range(store["folds"]))
            counts.add(len(sound))
        if not died:
            break
    assert counts == {8, 9}
