"""From a folder of clips to an accuracy on a held-out fold: preprocess.py, then train.py -f 0, and where time goes.

    python -m benchmarks.time_to_accuracy
    python -m benchmarks.time_to_accuracy --target 0.92 --seeds 0 1 2 3 4 -- -m resnet18 -t 64 --epochs 13

Both are processes of their own, run to their end for each seed, so that imports, estimates and files count. What
follows -- are options of train.py; without, those of SCHEDULE, which is laid out for the target on gsc12. Prints a row
a seed, the mean accuracy with a 95 % interval over seeds (Student's), and a JSON line. The accuracy is that of the mean
of four views, as train.py reports it.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import GSC12, ROOT, machine, make_store
from system.paths import HISTORY

SCHEDULE = (
    "-m melresnet --n-mels 40 --frames 101 --n-fft 512 --augment base --precision bf16 --epochs 4 --label-smoothing 0.1"
)
PARTS = ("preprocess.py", "epochs", "rest of train.py", "in all")  # the rest: imports, a trial, views, files


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.time_to_accuracy", description=__doc__.splitlines()[0])
    parser.add_argument("--target", type=float, default=0.957, metavar="ACCURACY")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("-g", "--gpu", help="index of a GPU, or cpu; default: a GPU where there is one")
    parser.add_argument("--data", type=Path, help="default: ../shared/data/gsc12, else made clips, ready prepared")
    parser.add_argument("-w", "--work", type=Path, help="an existing store, in place of --data: nothing is prepared")
    parser.add_argument("train", nargs="*", default=shlex.split(SCHEDULE), help="after --: options of train.py")
    options = parser.parse_args()
    runs = [run(options, seed) for seed in options.seeds]
    accuracies = [one["accuracy"] for one in runs]
    mean, about = statistics.mean(accuracies), half_width(accuracies)
    print(f"\n{shlex.join(options.train)}, {machine()}")
    reached = "reached" if mean >= options.target else "missed"
    print(f"mean accuracy {mean:.4f} ({mean - about:.4f} to {mean + about:.4f}): {options.target} is {reached}")
    print(
        "seconds, medians: " + ", ".join(f"{part} {statistics.median(one[part] for one in runs):.1f}" for part in PARTS)
    )
    print(json.dumps({"train": options.train, "target": options.target, "mean": mean, "runs": runs}))


def half_width(values: Sequence[float]) -> float:
    """Of the mean's 95 % interval."""
    from scipy.stats import t

    if len(values) < 2:
        return float("inf")
    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5


def run(options: argparse.Namespace, seed: int) -> dict[str, float]:
    """Seconds of each part, and the accuracy."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        began = time.monotonic()
        if options.work:
            for file in options.work.iterdir():
                if file.is_file():
                    (work / file.name).symlink_to(file.resolve())
        elif root := options.data or (GSC12 if GSC12.is_dir() else None):
            script("preprocess.py", "-i", str(root), "-w", scratch)
        else:
            make_store(work, 2000, noise=True)
        prepared = time.monotonic()
        device = ["-g", options.gpu] if options.gpu else []
        script("train.py", "-w", scratch, "-f", "0", "--seed", str(seed), *device, *options.train)
        ended = time.monotonic()
        (history,) = work.glob(f"runs/*/fold0/{HISTORY}")
        (scores,) = table(work / "runs" / "summary.csv")
        epochs = sum(float(row["seconds"]) for row in table(history))
    took = (prepared - began, epochs, ended - prepared - epochs, ended - began)
    result = dict(zip(PARTS, took, strict=True)) | {"accuracy": float(scores["accuracy"])}
    parts = ", ".join(f"{part} {result[part]:.1f}" for part in PARTS)
    print(f"seed {seed}: accuracy {result['accuracy']:.4f}, seconds: {parts}", flush=True)
    return result


def script(name: str, *arguments: str) -> None:
    """Run one of the project's scripts; it says on stderr what it does."""
    subprocess.run([sys.executable, name, *arguments], cwd=ROOT, stdout=sys.stderr, check=True)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
