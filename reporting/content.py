"""The content of the report page: what `page.write_page` takes, from what was held out and what was found in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reporting import page, suspects
from reporting.findings import LISTED_DUPLICATES, Findings
from reporting.gather import HeldOut, Run
from reporting.scores import BINS, Comparison, Coverage, Interval, Scores, reliability, share
from reporting.systems import Ensembles, System
from reporting.verdict import METHODS, counted, ensemble_verdict, remark
from util import confusion

if TYPE_CHECKING:
    from reporting.media import Media

Ints = NDArray[np.int64]
WITH_MEDIA = 400  # listed clips for which sound and picture are made ...
MEDIA_SECONDS = 400  # ... or fewer, where they are long
TOP = 3  # classes shown of a clip
PAIRS, GROUPS = 15, 20  # listed


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
                findings.twins["labels"][:LISTED_DUPLICATES],
                findings.twins["predictions"][:LISTED_DUPLICATES],
                findings.twins["clips"][:LISTED_DUPLICATES],
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
        "note": remark(run, system),
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


def _confusion(findings: Findings, classes: int) -> page.Confusion:
    counts = confusion(findings.truth, findings.predicted, classes)
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
    return {
        "points": list(points),
        "target": found.target,
        "at_target": {
            "coverage": found.share.value,
            "threshold": float(found.threshold),
            "precision": _rate(found.precision),
        }
        if found.reached
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
