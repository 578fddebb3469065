"""A fold's history, scores and confusion matrix for TensorBoard."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from arg import RunConfig
from preprocessing.picture import short
from system.errors import UserError
from system.options import flat, to_plain
from system.paths import EVENTS
from util import confusion

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

CURVES = {  # by columns of history.csv
    "train_loss": "loss/training",
    "valid_loss": "loss/held_out",
    "train_accuracy": "accuracy/training",
    "valid_accuracy": "accuracy/held_out",
    "valid_macro_f1": "macro_f1/held_out",
    "lr": "rate",
}
NAMED_CLASSES = 60  # up to which the confusion matrix has their names, and up to half of which it has numbers


def require_tensorboard() -> None:
    """UserError where the package cannot be used."""
    try:
        import torch.utils.tensorboard as _  # noqa: F401
    except ImportError as error:
        raise UserError(f"--logger tensorboard: {error}; pip install tensorboard, or leave the option out") from None


class TensorBoard:
    """Writes a fold's events. They follow the history in its checkpoint, as history.csv does.

    Each process writes them again from the first epoch on: what a killed one logged after its last checkpoint would
    stand there twice. A full disk stops the events, not the training.
    """

    def __init__(self, folder: Path, run: RunConfig) -> None:
        self._folder, self._run = folder, run
        self._writer: SummaryWriter | None = None
        self._epochs = 0  # written
        self._failed = False

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._with_writer(lambda writer: writer.close())

    def write(self, history: Sequence[Mapping[str, float]]) -> None:
        """Add the epochs that are not there yet."""

        def add(writer: SummaryWriter) -> None:
            for row in history[self._epochs :]:
                for column, tag in CURVES.items():
                    if column in row:
                        writer.add_scalar(tag, row[column], int(row["epoch"]) + 1)
            writer.flush()
            self._epochs = len(history)

        self._with_writer(add)

    def finish(self, scores: Mapping[str, float]) -> None:
        """Add the scores of what was held out, and the confusion matrix of its predictions in the fold's folder."""

        def add(writer: SummaryWriter) -> None:
            epochs = self._run.optim.epochs
            for name, value in scores.items():
                writer.add_scalar(f"final/{name}", value, epochs)
            with np.load(self._folder / "oof.npz") as part:
                truth, predicted = part["target"], part["probabilities"].mean(0).argmax(1)
            figure = draw_confusion(confusion(truth, predicted, len(self._run.classes)), self._run.classes)
            writer.add_image("confusion", pixels(figure), epochs, dataformats="HWC")

        self._with_writer(add)

    def _with_writer(self, action: Callable[[SummaryWriter], None]) -> None:
        """Where the disk fails, say so once and write nothing from then on."""
        if self._failed:
            return
        try:
            if self._writer is None:
                self._writer = self._open()
            action(self._writer)
        except OSError as error:
            self._failed = True
            print(f"warning: no more events for TensorBoard, training continues: {error}", file=sys.stderr, flush=True)

    def _open(self) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        folder = self._folder / EVENTS
        shutil.rmtree(folder, ignore_errors=True)
        # purge_step: a TensorBoard that has shown the old events forgets them
        writer = SummaryWriter(str(folder), purge_step=0)
        plain = to_plain(self._run)
        writer.add_text("configuration", "".join(f"    {line}\n" for line in json.dumps(plain, indent=1).splitlines()))
        settings = {key: value for key, value in flat(plain).items() if isinstance(value, int | float | str)}
        metrics = dict.fromkeys(["final/accuracy", "final/macro_f1"])
        for summary in hparams(settings, metrics):
            writer._get_file_writer().add_summary(summary)  # add_hparams would begin another run for them
        return writer


def draw_confusion(count: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """A confusion matrix, coloured by the share of each true class."""
    from matplotlib.figure import Figure

    share = count / np.maximum(count.sum(1, keepdims=True), 1)
    inches = min(16.0, 3 + 0.3 * len(classes))
    figure = Figure(figsize=(inches, inches), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    if len(classes) <= NAMED_CLASSES:
        names = [short(name) for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=90)
        axes.set_yticks(range(len(classes)), names)
    if len(classes) <= NAMED_CLASSES // 2:
        for row, column in np.argwhere(count).tolist():
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(count[row, column]), ha="center", va="center", color=colour, fontsize=7)
    return figure


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """A figure as it would be saved, (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
