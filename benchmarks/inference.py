"""Inference speed: this pipeline, the bare networks and the naive loop, interleaved in one run.

    python -m benchmarks.inference -t 64 -m resnet18

- limit: folds x views passes of the bare network over ready-made features, channels-last;
- store, flac: what inference.py does after it has loaded the networks, from a store and from FLAC files: finding the
  clips, decoding them, features, networks, results, both CSVs;
- naive: each fold reads, decodes and transforms each view of each clip again, with librosa, and predicts.

The networks have random weights. Prints a table and a JSON line: clips a second, medians over the rounds; naive's
ceiling is what it would gain were everything but its networks free (Amdahl).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import librosa
import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

import inference
from arg import (
    NO_AUGMENT,
    FeatureConfig,
    FeatureOptions,
    OptimConfig,
    PreprocessConfig,
    RunConfig,
    parse_inference,
    run_name,
)
from benchmarks.common import GSC12, wait
from inference import label
from model import Classifier, load_classifier, save_checkpoint
from prediction.ensembles import load_ensemble
from preprocessing.pipeline import preprocess
from system.devices import keep_memory, pick_device, pick_precision
from transform import VIEW_NOISE_STD, VIEW_SHIFT_SECONDS, VIEWS

RATE = 16_000
CLASSES = tuple(f"class{index:02}" for index in range(12))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference", description=__doc__.splitlines()[0])
    parser.add_argument("-t", "--size", type=int, default=64)
    parser.add_argument("-m", "--model", default="resnet18")
    parser.add_argument("-g", "--gpu", help="index of a GPU, or cpu; default: a GPU where there is one")
    parser.add_argument("-f", "--folds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=256, help="a round")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--naive-clips", type=int, default=64, help="a round of the naive loop")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--data", type=Path, help="a folder of FLAC; default: ../shared/data/gsc12/test, else made clips"
    )
    options = parser.parse_args()
    # A decoding process imports the main module again: the command's is light, this one is not.
    sys.modules["__main__"] = inference
    keep_memory()
    with tempfile.TemporaryDirectory() as scratch:
        report(options, compare(options, Path(scratch)))


# --------------------------------------------------------------------------------------------------------- speed


def compare(options: argparse.Namespace, scratch: Path) -> dict[str, list[float]]:
    """Clips a second of each way, one figure a round."""
    device, work = pick_device(options.gpu), scratch / "work"
    paths = link_clips(options, scratch / "data" / "test")
    train = [scratch / "data" / "train" / name / f"{number}.flac" for name in CLASSES for number in range(5)]
    for number, path in enumerate(train):  # a store is of something to train on
        write_noise(path, number)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        preprocess(PreprocessConfig(scratch / "data", work))
    features = FeatureOptions(options.size, options.size).resolve(RATE, RATE)
    checkpoints = save_random_runs(work, options.model, features, options.folds)
    ways: dict[str, tuple[Callable[[], None], int]] = {
        "limit": (limit(options, checkpoints, device), len(paths)),
        "store": (pipeline(options, scratch, device, None), len(paths)),
        "flac": (pipeline(options, scratch, device, scratch / "data" / "test"), len(paths)),
        "naive": (naive(options, checkpoints, paths[: options.naive_clips], device), options.naive_clips),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-1, options.rounds):
        for name, (way, clips) in ways.items():
            started = time.perf_counter()
            way()
            wait(device)
            if number >= 0:  # the round before is to warm up
                speeds[name].append(clips / (time.perf_counter() - started))
                print(f"round {number + 1}: {name} {speeds[name][-1]:.1f} clips/s", flush=True)
    return speeds


def report(options: argparse.Namespace, speeds: dict[str, list[float]]) -> None:
    middle = {name: median(values) for name, values in speeds.items()}
    print(
        f"\n{options.model} at {options.size}, {options.folds} folds x {VIEWS} views, {options.clips} clips,", end=" "
    )
    print(f"batch {options.batch_size}, {os.cpu_count()} cores, {pick_device(options.gpu)}")
    print(f"{'':8}{'clips/s':>10}{'min':>10}{'max':>10}{'of limit':>10}{'x naive':>10}")
    for name, values in speeds.items():
        print(f"{name:8}{middle[name]:>10.2f}{min(values):>10.2f}{max(values):>10.2f}", end="")
        print(f"{middle[name] / middle['limit']:>10.3f}{middle[name] / middle['naive']:>10.2f}")
    ceiling = middle["limit"] / middle["naive"]
    print(f"naive spends {1 / ceiling:.0%} of its time in the networks: its ceiling is {ceiling:.2f} x naive")
    ratios = {f"{way}/limit": round(middle[way] / middle["limit"], 3) for way in ("store", "flac")}
    ratios |= {f"{way}/naive": round(middle[way] / middle["naive"], 2) for way in ("store", "flac", "limit")}
    print(json.dumps({"model": options.model, "size": options.size, "clips_per_second": middle, **ratios}))


def limit(options: argparse.Namespace, checkpoints: list[Path], device: torch.device) -> Callable[[], None]:
    """The bare networks, each over each view of each clip, in the precision that inference.py picks."""
    nets = [load_classifier(path).net for path in checkpoints]
    dtypes = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    dtype = dtypes.get(pick_precision("auto", device), torch.float32)
    nets = [net.to(device, dtype) for net in nets]
    feature = torch.randn(options.batch_size, 1, options.size, options.size, device=device, dtype=dtype)
    feature = feature.contiguous(memory_format=torch.channels_last)

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, options.clips, options.batch_size):
                batch = feature[: options.clips - start]
                for _ in range(VIEWS):
                    for net in nets:
                        net(batch)

    return run


def pipeline(
    options: argparse.Namespace, scratch: Path, device: torch.device, folder: Path | None
) -> Callable[[], None]:
    config = parse_inference(
        ["-t", str(options.size), "-m", options.model, "-f", str(options.folds), "-w", str(scratch / "work")]
        + ["-o", str(scratch / "out" / "submission.csv"), "--batch-size", str(options.batch_size)]
        + (["-i", str(folder)] if folder else [])
    )
    with contextlib.redirect_stderr(io.StringIO()):
        ensemble = load_ensemble(config)

    def run() -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            label(config, ensemble, device)

    return run


def naive(
    options: argparse.Namespace, checkpoints: list[Path], paths: list[Path], device: torch.device
) -> Callable[[], None]:
    """One fold after the other, one view after the other, one clip after the other."""
    models = [load_classifier(path) for path in checkpoints]
    nets = [model.net.to(memory_format=torch.contiguous_format).to(device) for model in models]
    config = models[0].config.features
    draw = np.random.default_rng(0)

    def feature(path: Path, view: int) -> NDArray[np.float32]:
        wave, _ = librosa.load(path, sr=config.sample_rate)
        wave = librosa.util.fix_length(wave, size=config.clip_samples)
        if view in (1, 2):
            wave = np.roll(wave, round(VIEW_SHIFT_SECONDS * config.sample_rate) * (2 * view - 3))
        elif view == 3:
            wave = wave + VIEW_NOISE_STD * draw.standard_normal(len(wave), np.float32)
        mel = librosa.feature.melspectrogram(
            y=wave, sr=config.sample_rate, n_fft=config.n_fft, hop_length=config.hop_samples, n_mels=config.n_mels
        )
        db = librosa.power_to_db(mel)
        return librosa.util.fix_length((db - db.mean()) / (db.std() + 1e-6), size=config.frames)

    def run() -> None:
        for net in nets:
            for view in range(VIEWS):
                for start in range(0, len(paths), options.batch_size):
                    batch = np.stack([feature(path, view) for path in paths[start : start + options.batch_size]])
                    with torch.inference_mode():
                        net(torch.from_numpy(batch)[:, None].to(device)).softmax(1).cpu().numpy()

    return run


# ------------------------------------------------------------------------------------------------------- material


def link_clips(options: argparse.Namespace, folder: Path) -> list[Path]:
    """As many FLAC files in `folder` as are asked for, links to those there are, over and over."""
    source = options.data or GSC12 / "test"
    found = sorted(source.rglob("*.flac"))[: options.clips]
    if not found:
        found = [folder.parent.parent / "made" / f"{number}.flac" for number in range(100)]
        for number, path in enumerate(found):
            write_noise(path, number)
    folder.mkdir(parents=True)
    paths = [folder / f"{number:06}.flac" for number in range(options.clips)]
    for number, path in enumerate(paths):
        path.symlink_to(found[number % len(found)].resolve())
    return paths


def write_noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(RATE), RATE)


def save_random_runs(work: Path, model: str, features: FeatureConfig, folds: int) -> list[Path]:
    """Checkpoints of `folds` networks that have learned nothing."""
    settings: dict[str, Any] = {"augment": NO_AUGMENT, "optim": OptimConfig(), "seed": 0, "folds_hash": "made"}
    paths = []
    for fold in range(folds):
        torch.manual_seed(fold)
        run = RunConfig(model, CLASSES, (1,) * len(CLASSES), features, fold=fold, **settings)
        paths.append(work / "runs" / run_name(model, features.n_mels, features.frames) / f"fold{fold}" / "last.ckpt")
        save_checkpoint(paths[-1], run, Classifier(run).state_dict(), finished=True)
    return paths


if __name__ == "__main__":
    main()
