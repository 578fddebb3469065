"""The best ensemble of what has been trained: weights and a temperature from out-of-fold probabilities.

A member is a pair of a run and a test-time view. Out of fold a clip is seen by the one network of a run that did not
train on it, so that the folds of a run cannot be told apart: they share their run's weight equally. An ensemble is a
linear pool, the weighted mean of its members' probabilities, and a temperature that makes the pool's probabilities
mean what they say.

Methods that combine runs minimise one thing, the log loss of the pool *after* temperature scaling. A linear pool is
less sharp than it should be even where its members are calibrated (Ranjan & Gneiting 2010, "Combining probability
forecasts"); without the temperature, the log loss rewards weights on few sharp members, at a price in accuracy.
Accuracy as the aim gains no accuracy on new clips and loses log loss, since it moves by whole clips
(docs/ensembles.md).

All is cross-fitted: weights and temperature that a clip is scored with come from the other folds. The networks of the
other folds did learn from that clip; what of it a few weights could carry over is small, but not nothing.

The temperature is fitted to single networks, while new clips get the mean over the folds' networks of each run. That
mean is less sharp than one network, and right more often: probabilities of new clips are too small rather than too
large. By how much cannot be seen out of fold. The order of the classes, and so the labels, do not change with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prediction.spec import METHODS, TEMPERATURES
from reporting.scores import losses, mean_difference
from system.errors import UserError
from util import SMALLEST, Floats, Interval, accuracy, main_score, soft_vote, temper, weighted_vote

Ints = NDArray[np.integer[Any]]
FIT_CLIPS = 10_000  # that weights are fitted to: k weights fitted to n clips cost about k / (2 n) nats on others
START = 4  # members that greedy selection begins with
MOST = 40  # members that it takes, the same one several times included
PATIENCE = 5  # additions in a row that bring nothing
BLOCK = 1024  # clips that are looked at together
PRUNED = 0.01  # a weight below it is not worth a network's time


def fit_temperature(probabilities: Floats, truth: Ints) -> float:
    """The T in TEMPERATURES that minimises the log loss of softmax(log p / T), of (n, classes) and (n,).

    Guo et al. 2017, "On calibration of modern neural networks". In 1 / T the loss is convex: it has one minimum. Rows
    need not sum to one.
    """
    from scipy.optimize import minimize_scalar

    log_p = np.log(np.maximum(probabilities, SMALLEST))
    of_truth = log_p[np.arange(len(truth)), truth]
    found = minimize_scalar(
        lambda log_t: _scaled_loss(log_p, of_truth, math.exp(log_t)),
        bounds=[math.log(bound) for bound in TEMPERATURES],
        method="bounded",
        options={"xatol": 1e-3},
    )
    return float(math.exp(found.x))


def _scaled_loss(log_p: Floats, of_truth: Floats, temperature: float) -> float:
    """Log loss of softmax(log p / T), nats a clip, from (n, classes) logs of p and those of the true classes, (n,)."""
    beta = np.asarray(1 / temperature, log_p.dtype)
    ones = np.ones(log_p.shape[1], log_p.dtype)
    # No maximum is taken off first: the largest p is at least 1 / classes, so that no sum vanishes with these T.
    sums = np.concatenate([np.exp(beta * log_p[block]) @ ones for block in _blocks(len(log_p))])
    return float((np.log(sums) - beta * of_truth).mean(dtype=np.float64))


def _blocks(count: int) -> Iterator[slice]:
    """Slices of so few clips that what is made of them stays in the processor's cache."""
    return (slice(start, start + BLOCK) for start in range(0, count, BLOCK))


def scaled_log_loss(probabilities: Floats, truth: Ints, temperature: float) -> float:
    """Log loss of (n, classes) probabilities, which need not sum to one, at a temperature, nats a clip."""
    log_p = np.log(np.maximum(probabilities, SMALLEST))
    return _scaled_loss(log_p, log_p[np.arange(len(truth)), truth], temperature)


def _best_log_loss(probabilities: Floats, truth: Ints) -> float:
    """Log loss at the best temperature."""
    return scaled_log_loss(probabilities, truth, fit_temperature(probabilities, truth))


def greedy_selection(members: Floats, truth: Ints) -> NDArray[np.float64]:
    """Weights, (members,), of forward selection with replacement, from (members, n, classes) and (n,).

    Caruana et al. 2004, "Ensemble selection from libraries of models": begun with the few best, START or fewer, the
    member that lowers the loss most is added, again and again, until PATIENCE additions have brought nothing or there
    are MOST; the best ensemble on the way is kept. Only the sum of the members taken is kept, so that a round is one
    pass. All members are tried at one temperature, fitted to the ensemble with an average member added: an ensemble
    of few gets flatter with any addition, and at its own temperature none would seem worth it.
    """
    average = soft_vote(members)
    counts = _best_few(members, truth)
    total = weighted_vote(members, counts)
    lowest, best, since = math.inf, counts.copy(), 0
    while True:
        loss = _best_log_loss(total / counts.sum(), truth)
        if loss < lowest:
            lowest, best, since = loss, counts.copy(), 0
        else:
            since += 1
        if since == PATIENCE or counts.sum() >= MOST:
            return best / best.sum()
        chosen = int(np.argmin(_losses_with(total, members, truth, fit_temperature(total + average, truth))))
        counts[chosen] += 1
        total += members[chosen]


def _best_few(members: Floats, truth: Ints) -> Ints:
    """1 for those of the START best members, best first, whose mean has the lowest loss; (members,)."""
    order = np.argsort([_best_log_loss(member, truth) for member in members], kind="stable")
    means = np.cumsum(members[order[:START]], 0) / np.arange(1, 1 + len(order[:START]))[:, None, None]
    size = 1 + int(np.argmin([_best_log_loss(mean, truth) for mean in means]))
    return np.isin(np.arange(len(members)), order[:size]).astype(np.int64)


def _losses_with(total: Floats, members: Floats, truth: Ints, temperature: float) -> NDArray[np.float64]:
    """The sums over clips of the log losses of a (n, classes) sum of members with each member added, (members,)."""
    result = np.zeros(len(members))
    for block in _blocks(len(truth)):
        sums = (total[block] + member[block] for member in members)
        result += [len(truth[block]) * scaled_log_loss(sum_, truth[block], temperature) for sum_ in sums]
    return result


def likelihood_weights(members: Floats, truth: Ints) -> NDArray[np.float64]:
    """Weights, (members,), of maximum likelihood, from (members, n, classes) and (n,); those below PRUNED are 0.

    The likelihood is that of the pool after temperature scaling, with weights and temperature fitted together: L-BFGS
    on the logits of the weights and the logarithm of the temperature, begun at equal weights and T = 1.
    """
    from scipy.optimize import minimize
    from scipy.special import softmax

    begin = np.zeros(len(members) + 1)
    found = minimize(_likelihood, begin, (members, truth), "L-BFGS-B", jac=True, options={"maxiter": 60, "ftol": 1e-7})
    weights: NDArray[np.float64] = softmax(found.x[:-1])
    weights[weights < min(PRUNED, weights.max())] = 0
    return weights / weights.sum()


def _likelihood(parameters: NDArray[np.float64], members: Floats, truth: Ints) -> tuple[float, NDArray[np.float64]]:
    """Log loss of the scaled pool, and its gradient, at (logits of the weights, log T)."""
    from scipy.special import softmax

    clips = len(truth)
    rows = np.arange(clips)
    weights, beta = softmax(parameters[:-1]), math.exp(-parameters[-1])
    pooled = np.maximum(weighted_vote(members, weights), SMALLEST)
    log_p = np.log(pooled)
    scaled = temper(pooled, 1 / beta)
    loss = -np.log(np.maximum(scaled[rows, truth], SMALLEST)).mean(dtype=np.float64)
    scaled[rows, truth] -= 1  # the loss's derivative by beta log p, n-fold
    by_beta = np.vdot(scaled, log_p) / clips
    by_pooled = scaled / pooled * np.asarray(beta / clips, members.dtype)
    by_weight = (members.reshape(len(members), -1) @ by_pooled.ravel()).astype(np.float64)
    by_logit = weights * (by_weight - weights @ by_weight)
    return float(loss), np.append(by_logit, -beta * by_beta)


def best_run(answers: Ints, truth: Ints, run: Ints) -> NDArray[np.float64]:
    """Weights, (members,), that average the views of the one best run; `run` is each member's, (members,).

    `answers` are the runs' own, (runs, n), in the order of their numbers; (n,) are the true ones. By `main_score`, as
    inference.py chooses a run, and not by the loss.
    """
    runs, counts = np.unique(run), np.bincount(truth)
    chosen = run == runs[int(np.argmax([main_score(truth, own, counts) for own in answers]))]
    return chosen / chosen.sum()


def fit_weights(method: str, members: Floats, truth: Ints) -> NDArray[np.float64]:
    """Weights, (members,), by one of METHODS that combine runs."""
    if method == "mean":
        return np.full(len(members), 1 / len(members))
    if method == "greedy":
        return greedy_selection(members, truth)
    return likelihood_weights(members, truth)


@dataclass(frozen=True, eq=False)
class Fit:
    weights: NDArray[np.float64]  # (members,), sum to one
    temperature: float


@dataclass(frozen=True, eq=False)
class Candidate:
    """An ensemble by one of METHODS, cross-fitted: a clip's probabilities are by a fit that has not seen its fold."""

    method: str
    folds: tuple[int, ...]
    fits: tuple[Fit, ...]  # for each of `folds`, the one to all the others
    final: Fit  # to everything: what is used
    probabilities: NDArray[np.float32]  # (n, classes), cross-fitted


def cross_fit(members: Floats, truth: Ints, fold: Ints, run: Ints) -> dict[str, Candidate]:
    """Each of METHODS, cross-fitted.

    `members` are (members, n, classes) float32 out-of-fold probabilities; `truth` (n,) class indices; `fold` (n,) the
    fold that held the clip out; `run` (members,) a number for each member's run. Weights are fitted to FIT_CLIPS
    clips, evenly spaced among those of the other folds where there are more; temperatures, and the choice of a single
    run, to all of those. Beside
    `members`, memory is taken for a copy of the clips fitted to and a few times (n, classes). UserError where all clips
    are of one fold.
    """
    folds = tuple(int(one) for one in np.unique(fold))
    if len(folds) < 2:
        raise UserError("an ensemble is chosen across folds, and only one is trained: train another with train.py -f")
    answers = np.stack([pool_members(members, run == one).argmax(1) for one in np.unique(run)])
    scaled = {method: np.empty(members.shape[1:], np.float32) for method in METHODS}
    fits: dict[str, list[Fit]] = {method: [] for method in METHODS}
    for held_out in (*folds, None):
        others = np.flatnonzero(fold != held_out) if held_out is not None else np.arange(len(fold))
        rows = _thinned(others)
        part = np.take(members, rows, axis=1)  # in one piece, as members[:, rows] would not be
        for method in METHODS:
            if method == "single":
                weights = best_run(answers[:, others], truth[others], run)
            else:
                weights = fit_weights(method, part, truth[rows])
            pool = pool_members(members, weights)
            fit = Fit(weights, fit_temperature(pool[others], truth[others]))
            fits[method].append(fit)
            if held_out is not None:
                mine = fold == held_out
                scaled[method][mine] = temper(pool[mine], fit.temperature)
    return {
        method: Candidate(method, folds, tuple(fits[method][:-1]), fits[method][-1], scaled[method])
        for method in METHODS
    }


def _thinned(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """At most FIT_CLIPS of the rows, evenly spaced: of each class its share, where the clips are in its order."""
    if len(rows) <= FIT_CLIPS:
        return rows
    return rows[np.linspace(0, len(rows) - 1, FIT_CLIPS).round().astype(np.intp)]


def pool_members(members: Floats, weights: Floats, rows: Ints | slice = slice(None)) -> NDArray[np.float32]:
    """The weighted mean, (rows, classes), of (members, n, classes); members without weight are not read."""
    total = np.zeros(members[0][rows].shape, np.float32)
    for index in np.flatnonzero(weights):
        total += np.float32(weights[index]) * members[index][rows]
    return total


@dataclass(frozen=True)
class Choice:
    """Which candidate to use, and why."""

    method: str
    lowest: str  # the method of the lowest loss
    excess: Mapping[str, Interval]  # of each method's cross-fitted log loss over the lowest, nats a clip


def choose(candidates: Mapping[str, Candidate], truth: Ints, group: Ints) -> Choice:
    """The simplest candidate whose log loss is not clearly above the lowest one, in the order of METHODS.

    Clearly: the 95 % interval of the mean difference, clip by clip, excludes 0. Clips of a group, (n,) codes, are not
    independent, so that the interval is Student's t over groups. The log loss decides since every clip counts in it,
    while accuracies of two ensembles differ by the few clips on which their labels do.
    """
    each = {method: losses(truth, candidate.probabilities) for method, candidate in candidates.items()}
    lowest = min(each, key=lambda method: float(each[method].mean()))
    excess = {method: mean_difference(loss - each[lowest], group) for method, loss in each.items()}
    simplest = next(method for method in METHODS if method in each and excess[method].low <= 0)
    return Choice(simplest, lowest, excess)


def contributions(members: Floats, truth: Ints, fold: Ints, run: Ints, candidate: Candidate) -> dict[int, float]:
    """By run with weight, the cross-fitted accuracy with it less that without it; arguments as of `cross_fit`.

    It is above 0 where the run helps, and nan where nothing is left without it. Nothing is fitted again: the other
    runs keep their weights, scaled to sum to one, and the temperature stays.
    """
    right = accuracy(truth, candidate.probabilities.argmax(1))
    result = {}
    for one in np.unique(run[candidate.final.weights > 0]).tolist():
        without = np.full(candidate.probabilities.shape, np.nan, np.float32)
        for held_out, fit in zip(candidate.folds, candidate.fits, strict=True):
            rest = np.where(run != one, fit.weights, 0)
            if rest.any():
                rows = np.flatnonzero(fold == held_out)
                without[rows] = temper(pool_members(members, rest / rest.sum(), rows), fit.temperature)
        whole = bool(np.isfinite(without).all())
        result[one] = right - accuracy(truth, without.argmax(1)) if whole else math.nan
    return result
