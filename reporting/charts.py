"""Charts as inline SVG: text that `page.css` colours, that needs no script, and that a screen reader and paper show.

Whatever comes from files is escaped: all markup is made by `Markup.format`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from util import Interval

LEFT, RIGHT, TOP, BOTTOM = 40, 12, 20, 38  # margins around the plot, in pixels
WIDTH, STRIP = 340, 200  # of a chart, and of one in a table's row
ASIDE = Markup('class="strip" aria-hidden="true"')  # beside numbers, which a screen reader reads


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`; `marks` are (value, text)."""

    label: str
    low: float
    high: float
    marks: Sequence[tuple[float, str]]
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value lies: 0 at `low`, 1 at `high`; nan where a logarithmic axis has no place for it."""
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return (math.log(value) - low) / (high - low) if value > 0 else math.nan
        return (value - self.low) / (self.high - self.low)


def linear(label: str, values: Iterable[float], factor: float = 1.0, wanted: int = 5, whole: bool = False) -> Axis:
    """An axis with round ends around `values`; marks are written times `factor`, 100 for percent."""
    low, high = _range(values)
    marks = MaxNLocator(wanted, steps=[1, 2, 5, 10], integer=whole).tick_values(low, high)
    return Axis(label, float(marks[0]), float(marks[-1]), _written(marks, factor))


def logarithmic(label: str, values: Iterable[float], factor: float = 1.0) -> Axis:
    """A logarithmic axis around those of `values` that are above 0."""
    low, high = _range(value for value in values if value > 0)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    marks = [times * 10.0**power for power in powers for times in (1, 2, 5)]
    first = max(mark for mark in marks if mark <= 1.001 * low)
    last = min(mark for mark in marks if mark >= 0.999 * high and mark > first)
    shown = [mark for mark in marks if first <= mark <= last]
    if len(shown) > 10:  # more would lie on each other: the powers of ten alone
        shown = [mark for mark in shown if math.isclose(math.log10(mark), round(math.log10(mark)), abs_tol=1e-9)]
    return Axis(label, first, last, _written(shown, factor), log=True)


def _range(values: Iterable[float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else (0.001, 1.0)  # nothing to draw, but an axis


def _written(marks: Iterable[float], factor: float) -> list[tuple[float, str]]:
    return [(float(mark), f"{factor * mark:.6g}".replace("-", "\N{MINUS SIGN}")) for mark in marks]


class Chart:
    """A plot with two axes. What is drawn lies above the grid; `label` is read out."""

    def __init__(self, label: str, x: Axis, y: Axis, height: int = 220) -> None:
        self.label, self.x, self.y, self.height = label, x, y, height
        floor = height - BOTTOM
        self.parts: list[Markup] = []
        for mark, text in y.marks:
            up = self._up(mark)
            self.parts += [_line("grid", LEFT, up, WIDTH - RIGHT, up), _text(LEFT - 7, up + 4, "end", text)]
        self.parts.append(_line("axis", LEFT, floor, WIDTH - RIGHT, floor))
        for mark, text in x.marks:
            across = self._across(mark)
            self.parts += [_line("axis", across, floor, across, floor + 4), _text(across, floor + 16, "middle", text)]
        self.parts += [_text(6, 10, "unit", y.label), _text(WIDTH - RIGHT, height - 5, "unit end", x.label)]

    def _across(self, value: float) -> float:
        return LEFT + self.x.at(value) * (WIDTH - LEFT - RIGHT)

    def _up(self, value: float) -> float:
        return self.height - BOTTOM - self.y.at(value) * (self.height - BOTTOM - TOP)

    def line(self, xs: Iterable[float], ys: Iterable[float], kind: str = "line", text: str = "") -> None:
        """A line through points, with a gap where one has no place; `text` shows under the pointer."""
        path, pen = "", "M"
        for x, y in zip(xs, ys, strict=True):
            across, up = self._across(x), self._up(y)
            shown = math.isfinite(across) and math.isfinite(up)
            path += f"{pen}{across:.1f} {up:.1f}" if shown else ""
            pen = "L" if shown else "M"
        self.parts.append(Markup('<path class="{}" d="{}"><title>{}</title></path>').format(kind, path, text))

    def upright(self, x: float) -> None:
        """A line from floor to ceiling."""
        self.parts.append(_line("mark", self._across(x), TOP, self._across(x), self.height - BOTTOM))

    def dot(self, x: float, y: Interval, text: str, kind: str = "") -> None:
        """An estimate with its interval; `text` shows under the pointer."""
        if math.isfinite(y.value):
            across = self._across(x)
            whisker = _line(f"whisker {kind}", across, self._up(y.low), across, self._up(y.high))
            self.parts.append(Markup("<g><title>{}</title>{}{}</g>").format(
                text, whisker, _circle(f"dot {kind}", across, self._up(y.value), 3.2)))  # fmt: skip

    def __html__(self) -> str:
        return _svg(WIDTH, self.height, Markup('role="img" aria-label="{}"').format(self.label), self.parts)


class Strip:
    """Small charts for the rows of a table, on one scale that holds all `rates` and `others`: `head`, then `row`s."""

    def __init__(
        self, rates: Sequence[Interval], factor: float = 1.0, others: Iterable[float] = (), kind: str = ""
    ) -> None:
        values = [limit for rate in rates for limit in (rate.value, rate.low, rate.high)]
        self.axis = linear("", [*values, *others], factor, 4)
        self.kind = kind

    def _across(self, value: float) -> float:
        return 12 + self.axis.at(value) * (STRIP - 24)

    @property
    def head(self) -> Markup:
        return _svg(STRIP, 16, ASIDE, [_text(self._across(mark), 12, "middle", text) for mark, text in self.axis.marks])

    def row(self, rate: Interval | None, others: Iterable[float] = ()) -> Markup:
        """A dot with its interval; `others` are open circles behind it."""
        parts = [
            _line("grid" if mark or self.axis.low >= 0 else "axis", self._across(mark), 0, self._across(mark), 22)
            for mark, _ in self.axis.marks
        ]
        parts += [_circle("fold-dot", self._across(other), 11, 2.6) for other in others if math.isfinite(other)]
        if rate and math.isfinite(rate.value):
            parts.append(_line(f"whisker {self.kind}", self._across(rate.low), 11, self._across(rate.high), 11))
            parts.append(_circle(f"dot {self.kind}", self._across(rate.value), 11, 3.6))
        return _svg(STRIP, 22, ASIDE, parts)


def bar(share: float) -> Markup:
    """A bar of a share of its full length."""
    length = STRIP / 2
    parts = Markup('<rect class="ground" width="{0}" height="9"/><rect class="filled" width="{1:.1f}" height="9"/>')
    return _svg(length, 9, ASIDE, [parts.format(length, share * length)])


def _svg(width: float, height: float, attributes: Markup, parts: Iterable[Markup]) -> Markup:
    frame = Markup('<svg viewBox="0 0 {0:g} {1:g}" width="{0:g}" height="{1:g}" {2}>{3}</svg>')
    return frame.format(width, height, attributes, Markup("").join(parts))


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)


def _circle(kind: str, x: float, y: float, radius: float) -> Markup:
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(kind, x, y, radius)


def _text(x: float, y: float, kind: str, text: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(kind, x, y, text)
