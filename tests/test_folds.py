"""Folds are those of scikit-learn, whatever the classes and the groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from preprocessing.folds import stratified, stratified_groups


def of_sklearn(kind: Any, folds: int, seed: int, label: NDArray[Any], unit: NDArray[Any] | None) -> list[int]:
    fold = np.full(len(label), -1)
    splitter = kind(folds, shuffle=True, random_state=seed)
    for index, (_, held_out) in enumerate(splitter.split(label, label, unit)):
        fold[held_out] = index
    return fold.tolist()


@pytest.mark.filterwarnings("ignore:The least populated class")
@pytest.mark.parametrize("seed", range(150))
def test_folds_are_scikit_learns(seed: int) -> None:
    draw = np.random.default_rng(seed)
    folds = int(draw.integers(2, 11))
    n = int(draw.integers(4 * folds, draw.choice([80, 400, 1500])))
    label = np.unique(draw.integers(0, draw.choice([2, 5, 30, 130]), n), return_inverse=True)[1]
    label[:folds] = 0  # scikit-learn wants a class that fills all folds
    label = np.unique(label, return_inverse=True)[1]
    unit = np.unique(draw.integers(0, draw.integers(3 * folds, n + 2), n), return_inverse=True)[1]
    assert stratified(label, folds, seed).tolist() == of_sklearn(StratifiedKFold, folds, seed, label, None)
    if unit.max() + 1 >= folds:
        expected = of_sklearn(StratifiedGroupKFold, folds, seed, label, unit)
        assert stratified_groups(unit, label, folds, seed).tolist() == expected
