"""The plan that fits a time, by a short trial of its networks on this machine; and the members of an ensemble."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import TYPE_CHECKING, NamedTuple

from arg import FeatureOptions, TrainConfig
from system.console import clock
from system.errors import UserError
from training.resolve import choose_folds, resolve
from training.rules import LONG_SECONDS, Choice, is_own

if TYPE_CHECKING:
    import torch

    from dataset import Store

MARGIN = 0.08  # of the time that a plan leaves free
LEAST_EPOCHS = 3  # below that, features get cheaper, then folds fewer
LEAST_STEPS = 4  # that a fold takes, or there is no point in it
SHARE = 0.7  # of its planned epochs that each further network gets, or it is not begun
WORTH_TRYING = 0.3  # of the first network's time that must be left for a second one to be timed
LONGEST = 4.0  # times the planned epochs
START_SECONDS = 1.5  # from process start to main, and from its end to the process's
TOGETHER_SHARE, TOGETHER_MOST = 0.06, 30.0  # of the budget for finding the ensemble; and seconds


class Cost(NamedTuple):
    """Seconds that training takes on one device."""

    epoch: float
    fixed: float  # of a fold: from its start to its first epoch, and its scores
    step: float


def ends_at(config: TrainConfig, began: float) -> float:
    """By when training has to be over, of time.monotonic(), in a command that began then; infinite without --budget."""
    if config.budget is None:
        return math.inf
    return began + config.budget - START_SECONDS - together_seconds(config.budget)


def together_seconds(budget: float) -> float:
    """Set aside for finding the ensemble of several networks."""
    return min(TOGETHER_MOST, TOGETHER_SHARE * budget)


def ensemble_members(first: TrainConfig, window_seconds: float) -> list[TrainConfig]:
    """`first`, the same network with another view of the sound, and another kind of network."""
    seed = first.seed + 1
    n_mels, frames = first.features.bands_and_frames
    if not is_own(first.model) or first.features.size or first.weights or first.pretrained:
        return [first, dataclasses.replace(first, seed=seed, tag=f"{first.tag}seed{seed}")]
    bands = 64 if n_mels < 64 else 40
    n_fft = first.features.n_fft and 2 * first.features.n_fft
    second = dataclasses.replace(first.features, n_mels=bands, n_fft=n_fft)
    other = FeatureOptions(size=64, fmin=first.features.fmin, fmax=first.features.fmax)
    if window_seconds > LONG_SECONDS:  # of which 64 frames would be too coarse
        other = dataclasses.replace(first.features, n_mels=64, frames=frames)
    return [
        first,
        dataclasses.replace(first, features=second, seed=seed),
        dataclasses.replace(first, model="test_resnet", features=other, seed=seed),
    ]


def members_of(
    config: TrainConfig, first: TrainConfig, store: Store, device: torch.device, devices: int, ends: float
) -> tuple[tuple[TrainConfig, ...], list[Choice]]:
    """The members of the plan for `config`, whose planned network is `first`: several for --preset best and --budget.

    `ends`: see `ends_at`. UserError where not even a few steps fit.
    """
    several = ensemble_members(first, store.clip_samples / store.sample_rate)
    if config.budget is None:
        if config.preset != "best":
            return (first,), []
        return tuple(several), [Choice(f"{len(several)} networks", "an ensemble is better than any one of them")]
    return _fitting(config, several, store, device, devices, ends)


def _fitting(
    config: TrainConfig, several: list[TrainConfig], store: Store, device: torch.device, devices: int, ends: float
) -> tuple[tuple[TrainConfig, ...], list[Choice]]:
    assert config.budget is not None
    first = several[0]
    folds = choose_folds(first, store)
    slower = devices if device.type == "cpu" else 1  # processes side by side share the cores
    rounds = math.ceil(len(folds) / devices)

    def timed(member: TrainConfig) -> Cost:
        cost = measured(member, store, device)
        return Cost(*(slower * part for part in cost))

    def left() -> float:
        return max(0.0, ends - time.monotonic()) * (1 - MARGIN)

    def affordable(cost: Cost, seconds: float) -> int:
        """Epochs of each of the folds."""
        return int((seconds / rounds - cost.fixed) / cost.epoch)

    cost, fixed_epochs = timed(first), config.optim.epochs is not None
    planned = resolve(first, store, folds[0], device).optim.epochs
    epochs = affordable(cost, left())
    asked = config.features
    if epochs < min(LEAST_EPOCHS, planned) and not (asked.size or asked.frames or asked.hop_samples or fixed_epochs):
        frames = first.features.bands_and_frames[1]
        if frames >= 32:
            first = dataclasses.replace(first, features=dataclasses.replace(first.features, frames=(frames + 1) // 2))
            cost = timed(first)
            epochs = affordable(cost, left())
    choices = []
    if epochs < min(LEAST_EPOCHS, planned):
        needed = cost.fixed + min(LEAST_EPOCHS, planned) * cost.epoch
        if config.folds is None and len(folds) > 1:
            rounds = max(1, min(rounds, int(left() / needed)))
            folds = folds[: rounds * devices]
            first = dataclasses.replace(first, folds=folds)
            choices.append(Choice(f"fold {','.join(map(str, folds))} alone", "no time for more"))
        if left() < cost.fixed + LEAST_STEPS * cost.step:
            least = math.ceil(config.budget - left() + 2 * (cost.fixed + LEAST_STEPS * cost.step))
            raise UserError(f"--budget {config.budget:g}: too short to train anything; give at least {clock(least)}")
        first = with_epochs(first, planned if fixed_epochs else max(1, min(planned, affordable(cost, left()))))
        return (first,), [*choices, _said(config, [first], rounds, [cost], planned)]
    if fixed_epochs:
        epochs = planned
    members, costs = [with_epochs(first, min(planned, epochs))], [cost]
    spent = rounds * (cost.fixed + min(planned, epochs) * cost.epoch)
    for other in several[1:] if epochs > planned or fixed_epochs else ():
        if left() - spent < WORTH_TRYING * spent / len(members):
            break
        price = timed(other)
        fits = min(planned, affordable(price, left() - spent))
        if fits < SHARE * planned:
            break
        members.append(with_epochs(other, planned if fixed_epochs else fits))
        costs.append(price)
        spent += rounds * (price.fixed + fits * price.epoch)
    if epochs > planned and not fixed_epochs:
        fixed = sum(rounds * one.fixed for one in costs)
        longer = min(LONGEST, (left() - fixed) / (spent - fixed))
        if longer > 1:
            members = [with_epochs(one, int(longer * (one.optim.epochs or planned))) for one in members]
    return tuple(members), [*choices, _said(config, members, rounds, costs, planned)]


def with_epochs(member: TrainConfig, epochs: int) -> TrainConfig:
    return dataclasses.replace(member, optim=dataclasses.replace(member.optim, epochs=epochs))


def measured(member: TrainConfig, store: Store, device: torch.device) -> Cost:
    """What training a member's fold takes on `device`, from a few steps of its network."""
    from training.fold import make_fold
    from training.tuning import expected_parts

    started = time.monotonic()
    run = resolve(member, store, choose_folds(member, store)[0], device)
    model, data = make_fold(store.on(device), run, device)
    made = time.monotonic() - started
    epoch, scores = expected_parts(model, data)
    return Cost(epoch, made + scores, epoch / len(data.train_batches(0)))


def _said(config: TrainConfig, members: list[TrainConfig], rounds: int, costs: list[Cost], planned: int) -> Choice:
    parts = []
    for member, cost in zip(members, costs, strict=True):
        n_mels, frames = member.features.bands_and_frames
        seconds = rounds * (cost.fixed + (member.optim.epochs or planned) * cost.epoch)
        parts.append(f"{member.model} {n_mels}x{frames}, {member.optim.epochs} epochs: {clock(seconds)}")
    return Choice("; ".join(parts), f"for a budget of {clock(config.budget or 0)}; {planned} epochs without one")
