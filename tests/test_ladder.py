"""Every command of docs/ladder.md parses, and one step of it runs at a tiny size."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import torch

from arg import FeatureOptions, RunConfig, TrainConfig, parse_inference, parse_train, run_name
from dataset import Store, WaveData
from model import Classifier, make_optimizer
from training.resolve import resolve
from util import generator

TEXT = (Path(__file__).parents[1] / "docs" / "ladder.md").read_text()
COMMANDS = [shlex.split(command) for command in re.findall(r"`python (\S+\.py [^`]+)`", TEXT)]
TRAIN = [words[1:] for words in COMMANDS if words[0] == "train.py"]
INFER = [words[1:] for words in COMMANDS if words[0] == "inference.py"]


def tiny(options: FeatureOptions) -> FeatureOptions:
    """The same shape, 32 at most on the longer side."""
    if options.hop_samples:
        return dataclasses.replace(options, n_mels=min(32, options.bands_and_frames[0]), hop_samples=250)
    return FeatureOptions(32, 32)


def test_the_ladder_is_all_there() -> None:
    assert len(TRAIN) == 11
    assert len(INFER) == 5


OTHERS = [
    ["-m", "efficientnet_b0", "-t", "64"],
    ["-m", "mobilenetv3_small_100", "-t", "32", "--optimizer", "sgd"],
    ["-m", "melresnet", "--n-mels", "40", "--frames", "101", "--optimizer", "muon"],
]


@pytest.mark.parametrize("words", TRAIN + OTHERS, ids=" ".join)
def test_one_step(words: list[str], store_work: Path) -> None:
    config: TrainConfig = parse_train(words)
    store = Store.open(store_work)
    run: RunConfig = resolve(dataclasses.replace(config, features=tiny(config.features)), store, 0)
    torch.manual_seed(0)
    model = Classifier(run, background=store.noise() if run.augment.background_probability else None)
    data = WaveData(store, 0, 4, (0,))
    wave, target = next(iter(data.train_dataloader()))
    feature, target = model.augmented(wave, target, generator("cpu", 0))
    assert feature.shape == (len(wave), 1, run.features.n_mels, run.features.frames)
    optimizer = make_optimizer(model.net, run.optim)
    before = [parameter.detach().clone() for parameter in model.net.parameters()]
    loss = model.loss(model.logits(feature), target)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    pairs = list(zip(before, model.net.parameters(), strict=True))
    for old, new in pairs:
        if new.grad is not None and new.grad.any():  # some blocks start as zeros and pass no gradient in the first step
            assert not torch.equal(old, new)
    for old, new in (pairs[0], pairs[-1]):  # stem and head
        assert not torch.equal(old, new)
    with torch.inference_mode():
        assert model.eval()(wave).shape == (len(wave), 3)


@pytest.mark.parametrize("words", INFER, ids=" ".join)
def test_inference_finds_the_runs_of_the_training_commands(words: list[str]) -> None:
    trained = {
        run_name(str(config.model), *config.features.bands_and_frames, config.tag)
        for config in map(parse_train, TRAIN)
        if config.folds is None
    }
    assert set(parse_inference(words).runs) <= trained
