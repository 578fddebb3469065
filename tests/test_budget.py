"""The plan that fits a time: networks, epochs, folds and features, at given costs."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import training.budget
from arg import FeatureOptions, OptimOptions, TrainConfig
from dataset import Store
from system.errors import UserError
from training.budget import Cost, ends_at, ensemble_members, members_of

CPU = torch.device("cpu")
FIRST = TrainConfig(
    model="melresnet",
    features=FeatureOptions(n_mels=40, frames=101, n_fft=512),
    optim=OptimOptions(epochs=20),
)


class Clock:
    @staticmethod
    def monotonic() -> float:
        return 0.0


@pytest.fixture(autouse=True)
def _costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds an epoch of 101 frames, two of a fold beside them."""
    monkeypatch.setattr(training.budget, "time", Clock)
    monkeypatch.setattr(training.budget, "MARGIN", 0.0)

    def measured(member: TrainConfig, *_: Any) -> Cost:
        epoch = 10.0 * member.features.bands_and_frames[1] / 101
        return Cost(epoch, 2.0, epoch / 20)

    monkeypatch.setattr(training.budget, "measured", measured)


def planned(store_work: Path, seconds: float, devices: int = 1, **given: Any) -> list[tuple[Any, ...]]:
    config = TrainConfig(work=store_work, budget=seconds, **given)
    members, choices = members_of(config, FIRST, Store.open(store_work), CPU, devices, seconds)  # two folds
    assert choices
    return [(one.model, *one.features.bands_and_frames, one.optim.epochs, one.folds) for one in members]


def test_as_many_epochs_of_all_folds_as_fit(store_work: Path) -> None:
    assert planned(store_work, 2 * (2 + 100)) == [("melresnet", 40, 101, 10, None)]
    assert planned(store_work, 2 * (2 + 200)) == [("melresnet", 40, 101, 20, None)]


def test_a_second_network_before_longer_schedules(store_work: Path) -> None:
    first = 2 * (2 + 200)
    assert planned(store_work, first + 2 * (2 + 130)) == [("melresnet", 40, 101, 33, None)]  # 13 of 20: too few
    assert planned(store_work, first + 2 * (2 + 140)) == [
        ("melresnet", 40, 101, 20, None),
        ("melresnet", 64, 101, 14, None),
    ]
    three = planned(store_work, 10 * first)
    assert [one[0] for one in three] == ["melresnet", "melresnet", "test_resnet"]
    assert 20 < three[0][3] <= 80
    assert [one[3] for one in planned(store_work, 1000 * first)] == [80, 80, 80]


def test_cheaper_features_then_fewer_folds(store_work: Path) -> None:
    half = 10 * 51 / 101
    assert planned(store_work, 2 * (2 + 3 * half) + 0.1) == [("melresnet", 40, 51, 3, None)]
    assert planned(store_work, 2 + 3 * half + 0.1) == [("melresnet", 40, 51, 3, (0,))]
    assert planned(store_work, 8) == [("melresnet", 40, 51, 1, (0,))]
    with pytest.raises(UserError, match="too short"):
        planned(store_work, 2)


def test_more_time_never_means_fewer_epochs_or_networks(store_work: Path) -> None:
    shown = []
    for seconds in range(10, 3000, 150):
        found = planned(store_work, seconds)
        folds = 1 if found[0][4] else 2
        shown.append(folds * sum(one[3] * one[2] / 101 for one in found))
    assert all(after >= before for before, after in itertools.pairwise(shown))


def test_given_options_stay(store_work: Path) -> None:
    epochs = OptimOptions(epochs=20)
    assert planned(store_work, 50, optim=epochs)[0][3] == 20  # the deadline ends it
    assert planned(store_work, 30, features=FeatureOptions(frames=101))[0][2] == 101


def test_side_by_side_is_one_round(store_work: Path) -> None:
    assert planned(store_work, 2 * (2 + 100), devices=2) == [("melresnet", 40, 101, 10, None)]  # they share the cores


def test_an_ensemble_is_of_runs_with_names_of_their_own() -> None:
    members = ensemble_members(FIRST, 1.0)
    assert [(one.model, one.features.bands_and_frames, one.seed) for one in members] == [
        ("melresnet", (40, 101), 0),
        ("melresnet", (64, 101), 1),
        ("test_resnet", (64, 64), 1),
    ]
    other = dataclasses.replace(FIRST, model="resnet18", features=FeatureOptions(size=64))
    assert [one.tag for one in ensemble_members(other, 1.0)] == ["", "seed1"]


def test_best_without_a_budget_is_the_whole_ensemble(store_work: Path) -> None:
    store, config = Store.open(store_work), TrainConfig(work=store_work, preset="best")
    assert len(members_of(config, FIRST, store, CPU, 1, math.inf)[0]) == 3
    assert members_of(dataclasses.replace(config, preset=None), FIRST, store, CPU, 1, math.inf) == ((FIRST,), [])


def test_the_budget_counts_from_the_start_of_the_command() -> None:
    assert ends_at(TrainConfig(), 5.0) == math.inf
    assert 5 + 0.9 * 180 < ends_at(TrainConfig(budget=180.0), 5.0) < 5 + 180
