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
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Item = TypeVar("Item")
Floats = NDArray[Any]  # floating point
Z_95 = 1.959964  # of the normal distribution, 95 % lie within so many standard deviations


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


def format_accuracy(share: float, count: int) -> str:
    """An accuracy with its 95 % interval and the number of clips behind it."""
    low, high = wilson_interval(share, count)
    return f"{share:.4f} (95% interval {low:.4f}-{high:.4f}, {count:,} clips)"


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
