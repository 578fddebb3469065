"""Runs as train.py leaves them, made without training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from arg import FULL, NO_AUGMENT, FeatureOptions, Fold, OptimConfig, RunConfig
from dataset import Store
from model import Classifier, save_checkpoint
from transform import VIEWS

MODEL = "test_resnet"


def make(
    work: Path,
    right: int,
    tag: str = "",
    folds: tuple[Fold, ...] = (0, 1),
    size: int = 16,
    model: str = MODEL,
    weights: bool = False,
    finished: bool = True,
    **changes: Any,
) -> Path:
    """A run as train.py leaves it, whose folds are right on so many of their first held-out clips."""
    store = Store.open(work)
    clips = store.clips("train")
    features = FeatureOptions(size=size).resolve(store.sample_rate, store.clip_samples)
    counts = tuple(np.bincount(clips.target).tolist())
    first = RunConfig(model, store.classes, counts, features, NO_AUGMENT, OptimConfig(), 0, 0, store.folds_hash)
    folder = work / "runs" / (f"{model}-{size}x{size}" + (f"-{tag}" if tag else ""))
    for fold in folds:
        run = dataclasses.replace(first, **{"fold": fold, **changes})
        state = Classifier(run).state_dict() if weights else {}
        save_checkpoint(folder / f"fold{fold}" / "last.ckpt", run, state, finished)
        if fold == FULL or not finished:
            continue
        held_out = np.flatnonzero(store.fold_of == fold)
        truth = clips.target[held_out].astype(np.int64)
        answer = np.where(np.arange(len(truth)) < right, truth, (truth + 1) % len(store.classes))
        probabilities = np.broadcast_to(
            np.eye(len(store.classes), dtype=np.float32)[answer] * 0.7 + 0.1, (VIEWS, len(truth), len(store.classes))
        )
        names = np.array(clips.fname)[held_out]
        np.savez(folder / f"fold{fold}" / "oof.npz", fname=names, target=truth, probabilities=probabilities)
    return folder
