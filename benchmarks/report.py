"""What report.py takes for a large data set: seconds, memory, and how soon its page opens.

    python -m benchmarks.report --clips 60000 --runs 6
    python -m benchmarks.report --work WORK --screenshots /tmp/page      # pictures of the page of real runs

The store holds noise for audio; the runs' checkpoints hold the weights of the network named, since reading them takes
time, too; the predictions of five folds and four views are drawn. Prints what report.py prints, and a JSON line. The
page is opened in headless Chromium, cold, three times; the medians are given.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.browser import find_browser, open_browser
from benchmarks.common import machine, make_store, watched


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=60_000, metavar="N")
    parser.add_argument("--runs", type=int, default=6, metavar="N")
    parser.add_argument("-m", "--model", default="resnet18")
    parser.add_argument("--work", type=Path, metavar="DIR", help="runs that are there, in place of made ones")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="where to make them; default: the system's")
    parser.add_argument("--screenshots", type=Path, metavar="DIR", help="pictures of the page: light, dark, a phone's")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        work = options.work
        if work is None:
            work = make_store(Path(scratch, "work"), options.clips, noise=True)
            make_runs(work, options.runs, options.model)
        page = Path(scratch, "report.html")
        print(machine(), flush=True)
        seconds, mib, printed = watched([sys.executable, "report.py", "-w", str(work), "-o", str(page)])
        print(printed)
        found: dict[str, Any] = {"seconds": seconds, "mib": mib, "page": page.stat().st_size}
        if program := find_browser():
            openings = [opening(program, page) for _ in range(3)]
            found["loaded"], found["shown"] = (statistics.median(times) for times in zip(*openings, strict=True))
            if options.screenshots:
                take_pictures(program, page, options.screenshots)
    print(json.dumps(found))


def opening(program: str, path: Path) -> tuple[float, float]:
    """Seconds until the page has loaded, and until its first frame with everything in it was painted."""
    with open_browser(program) as tab:
        start = time.perf_counter()
        tab.goto(path)
        loaded = time.perf_counter() - start
        tab.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        return loaded, time.perf_counter() - start


def take_pictures(program: str, path: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with open_browser(program) as tab:
        for name, width, dark in (("light", 1200, False), ("dark", 1200, True), ("phone", 375, False)):
            tab.look(width, 900, dark=dark)
            tab.goto(path)
            tab.evaluate("document.querySelectorAll('.card img').forEach(image => { image.loading = 'eager' })")
            time.sleep(0.5)  # until they are decoded
            tab.screenshot(folder / f"{name}.png", whole=True)


def make_runs(work: Path, runs: int, model: str, size: int = 64, skill: float = 4.5) -> None:
    """Runs as train.py leaves them, of networks that agree on much; with 30 classes 0.93 of the clips are right."""
    from arg import AugmentConfig, FeatureOptions, OptimConfig, RunConfig
    from dataset import Store
    from model import build_network, save_checkpoint
    from transform import VIEWS

    store = Store.open(work)
    clips = store.clips("train")
    draw = np.random.default_rng(0)
    features = FeatureOptions(size, size).resolve(store.sample_rate, store.clip_samples)
    network = build_network(model, len(store.classes), features)
    state = {f"net.{key}": value for key, value in network.state_dict().items()}
    hard = draw.standard_normal((len(clips), len(store.classes)), np.float32)  # what all networks find hard in a clip
    hard[np.arange(len(clips)), clips.target] += skill
    names = np.array(list(clips.fname))
    history = [{"epoch": epoch, "lr": 0.0, "train_loss": 2 / (epoch + 1), "valid_loss": 2 / (epoch + 1),
                "valid_accuracy": 1 - 1 / (epoch + 2)} for epoch in range(13)]  # fmt: skip
    for run in range(runs):
        folder = work / "runs" / f"{model}-{size}x{size}-{run}"
        own = hard + 0.7 * draw.standard_normal(hard.shape, np.float32)
        for fold in range(store.folds):
            held_out = store.fold_of == fold
            shape = (VIEWS, int(held_out.sum()), len(store.classes))
            logits = 1.5 * (own[held_out] + 0.3 * draw.standard_normal(shape, np.float32))
            odds = np.exp(logits - logits.max(2, keepdims=True))
            counts = tuple(np.bincount(clips.target, minlength=len(store.classes)).tolist())
            config = RunConfig(
                model, store.classes, counts, features, AugmentConfig(), OptimConfig(), fold, 0, store.folds_hash
            )
            path = folder / f"fold{fold}" / "last.ckpt"
            save_checkpoint(path, config, state, True, history=history, best={}, seconds=600.0)
            np.savez(
                path.with_name("oof.npz"),
                fname=names[held_out],
                target=clips.target[held_out].astype(np.int64),
                probabilities=odds / odds.sum(2, keepdims=True),
                classes=np.array(store.classes),
            )


if __name__ == "__main__":
    main()
