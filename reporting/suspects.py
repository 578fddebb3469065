"""What to fix: suspected wrong labels, hard clips, confused classes, weak speakers, and what errors depend on.

Everything is NumPy on out-of-fold predictions. n clips of C classes: `truth` (n,) int is the class that each clip is
labelled, `probabilities` (n, C) are those of networks that were not trained on the clip. Tables have a row a clip,
with the clip's position as their index, unless said otherwise. pandas and scipy are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Sequence
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
FALSE_DISCOVERIES = 0.05  # share of the groups called weak that may not be
TAKEN = "taken for another class"  # the weakest reason to suspect a label
SHIELDED = ("fname", "label", "suggested", "group", "reason")  # columns of text in the list of suspects

# ------------------------------------------------------------------------------------------------- wrong labels


def confident_classes(truth: Ints, probabilities: Floats) -> Ints:
    """The class that each clip is confidently of, (n,), -1 where there is none, by confident learning.

    A clip is confidently of a class where its probability is at least the mean that the class has among the clips
    labelled so; of several such classes the likeliest counts. A clip that is confidently of another class than its
    label is suspected. So a class for which the networks are generally less sure asks for less. (Northcutt, Jiang and
    Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels", Journal of Artificial Intelligence
    Research 70.)
    """
    classes = probabilities.shape[1]
    count = np.bincount(truth, minlength=classes)
    own = np.bincount(truth, weights=_of(probabilities, truth), minlength=classes)
    thresholds = np.divide(own, count, out=np.full(classes, np.inf), where=count > 0)
    certain = probabilities >= thresholds - 1e-9  # so that rounding does not part a clip from a mean that it equals
    return np.where(certain.any(1), np.where(certain, probabilities, -1).argmax(1), -1)


def judge(truth: Ints, probabilities: Floats) -> DataFrame:
    """What the predictions say of each clip, a row each, in the clips' order.

    label, predicted: classes; p_label, p_predicted: their probabilities; suspected: by `confident_classes`; suggested:
    another class than the label, the confident one of a suspected clip, else the likeliest; p_suggested: its
    probability.

    `p_label` is the quality of the label ("self-confidence"): the lower, the more likely it is wrong. docs/data.md
    has the simulation that it was chosen by.
    """
    import pandas as pd

    confident = confident_classes(truth, probabilities)
    suspected = (confident >= 0) & (confident != truth)
    predicted = probabilities.argmax(1)
    others = probabilities.copy()
    others[np.arange(len(truth)), truth] = -1
    suggested = np.where(suspected, confident, others.argmax(1))
    return pd.DataFrame(
        {
            "label": truth,
            "predicted": predicted,
            "p_label": _of(probabilities, truth),
            "p_predicted": _of(probabilities, predicted),
            "suspected": suspected,
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


def confused_pairs(counts: Ints) -> DataFrame:
    """Pairs of classes of which one is taken for the other, a row each, most errors first, from (C, C) confusions.

    a < b: the classes; errors: both directions together; a_as_b, b_as_a: clips labelled a and taken for b, and the
    reverse.
    """
    import pandas as pd

    a, b = np.nonzero(np.triu(counts + counts.T, 1))
    a_as_b, b_as_a = counts[a, b], counts[b, a]
    table = pd.DataFrame({"a": a, "b": b, "errors": a_as_b + b_as_a, "a_as_b": a_as_b, "b_as_a": b_as_a})
    return table.sort_values("errors", ascending=False, kind="stable", ignore_index=True)


def weak_groups(wrong: Bools, group: Ints) -> DataFrame:
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
    adjusted[asked] = false_discovery_control(p_value[asked])
    clips, errors = clips[listed], errors[listed]
    rate = errors / clips
    limits = [wilson_interval(share, count) for share, count in zip(rate.tolist(), clips.tolist(), strict=True)]
    low, high = np.array(limits).reshape(-1, 2).T
    table = pd.DataFrame({"group": listed, "clips": clips, "errors": errors, "rate": rate, "low": low, "high": high})
    table["p_value"], table["weak"] = p_value[listed], adjusted[listed] <= FALSE_DISCOVERIES
    return table.sort_values(["p_value", "errors"], ascending=[True, False], kind="stable", ignore_index=True)


def equal_bins(value: Floats, bins: int = 10) -> Ints:
    """The bin, from 0 without gaps, of each of n values, such as levels, durations or noise.

    Bins hold equally many clips as far as ties allow: equal values lie in one bin, so there may be fewer bins.
    """
    _, which, count = np.unique(value, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - count / 2  # rank of each value, the mean of its ties
    part = np.unique((middle * bins / max(len(value), 1)).astype(np.int64), return_inverse=True)[1]
    return part[which]


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
