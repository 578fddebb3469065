"""The findings in words and as a table, for the terminal and the head of the page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reporting.findings import Findings
from reporting.gather import COMPLETE, HeldOut, Run
from reporting.scores import Comparison, Coverage, Interval
from reporting.systems import Ensembles, System
from system.console import clock

WELL_CALIBRATED = 0.02  # calibration error
MOST_LETTERS = 40  # of a class's name in a sentence
METHODS = {
    "single": "best single run",
    "mean": "mean of all runs",
    "greedy": "greedy selection",
    "likelihood": "weights of maximum likelihood",
}


def say(
    clips: HeldOut,
    runs: Sequence[Run],
    ensembles: Ensembles | None,
    comparisons: Sequence[tuple[System, System, Comparison]],
    findings: Findings,
) -> list[str]:
    """The findings in plain sentences, the most important first."""
    system = findings.system
    scores = system.summary.overall
    name = _in_words(ensembles) if ensembles and system is ensembles.system else system.name
    judged = counted(scores.clips, "clip")
    if clips.grouped:
        judged += f", {counted(len(findings.speakers), 'speaker')}"
    sentences = [
        f"{name} labels {percent(scores.accuracy)} of the clips right that its networks were not trained on ({judged})."
    ]
    if not system.complete:
        sentences.append(
            f"Not all folds are trained: only {scores.clips:,} of {counted(len(clips), 'clip')} are judged yet."
        )
    if ensembles and comparisons and comparisons[0][0] is ensembles.system:
        sentences.append(_gain(ensembles, comparisons[0]))
    sentences.append(meaning(scores.calibration_error))
    found = findings.coverage
    if np.isfinite(found.threshold) and found.share.value > 0:
        sentences.append(
            f"{percent(found.share)} of the clips can be labelled without a person, {percent(found.precision)} of those"
            f" rightly, where {_target(found)} is aimed at: those with a probability of at least"
            f" {_probability(found.threshold)}."
        )
    else:
        sentences.append(f"No clips can be picked by their probability so that {_target(found)} are labelled rightly.")
    if len(findings.pairs):
        said = [
            f"{_shortened(clips.classes[int(row['a'])])}/{_shortened(clips.classes[int(row['b'])])}"
            f" ({int(row['errors'])})"
            for row in findings.pairs.head(3).to_dict("records")
        ]
        sentences.append(f"Most confused: {', '.join(said)}; {counted(int(findings.wrong.sum()), 'error')} in all.")
    else:
        sentences.append("There is no error, so nothing is confused.")
    if suspected := int(findings.judged["suspected"].sum()):
        are = "is" if suspected == 1 else "are"
        sentences.append(
            f"{counted(suspected, 'label')} {are} suspected of being wrong: listen to the first clips listed below."
        )
    if weak := int(findings.weak["weak"].sum()):
        are = "is" if weak == 1 else "are"
        sentences.append(f"{counted(weak, 'speaker')} {are} labelled worse than chance allows for.")
    if torn := int((findings.twins["labels"] > 1).sum()):
        bear = "cluster of near duplicates bears" if torn == 1 else "clusters of near duplicates bear"
        sentences.append(f"{torn:,} {bear} different labels.")
    if waiting := [run for run in runs if run.status != COMPLETE]:
        of = f"{len(waiting)} of {len(runs)} runs are" if len(runs) > 1 else "The run is"
        sentences.append(f"{of} not complete; the table of runs says what to do.")
    return sentences


def _in_words(ensembles: Ensembles) -> str:
    """The chosen ensemble, to begin a sentence with."""
    method = ensembles.choice.method
    if method == "single":
        run = ensembles.members[int(ensembles.chosen.final.weights.argmax())][0]
        return f"{run}, with a temperature,"
    return {"mean": "The mean of all runs", "greedy": "The ensemble of greedy selection"}.get(
        method, "The ensemble of maximum likelihood"
    )


def ensemble_verdict(ensembles: Ensembles) -> str:
    """Whether an ensemble pays, in words."""
    choice = ensembles.choice
    excess = choice.excess[choice.method]
    if choice.method == choice.lowest:
        return f"{METHODS[choice.method].capitalize()}: the lowest log loss of the four."
    return (
        f"{METHODS[choice.method].capitalize()}: its log loss is not clearly above that of {METHODS[choice.lowest]} "
        f"({excess.value:+.4f}, {excess.low:+.4f} to {excess.high:+.4f}), and it is the simpler one."
    )


def _gain(ensembles: Ensembles, comparison: tuple[System, System, Comparison]) -> str:
    """What the chosen ensemble does against the best run."""
    _, run, found = comparison
    if len(ensembles.runs) == 1:
        return "Only one run is complete: train another network or size, and an ensemble may be better."
    gain = found.accuracy
    if ensembles.choice.method == "single":
        said = "No ensemble is clearly better than one run alone."
    elif gain.low > 0:
        said = f"It is more often right than the best run, {run.name}: {points(gain)}."
    elif gain.high < 0:
        said = f"It is less often right than the best run, {run.name}: {points(gain)}; log loss decides."
    else:
        said = f"It is not clearly more often right than the best run, {run.name}: {points(gain)}."
    return f"{said} {ensemble_verdict(ensembles)}"


def meaning(error: Interval) -> str:
    """Whether probabilities can be believed, from their calibration error."""
    if error.value <= WELL_CALIBRATED:
        return f"Its probabilities mean what they say: they are off by {percent(error)} on average."
    if error.low == 0:  # see `scores.calibration_interval`
        return f"Its probabilities are off by {percent(error)} on average, which may be chance: there are few clips."
    return f"Its probabilities should not be taken at their word: they are off by {percent(error)} on average."


def counted(count: int, noun: str) -> str:
    """1 clip, 2,000 clips."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _target(found: Coverage) -> str:
    return f"{100 * found.target:.0f} %"


def _probability(value: float) -> str:
    """With three digits, or as many as keep one below 1 from looking like 1."""
    return f"{value:.3f}" if value < 0.9995 or value == 1 else f"{value:.7f}".rstrip("0")


def _shortened(name: str) -> str:
    """A name for a sentence, which could be reversed by some of the characters that cannot be seen."""
    seen = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return seen if len(seen) <= MOST_LETTERS else f"{seen[: MOST_LETTERS - 1]}…"


def percent(interval: Interval) -> str:
    """94.2 % (93.6 to 94.8)."""
    value, low, high = (100 * one for one in (interval.value, interval.low, interval.high))
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def points(difference: Interval) -> str:
    """+0.52 points (-0.10 to +1.14)."""
    value, low, high = (100 * one for one in (difference.value, difference.low, difference.high))
    return f"{value:+.2f} points ({low:+.2f} to {high:+.2f})"


def table_of(runs: Sequence[Run], systems: dict[str, System], ensembles: Ensembles | None) -> str:
    """Runs and ensembles with their scores, for the terminal."""
    heads = ("", "accuracy", "macro F1", "log loss", "top 3", "calibration", "folds", "training")
    lines: list[tuple[str, ...]] = [heads]

    def numbers(system: System | None) -> tuple[str, ...]:
        if system is None:
            return ("-",) * 5
        one = system.summary.overall
        return tuple(
            [str(score) for score in (one.accuracy, one.macro_f1, one.log_loss, one.top3, one.calibration_error)]
        )

    for run in runs:
        took = clock(run.seconds) if run.seconds else "-"
        lines.append((run.name, *numbers(systems.get(run.name)), str(len(run.folds)), took))
    if ensembles:
        for method, system in ensembles.systems.items():
            star = " *" if method == ensembles.choice.method else ""
            lines.append((METHODS[method] + star, *numbers(system), "", ""))
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def say_comparison(a: System, b: System, found: Comparison) -> str:
    """A paired comparison, for the terminal."""
    loss = found.log_loss
    return (
        f"{a.name} less {b.name}: accuracy {points(found.accuracy)}, p = {found.p_value:.3g}; "
        f"log loss {loss.value:+.4f} ({loss.low:+.4f} to {loss.high:+.4f})\n"
        f"right alone: {found.only_a_right:,} clips by {a.name}, {found.only_b_right:,} by {b.name}"
    )
