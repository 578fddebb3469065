"""Reading what was held out: the training clips of a store, and the out-of-fold predictions of every run on them."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from arg import FULL, RunConfig, TrainConfig, run_name
from system.errors import UserError
from system.options import command_line
from training.runs import changes, mixed_settings, standing, usual_recipe
from util import uneven

if TYPE_CHECKING:
    from pandas import DataFrame

Ints = NDArray[np.int64]
COMPLETE, INCOMPLETE, STALE, ON_ALL = "complete", "incomplete", "stale", "on all clips"


@dataclass(frozen=True)
class HeldOut:
    """The clips that are held out once each: a store's training clips, in its order."""

    work: Path
    root: Path  # of the data set
    classes: tuple[str, ...]
    folds: int
    folds_hash: str
    sample_rate: int  # Hz
    clip_samples: int
    table: DataFrame  # their rows of clips.csv, and with them the names
    truth: Ints  # (n,) index of the given label
    fold: Ints  # (n,)
    group: Ints  # (n,) 0 to the number of groups - 1, as `Clips.group`
    group_names: tuple[str, ...]  # "" for such a clip
    grouped: bool  # whether there are speakers
    test_clips: int  # in the store

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def uneven(self) -> bool:
        """Whether accuracy is mostly that of the largest classes, see `util.uneven`."""
        return uneven(np.bincount(self.truth))

    def loud_over_quiet(self) -> NDArray[np.float64]:
        """About each clip's signal-to-noise ratio, dB, (n,); see `audit.loud_over_quiet_db`."""
        from preprocessing.audit import loud_over_quiet_db
        from preprocessing.store import map_waves
        from system.paths import WAVES

        offset, length = (self.table[name].to_numpy(np.int64) for name in ("offset", "length"))
        return loud_over_quiet_db(map_waves(self.work / WAVES), offset, length, self.sample_rate)


def held_out_clips(work: Path) -> HeldOut:
    """The training clips of the store in `work`. UserError where there is no store."""
    from dataset import Store
    from preprocessing.folds import dependent
    from preprocessing.store import load_clips

    store = Store.open(work)
    everything = load_clips(work)
    table = everything[everything["split"] == "train"].reset_index(drop=True)
    clips = store.clips("train")
    first, group = np.unique(clips.group, return_index=True, return_inverse=True)[1:]
    names = dependent(table)[first].tolist()
    return HeldOut(
        work=work,
        root=store.root,
        classes=store.classes,
        folds=store.folds,
        folds_hash=store.folds_hash,
        sample_rate=store.sample_rate,
        clip_samples=store.clip_samples,
        table=table,
        truth=clips.target.astype(np.int64),
        fold=store.fold_of.astype(np.int64),
        group=group,
        group_names=tuple(names),
        grouped=any(names),
        test_clips=int((everything["split"] == "test").sum()),
    )


@dataclass(frozen=True)
class Run:
    """The folds of one network, size and tag: a folder under runs/."""

    name: str
    status: str  # COMPLETE, INCOMPLETE, STALE, or ON_ALL where only fold "full" is trained
    note: str  # why it is not complete, or what else is to be known
    command: str  # completes it; "" where it is complete
    folds: tuple[int, ...]  # whose predictions are there, as trained on the store's folds and labels
    rows: NDArray[np.bool_]  # (n,) the clips that they held out
    probabilities: NDArray[np.float32]  # (views, n, C), zero where not `rows`; (0, n, C) where there are none
    history: dict[int, list[dict[str, float]]]  # by fold
    seconds: float | None  # of training, all folds
    config: RunConfig | None  # of the first of `folds`; None where there are none

    @property
    def mean(self) -> NDArray[np.float32]:
        """(n, C), over the views."""
        return self.probabilities.mean(0)


def find_runs(clips: HeldOut, only: Sequence[str] = ()) -> list[Run]:
    """Every run under runs/, or those in `only`, by name. UserError where there is none, or one in `only` is not."""
    folder = clips.work / "runs"
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if unknown := [name for name in only if name not in names]:
        raise UserError(f"no run {unknown[0]} in {folder}; there is {', '.join(names) or 'none'}")
    found = (read_run(clips, name) for name in names if name in only or not only)
    runs = [run for run in found if run is not None]
    if not runs:
        raise UserError(f"{folder}: no run yet; train one with {command_line(TrainConfig(work=clips.work))}")
    return runs


def read_run(clips: HeldOut, name: str) -> Run | None:
    """What a run's folds have predicted of `clips`; None where no fold of it was ever begun."""
    folder = clips.work / "runs" / name
    parts = [(fold, _read_fold(clips, folder / f"fold{fold}", fold)) for fold in range(clips.folds)]
    untrained = [fold for fold, part in parts if part is None]
    on_all = len(untrained) == clips.folds
    if on_all and not (folder / f"fold{FULL}").is_dir():
        return None
    good = {fold: part for fold, part in parts if part is not None and part.probabilities is not None}
    views = min((part.probabilities.shape[0] for part in good.values()), default=0)
    probabilities = np.zeros((views, len(clips), len(clips.classes)), np.float32)
    rows = np.zeros(len(clips), np.bool_)
    for fold, part in good.items():
        probabilities[:, clips.fold == fold] = part.probabilities[:views]
        rows |= clips.fold == fold
    missing = {fold for fold in range(clips.folds) if fold not in good}
    troubled: dict[str, list[int]] = {}
    for fold, found in parts:
        if found is not None and found.problem:
            troubled.setdefault(found.problem, []).append(fold)
    problems = [f"fold {_joined(which)}: {problem}" for problem, which in troubled.items()]
    stale = any(part is not None and part.stale for _, part in parts)
    if untrained:
        problems.append("nothing is held out" if on_all else f"fold {_joined(untrained)} not trained")
    configs = [part.config for _, part in parts if part is not None and part.config is not None]
    recipes = [one for one in configs if not one.limit and one.folds_hash == clips.folds_hash]
    if mixed := mixed_settings(recipes):
        problems.append(mixed)
        configs.insert(0, usual := usual_recipe(recipes))
        missing.update(int(one.fold) for one in recipes if changes(usual, one))
    return Run(
        name=name,
        status=ON_ALL if on_all else STALE if stale else INCOMPLETE if missing else COMPLETE,
        note="; ".join(problems),
        command=_command(clips, name, configs, sorted(missing), stale or bool(mixed)) if missing and configs else "",
        folds=tuple(good),
        rows=rows,
        probabilities=probabilities,
        history={fold: part.history for fold, part in parts if part is not None and part.history},
        seconds=sum(part.seconds for part in good.values()) if good else None,
        config=next((part.config for part in good.values()), None),
    )


@dataclass(frozen=True)
class _Fold:
    """What a fold's folder holds."""

    probabilities: Any = None  # (views, clips held out, C); None where they are not to be used
    problem: str = ""
    stale: bool = False
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    config: RunConfig | None = None  # None where the checkpoint cannot be read


def _read_fold(clips: HeldOut, folder: Path, fold: int) -> _Fold | None:
    try:
        checkpoint = standing(folder)
    except UserError:
        return _Fold(problem="its checkpoint cannot be read", stale=True)
    if checkpoint is None:
        return None
    config: RunConfig = checkpoint["config"]
    if config.folds_hash != clips.folds_hash or config.classes != clips.classes:
        return _Fold(problem="trained on other folds or labels", stale=True, config=config)
    found = _Fold(history=checkpoint.get("history", []), config=config)
    if not checkpoint["finished"]:
        return replace(found, problem=f"{checkpoint.get('epoch', 0)} of {config.optim.epochs} epochs done")
    if config.limit:
        return replace(found, problem=f"a dry run on {config.limit} clips")
    held_out = clips.fold == fold
    try:
        with np.load(folder / "oof.npz") as part:
            probabilities, fname, target = part["probabilities"], part["fname"], part["target"]
    except FileNotFoundError:
        return replace(found, problem="oof.npz is missing")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, EOFError):
        return replace(found, problem=f"{folder / 'oof.npz'} is damaged: delete it first, and it is made again")
    shape = (int(held_out.sum()), len(clips.classes))
    if (
        probabilities.ndim != 3
        or probabilities.shape[1:] != shape
        or not np.array_equal(target, clips.truth[held_out])
        or not np.array_equal(fname.astype(object), clips.table["fname"].to_numpy(object)[held_out])
    ):
        return replace(found, problem="oof.npz is of other clips", stale=True)
    if not np.isfinite(probabilities).all():
        return replace(found, problem="its probabilities are not numbers", stale=True)
    return replace(found, probabilities=probabilities, seconds=float(checkpoint.get("seconds", 0.0)))


def _command(clips: HeldOut, name: str, configs: Sequence[RunConfig], missing: Sequence[int], restart: bool) -> str:
    """The train.py command for the folds that are missing, with the first settings that are not of a dry run.

    "" where extensions were used: a run has their names alone, not where they are.
    """
    from training.resolve import options_of

    run = next((config for config in configs if not config.limit), configs[0])
    if run.extensions:
        return ""
    tag = name.removeprefix(run_name(run.model, run.features.n_mels, run.features.frames)).removeprefix("-")
    return command_line(options_of(run, work=clips.work, tag=tag, folds=tuple(missing), restart=restart))


def _joined(folds: Sequence[int]) -> str:
    return ",".join(map(str, folds))
