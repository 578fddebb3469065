"""The content of the report page: what `page.write_page` takes, from what was held out and what was found in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reporting import page, suspects
from reporting.gather import COMPLETE, HeldOut, Run
from reporting.scores import BINS, Comparison, Coverage, Interval, Scores, coverage, reliability, share
from reporting.systems import Ensembles, System
from util import clock

if TYPE_CHECKING:
    from reporting.media import Media

Ints = NDArray[np.int64]

LISTED_CLIPS = 5000
WITH_MEDIA = 400  # of them, for which sound and picture are made ...
MEDIA_SECONDS = 400  # ... or fewer, where they are long
CLOSE_CALLS = 100
TYPICAL = 2  # clips of each class, of which the networks are surest
TOP = 3  # classes shown of a clip
PAIRS, GROUPS, DUPLICATES = 15, 20, 100  # listed
WELL_CALIBRATED = 0.02  # calibration error
MOST_LETTERS = 40  # of a class's name in a sentence

SUSPECT, CONFIDENT, ERROR, CLOSE, DUPLICATE, TYPICAL_CLIP = (
    "suspected label",
    "confident error",
    "error",
    "close call",
    "near duplicate",
    "typical",
)


class Findings:
    """What the predictions of one system say about the clips and their labels. Positions count its own clips."""

    def __init__(self, clips: HeldOut, system: System, loud_over_quiet: NDArray[np.float64]) -> None:
        self.clips = clips
        self.system = system
        self.position = np.flatnonzero(system.rows)  # of each of its clips among all
        self.truth = clips.truth[self.position]
        self.group = clips.group[self.position]
        self.table = clips.table.iloc[self.position].reset_index(drop=True)
        self.judged = suspects.judge(self.truth, system.probabilities)
        self.predicted = self.judged["predicted"].to_numpy()
        self.wrong = self.predicted != self.truth
        self.coverage: Coverage = coverage(self.truth, system.probabilities, clips.fold[self.position], self.group)
        self.pairs = suspects.confused_pairs(self.truth, self.predicted, len(clips.classes))
        weak = suspects.weak_groups(self.wrong, self.group)
        named = np.array([bool(name) for name in clips.group_names])
        self.weak = weak[named[weak["group"].to_numpy()]]  # a clip without a speaker is a group, but none to name
        self.speakers = np.unique(self.group[named[self.group]])
        self.twins = suspects.disagreeing_duplicates(self.table["cluster"].tolist(), self.truth, self.predicted)
        self.loud_over_quiet = loud_over_quiet[self.position]

    def factors(self) -> list[tuple[str, str, NDArray[np.float64]]]:
        """What errors may hang on: a name, its unit and a value for each clip."""
        rows = self.table
        return [
            ("level", "dB", rows["rms_db"].to_numpy(np.float64)),
            ("duration", "s", rows["length"].to_numpy(np.float64) / self.clips.sample_rate),
            ("loud parts over quiet ones", "dB", self.loud_over_quiet),
        ]

    def listed(self) -> tuple[list[int], list[list[str]]]:
        """The clips worth listening to, the most important first, and what is the matter with each."""
        from collections import defaultdict

        problems: dict[int, list[str]] = defaultdict(list)

        def add(rows: Sequence[int] | NDArray[Any], what: str) -> None:
            for row in rows:
                problems[int(row)].append(what)

        ranked = suspects.by_suspicion(self.judged)
        sure = self.judged["p_predicted"].to_numpy()
        errors = ranked.index[self.wrong[ranked.index]].to_numpy()
        add(ranked.index[ranked["suspected"]], SUSPECT)
        add(suspects.confident_errors(self.judged, max(50, len(errors) // 5)).index, CONFIDENT)
        add([row for twins in self.twins["clips"][:DUPLICATES] for row in twins], DUPLICATE)
        add(errors, ERROR)
        right = np.flatnonzero(~self.wrong)
        add(right[np.argsort(sure[right], kind="stable")[:CLOSE_CALLS]], CLOSE)
        for index in range(len(self.clips.classes)):
            own = right[self.truth[right] == index]
            add(own[np.argsort(-sure[own], kind="stable")[:TYPICAL]], TYPICAL_CLIP)
        rows = list(problems)[:LISTED_CLIPS]
        flags = self.table["flags"]
        return rows, [problems[row] + flags[row].split() for row in rows]


# ------------------------------------------------------------------------------------------------------ the page


def make_report(
    clips: HeldOut,
    runs: Sequence[Run],
    systems: dict[str, System],
    ensembles: Ensembles | None,
    comparisons: Sequence[tuple[System, System, Comparison]],
    findings: Findings,
    verdict: Sequence[str],
    made: str,
    media: Callable[[Ints], Media],
) -> page.Report:
    """`media` gives sound and picture of training clips by position."""
    system = findings.system
    rows, problems = findings.listed()
    position = {row: index for index, row in enumerate(rows)}
    heard_at_most = min(WITH_MEDIA, round(MEDIA_SECONDS * clips.sample_rate / clips.clip_samples))
    audio, mel, codec = media(findings.position[rows[:heard_at_most]])
    heard = sum(one is not None for one in audio)
    return {
        "title": f"{clips.root.name}: out-of-fold report",
        "made": made,
        "verdict": list(verdict),
        "method": method(clips),
        "task": {
            "clips": len(clips),
            "classes": list(clips.classes),
            "groups": sum(map(bool, clips.group_names)) if clips.grouped else None,
            "folds": clips.folds,
            "sample_rate": clips.sample_rate,
            "seconds": clips.clip_samples / clips.sample_rate,
        },
        "runs": [_run(run, systems.get(run.name)) for run in runs],
        "comparisons": [_comparison(*one) for one in comparisons],
        "ensemble": _ensemble(ensembles),
        "subject": {"name": system.name, "scores": _scores(system.summary.overall)},
        "confusion": _confusion(findings, len(clips.classes)),
        "per_class": [
            {
                "class": index,
                "clips": one.clips,
                "precision": _rate(one.precision),
                "recall": _rate(one.recall),
                "f1": _rate(one.f1),
            }
            for index, one in enumerate(system.summary.classes)
        ],
        "reliability": [
            {"confidence": one.confidence, "accuracy": _rate(one.accuracy), "clips": one.clips}
            for one in reliability(findings.truth, system.probabilities, findings.group)
        ],
        "coverage": _coverage(findings.coverage),
        "pairs": [
            {"a": int(row["a"]), "b": int(row["b"]), "a_as_b": int(row["a_as_b"]), "b_as_a": int(row["b_as_a"])}
            for row in findings.pairs.head(PAIRS).to_dict("records")
        ],
        "groups": [
            {
                "name": clips.group_names[int(row["group"])],
                "weak": bool(row["weak"]),
                "clips": int(row["clips"]),
                "error": (row["rate"], row["low"], row["high"]),
            }
            for row in findings.weak.head(GROUPS).to_dict("records")
        ],
        "factors": [_factor(findings, *one) for one in findings.factors()],
        "duplicates": [
            {
                "clips": [position[row] for row in twins if row in position],
                "note": f"{counted(labels, 'label')}, taken for {predictions} class{'es' if predictions > 1 else ''}",
            }
            for labels, predictions, twins in zip(
                findings.twins["labels"][:DUPLICATES],
                findings.twins["predictions"][:DUPLICATES],
                findings.twins["clips"][:DUPLICATES],
                strict=True,
            )
            if any(row in position for row in twins)
        ],
        "clips": _clips(findings, rows, problems, audio, mel),
        "media_note": f"{heard:,} of {len(rows):,} listed clips can be heard here ({codec}), as the networks hear them."
        if heard
        else "No clip can be heard here: report.py was run with --no-audio.",
    }


def method(clips: HeldOut) -> list[str]:
    drawn = "speakers (groups), whose clips are not independent" if clips.grouped else "clips, taken as independent"
    return [
        "Every clip is judged by networks that were not trained on it: those of the fold that held it out. "
        "The probabilities are the mean over the test-time views.",
        f"Intervals are 95 % intervals over {drawn}; what another training would change is not in them.",
        "Two systems are compared on the same clips; the p value is that of a sign-flip test over "
        f"{'speakers' if clips.grouped else 'clips'}, not corrected for how many pairs there are.",
        f"The calibration error has {BINS} bins of equal mass, all folds pooled.",
        "Ensembles are cross-fitted: a clip's weights and temperature were fitted to the other folds.",
        "New clips are labelled by all folds together, which is usually right a little more often than the one network "
        "that judges a clip here.",
    ]


def _rate(interval: Interval) -> tuple[float | None, float | None, float | None]:
    value, low, high = (
        float(one) if np.isfinite(one) else None for one in (interval.value, interval.low, interval.high)
    )
    return value, low, high


def _scores(scores: Scores) -> page.Scores:
    return {
        "accuracy": _rate(scores.accuracy),
        "macro_f1": _rate(scores.macro_f1),
        "log_loss": _rate(scores.log_loss),
        "top3": _rate(scores.top3),
        "ece": _rate(scores.calibration_error),
    }


def _run(run: Run, system: System | None) -> page.Run:
    folds = system.summary.folds if system else {}
    return {
        "name": run.name,
        "status": run.status,  # type: ignore[typeddict-item]
        "note": run.note,
        "command": run.command or None,
        "scores": _scores(system.summary.overall) if system else None,
        "folds": [
            {"fold": fold, "clips": scores.clips, "accuracy": _rate(scores.accuracy)} for fold, scores in folds.items()
        ],
        "seconds": run.seconds,
        "history": [_history(fold, rows) for fold, rows in sorted(run.history.items())],
    }


def _history(fold: int, rows: Sequence[dict[str, float]]) -> page.History:
    def column(name: str) -> list[float]:
        return [float(row.get(name, np.nan)) for row in rows]

    return {
        "fold": fold,
        "epoch": [int(row["epoch"]) + 1 for row in rows],
        "train_loss": column("train_loss"),
        "valid_loss": column("valid_loss"),
        "valid_accuracy": column("valid_accuracy"),
    }


def _comparison(a: System, b: System, found: Comparison) -> page.Comparison:
    return {
        "a": a.name,
        "b": b.name,
        "difference": _rate(found.accuracy),
        "p": found.p_value,
        "only_a": found.only_a_right,
        "only_b": found.only_b_right,
    }


def _ensemble(ensembles: Ensembles | None) -> page.Ensemble | None:
    if ensembles is None:
        return None
    chosen = ensembles.chosen
    brings = {ensembles.runs[one.run]: one for one in ensembles.brings}
    views: dict[str, list[str]] = {}
    for (run, view), weight in zip(ensembles.members, chosen.final.weights, strict=True):
        if weight > 0:
            views.setdefault(run, []).append(f"{view}: {weight:.2f}")
    return {
        "method": ensembles.choice.method,
        "verdict": ensemble_verdict(ensembles),
        "command": ensembles.command,
        "temperature": chosen.final.temperature,
        "candidates": [
            {"name": METHODS[method], "scores": _scores(system.summary.overall)}
            for method, system in ensembles.systems.items()
        ],
        "members": [
            {"run": run, "view": ", ".join(parts), "weight": brings[run].weight, "brings": brings[run].accuracy}
            for run, parts in views.items()
        ],
    }


METHODS = {
    "single": "best single run",
    "mean": "mean of all runs",
    "greedy": "greedy selection",
    "likelihood": "weights of maximum likelihood",
}


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


def _confusion(findings: Findings, classes: int) -> page.Confusion:
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (findings.truth, findings.predicted), 1)
    return {"counts": counts.tolist(), "order": cluster_order(counts)}


def cluster_order(counts: Ints) -> list[int]:
    """An order of the classes, of (C, C) confusions, in which those that are confused stand together.

    Average linkage on one minus the share of two classes' clips that are confused, leaves in optimal order
    (Bar-Joseph et al. 2001).
    """
    from scipy.cluster.hierarchy import leaves_list, linkage

    classes = len(counts)
    if classes < 3:
        return list(range(classes))
    both = counts + counts.T
    clips = counts.sum(1)
    distance = 1 - both / np.maximum(clips[:, None] + clips, 1)
    above = np.triu_indices(classes, 1)
    return [int(index) for index in leaves_list(linkage(distance[above], "average", optimal_ordering=True))]


def _coverage(found: Coverage) -> page.Coverage:
    points = zip(found.thresholds.tolist(), found.shares.tolist(), found.precisions.tolist(), strict=True)
    reached = np.isfinite(found.threshold) and found.share.value > 0
    return {
        "points": list(points),
        "target": found.target,
        "at_target": {
            "coverage": found.share.value,
            "threshold": float(found.threshold),
            "precision": _rate(found.precision),
        }
        if reached
        else None,
        "note": "Share and precision at the target are those of thresholds chosen on the other folds.",
    }


def _factor(findings: Findings, name: str, unit: str, value: NDArray[np.float64]) -> page.Factor:
    bins = suspects.error_bins(findings.wrong, value)
    digits = 2 if unit == "s" else 0
    result: list[page.FactorBin] = []
    for least, most in zip(bins["least"], bins["most"], strict=True):
        inside = (value >= least) & (value <= most)
        label = f"{least:.{digits}f}" if least == most else f"{least:.{digits}f} to {most:.{digits}f}"
        error = share(findings.wrong[inside], findings.group[inside])
        result.append({"label": label, "clips": int(inside.sum()), "error": _rate(error)})
    return {"name": name, "unit": unit, "bins": result}


def _clips(
    findings: Findings,
    rows: list[int],
    problems: list[list[str]],
    audio: list[str | None],
    mel: list[str | None],
) -> page.Clips:
    table, judged = findings.table.iloc[rows], findings.judged.iloc[rows]
    probabilities = findings.system.probabilities[rows]
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
    absent: list[str | None] = [None] * (len(rows) - len(audio))
    return {
        "fname": table["fname"].tolist(),
        "label": judged["label"].tolist(),
        "predicted": judged["predicted"].tolist(),
        "confidence": judged["p_predicted"].tolist(),
        "p_label": judged["p_label"].tolist(),
        "fold": table["fold"].tolist(),
        "group": table["group"].tolist(),
        "problems": problems,
        "seconds": (table["length"] / findings.clips.sample_rate).tolist(),
        "top": [
            [(int(index), float(row[index])) for index in best] for best, row in zip(top, probabilities, strict=True)
        ],
        "mel": mel + absent,
        "audio": audio + absent,
    }


# --------------------------------------------------------------------------------------------------- the verdict


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
