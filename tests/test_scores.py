"""Metrics against scikit-learn, intervals against brute force, tests against scipy, and numbers worked by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, t

from reporting import scores as rs
from reporting.scores import Floats, Ints
from tests.nested import make
from util import Interval, accuracy, macro_f1, share, wilson_interval

MADE = make(np.random.default_rng(0), 200, 3.0)  # some 2,000 clips


def one_hot(predicted: Ints, classes: int) -> Floats:
    return np.eye(classes)[predicted]


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


# ------------------------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize("kind", ["float64", "float32", "coarse", "certain"])
def test_metrics_are_scikit_learns(kind: str) -> None:
    truth = MADE.truth
    probabilities: Floats = MADE.a.astype(np.float64)
    if kind == "coarse":  # many ties
        probabilities = np.round(4 * probabilities) / 4 + 1e-3
    if kind == "certain":  # zeros and ones, to be clipped
        probabilities = one_hot(probabilities.argmax(1), 10)
    probabilities /= probabilities.sum(1, keepdims=True)
    got = rs.scores(truth, MADE.a if kind == "float32" else probabilities, generator(), MADE.group)
    predicted = probabilities.argmax(1)
    expected = {
        "accuracy": sk.accuracy_score(truth, predicted),
        "macro_f1": sk.f1_score(truth, predicted, average="macro", zero_division=0),
        "log_loss": sk.log_loss(truth, probabilities),
        "top3": sk.top_k_accuracy_score(truth, probabilities, k=3),
    }
    for name, value in expected.items():
        # Rows of float32 sum to 1 but for about 1e-7.
        close = 1e-7 if (kind, name) == ("float32", "log_loss") else 1e-12
        assert getattr(got, name).value == pytest.approx(value, abs=close), name


def test_scores_of_classes_are_scikit_learns() -> None:
    truth, predicted = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 1, 1, 0, 1])  # 2 is never right, 3 never seen
    got = rs.class_scores(truth, one_hot(predicted, 4))
    expected = sk.precision_recall_fscore_support(truth, predicted, labels=range(4), zero_division=np.nan)
    for number, (precision, recall, _, clips) in enumerate(zip(*expected, strict=True)):
        one = got[number]
        assert one.clips == clips
        assert (one.precision.value, one.recall.value) == pytest.approx((precision, recall), abs=1e-12, nan_ok=True)
    assert [one.f1.value for one in got[:3]] == pytest.approx([0.5, 4 / 7, 0])
    assert str(got[3].f1) == "no clips"


def test_bins_of_equal_mass_keep_ties_together() -> None:
    confidence = np.random.default_rng(0).random(100)
    sizes = np.bincount(rs.equal_mass_bins(confidence))
    assert (len(sizes), sizes.min(), sizes.max()) == (15, 6, 7)
    tied = np.round(confidence, 1)
    rank = pd.Series(tied).rank(method="min").to_numpy() - 1
    np.testing.assert_array_equal(rs.equal_mass_bins(tied), np.floor(15 * rank / 100))


def test_calibration_error_by_hand() -> None:
    # Confidences 0.6, 0.6, 0.9 and 0.8; the first two share a bin: half of them right, 0.1 too sure; then 0.1 and 0.8.
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4], [0.1, 0.9], [0.2, 0.8]])
    truth = np.array([0, 1, 1, 0])
    assert rs.calibration_error(truth, probabilities) == pytest.approx((2 * 0.1 + 0.1 + 0.8) / 4)
    assert math.isnan(rs.calibration_error(truth[:0], probabilities[:0]))


@pytest.mark.parametrize("digits", [9, 2])
def test_calibration_error_is_that_of_a_table(digits: int) -> None:
    confidence = np.clip(np.round(MADE.a.max(1).astype(np.float64), digits), 0.5, 1)  # two digits: large ties
    right = MADE.a.argmax(1) == MADE.truth
    table = pd.DataFrame({"confidence": confidence, "right": right})
    table["bin"] = (table["confidence"].rank(method="min") - 1) * 15 // len(table)
    bins = table.groupby("bin").agg(n=("right", "size"), right=("right", "mean"), confidence=("confidence", "mean"))
    expected = float((bins["n"] / len(table) * (bins["right"] - bins["confidence"]).abs()).sum())
    two = np.stack([confidence, 1 - confidence], 1)
    assert rs.calibration_error(np.where(right, 0, 1), two) == pytest.approx(expected, abs=1e-12)
    shown = rs.reliability(np.where(right, 0, 1), two, MADE.group)
    assert [one.clips for one in shown] == bins["n"].tolist()
    assert [one.confidence for one in shown] == pytest.approx(bins["confidence"].tolist())
    assert [one.accuracy.value for one in shown] == pytest.approx(bins["right"].tolist())


# ----------------------------------------------------------------------------------------------------- intervals


def test_text_of_an_interval() -> None:
    assert str(Interval(0.9421, 0.936, 0.948)) == "0.942 (0.936-0.948)"
    assert str(Interval(0.01, -0.02, 0.04)) == "0.010 (-0.020 to 0.040)"


def test_clips_on_their_own_get_wilsons_interval() -> None:
    hits = np.arange(100) < 94
    expected = wilson_interval(0.94, 100)
    for group in (None, np.arange(100) + 7):
        got = share(hits, group)
        assert (got.low, got.high) == pytest.approx(expected)


def without_each_group(value: object, group: Ints) -> Floats:
    """A metric, given a mask of clips, without each group in turn."""
    return np.array([value(group != one) for one in np.unique(group)])  # type: ignore[operator]


def test_variances_are_those_of_leaving_out_one_group() -> None:
    predicted, loss = MADE.a.argmax(1), rs.losses(MADE.truth, MADE.a)
    groups = 200
    left = without_each_group(lambda keep: loss[keep].mean(), MADE.group)
    moved = left - loss.mean()
    error = math.sqrt((groups - 1) / groups * (moved**2).sum())
    freedom = 2 * (moved**2).sum() ** 2 / ((moved**4).sum() - (moved**2).sum() ** 2 / groups)
    half = t.ppf(0.975, min(freedom, groups - 1)) * error
    got = rs.mean_log_loss(loss, MADE.group)
    assert (got.low, got.high) == pytest.approx([loss.mean() * math.exp(s * half / loss.mean()) for s in (-1, 1)])

    left = without_each_group(lambda keep: macro_f1(MADE.truth[keep], predicted[keep], 10), MADE.group)
    moved = left - macro_f1(MADE.truth, predicted, 10)
    error = math.sqrt((groups - 1) / groups * (moved**2).sum())
    f1 = rs.macro_f1_interval(MADE.truth, predicted, 10, MADE.group)
    assert f1.high - f1.low == pytest.approx(2 * t.ppf(0.975, 90) * error, rel=0.05)


def test_the_bootstrap_draws_whole_groups() -> None:
    sums = np.stack([np.bincount(MADE.group, MADE.a.argmax(1) == MADE.truth), np.bincount(MADE.group)], 1)
    drawn = rs.bootstrap_sums(sums.astype(np.float64), generator(), 3000)
    means = drawn[:, 0] / drawn[:, 1]
    got = share(MADE.a.argmax(1) == MADE.truth, MADE.group)
    assert got.value == pytest.approx(means.mean(), abs=1e-3)
    assert got.high - got.low == pytest.approx(2 * 1.97 * means.std(), rel=0.08)
    ones = rs.bootstrap_sums(np.ones((5, 1)), generator(), 10)
    np.testing.assert_array_equal(ones, 5)  # as many groups as there are


def test_perfect_calibration_is_within_its_interval_and_boasting_is_not() -> None:
    draw = np.random.default_rng(0)
    contain_0 = 0
    for _ in range(40):
        probabilities = draw.dirichlet(np.full(4, 0.3), 600)
        truth = (draw.random((600, 1)) > probabilities.cumsum(1)).sum(1).clip(max=3)  # each as probable as it is said
        contain_0 += rs.calibration_interval(truth, probabilities, draw, np.arange(600) % 60).low == 0
    assert contain_0 >= 36
    sharper = probabilities**2 / (probabilities**2).sum(1, keepdims=True)
    assert rs.calibration_interval(truth, sharper, draw).low > 0.02


def test_copies_of_a_clip_in_its_group_add_nothing() -> None:
    hits = np.arange(50) % 10 > 0
    alone, copied = share(hits), share(np.repeat(hits, 20), np.repeat(np.arange(50), 20))
    assert copied.value == alone.value
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.15)


def test_all_right_is_not_certain() -> None:
    hits, group = np.ones(300, np.bool_), np.arange(300) % 30
    assert share(hits) == Interval(1.0, *wilson_interval(1.0, 300))
    grouped = share(hits, group)
    assert (grouped.low, grouped.high) == pytest.approx(wilson_interval(1.0, 30))
    assert share(~hits, group).high == pytest.approx(1 - grouped.low)
    truth = np.arange(300) % 3
    sure = rs.scores(truth, one_hot(truth, 3), generator(), group)
    assert sure.macro_f1.low == pytest.approx(grouped.low)
    one_wrong = share(np.arange(300) > 0, group)
    assert grouped.low < one_wrong.low < 0.99  # one error says little about how they cluster


def test_one_group_and_no_clips_say_nothing() -> None:
    one = rs.scores(MADE.truth, MADE.a, generator(), np.zeros(len(MADE.truth), np.int64))
    for interval in (one.accuracy, one.macro_f1, one.top3, one.calibration_error):
        assert (interval.low, interval.high) == (0, 1)
    assert (one.log_loss.low, one.log_loss.high) == (0, math.inf)
    none = rs.scores(MADE.truth[:0], MADE.a[:0], generator())
    assert {str(getattr(none, name)) for name in ("accuracy", "macro_f1", "log_loss", "calibration_error")} == {
        "no clips"
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(2, 5), st.integers(0, 2**32))
def test_intervals_hold_their_value_and_codes_mean_nothing(clips: int, groups: int, classes: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    truth, group = draw.integers(classes, size=clips), draw.integers(groups, size=clips)
    probabilities = draw.dirichlet(np.full(classes, 0.3), clips)
    whole = rs.summarise(truth, probabilities, group % 3, group)
    for one in (whole.overall, *whole.folds.values()):
        for name in ("accuracy", "macro_f1", "log_loss", "top3", "calibration_error"):
            interval = getattr(one, name)
            assert interval.low <= interval.value + 1e-12
            assert interval.value <= interval.high + 1e-12
    renamed = rs.summarise(truth, probabilities, group % 3, 100 - 7 * group)
    assert renamed.overall.accuracy.low == pytest.approx(whole.overall.accuracy.low)
    assert renamed.overall.log_loss.high == pytest.approx(whole.overall.log_loss.high)


def test_a_summary_holds_folds_and_classes() -> None:
    fold = MADE.group % 4
    got = rs.summarise(MADE.truth, MADE.a, fold, MADE.group)
    assert list(got.folds) == [0, 1, 2, 3]
    assert sum(one.clips for one in got.folds.values()) == got.overall.clips == len(MADE.truth)
    second = rs.scores(MADE.truth[fold == 1], MADE.a[fold == 1], generator(), MADE.group[fold == 1])
    assert got.folds[1].log_loss == second.log_loss
    assert np.mean([one.f1.value for one in got.classes]) == pytest.approx(got.overall.macro_f1.value)
    assert rs.summarise(MADE.truth, MADE.a, fold, MADE.group) == got


# ---------------------------------------------------------------------------------------------------- comparison


def test_sign_flips_are_counted() -> None:
    differences = np.array([3, -1, 0, 2, 2, -1, 4])
    flips = np.array(list(itertools.product([-1, 1], repeat=len(differences)))) @ differences
    assert rs.sign_flip_p_value(differences) == pytest.approx(np.mean(np.abs(flips) >= differences.sum()), abs=1e-12)
    assert rs.sign_flip_p_value(np.zeros(3, np.int64)) == 1
    assert rs.sign_flip_p_value(np.array([1, -1])) == 1
    assert rs.sign_flip_p_value(np.ones(2000, np.int64)) == 1e-12


@pytest.mark.parametrize(("only_a", "only_b"), [(9, 2), (0, 5), (300, 240)])
def test_without_groups_it_is_mcnemars_exact_test(only_a: int, only_b: int) -> None:
    truth = np.zeros(1000, np.int64)
    a, b = np.zeros(1000, np.int64), np.zeros(1000, np.int64)
    b[:only_a] = 1
    a[only_a : only_a + only_b] = 1
    got = rs.compare(truth, one_hot(a, 2), one_hot(b, 2))
    assert got.p_value == pytest.approx(binomtest(only_a, only_a + only_b).pvalue, rel=1e-9)
    assert (got.only_a_right, got.only_b_right) == (only_a, only_b)
    assert got.accuracy.value == pytest.approx((only_a - only_b) / 1000)
    if only_a == 300:
        gain = (a == 0).astype(int) - (b == 0)
        half = t.ppf(0.975, 999) * gain.std(ddof=1) / math.sqrt(1000)
        assert got.accuracy.high - got.accuracy.value == pytest.approx(half, rel=0.01)


def test_comparing_is_antisymmetric_and_groups_count() -> None:
    got, turned = (rs.compare(MADE.truth, *pair, MADE.group) for pair in ((MADE.a, MADE.b), (MADE.b, MADE.a)))
    assert got.accuracy.low == pytest.approx(-turned.accuracy.high)
    assert got.log_loss.high == pytest.approx(-turned.log_loss.low)
    assert got.p_value == pytest.approx(turned.p_value)
    assert got.accuracy.value == pytest.approx(accuracy(MADE.truth, MADE.a.argmax(1)) - sk.accuracy_score(
        MADE.truth, MADE.b.argmax(1)))  # fmt: skip
    copies = np.repeat(np.arange(len(MADE.truth)), 5)  # five times the clips are no more evidence
    again = rs.compare(MADE.truth[copies], MADE.a[copies], MADE.b[copies], MADE.group[copies])
    assert again.p_value == pytest.approx(got.p_value, rel=1e-6)
    assert again.accuracy.low == pytest.approx(got.accuracy.low)


def test_equal_answers_are_not_certainly_equal_systems() -> None:
    got = rs.compare(MADE.truth, MADE.a, MADE.a, MADE.group)
    assert got.p_value == 1
    assert got.accuracy.low == -got.accuracy.high < 0


# -------------------------------------------------------------------------------------------------------- coverage


def test_the_threshold_of_each_fold_comes_from_the_others() -> None:
    # Fold 0 is wrong below 0.8, fold 1 below 0.6; all confidences differ.
    confidence = np.concatenate([np.linspace(0.5, 0.99, 50), np.linspace(0.505, 0.995, 50)])
    fold = np.repeat([0, 1], 50)
    right = confidence >= np.where(fold == 0, 0.799, 0.599)
    two = np.stack([confidence, 1 - confidence], 1)
    got = rs.coverage(np.where(right, 0, 1), two, fold, target=1.0)
    taken = confidence >= np.where(fold == 0, 0.605, 0.8)
    assert got.share.value == pytest.approx(taken.mean())
    assert got.precision.value == pytest.approx(right[taken].mean())
    assert got.precision.value < 1  # fold 0 is taken from where fold 1 is good
    assert got.threshold == pytest.approx(0.795)  # on all clips, for new ones
    assert got.shares[-1] == 1
    assert got.precisions[-1] == pytest.approx(right.mean())
    assert (np.diff(got.thresholds) < 0).all()
    chosen = got.thresholds == got.threshold
    assert got.precisions[chosen].tolist() == [1.0]


def test_thresholds_with_ties_one_fold_and_none_good_enough() -> None:
    truth, confidence = np.array([0, 1, 0, 0, 0] * 100), np.full(500, 0.75)
    two = np.stack([confidence, 1 - confidence], 1)
    got = rs.coverage(truth, two, np.zeros(500, np.int64), target=0.5)
    assert (got.shares.tolist(), got.precisions.tolist(), got.threshold) == ([1.0], [0.8], 0.75)
    assert (got.share.value, got.precision.value) == (1, 0.8)  # tied clips are taken together or not at all
    never = rs.coverage(truth, two, np.arange(500) // 100, target=0.9)
    assert (never.threshold, never.share.value, str(never.precision)) == (math.inf, 0, "no clips")
    assert len(rs.coverage(MADE.truth, MADE.a, MADE.group % 5, MADE.group).thresholds) == rs.CURVE_POINTS


# ---------------------------------------------------------------------------------------------------- simulation


def test_intervals_cover_the_truth() -> None:
    """In short; docs/report.md has the figures. 100 repetitions know a share to within 0.04."""

    def intervals(margin: float, seed: tuple[int, ...], groups: int) -> dict[str, Interval]:
        made = make(np.random.default_rng(seed), groups, margin)
        ours, pair = (
            rs.scores(made.truth, made.a, np.random.default_rng(seed), made.group),
            rs.compare(made.truth, made.a, made.b, made.group),
        )
        first = made.truth == 0
        right = made.a.argmax(1) == made.truth
        return {
            "accuracy": ours.accuracy,
            "macro F1": ours.macro_f1,
            "log loss": ours.log_loss,
            "recall of a class": share(right[first], made.group[first]),
            "difference": pair.accuracy,
            "clips as independent": Interval(
                ours.accuracy.value, *wilson_interval(ours.accuracy.value, len(made.truth))
            ),
        }

    true = {name: one.value for name, one in intervals(2.8, (1,), 20_000).items()}  # accuracy about 0.8
    draws = [intervals(2.8, (2, number), 100) for number in range(100)]
    covered = {
        name: np.mean([one[name].low <= value <= one[name].high for one in draws]) for name, value in true.items()
    }
    assert covered.pop("clips as independent") < 0.85
    assert all(share >= 0.88 for share in covered.values()), covered
