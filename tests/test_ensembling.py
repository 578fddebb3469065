"""Ensembles: each fit against an independent one, what a cross-fit may see, and the file that keeps the outcome."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import sklearn.metrics
from numpy.typing import NDArray

from prediction.spec import METHODS, EnsembleSpec, Member, read_ensemble, write_ensemble
from reporting import ensembling
from reporting.ensembling import (
    Candidate,
    Fit,
    choose,
    contributions,
    cross_fit,
    fit_temperature,
    greedy_selection,
    likelihood_weights,
)
from system.errors import UserError
from system.paths import ENSEMBLE
from util import temper, weighted_vote

Array = NDArray[Any]


def made(clips: int, members: int, classes: int = 4, seed: int = 0) -> tuple[Array, Array]:
    """Members of different skill and sharpness, (members, clips, classes), and the truth."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, classes, clips)
    shared = 0.7 * draw.standard_normal((clips, classes))
    shared[np.arange(clips), truth] += 2
    own = draw.standard_normal((members, clips, classes)) * draw.uniform(0.6, 1.4, (members, 1, 1))
    logits = (shared + own) * draw.uniform(0.7, 2, (members, 1, 1))
    return scipy.special.softmax(logits, axis=2).astype(np.float32), truth


def best_loss(probabilities: Array, truth: Array) -> float:
    """The log loss at the best temperature, by other means than the module's."""
    log_p, rows = np.log(probabilities.astype(float)), np.arange(len(truth))

    def loss(beta: float) -> float:
        return float(-scipy.special.log_softmax(beta * log_p, axis=1)[rows, truth].mean())

    return float(scipy.optimize.minimize_scalar(loss, bracket=(0.5, 2)).fun)


# ----------------------------------------------------------------------------------------------------------- fits


def test_the_temperature_is_that_of_a_grid() -> None:
    members, truth = made(500, 1, seed=3)
    grid = np.geomspace(0.2, 5, 400)
    losses = [sklearn.metrics.log_loss(truth, temper(members[0].astype(float), t)) for t in grid]
    assert fit_temperature(members[0], truth) == pytest.approx(grid[int(np.argmin(losses))], rel=0.01)


def test_a_planted_temperature_is_found() -> None:
    draw = np.random.default_rng(0)
    logits = 2 * draw.standard_normal((20_000, 5))
    truth = (logits + draw.gumbel(size=logits.shape)).argmax(1)  # a draw from their softmax
    too_sharp = scipy.special.softmax(2.5 * logits, axis=1).astype(np.float32)
    assert fit_temperature(too_sharp, truth) == pytest.approx(2.5, rel=0.03)


def test_temperature_keeps_certainty_finite() -> None:
    rows = np.array([[1, 0, 0], [0.5, 0.5, 0]], np.float32)
    scaled = temper(rows, 0.1)
    np.testing.assert_allclose(scaled, rows, atol=1e-6)
    assert 0.1 <= fit_temperature(rows, np.array([1, 1])) <= 10


@pytest.mark.parametrize("seed", range(4))
def test_greedy_selection_is_as_good_as_the_best_of_all_small_ensembles(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensembling, "START", 1)
    monkeypatch.setattr(ensembling, "MOST", 6)
    members, truth = made(150, 3, seed=seed)
    weights = greedy_selection(members, truth)
    assert weights.sum() == pytest.approx(1)
    sizes = [size for size in range(1, 7) if np.allclose(weights * size, np.round(weights * size))]
    assert sizes
    multisets = (
        np.bincount(chosen, minlength=3) / size
        for size in range(1, 7)
        for chosen in itertools.combinations_with_replacement(range(3), size)
    )
    lowest = min(best_loss(weighted_vote(members, counts), truth) for counts in multisets)
    assert best_loss(weighted_vote(members, weights), truth) <= lowest + 1e-3


def test_greedy_selection_adds_what_lowers_the_loss_most(monkeypatch: pytest.MonkeyPatch) -> None:
    members, truth = made(300, 6, seed=5)
    alone = [best_loss(member, truth) for member in members]
    monkeypatch.setattr(ensembling, "START", 1)
    monkeypatch.setattr(ensembling, "MOST", 2)
    first = int(np.argmin(alone))
    pairs = [best_loss((members[first] + member) / 2, truth) for member in members]
    expected = np.bincount([first, int(np.argmin(pairs))], minlength=6) / 2
    np.testing.assert_array_equal(greedy_selection(members, truth), expected)


def test_the_gradient_of_the_likelihood() -> None:
    members, truth = made(60, 4)
    exact = members.astype(np.float64)
    point = np.array([0.3, -0.5, 0.1, 0.8, 0.4])
    error = scipy.optimize.check_grad(
        lambda x: ensembling._likelihood(x, exact, truth)[0],
        lambda x: ensembling._likelihood(x, exact, truth)[1],
        point,
    )
    assert error < 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_likelihood_weights_are_those_of_another_optimiser(seed: int) -> None:
    members, truth = made(400, 3, seed=seed)
    found = likelihood_weights(members, truth)
    other = scipy.optimize.minimize(
        lambda w: best_loss(weighted_vote(members.astype(float), np.abs(w)), truth),
        np.full(3, 1 / 3),
        method="SLSQP",
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
    )
    assert best_loss(weighted_vote(members, found), truth) <= other.fun + 1e-4
    np.testing.assert_allclose(found, other.x, atol=0.03)


def test_a_member_that_knows_nothing_gets_no_weight() -> None:
    members, truth = made(2000, 3)
    members[1] = members[1][::-1]  # other clips'
    for method in ("greedy", "likelihood"):
        assert ensembling.fit_weights(method, members, truth)[1] == 0


# -------------------------------------------------------------------------------------------------- cross-fitting

RUN = np.array([0, 0, 1, 1, 2, 2])  # of six members


@pytest.fixture(scope="module")
def problem() -> tuple[Array, Array, Array, dict[str, Candidate]]:
    members, truth = made(300, 6)
    fold = np.arange(300) % 3
    return members, truth, fold, cross_fit(members, truth, fold, RUN)


def test_a_fit_never_sees_its_fold(problem: tuple[Array, Array, Array, dict[str, Candidate]]) -> None:
    members, truth, fold, before = problem
    truth, members = truth.copy(), members.copy()
    held_out = fold == 1
    truth[held_out] = (truth[held_out] + 1) % 4
    members[:, held_out] = members[::-1, held_out]
    for method, candidate in cross_fit(members, truth, fold, RUN).items():
        old = before[method]
        np.testing.assert_array_equal(candidate.fits[1].weights, old.fits[1].weights)
        assert candidate.fits[1].temperature == old.fits[1].temperature
        assert candidate.fits[0].temperature != old.fits[0].temperature
        assert candidate.final.temperature != old.final.temperature


def test_cross_fitted_probabilities_are_by_the_fold_s_fit(
    problem: tuple[Array, Array, Array, dict[str, Candidate]],
) -> None:
    members, truth, fold, candidates = problem
    assert tuple(candidates) == METHODS
    for candidate in candidates.values():
        assert candidate.folds == (0, 1, 2)
        for held_out, fit in enumerate(candidate.fits):
            rows = fold == held_out
            pooled = np.einsum("m,mnc->nc", fit.weights, members[:, rows])
            scaled = scipy.special.softmax(np.log(pooled) / fit.temperature, axis=1)
            np.testing.assert_allclose(candidate.probabilities[rows], scaled, atol=1e-5)
    np.testing.assert_allclose(candidates["mean"].final.weights, 1 / 6)
    single = candidates["single"].final.weights
    right = [int((members[run == RUN].mean(0).argmax(1) == truth).sum()) for run in range(3)]
    np.testing.assert_array_equal(single, np.where(int(np.argmax(right)) == RUN, 0.5, 0))


def test_the_order_of_the_members_changes_nothing(
    problem: tuple[Array, Array, Array, dict[str, Candidate]],
) -> None:
    members, truth, fold, before = problem
    order = np.random.default_rng(1).permutation(6)
    for method, candidate in cross_fit(members[order], truth, fold, RUN[order]).items():
        tolerance = 0.005 if method == "likelihood" else 1e-9  # it ends where a step brings next to nothing
        np.testing.assert_allclose(candidate.final.weights, before[method].final.weights[order], atol=tolerance)
        np.testing.assert_allclose(candidate.probabilities, before[method].probabilities, atol=0.005)


def test_weights_are_fitted_to_a_part_of_many_clips(
    problem: tuple[Array, Array, Array, dict[str, Candidate]], monkeypatch: pytest.MonkeyPatch
) -> None:
    members, truth, fold, _ = problem
    seen: set[int] = set()

    def noted(_: str, part: Array, *rest: Array) -> Array:
        seen.add(part.shape[1])
        return np.full(6, 1 / 6)

    monkeypatch.setattr(ensembling, "FIT_CLIPS", 50)
    monkeypatch.setattr(ensembling, "fit_weights", noted)
    cross_fit(members, truth, fold, RUN)
    assert seen == {50}


def test_one_fold_is_not_enough() -> None:
    members, truth = made(20, 2)
    with pytest.raises(UserError, match="only one"):
        cross_fit(members, truth, np.zeros(20, int), np.arange(2))


def candidate_of(method: str, of_truth: Array, truth: Array) -> Candidate:
    """A candidate of two classes that gives the true ones these probabilities."""
    rows = np.stack([1 - of_truth, of_truth], 1)
    rows[truth == 0] = rows[truth == 0][:, ::-1]
    return Candidate(method, (), (), Fit(np.ones(1), 1.0), rows.astype(np.float32))


def test_the_simplest_is_chosen_unless_another_is_clearly_better() -> None:
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 2, 400)
    base = draw.uniform(0.5, 0.9, 400)
    candidates = {
        "single": candidate_of("single", base - 0.05, truth),
        "mean": candidate_of("mean", base + np.tile([0.03, -0.03], 200), truth),
        "greedy": candidate_of("greedy", base, truth),
    }
    each = np.arange(400)
    choice = choose(candidates, truth, each)
    assert (choice.lowest, choice.method) == ("greedy", "mean")
    losses = {name: -np.log(c.probabilities[each, truth].astype(float)) for name, c in candidates.items()}
    interval = scipy.stats.ttest_rel(losses["mean"], losses["greedy"]).confidence_interval()
    excess = choice.excess["mean"]
    assert (excess.low, excess.high) == pytest.approx(tuple(interval), rel=0.01)  # by its own degrees of freedom
    assert choice.excess["single"].low > 0
    # As one group the clips say nothing about others; a group of each clip four times over says as much as it once.
    assert choose(candidates, truth, np.zeros(400, int)).method == "single"
    four = {n: dataclasses.replace(c, probabilities=c.probabilities.repeat(4, 0)) for n, c in candidates.items()}
    repeated = choose(four, truth.repeat(4), each.repeat(4))
    assert repeated.excess["mean"].high == pytest.approx(excess.high)


def test_what_a_run_brings(problem: tuple[Array, Array, Array, dict[str, Candidate]]) -> None:
    members, truth, fold, candidates = problem
    mean = candidates["mean"]
    gains = contributions(members, truth, fold, RUN, mean)
    assert list(gains) == [0, 1, 2]
    without = np.empty((300, 4))
    for held_out, fit in enumerate(mean.fits):
        rows = fold == held_out
        without[rows] = scipy.special.softmax(np.log(members[2:, rows].mean(0, float)) / fit.temperature, axis=1)
    accuracies = [sklearn.metrics.accuracy_score(truth, p.argmax(1)) for p in (mean.probabilities, without)]
    assert gains[0] == pytest.approx(accuracies[0] - accuracies[1])
    assert np.isnan(list(contributions(members, truth, fold, RUN, candidates["single"]).values())).all()


# ------------------------------------------------------------------------------------------------- ensemble.json

SPEC = EnsembleSpec(
    classes=("a", "b"),
    folds_hash="x",
    folds=(0, 1, 2),
    method="greedy",
    members=(Member("one", 0, 0.5), Member("one", 2, 0.125), Member("two", 1, 0.375)),
    temperature=0.8,
    scores={"log loss": 0.25},
)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    for run in ("one", "two"):
        (tmp_path / "runs" / run).mkdir(parents=True)
    return tmp_path


def test_the_file_keeps_everything(work: Path) -> None:
    assert write_ensemble(work, SPEC) == work / ENSEMBLE
    assert read_ensemble(work) == SPEC
    assert [path.name for path in work.iterdir() if path.is_file()] == [ENSEMBLE]


def test_weights_of_networks() -> None:
    weights = SPEC.network_weights(2, tta=True)
    np.testing.assert_allclose(weights, [[0.25, 0, 0.0625], [0.25, 0, 0.0625], [0, 0.1875, 0], [0, 0.1875, 0]])
    np.testing.assert_allclose(SPEC.network_weights(1, tta=False), [[0.625], [0.375]])


def member(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda plain: plain["members"][0].update(values)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda plain: plain.update(more=1), "more"),
        (lambda plain: plain.pop("temperature"), "temperature"),
        (lambda plain: plain.update(format=2), "format 2"),
        (lambda plain: plain.pop("format"), "format None"),
        (lambda plain: plain.update(classes=["a", "a"]), "classes"),
        (lambda plain: plain.update(classes="ab"), "classes"),
        (lambda plain: plain.update(folds=[0, 0.5]), "folds"),
        (lambda plain: plain.update(folds=[]), "folds"),
        (lambda plain: plain.update(folds_hash=3), "folds_hash"),
        (lambda plain: plain.update(method="best"), "method 'best'"),
        (lambda plain: plain.update(temperature=float("nan")), "temperature nan"),
        (lambda plain: plain.update(temperature=0), "temperature 0"),
        (lambda plain: plain.update(temperature=True), "temperature True"),
        (lambda plain: plain.update(scores=[]), "scores"),
        (lambda plain: plain.update(members=[]), "sum to 0"),
        (lambda plain: plain.update(members=5), "int"),
        (lambda plain: plain["members"].pop(), "sum to 0.625"),
        (lambda plain: plain["members"].append(dict(plain["members"][0], weight=0)), "twice"),
        (member(more=1), "more"),
        (member(weight=-0.5), "weight -0.5"),
        (member(weight="0.5"), "weight '0.5'"),
        (member(weight=10**400), ENSEMBLE),
        (member(view=4), "view 4: there are 4"),
        (member(view=True), "view True"),
        (member(run="../one"), "'../one'"),
        (member(run=".."), "'..'"),
        (member(run="/etc"), "'/etc'"),
        (member(run="a\\b"), "not the name of a folder"),
        (member(run="one\0"), "not the name of a folder"),
        (member(run="a" * 300), ENSEMBLE),
        (member(run=["one"]), "not the name of a folder"),
        (member(run="three\nlines"), r"no run 'three\nlines'"),
    ],
)
def test_a_file_of_anything_else_is_refused(work: Path, spoil: Callable[[dict[str, Any]], Any], said: str) -> None:
    path = write_ensemble(work, SPEC)
    plain = json.loads(path.read_text())
    spoil(plain)
    path.write_text(json.dumps(plain))
    with pytest.raises(UserError) as refused:
        read_ensemble(work)
    line = str(refused.value)
    assert said in line
    assert line.startswith(f"{path}: ")
    assert line.endswith(f"run python report.py -w {work} again")
    assert "\n" not in line


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "[" * 100_000, "\ud800"])
def test_what_is_not_even_that_is_refused(work: Path, text: str) -> None:
    (work / ENSEMBLE).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=r"run python report\.py -w \S+ again"):
        read_ensemble(work)


def test_a_missing_file_says_how_to_get_it(work: Path) -> None:
    with pytest.raises(UserError, match=r"run python report\.py -w \S+ first"):
        read_ensemble(work)
