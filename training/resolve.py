"""From options to the configuration of a run: what the program chooses by itself, it chooses here."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arg import (
    AUGMENT_PRESETS,
    FULL,
    OPTIMIZERS,
    TIMM_WEIGHTS,
    AugmentConfig,
    AugmentOptions,
    FeatureConfig,
    FeatureOptions,
    Fold,
    OptimConfig,
    OptimOptions,
    PreprocessConfig,
    RunConfig,
    SizeOptions,
    TrainConfig,
    default_epochs,
)
from system.devices import pick_precision
from system.errors import UserError
from system.extensions import REGISTERED, load, with_options
from system.options import to_plain
from training.runs import fold_folder, started_run
from util import class_weights

if TYPE_CHECKING:
    import torch

    from dataset import Store

BATCH_SIZE = OptimConfig.batch_size  # that rates are meant for


def open_store(config: TrainConfig) -> Store:
    """The store in --work, prepared first from --input-path where there is none."""
    from dataset import Store
    from preprocessing.pipeline import preprocess
    from preprocessing.store import SAMPLE_MISFIT, load_store
    from system.paths import STORE

    if config.input_path is not None and not (config.work / STORE).exists():
        preprocess(PreprocessConfig(config.input_path, config.work))
    store = Store.open(config.work)
    if misfit := load_store(config.work).get(SAMPLE_MISFIT):
        print(f"warning: {misfit}", file=sys.stderr)
    if config.input_path is not None and store.root != config.input_path.resolve():
        raise UserError(f"{config.work} holds another data set, {store.root}: give this one its own --work")
    return store


def choose_folds(config: TrainConfig, store: Store) -> tuple[Fold, ...]:
    folds = config.folds or tuple(range(store.folds))
    for fold in folds:
        if fold != FULL and int(fold) >= store.folds:
            raise UserError(f"-f {fold}: the data set is split into folds 0 to {store.folds - 1}")
    return folds


def resolve(config: TrainConfig, store: Store, fold: Fold, device: torch.device | None = None) -> RunConfig:
    """The run that options ask for: every setting that is not given gets its value here, and nowhere else.

    All but the batch size of --batch-size auto depends on the options and the store alone, so that every fold and every
    machine comes to the same. That one is the largest that fits on `device`, unless another fold of the run was begun
    with one, which is kept.
    """
    if config.model is None:
        raise UserError("-m: name the network, or have training.plan fill what is left open")
    asked, labels = config.optim, store.clips("train").target
    counts = tuple(np.bincount(labels, minlength=len(store.classes)).tolist())
    settings: dict[str, Any] = dict(vars(asked))
    settings["batch_size"] = BATCH_SIZE if asked.batch_size in (None, "auto") else asked.batch_size
    if asked.epochs is None:  # the same for all folds, and for a dry run with a part of the clips
        rarest = float(class_weights(counts, asked.balance + asked.class_weights).max())  # drawn, times weighed
        settings["epochs"] = default_epochs(len(labels) * (store.folds - 1) // store.folds, rarest)
    if asked.optimizer == "auto":
        settings["optimizer"] = "muon"
    rate, decay = usual_rates(settings["optimizer"])
    settings["lr"] = rate if asked.lr is None else asked.lr
    settings["weight_decay"] = decay if asked.weight_decay is None else asked.weight_decay
    run = RunConfig(
        model=config.model,
        classes=store.classes,
        class_counts=counts,
        features=config.features.resolve(store.sample_rate, store.clip_samples),
        augment=config.augment.resolve(),
        optim=OptimConfig(**settings),
        fold=fold,
        seed=config.seed,
        folds_hash=store.folds_hash,
        weights=TIMM_WEIGHTS if config.pretrained else str(config.weights or ""),
        limit=config.limit,
        extensions=load(config.extensions),
        parts=_parts(config, settings),
    )
    if asked.optimizer == "auto":
        run = _with_affordable_optimizer(run)
    return _with_largest_batch(config, run, store, device) if asked.batch_size == "auto" else run


def usual_rates(optimizer: str) -> tuple[float, float]:
    """The peak rate and the weight decay that an optimiser has unless others are given."""
    if optimizer in OPTIMIZERS:
        return OPTIMIZERS[optimizer]
    own = REGISTERED["optimizer"][optimizer]
    return own.lr, own.weight_decay


def _parts(config: TrainConfig, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The options, all of them, of what a run uses of extensions: augmentations that are given any, loss, optimiser."""
    known = with_options()
    used = {name: config.parts.get(name, {}) for name in (settings["loss"], settings["optimizer"])}
    used |= {name: values for name, values in config.parts.items() if name in REGISTERED["augmentation"]}
    if idle := set(config.parts) - set(used):
        raise UserError(f"{min(idle)}: has options, and is not used: name it with --loss or --optimizer")
    return {name: to_plain(known[name](**values)) for name, values in used.items() if name in known}


def _with_affordable_optimizer(run: RunConfig) -> RunConfig:
    """`run` with AdamW where Muon's step would take more arithmetic than the network's."""
    from model import outline
    from training.tuning import muon_share

    if muon_share(outline(run.model, len(run.classes), run.features), run) <= 1:
        return run
    lr, weight_decay = OPTIMIZERS["adamw"]
    optim = dataclasses.replace(run.optim, optimizer="adamw", lr=lr, weight_decay=weight_decay)
    return dataclasses.replace(run, optim=optim)


def _with_largest_batch(config: TrainConfig, run: RunConfig, store: Store, device: torch.device | None) -> RunConfig:
    """`run` with the batch size and the rate of its other folds, or else with the largest batch that fits."""
    import torch

    from model import Classifier
    from training.tuning import largest_batch, scaled_rate

    optim = run.optim
    for fold in () if config.restart else (*range(store.folds), FULL):
        before = started_run(fold_folder(config, dataclasses.replace(run, fold=fold)))
        if before and before.limit == run.limit and before.optim.optimizer == optim.optimizer:
            optim = dataclasses.replace(optim, batch_size=before.optim.batch_size, lr=before.optim.lr)
            return dataclasses.replace(run, optim=optim)
    clips = len(store.fold_of) * (store.folds - 1) // store.folds
    size = largest_batch(Classifier(run), min(clips, run.limit or clips), device or torch.device("cpu"))
    lr = scaled_rate(optim.lr, optim.optimizer, size, BATCH_SIZE)
    return dataclasses.replace(run, optim=dataclasses.replace(optim, batch_size=size, lr=lr))


def options_of(run: RunConfig, **others: Any) -> TrainConfig:
    """The options that `resolve` makes `run` of, for its data set; `others` are those that no run has, as its tag."""
    optim, pretrained = run.optim, run.weights == TIMM_WEIGHTS
    usual = dict(zip(("lr", "weight_decay"), usual_rates(optim.optimizer), strict=True))
    usual["batch_size"] = BATCH_SIZE
    learning = vars(optim) | {name: None for name, value in usual.items() if getattr(optim, name) == value}
    return TrainConfig(
        model=run.model,
        features=feature_options(run.features),
        augment=_augment_options(run.augment),
        optim=OptimOptions(**learning),
        seed=run.seed,
        weights=Path(run.weights) if run.weights and not pretrained else None,
        pretrained=pretrained,
        parts=run.parts,
        **others,
    )


def feature_options(features: FeatureConfig) -> FeatureOptions:
    """The options that make `features` of windows like theirs."""
    band: dict[str, Any] = {"fmin": features.fmin, "fmax": features.fmax}
    sizes = (vars(SizeOptions.of(features)), {"n_mels": features.n_mels, "hop_samples": features.hop_samples})
    for n_fft in (None, features.n_fft):
        for size in sizes:
            options = FeatureOptions(**size, **band, n_fft=n_fft)
            if options.resolve(features.sample_rate, features.clip_samples) == features:
                return options
    return options


def _augment_options(augment: AugmentConfig) -> AugmentOptions:
    for name, preset in AUGMENT_PRESETS.items():
        options = AugmentOptions(name, *(
            None if getattr(augment, part) == getattr(preset, part) else getattr(augment, part)
            for part in ("speed", "mixup_alpha", "equalizer")
        ))  # fmt: skip
        if options.resolve() == augment:
            return options
    return AugmentOptions()  # made by a program: there is no option for it


def described(config: TrainConfig, run: RunConfig, device: torch.device) -> str:
    """The settings of a run in two lines; those that the program chose are marked with *."""
    asked, optim, features = config.optim, run.optim, run.features

    def chosen(value: object, given: object, shown: str = "") -> str:
        text = shown or (f"{value:g}" if isinstance(value, float) else str(value))
        return text if value == given else f"{text}*"

    hop = chosen(features.hop_samples, config.features.hop_samples)
    rows = [
        f"{features.n_mels} mel bands x {features.frames} frames",
        f"hop {hop}, n_fft {chosen(features.n_fft, config.features.n_fft)}",
        f"augmentation {config.augment.preset or 'base'}",
        f"seed {run.seed}",
    ]
    learning = [
        f"{chosen(optim.epochs, asked.epochs)} epochs",
        f"{chosen(optim.batch_size, asked.batch_size)} clips a batch",
        chosen(optim.optimizer, asked.optimizer),
        f"peak rate {chosen(optim.lr, asked.lr)}",
        f"weight decay {chosen(optim.weight_decay, asked.weight_decay)}",
        f"precision {chosen(pick_precision(optim.precision, device).partition('-')[0], asked.precision)}",
    ]
    powers = {"balance": optim.balance, "class weights": optim.class_weights}
    learning += [f"{name} {power:g}" for name, power in powers.items() if power]
    return f"settings (* chosen by the program): {', '.join(rows)}\n  {', '.join(learning)}"
