"""What to fix: suspected wrong labels, hard clips, confused classes, weak speakers, and what errors hang on.

Everything is NumPy on out-of-fold predictions. n clips of C classes: `truth` (n,) int is the class that each clip is
labelled, `probabilities` (n, C) are those of networks that were not trained on the clip. Tables have a row a clip,
with the clip's position as their index, unless said otherwise. pandas and scipy are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from preprocessing.decisions import LIST_COLUMNS
from system.files import replacing
from util import wilson_interval

if TYPE_CHECKING:
    from pandas import DataFrame

Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
Floats = NDArray[Any]  # floating point
Interval = Callable[[float, int], tuple[float, float]]  # of a share and the number of trials behind it
SMALLEST = 1e-15  # probability, so that every loss is finite
FALSE_DISCOVERIES = 0.05  # share of the groups called weak that may not be
TAKEN = "taken for another class"  # the weakest reason to suspect a label
SHIELDED = ("fname", "label", "suggested", "group", "reason")  # columns of text in the list of suspects

# ------------------------------------------------------------------------------------------------- wrong labels


@dataclass(frozen=True)
class ConfidentLearning:
    """What out-of-fold probabilities say about the labels; `confident_learning` makes it."""

    thresholds: Floats  # (C,) a class's mean probability among the clips labelled so; inf for a class without any
    confident: Ints  # (n,) the class that a clip is confidently of; -1 where there is none
    joint: Ints  # (C, C) clips by label (row) and the class that they are confidently of (column)
    suspected: Bools  # (n,) confidently of another class than labelled


def confident_learning(truth: Ints, probabilities: Floats) -> ConfidentLearning:
    """Find label errors by confident learning (Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating
    Uncertainty in Dataset Labels", Journal of Artificial Intelligence Research 70).

    A clip is confidently of a class where its probability is at least the mean that the class has among the clips
    labelled so; of several such classes the likeliest counts. A clip that is confidently of another class than its
    label is suspected. So a class for which the networks are generally less sure asks for less.
    """
    classes = probabilities.shape[1]
    count = np.bincount(truth, minlength=classes)
    own = np.bincount(truth, weights=_of(probabilities, truth), minlength=classes)
    thresholds = np.divide(own, count, out=np.full(classes, np.inf), where=count > 0)
    certain = probabilities >= thresholds - 1e-9  # so that rounding does not part a clip from a mean that it equals
    confident = np.where(certain.any(1), np.where(certain, probabilities, -1).argmax(1), -1)
    joint = np.zeros((classes, classes), np.int64)
    np.add.at(joint, (truth[confident >= 0], confident[confident >= 0]), 1)
    return ConfidentLearning(thresholds, confident, joint, (confident >= 0) & (confident != truth))


def judge(truth: Ints, probabilities: Floats) -> DataFrame:
    """What the predictions say of each clip, a row each, in the clips' order.

    label, predicted: classes; p_label, p_predicted: their probabilities; loss: -log p_label; suspected: by
    `confident_learning`; suggested: another class than the label, the confident one of a suspected clip, else the
    likeliest; p_suggested: its probability.

    `p_label` is the quality of the label ("self-confidence"): the lower, the more likely it is wrong. docs/data.md
    has the simulation that it was chosen by.
    """
    import pandas as pd

    found = confident_learning(truth, probabilities)
    predicted = probabilities.argmax(1)
    others = probabilities.copy()
    others[np.arange(len(truth)), truth] = -1
    suggested = np.where(found.suspected, found.confident, others.argmax(1))
    p_label = _of(probabilities, truth)
    return pd.DataFrame(
        {
            "label": truth,
            "predicted": predicted,
            "p_label": p_label,
            "p_predicted": _of(probabilities, predicted),
            "loss": -np.log(np.maximum(p_label, SMALLEST)),
            "suspected": found.suspected,
            "suggested": suggested,
            "p_suggested": _of(probabilities, suggested),
        }
    )


def by_suspicion(judged: DataFrame) -> DataFrame:
    """All clips that `judge` judged, those first whose label is most likely wrong."""
    return judged.sort_values(["p_label", "p_predicted"], ascending=[True, False], kind="stable")


def confident_errors(judged: DataFrame, count: int) -> DataFrame:
    """Up to `count` clips taken for another class than labelled, those first of which the networks were surest."""
    wrong = judged[judged["predicted"] != judged["label"]]
    return wrong.sort_values("p_predicted", ascending=False, kind="stable").head(count)


def _of(probabilities: Floats, classes: Ints) -> Floats:
    """(n, C), (n,) -> (n,): each row's probability of one class."""
    return probabilities[np.arange(len(classes)), classes]


# ---------------------------------------------------------------------------------------------- what is confused


def confused_pairs(truth: Ints, predicted: Ints, num_classes: int) -> DataFrame:
    """Pairs of classes of which one is taken for the other, a row each, most errors first.

    a < b: the classes; errors: both directions together; a_as_b, b_as_a: clips labelled a and taken for b, and the
    reverse; a_as_b_rate, b_as_a_rate: their shares of the clips of that label; clips: tuples of positions.
    """
    import pandas as pd

    wrong = np.flatnonzero(truth != predicted)
    low, high = np.minimum(truth, predicted)[wrong], np.maximum(truth, predicted)[wrong]
    pair, which = np.unique(low.astype(np.int64) * num_classes + high, return_inverse=True)
    count = np.bincount(truth, minlength=num_classes)
    a, b = pair // num_classes, pair % num_classes
    errors = np.bincount(which, minlength=len(pair))
    a_as_b = np.bincount(which[truth[wrong] == low], minlength=len(pair))
    b_as_a = errors - a_as_b
    clips = np.split(wrong[np.argsort(which, kind="stable")], np.cumsum(errors)[:-1]) if len(pair) else []
    table = pd.DataFrame(
        {
            "a": a,
            "b": b,
            "errors": errors,
            "a_as_b": a_as_b,
            "b_as_a": b_as_a,
            "a_as_b_rate": a_as_b / np.maximum(count[a], 1),
            "b_as_a_rate": b_as_a / np.maximum(count[b], 1),
            "clips": [tuple(rows.tolist()) for rows in clips],
        }
    )
    return table.sort_values("errors", ascending=False, kind="stable", ignore_index=True)


def weak_groups(wrong: Bools, group: Ints, interval: Interval = wilson_interval) -> DataFrame:
    """Groups (speakers) with an error, a row each, the clearest weakness first.

    `wrong` (n,) says which clips are errors, `group` (n,) whose they are, 0 to G-1. Columns: group, clips, errors,
    rate, low and high (its 95 % interval), p_value, weak.

    `p_value` is of Fisher's exact test, one-sided: as many errors or more, had the errors fallen on clips whatever
    their group. `weak` holds where Benjamini and Hochberg's (1995) procedure over all groups keeps the share of false
    discoveries at 5 %. So a speaker with one clip of one wrong is never weak unless errors are very rare.
    """
    import pandas as pd
    from scipy.stats import false_discovery_control, hypergeom

    clips = np.bincount(group)
    errors = np.bincount(group[wrong], minlength=len(clips))
    listed = np.flatnonzero(errors)
    p_value = np.ones(len(clips))
    p_value[listed] = hypergeom.sf(errors[listed] - 1, len(wrong), errors.sum(), clips[listed]).clip(0, 1)
    asked = clips > 0
    adjusted = np.ones(len(clips))
    if asked.any():
        adjusted[asked] = false_discovery_control(p_value[asked])
    table = pd.DataFrame({"group": listed, **_shares(errors[listed], clips[listed], interval)})
    table["p_value"] = p_value[listed]
    table["weak"] = adjusted[listed] <= FALSE_DISCOVERIES
    return table.sort_values(["p_value", "errors"], ascending=[True, False], kind="stable", ignore_index=True)


def error_bins(wrong: Bools, value: Floats, bins: int = 10, interval: Interval = wilson_interval) -> DataFrame:
    """How errors hang on a `value` (n,) of the clips, such as level, duration or noise: a row a bin, in its order.

    Bins hold equally many clips as far as ties allow: equal values lie in one bin, so there may be fewer bins.
    Columns: least and most (value in the bin), clips, errors, rate, low and high (its 95 % interval).
    """
    import pandas as pd

    values, which, count = np.unique(value, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - count / 2  # rank of each value, the mean of its ties
    part = np.unique((middle * bins / max(len(value), 1)).astype(np.int64), return_inverse=True)[1]
    clips = np.bincount(part, weights=count).astype(np.int64)
    errors = np.bincount(part[which[wrong]], minlength=len(clips))
    first = np.flatnonzero(np.diff(part, prepend=-1))
    last = np.append(first[1:], len(values)) - 1 if len(first) else first
    bounds = {"least": values[first], "most": values[last]}
    return pd.DataFrame({**bounds, **_shares(errors, clips, interval)})


def _shares(errors: Ints, clips: Ints, interval: Interval) -> dict[str, Floats]:
    rate = errors / np.maximum(clips, 1)
    limits = [interval(share, count) for share, count in zip(rate.tolist(), clips.tolist(), strict=True)]
    low, high = np.array(limits).reshape(-1, 2).T
    return {"clips": clips, "errors": errors, "rate": rate, "low": low, "high": high}


# ------------------------------------------------------------------------------------------------ near duplicates


def disagreeing_duplicates(cluster: Sequence[str], truth: Ints, predicted: Ints) -> DataFrame:
    """Clusters of near duplicates that bear several labels, or that are taken for several classes, a row each.

    `cluster` (n,) names each clip's cluster, '' for none, as in clips.csv. Columns: cluster, labels (how many),
    predictions (how many), clips (a tuple of positions). Several labels come first: one of them is wrong.
    """
    import pandas as pd

    table = pd.DataFrame({"cluster": np.asarray(cluster, object), "label": truth, "predicted": predicted})
    table["clip"] = np.arange(len(table))
    grouped = table[table["cluster"] != ""].groupby("cluster", sort=False)
    counts = grouped[["label", "predicted"]].nunique().set_axis(["labels", "predictions"], axis=1)
    counts = counts[(counts > 1).any(axis=1)]
    clips = table[table["cluster"].isin(counts.index)].groupby("cluster")["clip"].agg(tuple)
    counts["clips"] = clips.reindex(counts.index).astype(object)
    return counts.sort_values("labels", ascending=False, kind="stable").reset_index()


# ----------------------------------------------------------------------------------------------------- the list


def list_suspects(clips: DataFrame, classes: Sequence[str], judged: DataFrame) -> DataFrame:
    """The clips that a person should listen to, the most suspicious first, with LIST_COLUMNS.

    `clips` has fname, group, fold and cluster, a row for each of `judged`. First come near duplicates under several
    labels, of which one must be wrong, then clips that are suspected or taken for another class.
    """
    import pandas as pd

    names = np.array(classes, object)
    fname, label = clips["fname"].to_numpy(object), judged["label"].to_numpy()
    twin = _contradicted(clips["cluster"].tolist(), label)
    reason = np.select(
        [twin >= 0, judged["suspected"], judged["predicted"] != label],
        [
            "labelled " + names[label[twin]] + ": its near duplicate " + fname[twin],
            "confidently of another class",
            TAKEN,
        ],
        "",
    )
    order = by_suspicion(judged).index.to_numpy()
    order = order[np.argsort(twin[order] < 0, kind="stable")]
    table = pd.DataFrame(
        {
            "fname": fname,
            "label": names[label],
            "suggested": names[judged["suggested"]],
            "action": "",
            "p_label": judged["p_label"].round(6),
            "p_suggested": judged["p_suggested"].round(6),
            "group": clips["group"].to_numpy(object),
            "fold": clips["fold"].to_numpy(),
            "reason": reason,
        }
    )
    return table.iloc[order[(reason != "")[order]]][list(LIST_COLUMNS)]


def _contradicted(cluster: Sequence[str], label: Ints) -> Ints:
    """For each clip the position of a near duplicate with another label, (n,); -1 where there is none."""
    twin = np.full(len(label), -1)
    for clips in disagreeing_duplicates(cluster, label, label)["clips"]:
        for clip in clips:
            twin[clip] = next(other for other in clips if label[other] != label[clip])
    return twin


def write_suspects(path: Path, suspects: DataFrame) -> None:
    """Write `list_suspects` as a CSV for ``preprocess.py --relabel``.

    The action column is empty, which changes nothing: a person writes relabel, drop or keep into it, and may put
    another class under suggested. A spreadsheet would run a text that begins with = + - or @: such cells get an
    apostrophe in front, which ``--relabel`` takes away again.
    """
    from preprocessing.decisions import shielded

    texts = {name: [shielded(text) for text in suspects[name]] for name in SHIELDED}
    with replacing(path) as beside:
        # Excel asks for the mark at the file's start.
        suspects.assign(**texts).to_csv(beside, index=False, lineterminator="\n", encoding="utf-8-sig")
