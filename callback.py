"""What happens around the training steps: averaged weights, progress, and the files of a run."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from tqdm import tqdm

from arg import UserError
from model import Classifier, save_checkpoint
from util import clock, replacing

AVERAGE_EVERY = 4  # steps: at each it would cost 3 % of a small network's time, for the same average ...
AVERAGE_EACH = 20  # ... but for the first ones, among which a dry run ends


class Averaging(WeightAveraging):
    """Exponential moving average of weights and buffers, with a warm-up, brought up to date every few steps.

    After step n a step's decay is min(decay, (1 + n) / (10 + n)), so that a short run forgets its random start. The
    averaged weights are what is validated, saved and, in the end, left in the model.
    """

    def __init__(self, decay: float, device: torch.device) -> None:
        super().__init__(device=device, multi_avg_fn=self._lerp)  # by default it would stay where the model was made
        self.decay = decay
        self._step, self._every = 0, 1

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if step_idx is None:
            return False
        self._every = AVERAGE_EVERY if step_idx >= AVERAGE_EACH else 1
        self._step = step_idx
        return (step_idx + 1) % self._every == 0

    @torch.no_grad()
    def _lerp(self, averaged: Any, current: Any, _count: Any) -> None:
        if averaged[0].is_floating_point():
            decay = min(self.decay, (1 + self._step) / (10 + self._step)) ** self._every
            torch._foreach_lerp_(averaged, current, 1 - decay)
        else:  # batch normalisation's counters
            torch._foreach_copy_(averaged, current)

    def averaged_state(self) -> dict[str, Tensor]:
        """The averaged weights under the model's own names."""
        assert self._average_model is not None
        state: dict[str, Tensor] = self._average_model.module.state_dict()
        return state


class Report(NamedTuple):
    """How far a fold is."""

    step: int  # steps done, of `steps`
    steps: int
    epoch: int  # the one under way or just done, of `epochs`
    epochs: int
    scores: dict[str, float]  # of the epoch so far; held out: of the last one validated
    clips_per_second: float  # trained on, in this epoch; 0: not known yet
    seconds_left: float


class Progress(pl.Callback):
    """How long it will take, then loss, accuracy and the time left: a bar on a terminal, else a line an epoch.

    `expected` seconds are what the fold will take, `folds_left` counts it and those to come after it in the same
    command. `report` is told every REPORT_SECONDS, and after each epoch.
    """

    REPORT_SECONDS = 0.5  # seldom enough that waiting for a GPU's running scores costs nothing

    def __init__(self, expected: float, folds_left: int = 1, report: Callable[[Report], None] | None = None) -> None:
        self.expected = expected
        self.folds_left = folds_left
        self.report = report
        self.reported = 0.0
        self.epoch_started = 0.0
        self.clips_per_second = 0.0
        self.bar: Any = None
        self.started = 0.0

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        assert isinstance(model, Classifier)
        more = f", {clock(self.expected * self.folds_left)} for {self.folds_left} folds" if self.folds_left > 1 else ""
        print(f"fold {model.config.fold}, expected time: {clock(self.expected)}{more}", flush=True)
        if self.report:
            steps, epochs = int(trainer.estimated_stepping_batches), model.config.optim.epochs
            self.report(Report(0, steps, 1, epochs, {}, 0.0, self.expected))
        self.started = time.monotonic()
        self.bar = tqdm(
            total=int(trainer.estimated_stepping_batches),
            desc=f"fold {model.config.fold}",
            unit="step",
            dynamic_ncols=True,
            leave=False,
            disable=not sys.stderr.isatty(),
        )

    def on_train_epoch_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.epoch_started = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, model: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.bar.update()
        now = time.monotonic()
        if self.report and now - self.reported >= self.REPORT_SECONDS:
            clips = len(trainer.datamodule.train) * (batch_idx + 1) / trainer.num_training_batches  # type: ignore[attr-defined]
            self.clips_per_second = clips / (now - self.epoch_started)
            self._report(trainer, model)
        if not self.bar.disable and trainer.global_step % 10 == 0:
            assert isinstance(model, Classifier)
            scores = model.running_scores()
            self.bar.set_postfix_str(f"loss {scores['train_loss']:.3f}, accuracy {scores['train_accuracy']:.3f}")

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        assert isinstance(model, Classifier)
        epochs, done = model.config.optim.epochs, trainer.current_epoch + 1
        scores = model.running_scores() | model.held_out_scores
        line = f"fold {model.config.fold}, epoch {done}/{epochs}: loss {scores['train_loss']:.3f}"
        if "valid_loss" in scores:
            line += f", held out: loss {scores['valid_loss']:.3f}, accuracy {scores['valid_accuracy']:.4f}"
        left = (time.monotonic() - self.started) / done * (epochs - done)
        self.bar.write(line + (f", {clock(left)} left" if left else ""), file=sys.stdout)
        sys.stdout.flush()
        if self.report:
            self._report(trainer, model)

    def _report(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        assert isinstance(model, Classifier)
        assert self.report is not None
        self.reported = time.monotonic()
        steps, done = int(trainer.estimated_stepping_batches), trainer.global_step
        left = (self.reported - self.started) / max(1, done) * (steps - done)
        scores = model.running_scores() | model.held_out_scores
        epochs = model.config.optim.epochs
        self.report(Report(done, steps, trainer.current_epoch + 1, epochs, scores, self.clips_per_second, left))

    def teardown(self, trainer: pl.Trainer, model: pl.LightningModule, stage: str) -> None:
        if self.bar is not None:
            self.bar.close()


class RunFiles(pl.Callback):
    """Keeps `history.csv`, `last.ckpt`, `best.ckpt` (by held-out accuracy) and `curve.png` of a fold's folder.

    Raises UserError when the loss is no longer a number.
    """

    def __init__(self, folder: Path, averaging: Averaging | None) -> None:
        self.folder = folder
        self.averaging = averaging
        self.history: list[dict[str, float]] = []
        self.best = -math.inf
        self.epoch_started = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.epoch_started = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        assert isinstance(model, Classifier)
        scores = model.running_scores()
        if not math.isfinite(scores["train_loss"]):
            raise UserError(f"fold {model.config.fold}: the loss is no longer a number; train with a lower --lr")
        row = {"epoch": trainer.current_epoch, "lr": trainer.optimizers[0].param_groups[0]["lr"]}
        row |= scores | model.held_out_scores | {"seconds": round(time.monotonic() - self.epoch_started, 2)}
        self.history.append(row)
        with replacing(self.folder / "history.csv") as beside:
            pd.DataFrame(self.history).to_csv(beside, index=False)
        state = self.averaging.averaged_state() if self.averaging else model.state_dict()
        save_checkpoint(self.folder / "last.ckpt", model.config, state, finished=False)
        score = model.held_out_scores.get("valid_accuracy", -math.inf)
        if score > self.best:
            self.best = score
            save_checkpoint(self.folder / "best.ckpt", model.config, state, finished=False)

    def on_train_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        draw_curve(self.history, self.folder / "curve.png")


def draw_curve(history: list[dict[str, float]], path: Path) -> None:
    """Loss and accuracy by epoch, as a PNG."""
    from matplotlib.figure import Figure

    table = pd.DataFrame(history)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.plot(table["epoch"] + 1, table[f"train_{name}"], marker=".", label="training, augmented")
        if f"valid_{name}" in table:
            axes.plot(table["epoch"] + 1, table[f"valid_{name}"], marker=".", label="held out, averaged weights")
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as beside:
        figure.savefig(beside, format="png", dpi=110)
