"""By which score of a label's quality wrong labels are found first, in simulated data.

    python -m benchmarks.label_ranking --draws 10      # a minute or two on one core

5,400 points of 12 classes in groups (speakers), of which some are hard and two pairs of classes alike; 5 % of the
labels are swapped. Networks that learn from those labels, in five folds by group, give out-of-fold probabilities: one
stops early, one goes on until it knows its training labels by heart, which makes its probabilities too sure, and one is
linear. Prints what share of the swapped labels is among the first 5 % and 10 % by each score, the mean over the draws,
and what share of the points confident learning suspects and of the swapped ones is among them.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.planted import SHARES, swapped
from reporting.suspects import confident_learning

POINTS, CLASSES, GROUPS, DIMENSIONS = 5400, 12, 1300, 24
Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.label_ranking", description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=3, help="data sets")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Stochastic Optimizer")  # that it stops early is meant
    models: dict[str, Callable[[int], Any]] = {
        "stopped early": lambda seed: MLPClassifier((128,), max_iter=12, learning_rate_init=2e-3, random_state=seed),
        "by heart": lambda seed: MLPClassifier((128,), max_iter=60, learning_rate_init=2e-3, random_state=seed),
        "linear": lambda seed: LogisticRegression(max_iter=200),
    }
    for name, model in models.items():
        draws = [simulate(model(seed), seed) for seed in range(options.draws)]
        keys = draws[0].keys()
        print(name, *(f"  {key:32} {np.mean([draw[key] for draw in draws], 0).round(3)}" for key in keys), sep="\n")


def simulate(model: Any, seed: int) -> dict[str, tuple[float, ...]]:
    """Accuracy against the true labels; for each score the recall among the first SHARES; what is suspected."""
    features, truth, group = points(seed)
    given = swapped(truth.astype(str).astype(object), SHARES[0], seed).astype(np.int64)
    split = GroupKFold(5)
    scaled = make_pipeline(StandardScaler(), model)
    probabilities = cross_val_predict(scaled, features, given, groups=group, cv=split, method="predict_proba")
    wrong = given != truth
    found: dict[str, tuple[float, ...]] = {"accuracy": (float((probabilities.argmax(1) == truth).mean()),)}
    for name, quality in scores(given, probabilities).items():
        order = wrong[np.argsort(quality, kind="stable")]
        found[name] = tuple(float(order[: round(share * POINTS)].sum() / wrong.sum()) for share in SHARES)
    suspected = confident_learning(given, probabilities).suspected
    found["suspected: share, recall"] = float(suspected.mean()), float(wrong[suspected].sum() / wrong.sum())
    return found


def points(seed: int) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Features (n, d), classes (n,) and groups (n,)."""
    draw = np.random.default_rng(seed)
    centre = draw.standard_normal((CLASSES, DIMENSIONS))
    centre[1] = centre[0] + 0.35 * draw.standard_normal(DIMENSIONS)  # two pairs that are easily confused
    centre[3] = centre[2] + 0.45 * draw.standard_normal(DIMENSIONS)
    label, group = draw.integers(0, CLASSES, POINTS), draw.integers(0, GROUPS, POINTS)
    voice, hard = 0.35 * draw.standard_normal((GROUPS, DIMENSIONS)), np.exp(0.45 * draw.standard_normal(GROUPS))
    spread = 0.75 * hard[group] * np.exp(0.25 * draw.standard_normal(POINTS))
    linear = centre[label] + voice[group] + spread[:, None] * draw.standard_normal((POINTS, DIMENSIONS))
    return np.hstack([linear, np.sin(1.5 * linear[:, :8])]), label, group


def scores(given: NDArray[np.int64], probabilities: Floats) -> dict[str, Floats]:
    """Scores of the labels' quality, (n,) each, low where a label is likely wrong (Kuan and Mueller 2022)."""

    def own(values: Floats) -> Floats:
        return values[np.arange(len(given)), given]

    def margin(values: Floats) -> Floats:
        others = values.copy()
        others[np.arange(len(given)), given] = -np.inf
        return own(values) - others.max(1)

    thresholds = confident_learning(given, probabilities).thresholds
    adjusted = probabilities - thresholds + thresholds.max()
    adjusted /= adjusted.sum(1, keepdims=True)
    logs = np.log(np.maximum(probabilities, 1e-15))
    return {
        "self-confidence": own(probabilities),
        "normalised margin": margin(probabilities),
        "self-confidence, class-adjusted": own(adjusted),
        "margin, class-adjusted": margin(probabilities - thresholds),
        "log ratio to the likeliest other": margin(logs),
    }


if __name__ == "__main__":
    main()
