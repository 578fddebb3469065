"""Predictions of the clips that a fold held out."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from system.files import replacing
from util import accuracy, macro_f1

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from dataset import Clips, WaveData
    from model import Classifier


def predict_held_out(model: Classifier, data: WaveData, device: torch.device, folder: Path) -> dict[str, float]:
    """Write the held-out clips' probabilities, oof.npz and oof.csv, and return their scores.

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
    return {
        "accuracy": accuracy(truth, predicted),
        "accuracy_one_view": accuracy(truth, one_view),
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


def out_of_fold_hits(path: Path) -> NDArray[np.bool_]:
    """Which of a fold's held-out clips the mean over the views gets right, (clips,)."""
    with np.load(path) as part:
        right: NDArray[np.bool_] = part["probabilities"].mean(0).argmax(1) == part["target"]
        return right
