"""Duplicates and near duplicates, on made clips and, where they are there, on recorded ones."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

import preprocessing.audit
import preprocessing.decode
import preprocessing.duplicates
import preprocessing.folds
import preprocessing.picture
import preprocessing.pipeline
import preprocessing.store
import preprocessing.workers
import system.paths
from system.errors import UserError
from tests import altered
from tests.altered import to_int16
from tests.preparing import RATE, fill, fill_speakers, fold_of, noise, prepare, reasons, voice, write

SHARED = Path(__file__).parents[2] / "shared" / "data"


Wave = NDArray[np.int16]


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


@pytest.mark.parametrize(("usual", "copied", "told"), [(6, 2, True), (6, 1, False), (5, 2, False)])
def test_copies_of_rare_clips_make_no_class_larger(
    usual: int, copied: int, told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two clips of a class, both or one of them copied, against six or five of another."""
    root = fill(tmp_path / "data", "usual", usual)
    for clip in range(2):
        write(root / "rare" / f"{clip}.wav", 900 + clip)
    for clip in range(copied):
        write(root / "rare" / f"{clip}_copy.wav", 900 + clip)
    prepare(root, tmp_path / "work", folds=2)
    said = capsys.readouterr().out
    note = "copies are left out, so they make no class larger: 1 class (rare); train.py --class-weights 1"
    assert (note in said) is told


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


def clusters(waves: Sequence[Wave], **options: Any) -> list[int]:
    samples, offset, length = altered.joined(waves)
    return [
        int(number) for number in preprocessing.duplicates.near_duplicates(samples, offset, length, RATE, **options)
    ]


def alone(count: int) -> list[int]:
    return list(range(count))


@pytest.mark.parametrize("alter", [*altered.ALTERATIONS, altered.together], ids=lambda alter: str(alter.__name__))
def test_altered_copies_join_their_originals(alter: Any) -> None:
    draw = np.random.default_rng(1)
    originals = [voice(seed) for seed in range(40)]
    copies = [alter(wave, draw) for wave in originals[:20]]
    found = clusters([*originals, *copies])
    assert found[:40] == alone(40)
    assert sum(a == b for a, b in zip(found[40:], range(20), strict=True)) >= 19
    assert all(number in (at, at - 40) for at, number in enumerate(found))


def test_the_mp3_copies_have_32_kilobits_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    read = soundfile.read

    def weigh(file: Any, **options: Any) -> Any:
        sizes.append(len(file.getvalue()))
        return read(file, **options)

    monkeypatch.setattr(soundfile, "read", weigh)
    altered.mp3(voice(0, 20.0), np.random.default_rng(0))
    assert sizes[0] * 8 / 20.0 == pytest.approx(32_000, rel=0.02)


def test_what_holds_no_recording_is_alone() -> None:
    """Silence, next to silence, hiss, hum and tones: alike in spectrum, so only the waveforms can tell."""
    draw = np.random.default_rng(2)
    time = np.arange(RATE) / RATE

    def tone(frequency: float) -> Wave:
        return to_int16(8000 * np.sin(2 * np.pi * frequency * time + draw.uniform(0, 6)))

    hum = [sum(np.sin(2 * np.pi * 50 * k * time + draw.uniform(0, 6)) / k for k in range(1, 9)) for _ in range(20)]
    waves = [
        *[np.zeros(RATE, np.int16)] * 20,
        *(draw.integers(-1, 2, RATE).astype(np.int16) for _ in range(20)),
        *(to_int16(3000 + 2 * draw.standard_normal(RATE)) for _ in range(20)),
        *(to_int16(3000 * draw.standard_normal(RATE)) for _ in range(40)),
        *(to_int16(30 * wave + 10 * draw.standard_normal(RATE)) for wave in hum),
        *(tone(frequency) for frequency in [440, 443, 447, 452, 880, 1000, 1003, 1010]),
    ]
    assert clusters(waves) == alone(len(waves))


def test_many_copies_of_one_clip_are_one_cluster() -> None:
    draw = np.random.default_rng(3)
    waves = [voice(9), *(altered.shift(voice(7), draw) for _ in range(150)), *[voice(8)] * 150]
    assert clusters(waves) == [0] + [1] * 150 + [151] * 150


def test_the_result_hangs_on_no_number_of_threads() -> None:
    draw = np.random.default_rng(4)
    waves = [voice(seed) for seed in range(30)]
    waves += [altered.noise(wave, draw) for wave in waves]
    once = clusters(waves, processes=1)
    assert once == clusters(waves, processes=3) == clusters(waves)
    assert once[30:] == alone(30)


def test_clips_of_any_length_and_a_memory_map(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    hour = to_int16(30 * draw.standard_normal(90 * RATE))
    hour[70 * RATE : 72 * RATE] += voice(1, 2.0)
    tiny = [np.array([value], np.int16) for value in (0, 9, -9)]
    waves = [*tiny, voice(2, 0.05), hour, voice(3), altered.gain(hour[RATE // 20 :], draw), voice(2, 0.05)]
    expected = [0, 1, 2, 3, 4, 5, 4, 3]
    assert clusters(waves) == expected
    samples, offset, length = altered.joined(waves)
    samples.tofile(tmp_path / "waves.i16")
    mapped = np.memmap(tmp_path / "waves.i16", "<i2", "r")
    assert preprocessing.duplicates.near_duplicates(mapped, offset, length, RATE).tolist() == expected
    for count in (1, 2, 3):
        assert clusters([voice(4), *tiny][:count]) == alone(count)
    assert preprocessing.duplicates.near_duplicates(samples, offset[:0], length[:0], RATE).shape == (0,)


@pytest.mark.parametrize("rate", [8000, 11_025, 44_100])
def test_other_sample_rates(rate: int) -> None:
    waves = [voice(seed) for seed in range(10)]
    waves += [to_int16(0.5 * np.roll(wave, 500)) for wave in waves]
    found = preprocessing.duplicates.near_duplicates(*altered.joined(waves), rate)
    assert found.tolist() == alone(10) * 2


def test_the_index_finds_what_comparing_all_pairs_finds() -> None:
    draw = np.random.default_rng(6)
    prints = draw.standard_normal((3000, 24)).astype(np.float32) * np.linspace(0.3, 0.05, 24, dtype=np.float32)
    prints[2000:2500] = prints[:500] + 0.01 * draw.standard_normal((500, 24)).astype(np.float32)
    distance = cdist(prints, prints)
    near = {(int(a), int(b)) for a, b in zip(*np.nonzero(distance < 0.15), strict=True) if a < b}
    with ThreadPoolExecutor(2) as pool:
        found = {(int(a), int(b)) for a, b in preprocessing.duplicates._candidates(prints, pool)}
        same = preprocessing.duplicates._candidates(np.zeros_like(prints), pool)
    assert len(near) >= 500
    assert len(near & found) >= 0.98 * len(near)
    assert all(distance[pair] < preprocessing.duplicates.NEAR for pair in found)
    assert len(same) <= preprocessing.duplicates.NEAREST * len(prints)  # whatever the clips, the work stays bounded


def test_a_chain_is_cut_where_its_ends_differ() -> None:
    pairs = np.array([(1, 2), (2, 4), (4, 5), (6, 7)])
    none = preprocessing.duplicates._clusters(8, pairs, lambda more: more[:0])
    assert none.tolist() == [0, 1, 1, 3, 4, 4, 6, 6]
    asked: list[tuple[int, ...]] = []

    def all_of(more: NDArray[np.int64]) -> NDArray[np.int64]:
        asked.extend(map(tuple, more.tolist()))
        return more

    assert preprocessing.duplicates._clusters(8, pairs, all_of).tolist() == [0, 1, 1, 3, 1, 1, 6, 6]
    assert sorted(asked) == [(1, 4), (1, 5)]


def test_recorded_clips() -> None:
    """A part of what the benchmark measures: other takes by the same speakers stay apart, altered copies do not."""
    folder = SHARED / "gsc12" / "train"
    if not folder.is_dir():
        pytest.skip("needs the recorded clips of ../shared/data")
    paths = [path for word in ("eight", "two") for path in sorted((folder / word).iterdir())]
    waves = [soundfile.read(path, dtype="int16")[0] for path in paths]
    draw = np.random.default_rng(0)
    same = {wave.tobytes(): index for index, wave in reversed(list(enumerate(waves)))}
    chosen = draw.choice(len(waves), 200, replace=False)
    copies = [altered.ALTERATIONS[index % 5](waves[row], draw) for index, row in enumerate(chosen)]
    recording = np.array([same[waves[row].tobytes()] for row in (*range(len(waves)), *chosen)])
    found = np.array(clusters([*waves, *copies]))
    low, high = np.nonzero(np.triu(found[:, None] == found, 1))
    assert np.mean(found[len(waves) :] == found[chosen]) >= 0.95  # recall
    assert np.mean(recording[low] == recording[high]) >= 0.99  # precision


@pytest.mark.parametrize(("rate", "seconds"), [(100, 4), (250, 0.5), (250, 4), (250, 80), (500_000, 0.1)])
def test_infrasound_and_ultrasound(rate: int, seconds: float) -> None:
    """Tones in noise, each class at its share of the sample rate; the first ten again, later, softer and noisier."""
    draw = np.random.default_rng(0)
    time = np.arange(round(seconds * rate))
    tones = [0.3 * np.sin(2 * np.pi * (0.08 + 0.08 * (n % 3)) * draw.normal(1, 0.03) * time) for n in range(30)]
    waves = [to_int16(32768 * (wave + 0.03 * draw.standard_normal(len(time)))) for wave in tones]
    late = len(time) // 20
    copies = [to_int16(np.roll(wave, late) / 2 + 20 * draw.standard_normal(len(time))) for wave in waves[:10]]
    length = np.full(40, len(time))
    offset = np.cumsum(length) - length
    cluster = preprocessing.duplicates.near_duplicates(np.concatenate([*waves, *copies]), offset, length, rate)
    assert cluster[:30].tolist() == list(range(30))
    found = (cluster[30:] == np.arange(10)).sum()
    assert found >= 9 if len(time) >= 320 else not found  # little sound is like much else


def test_calls_of_bats_are_no_near_duplicates_of_each_other() -> None:
    """A sweep from 80 to 40 kHz in a tenth of a second of noise; the first eight again, softer and later."""
    draw, rate, waves = np.random.default_rng(5), 500_000, []
    time = np.arange(rate // 10) / rate
    spectrum = 1 / np.sqrt(1 + (np.fft.rfftfreq(len(time), 1 / rate) / 500) ** 2)  # most of it is low
    for _ in range(24):
        part = (time - draw.uniform(0, 0.08)) / (0.005 * draw.normal(1, 0.05))
        sweep = 1e3 * (40 * draw.normal(1, 0.05) + 40 * draw.normal(1, 0.05) * np.exp(-4 * part.clip(0, 1)))
        call = np.sin(np.pi * part.clip(0, 1)) * np.sin(2 * np.pi * np.cumsum(sweep) / rate)
        noise = np.fft.irfft(np.fft.rfft(draw.standard_normal(len(time))) * spectrum, len(time))
        waves.append(to_int16(6000 * call + 60 * noise / noise.std()))
    waves += [to_int16(np.roll(wave, 2000) / 2) for wave in waves[:8]]
    length = np.full(32, len(time))
    offset = np.cumsum(length) - length
    cluster = preprocessing.duplicates.near_duplicates(np.concatenate(waves), offset, length, rate)
    assert cluster.tolist() == [*range(24), *range(8)]


def test_rates_at_their_limits(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    for rate in (99, 100, 250, 500_000, 1_000_000, 1_000_001):
        for label in ("no", "yes"):
            write(tmp_path / str(rate) / label / "a.wav", to_int16(3000 * draw.standard_normal(rate // 2)), rate)
    write(tmp_path / "250" / "no" / "b.wav", 1, 100)
    clips = prepare(tmp_path / "250", tmp_path / "work", folds=2)
    assert sorted(zip(clips["sample_rate"], clips["length"], strict=True)) == [(100, 4000), (250, 125), (250, 125)]
    for rate in (100, 500_000, 1_000_000):
        clips = prepare(tmp_path / str(rate), tmp_path / f"work {rate}", folds=2)
        assert (clips["length"] == rate // 2).all()
        assert (clips["cluster"] == "").all()
    for rate in (99, 1_000_001):
        with pytest.raises(UserError, match=f"its sample rate is {rate:,} Hz, not one from 100 to 1,000,000 Hz"):
            prepare(tmp_path / str(rate), tmp_path / "none", folds=2, sample_rate=8000)
        with pytest.raises(UserError, match=f"none of the 2 clips can be read, .*: its sample rate is {rate:,} Hz, "):
            prepare(tmp_path / str(rate), tmp_path / "none", folds=2)
