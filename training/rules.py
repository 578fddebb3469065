"""The rules of a plan: what to train with where no option says so. docs/recipe.md has what each was measured on."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from arg import AugmentOptions, TrainConfig
from training.facts import Facts, Machine

NETWORK = "melresnet"
REFERENCE = ("dla60_res2next", 224)
OWN = ("melresnet", "bcresnet")  # the project's own networks, made for features of this height and hop
HOP_SECONDS, MOST_FRAMES = 0.010, 160  # from frame to frame, unless there were more frames than these
NARROW_BANDS, WIDE_BANDS = 40, 64  # mel bands for windows up to LONG_SECONDS, and for longer ones
LONG_SECONDS = 2.5
FRAME_SECONDS = 0.032  # of sound in a frame at least, and two hops
CELLS = 40 * 101  # of the feature that epochs are counted for
PRESENTATIONS = {"default": 170_000, "fast": 30_000}  # clips that a fold is shown, of a feature of CELLS
EPOCHS = {"default": (13, 200), "fast": (3, 60)}  # no fewer and no more


@dataclass(frozen=True)
class Choice:
    """What a rule decided, in words, and why."""

    what: str
    why: str


def fill(config: TrainConfig, facts: Facts, machine: Machine) -> tuple[TrainConfig, list[Choice]]:
    """`config` with what it leaves open decided, and the choices. What is given stays."""
    choices: list[Choice] = []
    config = _network(config, choices)
    if config.model is not None and config.model.startswith(OWN):
        config = _features(config, facts, choices)
        config = _learning(config, facts, choices)
    if config.preset == "fast" and config.folds is None:
        config = dataclasses.replace(config, folds=(0,))
        choices.append(Choice("fold 0 alone", "a first answer"))
    return dataclasses.replace(config, preset=None, budget=None, plan=False), choices


def _network(config: TrainConfig, choices: list[Choice]) -> TrainConfig:
    if config.preset == "reference":
        size = config.features.size or (None if config.features.n_mels or config.features.frames else REFERENCE[1])
        features = dataclasses.replace(config.features, size=size)
        choices.append(Choice(f"{config.model or REFERENCE[0]}, {size} x {size}", "the reference system's"))
        return dataclasses.replace(config, model=config.model or REFERENCE[0], features=features)
    if config.model is None:
        choices.append(Choice(NETWORK, "the most accurate for its time on every data set that was tried"))
        return dataclasses.replace(config, model=NETWORK)
    return config


def _features(config: TrainConfig, facts: Facts, choices: list[Choice]) -> TrainConfig:
    asked = config.features
    given: dict[str, Any] = {}
    if not asked.size and not asked.n_mels:
        given["n_mels"] = WIDE_BANDS if facts.window_seconds > LONG_SECONDS else NARROW_BANDS
    if not asked.size and not asked.frames and not asked.hop_samples:
        given["frames"] = 1 + min(MOST_FRAMES, max(8, round(facts.window_seconds / HOP_SECONDS)))
    features = dataclasses.replace(asked, **given)
    if not asked.n_fft:
        hop = features.resolve(facts.sample_rate, round(facts.window_seconds * facts.sample_rate)).hop_samples
        longest = max(FRAME_SECONDS * facts.sample_rate, 2 * hop)
        given["n_fft"] = 2 ** round(math.log2(longest))
    if given:
        features = dataclasses.replace(asked, **given)
        shown = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in given.items())
        choices.append(Choice(shown, f"windows of {facts.window_seconds:g} s at {facts.sample_rate:,} Hz"))
    return dataclasses.replace(config, features=features)


def _learning(config: TrainConfig, facts: Facts, choices: list[Choice]) -> TrainConfig:
    optim, augment = config.optim, config.augment
    if augment.preset is None:
        augment = dataclasses.replace(augment, preset="more")
        choices.append(Choice("augmentation more", "many epochs"))
    if optim.epochs is None:
        kind = "fast" if config.preset == "fast" else "default"
        n_mels, frames = config.features.bands_and_frames
        shown = PRESENTATIONS[kind] / max(1.0, n_mels * frames / CELLS) ** 0.5
        least, most = EPOCHS[kind]
        epochs = max(least, min(most, round(shown / max(facts.clips, 1))))
        optim = dataclasses.replace(optim, epochs=epochs)
        choices.append(Choice(f"{epochs} epochs", f"{facts.clips:,} clips a fold"))
    return dataclasses.replace(config, optim=optim, augment=AugmentOptions(**vars(augment)))
