"""Label clips with an ensemble: ``python inference.py -t 224 -m dla60_res2next -f 5 -a y``.

Everything about features and classes comes from the checkpoints. torch and what builds on it are imported where they
are used, so that ``-h`` and a mistyped flag answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from arg import InferenceConfig, parse_inference
from prediction.ensembles import Ensemble, load_ensemble
from prediction.forms import ClipForm, read_form
from prediction.labelling import predict_clips
from prediction.results import BAD, Results, partial_results
from prediction.submission import probabilities_path, write_submission
from system.console import command
from system.devices import keep_memory, pick_device, pick_precision
from system.errors import UserError
from util import format_accuracy

if TYPE_CHECKING:
    import torch

    from prediction.clips import TestClips


@command
def main(argv: Sequence[str] | None = None) -> None:
    config = parse_inference(argv)
    if config.check is not None:
        from prediction.check import check

        check(config)
    else:
        infer(config)


def infer(config: InferenceConfig) -> None:
    """Load the ensemble, label the clips with it, and write the submission and its probabilities."""
    keep_memory()
    device = pick_device(config.gpu)
    if config.output.is_dir():
        raise UserError(f"-o {config.output}: is a folder; name the CSV to write")
    label(config, load_ensemble(config), device)


def label(config: InferenceConfig, ensemble: Ensemble, device: torch.device) -> None:
    """Find the clips, predict those that an interrupted run has not, and write the submission."""
    from prediction.clips import find_clips_to_label

    clips = find_clips_to_label(config, ensemble.models[0].config)
    form = read_form(clips.sample_submission, clips.names, ensemble.classes)
    key = {  # all that a clip's probabilities hang on beside the clip
        "checkpoints": ensemble.digests,
        "clips": clips.origin(),
        "views": ensemble.views,
        "ensemble": config.ensemble,
        "weights": None if ensemble.weights is None else ensemble.weights.tolist(),
        "temperature": ensemble.temperature,
        "batch size": config.batch_size,
        "precision": pick_precision(config.precision, device),
        "device": device.type,
    }
    identities, keep_bad = clips.identities(config.batch_size), config.on_bad_clip == "majority"
    with partial_results(config.output, key, len(ensemble.classes), identities, keep_bad) as results:
        predict_clips(config, ensemble, clips, results, device)
        report(config, form, clips, ensemble, results)
        results.remove()


def report(config: InferenceConfig, form: ClipForm, clips: TestClips, ensemble: Ensemble, results: Results) -> None:
    """Write the submission and the probabilities beside it, and say how the labels look; where known, how good."""
    from prediction.check import tell_labels

    counts = ensemble.models[0].config.class_counts
    prior = np.array(counts, np.float32) / sum(counts)  # what is known of a clip that cannot be read
    right = labelled = bad = 0

    def rows_at(index: NDArray[np.int64]) -> NDArray[np.float32]:
        nonlocal right, labelled, bad
        inside = index < len(clips)  # the others are `clips.lost`
        rows = np.full((len(index), len(counts)), BAD, np.float32)
        rows[inside] = results.read(index[inside])
        unread = rows[:, 0] == BAD
        rows[unread] = prior
        target = np.full(len(index), -1)
        target[inside] = clips.target[index[inside]]
        known = (target >= 0) & ~unread
        right += int((rows[known].argmax(1) == target[known]).sum())
        labelled += int(known.sum())
        bad += int(unread.sum())
        return rows

    written = write_submission(config.output, form, ensemble.classes, rows_at)
    tell_labels(written, written.near_ties, ensemble.classes, np.array(counts))
    if bad:
        print(f"warning: {bad} clips could not be read and got the largest class", file=sys.stderr)
    if labelled:
        left_out = f", without {bad} that could not be read" if bad else ""
        print(f"test accuracy {format_accuracy(right / labelled, labelled)}{left_out}")
    print(f"{config.output}: {len(form.ids):,} clips; probabilities in {probabilities_path(config.output)}")


if __name__ == "__main__":
    sys.exit(main())
