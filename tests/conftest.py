"""Small data sets, made or borrowed, for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: on tiny batches threads mostly wait for each other

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from numpy.typing import NDArray

import preprocessing.decode
import preprocessing.pipeline
import system.devices
import system.paths
from arg import PreprocessConfig
from preprocessing.files import find_clips
from preprocessing.pipeline import preprocess

RATE = 8000
CLASSES = ("high", "low", "sweep")
SHARED = Path(__file__).parents[2] / "shared" / "data"


def tone(kind: str, draw: np.random.Generator, seconds: float = 0.5) -> NDArray[np.float32]:
    """A clip that a tiny network can tell from the other kinds, and no two alike."""
    time = np.arange(round(seconds * RATE)) / RATE
    base = {"high": 1800.0, "low": 400.0, "sweep": 600.0}[kind] * draw.uniform(0.9, 1.1)
    phase = 2 * np.pi * (base * time + (1500 * time**2 if kind == "sweep" else 0))
    wave = 0.3 * np.sin(phase + draw.uniform(0, 6)) + 0.02 * draw.standard_normal(len(time))
    return wave.astype(np.float32)


def write_clips(root: Path, split: str, speakers: Sequence[str], takes: int, draw: np.random.Generator) -> None:
    for kind in CLASSES:
        folder = root / split / kind
        folder.mkdir(parents=True)
        for speaker in speakers:
            for take in range(takes):
                soundfile.write(folder / f"{speaker}_nohash_{take}.wav", tone(kind, draw), RATE, subtype="PCM_16")


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 training clips of three kinds by six speakers, six labelled test clips, one noise recording."""
    root = tmp_path_factory.mktemp("tones")
    draw = np.random.default_rng(0)
    write_clips(root, "train", [f"s{n}" for n in range(6)], 2, draw)
    write_clips(root, "test", ["t0", "t1"], 1, draw)
    noise = root / "train" / "_background_noise_"
    noise.mkdir()
    soundfile.write(noise / "hiss.wav", 0.05 * draw.standard_normal(2 * RATE), RATE)
    return root


@pytest.fixture(scope="session")
def store_work(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data_root`, prepared with two folds; not to be written to."""
    work = tmp_path_factory.mktemp("store")
    preprocess(PreprocessConfig(data_root, work, folds=2))
    return work


@pytest.fixture(scope="session")
def real_waves() -> NDArray[np.float32]:
    """Ten recorded words, (10, 16000), full scale 1."""
    folder = SHARED / "gsc30_sample"
    if not folder.is_dir():
        pytest.skip("needs the recorded clips of ../shared/data")
    words = sorted(path for path in folder.iterdir() if not path.name.startswith("_"))[:10]
    waves = []
    for word in words:
        wave, rate = soundfile.read(min(word.iterdir()), dtype="float32")
        assert rate == 16000
        waves.append(np.pad(wave, (0, 16000))[:16000])
    return np.stack(waves)


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True, scope="session")
def _no_bfloat16() -> Iterator[None]:
    """Plans are the same on every processor, those of fixtures that train, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(system.devices, "chip_features", frozenset)
        yield


def decode_folder(folder: Path, sample_rate: int, into: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The files under `folder` decoded to `into` as `preprocess` does it: clips and rejected files, by name."""
    files = sorted(find_clips(folder))
    table = preprocessing.pipeline._table(
        files, preprocessing.decode.decode_files(files, sample_rate, into / system.paths.WAVES)[0]
    )
    usable = table["reason"] == ""
    return (
        table.loc[usable, ["fname", "label", "offset", "length"]].reset_index(drop=True),
        table.loc[~usable, ["fname", "reason"]].reset_index(drop=True),
    )


def one_error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What a failed command left on stderr: the text of its single error line."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines
    assert lines[-1].startswith("error: ")
    assert not any("Traceback" in line for line in lines)
    return lines[-1]
