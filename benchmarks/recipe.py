"""Training recipes against the reference's, on the same clips for as many epochs.

    python -m benchmarks.recipe run --settings test_resnet-32 --seeds 0 1
    python -m benchmarks.recipe run --settings test_resnet-32 --name "ours, mixup" -- --mixup 0.2
    python -m benchmarks.recipe table                     # of all runs so far
    python -m benchmarks.recipe table --against ours

Each run trains one fold of ../shared/data/gsc12 with one seed; its held-out clips are judged by the clip itself and by
the mean of the four views. benchmarks/results/recipes.csv has a row for each run, with a bit for each clip; a run that
is in it is not repeated. Rows with a recipe or setting that is not named below are finished studies: docs/recipe.md has
their findings. The table gives the error of every recipe and how much lower it is than the reference's, or another's,
with a 95 % interval by a bootstrap over speakers and seeds of the pairs that both have run.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import ROOT, machine, open_store

if TYPE_CHECKING:
    from pandas import DataFrame

    from dataset import Store

RESULTS = ROOT / "benchmarks" / "results" / "recipes.csv"
KEY = ["setting", "epochs", "recipe", "fold", "seed"]
REFERENCE, OURS = "reference", "ours"
RESAMPLES = 2000

# Options of train.py; all else is what it does by default.
RECIPES = {
    REFERENCE: ("--optimizer", "adamw", "--speed", "0", "--ema", "0", "--n-fft", "2048"),
    OURS: ("--optimizer", "muon"),
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
    "bcresnet3": ("-m", "bcresnet3", "--n-mels", "40", "--frames", "101"),
    "melresnet": ("-m", "melresnet", "--n-mels", "40", "--frames", "101"),
    "melresnet-bf16": ("-m", "melresnet", "--n-mels", "40", "--frames", "101", "--precision", "bf16"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipe", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--settings", nargs="+", default=["resnet18-32"], choices=SETTINGS)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument(
        "--name", help=f"in place of --recipes: a name for {OURS!r} with the options of train.py after --"
    )
    parser.add_argument("--epochs", type=int, default=13, help="of the budget")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after so long")
    parser.add_argument("--against", default=REFERENCE, help="the recipe that the table compares the others with")
    parser.add_argument("-g", "--gpu")
    parser.add_argument("-w", "--work", type=Path, help="an existing store of the data set")
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    options, train = parser.parse_args(words[:split]), words[split + 1 :]
    if bool(options.name) != bool(train) or options.name in RECIPES:
        parser.error("options of train.py after -- need a --name of their own, and a --name needs such options")
    recipes = {name: RECIPES[name] for name in options.recipes}
    if options.name:
        recipes = {options.name: (*RECIPES[OURS], *train)}
    if options.what == "run":
        run_missing(options, recipes)
    print(table(read_results(), options.against, options.work))


# ---------------------------------------------------------------------------------------------------------- runs


def run_missing(options: argparse.Namespace, recipes: Mapping[str, Sequence[str]]) -> None:
    """Run what has not been run yet, seed by seed: whenever it is stopped, all recipes have as many runs."""
    wanted = [
        (setting, options.epochs, recipe, fold, seed)
        for seed in options.seeds
        for fold in options.folds
        for setting in options.settings
        for recipe in recipes
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
            add_result(run_one(store, options.gpu, Path(scratch), recipes[one[2]], one))


def run_one(
    store: Store, gpu: str | None, scratch: Path, recipe: Sequence[str], key: tuple[str, int, str, int, int]
) -> dict[str, Any]:
    """Train, predict what was held out, and return the row of results."""
    from arg import parse_train
    from system.devices import keep_memory, pick_device
    from training.fold import quieten, train_fold
    from training.resolve import resolve

    quieten()
    keep_memory()
    setting, epochs, name, fold, seed = key
    argv = [*SETTINGS[setting], *recipe, "--epochs", str(epochs), "--seed", str(seed), "-f", str(fold)]
    config = parse_train([*argv, "-w", str(scratch / "runs" / f"{setting}-{name}-{seed}")])
    started = time.monotonic()
    device = pick_device(gpu)
    trained = train_fold(config, store, resolve(config, store, fold), device)
    seconds = time.monotonic() - started
    (path,) = (config.work / "runs").glob(f"*/fold{fold}/oof.npz")
    with np.load(path) as found:
        probabilities, truth = found["probabilities"], found["target"]
    hits = {"hits": probabilities.mean(0).argmax(1) == truth, "hits_one_view": probabilities[0].argmax(1) == truth}
    return {
        **dict(zip(KEY, key, strict=True)),
        "accuracy": round(trained.scores["accuracy"], 5),
        "accuracy_one_view": round(trained.scores["accuracy_one_view"], 5),
        "seconds": round(seconds, 1),
        "folds_hash": store.folds_hash,
        "machine": machine(device),
        **{name: packed(bits) for name, bits in hits.items()},
    }


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


def table(results: DataFrame, against: str = REFERENCE, work: Path | None = None) -> str:
    """Every setting's recipes against one of them, and a JSON line."""
    if against not in set(results["recipe"]):
        raise SystemExit(f"--against {against}: no run of it in {RESULTS}")
    lines, found = [], []
    groups = Groups(work)
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

    def __init__(self, work: Path | None) -> None:
        self._work = work
        self._of: dict[str, dict[int, NDArray[np.int64]]] = {}

    def __call__(self, folds_hash: str, fold: int) -> NDArray[np.int64]:
        if folds_hash not in self._of:
            from reporting.gather import held_out_clips

            with tempfile.TemporaryDirectory() as scratch:
                clips = held_out_clips(open_store(self._work, None, Path(scratch)).work)
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
