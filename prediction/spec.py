"""ensemble.json: runs, views, weights and temperature of the ensemble that report.py chose."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arg import Fold, ReportConfig, RunConfig
from system.errors import UserError
from system.files import replacing
from system.options import command_line, from_plain, to_plain
from system.paths import ENSEMBLE, PREDICTIONS

METHODS = ("single", "mean", "greedy", "likelihood")  # the simplest first
TEMPERATURES = (0.1, 10.0)  # looked at
ENSEMBLE_FORMAT = 1


@dataclass(frozen=True)
class Member:
    """A run's view and its weight, which the run's folds share."""

    run: str  # folder under runs/
    view: int
    weight: float

    def __post_init__(self) -> None:
        plain = isinstance(self.run, str) and self.run not in ("", ".", "..") and not set(self.run) & set("/\\\0")
        _check(plain, f"run {self.run!r} is not the name of a folder")
        _check(type(self.view) is int and self.view >= 0, f"view {self.view!r} is not a number from 0")
        _check(_is_number(self.weight) and self.weight >= 0, f"weight {self.weight!r} is not a number from 0")


@dataclass(frozen=True)
class EnsembleSpec:
    """What `ensemble.json` holds: the ensemble that `inference.py --ensemble weighted` uses. ValueError where not."""

    classes: tuple[str, ...]
    folds_hash: str  # of the runs' table of folds
    folds: tuple[int, ...]  # that the weights were fitted to, and whose networks are used
    method: str  # one of METHODS
    members: tuple[Member, ...]  # those with weight; the weights sum to one
    temperature: float
    scores: Mapping[str, Any]  # cross-fitted, for the record
    # Each run that there was to choose from, with the `digest_of` its predictions; {} in a file of an earlier version.
    sources: Mapping[str, str] = field(default_factory=dict)
    # Accuracy less that of the best of them: the difference and its 95 % interval; None for one run alone.
    gain: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        names = isinstance(self.classes, tuple) and all(isinstance(name, str) for name in self.classes)
        _check(names and 0 < len(set(self.classes)) == len(self.classes), "classes are not a list of different names")
        _check(isinstance(self.folds_hash, str), "folds_hash is not a text")
        folds = isinstance(self.folds, tuple) and all(type(fold) is int and fold >= 0 for fold in self.folds)
        _check(folds and 0 < len(set(self.folds)) == len(self.folds), "folds are not a list of different numbers")
        _check(self.method in METHODS, f"method {self.method!r} is not one of {', '.join(METHODS)}")
        pairs = [(member.run, member.view) for member in self.members]
        _check(len(set(pairs)) == len(pairs), "members name one view of a run twice")
        total = math.fsum(member.weight for member in self.members)
        _check(abs(total - 1) < 1e-6, f"weights sum to {total:g}, not 1")
        low, high = TEMPERATURES
        known = _is_number(self.temperature) and low <= self.temperature <= high
        _check(known, f"temperature {self.temperature!r} is not one of {low:g} to {high:g}")
        _check(isinstance(self.scores, dict), "scores are not an object")
        _check(isinstance(self.sources, dict), "sources are not an object")
        interval = isinstance(self.gain, tuple) and len(self.gain) == 3 and all(map(_is_number, self.gain))
        _check(self.gain is None or interval, "gain is not a list of three numbers")

    @property
    def runs(self) -> tuple[str, ...]:
        """Those with weight, in order."""
        return tuple(dict.fromkeys(member.run for member in self.members if member.weight))

    def network_weights(self, folds: int, tta: bool) -> NDArray[np.float64]:
        """Weights of each network's views, (runs x folds, views), of as many folds of each run, run by run.

        The views end with the last one that has weight. Without `tta` there is the clip itself alone, which gets all
        the weight of its run.
        """
        weights = np.zeros((len(self.runs), 1 + max(member.view for member in self.members if member.weight)))
        for member in self.members:
            if member.weight:
                weights[self.runs.index(member.run), member.view] = member.weight
        if not tta:
            weights = weights.sum(1, keepdims=True)
        return np.repeat(weights / folds, folds, axis=0)

    def check_trained_on(self, work: Path, run: RunConfig) -> None:
        """UserError where a run, which the ensemble is to be made of, has other classes or folds."""
        if self.classes != run.classes:
            raise UserError(f"{work / ENSEMBLE}: made for other classes than those of the runs; {_again(work)}")
        if self.folds_hash != run.folds_hash:
            what = "stale, made for other folds or labels than those of the runs"
            raise UserError(f"{work / ENSEMBLE}: {what}; {_again(work)}")


def digest_of(run: Path, folds: Iterable[Fold]) -> str:
    """A hash of what the folds in a run's folder have predicted of the clips that they held out."""
    whole = hashlib.sha256()
    for fold in folds:
        with (run / f"fold{fold}" / PREDICTIONS).open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def write_ensemble(work: Path, spec: EnsembleSpec) -> Path:
    """Write `ensemble.json` into the work folder; returns its path. ValueError where a score is not finite."""
    path = work / ENSEMBLE
    text = json.dumps({"format": ENSEMBLE_FORMAT, **to_plain(spec)}, indent=1, allow_nan=False)
    with replacing(path) as beside:
        beside.write_text(text + "\n", "utf-8", newline="\n")
    return path


def read_ensemble(work: Path) -> EnsembleSpec:
    """The work folder's `ensemble.json`. UserError where it is missing, damaged, foreign, or names runs not there."""
    from transform import VIEWS

    path = work / ENSEMBLE
    try:
        spec = _revive(json.loads(path.read_text("utf-8")))
        views = [member.view for member in spec.members]
        _check(max(views) < VIEWS, f"view {max(views)}: there are {VIEWS}")
        for run in spec.runs:
            _check((work / "runs" / run).is_dir(), f"no run {run!r} in {work / 'runs'}")
    except FileNotFoundError:
        first = command_line(ReportConfig(work))
        raise UserError(f"{path}: not there, and --ensemble weighted needs it; run {first} first") from None
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: {error}; {_again(work)}") from error
    return spec


def _revive(plain: Any) -> EnsembleSpec:
    """ValueError or TypeError where it is not what `write_ensemble` writes."""
    _check(isinstance(plain, dict), "not an object")
    written = plain.pop("format", None)
    _check(written == ENSEMBLE_FORMAT, f"format {written!r}, this version reads {ENSEMBLE_FORMAT}")
    spec = {**plain, "members": [from_plain(Member, member) for member in plain.get("members", [])]}
    return from_plain(EnsembleSpec, spec)


def _again(work: Path) -> str:
    return f"run {command_line(ReportConfig(work))} again"


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
