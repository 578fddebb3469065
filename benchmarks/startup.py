"""How long the scripts take to answer -h, and train.py to get from the command to its first step.

    python -m benchmarks.startup -w work

-h in a process of its own, again and again. The first step: `train.py -w work --epochs 1`, in a process that ends where
its first training step would begin, less what importing torch and Lightning takes in another; the two in turn. All
files are in the page cache: each is run once before. Prints a table and a JSON line: seconds, medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.common import ROOT, machine, open_store

SCRIPTS = ("preprocess.py", "train.py", "inference.py", "report.py")
IMPORTS = "import torch, pytorch_lightning"
FIRST_STEP = """
import os, sys
import train
from model import Classifier
def first_step(*_):
    os._exit(0)
Classifier.training_step = first_step
sys.exit(train.main({argv!r}) or 1)
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__.splitlines()[0])
    parser.add_argument("-t", "--size", default="64")
    parser.add_argument("-m", "--model", default="resnet18")
    parser.add_argument("-g", "--gpu", help="index of a GPU, or cpu; default: a GPU where there is one")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--data", type=Path, help="default: ../shared/data/gsc12, else made clips")
    parser.add_argument("-w", "--work", type=Path, help="an existing store, in place of --data")
    parser.add_argument("--train", nargs=argparse.REMAINDER, default=[], help="more options of train.py")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store = open_store(options.work, options.data, Path(scratch) / "made")
        work = Path(scratch) / "work"  # a run that was broken off leaves nothing in the user's
        work.mkdir()
        for file in store.work.iterdir():
            if file.is_file():
                (work / file.name).symlink_to(file.resolve())
        report(options, measure(options, work))


def measure(options: argparse.Namespace, work: Path) -> dict[str, list[float]]:
    """Seconds of each program, one figure a round."""
    device = ["-g", options.gpu] if options.gpu else []
    argv = ["-w", str(work), "-t", options.size, "-m", options.model, "-f", "0", "--epochs", "1", *device]
    driver = FIRST_STEP.format(argv=[*argv, *options.train])
    programs = {f"{script} -h": [script, "-h"] for script in SCRIPTS}
    programs |= {"imports": ["-c", IMPORTS], "first step": ["-c", driver]}
    found: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(-1, options.rounds):  # the round before warms the caches up
        for name, program in programs.items():
            seconds = run([sys.executable, *program])
            if number >= 0:
                found[name].append(seconds)
        print(f"round {number + 1}", file=sys.stderr)
    return found


def run(command: list[str]) -> float:
    start = time.perf_counter()
    program = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if program.returncode:
        raise SystemExit(f"{' '.join(command)} failed\n{program.stdout}{program.stderr}")
    return seconds


def report(options: argparse.Namespace, found: dict[str, list[float]]) -> None:
    beyond = [step - imports for step, imports in zip(found["first step"], found["imports"], strict=True)]
    rows = found | {"first step - imports": beyond}
    wanted = {name: 0.3 for name in found if name.endswith("-h")} | {"first step - imports": 10}
    print(f"{options.model} at {options.size}, {machine()}")
    print(f"{'':22}{'seconds':>9}{'min':>9}{'max':>9}")
    for name, values in rows.items():
        print(f"{name:22}{median(values):>9.3f}{min(values):>9.3f}{max(values):>9.3f}", end="")
        print(f"   under {wanted[name]} wanted" if name in wanted else "")
    middle = {name: round(median(values), 3) for name, values in rows.items()}
    print(json.dumps({"model": options.model, "size": int(options.size), "seconds": middle}))


if __name__ == "__main__":
    main()
