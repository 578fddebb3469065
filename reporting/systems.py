"""What is compared and chosen: the runs, ensembles of them, and the one that the report looks into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from arg import InferenceConfig, TrainConfig
from prediction.spec import EnsembleSpec, Member, digest_of, write_ensemble
from reporting.ensembling import Candidate, Choice, choose, contributions, cross_fit
from reporting.gather import COMPLETE, ON_ALL, HeldOut, Run
from reporting.scores import Comparison, Summary, compare, summarise
from system.errors import UserError
from system.options import command_line
from util import confusion, main_score

ENSEMBLE = "ensemble"  # stands for the one that is chosen
NAMES = {
    "single": "best single run",
    "mean": "mean of all runs",
    "greedy": "greedy selection",
    "likelihood": "weights of maximum likelihood",
}  # of the methods
SYSTEMS_COMPARED = 8  # the best ones, pair by pair


@dataclass(frozen=True, eq=False)
class System:
    """A run or an ensemble, and what it says of the clips that it held out."""

    name: str
    rows: NDArray[np.bool_]  # (n,) those clips
    probabilities: NDArray[np.float32]  # (their number, C)
    summary: Summary
    by_chance: float  # accuracy of answers with the same frequencies, given without listening

    @property
    def learned(self) -> bool:
        """Whether it is clearly better than chance."""
        return self.summary.overall.accuracy.low > self.by_chance

    @property
    def complete(self) -> bool:
        return bool(self.rows.all())


def score(clips: HeldOut, name: str, rows: NDArray[np.bool_], probabilities: NDArray[np.float32]) -> System:
    """`probabilities` are those of the clips in `rows`."""
    summary = summarise(clips.truth[rows], probabilities, clips.fold[rows], clips.group[rows])
    counts = confusion(clips.truth[rows], probabilities.argmax(1), len(clips.classes))
    return System(name, rows, probabilities, summary, chance_accuracy(counts))


def chance_accuracy(counts: NDArray[np.int64]) -> float:
    """The accuracy that chance gives, from (C, C) confusions; at least one in C.

    It is the sum over classes of (share of the labels) x (share of the answers), the chance agreement of Cohen's kappa
    (Cohen 1960): for answers that are always the same class, that class's share.
    """
    shares = counts / counts.sum()
    return max(1 / len(counts), float(shares.sum(0) @ shares.sum(1)))


class Pair(NamedTuple):
    """Two systems on the clips that both held out."""

    a: System
    b: System
    found: Comparison


@dataclass(frozen=True, eq=False)
class Ensembles:
    """The ways to combine the complete runs, cross-fitted."""

    members: tuple[tuple[str, int], ...]  # run and view
    candidates: dict[str, Candidate]
    systems: dict[str, System]  # by method
    choice: Choice
    gains: dict[str, float]  # by run of the chosen one: the accuracy that is lost without it; nan where it is alone
    runs: tuple[str, ...]  # all that were combined
    command: str  # labels clips with the chosen one

    @property
    def chosen(self) -> Candidate:
        return self.candidates[self.choice.method]

    @property
    def system(self) -> System:
        """The chosen one."""
        return self.systems[self.choice.method]


def find_ensemble(clips: HeldOut, runs: Sequence[Run]) -> Ensembles | None:
    """The best ensemble of the complete runs; None where no run is complete."""
    complete = [run for run in runs if run.status == COMPLETE]
    if not complete:
        return None
    members = tuple((run.name, view) for run in complete for view in range(len(run.probabilities)))
    number = np.repeat(np.arange(len(complete)), [len(run.probabilities) for run in complete])
    stacked = np.concatenate([run.probabilities for run in complete])
    candidates = cross_fit(stacked, clips.truth, clips.fold, number)
    choice = choose(candidates, clips.truth, clips.group)
    everything = np.ones(len(clips), np.bool_)
    systems = {
        method: score(clips, _name(candidate, members), everything, candidate.probabilities)
        for method, candidate in candidates.items()
    }
    gains = contributions(stacked, clips.truth, clips.fold, number, candidates[choice.method])
    source = None if clips.test_clips else Path("CLIPS")
    label = InferenceConfig(input_path=source, work=clips.work, ensemble="weighted")
    return Ensembles(
        members=members,
        candidates=candidates,
        systems=systems,
        choice=choice,
        gains={complete[run].name: gain for run, gain in gains.items()},
        runs=tuple(run.name for run in complete),
        command=command_line(label),
    )


@dataclass(frozen=True, eq=False)
class Results:
    """What has been trained, judged: every run that has predictions, and the ensembles of the complete ones."""

    clips: HeldOut
    runs: Sequence[Run]
    systems: Mapping[str, System]  # by run, over the folds that it has; the mean over the views is judged
    ensembles: Ensembles | None  # None where no run is complete

    def named(self, name: str) -> System:
        """A run, or the ensemble that was chosen. UserError where there is no such thing."""
        if name == ENSEMBLE and self.ensembles:
            return self.ensembles.system
        if name not in self.systems:
            have = [*self.systems, *([ENSEMBLE] if self.ensembles else [])]
            raise UserError(f"{name}: no run with out-of-fold predictions; there is {', '.join(have)}")
        return self.systems[name]

    def best(self) -> System:
        """The ensemble where there is one, else the run with most clips and then the best score."""
        if self.ensembles:
            return self.ensembles.system
        return max(self.systems.values(), key=lambda one: (int(one.rows.sum()), self._main_score(one)))

    def compared(self, a: System, b: System) -> Pair:
        """Paired, on the clips that both have. UserError where there is none."""
        both = a.rows & b.rows
        if not both.any():
            raise UserError(f"{a.name} and {b.name}: no clip that both held out; train the same folds of both")
        of_a, of_b = (one.probabilities[both[one.rows]] for one in (a, b))
        return Pair(a, b, compare(self.clips.truth[both], of_a, of_b, self.clips.group[both]))

    def comparisons(self) -> list[Pair]:
        """The best complete runs pair by pair, the better one first; before them an ensemble against the best run."""
        complete = sorted((one for one in self.systems.values() if one.complete), key=self._main_score, reverse=True)
        pairs = list(combinations(complete[:SYSTEMS_COMPARED], 2))
        if self.ensembles and self.ensembles.choice.method != "single" and len(complete) > 1:
            pairs = [(self.ensembles.system, complete[0]), *pairs]
        return [self.compared(a, b) for a, b in pairs]

    def _main_score(self, one: System) -> float:
        truth = self.clips.truth[one.rows]
        return main_score(truth, one.probabilities.argmax(1), np.bincount(self.clips.truth))


def judge_runs(clips: HeldOut, runs: Sequence[Run]) -> Results:
    """Score every run and find the best ensemble. UserError where no run has predictions."""
    systems = {run.name: score(clips, run.name, run.rows, run.mean[run.rows]) for run in runs if run.rows.any()}
    if not systems:
        folds = command_line(TrainConfig(work=clips.work)) if runs[0].status == ON_ALL else runs[0].command
        first = f"{runs[0].name}: {runs[0].note}; {folds}".rstrip("; ")
        raise UserError(f"{clips.work}: no predictions to judge. {first}")
    return Results(clips, runs, systems, find_ensemble(clips, runs))


def _name(candidate: Candidate, members: Sequence[tuple[str, int]]) -> str:
    if len({run for run, _ in members}) == 1:
        equal = candidate.method in ("single", "mean")  # the run as it stands in the table, but for the temperature
        return members[0][0] if equal else f"{members[0][0]} with weighted views"
    if candidate.method == "single":
        return f"the {NAMES['single']} ({members[int(candidate.final.weights.argmax())][0]})"
    return f"the ensemble ({NAMES[candidate.method]})"


def write_chosen(results: Results, ensembles: Ensembles, comparisons: Sequence[Pair]) -> None:
    """Write `ensemble.json`, which inference.py --ensemble weighted uses: the chosen one, fitted to all folds.

    Its gain over the best run, if that is another, is the first of the `comparisons`.
    """
    clips = results.clips
    gain = comparisons[0].found.accuracy if comparisons and comparisons[0].a is ensembles.system else None
    chosen, scores = ensembles.chosen, ensembles.system.summary.overall
    weighted = zip(ensembles.members, chosen.final.weights.tolist(), strict=True)
    spec = EnsembleSpec(
        classes=clips.classes,
        folds_hash=clips.folds_hash,
        folds=chosen.folds,
        method=chosen.method,
        members=tuple(Member(run, view, weight) for (run, view), weight in weighted if weight > 0),
        temperature=chosen.final.temperature,
        scores={name: getattr(scores, name).value for name in ("accuracy", "log_loss", "calibration_error")},
        sources={run: digest_of(clips.work / "runs" / run, range(clips.folds)) for run in ensembles.runs},
        gain=(gain.value, gain.low, gain.high) if gain else None,
    )
    write_ensemble(clips.work, spec)
