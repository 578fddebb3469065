"""Training speed: this pipeline, the usual way, and the bare network, interleaved in one run.

    python -m benchmarks.training -t 64 -m resnet18
    python -m benchmarks.training -t 224 -m dla60_res2next
    python -m benchmarks.training -m melresnet --ways pipeline -- --n-mels 40 --frames 101 --n-fft 512

- limit: the network alone on ready-made features, in the faster memory layout, fused optimiser;
- pipeline: what train.py runs, through Lightning: int16 store, augmentation, features, averaged weights;
- usual: a clip at a time in the workers of a DataLoader, float32, NCHW, the same kind of augmentation; features by
  librosa, from the files where they are there.

Prints a table and a JSON line: clips a second, medians over the rounds, and the ratios of those medians; for a GPU also
its load, its memory, and the share of its peak in bfloat16, as its maker states it and as a large product reaches it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytorch_lightning as pl
import timm
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import callback
from arg import TrainConfig, parse_train
from benchmarks.common import cores, machine, open_store, timed, wait
from benchmarks.usual import ClipFolder, loader
from callback import Averaging
from dataset import Store
from model import Classifier, make_optimizer
from system.devices import keep_memory, pick_device
from training.fold import make_fold, make_trainer, quieten
from training.resolve import resolve
from training.tuning import autocast, learning_operations, pick_layout

PEAKS = {  # dense bfloat16 products (float16 before Ampere) a second, from the makers' data sheets
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "V100": 125e12,
    "T4": 65e12,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.splitlines()[0])
    parser.add_argument("-t", "--size", type=int, default=64)
    parser.add_argument("-m", "--model", default="resnet18")
    parser.add_argument("-g", "--gpu", help="index of a GPU, or cpu; default: a GPU where there is one")
    parser.add_argument("--batch-size", type=int, help="default: 64; on a processor 16 for sizes above 128")
    parser.add_argument(
        "--seconds", type=float, default=4, help="that a round of a way takes, about, two steps at least"
    )
    parser.add_argument("--steps", type=int, help="timed steps a round, in place of --seconds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, help="default: ../shared/data/gsc12, else made clips")
    parser.add_argument("-w", "--work", type=Path, help="an existing store, in place of --data")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("train", nargs="*", help="after --: other options of train.py, such as --optimizer sgd")
    options = parser.parse_args()
    quieten()
    keep_memory()  # for all ways: it is the process's
    callback.AVERAGE_EACH = 0  # the first few steps of a run are not what it consists of
    device = pick_device(options.gpu)
    options.batch_size = options.batch_size or (16 if device.type == "cpu" and options.size > 128 else 64)
    with tempfile.TemporaryDirectory() as scratch:
        compare(options, open_store(options.work, options.data, Path(scratch)), device)


def compare(options: argparse.Namespace, store: Store, device: torch.device) -> None:
    usual = ["--batch-size", str(options.batch_size), "--optimizer", "adamw"]
    config = parse_train(["-t", str(options.size), "-m", options.model, *usual, *options.train])
    torch.backends.cudnn.benchmark = True  # as train.py has it; for all ways
    ways = {name: WAYS[name](config, store, device) for name in dict.fromkeys(["limit", *options.ways])}
    steps = options.steps or min(1000, max(2, round(options.seconds / (ways["limit"](2) / 2))))
    speeds: dict[str, list[float]] = {name: [] for name in options.ways}
    memory, load = dict.fromkeys(speeds, 0), GpuLoad(device)
    for number in range(options.rounds):
        for name in speeds:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            seconds = ways[name](steps)
            if device.type == "cuda":
                memory[name] = torch.cuda.max_memory_allocated(device)
                load.note(name, seconds)
            speeds[name].append(steps * options.batch_size / seconds)
            print(f"round {number + 1}: {name} {speeds[name][-1]:.1f} clips/s", flush=True)
    facts = gpu_facts(config, store, device, speeds, memory, load) if device.type == "cuda" else {}
    report(options, device, steps, speeds, facts)


def report(
    options: argparse.Namespace,
    device: torch.device,
    steps: int,
    speeds: dict[str, list[float]],
    facts: dict[str, dict[str, float]],
) -> None:
    middle = {name: median(values) for name, values in speeds.items()}
    print(f"\n{options.model} at {options.size}, batch {options.batch_size}, {steps} steps a round, {machine(device)}")
    columns = list(next(iter(facts.values()), {}))
    print(f"{'':10}{'clips/s':>10}{'min':>10}{'max':>10}" + "".join(f"{name:>18}" for name in columns))
    for name, values in speeds.items():
        cells = "".join(f"{facts[name][column]:>18.3g}" for column in columns)
        print(f"{name:10}{middle[name]:>10.1f}{min(values):>10.1f}{max(values):>10.1f}{cells}")
    others = [name for name in middle if name != "pipeline" and "pipeline" in middle]
    ratios = {f"pipeline/{name}": round(middle["pipeline"] / middle[name], 3) for name in others}
    print(", ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items()))
    result = {"model": options.model, "size": options.size, "batch_size": options.batch_size, "device": str(device)}
    print(json.dumps({**result, "clips_per_second": middle, **ratios, **({"gpu": facts} if facts else {})}))


# ------------------------------------------------------------------------------------------------------ on a GPU


class GpuLoad:
    """The share of the time in which a GPU was busy, as nvidia-smi samples it; none where that is missing."""

    def __init__(self, device: torch.device) -> None:
        self.samples: list[tuple[float, float]] = []  # when, percent
        self.by_way: dict[str, list[float]] = {}
        if device.type != "cuda":
            return
        gpu = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        query = ["nvidia-smi", "-i", gpu, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
        try:
            self.program = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
        except OSError:
            return
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.program.stdout is not None
        for line in self.program.stdout:
            if line.strip().isdecimal():
                self.samples.append((time.perf_counter(), float(line)))

    def note(self, way: str, seconds: float) -> None:
        """Samples of the last `seconds` are this way's, except the first, which began before."""
        since = time.perf_counter() - seconds
        self.by_way.setdefault(way, []).extend([percent for when, percent in self.samples if when > since][1:])

    def share(self, way: str) -> float:
        return mean(self.by_way.get(way) or [float("nan")]) / 100

    def close(self) -> None:
        if hasattr(self, "program"):
            self.program.terminate()


def gpu_facts(
    config: TrainConfig,
    store: Store,
    device: torch.device,
    speeds: dict[str, list[float]],
    memory: dict[str, int],
    load: GpuLoad,
) -> dict[str, dict[str, float]]:
    """For each way: load, peak memory (with the other ways' weights), and the share of the chip's peak."""
    load.close()
    words = set(re.split(r"[\s-]", torch.cuda.get_device_name(device)))
    stated = next((peak for name, peak in PEAKS.items() if words.issuperset(name.split())), float("nan"))
    model = Classifier(resolve(config, store, 0))
    reached, flops = matmul_peak(device), learning_operations(model.net, model.config.features)
    return {
        way: {
            "GPU busy": load.share(way),
            "peak GiB": memory[way] / 2**30,
            "of stated peak": median(values) * flops / stated,
            "of product's": median(values) * flops / reached,
        }
        for way, values in speeds.items()
    }


def matmul_peak(device: torch.device, size: int = 8192) -> float:
    """Operations a second of a large half-precision product, the best of a few."""
    kind = torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: left @ right, 5, device) / 5 for _ in range(5))


# --------------------------------------------------------------------------------------------------- the ways


def limit(config: TrainConfig, store: Store, device: torch.device) -> Callable[[int], float]:
    """The bare network on one ready-made batch."""
    run = resolve(config, store, 0)
    model = Classifier(run).to(device)
    model.use_layout(pick_layout(model))
    optimizer = make_optimizer(model.net, run.optim)
    batch, classes = run.optim.batch_size, len(run.classes)
    feature = torch.randn(batch, 1, run.features.n_mels, run.features.frames, device=device)
    feature = feature.contiguous(memory_format=model.layout)
    target = torch.arange(batch, device=device) % classes

    def step() -> None:
        with autocast("auto", device):
            loss = cross_entropy(model.net(feature).float(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return lambda steps: timed(step, steps, device)


class Timer(pl.Callback):
    """Seconds from the end of the second step to the end of the last."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            self.start()
        elif trainer.global_step == trainer.max_steps:
            self.end()

    def start(self) -> None:
        wait(self.device)
        self.started = time.perf_counter()

    def end(self) -> None:
        wait(self.device)
        self.seconds = time.perf_counter() - self.started


def pipeline(config: TrainConfig, store: Store, device: torch.device) -> Callable[[int], float]:
    """What train.py runs, without validation and files."""
    run = resolve(config, store, 0)
    model, data = make_fold(store.on(device), run, device)
    batches = -(-len(data.train) // run.optim.batch_size)
    full_batches = run.optim.batch_size * batches / len(data.train)  # an epoch's batches are even, and a little smaller

    def seconds(steps: int) -> float:
        timer = Timer(device)
        callbacks = [Averaging(run.optim.ema_decay, device), timer]
        make_trainer(run.optim, device, callbacks, max_steps=steps + 2, limit_val_batches=0).fit(model, datamodule=data)
        return timer.seconds * full_batches

    return seconds


def usual(config: TrainConfig, store: Store, device: torch.device) -> Callable[[int], float]:
    """A DataLoader over clips, a plain training loop."""
    run = resolve(config, store, 0)
    folder = ClipFolder(store, store.clips("train"), run.features)
    print(f"usual: {folder.source}", flush=True)
    batches_of = loader(folder, run.optim.batch_size, device, train=True)
    net = timm.create_model(run.model, in_chans=1, num_classes=len(run.classes)).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=run.optim.lr, weight_decay=run.optim.weight_decay)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from batches_of

    def seconds(steps: int) -> float:
        stream = batches()

        def step() -> None:
            feature, target = next(stream)
            loss = cross_entropy(net(feature.to(device)), target.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        for _ in range(2 * cores() + 1):  # what the workers had prepared before the clock started
            step()
        result = timed(step, steps, device, warm_up=0)
        stream.close()  # type: ignore[attr-defined]
        return result

    return seconds


WAYS: dict[str, Callable[[TrainConfig, Store, torch.device], Callable[[int], float]]] = {
    "limit": limit,
    "pipeline": pipeline,
    "usual": usual,
}


if __name__ == "__main__":
    main()
