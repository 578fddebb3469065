"""From options to the configuration of a run."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from arg import (
    FULL,
    OPTIMIZERS,
    TIMM_WEIGHTS,
    Fold,
    PreprocessConfig,
    RunConfig,
    TrainConfig,
    default_epochs,
)
from system.errors import UserError
from training.runs import fold_folder, started_run

if TYPE_CHECKING:
    import torch

    from dataset import Store


def open_store(config: TrainConfig) -> Store:
    """The store in --work, prepared first from --input-path where there is none."""
    from dataset import Store
    from preprocessing.pipeline import preprocess
    from system.paths import STORE

    if config.input_path is not None and not (config.work / STORE).exists():
        preprocess(PreprocessConfig(config.input_path, config.work))
    store = Store.open(config.work)
    if config.input_path is not None and store.root != config.input_path.resolve():
        raise UserError(f"{config.work} holds another data set, {store.root}: give this one its own --work")
    return store


def choose_folds(config: TrainConfig, store: Store) -> tuple[Fold, ...]:
    folds = config.folds or tuple(range(store.folds))
    for fold in folds:
        if fold != FULL and int(fold) >= store.folds:
            raise UserError(f"-f {fold}: the data set is split into folds 0 to {store.folds - 1}")
    return folds


def run_config(config: TrainConfig, store: Store, fold: Fold) -> RunConfig:
    labels = store.clips("train").target
    optim = config.optim
    if config.auto_epochs:  # the same for all folds, and for a dry run with a part of the clips
        optim = dataclasses.replace(optim, epochs=default_epochs(len(labels) * (store.folds - 1) // store.folds))
    run = RunConfig(
        model=config.model,
        classes=store.classes,
        class_counts=tuple(np.bincount(labels, minlength=len(store.classes)).tolist()),
        features=config.features.resolve(store.sample_rate, store.clip_samples),
        augment=config.augment,
        optim=optim,
        fold=fold,
        seed=config.seed,
        folds_hash=store.folds_hash,
        weights=TIMM_WEIGHTS if config.pretrained else str(config.weights or ""),
        limit=config.limit,
    )
    return with_affordable_optimizer(run) if config.auto_optimizer else run


def with_affordable_optimizer(run: RunConfig) -> RunConfig:
    """`run` with AdamW where Muon's step would take more arithmetic than the network's."""
    from training.tuning import muon_share

    if muon_share(run) <= 1:
        return run
    lr, weight_decay = OPTIMIZERS["adamw"]
    optim = dataclasses.replace(run.optim, optimizer="adamw", lr=lr, weight_decay=weight_decay)
    return dataclasses.replace(run, optim=optim)


def with_largest_batch(config: TrainConfig, run: RunConfig, store: Store, device: torch.device) -> RunConfig:
    """`run` with the batch size and the rate of its other folds, or else with the largest batch that fits."""
    from model import Classifier
    from training.tuning import largest_batch, scaled_rate

    optim = run.optim
    for fold in (*range(store.folds), FULL):
        before = None if config.restart else started_run(fold_folder(config, dataclasses.replace(run, fold=fold)))
        if before and not before.limit and before.optim.optimizer == optim.optimizer:
            return dataclasses.replace(run, optim=dataclasses.replace(
                optim, batch_size=before.optim.batch_size, lr=before.optim.lr))  # fmt: skip
    clips = len(store.fold_of) * (store.folds - 1) // store.folds
    size = largest_batch(Classifier(run), min(clips, run.limit or clips), device)
    lr = scaled_rate(optim.lr, optim.optimizer, size, optim.batch_size)
    print(f"--batch-size auto: {size} clips a batch, {optim.optimizer} at {lr:.3g}", flush=True)
    return dataclasses.replace(run, optim=dataclasses.replace(optim, batch_size=size, lr=lr))


def with_own_batch(config: TrainConfig, run: RunConfig) -> RunConfig:
    """Under --batch-size auto, `run` with the batch size and the rate that its fold was begun with, if it was."""
    before = started_run(fold_folder(config, run)) if config.auto_batch else None
    if before is None or (before.limit, before.optim.optimizer) != (run.limit, run.optim.optimizer):
        return run
    optim = dataclasses.replace(run.optim, batch_size=before.optim.batch_size, lr=before.optim.lr)
    return dataclasses.replace(run, optim=optim)
