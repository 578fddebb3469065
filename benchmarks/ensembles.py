"""What an ensemble should be chosen by, on simulated networks of known kind; and what choosing one takes.

    python -m benchmarks.ensembles --worlds 8
    python -m benchmarks.ensembles --clips 60000 --classes 30 --runs 6

A network's logits are the clip's own (how clear it is, and what it resembles), plus noise of the run, of the network
(one a fold) and of the view. Runs differ in noise and in sharpness. Every way of weighting sees 2,000 or 8,000 clips
out of fold, its temperature is fitted to them, and 12,000 new clips tell how good it is: once predicted by one network
of each run, as out of fold, once by five, as in use. Differences from the plain mean are averaged over the worlds and
given with their standard errors.

With --clips, the time and memory of a whole cross-fit are measured instead.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reporting import ensembling
from reporting.ensembling import (
    best_run,
    choose,
    contributions,
    cross_fit,
    fit_temperature,
    greedy_selection,
    likelihood_weights,
    scaled_log_loss,
)
from util import accuracy, weighted_vote

Floats = NDArray[Any]
Ints = NDArray[np.integer[Any]]
VIEWS, FOLDS = 4, 5


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ensembles", description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=8, help="simulated for each number of clips")
    parser.add_argument("--clips", type=int, help="measure a cross-fit of so many")
    parser.add_argument("--classes", type=int, default=12)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--fit-clips", type=int, default=ensembling.FIT_CLIPS, help="that weights are fitted to")
    options = parser.parse_args()
    ensembling.FIT_CLIPS = options.fit_clips
    if options.clips:
        measure(options.clips, options.classes, options.runs)
        return
    for clips in (2000, 8000):
        compare(options.worlds, clips, options.classes, options.runs)


@dataclass(frozen=True)
class World:
    classes: int
    noise: Floats  # of each run
    sharpness: Floats

    @classmethod
    def drawn(cls, draw: np.random.Generator, classes: int, runs: int) -> World:
        return cls(classes, np.exp(draw.normal(0, 0.3, runs)), np.exp(draw.normal(0.2, 0.3, runs)))

    def clips(self, draw: np.random.Generator, count: int, networks: int = 1) -> tuple[Floats, Ints]:
        """(runs x VIEWS, count, classes) float32 probabilities, the mean of a run's networks, and the truth."""
        truth = draw.integers(0, self.classes, count)
        shape = (count, self.classes)
        clip = 0.8 * draw.standard_normal(shape, np.float32)
        clip[np.arange(count), truth] += 4.5 * draw.gamma(4, 0.25, count)
        members = np.zeros((len(self.noise) * VIEWS, *shape), np.float32)
        for run, (noise, sharpness) in enumerate(zip(self.noise, self.sharpness, strict=True)):
            of_run = clip + np.float32(0.5 * noise) * draw.standard_normal(shape, np.float32)
            for _ in range(networks):
                of_network = of_run + np.float32(0.6 * noise) * draw.standard_normal(shape, np.float32)
                for view in range(VIEWS):
                    logits = of_network + np.float32(0.25) * draw.standard_normal(shape, np.float32)
                    members[run * VIEWS + view] += softmax(np.float32(1.6 * sharpness) * logits) / networks
        return members, truth


def softmax(logits: Floats) -> Floats:
    exponential = np.exp(logits - logits.max(1, keepdims=True))
    return exponential / exponential.sum(1, keepdims=True)


# ------------------------------------------------------------------------------------------------------ comparison


def raw_likelihood(members: Floats, truth: Ints) -> Floats:
    """Weights that maximise the likelihood of the pool as it is, without temperature, by expectation maximisation."""
    of_truth = members[:, np.arange(len(truth)), truth].astype(float)
    weights = np.full(len(members), 1 / len(members))
    for _ in range(300):
        weights *= (of_truth / (weights @ of_truth)).mean(1)
    return weights


def greedy_by(score: Callable[[Floats, Ints], float], members: Floats, truth: Ints, most: int = 30) -> Floats:
    """Selection with replacement by the highest score, begun with the best member."""
    counts, total = np.zeros(len(members)), np.zeros(members.shape[1:], np.float32)
    best, kept = -np.inf, counts
    for size in range(1, most + 1):
        scores = [score((total + member) / size, truth) for member in members]
        chosen = int(np.argmax(scores))
        counts[chosen] += 1
        total += members[chosen]
        if scores[chosen] > best:
            best, kept = scores[chosen], counts.copy()
    return kept / kept.sum()


def raw_loss(probabilities: Floats, truth: Ints) -> float:
    return -scaled_log_loss(probabilities, truth, 1)


def hits_then_loss(probabilities: Floats, truth: Ints) -> float:
    """Accuracy; the log loss breaks ties, as it never outweighs a clip."""
    return accuracy(truth, probabilities.argmax(1)) + raw_loss(probabilities, truth) / (100 * len(truth))


def compare(worlds: int, clips: int, classes: int, runs: int) -> None:
    of_run = np.repeat(np.arange(runs), VIEWS)
    ways: dict[str, Callable[[Floats, Ints], Floats]] = {
        "plain mean": lambda members, truth: np.full(len(members), 1 / len(members)),
        "best run": lambda members, truth: best_run(members, truth, of_run),
        "greedy, log loss without temperature": lambda members, truth: greedy_by(raw_loss, members, truth),
        "greedy, accuracy": lambda members, truth: greedy_by(hits_then_loss, members, truth),
        "greedy, log loss after temperature": greedy_selection,
        "likelihood without temperature": raw_likelihood,
        "likelihood after temperature": likelihood_weights,
    }
    scores: dict[str, list[list[float]]] = defaultdict(list)
    for number in range(worlds):
        draw = np.random.default_rng([number, clips])
        world = World.drawn(draw, classes, runs)
        members, truth = world.clips(draw, clips)
        single, single_truth = world.clips(draw, 12_000)
        five, five_truth = world.clips(draw, 12_000, FOLDS)
        for name, way in ways.items():
            weights = way(members, truth)
            temperature = fit_temperature(weighted_vote(members, weights), truth)
            one, many = weighted_vote(single, weights), weighted_vote(five, weights)
            best = fit_temperature(many, five_truth)
            scores[name].append(
                [
                    accuracy(single_truth, one.argmax(1)),
                    scaled_log_loss(one, single_truth, temperature),
                    accuracy(five_truth, many.argmax(1)),
                    scaled_log_loss(many, five_truth, temperature),
                    scaled_log_loss(many, five_truth, best),
                    temperature,
                    best,
                ]
            )
    print(f"{clips:,} clips, {worlds} worlds; accuracy and log loss less those of the plain mean, on new clips")
    mean = np.array(scores["plain mean"])
    for name, rows in scores.items():
        values = np.array(rows)
        difference, error = (values - mean).mean(0), (values - mean).std(0, ddof=1) / np.sqrt(worlds)
        said = [f"{one:+.4f} +- {other:.4f}" for one, other in zip(difference, error, strict=True)]
        print(f"{name:38} one network a run {said[0]}, {said[1]} | five {said[2]}, {said[3]}")
    one, loss, five_accuracy, as_fitted, at_best, temperature, best = mean.mean(0)
    print(
        f"plain mean itself: one network a run {one:.4f}, {loss:.4f} | five {five_accuracy:.4f}, {as_fitted:.4f}; "
        f"temperature {temperature:.2f}; the best for five {best:.2f}, log loss {at_best:.4f}"
    )


# ---------------------------------------------------------------------------------------------------------- price


def measure(clips: int, classes: int, runs: int) -> None:
    draw = np.random.default_rng(0)
    members, truth = World.drawn(draw, classes, runs).clips(draw, clips)
    fold, run = draw.integers(0, FOLDS, clips), np.repeat(np.arange(runs), VIEWS)
    before, began = time.perf_counter(), time.process_time()
    candidates = cross_fit(members, truth, fold, run)
    choice = choose(candidates, truth, np.arange(clips))
    contributions(members, truth, fold, run, candidates[choice.method])
    took, cpu = time.perf_counter() - before, time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{clips:,} clips x {classes} classes x {len(members)} members ({members.nbytes / 2**20:.0f} MiB)")
    print("cross-fitted log loss:", ", ".join(f"{method} {loss:.4f}" for method, loss in choice.loss.items()))
    print(f"cross-fit, choice and contributions: {took:.1f} s, {cpu:.1f} s of CPU; at most {peak:.0f} MiB in all")


if __name__ == "__main__":
    main()
