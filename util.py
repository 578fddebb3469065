"""Metrics, losses, the arithmetic of ensembles, seeds, prefetching, many names: what several modules share.

Metrics and ensembles are NumPy on probabilities, losses torch on logits. torch is imported where a loss is computed, so
that `preprocess.py` does without it.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from system.console import counted

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Item = TypeVar("Item")
Floats = NDArray[Any]  # floating point
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
Z_95 = 1.959964  # of the normal distribution, 95 % lie within so many standard deviations
UPPER = 0.975  # quantile of a two-sided 95 % interval
UNEVEN = 3.0  # times as many clips in the largest class as in the smallest: Speech Commands has 2.6, UrbanSound8K 2.7


def accuracy(truth: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]]) -> float:
    """Share of equal entries of two (n,) arrays of class indices; nan where n = 0."""
    return float(np.mean(truth == predicted)) if len(truth) else math.nan


def macro_f1(truth: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], num_classes: int) -> float:
    """Mean over classes of the F1 score, of two (n,) arrays of class indices.

    A class in neither array does not count; one in a single array counts as 0 (scikit-learn's
    ``f1_score(average="macro", zero_division=0)``).
    """
    true, predicted, both = (
        np.bincount(classes, minlength=num_classes) for classes in (truth, predicted, truth[truth == predicted])
    )
    return macro_f1_of_counts(true, predicted, both)


def macro_f1_of_counts(
    true: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], both: NDArray[np.integer[Any]]
) -> float:
    """`macro_f1` from each class's number of clips that are of it, that are taken for it, and that are both."""
    seen = true + predicted > 0
    return float(np.mean(2 * both[seen] / (true + predicted)[seen])) if seen.any() else math.nan


def balanced_accuracy(truth: Ints, predicted: Ints, num_classes: int) -> float:
    """Mean over the classes in `truth` of the share of their clips that is found (recall), of two (n,) arrays.

    scikit-learn's ``balanced_accuracy_score``; nan where n = 0.
    """
    count = np.bincount(truth, minlength=num_classes)
    return balanced_accuracy_of_counts(count, np.bincount(truth[truth == predicted], minlength=num_classes))


def balanced_accuracy_of_counts(true: Ints, both: Ints) -> float:
    """`balanced_accuracy` from each class's number of clips, and of those that are found."""
    there = true > 0
    return float(np.mean(both[there] / true[there])) if there.any() else math.nan


def uneven(counts: Sequence[int] | Ints) -> bool:
    """Whether the largest class has at least UNEVEN times the clips of the smallest; empty ones do not count.

    Accuracy is then mostly that of the large classes, and `balanced_accuracy` is what to look at first.
    """
    there = [int(count) for count in counts if count]
    return bool(there) and max(there) >= UNEVEN * min(there)


def never_predicted(truth: Ints, predicted: Ints) -> list[int]:
    """The classes in `truth` that are not among `predicted`, both (n,) indices."""
    return sorted({*np.unique(truth).tolist()} - {*np.unique(predicted).tolist()})


def confusion(
    truth: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], num_classes: int
) -> NDArray[np.int64]:
    """(classes, classes) numbers of clips, by true class (rows) and predicted one, from two (n,) arrays of indices."""
    return np.bincount(truth * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def wilson_interval(share: float, count: float, z: float = Z_95) -> tuple[float, float]:
    """95 % interval of a share seen in `count` independent trials (Wilson 1927)."""
    if count == 0:
        return 0.0, 1.0
    centre = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval. The value is nan where there are no clips; a limit may be infinite."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """0.942 (0.936-0.948), or "to" between the limits where one is negative."""
        return self.text()

    def text(self, digits: int = 3, what: str = "", over: str = "") -> str:
        """`str` with so many digits, and words before and behind the limits."""
        if math.isnan(self.value):
            return "no clips"
        value, low, high = (f"{one:.{digits}f}" for one in (self.value, self.low, self.high))
        return f"{value} ({what}{low}{' to ' if self.low < 0 else '-'}{high}{over})"


def share(hits: Bools, group: Ints | None = None) -> Interval:
    """A share of clips, such as accuracy, recall, or the error rate of a slice; `hits` (n,).

    Clips that are their own groups get Wilson's interval. Where all clips are hits, or none, nothing tells how hits
    cluster, and groups are counted in place of clips. One group alone gives 0 to 1, since nothing tells how groups
    differ; for that group's own score leave `group` out.
    """
    if not len(hits):
        return Interval(math.nan, 0.0, 1.0)
    value = float(np.mean(hits))
    code, groups = group_codes(group, len(hits))
    if groups == len(hits):
        return Interval(value, *wilson_interval(value, groups))
    return between_0_and_1(value, (hits - value) / len(hits), code, len(hits))


def group_codes(group: Ints | None, clips: int) -> tuple[NDArray[np.int64], int]:
    """Groups numbered from 0 without gaps, (n,), and how many there are."""
    if group is None:
        return np.arange(clips), clips
    found, code = np.unique(group, return_inverse=True)
    return code, len(found)


def half_width(moved: Floats, code: NDArray[np.int64]) -> float:
    """Half the width of the 95 % interval of a metric, from what each clip adds to it, (n,); inf with one group."""
    size = np.bincount(code)
    groups = len(size)
    if groups < 2:
        return math.inf
    squares = (np.bincount(code, moved) / (1 - size / len(code))) ** 2
    total = float(squares.sum())
    spread = float((squares**2).sum()) - total**2 / groups  # of the squares: the variance of their sum
    freedom = 2 * total**2 / spread if spread > 0 else math.inf
    return student_t(min(freedom, groups - 1)) * math.sqrt((groups - 1) / groups * total)


def between_0_and_1(value: float, moved: Floats, code: NDArray[np.int64], most: float) -> Interval:
    """Wilson's interval for as many independent clips, `most` at most, as give `half_width` at this value.

    At 0 and at 1 they are as many as there are groups, counted as n^2 / (sum of squared sizes) (Kish 1965).
    """
    half = half_width(moved, code)
    if math.isinf(half):
        return Interval(value, 0.0, 1.0)
    variance = value * (1 - value)
    if variance == 0:
        size = np.bincount(code)
        count = float(size.sum() ** 2 / (size**2).sum())
    else:
        count = min(most, Z_95**2 * variance / half**2) if half else most
    return Interval(value, *wilson_interval(value, count))


def balanced_accuracy_interval(truth: Ints, predicted: Ints, num_classes: int, group: Ints | None = None) -> Interval:
    """`balanced_accuracy` of two (n,) arrays of class indices; `group` as in `share`.

    It holds two intervals: that of `between_0_and_1`, which sees how the clips of a group err together, and that of
    the classes' own recalls as independent (Zou & Donner 2008), which knows that of few clips none found is not none.
    """
    if not len(truth):
        return Interval(math.nan, 0.0, 1.0)
    hits, count = truth == predicted, np.bincount(truth, minlength=num_classes)
    there = np.flatnonzero(count)
    recall = np.bincount(truth, hits, num_classes) / np.maximum(count, 1)
    moved = (hits - recall[truth]) / count[truth] / len(there)
    value = balanced_accuracy(truth, predicted, num_classes)
    whole = between_0_and_1(value, moved, group_codes(group, len(truth))[0], len(truth))
    own = [share(hits[rows], None if group is None else group[rows]) for rows in (truth == one for one in there)]
    below, above = (
        math.sqrt(sum((one.value - limit) ** 2 for one, limit in zip(own, limits, strict=True))) / len(own)
        for limits in ([one.low for one in own], [one.high for one in own])
    )
    return Interval(value, min(whole.low, max(0.0, value - below)), max(whole.high, min(1.0, value + above)))


def student_t(freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, UPPER))


def format_scores(truth: Ints, predicted: Ints, class_counts: Sequence[int], group: Ints | None = None) -> str:
    """Accuracy of two (n,) arrays of class indices with its 95 % interval, and what that takes as independent.

    Behind balanced accuracy where the classes, of `class_counts` training clips, are `uneven`.
    """
    groups = group_codes(group, len(truth))[1]
    over = f" over {f'{groups:,} groups of ' if groups < len(truth) else ''}{counted(len(truth), 'clip')}"
    found = share(truth == predicted, group)
    if not uneven(class_counts):
        return f"accuracy {found.text(4, '95% interval ', over)}"
    balanced = balanced_accuracy_interval(truth, predicted, len(class_counts), group)
    return f"balanced accuracy {balanced.text(4, '95% interval ', over)}, accuracy {found.text(4)}"


def main_score(truth: Ints, predicted: Ints, class_counts: Sequence[int] | Ints) -> float:
    """The score that says which of two networks is better, of (n,) class indices; nan where n = 0.

    Accuracy or, where the classes are `uneven`, balanced accuracy.
    """
    if uneven(class_counts):
        return balanced_accuracy(truth, predicted, len(class_counts))
    return accuracy(truth, predicted)


SMALLEST = 1e-15  # a probability below it counts as this where a logarithm is taken


def soft_vote(probabilities: Floats) -> Floats:
    """(members, n, classes) -> (n, classes): the mean of the members' probabilities."""
    return probabilities.mean(0)


def weighted_vote(probabilities: Floats, weights: Floats) -> Floats:
    """(members, n, classes) and (members,) weights that sum to one -> (n, classes): the linear pool."""
    return np.tensordot(weights.astype(probabilities.dtype), probabilities, 1)


def temper(probabilities: Floats, temperature: float) -> Floats:
    """softmax(log p / T) of (n, classes) rows: sharper where T < 1, flatter where T > 1, the same order of classes.

    Temperature scaling (Guo et al. 2017, "On calibration of modern neural networks").
    """
    scaled = np.log(np.maximum(probabilities, SMALLEST)) / np.asarray(temperature, probabilities.dtype)
    scaled -= scaled.max(1, keepdims=True)
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(1, keepdims=True)
    return scaled


def hard_vote(probabilities: Floats) -> Floats:
    """(members, n, classes) -> (n, classes): each class's share of the members' votes.

    Ties are broken by the mean probability, which adds less than any vote could, so that rows' maxima are the
    winners; rows sum to one.
    """
    members, _, classes = probabilities.shape
    votes = np.eye(classes)[probabilities.argmax(2)].sum(0)
    ranked = votes + probabilities.mean(0) / 2  # a mean probability is at most 1, a vote's half
    return ranked / (members + 0.5)


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each clip, (batch,), from (batch, classes) logits and rows of class weights.

    With smoothing s a row's weight w is spread as (1 - s) w + s w / classes (Szegedy et al. 2016, "Rethinking the
    Inception architecture"). An all-zero row, an unlabelled clip, costs nothing; by torch's own smoothing it would.
    """
    from torch.nn import functional

    targets = targets.lerp(targets.mean(1, keepdim=True), label_smoothing)
    return functional.cross_entropy(logits.float(), targets, reduction="none")


def class_weights(counts: Sequence[int], power: float, balance: float = 0.0) -> NDArray[np.float32]:
    """What a clip of each class weighs in the loss, (classes,): its class's number of clips to the power of -`power`.

    They are scaled so that the clips drawn weigh 1 on average, those of a class of n as often as n^(1 - `balance`): the
    learning rate keeps its meaning. A class without clips weighs nothing.
    """
    count = np.asarray(counts, np.float64)
    there = count > 0
    weight, drawn = (np.where(there, np.maximum(count, 1) ** exponent, 0) for exponent in (-power, 1 - balance))
    scaled: NDArray[np.float32] = (weight * drawn.sum() / (weight @ drawn)).astype(np.float32)
    return scaled


def hardest_mean(loss: Tensor, share: float) -> Tensor:
    """Mean of the largest `share` of the (batch,) losses, at least one of them.

    Online hard example mining (Shrivastava et al. 2016): 0.9 learns from the hardest 90 % of a batch.
    """
    keep = max(1, round(share * len(loss)))
    return loss.mean() if keep == len(loss) else loss.topk(keep).values.mean()


def seed_of(*key: int) -> int:
    """A 63-bit seed that depends on every number of the key and on nothing else."""
    sequence = np.random.SeedSequence((len(key), *key))  # the length, since trailing zeros alone change nothing there
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(device: torch.device | str, *key: int) -> torch.Generator:
    """A generator on `device` seeded from the key, such as (seed, fold, epoch, batch in epoch, rank)."""
    import torch

    return torch.Generator(device).manual_seed(seed_of(*key))


def prefetched(items: Iterable[Item], ahead: int = 2) -> Generator[Item, None, None]:
    """Yield `items`, of which a thread makes up to `ahead` before they are asked for.

    An error in making one is raised here, in its place. Closing the iterator ends the thread.
    """
    source, end = iter(items), object()
    pool = ThreadPoolExecutor(1, "prefetch")
    try:
        ready = deque(pool.submit(next, source, end) for _ in range(ahead))
        while (item := ready.popleft().result()) is not end:
            ready.append(pool.submit(next, source, end))
            yield cast(Item, item)
    finally:
        pool.shutdown(cancel_futures=True)


class Names(Sequence[str]):
    """Strings in one piece of memory, so that a million cost little more than their letters.

    An index gives a str; an array of indices, or a mask, a part as another Names, which shares the letters. NumPy's
    StringDType would copy them, and refuses the surrogates in names of files that are not UTF-8.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._letters = bytearray()  # UTF-8
        self._start = np.zeros(1, np.int64)
        self._rows = np.zeros(0, np.int32)
        self.extend(names)

    def extend(self, names: Iterable[str]) -> None:
        """Add names at the end, which a part of other names does not take."""
        length = []
        for name in names:
            encoded = name.encode("utf-8", "surrogatepass")
            self._letters += encoded
            length.append(len(encoded))
        count = len(self._start) - 1
        self._start = np.concatenate([self._start, self._start[-1] + np.cumsum(length, dtype=np.int64)])
        self._rows = np.concatenate([self._rows, np.arange(count, count + len(length), dtype=np.int32)])

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice | NDArray[Any]) -> Names: ...
    def __getitem__(self, index: int | slice | NDArray[Any]) -> str | Names:
        if isinstance(index, slice | np.ndarray):
            part = copy.copy(self)
            part._rows = self._rows[index]
            return part
        row = self._rows[index]
        return self._letters[self._start[row] : self._start[row + 1]].decode("utf-8", "surrogatepass")
