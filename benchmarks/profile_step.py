"""Where a training step's time goes.

    python -m benchmarks.profile_step -t 64 -m resnet18

Runs train.py's fold through Lightning with a clock around each part. On a GPU the clock waits for it at each border,
which makes the sum longer than the step is without it; that one is given too. What the prefetching thread does at the
same time is listed by itself. Prints a table and a JSON line: milliseconds a batch, over all the rounds' steps.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

import torch
from pytorch_lightning.loops.optimization.automatic import Closure

import callback
from arg import TrainConfig, parse_train
from benchmarks.common import Clock, machine, open_store
from benchmarks.training import Timer, pipeline
from callback import Averaging
from dataset import Batches, Clips, LogMel, Store
from model import Classifier
from system.devices import keep_memory, pick_device
from training.fold import quieten

REST = "Lightning and the rest"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile_step", description=__doc__.splitlines()[0])
    parser.add_argument("-t", "--size", type=int, default=64)
    parser.add_argument("-m", "--model", default="resnet18")
    parser.add_argument("-g", "--gpu", help="index of a GPU, or cpu; default: a GPU where there is one")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="timed steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, help="default: ../shared/data/gsc12, else made clips")
    parser.add_argument("-w", "--work", type=Path, help="a store that is there already, instead of --data")
    options = parser.parse_args()
    quieten()
    keep_memory()
    callback.AVERAGE_EACH = 0  # the first few steps of a run are not what it consists of
    device = pick_device(options.gpu)
    config = parse_train(
        ["-t", str(options.size), "-m", options.model, "--batch-size", str(options.batch_size), "--optimizer", "adamw"]
    )
    with tempfile.TemporaryDirectory() as scratch:
        store = open_store(options.work, options.data, Path(scratch))
        plain = step_ms(options, config, store, device)
        clock = Clock(REST, device)
        watch(clock)
        report(options, plain, *parts_ms(options, config, store, device, clock), device)


def step_ms(options: argparse.Namespace, config: TrainConfig, store: Store, device: torch.device) -> float:
    """A step as it is, without a clock inside."""
    seconds = pipeline(config, store, device)
    return median(seconds(options.steps) / options.steps * 1000 for _ in range(options.rounds))


def watch(clock: Clock) -> None:
    """Clock the parts of a step in this process from now on."""
    clock.watch("gather", Clips, "windows")
    clock.watch("augmentation", Classifier, "augmented")
    clock.watch("features", LogMel, "forward")
    clock.watch("forward and backward", Classifier, "logits", "loss", "backward")
    clock.watch("optimiser", torch.optim.AdamW, "step", "zero_grad")
    clock.watch(REST, Closure, "closure")  # which the optimiser calls: Lightning's way to a step
    clock.watch("averaging", Averaging, "on_train_batch_end")
    iterate = Batches.__iter__
    Batches.__iter__ = lambda self: clock.items("waiting for a batch", iterate(self))  # type: ignore[method-assign]


def parts_ms(
    options: argparse.Namespace, config: TrainConfig, store: Store, device: torch.device, clock: Clock
) -> tuple[dict[str, float], dict[str, float]]:
    """Of each part in the main thread, and of those in the prefetching one, milliseconds a batch."""
    seconds = pipeline(config, store, device)
    totals: tuple[dict[str, float], dict[str, float]] = ({}, {})
    timer_start, timer_end = Timer.start, Timer.end

    def start(timer: Timer) -> None:
        timer_start(timer)
        clock.reset()

    def end(timer: Timer) -> None:
        clock.switch(REST)
        timer_end(timer)
        for total, found in zip(totals, (clock.seconds, clock.beside), strict=True):
            for name, value in found.items():
                total[name] = total.get(name, 0) + value * 1000 / options.steps / options.rounds

    Timer.start, Timer.end = start, end  # type: ignore[method-assign, assignment]
    for _ in range(options.rounds):
        seconds(options.steps)
    return totals


def report(
    options: argparse.Namespace, plain: float, parts: dict[str, float], beside: dict[str, float], device: torch.device
) -> None:
    whole = sum(parts.values())
    print(f"{options.model} at {options.size}, batch {options.batch_size}, {machine(device)}")
    print(f"{'':24}{'ms/batch':>10}{'share':>8}")
    for name, value in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"{name:24}{value:>10.2f}{value / whole:>8.1%}")
    print(f"{'the whole step':24}{whole:>10.2f}{1:>8.1%}\n{'without the clock':24}{plain:>10.2f}")
    for name, value in beside.items():
        print(f"{'in a thread: ' + name:24}{value:>10.2f}")
    result = {"model": options.model, "size": options.size, "batch_size": options.batch_size, "device": str(device)}
    print(json.dumps({**result, "step_ms": plain, "parts_ms": parts, "thread_ms": beside}))


if __name__ == "__main__":
    main()
