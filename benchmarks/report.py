"""What report.py takes for a large data set: seconds and memory, on a made store and made predictions.

    python -m benchmarks.report --clips 60000 --runs 6

The store holds noise for audio; the runs' checkpoints hold the weights of the network named, since reading them takes
time, too; the predictions of five folds and four views are drawn. Prints what report.py prints, and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import WORDS, machine, make_store, watched


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=60_000, metavar="N")
    parser.add_argument("--runs", type=int, default=6, metavar="N")
    parser.add_argument("-m", "--model", default="resnet18")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="where to make it all; default: the system's")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        work = make_store(Path(scratch, "work"), options.clips, noise=True)
        make_runs(work, options.runs, options.model)
        print(machine(), flush=True)
        seconds, mib, printed = watched([sys.executable, "report.py", "-w", str(work)])
        page = (work / "report.html").stat().st_size
    print(printed)
    print(f"{options.clips:,} clips, {len(WORDS)} classes, {options.runs} runs: {seconds:.1f} s, {mib:.0f} MiB")
    print(json.dumps({"clips": options.clips, "runs": options.runs, "seconds": seconds, "mib": mib, "page": page}))


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
            counts = (1,) * len(store.classes)
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
