"""Float samples: their full scale, and what goes beyond it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

import system.paths
from preprocessing.files import File
from preprocessing.fullscale import full_scales
from preprocessing.store import load_clips, load_store
from system.errors import UserError
from tests.preparing import RATE, prepare, reasons, samples_of, voice, write
from tests.test_decode import decode


def wave(seed: int) -> NDArray[np.float32]:
    """Full scale 1, a peak of 0.5."""
    samples = voice(seed, 0.2).astype(np.float32)
    return samples / np.abs(samples).max() / 2


def fill_floats(root: Path, scale: dict[str, float] | float, suffix: str = "wav", **options: str) -> Path:
    """Eight clips; those that `scale` does not name are as they should be."""
    options = {"subtype": "FLOAT"} | options
    for n in range(8):
        name = f"{'no' if n % 2 else 'yes'}/{n}"
        factor = scale.get(name, 1.0) if isinstance(scale, dict) else scale
        write(root / f"{name}.{suffix}", wave(n) * np.float32(factor), RATE, **options)
    return root


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("wav", {}),
        ("wav", {"subtype": "DOUBLE"}),
        ("aiff", {}),
        ("caf", {"subtype": "DOUBLE"}),
        ("w64", {}),
        ("rf64", {"format": "RF64"}),
    ],
)
def test_sixteen_bit_numbers_stored_as_floats_are_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, options: dict[str, str]
) -> None:
    clips = prepare(fill_floats(tmp_path / "data", 32768, suffix, **options), tmp_path / "work", folds=2)
    said = "warning: float samples of train files are divided by 32,768: they go up to 16,384 (8 looked at)"
    assert said in capsys.readouterr().out
    assert load_store(tmp_path / "work")["full_scale"] == {"train": 32768.0}
    for clip in clips.itertuples():
        expected = np.rint(wave(int(Path(clip.fname).stem)) * 32768)
        assert np.array_equal(samples_of(tmp_path / "work", clip), expected)
        assert "clipped" not in clip.flags


def test_sound_as_it_should_be_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = fill_floats(tmp_path / "data", {"yes/0": 0.001, "no/1": 2.0})
    over = wave(20)
    over[100:103] = 1.5, -2.0, 1.2  # three of 3,200
    write(root / "no" / "over.wav", over, subtype="FLOAT")
    clips = prepare(root, tmp_path / "work", folds=2)
    assert len(clips) == 9
    assert "divided" not in capsys.readouterr().out
    assert load_store(tmp_path / "work")["full_scale"] == {"train": 1.0}
    clip = clips[clips["fname"] == "no/over.wav"].iloc[0]
    assert np.array_equal(samples_of(tmp_path / "work", clip)[100:103], [32767, -32768, 32767])


def test_one_that_goes_beyond_among_others_is_rejected(tmp_path: Path) -> None:
    root = fill_floats(tmp_path / "data", {"yes/0": 32768, "no/1": 2_000_000, "yes/2": 8.0})
    prepare(root, tmp_path / "work", folds=2)
    end = ": save them scaled to that, or as 16-bit integers"
    assert reasons(tmp_path / "work") == {
        "yes/0.wav": f"float samples beyond \N{PLUS-MINUS SIGN}1, the full scale (peak 16,384){end}",
        "no/1.wav": f"float samples beyond \N{PLUS-MINUS SIGN}1, the full scale (peak 1,000,000){end}",
        "yes/2.wav": f"float samples beyond \N{PLUS-MINUS SIGN}1, the full scale (peak 4){end}",
    }


@pytest.mark.parametrize(
    "scale",
    [
        2**23,  # 24-bit numbers
        {"yes/0": 32768, "no/1": 32768},  # two of eight
        9.0,  # divided by their standard deviation, for one
    ],
)
def test_what_is_not_plain_is_not_scaled(tmp_path: Path, scale: Any) -> None:
    root = fill_floats(tmp_path / "data", scale)
    for n in range(4):  # integers are no evidence
        write(root / ("no" if n % 2 else "yes") / f"whole {n}.wav", 50 + n)
    clips = prepare(root, tmp_path / "work", folds=2)
    beyond = 8 if not isinstance(scale, dict) else len(scale)
    assert len(clips) == 12 - beyond
    assert len(reasons(tmp_path / "work")) == beyond
    assert all("float samples beyond" in reason for reason in reasons(tmp_path / "work").values())


def test_silence_says_nothing_and_a_contradiction_is_rejected(tmp_path: Path) -> None:
    root = fill_floats(tmp_path / "data", 30_000)
    write(root / "no" / "silence.wav", np.zeros(3200), subtype="FLOAT")
    write(root / "yes" / "last bit.wav", np.tile([0.0, 1.0, -1.0], 1000), subtype="FLOAT")
    write(root / "yes" / "nan.wav", np.append(wave(30), np.nan), subtype="FLOAT")
    clips = prepare(root, tmp_path / "work", folds=2)
    assert set(clips.loc[clips["flags"].str.contains("silent"), "fname"]) == {"no/silence.wav", "yes/last bit.wav"}
    assert reasons(tmp_path / "work") == {"yes/nan.wav": "holds NaN or infinite samples"}
    decided = full_scales({"train": [File("train", "", 0, 0, "", str(p)) for p in (root / "no").glob("silence.wav")]})
    assert decided == ({"train": 1.0}, [])


def test_what_the_sample_missed_contradicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocessing.fullscale.FILES", 4)  # every other one
    root = fill_floats(tmp_path / "data", 32768)
    write(root / "no" / "7.wav", wave(7), subtype="FLOAT")
    write(root / "yes" / "6.wav", 3e6 * wave(6), subtype="FLOAT")
    prepare(root, tmp_path / "work", folds=2)
    why = reasons(tmp_path / "work")
    assert why["no/7.wav"] == (
        "float samples within \N{PLUS-MINUS SIGN}1 (peak 0.5) beside files whose full scale is 32,768: save all alike"
    )
    assert why["yes/6.wav"].startswith(
        "float samples beyond \N{PLUS-MINUS SIGN}32,768, the full scale (peak 1,500,000)"
    )
    assert len(why) == 2


def test_a_decision_that_changes_decodes_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, work = fill_floats(tmp_path / "data", 32768), tmp_path / "work"
    before = prepare(root, work, folds=2)
    capsys.readouterr()
    prepare(root, work, folds=2)
    assert "nothing has changed" in capsys.readouterr().out
    write(root / "no" / "again.wav", wave(40) * 32768, subtype="FLOAT")
    prepare(root, work, folds=2)
    assert "1 new or changed of 9 files decoded" in capsys.readouterr().out
    for n in range(4):  # as they should be: now the old ones are wrong
        write(root / ("no" if n % 2 else "yes") / f"good {n}.wav", wave(50 + n), subtype="FLOAT")
    after = prepare(root, work, folds=2)
    assert set(after["fname"]) == {f"{'no' if n % 2 else 'yes'}/good {n}.wav" for n in range(4)}
    assert len(reasons(work)) == 9
    assert len(before) == 8


def test_the_square_waves_of_an_older_store_are_mended(tmp_path: Path) -> None:
    root, work = fill_floats(tmp_path / "data", 32768), tmp_path / "work"
    right = prepare(root, work, folds=2)
    store = json.loads((work / system.paths.STORE).read_text())
    del store["full_scale"]  # as an older version left it, with what it made of the samples
    (work / system.paths.STORE).write_text(json.dumps(store))
    table = load_clips(work).assign(clipped=0.99, digest="x")
    table.to_csv(work / system.paths.CLIPS, index=False, lineterminator="\n")
    again = prepare(root, work, folds=2)
    assert again["digest"].tolist() == right["digest"].tolist()
    assert load_store(work)["full_scale"] == {"train": 32768.0}


def test_a_data_set_of_nothing_else_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"fewer than 2 classes have a usable clip \(.*peak 4,194,304"):
        prepare(fill_floats(tmp_path / "data", 2**23), tmp_path / "work")


@pytest.mark.parametrize("options", [{"format": "MP3"}, {"format": "OGG"}])
def test_what_a_lossy_codec_decodes_beyond_full_scale_is_clipped(tmp_path: Path, options: dict[str, str]) -> None:
    square = np.sign(np.sin(np.arange(3200) / 5)).astype(np.float32)
    path = write(tmp_path / "a.ogg", square, RATE, **options)
    expected = soundfile.read(path)[0]
    assert (np.abs(expected) > 1).mean() > 0.1
    decoded = decode(path, RATE, tmp_path)
    assert np.abs(decoded - (expected * 32768).clip(-32768, 32767)).max() <= 0.51
