"""Times in a manifest cut clips out of recordings, unless they are times in other recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import preprocessing.store
from preprocessing.times import seconds
from tests.preparing import RATE, noise, prepare, reasons, samples_of, write
from tests.test_audiofile import encode, second


def recordings(root: Path, count: int = 4, seconds: float = 1.0) -> dict[str, NDArray[np.int16]]:
    waves = {f"r{n}.wav": noise(50 + n, round(seconds * RATE)) for n in range(count)}
    for name, wave in waves.items():
        write(root / name, wave)
    return waves


def table(root: Path, header: str, rows: list[str], name: str = "m.csv") -> Path:
    path = root / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    ("cell", "time"),
    [
        ("65", 65),
        ("65.5", 65.5),
        ("65,5", 65.5),
        ("0:01:05", 65),
        ("1:05.25", 65.25),
        (".5", 0.5),
        ("2s", 2),
        ("1e1", 10),
    ]
    + [(cell, None) for cell in ("", "x", "-1", "nan", "inf", "1:2:3:4", "00:00:01,5x")],
)
def test_a_time_as_people_write_it(cell: str, time: float | None) -> None:
    assert seconds(cell) == time


@pytest.mark.parametrize(
    "header",
    [
        "start_time,end_time",
        "start,end",
        "onset,offset",
        "Begin Time (s),End Time (s)",
        "begin_time,end_time",
        "tmin,tmax",
        "offset,duration",
        "onset,duration",
        "startTime,Duration",
        "start_ms,end_ms",
        "Start (ms),duration (ms)",
    ],
)
def test_clips_are_cut_out_of_recordings(tmp_path: Path, header: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    waves = recordings(root)
    by_duration = "uration" in header
    cells = [(0.1, 0.2 if by_duration else 0.3), (0.25, 0.5 if by_duration else 0.75)]
    unit = 1000 if "ms" in header else 1
    rows = [f"{name},{'yn'[k]},{start * unit},{end * unit}" for name in waves for k, (start, end) in enumerate(cells)]
    clips = prepare(root, tmp_path / "work", manifest=table(root, f"path,label,{header}", rows), folds=2)
    assert clips["fname"].tolist() == [f"r{n}.wav#t={part}" for n in range(4) for part in ("0.1,0.3", "0.25,0.75")]
    assert clips["label"].tolist() == ["y", "n"] * 4
    assert clips["group"].tolist() == [name for name in waves for _ in range(2)]
    assert clips.groupby("group")["fold"].nunique().max() == 1
    for clip in clips.itertuples():
        start, end = (round(float(time) * RATE) for time in clip.fname.partition("#t=")[2].split(","))
        assert np.array_equal(samples_of(tmp_path / "work", clip), waves[clip.group][start:end])
    assert "clips that are parts of recordings" in capsys.readouterr().out


def test_rows_with_and_without_times(tmp_path: Path) -> None:
    root = tmp_path / "data"
    recordings(root)
    rows = ["r0.wav,no,0,0.2", "r0.wav,yes,0.50,0.7", "r0.wav,yes,.5,0.7", "r0.wav,no,0.5,0.7", "r1.wav,yes,,nan"]
    rows += ["r1.wav,no,0.9,", "r2.wav,yes,,0:00:00.3", "r2.wav,no,0.6,0.4", "r2.wav,no,half,1", "r3.wav,no,0.9,1.5"]
    rows += ["r3.wav,yes,3,4", "r3.wav,yes,-1,0.5", "r3.wav,no,0.1,1.05"]
    clips = prepare(root, tmp_path / "work", manifest=table(root, "path,label,start,end", rows), folds=2)
    assert dict(zip(clips["fname"], clips["label"], strict=True)) == {
        "r0.wav#t=0,0.2": "no",
        "r1.wav": "yes",
        "r1.wav#t=0.9,1": "no",
        "r2.wav#t=0,0.3": "yes",
        "r3.wav#t=0.1,1.05": "no",
    }
    rejected = preprocessing.store.load_rejected(tmp_path / "work")
    assert sorted(rejected["reason"]) == [
        "line 10: start 'half' is no time in seconds",
        "line 11: 0.9 to 1.5 s does not lie in the file, which lasts 1.00 s",
        "line 12: 3 to 4 s does not lie in the file, which lasts 1.00 s",
        "line 13: start '-1' is no time in seconds",
        "line 3: contradicts line 5 (train 'yes' in line 3, train 'no' in line 5)",
        "line 4: repeats line 3",
        "line 5: contradicts line 3 (train 'yes' in line 3, train 'no' in line 5)",
        "line 9: its part ends at 0.4 s, and starts at 0.6 s",
    ]


def test_times_in_another_recording_are_said_and_not_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    recordings(root)
    rows = [f"r{n}.wav,{n // 2},{start},{start + 1},{'ab'[n % 2]}" for n, start in enumerate((0, 58.5, 3.25, 0.5))]
    manifest = table(root, "slice_file_name,fsID,start,end,class", rows)
    clips = prepare(root, tmp_path / "work", manifest=manifest, folds=2)
    assert clips["fname"].tolist() == [f"r{n}.wav" for n in range(4)]
    assert clips["group"].tolist() == ["0", "0", "1", "1"]
    out = capsys.readouterr().out
    assert (
        "times of the manifest (start=start, end=end) are not obeyed: no row's part lies inside its file (58.5 to 5"
        in out
    )
    assert "--columns start=start end=end cuts all the same" in out
    manifest.write_text(manifest.read_text().replace("3.25,4.25", "0.1,0.5").replace("0.5,1.5", "0.1,0.6"))
    columns = (("start", "start"), ("end", "end"))
    clips = prepare(root, tmp_path / "work", manifest=manifest, folds=2, columns=columns, group="none")
    assert clips["fname"].tolist() == ["r0.wav#t=0,1", "r2.wav#t=0.1,0.5", "r3.wav#t=0.1,0.6"]
    assert "does not lie in the file" in reasons(tmp_path / "work")["r1.wav"]
    assert not clips["group"].any()


def test_times_are_obeyed_where_no_header_tells_how_long_a_file_is(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for n in range(4):
        encode(root / f"r{n}.aac", second(RATE, n), "aac", "adts")
    rows = [f"r{n}.aac,{'ab'[k]},{k / 2},{k / 2 + 0.4}" for n in range(4) for k in (0, 1)] + ["r0.aac,a,3,4"]
    clips = prepare(root, tmp_path / "work", manifest=table(root, "path,label,start,end", rows), folds=2)
    assert clips["fname"].tolist() == [f"r{n}.aac#t={part}" for n in range(4) for part in ("0,0.4", "0.5,0.9")]
    assert (clips["length"] == 0.4 * RATE).all()
    assert reasons(tmp_path / "work")["r0.aac#t=3,4"].startswith("lies beyond its recording's end: 3 to 4 s, and")


def test_times_of_whole_files_cut_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    recordings(root)
    lines = [{"audio_filepath": f"/x/r{n}.wav", "offset": 0, "duration": 1.0, "label": "ab"[n % 2]} for n in range(4)]
    manifest = root / "train.json"
    manifest.write_text("\n".join(map(json.dumps, lines)))
    assert prepare(root, tmp_path / "work", manifest=manifest, folds=2)["fname"].tolist() == [
        f"r{n}.wav" for n in range(4)
    ]
    assert "obeyed" not in capsys.readouterr().out


def test_parts_with_groups_folds_and_a_test_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    recordings(root, 8)
    rows = [
        f"r{n}.wav,{'ab'[k]},{k / 4},{k / 4 + 0.2},{'test' if n > 5 else ''},{n % 3}" for n in range(8) for k in (0, 1)
    ]
    rows += ["r0.wav,a,0.6,0.8,test,0"]

    def made(header: str, **options: Any) -> Any:
        manifest = table(root, f"path,label,start,end,split,{header}", rows)
        return prepare(root, tmp_path / "work", manifest=manifest, folds=2, **options)

    clips = made("fold")
    train = clips[clips["split"] == "train"]
    assert train["fold"].tolist() == [n % 3 for n in range(6) for _ in range(2)]
    assert (clips["split"] == "test").sum() == 5
    assert "of a group that is in train: 1 of 5 test clips" in capsys.readouterr().out
    assert made("speaker")["group"].tolist()[:6] == ["0", "0", "1", "1", "2", "2"]
    assert set(made("x", group_pattern=r"(?P<group>[0-3])\.wav$")["group"]) == {
        *"0123",
        *(f"r{n}.wav" for n in range(4, 8)),
    }
    train = made("x", group="none")
    train = train[train["split"] == "train"]
    assert train.groupby(train["fname"].str[:2])["fold"].nunique().max() == 1
