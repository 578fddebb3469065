"""Train one fold from start to end."""

from __future__ import annotations

import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from arg import OptimConfig, PreprocessConfig, RunConfig, TrainConfig
from system.console import clock
from system.devices import pick_precision
from system.errors import UserError, first_line
from system.locks import claimed
from system.options import command_line
from system.paths import LAST, LOCK, PREVIOUS
from system.threads import computing_threads
from training.heldout import predict_held_out
from training.runs import fold_folder, must_train, standing, update_table

if TYPE_CHECKING:
    import pytorch_lightning as pl
    import torch
    from torch import nn

    from callback import Progress, Report
    from dataset import Store, WaveData
    from model import Classifier
    from training.tensorboard import TensorBoard


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
    began: float = math.inf,
    ends: float = math.inf,
) -> Trained:
    """Train one fold, or what is left of it, predict what it held out, and record both.

    `net` is an earlier fold's, which takes the place of a new one so that it is compiled only once. `began` is when the
    command did, by time.monotonic(), where this is its first fold. The fold is over by `ends`, of the same clock: where
    its epochs do not fit, its schedule is run through in fewer.
    """
    from callback import Progress, draw_curve
    from training.tensorboard import TensorBoard
    from training.tuning import expected_seconds, look_seconds
    from transform import VIEWS

    folder, started = fold_folder(config, run), time.monotonic()
    with claimed(folder / LOCK, f"{folder}: this fold is being trained", "wait for it, or stop it first"):
        for leftover in folder.glob(".*.tmp"):  # of a process that was killed
            leftover.unlink()
        if not must_train(run, folder, config.restart):  # it has been trained since this process began
            return Trained(net, {})
        begun = None if config.restart else to_resume(run, folder)
        with (
            computing_threads((begun or {}).get("threads") if device.type == "cpu" else None) as threads,
            memory_errors(run, device),
            TensorBoard(folder, run) if config.logger == "tensorboard" else nullcontext() as log,
        ):
            model, data = make_fold(store, run, device, net, restored=begun is not None)
            where = f"{device}, threads: {threads}" if device.type == "cpu" else f"{device}"
            print(
                f"{folder.parent.name}, fold {run.fold}, {where}: {len(data.train):,} clips to train on, "
                f"{len(data.valid):,} held out, {run.optim.epochs} epochs, {run.optim.optimizer}",
                flush=True,
            )
            if begun is not None and trained_through(begun):
                record = take_trained(model, folder, begun)
            else:
                in_time = ends < math.inf  # then no trial is needed to say how long the fold may take
                looking = look_seconds(model, data) if in_time else 0.0
                expected = max(1.0, ends - time.monotonic()) if in_time else expected_seconds(model, data)
                spent = time.monotonic() - started
                again = 0.0 if run.optim.compile else spent
                progress = Progress(expected, folds_left, report, spent, again, max(0.0, started - began), ends)
                record = fit(model, data, device, folder, progress, begun, log, looking)
            answers, scores = predict_held_out(model, data, device, folder) if len(data.valid) else (None, {})
            if record["history"]:
                draw_curve(record["history"], folder / "curve.png")
            if log is not None:
                log.write(record["history"])
                if scores:
                    log.finish(scores)
        record["threads"] = threads
        record["seconds"] = time.monotonic() - started + (begun or {}).get("seconds", 0.0)
        save_finished(config, model, folder, begun, record, scores)
    said = f"{VIEWS} views: {answers.told(run.classes, run.class_counts)}" if answers else "nothing held out"
    print(f"fold {run.fold} done in {clock(record['seconds'])}, {said}\n  {folder / LAST}", flush=True)
    if "epochs_trained" in record:
        print(
            f"  after {record['epochs_trained']:.3g} epochs in place of {run.optim.epochs}, to be in time", flush=True
        )
    return Trained(model.net, scores)


def to_resume(run: RunConfig, folder: Path) -> dict[str, Any] | None:
    """The checkpoint that a fold resumes from; None where there is none, or only a dry run's or one without a state."""
    begun = standing(folder, tell=True, tensors=True)
    if begun is None or begun["config"] != run or not (begun["finished"] or "training" in begun):
        return None
    return begun


def trained_through(begun: dict[str, Any]) -> bool:
    """Whether a checkpoint is the last of its training, be it at the end of its schedule or of its time."""
    done: bool = begun["finished"] or begun["epoch"] == begun["config"].optim.epochs or begun.get("ended", False)
    return done


@contextmanager
def memory_errors(run: RunConfig, device: torch.device) -> Iterator[None]:
    """Raise UserError, which says what to do, where the memory does not suffice in the body."""
    import torch

    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)):
            raise
        size = run.optim.batch_size
        less = f"use --batch-size {size // 2} in place of {size}"
        if size < 4:
            less = f"not even {size} clips fit; use a smaller -t or -m"
        raise UserError(f"out of memory on {device}: {less} ({first_line(error)})") from error


def warn_without_noise(store: Store, run: RunConfig) -> None:
    """Print that a run mixes in background recordings, and has none."""
    found = len(store.noise()) if run.augment.background_probability else store.clip_samples
    if found < store.clip_samples:
        add = command_line(PreprocessConfig(work=store.work, noise=Path("FOLDER")))
        what = "not a window of them" if found else "none in _background_noise_"
        print(f"warning: no background recordings are mixed in ({what}): {add} adds some", file=sys.stderr)


def make_fold(
    store: Store, run: RunConfig, device: torch.device, net: nn.Module | None = None, restored: bool = False
) -> tuple[Classifier, WaveData]:
    """A fold's classifier, as training starts from it, and its clips, both on `device`; `net`: see `train_fold`.

    `restored`: its weights will come from a checkpoint of the run, so that no others are read.
    """
    import torch

    from dataset import WaveData
    from model import Classifier, seed_key
    from training.tuning import compile_network, deterministic_cost, pick_layout
    from util import seed_of

    torch.manual_seed(seed_of(*seed_key(run)))  # the network's initial weights
    background = store.noise() if run.augment.background_probability else None
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
    optim = run.optim
    return model, WaveData(store, run.fold, optim.batch_size, seed_key(run), run.limit, shift, device, optim.balance)


def fit(
    model: Classifier,
    data: WaveData,
    device: torch.device,
    folder: Path,
    progress: Progress,
    begun: dict[str, Any] | None = None,
    log: TensorBoard | None = None,
    looking: float = 0.0,
) -> dict[str, Any]:
    """Run the training loop, from the checkpoint `begun` on, if there is one; returns its "history" and "best" epoch.

    The averaged weights are left in the model, the fold's files in `folder`. `looking`: see `Deadline`.
    """
    from callback import Averaging, Checkpoints, FiniteLoss, FoldFiles
    from training.deadline import Deadline

    if begun is not None:
        batch = f", batch {begun['batch'] + 1}" if begun["batch"] else ""
        print(f"resumes from epoch {begun['epoch'] + 1}{batch}", flush=True)
    optim = model.config.optim
    deadline = [Deadline(progress.ends, looking)] if progress.ends < math.inf else []
    averaging = Averaging(optim.ema_decay, device) if optim.ema_decay else None
    saving = Checkpoints(FoldFiles(folder, log), averaging, begun)
    callbacks: list[pl.Callback] = [*deadline, progress, *([averaging] if averaging else []), FiniteLoss(), saving]
    trainer = make_trainer(
        optim,
        device,
        callbacks,
        plugins=[saving.memory],
        max_epochs=optim.epochs,
        limit_val_batches=1.0 if len(data.valid) else 0,
    )
    data.begin = (begun["epoch"], begun["batch"]) if begun else (0, 0)
    try:
        trainer.fit(model, datamodule=data, ckpt_path=str(begun["path"]) if begun else None)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    if saving.signals.received:  # too late for another batch
        raise saving.signals.stopped("the end of training")
    record: dict[str, Any] = {"history": saving.history, "best": saving.best}
    if model.ahead:
        done = trainer.global_step / int(trainer.estimated_stepping_batches)
        record |= {"ahead": model.ahead, "epochs_trained": done * optim.epochs}
    return record


def take_trained(model: Classifier, folder: Path, begun: dict[str, Any]) -> dict[str, Any]:
    """`fit` for a fold whose epochs are all done: only what it held out is missing."""
    from callback import FoldFiles

    print("trained already; what it held out is predicted again", flush=True)
    model.load_state_dict(begun["state_dict"])
    best = begun.get("best", {})
    if not begun["finished"]:
        best = FoldFiles(folder).resume(begun) or best
    cut: dict[str, Any] = {name: begun[name] for name in ("ahead", "epochs_trained") if name in begun}
    return {"history": begun.get("history", []), "best": best, **cut}


def save_finished(
    config: TrainConfig,
    model: Classifier,
    folder: Path,
    begun: dict[str, Any] | None,
    record: dict[str, Any],
    scores: dict[str, float],
) -> None:
    """Enter the fold into summary.csv, and write its last checkpoint, which says that it is finished."""
    from model import save_checkpoint

    run = model.config
    row = {"run": folder.parent.name, "fold": run.fold, **scores, "seconds": round(record["seconds"], 1)}
    update_table(folder.parents[1] / "summary.csv", row | {"command": command_line(config)}, key=("run", "fold"))
    keep = begun is None or begun["path"] != folder / PREVIOUS  # which is the good one, where last.ckpt is damaged
    save_checkpoint(folder / LAST, run, model.state_dict(), True, folder / PREVIOUS if keep else None, **record)


def make_trainer(optim: OptimConfig, device: torch.device, callbacks: list[pl.Callback], **limits: Any) -> pl.Trainer:
    """Lightning's Trainer on one device, without anything that it would write or print by itself."""
    import pytorch_lightning as pl

    return pl.Trainer(
        accelerator={"cuda": "gpu"}.get(device.type, device.type),
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


def quieten() -> None:
    """Keep remarks on things that are as they should be off the terminal."""
    import pytorch_lightning as _  # noqa: F401 (its import sets the level anew)

    for name in ("pytorch_lightning", "timm"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
