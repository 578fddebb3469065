"""How good predictions are, with 95 % intervals that take the clips of one speaker as dependent.

Throughout: `truth` (n,) class indices; `probabilities` (n, C), rows sum to 1; `group` (n,) codes of what is drawn
together, such as the speaker (None: every clip is its own group); `fold` (n,) the fold that held a clip out.

An interval says how far the score would move with other groups of the same kind, for the networks as they are; what
another training would change is not in it.

**Method.** Each metric is replaced by its first-order expansion, a sum over clips of values u_i that say how much clip
i moves it (linearisation, Binder 1983). With u_g a group's sum and n_g its clips, the variance is

    (G - 1) / G * sum_g (u_g / (1 - n_g / n))^2

which for a mean is the delete-one-group jackknife, exactly. The interval uses Student's t, whose degrees of freedom
follow from the spread of the squared terms (Satterthwaite's, with empirical moments as in Lipsitz, Ibrahim and Parzen
1999), and are at most G - 1: few groups, groups of uneven size and errors that sit in a few groups all make it wider.
Scores between 0 and 1 get Wilson's interval for the number of independent clips that would have this variance
(compared by Franco et al. 2019); log loss is treated on the log scale, differences as they are. The calibration error
is no smooth function of such sums: there whole groups are drawn again, by the bootstrap. How often all these hold the
truth, and how often the plain bootstrap does, is measured in docs/report.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from util import (
    Interval,
    balanced_accuracy_interval,
    between_0_and_1,
    group_codes,
    half_width,
    macro_f1,
    seed_of,
    share,
    student_t,
)

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
BINS = 15  # of equal mass, for calibration
RESAMPLES = 1000  # of the calibration error: its standard error is then known to 2 %
CURVE_POINTS = 200
PARTS = 5  # of the groups, where there are no folds to choose a threshold on


@dataclass(frozen=True)
class Scores:
    """All metrics of one set of clips."""

    clips: int
    accuracy: Interval
    balanced_accuracy: Interval
    macro_f1: Interval
    log_loss: Interval
    top3: Interval
    calibration_error: Interval


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class, of which there are `clips`."""

    clips: int
    precision: Interval
    recall: Interval
    f1: Interval


@dataclass(frozen=True)
class Summary:
    """Scores of all clips, by the fold that held them out, and by class (in order)."""

    overall: Scores
    folds: Mapping[int, Scores]
    classes: tuple[ClassScores, ...]


@dataclass(frozen=True)
class Comparison:
    """System a less system b on the same clips; `p_value` tests the difference of accuracy."""

    accuracy: Interval
    log_loss: Interval
    only_a_right: int
    only_b_right: int
    p_value: float


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram: `clips` with their mean confidence, and how many of them are right."""

    clips: int
    confidence: float
    accuracy: Interval


@dataclass(frozen=True)
class Coverage:
    """What share of the clips can be labelled, and how well, when only confident predictions are taken.

    `thresholds`, `shares` and `precisions`, (points,), are the curve over all clips: the predictions with at least this
    confidence, their share of all, the share of them that is right. `threshold` is where the most clips are taken at a
    precision of at least `target` (inf: nowhere), the one for new clips. Since it was chosen to look good on these very
    clips, `share` and `precision` are those of thresholds that were each chosen on the other folds.
    """

    thresholds: Floats
    shares: Floats
    precisions: Floats
    target: float
    threshold: float
    share: Interval
    precision: Interval

    @property
    def reached(self) -> bool:
        """Whether there is a threshold that takes any clips at the target."""
        return math.isfinite(self.threshold) and self.share.value > 0


# -------------------------------------------------------------------------------------------------- clip by clip


def losses(truth: Ints, probabilities: Floats) -> NDArray[np.float64]:
    """Log loss (natural logarithm) of each clip, (n,).

    Computed in float64, the probabilities clipped to [eps, 1 - eps] of that, as scikit-learn's `log_loss` does.
    """
    chosen = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    eps = np.finfo(np.float64).eps
    return -np.log(np.clip(chosen, eps, 1 - eps))


def top_k_hits(truth: Ints, probabilities: Floats, k: int) -> Bools:
    """Whether the class of each clip is among its `k` most probable ones, (n,).

    Of equally probable classes the last ones come first, as in scikit-learn's `top_k_accuracy_score`.
    """
    own = probabilities[np.arange(len(truth)), truth][:, None]
    later = np.arange(probabilities.shape[1]) > truth[:, None]
    hits: Bools = ((probabilities > own) | (probabilities == own) & later).sum(1) < k
    return hits


def equal_mass_bins(confidence: Floats) -> NDArray[np.int64]:
    """The bin, 0 to BINS - 1, of each of n confidences.

    It is floor(BINS * r / n), r being the number of lower confidences. So equal ones share a bin, whatever their order;
    where all differ, bins are of equal size but for one clip; ties, or fewer clips than bins, leave some bins empty.
    """
    rank = np.searchsorted(np.sort(confidence), confidence)
    return rank * BINS // max(1, len(confidence))


def calibration_error(truth: Ints, probabilities: Floats) -> float:
    """Expected calibration error: how far confidence is from accuracy, on average; nan where n = 0.

    Confidence is the probability of the predicted class. All clips given (so all folds) are pooled into BINS bins of
    equal mass, `equal_mass_bins`; the error is the sum over bins of (clips in it / n) * |accuracy - mean confidence|
    (Naeini et al. 2015, there with bins of equal width). Even perfect calibration gives more than 0: in each bin chance
    adds about 0.8 standard errors.
    """
    if not len(truth):
        return math.nan
    gap, bins = _gaps(truth, probabilities)
    return float(np.abs(np.bincount(bins, gap)).sum() / len(truth))


def _gaps(truth: Ints, probabilities: Floats) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Each clip's being right (0 or 1) less its confidence, and its bin."""
    confidence = probabilities.max(1).astype(np.float64)
    return (probabilities.argmax(1) == truth) - confidence, equal_mass_bins(confidence)


# ----------------------------------------------------------------------------------------------------- intervals


def mean_log_loss(loss: Floats, group: Ints | None = None) -> Interval:
    """The mean of `losses`, (n,)."""
    if not len(loss):
        return Interval(math.nan, 0.0, math.inf)
    value = float(np.mean(loss))
    half = half_width((loss - value) / len(loss), group_codes(group, len(loss))[0])
    low, high = np.exp(np.log(value) + np.array([-half, half]) / value)
    return Interval(value, float(low), float(high))


def macro_f1_interval(truth: Ints, predicted: Ints, num_classes: int, group: Ints | None = None) -> Interval:
    """`util.macro_f1` of two (n,) arrays of class indices."""
    if not len(truth):
        return Interval(math.nan, 0.0, 1.0)
    value = macro_f1(truth, predicted, num_classes)
    # F1 of a class is 2 both / (true + taken): a clip adds to the first where it is right, to the second where it is of
    # the class and where it is taken for it.
    true, taken, both = (
        np.bincount(classes, minlength=num_classes) for classes in (truth, predicted, truth[truth == predicted])
    )
    each = np.maximum(true + taken, 1)
    f1 = 2 * both / each
    moved = 2 * (truth == predicted) / each[truth] - (f1 / each)[truth] - (f1 / each)[predicted]
    moved /= np.count_nonzero(true + taken)
    return between_0_and_1(value, moved, group_codes(group, len(truth))[0], len(truth))


def f1_interval(true: Bools, predicted: Bools, group: Ints | None = None) -> Interval:
    """F1 of one class, from which clips are of it and which are taken for it, both (n,); 0 where none is right."""
    either = true | predicted
    group = None if group is None else group[either]
    true, predicted = true[either], predicted[either]
    if not len(true):
        return Interval(math.nan, 0.0, 1.0)
    counted = true.astype(np.int64) + predicted
    value = float(2 * np.count_nonzero(true & predicted) / counted.sum())
    moved = (2 * (true & predicted) - value * counted) / counted.sum()
    return between_0_and_1(value, moved, group_codes(group, len(true))[0], float(counted.sum()))


def calibration_interval(
    truth: Ints, probabilities: Floats, generator: np.random.Generator, group: Ints | None = None
) -> Interval:
    """`calibration_error`, with an interval from RESAMPLES bootstrap draws of whole groups.

    The draws keep the bins of the sample; s is the standard deviation of their errors. The limits are E - c - t s and
    E + t s. Chance only ever adds to the error: c is what it would add were calibration perfect, the mean over draws of
    the summed distances between a draw's bins and the sample's. So a lower limit above 0 speaks against perfect
    calibration, and the interval is wider than need be where bins are off by more than chance.
    """
    if not len(truth):
        return Interval(math.nan, 0.0, 1.0)
    value = calibration_error(truth, probabilities)
    code, groups = group_codes(group, len(truth))
    if groups < 2:
        return Interval(value, 0.0, 1.0)
    gap, bins = _gaps(truth, probabilities)
    sums = np.bincount(code * BINS + bins, gap, groups * BINS).reshape(groups, BINS)
    drawn = bootstrap_sums(np.column_stack([sums, np.bincount(code)]), generator)
    gaps = drawn[:, :-1] / drawn[:, -1:]
    chance = float(np.abs(gaps - sums.sum(0) / len(truth)).sum(1).mean())
    half = student_t(groups - 1) * math.sqrt(groups / (groups - 1)) * float(np.abs(gaps).sum(1).std())
    return Interval(value, max(0.0, value - chance - half), min(1.0, value + half))


def bootstrap_sums(sums: Floats, generator: np.random.Generator, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """(groups, K) sums over each group's clips -> (resamples, K): over as many groups, drawn with replacement."""
    groups = len(sums)
    block = max(1, (1 << 20) // groups)  # resamples at a time: some 20 MB
    result = np.empty((resamples, sums.shape[1]))
    for start in range(0, resamples, block):
        part = result[start : start + block]
        drawn = generator.integers(groups, size=(len(part), groups)) + groups * np.arange(len(part))[:, None]
        times = np.bincount(drawn.ravel(), minlength=groups * len(part)).reshape(len(part), groups)
        part[:] = times.astype(np.float64) @ sums
    return result


# ------------------------------------------------------------------------------------------------------ together


def summarise(truth: Ints, probabilities: Floats, fold: Ints, group: Ints | None = None, seed: int = 0) -> Summary:
    """All metrics with their intervals: over all folds, by fold, and by class; `seed` is of the bootstrap draws."""
    generator = np.random.default_rng(seed_of(seed))
    folds = {}
    for number in np.unique(fold).tolist():
        held = fold == number
        folds[number] = scores(truth[held], probabilities[held], generator, None if group is None else group[held])
    overall = scores(truth, probabilities, generator, group)
    return Summary(overall, folds, class_scores(truth, probabilities, group))


def scores(truth: Ints, probabilities: Floats, generator: np.random.Generator, group: Ints | None = None) -> Scores:
    """All metrics of one set of clips."""
    predicted, classes = probabilities.argmax(1), probabilities.shape[1]
    return Scores(
        clips=len(truth),
        accuracy=share(predicted == truth, group),
        balanced_accuracy=balanced_accuracy_interval(truth, predicted, classes, group),
        macro_f1=macro_f1_interval(truth, predicted, classes, group),
        log_loss=mean_log_loss(losses(truth, probabilities), group),
        top3=share(top_k_hits(truth, probabilities, 3), group),
        calibration_error=calibration_interval(truth, probabilities, generator, group),
    )


def class_scores(truth: Ints, probabilities: Floats, group: Ints | None = None) -> tuple[ClassScores, ...]:
    """Precision, recall and F1 of each class, in order."""
    right_class = probabilities.argmax(1)

    def one(number: int) -> ClassScores:
        true, predicted = truth == number, right_class == number
        return ClassScores(
            clips=int(np.count_nonzero(true)),
            precision=share(true[predicted], None if group is None else group[predicted]),
            recall=share(predicted[true], None if group is None else group[true]),
            f1=f1_interval(true, predicted, group),
        )

    return tuple(one(number) for number in range(probabilities.shape[1]))


# ---------------------------------------------------------------------------------------------------- comparison


def compare(truth: Ints, a: Floats, b: Floats, group: Ints | None = None) -> Comparison:
    """Two systems' probabilities (n, C) for the same clips, at least one.

    Each difference is a mean over clips of a's value less b's. Where both are right on the same clips, the interval of
    accuracy comes from Wilson's upper limit of the share of clips on which they might differ.
    """
    code, _ = group_codes(group, len(truth))
    right_a, right_b = a.argmax(1) == truth, b.argmax(1) == truth
    gain = right_a.astype(np.int64) - right_b
    accuracy = mean_difference(gain, code)
    if not gain.any():
        most = share(gain != 0, group).high
        accuracy = Interval(0.0, -most, most)
    return Comparison(
        accuracy=Interval(accuracy.value, max(-1.0, accuracy.low), min(1.0, accuracy.high)),
        log_loss=mean_difference(losses(truth, a) - losses(truth, b), code),
        only_a_right=int(np.count_nonzero(gain > 0)),
        only_b_right=int(np.count_nonzero(gain < 0)),
        p_value=sign_flip_p_value(np.rint(np.bincount(code, gain)).astype(np.int64)),
    )


def mean_difference(difference: Floats | Ints, group: Ints | None = None) -> Interval:
    """The mean of each clip's difference between two systems, (n,), at least one."""
    value = float(np.mean(difference))
    half = half_width((difference - value) / len(difference), group_codes(group, len(difference))[0])
    return Interval(value, value - half, value + half)


def sign_flip_p_value(differences: Ints) -> float:
    """Two-sided p value of whole-numbered differences, one a group: how often random signs sum to as much or more.

    The null hypothesis is that the two systems could be exchanged in any group. All 2^groups flips are counted, not
    drawn: the distribution of their sum is the inverse Fourier transform of the product of cos(d t). With one clip a
    group it is McNemar's exact test. Below 1e-12 that transform's rounding errors rule, and 1e-12 is given.
    """
    size, times = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    total, seen = int(size @ times), abs(int(differences.sum()))
    if seen == 0:
        return 1.0
    angle = 2 * math.pi / (2 * total + 1) * np.arange(total + 1)
    spectrum = np.ones(total + 1)
    for one, count in zip(size, times, strict=True):
        spectrum *= np.cos(one * angle) ** count
    chance = np.fft.irfft(spectrum, 2 * total + 1)  # of the sums 0 … total; the negative ones mirror them
    return float(np.clip(2 * chance[seen : total + 1].sum(), 1e-12, 1.0))


# ------------------------------------------------------------------------------------------- confidence as a guide


def reliability(truth: Ints, probabilities: Floats, group: Ints | None = None) -> tuple[Bin, ...]:
    """The bins of `calibration_error` that hold clips, from low confidence to high."""
    confidence, hits = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == truth
    bins = equal_mass_bins(confidence)

    def one(number: int) -> Bin:
        rows = bins == number
        accuracy = share(hits[rows], None if group is None else group[rows])
        return Bin(int(rows.sum()), float(confidence[rows].mean()), accuracy)

    return tuple(one(number) for number in np.unique(bins).tolist())


def coverage(
    truth: Ints, probabilities: Floats, fold: Ints, group: Ints | None = None, target: float = 0.99
) -> Coverage:
    """How many clips can be labelled at a precision of `target`, and the curve of at most CURVE_POINTS thresholds.

    A fold's threshold is the one that takes most clips of all other folds at the target; with a single fold, PARTS
    parts of the groups stand in for folds.
    """
    confidence, hits = probabilities.max(1), probabilities.argmax(1) == truth
    thresholds, shares, precisions = _curve(confidence, hits)
    part = fold if len(np.unique(fold)) > 1 else group_codes(group, len(truth))[0] % PARTS
    taken = np.zeros(len(truth), np.bool_)
    for number in np.unique(part):
        held = part == number
        taken[held] = confidence[held] >= _threshold(*_curve(confidence[~held], hits[~held]), target)
    points = np.unique(np.linspace(0, len(thresholds) - 1, min(CURVE_POINTS, len(thresholds))).round().astype(np.int64))
    return Coverage(
        thresholds[points],
        shares[points],
        precisions[points],
        target,
        _threshold(thresholds, shares, precisions, target),
        share(taken, group),
        share(hits[taken], None if group is None else group[taken]),
    )


def _curve(confidence: Floats, hits: Bools) -> tuple[Floats, Floats, Floats]:
    """Each confidence that occurs, from high to low; the share of clips with at least that, and the precision there."""
    order = np.argsort(-confidence, kind="stable")
    ordered = confidence[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) if len(ordered) else np.zeros(0, np.int64)
    return ordered[last], (last + 1) / max(1, len(ordered)), np.cumsum(hits[order])[last] / (last + 1)


def _threshold(thresholds: Floats, shares: Floats, precisions: Floats, target: float) -> float:
    """The lowest threshold of a `_curve` whose precision is at least `target`; inf where there is none."""
    good = np.flatnonzero(precisions >= target)
    return float(thresholds[good[-1]]) if len(good) else math.inf
