"""Train the folds of one network: ``python train.py -t 224 -m dla60_res2next -f 0 -g 0``.

torch and what builds on it are imported where they are used, so that ``-h`` and a mistyped flag answer at once.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import re
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from arg import (
    FULL,
    OPTIMIZERS,
    TIMM_WEIGHTS,
    Fold,
    OptimConfig,
    PreprocessConfig,
    RunConfig,
    TrainConfig,
    UserError,
    command,
    default_epochs,
    flat,
    parse_train,
    run_name,
    to_plain,
)
from util import (
    accuracy,
    claimed,
    clock,
    format_accuracy,
    keep_memory,
    macro_f1,
    pick_device,
    pick_precision,
    replacing,
    update_table,
)

if TYPE_CHECKING:
    import pytorch_lightning as pl
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from callback import Progress, Report
    from dataset import Clips, Store, WaveData
    from logger import TensorBoard
    from model import Classifier


@command
def main(argv: Sequence[str] | None = None) -> None:
    config = parse_train(argv)
    quieten()
    train(config)


def train(config: TrainConfig) -> None:
    """Train the folds that are asked for, one after the other on each device; a finished one is left as it is."""
    from logger import require_tensorboard
    from model import Classifier
    from side_by_side import train_side_by_side

    if config.logger == "tensorboard":
        require_tensorboard()
    keep_memory()
    devices = [pick_device(gpu) for gpu in config.gpus or (None,)]
    store = open_store(config)
    folds = choose_folds(config, store)
    first = run_config(config, store, folds[0])
    if config.auto_batch:
        first = with_largest_batch(config, first, store, devices[0])
    runs = [dataclasses.replace(first, fold=fold) for fold in folds]
    runs = runs if config.restart else [with_own_batch(config, run) for run in runs]
    runs = [run for run in runs if must_train(run, fold_folder(config, run), config.restart)]
    if runs:
        Classifier(runs[0], runs[0].weights)  # what is wrong with network or weights is said before anything is written
    if len(devices) > 1:
        if runs and (failed := train_side_by_side(config, runs, [str(device) for device in devices])):
            which = ",".join(map(str, failed))
            again = with_folds(config.command, which)
            raise UserError(f"not trained: fold {which}; this trains what is missing: {again}")
    elif runs:
        store = store.on(devices[0])
        net = None  # the first fold's, compiled once for all
        for position, run in enumerate(runs):
            net = train_fold(config, store, run, devices[0], len(runs) - position, net=net).net
    conclude(config, [with_own_batch(config, dataclasses.replace(first, fold=fold)) for fold in range(store.folds)])


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
    from tune import muon_share

    if muon_share(run) <= 1:
        return run
    lr, weight_decay = OPTIMIZERS["adamw"]
    optim = dataclasses.replace(run.optim, optimizer="adamw", lr=lr, weight_decay=weight_decay)
    return dataclasses.replace(run, optim=optim)


def fold_folder(config: TrainConfig, run: RunConfig) -> Path:
    name = run_name(run.model, run.features.n_mels, run.features.frames, config.tag)
    return config.work / "runs" / name / f"fold{run.fold}"


def with_largest_batch(config: TrainConfig, run: RunConfig, store: Store, device: torch.device) -> RunConfig:
    """`run` with the batch size and the rate of its other folds, or else with the largest batch that fits."""
    from model import Classifier
    from tune import largest_batch, scaled_rate

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


class Trained(NamedTuple):
    """What a fold's training gave."""

    net: nn.Module | None
    scores: dict[str, float]  # held out; empty where nothing was, or where another process trained the fold meanwhile


def train_fold(
    config: TrainConfig,
    store: Store,
    run: RunConfig,
    device: torch.device,
    folds_left: int = 1,
    report: Callable[[Report], None] | None = None,
    net: nn.Module | None = None,
) -> Trained:
    """Train one fold, or what is left of it, predict what it held out, and record both.

    `net` is an earlier fold's, which takes the place of a new one so that it is compiled only once.
    """
    from logger import TensorBoard
    from model import first_line

    folder = fold_folder(config, run)
    with claimed(folder / ".lock", f"{folder}: this fold"):
        for leftover in folder.glob(".*.tmp"):  # of a process that was killed
            leftover.unlink()
        if not must_train(run, folder, config.restart):  # it has been trained since this process began
            return Trained(net, {})
        begun = None if config.restart else standing(folder, tell=True)
        if begun is not None and (begun["config"] != run or not (begun["finished"] or "training" in begun)):
            begun = None  # a dry run, or from a version that could not go on
        while True:
            try:
                with TensorBoard(folder, run) if config.logger == "tensorboard" else nullcontext() as log:
                    return train_claimed(config, store, run, device, folds_left, report, net, begun, log)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                print(f"warning: {first_line(error)}", file=sys.stderr)
            run, begun = with_half_batch(config, run, device), None


def is_out_of_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def with_half_batch(config: TrainConfig, run: RunConfig, device: torch.device) -> RunConfig:
    """What a fold is trained with after its batches did not fit; UserError where --batch-size is not "auto"."""
    import torch

    from tune import scaled_rate

    optim, size = run.optim, run.optim.batch_size // 2
    if size < 2:
        raise UserError(f"out of memory on {device}: not even {optim.batch_size} clips fit; use a smaller -t or -m")
    if not config.auto_batch:
        raise UserError(
            f"out of memory on {device}: use --batch-size {size} in place of {optim.batch_size}, or --batch-size auto"
        )
    lr = scaled_rate(optim.lr, optim.optimizer, size, optim.batch_size)
    print(f"--batch-size auto: out of memory, starts again with {size} clips a batch, at {lr:.3g}", flush=True)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return dataclasses.replace(run, optim=dataclasses.replace(optim, batch_size=size, lr=lr))


def train_claimed(
    config: TrainConfig,
    store: Store,
    run: RunConfig,
    device: torch.device,
    folds_left: int,
    report: Callable[[Report], None] | None,
    net: nn.Module | None,
    begun: dict[str, Any] | None,
    log: TensorBoard | None,
) -> Trained:
    """`train_fold` for a fold that no other process trains, from the checkpoint `begun` on, if there is one."""
    from callback import LAST, PREVIOUS, Progress, RunFiles, draw_curve
    from model import save_checkpoint
    from tune import expected_seconds

    folder = fold_folder(config, run)
    started = time.monotonic()
    model, data = make_fold(store, run, device, net, restored=begun is not None)
    print(
        f"{folder.parent.name}, fold {run.fold}, {device}: {len(data.train):,} clips to train on, "
        f"{len(data.valid):,} held out, {run.optim.epochs} epochs, {run.optim.optimizer}",
        flush=True,
    )
    record: dict[str, Any]
    if begun is not None and (begun["finished"] or begun["epoch"] == run.optim.epochs):
        print("trained already; what it held out is predicted again", flush=True)
        model.load_state_dict(begun["state_dict"])
        files = RunFiles(folder, None, None if begun["finished"] else begun)  # which agree then
        record = {"history": begun.get("history", []), "best": files.best or begun.get("best", {})}
    else:
        if begun is not None:
            batch = f", batch {begun['batch'] + 1}" if begun["batch"] else ""
            print(f"goes on from epoch {begun['epoch'] + 1}{batch}", flush=True)
        progress = Progress(expected_seconds(model, data), folds_left, report)
        record = fit(model, data, device, folder, progress, begun, log)
    scores = predict_held_out(model, data, device, folder) if len(data.valid) else {}
    if record["history"]:
        draw_curve(record["history"], folder / "curve.png")
    if log is not None:
        log.write(record["history"])
        if scores:
            log.finish(scores)
    seconds = time.monotonic() - started + (begun or {}).get("seconds", 0.0)
    row = {"run": folder.parent.name, "fold": run.fold, **scores, "seconds": round(seconds, 1)}
    update_table(folder.parents[1] / "summary.csv", row | {"command": config.command}, key=("run", "fold"))
    previous = None if begun is not None and begun["path"] == folder / PREVIOUS else folder / PREVIOUS
    save_checkpoint(folder / LAST, run, model.state_dict(), True, previous, **record, seconds=seconds)
    said = format_accuracy(scores["accuracy"], len(data.valid)) if scores else "unknown, nothing held out"
    print(f"fold {run.fold} done in {clock(seconds)}, accuracy {said}\n  {folder / LAST}", flush=True)
    return Trained(model.net, scores)


def make_fold(
    store: Store, run: RunConfig, device: torch.device, net: nn.Module | None = None, restored: bool = False
) -> tuple[Classifier, WaveData]:
    """A fold's classifier, as training starts from it, and its clips, both on `device`; `net`: see `train_fold`.

    `restored`: its weights will come from a checkpoint of the run, so that no others are read.
    """
    import torch

    from dataset import WaveData
    from model import Classifier, seed_key
    from tune import compile_network, deterministic_cost, pick_layout
    from util import seed_of

    torch.manual_seed(seed_of(*seed_key(run)))  # the network's initial weights
    background = store.noise() if run.augment.background_probability else None
    if background is not None and len(background) < store.clip_samples:
        add = shlex.join(["python", "preprocess.py", "--noise", "FOLDER", *work_option(store.work)])
        what = "not a window of them" if len(background) else "none in _background_noise_"
        print(f"warning: no background recordings are mixed in ({what}): {add} adds some", file=sys.stderr)
    model = Classifier(run, "" if restored else run.weights, background).to(device)
    model.use_layout(pick_layout(model))
    if device.type == "cuda" and run.optim.deterministic and net is None:
        print(f"--deterministic: a step takes {deterministic_cost(model):.2f} times as long as without", flush=True)
    if net is not None:
        net.load_state_dict(model.net.state_dict())
        model.net = net.train()
    elif run.optim.compile:
        compile_network(model)
    shift = round(run.augment.shift_seconds * store.sample_rate)
    return model, WaveData(store, run.fold, run.optim.batch_size, seed_key(run), run.limit, shift, device)


def standing(folder: Path, tell: bool = False) -> dict[str, Any] | None:
    """A fold's newest checkpoint, with its "path"; None where nothing was trained.

    That is last.ckpt or, where it is damaged, previous.ckpt. UserError where that does not help.
    """
    from callback import LAST, PREVIOUS
    from model import read_checkpoint

    path, before = folder / LAST, folder / PREVIOUS
    if not path.exists():
        return None
    try:
        return {**read_checkpoint(path), "path": path}
    except UserError as error:
        try:
            checkpoint = {**read_checkpoint(before), "path": before}
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


def has_results(folder: Path, run: RunConfig) -> bool:
    """Whether the predictions of what the fold held out are there."""
    return run.fold == FULL or all((folder / name).exists() for name in ("oof.npz", "oof.csv"))


def must_train(run: RunConfig, folder: Path, restart: bool) -> bool:
    """False where the fold is finished with these settings; UserError where it was begun with others."""
    checkpoint = None if restart else standing(folder)
    if checkpoint is None or (checkpoint["config"].limit and not run.limit):
        return True  # nothing there, or a dry run
    before: RunConfig = checkpoint["config"]
    if before == run:
        if not checkpoint["finished"] or not has_results(folder, run):
            return True
        print(f"{folder}: trained already; --restart trains it again")
        return False
    old, new = flat(to_plain(before)), flat(to_plain(run))
    if old.pop("folds_hash") != new.pop("folds_hash"):
        what = "stale, trained on other folds or labels"
    else:
        changes = ", ".join(f"{key} {old[key]} -> {new[key]}" for key in new if old[key] != new[key])
        what = f"{'trained' if checkpoint['finished'] else 'begun'} with other settings ({changes})"
    raise UserError(f"{folder}: {what}; --restart trains it again, --tag NAME beside it")


def fit(
    model: Classifier,
    data: WaveData,
    device: torch.device,
    folder: Path,
    progress: Progress,
    begun: dict[str, Any] | None = None,
    log: TensorBoard | None = None,
) -> dict[str, Any]:
    """Run the training loop, from the checkpoint `begun` on, if there is one; returns its "history" and "best" epoch.

    The averaged weights are left in the model, the fold's files in `folder`.
    """
    from callback import Averaging, RunFiles

    optim = model.config.optim
    averaging = Averaging(optim.ema_decay, device) if optim.ema_decay else None
    files = RunFiles(folder, averaging, begun, log)
    callbacks: list[pl.Callback] = [progress, *([averaging] if averaging else []), files]
    trainer = make_trainer(
        optim,
        device,
        callbacks,
        plugins=[files.memory],
        max_epochs=optim.epochs,
        limit_val_batches=1.0 if len(data.valid) else 0,
    )
    data.begin = (begun["epoch"], begun["batch"]) if begun else (0, 0)
    try:
        trainer.fit(model, datamodule=data, ckpt_path=str(begun["path"]) if begun else None)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    if files.signals.received:  # too late for another batch
        raise files.signals.stopped("the end of training")
    return {"history": files.history, "best": files.best}


def make_trainer(optim: OptimConfig, device: torch.device, callbacks: list[pl.Callback], **limits: Any) -> pl.Trainer:
    """Lightning's Trainer on one device, without anything that it would write or print by itself."""
    import pytorch_lightning as pl

    return pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index] if device.type == "cuda" else 1,
        precision=pick_precision(optim.precision, device),  # type: ignore[arg-type]
        gradient_clip_val=optim.grad_clip or None,
        accumulate_grad_batches=optim.accumulate,
        deterministic=optim.deterministic,
        benchmark=not optim.deterministic,  # cuDNN picks its algorithms by trying them: there are few sizes of batch
        reload_dataloaders_every_n_epochs=1,  # an epoch's order and crops are drawn for that epoch
        num_sanity_val_steps=0,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **limits,
    )


def predict_held_out(model: Classifier, data: WaveData, device: torch.device, folder: Path) -> dict[str, float]:
    """Write the held-out clips' probabilities, oof.npz and oof.csv, and return their scores.

    They go to the disk as they come, so that many clips take no more memory than few.
    """
    from model import predict
    from transform import VIEWS

    clips, classes = data.valid, model.config.classes
    one_view, predicted = (np.zeros(len(clips), np.int64) for _ in range(2))
    waves = (wave for wave, _ in data.val_dataloader())
    with (
        replacing(folder / "oof.npz") as npz,
        replacing(folder / "oof.csv") as table,
        tempfile.TemporaryFile(dir=folder) as file,
    ):
        probabilities = np.memmap(file, np.float32, "w+", shape=(VIEWS, len(clips), len(classes)))
        rows = 0
        for batch in predict([model], waves, VIEWS, device):
            part = slice(rows, rows := rows + batch.shape[2])
            probabilities[:, part] = batch[0]
            mean = batch[0].mean(0)  # (clips, classes)
            one_view[part], predicted[part] = batch[0, 0].argmax(1), mean.argmax(1)
            write_rows(table, clips.take(np.arange(part.start, part.stop)), classes, mean)
        truth = clips.target.astype(np.int64)
        with npz.open("wb") as out:
            np.savez(
                out,
                fname=as_array(clips.fname, folder),
                target=truth,
                probabilities=probabilities,
                classes=np.array(classes),
            )
    return {
        "accuracy": accuracy(truth, predicted),
        "accuracy_one_view": accuracy(truth, one_view),
        "macro_f1": macro_f1(truth, predicted, len(classes)),
    }


def as_array(names: Sequence[str], folder: Path) -> NDArray[np.str_]:
    """Names as an array, which takes four bytes a letter of the longest: in a file without a name in `folder`."""
    if not len(names):
        return np.zeros(0, str)
    with tempfile.TemporaryFile(dir=folder) as file:
        array = np.memmap(file, f"<U{max(map(len, names))}", "w+", shape=(len(names),))
    for row, name in enumerate(names):
        array[row] = name
    return array


def write_rows(path: Path, clips: Clips, classes: Sequence[str], probabilities: NDArray[np.float32]) -> None:
    """Append clips with their labels and (clips, classes) probabilities to a CSV, which gets its header first."""
    import pandas as pd

    table = pd.DataFrame(probabilities, columns=list(classes))
    table.insert(0, "fname", list(clips.fname))
    table.insert(1, "label", [classes[index] for index in clips.target], allow_duplicates=True)
    table.to_csv(path, index=False, mode="a", header=not path.exists())


def conclude(config: TrainConfig, runs: Sequence[RunConfig]) -> None:
    """Say what is known over all folds of the data set, `runs`, where they are finished, and what to type next."""
    folders = [fold_folder(config, run) for run in runs]
    missing = [str(run.fold) for run, folder in zip(runs, folders, strict=True) if finished_run(folder) != run]
    full = config.folds == (FULL,)
    if missing and not full:
        print(f"next: {with_folds(config.command, ','.join(missing))}")
        return
    if not full:
        right = np.concatenate([out_of_fold_hits(folder / "oof.npz") for folder in folders])
        said = format_accuracy(float(right.mean()), len(right))
        print(f"all {len(runs)} folds: out-of-fold accuracy {said}")
        again = shlex.join(["python", "report.py", *work_option(config.work)])
        print(f"{again} says what it gets wrong, and which runs to put together")
    options = naming_options(config.work, runs[0], config.tag)
    print(f"next: python inference.py {shlex.join(options)} -f {FULL if full else len(runs)} -a y")


def work_option(work: Path) -> list[str]:
    return ["-w", str(work)] if work != Path("work") else []


def naming_options(work: Path, run: RunConfig, tag: str) -> list[str]:
    """The options that name a run, of train.py as of inference.py."""
    n_mels, frames = run.features.n_mels, run.features.frames
    size = ["-t", str(n_mels)] if n_mels == frames else ["--n-mels", str(n_mels), "--frames", str(frames)]
    return [*work_option(work), *size, "-m", run.model, *(["--tag", tag] if tag else [])]


def out_of_fold_hits(path: Path) -> NDArray[np.bool_]:
    """Which of a fold's held-out clips the mean over the views gets right, (clips,)."""
    with np.load(path) as part:
        right: NDArray[np.bool_] = part["probabilities"].mean(0).argmax(1) == part["target"]
        return right


def with_folds(command: str, folds: str) -> str:
    """A train.py command for other folds."""
    return re.sub(r"\s(-f ?|--fold[ =])\S+", "", command or "python train.py") + f" -f {folds}"


def quieten() -> None:
    """Keep remarks on things that are as they should be off the terminal."""
    import pytorch_lightning as _  # noqa: F401 (its import sets the level anew)

    for name in ("pytorch_lightning", "timm"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")


if __name__ == "__main__":
    sys.exit(main())
