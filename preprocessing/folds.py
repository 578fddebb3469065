"""The split into folds: classes balanced, groups and duplicates kept together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from arg import PreprocessConfig
from preprocessing.files import PART, recording_of
from system.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame


class Split(NamedTuple):
    fold: NDArray[np.int64]  # of each clip; -1 outside train
    folds: int  # how many there are
    notes: list[str]  # what a person should know about it


def split_clips(clips: DataFrame, config: PreprocessConfig, known: Mapping[str, int]) -> Split:
    """The split of `clips` (n rows) into folds.

    Those of a manifest (the column fold, '' for none) go before those that are `known` from an earlier run, fname to
    fold. UserError where nothing can be held out.
    """
    is_train = (clips["split"] == "train").to_numpy()
    train = clips[is_train]
    given, folds, notes = _given_folds(train)
    train, more = _fold_sized(train, folds or config.folds)
    notes += more
    if not folds:
        given, folds = dict(known), min(config.folds, len(np.unique(units_of(train))))
        if folds < 2:
            raise UserError("all clips are of one group, so none can be held out: see --group none")
        if folds < config.folds:
            notes.append(f"{folds} folds, not {config.folds}: there are no more groups to hold out")
    fold = assign_folds(train, folds, config.seed, given)
    if moved := sum(given.get(name, at) != at for name, at in zip(train["fname"], fold, strict=True)):
        notes.append(f"clips that left their fold, so that groups and duplicates stay on one side: {moved:,}")
    _check_disjoint(train.assign(fold=fold))
    whole = np.full(len(clips), -1, np.int64)
    whole[is_train] = fold
    return Split(whole, folds, notes)


def assign_folds(clips: DataFrame, folds: int, seed: int, known: Mapping[str, int]) -> NDArray[np.int64]:
    """The fold of each clip, (n,): classes as even as may be, all clips of a group in one fold.

    `clips` has fname, label, group and cluster ('' where there is none), by fname. Groups that near duplicates link
    count as one. Clips in `known` (fname to fold) keep their fold and new ones join them; a group whose clips have
    several goes where most are. Without any, folds are scikit-learn's. UserError where there are fewer groups than
    folds.
    """
    grouped = bool((clips["group"] != "").any())
    first, part = np.unique(units_of(clips), return_inverse=True)
    name = clips["group"].where(clips["group"] != "", clips["fname"]).to_numpy(object)[first].astype(str)
    unit = np.unique(name, return_inverse=True)[1][part]  # in the order of their names
    label = np.unique(clips["label"].to_numpy(str), return_inverse=True)[1]
    if len(first) < folds:
        raise UserError(f"{len(first)} groups cannot fill {folds} folds: use -k {len(first)} or less")

    fold = np.array([known.get(name, -1) for name in clips["fname"]], np.int64)
    fold[fold >= folds] = -1  # there were more of them
    if (fold >= 0).any():
        votes = np.zeros((len(first), folds), np.int64)
        np.add.at(votes, (unit[fold >= 0], fold[fold >= 0]), 1)
        by_unit = np.where(votes.any(1), votes.argmax(1), -1)
        fold = _fill_folds(by_unit[unit], unit, label, folds)
        if len(np.unique(fold)) == folds:
            return fold
    if np.bincount(label[first]).max() >= folds:  # scikit-learn refuses smaller ones
        # Without groups, units are clips and a few clusters: their first clips are split.
        by_unit = stratified(label[first], folds, seed)
        fold = stratified_groups(unit, label, folds, seed) if grouped else by_unit[part]
        if len(np.unique(fold)) == folds:
            return fold
    return _fill_folds(np.full(len(clips), -1, np.int64), unit, label, folds)


def dependent(clips: DataFrame) -> NDArray[np.object_]:
    """What a clip shares with others that are not independent of it, (n,): its group, or else the recording that it is
    a part of; "" where it has neither.
    """
    group: NDArray[np.object_] = clips["group"].to_numpy(object).copy()
    for row in np.flatnonzero((clips["group"] == "") & clips["fname"].str.contains(PART)):
        group[row] = recording_of(clips["fname"].iat[row])
    return group


def units_of(clips: DataFrame) -> NDArray[np.int64]:
    """What must stay in one fold, (n,): clips joined by groups, recordings and near duplicates have their first row."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    row = np.arange(len(clips))
    links = [clips[key].where(clips[key] != "", "\0" + clips["fname"]) for key in ("group", "cluster")]
    if clips["fname"].str.contains(PART).any():
        links.append(clips["fname"].map(recording_of))
    nodes = [np.unique(link, return_inverse=True)[1] + len(clips) * at for at, link in enumerate(links, 1)]
    edges = np.tile(row, len(links)), np.concatenate(nodes)
    size = len(clips) * (1 + len(links))
    joined = coo_array((np.ones(len(edges[0]), np.int8), edges), shape=(size, size))
    part = connected_components(joined, directed=False)[1][: len(clips)]
    _, first, inverse = np.unique(part, return_index=True, return_inverse=True)
    return first[inverse]


def stratified(label: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each clip, (n,), from its class, (n,): those of scikit-learn's StratifiedKFold, shuffled.

    Each class is dealt out in turn, and which of its clips go where is drawn.
    """
    draw = np.random.RandomState(seed % 2**32)
    count = np.bincount(label)
    classes = np.argsort([np.argmax(label == number) for number in range(len(count))])  # by their first clips
    turn = np.repeat(classes, count[classes])  # all clips by class: every folds-th goes to the same fold
    fold = np.empty(len(label), np.int64)
    for number in classes:
        share = np.sort(np.flatnonzero(turn == number) % folds)
        draw.shuffle(share)
        fold[label == number] = share
    return fold


def stratified_groups(unit: NDArray[np.int64], label: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each clip, (n,), all of a unit in one: those of scikit-learn's StratifiedGroupKFold, shuffled.

    Units go one by one, the least even first, each to the fold where the shares of the classes then differ least
    between folds, the emptier one of two that are alike. `unit` and `label`, (n,), are numbers from 0. To the last
    bit the sums are scikit-learn's, for all folds at once: 18 us a unit in place of 100.
    """
    count = np.zeros((unit.max() + 1, label.max() + 1))  # (units, classes)
    np.add.at(count, (unit, label), 1)
    total = count.sum(0)
    order = np.arange(len(count))
    np.random.RandomState(seed % 2**32).shuffle(order)
    order = order[np.argsort(-np.std(count[order], axis=1), kind="stable")]
    filled = np.zeros((folds, len(total)))
    fold_of = np.empty(len(count), np.int64)
    itself = np.arange(folds)
    for one in order:
        tried = np.repeat(filled[None], folds, 0)  # (where it goes, folds, classes)
        tried[itself, itself] += count[one]
        tried /= total
        tried -= tried.sum(1, keepdims=True) / folds
        spread = np.sqrt((tried * tried).sum(1) / folds).mean(1).tolist()
        best = 0
        size = filled.sum(1).tolist()
        for fold in range(1, folds):
            near = abs(spread[fold] - spread[best]) <= 1e-8 + 1e-5 * abs(spread[best])
            if spread[fold] < spread[best] or (near and size[fold] < size[best]):
                best = fold
        filled[best] += count[one]
        fold_of[one] = best
    return fold_of[unit]


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


def _given_folds(clips: DataFrame) -> tuple[dict[str, int], int, list[str]]:
    """The folds that a manifest or folders give `clips`, as fname to index, how many there are, and what to say of it.

    Their values are any text; in order, they are the folds 0, 1, ...
    """

    def order(value: str) -> tuple[float, str]:
        try:
            return float(value), value
        except ValueError:
            return math.inf, value

    values = sorted(set(clips["fold"]) - {""}, key=order)
    if not values:
        return {}, 0, []
    if len(values) == 1:
        raise UserError(f"the manifest has all its clips in fold {values[0]}: at least 2 folds are needed")
    usual = values == [str(index) for index in range(len(values))]
    notes = [] if usual else [f"folds {', '.join(values[:12])}, as given, are 0 to {len(values) - 1} here"]
    index = {value: number for number, value in enumerate(values)}
    given = {name: index[value] for name, value in zip(clips["fname"], clips["fold"], strict=True) if value}
    return given, len(values), notes


def _fold_sized(train: DataFrame, folds: int) -> tuple[DataFrame, list[str]]:
    """`train` without the clusters that would leave too little to split, the largest first, and what to say of them.

    Clips that one sound fills, such as a beep, are all near duplicates, and link all groups into one.
    """
    from preprocessing.files import some

    def units(clips: DataFrame) -> NDArray[np.int64]:
        return np.unique(units_of(clips), return_counts=True)[1]

    size = train["cluster"].map(train["cluster"].value_counts()).where(train["cluster"] != "", 0)
    alone = units(train.assign(cluster=""))
    enough = min(folds, len(alone))
    largest = max(len(train) / 2, alone.max())
    for limit in sorted(set(size), reverse=True):
        kept = train.assign(cluster=train["cluster"].where(size <= limit, ""))
        sizes = units(kept)
        if len(sizes) >= enough and sizes.max() <= largest:
            break
    if given_up := sorted(set(train["cluster"]) - set(kept["cluster"])):
        return kept, ["near duplicates that may lie in several folds, as together with their groups they leave too "
                      f"little to hold out: {(size > limit).sum():,} clips in {some(given_up, 'cluster')}"]  # fmt: skip
    return kept, []
