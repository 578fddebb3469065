"""The picture of a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

import preprocessing.audit
import preprocessing.duplicates
import preprocessing.picture

RATE = 16_000


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
