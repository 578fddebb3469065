"""Training speed: this pipeline, the usual way, and the bare network, interleaved in one run.

    python -m benchmarks.training -t 64 -m resnet18

- limit: the network alone on ready-made features, channels-last, fused optimiser;
- pipeline: what train.py runs, through Lightning: int16 store, augmentation, features, averaged weights;
- usual: librosa for each clip in the workers of a DataLoader, float32, NCHW, the same kind of augmentation.

Prints a table and a JSON line: clips a second, medians over the rounds, and the ratios of those medians.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import librosa
import numpy as np
import pytorch_lightning as pl
import soundfile
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from arg import FeatureConfig, PreprocessConfig, TrainConfig, parse_train
from callback import Averaging
from dataset import Store
from model import Classifier, make_optimizer
from preprocess import preprocess
from train import make_fold, make_trainer, quieten, run_config
from util import keep_memory, pick_device, pick_precision

GSC12 = Path(__file__).parents[2] / "shared" / "data" / "gsc12"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.splitlines()[0])
    parser.add_argument("-t", "--size", type=int, default=64)
    parser.add_argument("-m", "--model", default="resnet18")
    parser.add_argument("-g", "--gpu", help="index of a GPU, or cpu; default: a GPU where there is one")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8, help="timed steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, help="default: ../shared/data/gsc12, else made clips")
    parser.add_argument("-w", "--work", type=Path, help="a store that is there already, instead of --data")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    quieten()
    keep_memory()  # for all ways: it is the process's
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch) / "work"
        if not options.work:
            root = options.data or (GSC12 if GSC12.is_dir() else make_clips(Path(scratch) / "made"))
            preprocess(PreprocessConfig(root, work))
        report(options, compare(options, Store.open(work)))


def compare(options: argparse.Namespace, store: Store) -> dict[str, list[float]]:
    """Clips a second of each way, one figure a round."""
    config = parse_train(["-t", str(options.size), "-m", options.model, "--batch-size", str(options.batch_size)])
    device = pick_device(options.gpu)
    ways = {name: WAYS[name](config, store, device) for name in options.ways}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds):
        for name, way in ways.items():
            seconds = way(options.steps)
            speeds[name].append(options.steps * options.batch_size / seconds)
            print(f"round {number + 1}: {name} {speeds[name][-1]:.1f} clips/s", flush=True)
    return speeds


def report(options: argparse.Namespace, speeds: dict[str, list[float]]) -> None:
    middle = {name: median(values) for name, values in speeds.items()}
    print(f"\n{options.model} at {options.size}, batch {options.batch_size}, {os.cpu_count()} cores")
    print(f"{'':10}{'clips/s':>10}{'min':>10}{'max':>10}")
    for name, values in speeds.items():
        print(f"{name:10}{middle[name]:>10.1f}{min(values):>10.1f}{max(values):>10.1f}")
    others = [name for name in middle if name != "pipeline" and "pipeline" in middle]
    ratios = {f"pipeline/{name}": round(middle["pipeline"] / middle[name], 3) for name in others}
    print(", ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items()))
    print(json.dumps({"model": options.model, "size": options.size, "clips_per_second": middle, **ratios}))


# --------------------------------------------------------------------------------------------------- the ways


def limit(config: TrainConfig, store: Store, device: torch.device) -> Callable[[int], float]:
    """The bare network on one batch that is there already."""
    run = run_config(config, store, 0)
    model = Classifier(run).to(device)
    optimizer = make_optimizer(model.net, run.optim)
    batch, classes = run.optim.batch_size, len(run.classes)
    feature = torch.randn(batch, 1, run.features.n_mels, run.features.frames, device=device)
    feature = feature.contiguous(memory_format=torch.channels_last)
    target = torch.arange(batch, device=device) % classes
    autocast = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}[
        pick_precision("auto", device)
    ]

    def step() -> None:
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
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
            wait(self.device)
            self.started = time.perf_counter()
        elif trainer.global_step == trainer.max_steps:
            wait(self.device)
            self.seconds = time.perf_counter() - self.started


def pipeline(config: TrainConfig, store: Store, device: torch.device) -> Callable[[int], float]:
    """What train.py runs, without validation and files."""
    run = run_config(config, store, 0)
    model, data = make_fold(store.on(device), run, device)
    batches = -(-len(data.train) // run.optim.batch_size)
    full_batches = run.optim.batch_size * batches / len(data.train)  # an epoch's batches are even, and a little smaller

    def seconds(steps: int) -> float:
        timer = Timer(device)
        callbacks = [timer, Averaging(run.optim.ema_decay, device)]
        make_trainer(run.optim, device, callbacks, max_steps=steps + 2, limit_val_batches=0).fit(model, datamodule=data)
        return timer.seconds * full_batches

    return seconds


class ClipFolder(Dataset[tuple[Tensor, int]]):
    """One clip at a time: read, augmented and turned into a feature in NumPy."""

    def __init__(self, paths: list[Path], targets: NDArray[np.integer[Any]], features: FeatureConfig) -> None:
        self.paths, self.targets, self.features = paths, targets, features

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        config = self.features
        wave, _ = librosa.load(self.paths[index], sr=config.sample_rate)
        wave = librosa.util.fix_length(wave, size=config.clip_samples)
        reach = config.sample_rate // 10
        wave = np.roll(wave, np.random.randint(-reach, reach)) * np.random.uniform(0.5, 2)  # noqa: NPY002
        wave = wave + np.random.uniform(0, 0.005) * np.random.randn(len(wave))  # noqa: NPY002
        mel = librosa.feature.melspectrogram(
            y=wave.astype(np.float32),
            sr=config.sample_rate,
            n_fft=config.n_fft,
            hop_length=config.hop_samples,
            n_mels=config.n_mels,
        )
        db = librosa.power_to_db(mel)
        db = librosa.util.fix_length((db - db.mean()) / (db.std() + 1e-6), size=config.frames)
        return torch.from_numpy(db)[None], int(self.targets[index])


def usual(config: TrainConfig, store: Store, device: torch.device) -> Callable[[int], float]:
    """A DataLoader over files, a plain training loop."""
    run = run_config(config, store, 0)
    clips = store.clips("train")
    dataset = ClipFolder([store.root / name for name in clips.fname], clips.target, run.features)
    net = timm.create_model(run.model, in_chans=1, num_classes=len(run.classes)).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=run.optim.lr, weight_decay=run.optim.weight_decay)
    workers = os.cpu_count() or 1

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from DataLoader(
                dataset,
                run.optim.batch_size,
                shuffle=True,
                drop_last=True,
                num_workers=workers,
                pin_memory=device.type == "cuda",
            )

    def seconds(steps: int) -> float:
        stream = batches()

        def step() -> None:
            feature, target = next(stream)
            loss = cross_entropy(net(feature.to(device)), target.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        for _ in range(2 * workers + 1):  # what the workers had prepared before the clock started
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


def timed(step: Callable[[], None], steps: int, device: torch.device, warm_up: int = 2) -> float:
    """Seconds that `steps` calls take."""
    for _ in range(warm_up):
        step()
    wait(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def make_clips(root: Path, classes: int = 4, clips: int = 100) -> Path:
    """Noise in class folders, one second at 16 kHz."""
    draw = np.random.default_rng(0)
    for label in range(classes):
        folder = root / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(clips):
            soundfile.write(folder / f"{number}.flac", 0.1 * draw.standard_normal(16000), 16000)
    return root


if __name__ == "__main__":
    main()
