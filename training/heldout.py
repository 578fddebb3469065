"""Predictions of the clips that a fold held out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from preprocessing.files import some
from system.files import replacing
from util import accuracy, balanced_accuracy, format_scores, macro_f1, never_predicted

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from dataset import Clips, WaveData
    from model import Classifier
    from util import Ints


class Answers(NamedTuple):
    """Held-out clips: their classes and groups, and what is taken for their classes, (n,) each."""

    truth: Ints
    group: Ints
    predicted: Ints  # by the mean over the views

    def told(self, classes: Sequence[str], class_counts: Sequence[int]) -> str:
        """The scores in words, and which classes are never predicted."""
        said = format_scores(self.truth, self.predicted, class_counts, self.group)
        if missed := never_predicted(self.truth, self.predicted):
            said += f"; never predicted: {some([classes[index] for index in missed], 'class', 'classes')}"
        return said


def predict_held_out(
    model: Classifier, data: WaveData, device: torch.device, folder: Path
) -> tuple[Answers, dict[str, float]]:
    """Write the held-out clips' probabilities, oof.npz and oof.csv, and return the answers and their scores.

    Probabilities and names pass through files without a name, so that many clips take no more memory than few.
    """
    from model import predict
    from transform import VIEWS

    clips, classes = data.valid, model.config.classes
    one_view, predicted = (np.zeros(len(clips), np.int64) for _ in range(2))
    waves = (wave for wave, _ in data.val_dataloader())
    with replacing(folder / "oof.npz") as npz, replacing(folder / "oof.csv") as table:
        probabilities = on_disk(folder, np.float32, (VIEWS, len(clips), len(classes)))
        rows = 0
        for batch in predict([model], waves, VIEWS, device):
            part = slice(rows, rows := rows + batch.shape[2])
            probabilities[:, part] = batch[0]
            mean = batch[0].mean(0)  # (clips, classes)
            one_view[part], predicted[part] = batch[0, 0].argmax(1), mean.argmax(1)
            write_rows(table, clips.take(np.arange(part.start, part.stop)), classes, mean)
        truth = clips.target.astype(np.int64)
        names = on_disk(folder, f"<U{max(map(len, clips.fname))}", (len(clips),))
        for row, name in enumerate(clips.fname):
            names[row] = name
        with npz.open("wb") as out:
            np.savez(out, fname=names, target=truth, probabilities=probabilities, classes=np.array(classes))
    return Answers(truth, clips.group, predicted), {
        "accuracy": accuracy(truth, predicted),
        "accuracy_one_view": accuracy(truth, one_view),
        "balanced_accuracy": balanced_accuracy(truth, predicted, len(classes)),
        "macro_f1": macro_f1(truth, predicted, len(classes)),
    }


def on_disk(folder: Path, kind: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array of zeros in a file without a name in `folder`, which goes with it."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, kind, "w+", shape=shape)


def write_rows(path: Path, clips: Clips, classes: Sequence[str], probabilities: NDArray[np.float32]) -> None:
    """Append clips with their labels and (clips, classes) probabilities to a CSV, which gets its header first."""
    import pandas as pd

    table = pd.DataFrame(probabilities, columns=list(classes))
    table.insert(0, "fname", list(clips.fname), allow_duplicates=True)  # a class may be called so
    table.insert(1, "label", [classes[index] for index in clips.target], allow_duplicates=True)
    table.to_csv(path, index=False, mode="a", header=not path.exists(), lineterminator="\n")


def out_of_fold(clips: Clips | None, paths: Iterable[Path]) -> Answers:
    """What the folds whose oof.npz these are have answered; `clips` are those that were held out, and others.

    Without `clips` nothing is known of groups: each clip is its own.
    """
    row_of = {name: row for row, name in enumerate(clips.fname)} if clips else {}
    truth, rows, predicted = [], [], []
    for path in paths:
        with np.load(path) as part:
            truth.append(part["target"])
            rows += [row_of[name] for name in part["fname"].tolist()] if clips else []
            predicted.append(part["probabilities"].mean(0).argmax(1))
    group = clips.group[rows] if clips else np.arange(sum(map(len, truth)))
    return Answers(np.concatenate(truth), group, np.concatenate(predicted))
