"""From the command to an accuracy on a held-out fold: this pipeline and the usual way, and where their time goes.

    python -m benchmarks.time_to_accuracy -w work -t 64 -m resnet18 --target 0.92

- ours: train.py on fold 0, with whatever follows --train;
- usual: a DataLoader's workers make features a clip at a time by librosa; float32, NCHW, AdamW and the same schedule in
  a plain loop, the same network and number of epochs.

Each in a process of its own, which ends with the epoch that first reaches the target; its clock starts with the
process, so that imports count. In turn, medians over the rounds. Prints a table of seconds by what was done, and a JSON
line. An accuracy is that of the held-out clips' first view after an epoch: of the averaged weights, or the network's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

from benchmarks.common import ROOT, Clock, machine, open_store

PARTS = ("import", "store", "build", "compile", "estimate", "steps", "validation")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.time_to_accuracy", description=__doc__.splitlines()[0])
    parser.add_argument("-t", "--size", default="64")
    parser.add_argument("-m", "--model", default="resnet18")
    parser.add_argument("-g", "--gpu", help="index of a GPU, or cpu; default: a GPU where there is one")
    parser.add_argument("--target", type=float, default=0.92, metavar="ACCURACY")
    parser.add_argument("--epochs", default="13", metavar="N", help="that the schedule is laid out for")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--ways", nargs="+", choices=("ours", "usual"), default=["ours", "usual"])
    parser.add_argument("--data", type=Path, help="default: ../shared/data/gsc12, else made clips")
    parser.add_argument("-w", "--work", type=Path, help="an existing store, in place of --data")
    parser.add_argument("--child", choices=("ours", "usual"), help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)  # on the system's clock
    parser.add_argument("--train", nargs=argparse.REMAINDER, default=[], help="more options of train.py, for ours")
    options = parser.parse_args()
    if options.child:
        Run(options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        store = open_store(options.work, options.data, Path(scratch) / "made")
        work = Path(scratch) / "work"  # runs leave nothing in the user's
        work.mkdir()
        for file in store.work.iterdir():
            if file.is_file():
                (work / file.name).symlink_to(file.resolve())
        report(options, compare(options, work))


def compare(options: argparse.Namespace, work: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in options.ways}
    device = ["-g", options.gpu] if options.gpu else []
    for number in range(options.rounds):
        for way in options.ways:
            command = [sys.executable, "-m", "benchmarks.time_to_accuracy", "-w", str(work), "-t", options.size]
            command += ["-m", options.model, "--target", str(options.target), "--epochs", options.epochs, *device]
            command += ["--child", way, "--started", str(time.time()), "--train", *options.train]
            child = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            found[way].append(json.loads(child.stdout.splitlines()[-1]))
            last = found[way][-1]
            print(f"round {number + 1}: {way} {last['accuracy']:.4f} after {last['seconds']:.1f} s", flush=True)
    return found


def report(options: argparse.Namespace, found: dict[str, list[dict[str, Any]]]) -> None:
    print(f"\n{options.model} at {options.size}, fold 0, target {options.target}, {machine()}")
    print(f"{'':8}{'seconds':>9}{'accuracy':>10}{'epochs':>8}" + "".join(f"{part:>12}" for part in PARTS))
    for way, runs in found.items():
        middle = {key: median(run[key] for run in runs) for key in ("seconds", "accuracy", "epochs")}
        cells = "".join(f"{median(run['parts'].get(part, 0) for run in runs):>12.2f}" for part in PARTS)
        print(f"{way:8}{middle['seconds']:>9.2f}{middle['accuracy']:>10.4f}{middle['epochs']:>8.0f}{cells}")
        if missed := sum(run["accuracy"] < options.target for run in runs):
            print(f"{way}: {missed} of {len(runs)} runs did not reach it; their seconds are those of all the epochs")
    print(json.dumps({"model": options.model, "size": int(options.size), "target": options.target, "runs": found}))


class Run:
    """One training in this process, which it ends, having said how long it took and what for."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.epochs = 0
        self.clock = Clock("import")
        self.clock.seconds["import"] = time.time() - options.started
        with contextlib.redirect_stdout(sys.stderr):
            getattr(self, options.child)()

    def judge(self, accuracy: float) -> None:
        """Called after each epoch."""
        self.epochs += 1
        if accuracy >= self.options.target or self.epochs == int(self.options.epochs):
            self.end(accuracy)

    def end(self, accuracy: float) -> NoReturn:
        self.clock.switch("")
        seconds = time.time() - self.options.started
        result = {"seconds": seconds, "accuracy": accuracy, "epochs": self.epochs, "parts": self.clock.seconds}
        os.write(1, (json.dumps(result) + "\n").encode())
        os._exit(0)  # at once: what is left to do is not what was asked for

    def train_config(self) -> Any:
        from arg import parse_train

        options = self.options
        device = ["-g", options.gpu] if options.gpu else []
        argv = ["-w", str(options.work), "-t", options.size, "-m", options.model, "-f", "0", "--epochs", options.epochs]
        return parse_train([*argv, *device, "--restart", "--optimizer", "adamw", *options.train])

    def ours(self) -> None:
        import train
        import training.fold
        import training.tuning
        import training.workers
        from dataset import Store
        from model import Classifier

        training.fold.quieten()
        clock = self.clock
        clock.watch("store", train, "open_store")
        clock.watch("store", Store, "on")
        clock.watch("build", training.fold, "make_fold")
        clock.watch("compile", training.tuning, "compile_network")
        clock.watch("estimate", training.tuning, "expected_seconds")
        clock.watch("steps", training.fold, "fit")
        begin, end = Classifier.on_validation_epoch_start, Classifier.on_validation_epoch_end

        def begun(model: Classifier) -> None:
            clock.switch("validation")
            begin(model)

        def ended(model: Classifier) -> None:
            end(model)
            clock.switch("steps")
            self.judge(model.held_out_scores["valid_accuracy"])

        Classifier.on_validation_epoch_start = begun  # type: ignore[method-assign, assignment]
        Classifier.on_validation_epoch_end = ended  # type: ignore[method-assign, assignment]
        clock.switch("build")
        train.train(self.train_config())

    def usual(self) -> None:
        import timm
        import torch
        from torch.nn.functional import cross_entropy

        from benchmarks.usual import ClipFolder, loader
        from dataset import Store
        from system.devices import pick_device
        from training.resolve import resolve

        device = pick_device(self.options.gpu)
        self.clock.switch("store")
        store = Store.open(self.options.work)
        config = resolve(self.train_config(), store, 0)
        optim, clips, held_out = config.optim, store.clips("train"), store.fold_of == 0
        learn = loader(ClipFolder(store, clips.take(~held_out), config.features), optim.batch_size, device, True)
        folder = ClipFolder(store, clips.take(held_out), config.features, augment=False)
        look = loader(folder, optim.batch_size, device, False)
        print(f"usual: {folder.source}", flush=True)
        self.clock.switch("build")
        net = timm.create_model(config.model, in_chans=1, num_classes=len(config.classes)).to(device)
        optimizer = torch.optim.AdamW(net.parameters(), lr=optim.lr, weight_decay=optim.weight_decay)
        steps = optim.epochs * len(learn)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, optim.lr, steps, pct_start=optim.warmup)
        while True:
            self.clock.switch("steps")
            net.train()
            for feature, target in learn:
                loss = cross_entropy(net(feature.to(device)), target.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            self.clock.switch("validation")
            net.eval()
            with torch.inference_mode():
                right = sum(
                    int((net(feature.to(device)).argmax(1) == target.to(device)).sum()) for feature, target in look
                )
            self.judge(right / len(folder))


if __name__ == "__main__":
    main()
