"""The split into folds: classes balanced, groups and duplicates kept together."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from arg import PreprocessConfig
from system.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame


def assign_folds(clips: DataFrame, folds: int, seed: int, known: Mapping[str, int]) -> NDArray[np.int64]:
    """The fold of each clip, (n,): classes as even as may be, all clips of a group in one fold.

    `clips` has fname, label, group and cluster ('' where there is none), by fname. Groups that near duplicates link
    count as one. Clips in `known` (fname to fold) keep their fold and new ones join them; a group whose clips have
    several goes where most are. Without any, scikit-learn splits. UserError where there are fewer groups than folds.
    """
    grouped = bool((clips["group"] != "").any())
    names, unit = np.unique(units_of(clips).astype(str), return_inverse=True)
    label = np.unique(clips["label"].to_numpy(str), return_inverse=True)[1]
    if len(names) < folds:
        raise UserError(f"{len(names)} groups cannot fill {folds} folds: use -k {len(names)} or less")

    fold = np.array([known.get(name, -1) for name in clips["fname"]], np.int64)
    fold[fold >= folds] = -1  # there were more of them
    if (fold >= 0).any():
        votes = np.zeros((len(names), folds), np.int64)
        np.add.at(votes, (unit[fold >= 0], fold[fold >= 0]), 1)
        by_unit = np.where(votes.any(1), votes.argmax(1), -1)
        fold = _fill_folds(by_unit[unit], unit, label, folds)
        if len(np.unique(fold)) == folds:
            return fold
    if np.bincount(label[np.unique(unit, return_index=True)[1]]).max() >= folds:  # scikit-learn refuses smaller ones
        fold = _stratified_folds(unit, label, folds, seed, grouped)
        if len(np.unique(fold)) == folds:
            return fold
    return _fill_folds(np.full(len(clips), -1, np.int64), unit, label, folds)


def units_of(clips: DataFrame) -> NDArray[np.object_]:
    """What must stay in one fold, a name for each clip: clips joined by groups and near duplicates share one.

    It is the group of the first of them, or that clip itself.
    """
    unit = np.arange(len(clips))
    joined = [np.unique(clips[key].where(clips[key] != "", "\0" + clips["fname"]), return_inverse=True)[1]
              for key in ("group", "cluster")]  # fmt: skip
    while True:  # until no chain of groups and clusters leads to an earlier clip
        before = unit
        for key in joined:
            first = np.full(len(clips), len(clips))
            np.minimum.at(first, key, unit)
            unit = first[key]
        if np.array_equal(unit, before):
            return clips["group"].where(clips["group"] != "", clips["fname"]).to_numpy(object)[unit]


def _stratified_folds(
    unit: NDArray[np.int64], label: NDArray[np.int64], folds: int, seed: int, grouped: bool
) -> NDArray[np.int64]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    # Without groups, units are clips and a few clusters: their first clips are split, which is much faster.
    rows = np.arange(len(unit)) if grouped else np.sort(np.unique(unit, return_index=True)[1])
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    fold = np.full(unit.max() + 1, -1, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of small classes: the summary names them
        splits = kind(folds, shuffle=True, random_state=seed % 2**32).split(label[rows], label[rows], unit[rows])
        for index, (_, held_out) in enumerate(splits):
            fold[unit[rows[held_out]]] = index
    return fold[unit]


def _fill_folds(
    fold: NDArray[np.int64], unit: NDArray[np.int64], label: NDArray[np.int64], folds: int
) -> NDArray[np.int64]:
    """`fold` with a value in place of each -1, whole units at a time, the largest first.

    A unit goes where the squared shares of its classes grow least, then to the smallest fold: an empty one first.
    """
    fold = fold.copy()
    counts = np.zeros((folds, label.max() + 1))  # clips of each class in each fold
    np.add.at(counts, (fold[fold >= 0], label[fold >= 0]), 1)
    weight = 1.0 / np.bincount(label) ** 2
    order = np.flatnonzero(fold < 0)
    order = order[np.argsort(unit[order], kind="stable")]
    units = np.split(order, np.flatnonzero(np.diff(unit[order])) + 1) if len(order) else []
    for rows in sorted(units, key=len, reverse=True):
        cost = counts[:, label[rows]] @ weight[label[rows]]
        best = np.lexsort((counts.sum(1), cost.round(12)))[0]
        fold[rows] = best
        np.add.at(counts, (best, label[rows]), 1)
    return fold


def _check_disjoint(train: DataFrame) -> None:
    """A group or a recording in two folds would make every score too good."""
    for key in ("group", "cluster", "digest"):
        apart = train[train[key] != ""].groupby(key)["fold"].nunique()
        if (apart > 1).any():
            raise AssertionError(f"{key} {apart.idxmax()} lies in several folds")


def _given_folds(clips: DataFrame, notes: list[str]) -> tuple[dict[str, int], int]:
    """The folds that a manifest gives to `clips`, as fname to index, and how many there are.

    Their values are any text; in order, they are the folds 0, 1, ...
    """

    def order(value: str) -> tuple[float, str]:
        try:
            return float(value), value
        except ValueError:
            return math.inf, value

    values = sorted(set(clips["fold"]) - {""}, key=order)
    if not values:
        return {}, 0
    if len(values) == 1:
        raise UserError(f"the manifest has all its clips in fold {values[0]}: at least 2 folds are needed")
    if values != [str(index) for index in range(len(values))]:
        notes.append(f"folds {', '.join(values[:12])} of the manifest are 0 to {len(values) - 1} here")
    index = {value: number for number, value in enumerate(values)}
    return {name: index[value] for name, value in zip(clips["fname"], clips["fold"], strict=True) if value}, len(values)


def split_clips(clips: DataFrame, config: PreprocessConfig, known: Mapping[str, int], notes: list[str]) -> int:
    """Replace the folds in `clips` by their indices; returns how many there are.

    Those of a manifest go before those that are `known` from an earlier run. What was given up goes to `notes`.
    """
    is_train = clips["split"] == "train"
    train = clips[is_train]
    given, folds = _given_folds(train, notes)
    train = _fold_sized(train, folds or config.folds, notes)
    if not folds:
        given, folds = dict(known), min(config.folds, len(set(units_of(train))))
        if folds < 2:
            raise UserError("all clips are of one group, so none can be held out: see --group none")
        if folds < config.folds:
            notes.append(f"{folds} folds, not {config.folds}: there are no more groups to hold out")
    fold = assign_folds(train, folds, config.seed, given)
    if moved := sum(given.get(name, at) != at for name, at in zip(train["fname"], fold, strict=True)):
        notes.append(f"clips that left their fold, so that groups and duplicates stay on one side: {moved:,}")
    clips["fold"] = -1
    clips.loc[is_train, "fold"] = fold
    _check_disjoint(train.assign(fold=fold))
    return folds


def _fold_sized(train: DataFrame, folds: int, notes: list[str]) -> DataFrame:
    """`train` without the clusters that would leave too little to split, the largest first; they go to `notes`.

    Clips that one sound fills, such as a beep, are all near duplicates, and link all groups into one.
    """
    from preprocessing.files import some

    size = train["cluster"].map(train["cluster"].value_counts()).where(train["cluster"] != "", 0)
    alone = train.assign(cluster="")
    enough = min(folds, len(set(units_of(alone))))
    largest = max(len(train) / 2, Counter(units_of(alone)).most_common(1)[0][1])
    for limit in sorted(set(size), reverse=True):
        kept = train.assign(cluster=train["cluster"].where(size <= limit, ""))
        units = Counter(units_of(kept))
        if len(units) >= enough and units.most_common(1)[0][1] <= largest:
            break
    if given_up := sorted(set(train["cluster"]) - set(kept["cluster"])):
        notes.append("near duplicates that may lie in several folds, as together with their groups they leave too "
                     f"little to hold out: {(size > limit).sum():,} clips in {some(given_up, 'cluster')}")  # fmt: skip
    return kept
