"""Train the folds of one network: ``python train.py -t 224 -m dla60_res2next -f 0 -g 0``.

torch and what builds on it are imported where they are used, so that ``-h`` and a mistyped flag answer at once.
"""

from __future__ import annotations

import logging
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arg import (
    FULL,
    Fold,
    PreprocessConfig,
    RunConfig,
    TrainConfig,
    UserError,
    command,
    parse_train,
    run_name,
    to_plain,
)
from util import accuracy, clock, format_accuracy, macro_f1, pick_device, pick_precision, replacing, update_table

if TYPE_CHECKING:
    import torch

    from dataset import Store, WaveData
    from model import Classifier


@command
def main(argv: Sequence[str] | None = None) -> None:
    config = parse_train(argv)
    quieten()
    train(config)


def train(config: TrainConfig) -> None:
    """Train the folds that are asked for, one after the other; a finished one is left as it is."""
    device = pick_device(config.gpu)
    store = open_store(config)
    folds = choose_folds(config, store)
    for position, fold in enumerate(folds):
        train_fold(config, store, fold, device, folds_left=len(folds) - position)
    conclude(config, store)


def open_store(config: TrainConfig) -> Store:
    """The store in --work, prepared first from --input-path where there is none."""
    from dataset import Store
    from preprocess import STORE, preprocess

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
    return RunConfig(
        model=config.model,
        classes=store.classes,
        class_counts=tuple(np.bincount(labels, minlength=len(store.classes)).tolist()),
        features=config.features.resolve(store.sample_rate, store.clip_samples),
        augment=config.augment,
        optim=config.optim,
        fold=fold,
        seed=config.seed,
        folds_hash=store.folds_hash(),
        weights="pretrained" if config.pretrained else str(config.weights or ""),
        limit=config.limit,
    )


def run_folder(config: TrainConfig, store: Store) -> Path:
    features = config.features.resolve(store.sample_rate, store.clip_samples)
    return config.work / "runs" / run_name(config.model, features.n_mels, features.frames, config.tag)


def train_fold(config: TrainConfig, store: Store, fold: Fold, device: torch.device, folds_left: int) -> None:
    """Train one fold, predict what it held out, and record both."""
    import torch

    from dataset import WaveData
    from model import Classifier, save_checkpoint, seed_key
    from util import seed_of

    run = run_config(config, store, fold)
    folder = run_folder(config, store) / f"fold{fold}"
    if not must_train(run, folder, config.restart):
        return
    started = time.monotonic()
    torch.manual_seed(seed_of(*seed_key(run)))  # the network's initial weights
    background = store.noise() if run.augment.background_probability else None
    model = Classifier(run, run.weights, background)
    data = WaveData(store, fold, run.optim.batch_size, seed_key(run), run.limit)
    print(
        f"{folder.parent.name}, fold {fold}, {device}: {len(data.train):,} clips to train on, "
        f"{len(data.valid):,} held out, {run.optim.epochs} epochs, ",
        end="",
    )
    fit(model, data, device, folder, folds_left)
    scores = predict_held_out(model, data, device, folder) if len(data.valid) else {}
    save_checkpoint(folder / "last.ckpt", run, model.cpu().state_dict(), finished=True)
    seconds = time.monotonic() - started
    row = {"run": folder.parent.name, "fold": fold, **scores, "seconds": round(seconds, 1), "command": config.command}
    update_table(folder.parents[1] / "summary.csv", row, key=("run", "fold"))
    said = format_accuracy(scores["accuracy"], len(data.valid)) if scores else "nothing held out"
    print(f"fold {fold} done in {clock(seconds)}, accuracy {said}\n  {folder / 'last.ckpt'}", flush=True)


def must_train(run: RunConfig, folder: Path, restart: bool) -> bool:
    """False where the fold is finished with these settings; UserError where it is finished with others."""
    from model import read_checkpoint

    path = folder / "last.ckpt"
    if restart or not path.exists():
        return True
    checkpoint = read_checkpoint(path)
    before: RunConfig = checkpoint["config"]
    if not checkpoint["finished"] or (before.limit and not run.limit):
        return True  # broken off, or a dry run
    if before == run:
        print(f"{folder}: trained already; --restart trains it again")
        return False
    old, new = flat(to_plain(before)), flat(to_plain(run))
    if old.pop("folds_hash") != new.pop("folds_hash"):
        raise UserError(
            f"{folder}: stale, trained on other folds or labels; --restart trains it again, --tag beside it"
        )
    changes = ", ".join(f"{key} {old[key]} -> {new[key]}" for key in new if old[key] != new[key])
    raise UserError(f"{folder}: trained with other settings ({changes}); --restart trains it again, --tag beside it")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return result


def fit(model: Classifier, data: WaveData, device: torch.device, folder: Path, folds_left: int) -> None:
    """Run the training loop; the averaged weights are left in the model, the fold's files in `folder`."""
    import pytorch_lightning as pl
    import torch

    from callback import Averaging, Progress, RunFiles

    optim = model.config.optim
    averaging = Averaging(optim.ema_decay) if optim.ema_decay else None
    callbacks: list[pl.Callback] = [Progress(folds_left), RunFiles(folder, averaging)]
    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index] if device.type == "cuda" else 1,
        precision=pick_precision(optim.precision, device),  # type: ignore[arg-type]
        max_epochs=optim.epochs,
        gradient_clip_val=optim.grad_clip or None,
        limit_val_batches=1.0 if len(data.valid) else 0,
        reload_dataloaders_every_n_epochs=1,  # an epoch's order and crops are drawn for that epoch
        num_sanity_val_steps=0,
        callbacks=callbacks + ([averaging] if averaging else []),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(model, datamodule=data)
    except torch.OutOfMemoryError as error:
        raise UserError(f"out of memory on {device}: use a smaller --batch-size than {optim.batch_size}") from error
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None


def predict_held_out(model: Classifier, data: WaveData, device: torch.device, folder: Path) -> dict[str, float]:
    """Write the held-out clips' probabilities, oof.npz and oof.csv, and return their scores."""
    import pandas as pd

    from model import predict
    from transform import VIEWS

    waves = (wave for wave, _ in data.val_dataloader())
    probabilities = np.concatenate([batch[0] for batch in predict([model], waves, VIEWS, device)], axis=1)
    mean = probabilities.mean(0)  # (clips, classes)
    clips, classes = data.valid, model.config.classes
    with replacing(folder / "oof.npz") as beside, beside.open("wb") as file:
        np.savez(
            file,
            fname=clips.fname.astype(str),
            target=clips.target,
            probabilities=probabilities,
            classes=np.array(classes),
        )
    table = pd.DataFrame(mean, columns=list(classes))
    table.insert(0, "fname", clips.fname)
    table.insert(1, "label", [classes[index] for index in clips.target], allow_duplicates=True)
    with replacing(folder / "oof.csv") as beside:
        table.to_csv(beside, index=False)
    return {
        "accuracy": accuracy(clips.target, mean.argmax(1)),
        "accuracy_one_view": accuracy(clips.target, probabilities[0].argmax(1)),
        "macro_f1": macro_f1(clips.target, mean.argmax(1), len(classes)),
    }


def conclude(config: TrainConfig, store: Store) -> None:
    """Say what is known of the run over all its finished folds, and what to type next."""
    folder = run_folder(config, store)
    finished = [fold for fold in range(store.folds) if (folder / f"fold{fold}" / "oof.npz").exists()]
    features = config.features.resolve(store.sample_rate, store.clip_samples)
    options = f"-m {config.model}"
    if features.n_mels == features.frames:
        options = f"-t {features.n_mels} {options}"
    else:
        options += f" --n-mels {features.n_mels} --frames {features.frames}"
    options += f" --tag {config.tag}" if config.tag else ""
    options += f" -w {shlex.quote(str(config.work))}" if config.work != Path("work") else ""
    if config.folds == (FULL,):
        print(f"next: python inference.py {options} -f full -a y")
        return
    if len(finished) == store.folds:
        parts = [np.load(folder / f"fold{fold}" / "oof.npz") for fold in finished]
        target = np.concatenate([part["target"] for part in parts])
        predicted = np.concatenate([part["probabilities"].mean(0).argmax(1) for part in parts])
        print(
            f"all {store.folds} folds: out-of-fold accuracy {format_accuracy(accuracy(target, predicted), len(target))}"
        )
        print(f"next: python inference.py {options} -f {store.folds} -a y")
        return
    missing = ",".join(str(fold) for fold in range(store.folds) if fold not in finished)
    print(f"next: python train.py {options} -f {missing}, with the other options as before")


def quieten() -> None:
    """Keep Lightning's remarks on things that are as they should be off the terminal."""
    import pytorch_lightning as _  # noqa: F401 (its import sets the level anew)

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")


if __name__ == "__main__":
    sys.exit(main())
