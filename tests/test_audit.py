"""Levels and flags of clips."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import preprocessing.audit
import preprocessing.duplicates
import preprocessing.picture
from tests import altered
from tests.altered import to_int16
from tests.preparing import voice

RATE = 16_000


Wave = NDArray[np.int16]


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
