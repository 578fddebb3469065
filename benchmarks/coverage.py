"""How often the 95 % intervals of reporting/scores.py hold the true value, on made predictions.

    python -m benchmarks.coverage --repetitions 2000

Clips are nested in groups: 1 to 80 in each, 10 on average, mostly few and sometimes many; each group has a skill drawn
from a normal distribution, which is added to the logit of the right class for all its clips. Three systems share skills
and part of each clip's noise: b is less able than a, and c exactly as able. The true values are those of a million
groups. Each repetition draws new groups and asks for all intervals.

Prints, for each number of groups, the share of intervals that hold the truth, their mean width for accuracy, and how
often the paired test finds a and c different at 5 %, then a JSON line. For contrast: Wilson's interval, which takes
clips as independent, and the plain bootstrap over groups (percentile, and BCa, Efron 1987).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reporting.scores import (
    Floats,
    Interval,
    Ints,
    bootstrap_sums,
    calibration_error,
    compare,
    losses,
    scores,
    share,
    top_k_hits,
)
from util import Z_95, accuracy, macro_f1, wilson_interval

CLASSES = 10
MEAN_CLIPS, MOST_CLIPS = 10, 80  # in a group
SKILL_SPREAD = 1.0  # standard deviation between groups, of the right class's logit
SHARPNESS = 2.6  # of the softmax: close to calibrated, but not quite
LESS_ABLE = 0.2  # system b
MARGINS = {0.94: 3.9, 0.8: 2.8}  # by which the right class's logit is the larger, for about this accuracy
TRUE_GROUPS = 1_000_000
RESAMPLES = 1000  # of the bootstrap


@dataclass(frozen=True)
class Predictions:
    """Clips in groups and three systems' probabilities, each (clips, CLASSES)."""

    truth: Ints
    group: Ints
    a: Floats
    b: Floats
    c: Floats


def make(generator: np.random.Generator, groups: int, margin: float) -> Predictions:
    size = np.minimum(1 + generator.negative_binomial(1, 1 / MEAN_CLIPS, groups), MOST_CLIPS)
    group = np.repeat(np.arange(groups), size)
    clips = np.arange(len(group))
    truth = generator.integers(CLASSES, size=len(group))
    skill = SKILL_SPREAD * generator.standard_normal(groups)[group]
    shared = 0.8 * generator.standard_normal((len(group), CLASSES), np.float32)

    def system(able: float) -> Floats:
        logits = shared + 0.6 * generator.standard_normal(shared.shape, np.float32)
        logits[clips, truth] += able + skill
        logits -= logits.max(1, keepdims=True)
        power = np.exp(SHARPNESS * logits)
        return power / power.sum(1, keepdims=True)

    return Predictions(truth, group, system(margin), system(margin - LESS_ABLE), system(margin))


def true_values(margin: float) -> dict[str, float]:
    """What the intervals should hold, from TRUE_GROUPS groups."""
    parts: dict[str, list[NDArray[Any]]] = defaultdict(list)
    for number in range(TRUE_GROUPS // 10_000):
        made = make(np.random.default_rng((1, number)), 10_000, margin)
        parts["truth"].append(made.truth)
        for name, system in (("a", made.a), ("b", made.b)):
            parts[f"{name} taken"].append(system.argmax(1))
            parts[f"{name} loss"].append(losses(made.truth, system))
        parts["top3"].append(top_k_hits(made.truth, made.a, 3))
        parts["confidence"].append(made.a.max(1))
    whole = {name: np.concatenate(part) for name, part in parts.items()}
    truth, taken = whole["truth"], whole["a taken"]
    right = taken == truth
    # One column for the predicted class and one for the others is all that the calibration error looks at.
    two = np.stack([whole["confidence"], np.zeros(len(truth), np.float32)], 1)
    return {
        "accuracy": accuracy(truth, taken),
        "macro F1": macro_f1(truth, taken, CLASSES),
        "log loss": float(whole["a loss"].mean()),
        "top-3": float(whole["top3"].mean()),
        "recall of a class": float(right[truth == 0].mean()),
        "calibration": calibration_error(np.where(right, 0, 1), two),
        "difference": accuracy(truth, taken) - accuracy(truth, whole["b taken"]),
        "difference of log loss": float((whole["a loss"] - whole["b loss"]).mean()),
    }


def intervals(made: Predictions, generator: np.random.Generator) -> dict[str, Interval]:
    """All intervals for one draw of groups; the names of those for contrast have a comma."""
    ours = scores(made.truth, made.a, generator, made.group)
    pair = compare(made.truth, made.a, made.b, made.group)
    right, first = made.a.argmax(1) == made.truth, made.truth == 0
    loss = losses(made.truth, made.a)
    result = {
        "accuracy": ours.accuracy,
        "macro F1": ours.macro_f1,
        "log loss": ours.log_loss,
        "top-3": ours.top3,
        "recall of a class": share(right[first], made.group[first]),
        "calibration": ours.calibration_error,
        "difference": pair.accuracy,
        "difference of log loss": pair.log_loss,
        "accuracy, Wilson": Interval(ours.accuracy.value, *wilson_interval(ours.accuracy.value, len(right))),
    }
    sums = np.stack(
        [np.bincount(made.group, values) for values in (right, loss, np.ones_like(loss))], 1, dtype=np.float64
    )
    drawn, without = bootstrap_sums(sums, generator, RESAMPLES), sums.sum(0) - sums
    for index, name in enumerate(("accuracy", "log loss")):
        value = sums[:, index].sum() / len(loss)
        means, others = drawn[:, index] / drawn[:, 2], without[:, index] / without[:, 2]
        for kind, levels in (("percentile", [0.025, 0.975]), ("BCa", bca_levels(means, value, others))):
            result[f"{name}, {kind}"] = Interval(value, *np.quantile(means, levels))
    return result


def bca_levels(drawn: Floats, value: float, without: Floats) -> list[float]:
    """Which quantiles of the bootstrap's values are the limits, from the values `without` each group."""
    from scipy.special import ndtr, ndtri

    below = (np.mean(drawn < value) + np.mean(drawn <= value)) / 2
    bias = ndtri(np.clip(below, 1 / len(drawn), 1 - 1 / len(drawn)))
    moved = without.mean() - without
    skew = (moved**3).sum() / (6 * (moved**2).sum() ** 1.5) if moved.any() else 0.0
    return [float(ndtr(bias + (bias + z) / (1 - skew * (bias + z)))) for z in (-Z_95, Z_95)]


def simulate(groups: int, level: float, repetitions: int, true: dict[str, float]) -> dict[str, Any]:
    held: dict[str, int] = defaultdict(int)
    estimates: dict[str, list[float]] = defaultdict(list)
    found = 0
    for repetition in range(repetitions):
        generator = np.random.default_rng((2, round(100 * level), groups, repetition))
        made = make(generator, groups, MARGINS[level])
        for name, one in intervals(made, generator).items():
            held[name] += one.low <= true[name.split(",")[0]] <= one.high
            estimates[name].append(one.value)
            estimates[f"width, {name}"].append(one.high - one.low)
        found += compare(made.truth, made.a, made.c, made.group).p_value <= 0.05
    return {
        "groups": groups,
        "accuracy": level,
        "covered": {name: round(count / repetitions, 4) for name, count in held.items()},
        "found different": round(found / repetitions, 4),
        "mean width of accuracy's": round(float(np.mean(estimates["width, accuracy"])), 4),
        "mean calibration error": round(float(np.mean(estimates["calibration"])), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--groups", type=int, nargs="*", default=[10, 30, 100, 300, 1000])
    options = parser.parse_args()
    start = time.perf_counter()
    result: dict[str, Any] = {"repetitions": options.repetitions, "levels": []}
    for level, margin in MARGINS.items():
        true = true_values(margin)
        print("true: " + ", ".join(f"{name} {value:.4f}" for name, value in true.items()), flush=True)
        rows = [simulate(groups, level, options.repetitions, true) for groups in options.groups]
        print(f"{'groups':24}" + "".join(f"{row['groups']:>8,}" for row in rows))
        for name in rows[0]["covered"]:
            print(f"{name:24}" + "".join(f"{row['covered'][name]:8.3f}" for row in rows))
        for name in ("found different", "mean width of accuracy's", "mean calibration error"):
            print(f"{name:24}" + "".join(f"{row[name]:8.4f}" for row in rows), flush=True)
        result["levels"].append({"true": {name: round(value, 5) for name, value in true.items()}, "rows": rows})
    error = math.sqrt(0.95 * 0.05 / options.repetitions)
    result["seconds"] = round(time.perf_counter() - start)
    print(f"shares are known to within {1.96 * error:.3f}; {result['seconds']} s")
    print(json.dumps(result))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
