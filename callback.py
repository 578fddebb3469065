"""What happens around the training steps: averaged weights, progress, checks, and the files of a fold."""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import CheckpointIO
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from tqdm import tqdm

from arg import RunConfig
from model import Classifier, read_config, save_checkpoint
from system.console import clock
from system.devices import gpu_random_state, set_gpu_random_state
from system.errors import UserError
from system.files import replacing
from system.paths import BEST, EVENTS, HISTORY, LAST, PREVIOUS, RESULTS
from system.processes import Signals
from transform import VIEWS
from util import uneven

AVERAGE_EVERY = 4  # steps: at each it would cost a percent of a small network's time, for much the same average ...
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


class Events(Protocol):
    """What writes a run's history for a viewer, such as TensorBoard."""

    def write(self, history: Sequence[Mapping[str, float]]) -> None: ...


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

    `expected` seconds are what the fold will take from here to its scores, were it to train from the start; it took
    `spent` to get here, as the folds after it will (`again`), and the command took `loading` to come to it.
    `folds_left` counts it and those after it in the same command. The fold is over by `ends`, of time.monotonic().
    `report` is told every REPORT_SECONDS, and after each epoch.
    """

    REPORT_SECONDS = 0.5  # seldom enough that waiting for a GPU's running scores costs nothing

    def __init__(
        self,
        expected: float,
        folds_left: int = 1,
        report: Callable[[Report], None] | None = None,
        spent: float = 0.0,
        again: float = 0.0,
        loading: float = 0.0,
        ends: float = math.inf,
    ) -> None:
        self.expected, self.folds_left, self.report = expected, folds_left, report
        self.spent, self.again, self.loading, self.ends = spent, again, loading, ends
        self.scoring = 0.0  # seconds, the views of the held-out clips; 0: not known yet
        self.bar: Any = None
        self.first = self.steps = 0  # where this process starts, and of how many
        self.started = self.epoch_started = self.validation_started = self.reported = 0.0
        self.clips_per_second = 0.0

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        assert isinstance(model, Classifier)
        self.first, self.steps = trainer.global_step, int(trainer.estimated_stepping_batches)
        expected = min(self.expected * (1 - self.first / self.steps), max(1.0, self.ends - time.monotonic()))
        fold = self.spent + expected
        everything = self.loading + fold + (self.expected + self.again) * (self.folds_left - 1)
        more = f" for {self.folds_left} folds" if self.folds_left > 1 and self.ends == math.inf else ""
        more += " with loading" if self.loading and self.ends == math.inf else ""
        said = f"{clock(fold)}, {clock(everything)}{more}" if more else clock(fold)
        most = "at most" if self.ends < math.inf else "expected time"
        print(f"fold {model.config.fold}, {most}: {said}", flush=True)
        self._report(trainer, model, {}, expected)
        self.started = time.monotonic()
        self.bar = tqdm(
            total=self.steps,
            initial=self.first,
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
        assert isinstance(model, Classifier)
        self.bar.update()
        now = time.monotonic()
        if self.report and now - self.reported >= self.REPORT_SECONDS:
            clips = len(trainer.datamodule.train) * (batch_idx + 1) / trainer.num_training_batches  # type: ignore[attr-defined]
            self.clips_per_second = clips / (now - self.epoch_started)
            self._report(trainer, model, model.running_scores() | model.held_out_scores, self._left(trainer))
        if not self.bar.disable and trainer.global_step % 10 == 0:
            scores = model.running_scores()
            self.bar.set_postfix_str(f"loss {scores['train_loss']:.3f}, accuracy {scores['train_accuracy']:.3f}")

    def on_validation_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.validation_started = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.scoring = VIEWS * (time.monotonic() - self.validation_started)

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        assert isinstance(model, Classifier)
        scores, left = model.running_scores() | model.held_out_scores, self._left(trainer)
        epoch = f"{trainer.current_epoch + 1}/{model.config.optim.epochs}"
        line = f"fold {model.config.fold}, epoch {epoch}: loss {scores['train_loss']:.3f}"
        if "valid_loss" in scores:
            line += f", held out, 1 view: loss {scores['valid_loss']:.3f}, "
            if uneven(model.config.class_counts):
                line += f"balanced accuracy {scores['valid_balanced_accuracy']:.4f}, "
            line += f"accuracy {scores['valid_accuracy']:.4f}"
        self.bar.write(line + (f", {clock(left)} left" if left else ""), file=sys.stdout)
        sys.stdout.flush()
        self._report(trainer, model, scores, left)

    def _left(self, trainer: pl.Trainer) -> float:
        """Seconds, from the steps of this process and its latest look at the held-out clips."""
        done = trainer.global_step
        now = time.monotonic()
        left = (now - self.started) / max(1, done - self.first) * (self.steps - done) + self.scoring
        return min(left, max(1.0, self.ends - now))

    def _report(self, trainer: pl.Trainer, model: Classifier, scores: dict[str, float], left: float) -> None:
        if self.report:
            self.reported = time.monotonic()
            epoch, epochs = trainer.current_epoch + 1, model.config.optim.epochs
            self.report(Report(trainer.global_step, self.steps, epoch, epochs, scores, self.clips_per_second, left))

    def teardown(self, trainer: pl.Trainer, model: pl.LightningModule, stage: str) -> None:
        if self.bar is not None:
            self.bar.close()


CHECK_STEPS = 100  # between two looks at the losses, for each of which training waits for the GPU


class FiniteLoss(pl.Callback):
    """Ends a training whose loss is no longer a number with a UserError that names the batch and its clips.

    It looks every CHECK_STEPS steps, after each epoch, and before anything is saved.
    """

    def __init__(self) -> None:
        self._losses: list[tuple[int, Tensor]] = []  # since the last look, with their batch

    def on_train_batch_end(
        self, trainer: pl.Trainer, model: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append((batch_idx, outputs["loss"]))
        if len(self._losses) >= CHECK_STEPS:
            self.on_train_epoch_end(trainer, model)

    def on_save_checkpoint(self, trainer: pl.Trainer, model: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.on_train_epoch_end(trainer, model)

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        if not self._losses:
            return
        finite = torch.stack([loss for _, loss in self._losses]).isfinite().tolist()
        batches, self._losses = [batch for batch, _ in self._losses], []
        if not all(finite):
            assert isinstance(model, Classifier)
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            batch = batches[finite.index(False)]
            rows = data.train_batches(trainer.current_epoch).parts()[batch]
            names = [data.train.fname[int(row)] for row in rows[:3]]
            more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
            where = f"epoch {trainer.current_epoch + 1}, batch {batch + 1} ({', '.join(names)}{more})"
            raise UserError(
                f"fold {model.config.fold}: the loss is no longer a number, first in {where}; "
                + lower_rate(model.config)
            )


class InMemory(CheckpointIO):
    """Takes the state of a training from Lightning, and gives one back to it, without a file."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.state = checkpoint

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        return self.state

    def remove_checkpoint(self, path: Any) -> None:
        pass


class Writer:
    """A thread that writes files while training continues, one job at a time."""

    def __init__(self) -> None:
        self.seconds = 0.0  # that the latest job took
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._job: Future[None] | None = None

    def start(self, job: Callable[[], None]) -> None:
        self._job = self._pool.submit(self._timed, job)

    def wait(self) -> bool:
        """Wait for the job, if there is one. False, after a warning, where the disk refused it."""
        job, self._job = self._job, None
        try:
            if job is not None:
                job.result()
        except OSError as error:
            print(f"warning: no checkpoint could be saved, training continues: {error}", file=sys.stderr, flush=True)
            return False
        return True

    def close(self) -> None:
        self._pool.shutdown()

    def _timed(self, job: Callable[[], None]) -> None:
        started = time.monotonic()
        job()
        self.seconds = time.monotonic() - started


class FoldFiles:
    """A fold's folder during training; whenever a crash comes, its files agree or can be made to.

    `last.ckpt` is the newest state, `previous.ckpt` the one before, `best.ckpt` the best weights by held-out accuracy.
    `history.csv` and `events` follow the state.
    """

    def __init__(self, folder: Path, events: Events | None = None) -> None:
        self.folder, self.events = folder, events
        self.new_best: dict[str, Tensor] = {}  # weights for best.ckpt, until they are written
        self._new_run = True  # what an earlier run left is still there
        self._keep_last = False  # as previous.ckpt

    def resume(self, begun: dict[str, Any]) -> dict[str, float]:
        """Make the other files agree with the checkpoint to resume from; returns the best epoch so far."""
        self._new_run, self._keep_last = False, begun["path"].name == LAST
        remove(self.folder, RESULTS)
        if begun["history"]:
            write_history(begun["history"], self.folder)
        best: dict[str, float] = begun["best"]
        with contextlib.suppress(UserError):
            if read_config(self.folder / BEST).get("best") == best:
                return best
        remove(self.folder, [BEST])  # a crash came between the two files
        if best.get("epoch") != begun["epoch"] - 1 or begun["batch"]:
            return {}  # the better epoch is still to come, again
        save_checkpoint(self.folder / BEST, begun["config"], begun["state_dict"], False, best=best)
        return best

    def write(self, config: RunConfig, state: dict[str, Tensor], record: dict[str, Any]) -> None:
        """A checkpoint and what belongs to it. UserError where weights are no longer numbers; OSError of the disk."""
        weights = record["training"].get("current_model_state", state)
        # by NumPy: torch would start a second team of threads for this thread, and the training's would wait for it
        if not all(np.isfinite(value.cpu().numpy()).all() for value in weights.values() if value.is_floating_point()):
            raise UserError(f"fold {config.fold}: weights are no longer numbers; {lower_rate(config)}")
        if self._new_run:  # what the earlier one left goes once the first checkpoint is there
            remove(self.folder, [PREVIOUS])
            save_checkpoint(self.folder / LAST, config, state, False, **record)
            remove(self.folder, [*RESULTS, BEST, HISTORY])
            shutil.rmtree(self.folder / EVENTS, ignore_errors=True)
            self._new_run = False
            self._write_best(config, record["best"])
        else:
            self._write_best(config, record["best"])
            previous = self.folder / PREVIOUS if self._keep_last else None
            save_checkpoint(self.folder / LAST, config, state, False, previous, **record)
        self._keep_last = True
        if record["history"]:
            write_history(record["history"], self.folder)
        if self.events is not None:
            self.events.write(record["history"])

    def _write_best(self, config: RunConfig, best: dict[str, float]) -> None:
        if self.new_best:
            save_checkpoint(self.folder / BEST, config, self.new_best, False, best=best)
            self.new_best = {}


SAVE_SECONDS = 180.0  # between two checkpoints within an epoch
SAVE_SHARE = 0.01  # of the time that checkpoints may take: where they take more, fewer are written


class Checkpoints(pl.Callback):
    """Saves the whole state of a training now and then, and resumes from it to the same bits.

    It copies the state; a thread writes the copy to `files`. `begun` is the checkpoint to resume from, if any. It must
    be the last of the callbacks, since it saves what the others leave. Raises Stopped after a signal.
    """

    def __init__(self, files: FoldFiles, averaging: Averaging | None, begun: dict[str, Any] | None = None) -> None:
        self.files = files
        self.averaging = averaging
        self.memory = InMemory()  # for the trainer's `plugins`
        self.signals = Signals()
        self.writer = Writer()
        self.history: list[dict[str, float]] = []
        self.best: dict[str, float] = {}  # "epoch" and "accuracy"
        self._random: dict[str, Tensor] = {}  # to resume from
        self._epoch_seconds = 0.0  # that the epoch took before it was interrupted
        self._ahead = 0.0  # steps of the schedule that had been left out
        self._started = self._epoch_started = self._saved_at = time.monotonic()
        self._copy_seconds = 0.0  # of the latest checkpoint
        if begun is not None:
            self.memory.state = {"state_dict": begun["state_dict"], **begun["training"]}
            self.history, self.best = begun["history"], files.resume(begun)
            self._random, self._epoch_seconds = begun["random"], begun["epoch_seconds"]
            self._ahead = begun.get("ahead", 0.0)
            self._started -= begun["seconds"]

    # Lightning's hooks

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        assert isinstance(model, Classifier)
        self.signals.listen()  # after Lightning has
        model.ahead = self._ahead
        self._epoch_started = time.monotonic() - self._epoch_seconds
        if self._random:
            model.totals = self._random["totals"].to(model.device)
            torch.set_rng_state(self._random["cpu"])
            if "gpu" in self._random:
                set_gpu_random_state(model.device, self._random["gpu"])

    def on_train_epoch_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self._epoch_started = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, model: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # the epoch's end saves; a state with half a step's gradients cannot be saved
        if self.signals.received or self._due(SAVE_SECONDS):
            self._save(trainer, model, trainer.current_epoch, batch_idx + 1)

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        assert isinstance(model, Classifier)
        self.writer.wait()
        epoch = trainer.current_epoch
        row = {"epoch": epoch, "lr": trainer.optimizers[0].param_groups[0]["lr"]}
        row |= model.running_scores() | model.held_out_scores
        self.history.append(row | {"seconds": round(time.monotonic() - self._epoch_started, 2)})
        accuracy = model.held_out_scores.get("valid_accuracy", -math.inf)
        if accuracy > self.best.get("accuracy", -math.inf):
            self.best = {"epoch": epoch, "accuracy": accuracy}
            self.files.new_best = copied(self.averaging.averaged_state() if self.averaging else model.state_dict())
        if self.signals.received or self._due(0) or epoch + 1 == trainer.max_epochs or trainer.should_stop:
            self._save(trainer, model, epoch + 1, 0)

    def on_train_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.writer.wait()

    def on_exception(self, trainer: pl.Trainer, model: pl.LightningModule, exception: BaseException) -> None:
        self.writer.close()

    def teardown(self, trainer: pl.Trainer, model: pl.LightningModule, stage: str) -> None:
        self.writer.close()

    def _due(self, least_seconds: float) -> bool:
        affordable = (self._copy_seconds + self.writer.seconds) / SAVE_SHARE
        return time.monotonic() - self._saved_at >= max(least_seconds, affordable)

    def _save(self, trainer: pl.Trainer, model: pl.LightningModule, epoch: int, batch: int) -> None:
        """Save that `epoch` epochs are done, and `batch` batches of the next; raises Stopped if that was asked for."""
        assert isinstance(model, Classifier)
        started = time.monotonic()
        self.writer.wait()
        trainer.save_checkpoint("")
        state, self.memory.state = self.memory.state, {}
        weights = copied(state.pop("state_dict"))
        random = {"cpu": torch.get_rng_state(), "totals": model.totals}
        if (state_of_gpu := gpu_random_state(model.device)) is not None:
            random["gpu"] = state_of_gpu
        record = {
            "epoch": epoch,
            "batch": batch,
            "history": list(self.history),
            "best": dict(self.best),
            "seconds": started - self._started,
            "epoch_seconds": started - self._epoch_started if batch else 0.0,
            "threads": torch.get_num_threads(),  # the last bits of a result may depend on it
            "random": copied(random),
            "training": copied(state),
        }
        if model.ahead:
            epochs = model.config.optim.epochs * trainer.global_step / int(trainer.estimated_stepping_batches)
            record |= {"ahead": model.ahead, "ended": trainer.should_stop, "epochs_trained": epochs}
        self.writer.start(partial(self.files.write, model.config, weights, record))
        self._saved_at = time.monotonic()
        self._copy_seconds = self._saved_at - started
        if self.signals.received:
            where = f"epoch {epoch + 1}" + (f", batch {batch + 1} of {trainer.num_training_batches}" if batch else "")
            saved = self.writer.wait()
            raise self.signals.stopped(where if saved else "the last checkpoint, since this one is not saved")


def lower_rate(config: RunConfig) -> str:
    return f"train with --optimizer {config.optim.optimizer} and a lower --lr, and --restart"


def remove(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)


def write_history(history: list[dict[str, float]], folder: Path) -> None:
    with replacing(folder / HISTORY) as beside:
        pd.DataFrame(history).to_csv(beside, index=False, lineterminator="\n")


def copied(state: Any) -> Any:
    """Nested containers as plain ones, with their tensors copied to the processor's memory."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: copied(value) for key, value in state.items()}
    return type(state)(map(copied, state)) if isinstance(state, list | tuple) else state


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
