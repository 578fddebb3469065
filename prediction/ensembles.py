"""The ensemble: networks of several runs and folds, and how their probabilities are combined."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from arg import FULL, Fold, InferenceConfig, RunConfig
from system.errors import UserError
from system.paths import LAST, STORE
from training.runs import mixed_settings
from util import soft_vote, temper, weighted_vote

if TYPE_CHECKING:
    from model import Classifier


@dataclass(frozen=True)
class Ensemble:
    """The networks, the hashes of the checkpoints they are from, and how they are put together."""

    models: list[Classifier]
    digests: list[str]
    views: int | list[int | str]  # of each clip: numbers and names, or 0 to this, exclusive
    weights: NDArray[np.float64] | None = None  # (models, views), of a weighted ensemble; None: all alike
    temperature: float = 1.0

    @property
    def config(self) -> RunConfig:
        """What the first network was trained with; the classes and the window are the same for all."""
        return self.models[0].config

    @property
    def classes(self) -> tuple[str, ...]:
        return self.config.classes

    def mean(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """(models, views, B, classes) -> (B, classes): the mean, or with weights that, and the temperature."""
        if self.weights is None:
            return soft_vote(probabilities.mean(1))
        members = probabilities.reshape(-1, *probabilities.shape[2:])
        return temper(weighted_vote(members, self.weights.ravel()), self.temperature)


def load_ensemble(config: InferenceConfig) -> Ensemble:
    """Every fold of every run, checked to belong together. UserError names what is missing or does not.

    The runs of a weighted ensemble are those of ensemble.json.
    """
    from model import read_checkpoint
    from prediction.clips import file_digest
    from prediction.spec import read_ensemble
    from transform import VIEWS

    spec = read_ensemble(config.work) if config.ensemble == "weighted" else None
    runs, folds = (spec.runs, config.folds or spec.folds) if spec else (config.runs, config.folds)
    folds = folds or all_folds(config.work, runs)
    paths = [path for run in runs for path in checkpoint_paths(config, run, folds)]
    models: list[Classifier] = []
    of_run: dict[Path, list[RunConfig]] = {}  # by the run's folder, what its folds were trained with
    for path in paths:
        checkpoint = read_checkpoint(path)
        run: RunConfig = checkpoint["config"]
        check_usable(config, path, checkpoint)
        check_together(path, run, paths[0], models[0].config if models else run)
        of_run.setdefault(path.parents[1], []).append(run)
        check_one_run(path, run, of_run[path.parents[1]][0])
        models.append(prepared(path, checkpoint))
    for folder, configs in of_run.items():
        if mixed := mixed_settings(configs):
            print(f"warning: {folder.name}: {mixed}; they are averaged all the same", file=sys.stderr)
    if spec:
        spec.check_trained_on(config.work, models[0].config)
    digests = [file_digest(path) for path in paths]
    if spec is None:
        numbered = VIEWS if config.tta else 1
        return Ensemble(models, digests, [*range(numbered), *config.views] if config.views else numbered)
    weights = spec.network_weights(len(folds), config.tta)
    return Ensemble(models, digests, weights.shape[1], weights, spec.temperature)


def check_usable(config: InferenceConfig, path: Path, checkpoint: dict[str, Any]) -> None:
    """UserError where a fold is not finished or has features of another size than asked for."""
    from model import read_config

    run: RunConfig = checkpoint["config"]
    last = checkpoint if config.checkpoint == "last" else read_config(path.with_name(LAST))
    if not last["finished"]:
        raise UserError(f"{path}: training has not finished; run its train.py command again")
    size = run.features.n_mels, run.features.frames
    if config.size and config.size != size:
        made, asked = ("x".join(map(str, pair)) for pair in (size, config.size))
        raise UserError(f"{path}: made for {made} features, not {asked}; see -t")
    if run.limit:
        print(f"warning: {path}: a dry run, trained on {run.limit} clips", file=sys.stderr)


def check_together(path: Path, run: RunConfig, other_path: Path, other: RunConfig) -> None:
    """UserError where the networks of two checkpoints cannot be averaged."""
    if run.classes != other.classes:
        raise UserError(f"{path}: knows other classes than {other_path}; give each data set its own --work")
    if run.folds_hash != other.folds_hash:
        raise UserError(f"{path}: stale, trained on other folds or labels than {other_path}; train it again")
    window, needed = ((r.features.sample_rate, r.features.clip_samples) for r in (run, other))
    if window != needed:
        raise UserError(
            f"{path}: takes {window[1]} samples at {window[0]} Hz, {other_path} {needed[1]} at {needed[0]} Hz"
        )


def check_one_run(path: Path, run: RunConfig, other: RunConfig) -> None:
    """UserError where two folds under one name are of different runs."""
    if (run.model, run.features, run.limit) != (other.model, other.features, other.limit):
        raise UserError(f"{path}: another network, feature or --limit than in the run's other folds; train it again")


def prepared(path: Path, checkpoint: dict[str, Any]) -> Classifier:
    """The classifier of a checkpoint, its batch normalisations folded into the convolutions."""
    import torch

    from model import fold_batch_norm, restore_classifier

    model = restore_classifier(path, checkpoint)
    features, draw = model.config.features, torch.Generator().manual_seed(0)
    fold_batch_norm(model.net, torch.randn(2, 1, features.n_mels, features.frames, generator=draw))
    return model


def checkpoint_paths(config: InferenceConfig, run: str, folds: Sequence[Fold]) -> list[Path]:
    """One checkpoint a fold. UserError where the run or any fold of it is missing: it names those there are."""
    runs = config.work / "runs"
    if not (runs / run).is_dir():
        have = sorted(path.name for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else []
        raise UserError(f"no run {run} in {runs}; there is {', '.join(have) or 'none: train one with train.py'}")
    name = f"{config.checkpoint}.ckpt"
    there = [fold for fold in trained_folds(runs / run) if (runs / run / f"fold{fold}" / name).exists()]
    if missing := [fold for fold in folds if fold not in there]:
        asked, usable = (",".join(map(str, some)) for some in (missing, there))
        use = f", or use those there are: -f {usable}{',' if usable.isdecimal() else ''}" if there else ""
        raise UserError(f"{runs / run}: no {name} for fold {asked}; train with -f {asked}{use}")
    return [runs / run / f"fold{fold}" / name for fold in folds]


def all_folds(work: Path, runs: Sequence[str]) -> tuple[Fold, ...]:
    """Every fold of the store or, without one, of the runs' folders; "full" where there is nothing else."""
    from preprocessing.store import load_store

    if (work / STORE).exists():
        return tuple(range(load_store(work)["folds"]))
    folds = [fold for run in runs for fold in trained_folds(work / "runs" / run)]
    most = max((fold for fold in folds if fold != FULL), key=int, default=-1)
    return tuple(range(int(most) + 1)) or (FULL,)


def trained_folds(run: Path) -> list[Fold]:
    """The folds that a run's folder holds, in order, "full" last."""
    names = [path.name.removeprefix("fold") for path in run.glob("fold*")]
    return [*sorted(int(name) for name in names if name.isdecimal()), *(name for name in names if name == FULL)]
