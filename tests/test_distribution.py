"""When the labels of a submission are warned of."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from prediction.distribution import Ints, label_warnings, shift_test


def test_the_test_of_shift_is_scipys() -> None:
    count, training = np.array([60, 30, 10, 2, 1]), np.array([500, 300, 250, 20, 5])
    p, moved = shift_test(count, training)
    pooled = [[60, 30, 10 + 2 + 1], [500, 300, 250 + 20 + 5]]  # 2.0 and 0.5 are expected of the rarest, 23 of the third
    assert p == pytest.approx(chi2_contingency(pooled, correction=False).pvalue, rel=1e-9)
    assert moved == pytest.approx(0.5 * np.abs(count / 103 - training / 1075).sum())
    assert shift_test(np.array([1, 2]), training[:2])[0] is None


@pytest.mark.parametrize("clips", [1, 6, 60, 1000, 1_000_000])
@pytest.mark.parametrize("classes", [2, 30])
def test_chance_warns_of_nothing(clips: int, classes: int) -> None:
    draw = np.random.default_rng(clips)
    training = draw.integers(5, 2000, classes)
    share = training / training.sum()
    names = tuple(map(str, range(classes)))
    warned = sum(bool(label_warnings(draw.multinomial(clips, share), training, names)) for _ in range(300))
    assert warned <= 3
    slightly = (share * draw.uniform(0.9, 1.1, classes)) / (share * draw.uniform(0.9, 1.1, classes)).sum()
    assert not label_warnings(draw.multinomial(1_000_000, slightly / slightly.sum()), training, names)


@pytest.mark.parametrize(
    ("count", "warning"),
    [
        ([950, 20, 30], "95.0% of the labels are a, in training 40.0%"),
        ([0, 0, 1000], "100.0% of the labels are c, in training 20.0%"),
        ([500, 0, 500], "classes that no clip is given: 1 of 3, b (40.0% in training)"),
        ([150, 200, 650], "65.0% of the labels are c, in training 20.0%"),
        ([300, 300, 400], "not distributed as in training: c 40.0% for 20.0%, "),
    ],
)
def test_a_collapse_or_a_shift_is_said(count: list[int], warning: str) -> None:
    training: Ints = np.array([800, 800, 400])
    (said,) = label_warnings(np.array(count), training, ("a", "b", "c"))
    assert warning in said
