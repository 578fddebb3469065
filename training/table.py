"""The table of progress over folds that train side by side."""

from __future__ import annotations

import heapq
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from arg import RunConfig
from system.console import clock

if TYPE_CHECKING:
    from callback import Report


@dataclass
class Job:
    """A fold, and how far it is."""

    run: RunConfig
    state: str = "waiting"  # then "training", and in the end "done", "failed" or "stopped"
    device: str = ""
    started: float = 0.0  # by time.monotonic()
    seconds: float = 0.0  # that it took
    report: Report | None = None  # the last one
    reported: float = 0.0  # when that came
    accuracy: float | None = None  # held out, of all views

    def seconds_left(self, now: float) -> float | None:
        return None if self.report is None else max(0.0, self.report.seconds_left - (now - self.reported))


def seconds_left(jobs: Sequence[Job], devices: int, now: float) -> float | None:
    """Until the last fold is done, waiting ones taking as long as the others on average; None: nothing known yet."""
    known = [job.seconds for job in jobs if job.state == "done"]
    training = [(now - job.started, job.seconds_left(now)) for job in jobs if job.state == "training"]
    known += [past + left for past, left in training if left is not None]
    if not known or not devices:
        return None
    typical = sum(known) / len(known)
    busy = [max(0.0, typical - past) if left is None else left for past, left in training]
    busy += [0.0] * (devices - len(busy))  # from when on a device is free
    heapq.heapify(busy)
    for job in jobs:
        if job.state == "waiting":
            heapq.heapreplace(busy, busy[0] + typical)
    return max(busy)


def summary(jobs: Sequence[Job], devices: int, now: float) -> str:
    """Where all folds together are, in a line."""
    states = [job.state for job in jobs]
    parts = [f"{states.count('done')} of {len(jobs)} folds done"]
    parts += [f"{states.count(state)} {state}" for state in ("failed", "stopped") if state in states]
    left = seconds_left(jobs, devices, now)
    if started := [job.started for job in jobs if job.device]:
        parts.append(f"{clock(now - min(started))} so far")
    if left and ("training" in states or "waiting" in states):
        parts.append(f"about {clock(left)} left")
    return ", ".join(parts)


def table_lines(jobs: Sequence[Job], now: float, width: int) -> list[str]:
    """A heading and a row a fold, shorter than `width` where that is 80 or more: a full line may wrap."""
    wide = min(40, max(17, width - 63))
    row = "{:<4}  {:<6}  {:<%d}  {:>7}  {:>5}  {:>8}  {:>7}  {:>11}" % wide  # noqa: UP031 (braces are doubled enough)
    lines = [row.format("fold", "device", "state", "epoch", "loss", "held out", "clips/s", "time left")]
    for job in jobs:
        state, epoch, loss, held_out, speed, left = job.state, "", "", "", "", ""
        report = job.report
        if job.state == "training" and report is None:
            state = "starting"
        elif job.state == "training" and report is not None:
            share = report.step / report.steps
            size = wide - 6
            filled = int(share * size)
            state = f"{'#' * filled}{'.' * (size - filled)} {share:>5.0%}" if share < 1 else "scoring"
            speed = f"{report.clips_per_second:,.0f}" if report.clips_per_second else ""
            left = clock(job.seconds_left(now) or 0) if share < 1 else ""
        elif job.seconds:
            state = f"{job.state}, {clock(job.seconds)}"
        if report is not None:
            epoch = f"{report.epoch}/{report.epochs}"
            loss = f"{report.scores['train_loss']:.3f}"[:5] if "train_loss" in report.scores else ""
            held_out = f"{report.scores['valid_accuracy']:.4f}" if "valid_accuracy" in report.scores else ""
        if job.accuracy is not None:
            held_out = f"{job.accuracy:.4f}"
        lines.append(row.format(str(job.run.fold), job.device, state, epoch, loss, held_out, speed, left).rstrip())
    return lines


class Table:
    """The table of `jobs` on stderr where that is a terminal, redrawn in place; else lines of text take its place."""

    def __init__(self, jobs: Sequence[Job], stream: TextIO | None = None) -> None:
        self._jobs = jobs
        self._stream = stream or sys.stderr
        dumb = os.name == "nt" or os.environ.get("TERM") == "dumb"  # older consoles of Windows show the control codes
        self._live = self._stream.isatty() and not dumb
        self._drawn: list[str] = []  # lines on the screen, above the cursor

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self.draw(summary(self._jobs, 0, time.monotonic()))

    def say(self, text: str, error: bool = False) -> None:
        """Print whole lines above the table; what is no error only where the table does not show it."""
        if not text or (not error and self._live and sys.stdout.isatty()):
            return
        if self._live:
            self._stream.write(f"\x1b[{len(self._drawn)}F\x1b[J" if self._drawn else "")
            self._stream.flush()
            self._drawn = []
        print(text, end="", file=sys.stderr if error else sys.stdout, flush=True)

    def draw(self, heading: str) -> None:
        if not self._live:
            return
        width, height = os.get_terminal_size(self._stream.fileno())
        rows = table_lines(self._jobs, time.monotonic(), width)
        if len(rows) > height - 2:  # the screen holds no more: those under way matter most
            rows = [rows[0], *(row for row, job in zip(rows[1:], self._jobs, strict=True) if job.state == "training")]
        lines = [line[: width - 1] for line in [heading, *rows[: height - 2]]]
        if lines != self._drawn:
            up = f"\x1b[{len(self._drawn)}F" if self._drawn else ""
            self._stream.write(up + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
            self._stream.flush()
            self._drawn = lines
