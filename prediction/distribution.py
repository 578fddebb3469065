"""How the labels of a submission are distributed, beside those of training: a collapse shows before any score does."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
NEAR_TIE = 0.1  # difference of a clip's two largest probabilities, below which it is near a tie
CHANCE = 0.001  # what is likelier than this by chance alone is not warned of
SHIFT = 0.1  # smallest share of the labels that would have to be others: a million rows make any difference significant
COLLAPSE = 0.9  # share of a single class ...
COLLAPSE_RATIO = 1.5  # ... and how many times its share of training that must be
EXCESS_RATIO = 3.0  # times its share of training, from which a class is far too frequent ...
EXCESS = 0.1  # ... if that is so large a part of all labels, too
LEAST_EXPECTED = 5.0  # clips of a class; rarer ones are pooled (Cochran 1954)


def tell_labels(predicted: Ints, near_ties: int | None, training: Ints, classes: tuple[str, ...]) -> None:
    """Say how labels are distributed and how many are doubtful; warn of what chance does not explain.

    `predicted` has the class of each clip, -1 where it has none; `training` the clips of each class in training.
    """
    count = np.bincount(predicted[predicted >= 0], minlength=len(classes))
    if not (total := int(count.sum())):
        return
    for warning in label_warnings(count, training, classes):
        print(f"warning: {warning}", file=sys.stderr)
    p, moved = shift_test(count, training)
    most, least = int(count.argmax()), int(count.argmin())
    tested = f"chi-square test, p {p:.2g}" if p is not None else "too few labels for a test"
    print(
        f"labels: {classes[most]} most often ({count[most] / total:.1%}), {classes[least]} least "
        f"({count[least] / total:.1%}); {moved:.1%} off the distribution in training ({tested})"
    )
    if near_ties is not None:
        share = near_ties / total
        print(f"near a tie: {near_ties:,} labels ({share:.1%}), whose two best classes are within {NEAR_TIE:g}")


def label_warnings(count: Ints, training: Ints, classes: tuple[str, ...]) -> list[str]:
    """What the numbers of labels of each class have that chance does not explain, given those of training; both (C,).

    One class has nearly all; or classes are missing or far too frequent; or else the distributions differ (shift_test).
    """
    from scipy.special import bdtrc

    total, expected = int(count.sum()), training / training.sum()
    share = count / total

    def said(c: int) -> str:
        return f"{share[c]:.1%} of the labels are {classes[c]}, in training {expected[c]:.1%}"

    # the chance of so many labels or more, had each been drawn by its share of training (Bonferroni's, for all classes)
    chance = len(classes) * np.where(count > 0, bdtrc(np.maximum(count - 1.0, 0), total, expected), 1.0)
    ratio = np.divide(share, expected, out=np.full(len(share), np.inf), where=expected > 0)
    top = int(count.argmax())
    if share[top] >= COLLAPSE and ratio[top] >= COLLAPSE_RATIO and chance[top] < CHANCE:
        return [said(top)]
    excess = (chance < CHANCE) & (ratio >= EXCESS_RATIO) & (share >= EXCESS)
    warnings = [said(c) for c in np.flatnonzero(excess).tolist()]
    missing = (count == 0) & (len(classes) * (1 - expected) ** total < CHANCE)
    if names := [f"{classes[c]} ({expected[c]:.1%} in training)" for c in np.flatnonzero(missing).tolist()]:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        warnings.append(f"classes that no clip is given: {len(names)} of {len(classes)}, {shown}")
    p, moved = shift_test(count, training)
    if not warnings and p is not None and p < CHANCE and moved >= SHIFT:
        most = np.abs(share - expected).argsort()[::-1][:3].tolist()
        shown = ", ".join(f"{classes[c]} {share[c]:.1%} for {expected[c]:.1%}" for c in most)
        warnings.append(f"the labels are not distributed as in training: {shown} (chi-square test, p {p:.1g})")
    return warnings


def shift_test(count: Ints, training: Ints) -> tuple[float | None, float]:
    """p of Pearson's chi-square test that labels and training are of one distribution, and how far they are apart.

    The distance is the total variation, half the sum of the differences of shares: the share of labels that would have
    to be others. Classes of fewer than LEAST_EXPECTED labels, as expected, are pooled; None, where that leaves one.
    """
    from scipy.special import chdtrc

    moved = 0.5 * float(np.abs(count / count.sum() - training / training.sum()).sum())
    table = np.stack([count, training]).astype(float)
    margin = table.sum(0) * count.sum() / table.sum()  # of labels
    rare = margin < LEAST_EXPECTED
    if rare.any():
        while margin[rare].sum() < LEAST_EXPECTED and not rare.all():
            rare[np.where(rare, np.inf, margin).argmin()] = True
        table = np.column_stack([table[:, ~rare], table[:, rare].sum(1)])
    if table.shape[1] < 2:
        return None, moved
    expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
    return float(chdtrc(table.shape[1] - 1, ((table - expected) ** 2 / expected).sum())), moved
