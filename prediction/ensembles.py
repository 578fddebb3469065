"""The ensemble: networks of several runs and folds, and how their probabilities are combined."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from arg import InferenceConfig, RunConfig
from system.errors import UserError
from util import soft_vote, temper, weighted_vote

if TYPE_CHECKING:
    from model import Classifier


@dataclass(frozen=True)
class Ensemble:
    """The networks, the hashes of the checkpoints they are from, and how they are put together."""

    models: list[Classifier]
    digests: list[str]
    views: int  # of each clip: 0 to this, exclusive
    weights: NDArray[np.float64] | None = None  # (models, views), of a weighted ensemble; None: all alike
    temperature: float = 1.0

    @property
    def classes(self) -> tuple[str, ...]:
        return self.models[0].config.classes

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
    import torch

    from model import fold_batch_norm, read_checkpoint, restore_classifier
    from prediction.clips import file_digest
    from prediction.spec import read_ensemble

    spec = read_ensemble(config.work) if config.ensemble == "weighted" else None
    if spec:
        config = dataclasses.replace(config, runs=spec.runs, folds=config.folds or spec.folds)
    paths = [path for run in config.runs for path in checkpoint_paths(config, run)]
    checkpoints = [read_checkpoint(path) for path in paths]
    first: RunConfig = checkpoints[0]["config"]
    seen: dict[Path, RunConfig] = {}  # by run, its first fold's
    for path, checkpoint in zip(paths, checkpoints, strict=True):
        run: RunConfig = checkpoint["config"]
        features = run.features
        last = checkpoint if config.checkpoint == "last" else read_checkpoint(path.with_name("last.ckpt"))
        if not last["finished"]:
            raise UserError(f"{path}: training has not finished; run its train.py command again")
        if config.size and config.size != (features.n_mels, features.frames):
            asked = "x".join(map(str, config.size))
            raise UserError(f"{path}: made for {features.n_mels}x{features.frames} features, not {asked}; see -t")
        if run.limit:
            print(f"warning: {path}: a dry run, trained on {run.limit} clips", file=sys.stderr)
        if run.classes != first.classes:
            raise UserError(f"{path}: knows other classes than {paths[0]}; give each data set its own --work")
        if run.folds_hash != first.folds_hash:
            raise UserError(f"{path}: stale, trained on other folds or labels than {paths[0]}; train it again")
        window, needed = ((f.sample_rate, f.clip_samples) for f in (features, first.features))
        if window != needed:
            raise UserError(
                f"{path}: takes {window[1]} samples at {window[0]} Hz, {paths[0]} {needed[1]} at {needed[0]}"
            )
        sibling = seen.setdefault(path.parents[1], run)
        if (run.model, features, run.limit) != (sibling.model, sibling.features, sibling.limit):
            raise UserError(
                f"{path}: another network, feature or --limit than in the run's other folds; train it again"
            )
    if spec:
        spec.check_trained_on(config.work, first)
    models = [restore_classifier(path, checkpoint) for path, checkpoint in zip(paths, checkpoints, strict=True)]
    for model in models:
        features, draw = model.config.features, torch.Generator().manual_seed(0)
        fold_batch_norm(model.net, torch.randn(2, 1, features.n_mels, features.frames, generator=draw))
    digests = [file_digest(path) for path in paths]
    if spec is None:
        return Ensemble(models, digests, views_of(config))
    weights = spec.network_weights(len(config.folds), config.tta)
    return Ensemble(models, digests, weights.shape[1], weights, spec.temperature)


def checkpoint_paths(config: InferenceConfig, run: str) -> list[Path]:
    """One checkpoint a fold. UserError where the run or any fold of it is missing."""
    runs = config.work / "runs"
    if not (runs / run).is_dir():
        have = sorted(path.name for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else []
        raise UserError(f"no run {run} in {runs}; there is {', '.join(have) or 'none: train one with train.py'}")
    paths = {fold: runs / run / f"fold{fold}" / f"{config.checkpoint}.ckpt" for fold in config.folds}
    missing = [str(fold) for fold, path in paths.items() if not path.exists()]
    if missing:
        folds = ",".join(missing)
        raise UserError(f"{runs / run}: no {config.checkpoint}.ckpt for fold {folds}; train with -f {folds}")
    return list(paths.values())


def views_of(config: InferenceConfig) -> int:
    from transform import VIEWS

    return VIEWS if config.tta else 1
