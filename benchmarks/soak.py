"""Trainings that are killed, resumed and run side by side, for as long as is wanted: nothing may be lost or left over.

    python -m benchmarks.soak kills --kills 50   # kill -9 at random moments of one training
    python -m benchmarks.soak crashes            # death at each step that a training takes on the disk
    python -m benchmarks.soak mixed --minutes 30 # runs, kills, folds side by side; memory, open and temporary files

Each run is a process of its own, forked from one that has torch imported, and its results are compared bit by bit with
those of a run that nothing happened to. Prints a table and a JSON line; the exit status is 1 where anything is lost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile

import callback
import preprocess
import train
import training.tuning
from model import read_checkpoint
from tests.crash import Died, dies_at

RATE = 8000  # Hz
MODEL = "test_resnet"
FORK = multiprocessing.get_context("fork")  # the parent must not compute with torch, whose threads a child would miss


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("kills", "crashes", "mixed"), default="mixed")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=30, help="of mixed")
    parser.add_argument("--epochs", type=int, default=40, help="of the training that is killed")
    parser.add_argument("--every", type=int, default=1, help="take every Nth of the steps on the disk")
    parser.add_argument("--save-seconds", type=float, default=1.0, help="between checkpoints; train.py: 180")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        start = Path(scratch, "start")
        tempfile.tempdir = os.environ["TMPDIR"] = str(Path(scratch, "temporary"))  # where only ours are counted
        Path(tempfile.tempdir).mkdir()
        prepare(Path(scratch, "clips"), start)
        if options.what == "kills":
            result = kills(start, options.kills, options.epochs, options.save_seconds, draw)
        elif options.what == "crashes":
            result = crashes(start, options.every)
        else:
            result = mixed(start, 60 * options.minutes, draw)
    print("\n".join(f"{key:>34}  {value}" for key, value in result.items()))
    print(json.dumps(result))
    return 1 if result["lost"] else 0


# --------------------------------------------------------------------------------------------------- what is run


def prepare(clips: Path, work: Path) -> None:
    """A store of 144 short tones of three kinds, in two folds."""
    draw = np.random.default_rng(0)
    seconds = np.arange(RATE // 4) / RATE
    for kind, hertz in (("high", 1800), ("low", 400), ("middle", 900)):
        folder = clips / "train" / kind
        folder.mkdir(parents=True)
        for take in range(48):
            wave = 0.3 * np.sin(2 * np.pi * hertz * draw.uniform(0.9, 1.1) * seconds + draw.uniform(0, 6))
            wave += 0.05 * draw.standard_normal(len(wave))
            soundfile.write(folder / f"s{take % 12}_nohash_{take}.wav", wave, RATE)
    options = ["-i", str(clips), "-w", str(work), "-k", "2"]
    script = str(Path(preprocess.__file__))  # on its own: its processes would import all that this module does
    subprocess.run([sys.executable, script, *options], check=True, capture_output=True)


def arguments(work: Path, epochs: int, folds: str, batch_size: int) -> list[str]:
    options = ["-t", "32", "-m", MODEL, "--batch-size", str(batch_size), "-g", "cpu", "--epochs", str(epochs)]
    return [*options, "-f", folds, "-w", str(work)]


def train_here(work: Path, epochs: int, save_seconds: float, folds: str = "0", batch_size: int = 12) -> None:
    """A training in this process, whose exit status it sets."""
    import torch

    torch.set_num_threads(1)
    callback.SAVE_SECONDS, callback.SAVE_SHARE = save_seconds, float("inf")
    training.tuning.expected_seconds = lambda *_: 1.0  # takes longer than the training
    status = train.main(arguments(work, epochs, folds, batch_size))
    if status:
        sys.exit(status)


def outcome(work: Path, fold: int = 0) -> dict[str, Any]:
    """What a finished fold left, except seconds; raises where it is not finished."""
    folder = work / "runs" / f"{MODEL}-32x32" / f"fold{fold}"
    last = read_checkpoint(folder / "last.ckpt")
    best = read_checkpoint(folder / "best.ckpt")
    assert last["finished"], f"{folder}: not finished"
    result: dict[str, Any] = {name: (folder / name).read_bytes() for name in ("oof.npz", "oof.csv")}
    result["history"] = pd.read_csv(folder / "history.csv").drop(columns="seconds").to_csv()
    for name, checkpoint in (("last", last), ("best", best)):
        result[name] = {key: value.numpy().tobytes() for key, value in checkpoint["state_dict"].items()}
    result["scores"] = (last["best"], best["best"], [row["epoch"] for row in last["history"]])
    return result


def leftovers(work: Path) -> list[str]:
    return [str(path.relative_to(work)) for path in work.rglob("*.tmp")]


# ------------------------------------------------------------------------------------------------- processes


def silent(job: Callable[[], None]) -> None:
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 (not a file)
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    job()


def begin(job: Callable[[], None], quiet: bool = True) -> multiprocessing.process.BaseProcess:
    process = FORK.Process(target=silent if quiet else job, args=(job,) if quiet else ())
    process.start()
    return process


def in_a_process(job: Callable[[], None], quiet: bool = True, limit: float | None = None) -> int | None:
    """Its exit status; -9 where it was killed, as it is after `limit` seconds."""
    process = begin(job, quiet)
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


# --------------------------------------------------------------------------------------------------- the tests


def kills(start: Path, wanted: int, epochs: int, save_seconds: float, draw: random.Random) -> dict[str, Any]:
    """Kill one training so many times, at moments that are as likely anywhere in it, then let it end.

    Where it ends before, another one begins, so that a run may be killed a few times less than `wanted`.
    """
    whole, work = (shutil.copytree(start, start.with_name(name)) for name in ("whole", "work"))
    trained = partial(train_here, epochs=epochs, save_seconds=save_seconds, batch_size=2)  # 36 batches an epoch
    began = time.monotonic()
    assert in_a_process(partial(trained, whole)) == 0
    took = time.monotonic() - began
    expected = outcome(whole)
    killed = lost = ended = 0
    moments = []
    while killed < wanted:
        moment = draw.uniform(0, 3 * took / wanted + 6)  # most of it starting, when another one has the machine
        status = in_a_process(partial(trained, work), limit=moment)
        if status == -9:
            killed += 1
            moments.append(position(work))
        else:
            lost += status != 0 or outcome(work) != expected
            ended += 1
            shutil.rmtree(work)
            shutil.copytree(start, work)
        print(f"killed {killed} of {wanted} at {moments[-1:]}, ended {ended}, lost {lost}", file=sys.stderr, flush=True)
    status = in_a_process(partial(trained, work))
    same = status == 0 and outcome(work) == expected
    return {
        "kills": killed,
        "lost": lost + (not same) + len(leftovers(work)),
        "runs compared, bit for bit": ended + 1,
        "different epochs killed in": len({epoch for epoch, _ in moments}),
        "in the middle of an epoch": sum(batch > 0 for _, batch in moments),
        "seconds of an undisturbed run": round(took, 1),
        "seconds of all": round(time.monotonic() - began, 1),
    }


def position(work: Path) -> tuple[int, int]:
    """Epochs and batches at which a killed run resumes; (-1, 0) where none is saved yet."""
    path = work / "runs" / f"{MODEL}-32x32" / "fold0" / "last.ckpt"
    if not path.exists():
        return (-1, 0)
    checkpoint = read_checkpoint(path)
    return (checkpoint.get("epoch", -1), checkpoint.get("batch", 0))


def crashes(start: Path, every: int) -> dict[str, Any]:
    """Die at each step on the disk of a training of two epochs, resume, and compare."""
    whole, work = (start.with_name(name) for name in ("whole", "work"))
    shutil.copytree(start, whole)
    listed = start.with_name("steps.json")

    def count() -> None:
        with dies_at(None, whole) as steps:
            train_here(whole, 2, 0.0)
        listed.write_text(json.dumps(steps))

    def die(step: int) -> None:
        with contextlib.suppress(Died), dies_at(step, work):
            train_here(work, 2, 0.0)
        os._exit(9)

    began = time.monotonic()
    assert in_a_process(count) == 0
    expected, steps = outcome(whole), json.loads(listed.read_text())
    lost = []
    taken = range(0, len(steps), every)
    for step in taken:
        shutil.copytree(start, work)
        in_a_process(partial(die, step))
        status = in_a_process(partial(train_here, work, 2, 0.0))
        if status != 0 or outcome(work) != expected or leftovers(work):
            lost.append(f"{step} {steps[step]}")
        shutil.rmtree(work)
        print(f"step {step} of {len(steps)}: {steps[step]}, lost {lost}", file=sys.stderr, flush=True)
    seconds = round(time.monotonic() - began, 1)
    return {
        "steps on the disk": len(steps),
        "died at": len(taken),
        "lost": len(lost),
        "where": lost,
        "seconds": seconds,
    }


def mixed(start: Path, seconds: float, draw: random.Random) -> dict[str, Any]:
    """Until the time is up, runs of a few epochs that are killed, that meet, and that share a run's folder.

    Beside them one process trains again and again, of which memory, open files and threads are noted.
    """
    epochs, whole = 3, shutil.copytree(start, start.with_name("whole"))
    assert in_a_process(partial(train_here, whole, epochs, 0.0, "0,1")) == 0
    expected = [outcome(whole, fold) for fold in range(2)]
    noted = start.with_name("noted.jsonl")
    until = time.monotonic() + seconds
    resident = begin(lambda: again_and_again(shutil.copytree(start, start.with_name("resident")), until, noted))
    counts = dict.fromkeys(("runs ended", "killed", "refused", "lost"), 0)
    while time.monotonic() < until:
        work = shutil.copytree(start, start.with_name("work"))
        for _ in range(draw.randint(0, 3)):
            counts["killed"] += in_a_process(partial(train_here, work, epochs, 0.0), limit=draw.uniform(0, 8)) == -9
        first, second, third = (begin(partial(train_here, work, epochs, 0.0, fold)) for fold in "010")
        for process in (first, second, third):
            process.join()
        statuses = sorted((first.exitcode, third.exitcode), key=str)
        counts["refused"] += 2 in statuses  # one of the two on fold 0, unless the other had finished
        fine = statuses in ([0, 0], [0, 2]) and second.exitcode == 0
        same = fine and [outcome(work, fold) for fold in range(2)] == expected
        counts["lost"] += not same or bool(leftovers(work))
        counts["runs ended"] += 2
        shutil.rmtree(work)
        print(counts, file=sys.stderr, flush=True)
    resident.join()
    table = pd.read_json(noted, lines=True)
    settled = table.iloc[len(table) // 4 :]  # the first runs fill caches
    half = len(settled) // 2
    growth = settled.iloc[half:].median() - settled.iloc[:half].median()
    counts["lost"] += resident.exitcode != 0
    return counts | {
        "runs in one process": len(table),
        "MiB at a quarter, at the end": [round(float(settled["mib"].iloc[place]), 1) for place in (0, -1)],
        "growth of its halves' medians, MiB": round(float(growth["mib"]), 2),
        "open files, growth": [int(table["files"].iloc[-1]), int(growth["files"])],
        "threads, growth": [int(table["threads"].iloc[-1]), int(growth["threads"])],
        "temporary files left": len(list(Path(tempfile.gettempdir()).iterdir())),
    }


def again_and_again(work: Path, until: float, noted: Path) -> None:
    """Trainings in one process, with what it holds after each."""
    import threading

    while time.monotonic() < until:
        train_here(work, 1, 0.0)
        shutil.rmtree(work / "runs")
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        row = {
            "mib": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
            "files": len(list(Path("/proc/self/fd").iterdir())),
            "threads": threading.active_count(),
        }
        with noted.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    sys.exit(main())
