"""Recipes against the reference's, on the same clips and as many presentations of them.

    python -m benchmarks.recipe run --settings resnet18-32 --recipes reference masks mixup --epochs 13
    python -m benchmarks.recipe table                     # of all that has been run so far, by anyone
    python -m benchmarks.recipe table --against ours

Each run trains one fold of ../shared/data/gsc12 with one seed; its held-out clips are judged by the clip itself and by
the mean of the four views. What has been run stands in benchmarks/results/recipes.csv, a row a run with a bit for each
clip, so that a later session adds to it and does not repeat anything; rows whose recipe or setting is not named below
were made with code that is gone again. The table gives for every recipe the error and how much lower it is than the
reference's, or another's, with a 95 % interval by a bootstrap over speakers and seeds of the pairs that both have run.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from arg import NO_AUGMENT
from benchmarks.common import ROOT, machine, open_store

if TYPE_CHECKING:
    from pandas import DataFrame

    from arg import TrainConfig
    from dataset import Store

RESULTS = ROOT / "benchmarks" / "results" / "recipes.csv"
KEY = ["setting", "epochs", "recipe", "fold", "seed"]
REFERENCE = "reference"
RESAMPLES = 2000

# The reference's: noise, shift and volume, plain cross-entropy, a mel spectrogram normalised clip by clip.
REFERENCE_FIELDS: dict[str, Any] = {
    "features.n_fft": 2048,
    "augment": dataclasses.replace(NO_AUGMENT, gain_db=6.0, shift_seconds=0.1, noise_std=0.005),
    "optim.optimizer": "adamw",
    "optim.lr": 2e-3,
    "optim.weight_decay": 0.05,
    "optim.warmup": 0.1,
    "optim.batch_size": 64,
    "optim.ema_decay": 0.0,
}
AVERAGED: dict[str, Any] = {"optim.ema_decay": 0.999}
SGD: dict[str, Any] = {**AVERAGED, "optim.optimizer": "sgd", "optim.lr": 0.05, "optim.weight_decay": 5e-4}
MUON: dict[str, Any] = {**AVERAGED, "optim.optimizer": "muon", "optim.lr": 0.02, "optim.weight_decay": 0.01}
SPEED: dict[str, Any] = {"augment.speed": 0.1}
OURS: dict[str, Any] = {**MUON, **SPEED}
MASKS: dict[str, Any] = {"augment.time_masks": 1, "augment.freq_masks": 1, "augment.mask_share": 0.1}
WIDE: dict[str, Any] = {"augment.time_masks": 2, "augment.freq_masks": 2, "augment.mask_share": 0.2}
# What each differs in from the reference's.
RECIPES: dict[str, dict[str, Any]] = {
    REFERENCE: {},
    "averaged": AVERAGED,
    "masks": {**AVERAGED, **MASKS},
    "wide masks": {**AVERAGED, **WIDE},
    "mixup": {**AVERAGED, "augment.mixup_alpha": 0.2},
    "masks, mixup": {**AVERAGED, **WIDE, "augment.mixup_alpha": 0.2},
    "label smoothing": {**AVERAGED, "optim.label_smoothing": 0.1},
    "ohem": {**AVERAGED, "optim.ohem": 0.9},
    "speed": {**AVERAGED, **SPEED},
    "half the rate": {**AVERAGED, "optim.lr": 1e-3},
    "twice the rate": {**AVERAGED, "optim.lr": 4e-3},
    "batch 32": {**AVERAGED, "optim.batch_size": 32},
    "sgd": SGD,
    "sgd, batch 32, speed": {**SGD, **SPEED, "optim.batch_size": 32},
    "muon": MUON,
    "ours": {**OURS, "features.n_fft": None},  # muon and speed, with the window that the defaults choose
    "ours, n_fft 2048": OURS,
    "ours, n_fft 1024": {**OURS, "features.n_fft": 1024},
    "ours, n_fft 512": {**OURS, "features.n_fft": 512},
    "ours, masks": {**OURS, **MASKS},
    "ours, wide masks": {**OURS, **WIDE},
    "ours, mixup": {**OURS, "augment.mixup_alpha": 0.2},
    "ours, label smoothing": {**OURS, "optim.label_smoothing": 0.1},
    "ours, ohem": {**OURS, "optim.ohem": 0.9},
    "ours, not averaged": {**OURS, "optim.ema_decay": 0.0},
    "ours, half the rate": {**OURS, "optim.lr": 0.01},
    "ours, no warm-up": {**OURS, "optim.warmup": 0.0},
    "ours, clipped at 1": {**OURS, "optim.grad_clip": 1.0},
    "ours, no shift": {**OURS, "augment.shift_seconds": 0.0},
    "ours, shift 0.2": {**OURS, "augment.shift_seconds": 0.2},
    "ours, no white noise": {**OURS, "augment.noise_std": 0.0},
    "ours, fmax 6000": {**OURS, "features.fmax": 6000.0},
    "ours, fmin 60, fmax 7600": {**OURS, "features.fmin": 60.0, "features.fmax": 7600.0},
}
SETTINGS = {
    "test_resnet-32": ("-m", "test_resnet", "-t", "32"),  # less than half a million weights: a minute a run
    "test_resnet-24x43": ("-m", "test_resnet", "--n-mels", "24", "--frames", "43"),
    "test_resnet-26x40": ("-m", "test_resnet", "--n-mels", "26", "--frames", "40"),
    "test_resnet-40x26": ("-m", "test_resnet", "--n-mels", "40", "--frames", "26"),
    "test_resnet-64": ("-m", "test_resnet", "-t", "64"),
    "resnet18-32": ("-m", "resnet18", "-t", "32"),
    "resnet18-64": ("-m", "resnet18", "-t", "64"),
    "resnet18-64-bf16": ("-m", "resnet18", "-t", "64", "--precision", "bf16"),
    "mobilenetv3-32": ("-m", "mobilenetv3_small_100", "-t", "32"),
    "mobilenetv3-64": ("-m", "mobilenetv3_small_100", "-t", "64"),
    "bcresnet3": ("-m", "bcresnet3", "--n-mels", "40", "--frames", "101"),
    "melresnet": ("-m", "melresnet", "--n-mels", "40", "--frames", "101"),
    "melresnet-bf16": ("-m", "melresnet", "--n-mels", "40", "--frames", "101", "--precision", "bf16"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipe", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--settings", nargs="+", default=["resnet18-32"], choices=SETTINGS)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--epochs", type=int, default=13, help="of the budget")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after so long")
    parser.add_argument("--against", default=REFERENCE, help="the recipe that the table compares the others with")
    parser.add_argument("-g", "--gpu")
    parser.add_argument("-w", "--work", type=Path, help="a store of the data set that is there already")
    options = parser.parse_args()
    if options.what == "run":
        run_missing(options)
    print(table(read_results(), options.against))


# ---------------------------------------------------------------------------------------------------------- runs


def run_missing(options: argparse.Namespace) -> None:
    """Run what has not been run yet, seed by seed, so that all recipes have as many whenever it is stopped."""
    wanted = [
        (setting, options.epochs, recipe, fold, seed)
        for seed in options.seeds
        for fold in options.folds
        for setting in options.settings
        for recipe in options.recipes
    ]
    done = set(read_results()[KEY].itertuples(index=False, name=None))
    missing = [one for one in wanted if one not in done]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        store = open_store(options.work, None, Path(scratch) / "made")
        for number, one in enumerate(missing):
            if time.monotonic() - began > 60 * options.minutes:
                break
            print(f"run {number + 1} of {len(missing)}: {', '.join(map(str, one))}", file=sys.stderr, flush=True)
            add_result(run_one(store, options.gpu, Path(scratch), *one))


def run_one(
    store: Store, gpu: str | None, scratch: Path, setting: str, epochs: int, recipe: str, fold: int, seed: int
) -> dict[str, Any]:
    """Train, predict what was held out, and return the row of results."""
    from arg import parse_train
    from system.devices import keep_memory, pick_device
    from training.fold import quieten, train_fold
    from training.plan import run_config

    quieten()
    keep_memory()
    argv = [*SETTINGS[setting], "--epochs", str(epochs), "--seed", str(seed), "-f", str(fold), "--optimizer", "adamw"]
    config = parse_train([*argv, "-w", str(scratch / "runs" / f"{setting}-{recipe}-{seed}")])
    config = changed(config, REFERENCE_FIELDS | RECIPES[recipe])
    started = time.monotonic()
    device = pick_device(gpu)
    trained = train_fold(config, store, run_config(config, store, fold), device)
    seconds = time.monotonic() - started
    (path,) = (config.work / "runs").glob(f"*/fold{fold}/oof.npz")
    with np.load(path) as found:
        probabilities, truth = found["probabilities"], found["target"]
    hits = {"hits": probabilities.mean(0).argmax(1) == truth, "hits_one_view": probabilities[0].argmax(1) == truth}
    return {
        **dict(zip(KEY, (setting, epochs, recipe, fold, seed), strict=True)),
        "accuracy": round(trained.scores["accuracy"], 5),
        "accuracy_one_view": round(trained.scores["accuracy_one_view"], 5),
        "seconds": round(seconds, 1),
        "folds_hash": store.folds_hash,
        "machine": machine(device),
        **{name: packed(bits) for name, bits in hits.items()},
    }


def changed(config: TrainConfig, fields: Mapping[str, Any]) -> TrainConfig:
    """`config` with other values under dotted names such as "optim.lr"."""
    for name, value in fields.items():
        if "." not in name:
            config = dataclasses.replace(config, **{name: value})
            continue
        part, field = name.split(".")
        config = dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **{field: value})})
    return config


def packed(hits: NDArray[np.bool_]) -> str:
    return base64.b85encode(np.packbits(hits).tobytes()).decode()


def unpacked(text: str, count: int) -> NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(base64.b85decode(text), np.uint8), count=count).astype(np.bool_)


def read_results() -> DataFrame:
    import pandas as pd

    if not RESULTS.exists():
        return pd.DataFrame(columns=KEY)
    return pd.read_csv(RESULTS, keep_default_na=False, dtype={"folds_hash": str, "hits": str, "hits_one_view": str})


def add_result(row: Mapping[str, Any]) -> None:
    from training.runs import update_table

    update_table(RESULTS, row, KEY)


# --------------------------------------------------------------------------------------------------------- table


def table(results: DataFrame, against: str = REFERENCE) -> str:
    """Every setting's recipes against one of them, and a JSON line."""
    if against not in set(results["recipe"]):
        raise SystemExit(f"--against {against}: no run of it in {RESULTS}")
    lines, found = [], []
    groups = Groups()
    for (setting, epochs), part in results.groupby(["setting", "epochs"], sort=True):
        lines.append(f"\n{setting}, {epochs} epochs")
        lines.append(f"{'':32}{'runs':>6}{'error, %':>10}{'lower by, %':>26}{'one view':>10}{'minutes':>9}")
        reference = part[part["recipe"] == against]
        for recipe, runs in part.groupby("recipe", sort=False):
            pairs = runs.merge(reference, on=["fold", "seed", "folds_hash"], suffixes=("", "_r"))
            low, middle, high = lower_by(pairs, groups) if len(pairs) and recipe != against else (np.nan,) * 3
            error = 100 * (1 - runs["accuracy"].mean())
            said = f"{middle:.1f} ({low:.1f} to {high:.1f})" if np.isfinite(middle) else ""
            one_view = 100 * (1 - runs["accuracy_one_view"].mean())
            minutes = runs["seconds"].mean() / 60
            lines.append(f"{recipe:32}{len(runs):>6}{error:>10.2f}{said:>26}{one_view:>10.2f}{minutes:>9.1f}")
            found.append(
                {"setting": setting, "epochs": epochs, "recipe": recipe, "runs": len(runs), "error": round(error, 3),
                 "lower_by": [round(one, 2) if np.isfinite(one) else None for one in (middle, low, high)]}
            )  # fmt: skip
    return "\n".join([*lines, json.dumps(found)])


class Groups:
    """The speakers of each fold's held-out clips, in their order; the data set is prepared once for them."""

    def __init__(self) -> None:
        self._of: dict[str, dict[int, NDArray[np.int64]]] = {}

    def __call__(self, folds_hash: str, fold: int) -> NDArray[np.int64]:
        if folds_hash not in self._of:
            from reporting.gather import held_out_clips

            with tempfile.TemporaryDirectory() as scratch:
                clips = held_out_clips(open_store(None, None, Path(scratch)).work)
            if clips.folds_hash != folds_hash:
                raise SystemExit(f"{RESULTS}: rows of other folds than those of the data set now; remove them")
            self._of[folds_hash] = {number: clips.group[clips.fold == number] for number in range(clips.folds)}
        return self._of[folds_hash][fold]


def lower_by(pairs: DataFrame, groups: Groups) -> tuple[float, float, float]:
    """By how many per cent the errors of `hits` are fewer than those of `hits_r`: low, middle, high.

    Seeds are drawn with replacement, and in each fold speakers.
    """
    generator = np.random.default_rng(0)
    seeds = sorted(set(pairs["seed"]))
    errors: list[NDArray[np.float64]] = []  # of a fold: (speakers, seeds, 2), the recipe's and the reference's
    for (fold, folds_hash), part in pairs.groupby(["fold", "folds_hash"]):
        group = groups(str(folds_hash), int(fold))
        sums = np.zeros((group.max() + 1, len(seeds), 2))
        for row in part.to_dict("records"):
            for which, name in enumerate(("hits", "hits_r")):
                wrong = ~unpacked(row[name], len(group))
                sums[:, seeds.index(row["seed"]), which] += np.bincount(group, wrong, len(sums))
        errors.append(sums[np.bincount(group) > 0])

    def reduction(sums: Sequence[NDArray[np.float64]]) -> float:
        ours, theirs = np.sum([part.sum((0, 1)) for part in sums], axis=0)
        return float(100 * (1 - ours / theirs))

    drawn = []
    for _ in range(RESAMPLES):
        chosen = generator.integers(len(seeds), size=len(seeds))
        drawn.append(reduction([part[generator.integers(len(part), size=len(part))][:, chosen] for part in errors]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), reduction(errors), float(high)


if __name__ == "__main__":
    main()
