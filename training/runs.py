"""Runs on disk: what is trained, with which settings, and what is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arg import FULL, RunConfig, TrainConfig, run_name
from system.errors import UserError
from system.files import remove_leftovers, replacing
from system.locks import locked
from system.options import flat, to_plain


def fold_folder(config: TrainConfig, run: RunConfig) -> Path:
    name = run_name(run.model, run.features.n_mels, run.features.frames, config.tag)
    return config.work / "runs" / name / f"fold{run.fold}"


def standing(folder: Path, tell: bool = False, tensors: bool = False) -> dict[str, Any] | None:
    """A fold's newest checkpoint, with its "path" and, if asked for, its tensors; None where nothing was trained.

    That is last.ckpt or, where it is damaged, previous.ckpt. UserError where that does not help.
    """
    from model import read_checkpoint, read_config
    from system.paths import LAST, PREVIOUS

    read = read_checkpoint if tensors else read_config

    path, before = folder / LAST, folder / PREVIOUS
    if not path.exists():
        return None
    try:
        return {**read(path), "path": path}
    except UserError as error:
        try:
            checkpoint = {**read(before), "path": before}
        except UserError:
            raise UserError(f"{error}; --restart trains the fold again") from error
        if tell:
            print(f"warning: {error}; {before.name} takes its place", file=sys.stderr, flush=True)
        return checkpoint


def started_run(folder: Path, finished: bool = False) -> RunConfig | None:
    """What was trained in a fold's folder, or was so to the end; None where nothing that can be read was."""
    try:
        checkpoint = standing(folder)
    except UserError:
        return None
    if checkpoint is None or (finished and not (checkpoint["finished"] and has_results(folder, checkpoint["config"]))):
        return None
    run: RunConfig = checkpoint["config"]
    return run


def finished_run(folder: Path) -> RunConfig | None:
    return started_run(folder, finished=True)


def warn_of_stale_runs(work: Path) -> None:
    """Print which folds were trained on other folds or labels than the store in `work` has now."""
    from dataset import Store
    from system.paths import LAST

    runs, now = work / "runs", Store.open(work).folds_hash
    folders = sorted(path.parent for path in runs.glob(f"*/fold*/{LAST}"))
    before = [(folder.relative_to(runs).as_posix(), started_run(folder)) for folder in folders]
    if stale := [name for name, run in before if run and run.folds_hash != now]:
        shown = ", ".join(stale[:5]) + (", ..." if len(stale) > 5 else "")
        print(f"warning: stale, as folds or labels have changed since they were trained: {shown}; train.py --restart "
              "trains them again, --tag NAME beside them")  # fmt: skip


def has_results(folder: Path, run: RunConfig) -> bool:
    """Whether the predictions of what the fold held out are there."""
    return run.fold == FULL or all((folder / name).exists() for name in ("oof.npz", "oof.csv"))


def must_train(run: RunConfig, folder: Path, restart: bool) -> bool:
    """False where the fold is finished with these settings; UserError where it, or another fold, was begun with others.

    A fold that was begun with these settings is finished with them, whatever the other folds have.
    """
    if restart:
        return True
    checkpoint = standing(folder)
    if checkpoint is None or (checkpoint["config"].limit and not run.limit):
        refuse_another_recipe(run, folder)
        return True  # nothing there, or a dry run
    before: RunConfig = checkpoint["config"]
    if before == run:
        if not checkpoint["finished"] or not has_results(folder, run):
            return True
        print(f"{folder}: trained already; --restart trains it again")
        return False
    if before.folds_hash != run.folds_hash:
        what = "stale, trained on other folds or labels"
    else:
        what = f"{'trained' if checkpoint['finished'] else 'begun'} with other settings ({changes(before, run)})"
    raise UserError(f"{folder}: {what}; --restart trains it again, --tag NAME beside it")


def settings_of(run: RunConfig) -> dict[str, Any]:
    """All that makes a run's recipe, by dotted names: the same for each of its folds."""
    return {key: value for key, value in flat(to_plain(run)).items() if key not in ("fold", "folds_hash")}


def changes(before: RunConfig, after: RunConfig) -> str:
    """The settings in which two runs differ, as "optim.epochs 2 -> 1"; "" where in none."""
    old, new = settings_of(before), settings_of(after)
    pairs = {key: (old.get(key), new.get(key)) for key in new | old}
    return ", ".join(f"{key} {a} -> {b}" for key, (a, b) in pairs.items() if a != b)


def mixed_settings(runs: Iterable[RunConfig]) -> str:
    """In which settings the folds of a run differ, in words; "" where they are one recipe."""
    settings = {run.fold: settings_of(run) for run in runs}
    values: dict[str, dict[str, list[str]]] = {}  # by setting: value, folds
    for key in {key: None for found in settings.values() for key in found}:
        for fold, found in settings.items():
            values.setdefault(key, {}).setdefault(str(found.get(key)), []).append(str(fold))
    differing = {key: folds for key, folds in values.items() if len(folds) > 1}
    return "; ".join(
        f"folds differ in {key}: " + ", ".join(f"{value} in fold {','.join(which)}" for value, which in folds.items())
        for key, folds in differing.items()
    )


def usual_recipe(runs: Sequence[RunConfig]) -> RunConfig:
    """The fold whose settings most of the folds have."""
    return max(runs, key=lambda run: sum(not changes(run, other) for other in runs))


def refuse_another_recipe(run: RunConfig, folder: Path) -> None:
    """UserError where another fold of the run has other settings; dry runs and what is stale do not count.

    Neither does "full": it holds nothing out and is used by itself, and may take more epochs than the folds did.
    """
    for path in sorted(folder.parent.glob("fold*")):
        other = started_run(path) if path != folder and FULL not in (run.fold, path.name.removeprefix("fold")) else None
        if other and (other.limit, other.folds_hash) == (run.limit, run.folds_hash) and changes(other, run):
            raise UserError(
                f"{folder}: fold {other.fold} of this run has other settings ({changes(other, run)}); "
                f"--tag NAME trains a run beside it, --restart -f {other.fold},{run.fold} both folds again"
            )


def update_table(path: Path, row: Mapping[str, Any], key: Sequence[str]) -> None:
    """Put `row` into a CSV, in place of the rows with the same values under `key`; safe with several writers."""
    import pandas as pd

    with locked(path.with_name(f".{path.name}.lock")):
        table = pd.DataFrame([{name: str(value) for name, value in row.items()}])
        if path.exists():
            old = pd.read_csv(path, dtype=str, keep_default_na=False)
            same = np.logical_and.reduce([old[name] == str(row[name]) for name in key])
            table = pd.concat([old[~same], table]).fillna("").sort_values(list(key))
        remove_leftovers(path)
        with replacing(path) as beside:
            table.to_csv(beside, index=False, lineterminator="\n")
