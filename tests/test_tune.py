"""What fits a run to the machine: the batch that fits, the rate for it, compilation, the time it takes."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import nn

import system.devices
import train
import training.fold
import training.resolve
import training.tuning
from arg import FULL, OPTIMIZERS, OptimConfig, parse_train
from callback import Progress
from dataset import Store, WaveData
from model import Classifier, build_network, outline, read_checkpoint
from networks.muon import operations
from system.errors import UserError
from tests.conftest import one_error_line
from tests.test_model import RUN

CPU = torch.device("cpu")
TRAIN = ["-t", "32", "-m", "resnet10t", "-g", "cpu", "-f", "0", "--epochs", "1"]


@pytest.fixture(scope="module")
def model() -> Classifier:
    torch.manual_seed(0)
    return Classifier(dataclasses.replace(RUN, model="resnet10t"))


def test_the_largest_batch_leaves_steps_and_fits(model: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.tuning, "free_memory", lambda: 1 << 40)
    assert training.tuning.largest_batch(model, 10**6, CPU) == training.tuning.LARGEST_BATCH
    assert training.tuning.largest_batch(model, 1000, CPU) == 32  # 1000 / 16 = 62.5
    assert training.tuning.largest_batch(model, 3, CPU) == 2
    monkeypatch.setattr(training.tuning, "free_memory", lambda: int(2 * 100 * training.tuning.bytes_a_clip(model)))
    assert training.tuning.largest_batch(model, 10**6, CPU) == 64
    monkeypatch.setattr(training.tuning, "free_memory", lambda: 1)
    with pytest.raises(UserError, match="not even 2 clips fit"):
        training.tuning.largest_batch(model, 10**6, CPU)


def test_what_a_clip_takes_grows_with_the_feature_and_not_with_the_batch(model: Classifier) -> None:
    few, many = (training.tuning.bytes_a_clip(model, clips) for clips in (4, 16))
    assert few == pytest.approx(many, rel=0.2)
    features = dataclasses.replace(RUN.features, n_mels=64, frames=64, hop_samples=64)
    larger = Classifier(dataclasses.replace(RUN, model="resnet10t", features=features))
    assert training.tuning.bytes_a_clip(larger) == pytest.approx(4 * few, rel=0.3)


@pytest.mark.parametrize(
    ("features", "speed", "seconds_a_clip", "precision"),
    [
        ({"avx512_bf16"}, 1.3, 0.001, "bf16"),
        ({"amx_bf16", "avx512f"}, 3, 0.5, "bf16"),
        ({"bf16"}, 1.05, 0.001, "32"),
        ({"avx512_bf16"}, 0.5, 0.001, "32"),
        ({"avx512f"}, 2, 0.001, "32"),
    ],
)
def test_precision_on_a_processor(
    features: set[str], speed: float, seconds_a_clip: float, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def step(model: Classifier, wave: torch.Tensor, target: torch.Tensor) -> None:
        nonlocal now
        now += len(wave) * seconds_a_clip / (speed if model.config.optim.precision == "bf16" else 1)

    monkeypatch.setattr(system.devices, "chip_features", lambda: features)
    monkeypatch.setattr(training.tuning, "step", step)
    monkeypatch.setattr(time, "thread_time", lambda: now)
    before = torch.random.get_rng_state()
    assert training.tuning.processor_precision(dataclasses.replace(RUN, model="test_resnet")) == precision
    assert now < 6  # virtual seconds: of a large network few steps of two clips
    assert torch.equal(torch.random.get_rng_state(), before)


def test_rates_for_other_batches() -> None:
    assert training.tuning.scaled_rate(2e-3, "adamw", 256, 64) == pytest.approx(4e-3)
    assert training.tuning.scaled_rate(0.05, "sgd", 256, 64) == pytest.approx(0.2)


def test_trying_things_leaves_the_run_alone(model: Classifier, store_work: Path) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    data = WaveData(Store.open(store_work), 0, 8, (0,))
    assert training.tuning.expected_seconds(model, data) > 0
    training.tuning.largest_batch(model, 100, CPU)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_a_fold_takes_counts_the_optimisers_steps_and_the_views_of_the_scores(
    model: Classifier, store_work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """18 clips in 3 batches for 2 epochs, 18 held out: 6 steps of 0.02 s, and 2 + 4 looks at 18 clips of 0.003 s."""
    data = WaveData(Store.open(store_work), 0, 8, (0,))
    monkeypatch.setattr(model, "config", dataclasses.replace(model.config, optim=OptimConfig(epochs=2)))

    class Slow:
        def step(self, closure: Any) -> None:
            time.sleep(0.02)

    def step(_: Classifier, wave: torch.Tensor, target: torch.Tensor, learn: bool = True) -> None:
        time.sleep(0 if learn else 0.003 * len(wave))

    monkeypatch.setattr(training.tuning, "make_optimizer", lambda *_: Slow())
    monkeypatch.setattr(training.tuning, "step", step)
    overhead = 6 * training.tuning.STEP_SECONDS + 2 * training.tuning.EPOCH_SECONDS + training.tuning.LAST_SECONDS
    expected = 6 * 0.02 + (2 + 4) * 18 * 0.003 + overhead
    assert training.tuning.expected_seconds(model, data) == pytest.approx(expected, rel=0.2)


def test_a_compiled_network_is_compiled_for_the_batches_that_come(
    store_work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """17 clips in batches of 6, 6 and 5 to learn from, 17 in the same to judge."""
    model, asked = Classifier(dataclasses.replace(RUN, model="resnet10t")), []
    data = WaveData(Store.open(store_work), 0, 8, (0,), limit=17)

    def compiled(self: nn.Module, **_: object) -> None:
        def forward(feature: torch.Tensor) -> torch.Tensor:
            asked.append((len(feature), self.training, torch.is_inference_mode_enabled()))
            result: torch.Tensor = self.forward(feature)
            return result

        self._compiled_call_impl = forward

    monkeypatch.setattr(nn.Module, "compile", compiled)
    training.tuning.compile_network(model)
    asked.clear()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    training.tuning.expected_seconds(model, data)
    assert asked[:4] == [(5, True, False), (6, True, False), (5, False, True), (6, False, True)]
    assert set(asked) == set(asked[:4])  # another size would be compiled as well
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.net.training


@pytest.mark.parametrize(
    ("folds", "loading", "said"),
    [(1, 0.0, "12 s"), (1, 5.0, "12 s, 17 s with loading"), (3, 5.0, "12 s, 39 s for 3 folds with loading"),
     (2, 0.0, "12 s, 23 s for 2 folds")],
)  # fmt: skip
def test_the_time_said_beforehand_is_that_of_the_whole_command(
    folds: int, loading: float, said: str, model: Classifier, capsys: pytest.CaptureFixture[str]
) -> None:
    """2 s until here and 10 s to come; a fold after it takes 1 s and 10 s; 5 s before it."""
    progress = Progress(10.0, folds, None, 2.0, 1.0, loading)
    trainer: Any = SimpleNamespace(global_step=0, estimated_stepping_batches=4)
    progress.on_train_start(trainer, model)
    assert capsys.readouterr().out == f"fold 0, expected time: {said}\n"
    progress.started -= 6
    trainer.global_step = 2
    progress.on_validation_start(trainer, model)
    progress.validation_started -= 0.5
    progress.on_validation_end(trainer, model)
    assert progress._left(trainer) == pytest.approx(6 + 4 * 0.5, abs=0.2)  # two steps, four views


def test_without_a_compiler_training_goes_on(
    store_work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(self: nn.Module, **_: object) -> None:
        def fails(*_: object) -> None:
            raise RuntimeError("g++: not found")

        self._compiled_call_impl = fails

    monkeypatch.setattr(nn.Module, "compile", missing)
    model = Classifier(dataclasses.replace(RUN, model="resnet10t"))
    training.tuning.compile_network(model)
    assert "no working compiler (g++: not found)" in capsys.readouterr().err
    assert model(torch.zeros(2, 4000)).shape == (2, 3)


def test_the_next_fold_trains_in_the_first_ones_network(store_work: Path) -> None:
    """So that it is compiled only once; its weights are what it would have had by itself."""
    store = Store.open(store_work)
    run = dataclasses.replace(RUN, model="resnet10t", classes=store.classes)
    first, _ = training.fold.make_fold(store, run, CPU)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1)
    alone, _ = training.fold.make_fold(store, dataclasses.replace(run, fold=FULL), CPU)
    second, _ = training.fold.make_fold(store, dataclasses.replace(run, fold=FULL), CPU, first.net.eval())
    assert second.net is first.net
    assert second.net.training
    expected = alone.state_dict()
    assert all(torch.equal(expected[name], value) for name, value in second.state_dict().items())


def test_auto_batches_are_found_once_for_all_folds(
    store_work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    shutil.copytree(store_work, work)
    monkeypatch.setattr(training.tuning, "LEAST_STEPS", 2)
    arguments = [*TRAIN, "-w", str(work), "--batch-size", "auto"]
    assert train.main(arguments) == 0
    assert " 8* clips a batch" in capsys.readouterr().out  # of 18, so that two steps remain
    optim = read_checkpoint(work / "runs" / "resnet10t-32x32" / "fold0" / "last.ckpt")["config"].optim
    assert optim.batch_size == 8
    assert optim.lr == pytest.approx(OPTIMIZERS[optim.optimizer][0] * (8 / OptimConfig().batch_size) ** 0.5)
    monkeypatch.setattr(training.tuning, "largest_batch", lambda *_: 2)
    assert train.main([*arguments, "-f", "1"]) == 0
    assert read_checkpoint(work / "runs" / "resnet10t-32x32" / "fold1" / "last.ckpt")["config"].optim == optim
    assert train.main([*TRAIN, "-w", str(work), "--batch-size", "many"]) == 2
    assert "--batch-size many" in one_error_line(capsys)


def test_muon_is_for_networks_that_take_longer_than_it(store_work: Path) -> None:
    """By hand, for 4 x 360 weights: two products of the whole and 17 of 4 x 4."""
    weight = torch.zeros(4, 40, 3, 3)
    assert operations(weight) == 2 * (2 * 4 * 4 * 360) + 17 * (2 * 4**3)
    assert operations(torch.zeros(8, 8)) == 5 * 3 * 2 * 8**3  # a square one is not gathered
    assert operations(torch.zeros(8, 1, 3, 3)) == operations(torch.zeros(8)) == 0
    store = Store.open(store_work)
    for network, expected in (("-m test_resnet", "muon"), ("-m mobilenetv3_small_100", "adamw")):
        config = parse_train(["-t", "32", *network.split()])
        optim = training.resolve.resolve(config, store, 0).optim
        assert (optim.optimizer, optim.lr, optim.weight_decay) == (expected, *OPTIMIZERS[expected])
    config = parse_train(["-t", "32", "-m", "mobilenetv3_small_100", "--optimizer", "muon"])
    assert training.resolve.resolve(config, store, 0).optim.optimizer == "muon"


def test_accumulated_batches_are_one_step(store_work: Path, tmp_path: Path) -> None:
    store = Store.open(store_work)
    optim = OptimConfig(batch_size=9, epochs=2, accumulate=2)
    run = dataclasses.replace(RUN, model="resnet10t", classes=store.classes, optim=optim)
    model, data = training.fold.make_fold(store, run, CPU)
    training.fold.fit(model, data, CPU, tmp_path, Progress(0.0))
    assert len(data.train_batches(0)) == 2
    assert model.trainer.global_step == 2


def test_a_fold_builds_its_network_once(store_work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(store_work, tmp_path / "work")
    built, create = [], timm.create_model

    def counted(name: str, **options: Any) -> nn.Module:
        net: nn.Module = create(name, **options)
        built.append(next(net.parameters()).device.type)
        return net

    monkeypatch.setattr(timm, "create_model", counted)
    command = ["-t", "32", "-m", "test_resnet", "-g", "cpu", "--epochs", "1", "-w", str(tmp_path / "work")]
    assert train.main(command) == 0
    assert built.count("cpu") == 2  # folds
    assert set(built) == {"cpu", "meta"}  # on which nothing is computed


@pytest.mark.parametrize("name", ["test_resnet", "melresnet", "mobilenetv3_small_100"])
def test_operations_are_counted_without_a_network(name: str) -> None:
    state = torch.random.get_rng_state()
    shape = outline(name, 3, RUN.features)
    assert torch.equal(state, torch.random.get_rng_state())
    run = dataclasses.replace(RUN, model=name)
    share = training.tuning.muon_share(build_network(name, 3, RUN.features), run)
    assert training.tuning.muon_share(shape, run) == share > 0
