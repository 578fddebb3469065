"""Training against the size of the store: clips a second of the data path, and memory for each clip.

    python -m benchmarks.scaling --speed 1000 10000 100000 1000000 --memory 100000 1000000

Speed: batches of shuffled clips, gathered (alone, and with augmentation and features behind them), no network; and what
the start of an epoch, with its shuffle, takes. Interleaved, medians over the rounds. Memory: train.py on one fold in a
process of its own, with a network of two layers and a few steps an epoch, but all the held-out clips validated and
predicted; the most anonymous memory (RssAnon), which the pages of the store are not part of.

The stores are made: tables with names as data sets have them, over a hole in a file, so that a million clips take
no disk. Reading a hole costs the system a page to clear, as reading a warm file costs it a page to map. Prints tables
and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import machine, make_store, watched

STEPS = 50  # of an epoch of the run that memory is taken of


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    sizes = [10**3, 10**4, 10**5, 10**6]
    parser.add_argument("--speed", type=int, nargs="*", default=sizes, metavar="CLIPS", help="sizes of store")
    parser.add_argument("--memory", type=int, nargs="*", default=sizes[2:], metavar="CLIPS", help="sizes of store")
    parser.add_argument("-t", "--size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=10, metavar="N", help="timed, a round")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="where to make stores; default: the system's")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)  # one of the processes that memory is taken of
    options = parser.parse_args()
    if options.run:
        run_fold(options.run)
        return
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        made = sorted({*options.speed, *options.memory})
        stores = {clips: make_store(Path(scratch) / str(clips), clips) for clips in made}
        print(machine())
        speeds = speed(options, {clips: stores[clips] for clips in options.speed}) if options.speed else {}
        report_speed(options, speeds)
        taken = {clips: memory_of(stores[clips]) for clips in options.memory}
        each = report_memory(taken)
    result: dict[str, Any] = {"speed": speeds, "peak_mib": taken, "bytes_per_clip": each}
    print(json.dumps(result))


# --------------------------------------------------------------------------------------------------------- speed


def speed(options: argparse.Namespace, stores: dict[int, Path]) -> dict[int, dict[str, list[float]]]:
    """By size of store: clips a second of "gather" and "features", seconds of "epoch start"; one figure a round."""
    import torch

    from arg import parse_train
    from dataset import Store
    from system.devices import keep_memory
    from training.fold import make_fold, quieten
    from training.plan import run_config

    quieten()
    keep_memory()
    config = parse_train(["-t", str(options.size), "-m", "test_efficientnet"])
    folds = {}
    for clips, work in stores.items():
        store = Store.open(work)
        folds[clips] = make_fold(store, run_config(config, store, 0), torch.device("cpu"))
    found: dict[int, dict[str, list[float]]] = {
        clips: {"gather": [], "features": [], "epoch start": []} for clips in stores
    }
    for epoch in range(options.rounds):
        for clips, (model, data) in folds.items():
            model.on_fit_start()
            draw = torch.Generator().manual_seed(epoch)

            def gathered(data: Any = data, epoch: int = epoch) -> Iterator[int]:
                for wave, _ in data.train_batches(2 * epoch):
                    yield len(wave)

            def augmented(data: Any = data, model: Any = model, draw: Any = draw, epoch: int = epoch) -> Iterator[int]:
                for wave, target in data.train_batches(2 * epoch + 1):
                    yield len(model.augmented(wave, target, draw)[0])

            start, per_second = clocked(gathered(), options.batches)
            found[clips]["epoch start"].append(start)
            found[clips]["gather"].append(per_second)
            found[clips]["features"].append(clocked(augmented(), options.batches)[1])
            print(f"round {epoch + 1}: {clips:,} clips, {found[clips]['features'][-1]:.0f} clips/s", flush=True)
    return found


def clocked(batches: Iterable[int], count: int) -> tuple[float, float]:
    """Seconds up to the first batch, and clips a second of `count` batches after the two that are prefetched."""
    stream = iter(batches)
    start = time.perf_counter()
    next(stream)
    ready = time.perf_counter() - start
    for _ in range(2):
        next(stream)
    start = time.perf_counter()
    clips = sum(size for size, _ in zip(stream, range(count), strict=False))
    return ready, clips / (time.perf_counter() - start)


def report_speed(options: argparse.Namespace, speeds: dict[int, dict[str, list[float]]]) -> None:
    if not speeds:
        return
    print(f"\nfeatures of {options.size} x {options.size}, clips/s")
    print(f"{'clips':>10}{'gather':>10}{'features':>10}{'min':>10}{'max':>10}{'epoch start, ms':>17}")
    for clips, found in speeds.items():
        features = found["features"]
        print(f"{clips:>10,}{median(found['gather']):>10.0f}{median(features):>10.0f}", end="")
        print(f"{min(features):>10.0f}{max(features):>10.0f}{1000 * median(found['epoch start']):>17.1f}")


# -------------------------------------------------------------------------------------------------------- memory


def memory_of(work: Path) -> float:
    """The most anonymous memory, MiB, of train.py on a fold of the store."""
    seconds, peak, _ = watched([sys.executable, "-m", "benchmarks.scaling", "--run", str(work)])
    print(f"{work.name} clips: {peak:.1f} MiB, {seconds:.0f} s", flush=True)
    return peak


def report_memory(taken: dict[int, float]) -> float | None:
    """Prints, and returns, the bytes that each further clip takes."""
    if len(taken) < 2:
        return None
    print(f"\n{'clips':>10}{'MiB':>10}")
    for clips, peak in taken.items():
        print(f"{clips:>10,}{peak:>10.1f}")
    (few, low), (many, high) = min(taken.items()), max(taken.items())
    each = (high - low) * 2**20 / (many - few)
    print(f"{each:.1f} bytes a clip; at most 100 wanted")
    return round(each, 1)


def run_fold(work: Path) -> None:
    """train.py with little to compute: a network of two layers, STEPS steps in each of two epochs."""
    from functools import partial

    from torch import nn

    import model
    import train
    import training.fold
    from arg import parse_train

    def small(_name: str, num_classes: int, *_: Any) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, num_classes))

    model.build_network = small  # type: ignore[assignment]
    training.fold.make_trainer = partial(training.fold.make_trainer, limit_train_batches=STEPS)
    training.fold.quieten()
    feature = ["--n-mels", "8", "--frames", "8", "--n-fft", "256"]
    argv = ["-w", str(work), "-g", "cpu", "-f", "0", "--epochs", "2", "--batch-size", "256", *feature, "--restart"]
    train.train(parse_train(argv))


if __name__ == "__main__":
    main()
