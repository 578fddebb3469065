"""From options to the configuration of a run, and back."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest
import torch

from arg import OPTIMIZERS, Fold, OptimConfig, RunConfig, parse_train
from dataset import Store
from system.options import command_line
from training.resolve import described, options_of, resolve


def resolved(words: str, work: Path, fold: Fold = 0) -> RunConfig:
    return resolve(parse_train(words.split()), Store.open(work), fold)


def test_rates_are_those_of_the_optimiser(store_work: Path) -> None:
    for name, usual in OPTIMIZERS.items():
        optim = resolved(f"-t 32 -m test_resnet --optimizer {name}", store_work).optim
        assert (optim.optimizer, optim.lr, optim.weight_decay) == (name, *usual)
    default = resolved("-t 32 -m test_resnet", store_work).optim
    assert (default.lr, default.weight_decay) == OPTIMIZERS[default.optimizer]
    optim = resolved("-t 32 -m test_resnet --optimizer sgd --lr 0.3 --weight-decay 0", store_work).optim
    assert (optim.lr, optim.weight_decay) == (0.3, 0)


def test_nothing_is_left_to_choose(store_work: Path) -> None:
    run = resolved("-t 32 -m test_resnet", store_work)
    assert isinstance(run.optim, OptimConfig)
    assert run.optim.epochs == 200  # of 18 clips
    assert run.optim.batch_size == 64
    assert None not in vars(run.optim).values()
    assert run.augment.speed == 0.1
    assert resolved("-t 32 -m test_resnet --augment none", store_work).augment.speed == 0
    assert dataclasses.replace(run, fold=1) == resolved("-t 32 -m test_resnet", store_work, fold=1)


@pytest.mark.parametrize(
    "words",
    [
        "-t 32 -m test_resnet",
        "-m melresnet --n-mels 40 --frames 101 --n-fft 512 --augment more --mixup 0.3 --ohem 0.9",
        "-m test_resnet --n-mels 32 --hop 100 --optimizer sgd --lr 0.3 --augment none",
        "-t 32 -m mobilenetv3_small_100 --epochs 3 --speed 0 --fmin 50 --seed 3 --weights w.pt",
        "-t 32 -m test_resnet --optimizer adamw --weight-decay 0 --pretrained --compile",
        "-t 32 -m test_resnet --balance 0.5 --class-weights 0.25",
    ],
)
def test_options_of_a_run_give_it_again(words: str, store_work: Path) -> None:
    store = Store.open(store_work)
    run = resolve(parse_train(words.split()), store, 0)
    config = options_of(run, work=Path("x y"), tag="t", folds=(1,))
    assert (config.work, config.tag, config.folds) == (Path("x y"), "t", (1,))
    again = parse_train(shlex.split(command_line(config))[2:])
    assert again == config
    assert resolve(again, store, 0) == run


def test_what_the_program_chose_is_marked(store_work: Path) -> None:
    config = parse_train(["-t", "32", "-m", "test_resnet", "--epochs", "3"])
    said = described(config, resolve(config, Store.open(store_work), 0), torch.device("cpu"))
    assert "32 mel bands x 32 frames" in said
    for part in ("3 epochs, 64* clips a batch, muon*, peak rate 0.02*", "precision 32*", "n_fft 1024*"):
        assert part in said
    assert "balance" not in said
    even = parse_train(["-t", "32", "-m", "test_resnet", "--balance", "1", "--class-weights", "0.5"])
    said = described(even, resolve(even, Store.open(store_work), 0), torch.device("cpu"))
    assert said.endswith("balance 1, class weights 0.5")
