"""Levels, flags, near duplicates and the picture, on made clips and, where they are there, on recorded ones."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from matplotlib.image import imread
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

import preprocessing.audit
import preprocessing.duplicates
import preprocessing.picture
from tests import altered
from tests.altered import to_int16

RATE = 16_000
SHARED = Path(__file__).parents[2] / "shared" / "data"

Wave = NDArray[np.int16]


def voice(seed: int, seconds: float = 1.0) -> Wave:
    """A gliding buzz with formants, between noise: as unlike another seed's as two takes of a word."""
    draw = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = draw.uniform(90, 250) * (1 + 0.1 * np.sin(2 * np.pi * draw.uniform(0.5, 3) * time + draw.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    wave = sum(draw.uniform(0.1, 1) / k * np.sin(k * phase + draw.uniform(0, 6)) for k in range(1, 20))
    envelope = np.exp(-0.5 * ((time / seconds - draw.uniform(0.35, 0.65)) / 0.12) ** 2)
    return to_int16(5000 * envelope * wave + 20 * draw.standard_normal(len(time)))


def clusters(waves: Sequence[Wave], **options: Any) -> list[int]:
    samples, offset, length = altered.joined(waves)
    return [
        int(number) for number in preprocessing.duplicates.near_duplicates(samples, offset, length, RATE, **options)
    ]


def alone(count: int) -> list[int]:
    return list(range(count))


# -------------------------------------------------------------------------------------------- levels and flags


def test_loud_over_quiet_is_the_ratio_of_frame_powers() -> None:
    """Against percentiles of librosa-like frames, worked clip by clip; an offset and the clips' order are no matter."""
    draw = np.random.default_rng(0)
    waves = [voice(0), to_int16(200 + 50 * draw.standard_normal(RATE)), voice(1, 0.7), np.zeros(RATE, np.int16),
             to_int16(draw.standard_normal(50) * 99)]  # fmt: skip
    samples, offset, length = altered.joined(waves)
    found = preprocessing.audit.loud_over_quiet_db(samples, offset, length, RATE)
    assert np.array_equal(
        preprocessing.audit.loud_over_quiet_db(samples, offset[::-1], length[::-1], RATE), found[::-1]
    )
    for wave, decibels in zip(waves, found, strict=True):
        frames = [wave[start : start + 320] for start in range(0, max(len(wave) - 319, 1), 320)]
        power = np.sort([max(float(frame.astype(np.float64).var()), 1 / 12) for frame in frames])
        loud, quiet = (power[round(share * (len(power) - 1))] for share in (0.95, 0.2))
        assert decibels == pytest.approx(10 * np.log10(loud / quiet), abs=1e-4)
    assert found[0] > 20
    assert found[1] < 3
    assert found[3] == found[4] == 0


def naive_levels(samples: Wave) -> tuple[float, ...]:
    """`measure`, by the definitions, one sample at a time."""
    values = [int(value) for value in samples]
    mean = sum(values) / len(values)
    rms = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    high, low = max(values), min(values)
    runs = [(at_edge, len(list(run))) for at_edge, run in groupby(values, key=lambda value: value in (high, low))]
    flat = sum(size for at_edge, size in runs if at_edge and size >= 3) if high > low else 0

    def decibels(level: float) -> float:
        return max(20 * np.log10(level / 32768), -100.0) if level else -100.0

    return decibels(max(high, -low)), decibels(rms), mean / 32768, flat / len(values)


def test_measure_equals_the_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    sine = 20_000 * np.sin(np.arange(4000) / 7)
    for wave in (
        to_int16(sine),
        to_int16(3 * sine),  # clipped
        to_int16(0.001 * sine + 3000),  # an offset, and little else
        draw.integers(-32768, 32768, 3000).astype(np.int16),
        np.array([5, 5, 1, 5, 5, 5, 0, 0, 5, 0, 0, 0, 2], np.int16),
        np.array([-32768], np.int16),
        np.zeros(100, np.int16),
        np.full(100, -7, np.int16),
    ):
        assert preprocessing.audit.measure(wave) == pytest.approx(naive_levels(wave), rel=1e-4, abs=2e-4)
    whole = preprocessing.audit.measure(to_int16(sine))
    monkeypatch.setattr(preprocessing.audit, "BLOCK", 999)
    assert preprocessing.audit.measure(to_int16(sine)) == pytest.approx(whole, rel=1e-4)


def table_of(**columns: Any) -> pd.DataFrame:
    """Eleven usual clips, and after them one a value of `columns`."""
    usual = {"length": 16_000, "sample_rate": RATE, "peak_db": -6.0, "rms_db": -25.0, "dc": 0.0, "clipped": 0.0}
    extra = len(next(iter(columns.values())))
    return pd.DataFrame(
        {name: [value] * 11 + list(columns.get(name, [value] * extra)) for name, value in usual.items()}
    )


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"rms_db": [-100.0, -66.0, -64.0]}, ["silent", "silent", ""]),
        ({"clipped": [0.02, 0.002, 0.0005]}, ["clipped", "clipped", ""]),
        ({"clipped": [0.9, 0.9], "peak_db": [-80.0, -1.0]}, ["", "clipped"]),
        ({"dc": [0.02, -0.02, 0.005]}, ["dc", "dc", ""]),
        ({"length": [1, 7_900, 8_100, 31_000, 33_000]}, ["short", "short", "", "", "long"]),
        ({"sample_rate": [8_000, 48_000]}, ["resampled", "resampled"]),
        ({"rms_db": [-90.0], "dc": [0.1], "length": [100], "sample_rate": [8000]}, ["silent dc short resampled"]),
    ],
)
def test_flags(columns: dict[str, list[float]], expected: list[str]) -> None:
    assert preprocessing.audit.flags(table_of(**columns), RATE) == [""] * 11 + expected


def test_what_is_long_depends_on_how_much_the_durations_vary() -> None:
    table = table_of(length=[160_000])
    assert preprocessing.audit.flags(table, RATE)[-1] == "long"
    table["length"] = [1000 * 2**n for n in range(11)] + [3_000_000]
    assert set(preprocessing.audit.flags(table, RATE)) == {""}
    assert preprocessing.audit.flags(table[:0], RATE) == []


# --------------------------------------------------------------------------------------------- near duplicates


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


# -------------------------------------------------------------------------------------------------- the picture


@pytest.mark.parametrize("count", [2, 12, 200])
def test_the_picture_has_room_for_every_class(count: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(7)
    classes = [f"a rather long name for a class, ${n}_x$" for n in range(count)]
    table = pd.DataFrame(
        {
            "label": [*draw.choice(classes, 999), ""],
            "length": draw.integers(1, 40_000, 1000),
            "peak_db": draw.uniform(-100, 0, 1000),
            "rms_db": -100.0,
        }
    )
    preprocessing.picture.draw_picture(table, classes, RATE, tmp_path / "audit.png")
    height, width, _ = imread(tmp_path / "audit.png").shape
    assert (height - 300) * -(-width // 400) >= 10 * count  # pixels for each name
    assert width < 2000
    assert height < 2000
    assert [path.name for path in tmp_path.iterdir()] == ["audit.png"]
