"""The findings in words and as a table, for the terminal and the head of the page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from arg import InferenceConfig
from prediction.choice import choose
from reporting.findings import Findings
from reporting.gather import INCOMPLETE, STALE, Run
from reporting.scores import Coverage
from reporting.suspects import TAKEN
from reporting.systems import NAMES, Ensembles, Pair, Results, System
from system.console import clock, counted
from util import Interval, never_predicted

WELL_CALIBRATED = 0.02  # calibration error
NAMED = 5  # classes
MOST_LETTERS = 40  # of a class's name in a sentence
ONE_RUN = (
    "Only one run is complete, so there is nothing to compare or to combine it with: train another network or size."
)


def say(findings: Findings, comparisons: Sequence[Pair]) -> list[str]:
    """The findings in plain sentences, the most important first."""
    clips, runs, ensembles = findings.clips, findings.results.runs, findings.results.ensembles
    system = findings.system
    scores = system.summary.overall
    name = system.name.replace("the ", "The ", 1) if system.name.startswith("the ") else system.name
    judged = counted(scores.clips, "clip")
    if clips.grouped:
        judged += f", {counted(len(findings.speakers), 'speaker')}"
    sentences = [f"{name} labels {percent(scores.accuracy)} of the held-out clips correctly ({judged})."]
    if not system.learned:
        sentences = [
            f"{name} has learned nothing: {percent(scores.accuracy)} of the held-out clips ({judged}) are labelled "
            f"correctly, and chance gives {100 * system.by_chance:.1f} %. Train for more epochs, or look at the labels."
        ]
    if clips.uneven:
        count = np.bincount(clips.truth)
        balanced = (
            f"{name} finds {percent(scores.balanced_accuracy)} of a class's held-out clips, the mean over classes of "
            f"{count[count > 0].min():,} to {count.max():,} clips (balanced accuracy)."
        )
        sentences.insert(0, balanced)
    if not system.complete:
        sentences.append(
            f"Not all folds are trained: only {scores.clips:,} of {counted(len(clips), 'clip')} are judged so far."
        )
    if missed := never_predicted(findings.truth, findings.predicted):
        names = [_shortened(clips.classes[index]) for index in missed]
        rare = "; with train.py --class-weights 1 rare classes count more, --balance draws them more often"
        rare *= clips.uneven
        sentences.append(f"Never predicted: {', '.join(names[:NAMED])}{', ...' * (len(names) > NAMED)}{rare}.")
    if system.learned:
        if ensembles:
            sentences.append(gain_of(ensembles, comparisons))
        sentences += _reading(findings)
    if torn := int((findings.twins["labels"] > 1).sum()):
        bear = "cluster of near duplicates bears" if torn == 1 else "clusters of near duplicates bear"
        sentences.append(f"{torn:,} {bear} different labels.")
    if waiting := [run for run in runs if run.status in (INCOMPLETE, STALE)]:
        are = "is" if len(waiting) == 1 else "are"
        of = f"{len(waiting)} of {len(runs)} runs {are}" if len(runs) > 1 else "The run is"
        sentences.append(f"{of} not complete; the table of runs says what is missing.")
    return sentences


def _reading(findings: Findings) -> list[str]:
    """What the predictions of a system that has learned something say."""
    sentences = [meaning(findings.system.summary.overall.calibration_error)]
    found, classes = findings.coverage, findings.clips.classes
    if found.reached:
        sentences.append(
            f"{percent(found.share)} of the clips have a probability of at least {_probability(found.threshold)}; "
            f"{percent(found.precision)} of these are labelled correctly (target: {_target(found)})."
        )
    else:
        sentences.append(f"At no threshold of the probability are {_target(found)} of the labels correct.")
    if len(findings.pairs):
        said = [
            f"{_shortened(classes[int(row['a'])])}/{_shortened(classes[int(row['b'])])} ({int(row['errors'])})"
            for row in findings.pairs.head(3).to_dict("records")
        ]
        sentences.append(f"Most confused: {', '.join(said)}; {counted(int(findings.wrong.sum()), 'error')} in all.")
    else:
        sentences.append("There is no error, so nothing is confused.")
    if suspected := len(findings.suspects):
        are, strongly = "is" if suspected == 1 else "are", int((findings.suspects["reason"] != TAKEN).sum())
        labels = f"{counted(suspected, 'label')} {are} suspected, {strongly:,} of them strongly"
        sentences.append(f"{labels}: listen to the first clips of the list.")
    if weak := int(findings.weak["weak"].sum()):
        have = "has" if weak == 1 else "have"
        sentences.append(f"{counted(weak, 'speaker')} {have} more errors than chance explains.")
    return sentences


def remark(run: Run, system: System | None) -> str:
    """What there is to know of a run beside its scores; "" where there is nothing."""
    said = [run.note]
    if system and not system.learned:
        said.append(f"has learned nothing: chance gives {100 * system.by_chance:.1f} %")
    return "; ".join(filter(None, said))


def ensemble_verdict(ensembles: Ensembles) -> str:
    """Why this ensemble was chosen, in words."""
    choice = ensembles.choice
    chosen, excess = NAMES[choice.method].capitalize(), choice.excess[choice.method]
    if choice.method == choice.lowest:
        return f"{chosen}: the lowest log loss of the four."
    return (
        f"{chosen}: simpler than {NAMES[choice.lowest]}, and its log loss is not clearly higher "
        f"({excess.value:+.4f}, {excess.low:+.4f} to {excess.high:+.4f})."
    )


def gain_of(ensembles: Ensembles, comparisons: Sequence[Pair]) -> str:
    """What the chosen ensemble does against the best run."""
    if len(ensembles.runs) == 1:
        return ONE_RUN
    if not (comparisons and comparisons[0].a is ensembles.system):
        return f"No ensemble is clearly better than one run alone. {ensemble_verdict(ensembles)}"
    _, run, found = comparisons[0]
    gain = found.accuracy
    if gain.low > 0:
        said = f"It is better than the best run, {run.name}: {points(gain)}."
    elif gain.high < 0:
        said = f"It labels fewer clips correctly than the best run, {run.name}: {points(gain)}; log loss decides."
    else:
        said = f"It is not clearly better than the best run, {run.name}: {points(gain)}."
    return f"{said} {ensemble_verdict(ensembles)}"


def meaning(error: Interval) -> str:
    """Whether probabilities can be believed, from their calibration error."""
    if error.value <= WELL_CALIBRATED:
        return f"Its probabilities mean what they say: they are off by {percent(error)} on average."
    if error.low == 0:  # see `scores.calibration_interval`
        return f"Its probabilities are off by {percent(error)} on average, which may be chance: there are few clips."
    return f"Do not take its probabilities at their word: they are off by {percent(error)} on average."


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


def table_of(results: Results) -> str:
    """Runs and ensembles with their scores, and what is to be known of the runs, for the terminal."""
    shown = {"accuracy": "accuracy", "macro_f1": "macro F1", "log_loss": "log loss", "top3": "top 3"}
    shown["calibration_error"] = "calibration"
    if results.clips.uneven:
        shown = {"balanced_accuracy": "balanced accuracy", **shown}
    heads = ("", *shown.values(), "folds", "training")
    lines: list[tuple[str, ...]] = [heads]

    def numbers(system: System | None) -> tuple[str, ...]:
        if system is None:
            return ("-",) * len(shown)
        return tuple(getattr(system.summary.overall, name).text(4) for name in shown)

    for run in results.runs:
        took = clock(run.seconds) if run.seconds else "-"
        lines.append((run.name, *numbers(results.systems.get(run.name)), str(len(run.folds)), took))
    if results.ensembles and len(results.ensembles.runs) > 1:
        for method, system in results.ensembles.systems.items():
            star = " *" if method == results.ensembles.choice.method else ""
            lines.append((NAMES[method] + star, *numbers(system), "", ""))
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    for run in results.runs:
        if said := remark(run, results.systems.get(run.name)):
            text.append(f"{run.name}: {run.status}, {said}" + (f"\n  {run.command}" if run.command else ""))
    return "\n".join(text)


def say_choice(ensembles: Ensembles, label: InferenceConfig) -> str:
    """What inference.py labels with without options, and how to have the ensemble where that is another."""
    choice = choose(label)
    if choice.config.ensemble == "weighted":
        return "inference.py without options uses the ensemble, since it is better than the best run"
    said = f"inference.py without options uses {choice.best.name}"
    if ensembles.choice.method == "single" or len(ensembles.runs) == 1:
        return said
    return f"{said}; with --ensemble weighted the ensemble, whose log loss is lower"


def say_comparison(pair: Pair) -> str:
    """A paired comparison, for the terminal."""
    a, b, found = pair
    loss = found.log_loss
    return (
        f"{a.name} minus {b.name}: accuracy {points(found.accuracy)}, p = {found.p_value:.3g}; "
        f"log loss {loss.value:+.4f} ({loss.low:+.4f} to {loss.high:+.4f})\n"
        f"clips that only one labels correctly: {found.only_a_right:,} {a.name}, {found.only_b_right:,} {b.name}"
    )
