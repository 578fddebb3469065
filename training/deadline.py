"""Ending a fold in time: the schedule of the learning rate runs faster where the steps left would take too long."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import pytorch_lightning as pl

from model import Classifier
from transform import VIEWS

WARM = 3  # steps of a process that tell nothing of those to come
RECENT = 20  # steps that tell how fast training is now
SLOWER = 1.5  # that looking at the held-out clips may be in the end: in float32, or beside another process
CLOSING = 1.0  # second: the files of a fold
LOOK_SHARE = 0.05  # of the time left that an epoch's look at the held-out clips may take where time is short


class Deadline(pl.Callback):
    """Has a fold be scored by `ends`, of time.monotonic(); with time enough it changes nothing.

    After each step the time left for steps is compared with the steps of the schedule left, at the speed of the last
    few. Where they do not fit, the schedule goes on by more than a step for each (`Classifier.ahead`), so that the rate
    falls smoothly to zero in the time left; when the schedule is through, training ends, in the middle of an epoch,
    too. `looking` is the estimated time of a look at the held-out clips, seconds, until one has been measured.
    """

    def __init__(self, ends: float, looking: float = 0.0) -> None:
        self.ends, self.looking = ends, looking
        self._steps: deque[float] = deque(maxlen=RECENT)  # seconds of each
        self._seen = self._step = 0  # steps of this process, of the training
        self._last = self._look_started = 0.0
        self._look_batches: float | int = 1.0

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self._step = trainer.global_step
        self._look_batches = trainer.limit_val_batches

    def on_train_epoch_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        trainer.limit_val_batches = self._look_batches
        self._last = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, model: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(model, Classifier)
        if trainer.global_step == self._step:
            return  # in the middle of a step of several batches
        now, self._step, self._seen = time.monotonic(), trainer.global_step, self._seen + 1
        if self._seen > WARM:
            self._steps.append(now - self._last)
        took, self._last = max(now - self._last, 1e-9), now
        total = int(trainer.estimated_stepping_batches)
        left = total - self._step - model.ahead  # steps of the schedule
        if left <= 0:
            if model.ahead:
                self._end(trainer, model)
            return
        time_left = self.ends - now - SLOWER * VIEWS * self.looking - CLOSING
        if self._steps:
            took = sum(self._steps) / len(self._steps)
        fit = time_left / (took + self.looking / trainer.num_training_batches)  # each with its share of a look
        short = fit < left
        if time_left < took:
            model.ahead += left
            self._end(trainer, model)
        elif short and self._seen > WARM:
            model.ahead += min(left, left / max(1.0, fit) - 1)
        if short and trainer.is_last_batch and self.looking > LOOK_SHARE * time_left:
            self._look_not(trainer, model)

    def _end(self, trainer: pl.Trainer, model: Classifier) -> None:
        trainer.should_stop = True
        self._look_not(trainer, model)  # the scores of all views come next

    @staticmethod
    def _look_not(trainer: pl.Trainer, model: Classifier) -> None:
        trainer.limit_val_batches = 0
        model.held_out_scores = {}

    def on_validation_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self._look_started = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.looking = time.monotonic() - self._look_started
