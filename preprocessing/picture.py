"""A picture of a data set: durations, levels, and clips of each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from preprocessing.audit import FLOOR_DB
from system.files import replacing

if TYPE_CHECKING:
    from pandas import DataFrame


def draw_picture(table: DataFrame, classes: Sequence[str], sample_rate: int, path: Path) -> None:
    """Write a PNG of the clips in `table`: durations, levels, and clips of each class.

    `table` has label, length (samples at `sample_rate`, Hz), peak_db and rms_db; clips of no class in `classes` count
    for durations and levels alone.
    """
    from matplotlib.figure import Figure

    columns = -(-len(classes) // 50)
    rows = -(-len(classes) // columns)
    bars_height = 0.9 + 0.17 * max(rows, 4)
    figure = Figure(figsize=(11, 3 + bars_height), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(3, bars_height))  # typed as one of them
    above, below = parts

    durations, levels = above.subplots(1, 2)
    durations.hist(table["length"] / sample_rate, bins=50, color="C0")
    durations.set(xlabel="duration (s)", ylabel="clips", yscale="log", title=f"{len(table):,} clips")
    edges = np.arange(FLOOR_DB, 1.5, 1.5)
    for name, label in (("peak_db", "peak"), ("rms_db", "RMS")):
        levels.hist(table[name], bins=edges, alpha=0.6, label=label)
    levels.set(xlabel="level (dB re full scale)", ylabel="clips", yscale="log", title="levels")
    levels.legend()

    count = table["label"].value_counts().reindex(classes, fill_value=0)
    middle = float(count.median())
    axes = below.subplots(1, columns, sharex=True, squeeze=False)[0]
    for column, part in zip(axes, np.array_split(np.arange(len(classes)), columns), strict=True):
        column.barh(range(len(part)), count.iloc[part], color="C0", height=0.8)
        column.axvline(middle, color="C3", linewidth=1)
        column.set_yticks(range(len(part)), [short(classes[row]) for row in part], fontsize=8)
        column.set(ylim=(max(rows, 4) - 0.4, -0.6), xlabel="clips")
        column.margins(y=0)
    below.suptitle(f"clips of each of {len(classes)} classes (line: the median, {middle:,.0f})", fontsize=11)
    with replacing(path) as beside:
        figure.savefig(beside, format="png", dpi=110)


def short(name: str) -> str:
    """A class name for a picture: not too long, and no formula even with dollar signs."""
    name = name if len(name) <= 24 else f"{name[:23]}…"
    return name.replace("$", r"\$")
