"""Label clips with the best of what is trained, or with the runs that are named: ``python inference.py``.

Everything about features and classes comes from the checkpoints. torch and what builds on it are imported where they
are used, so that ``-h`` and a mistyped flag answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from arg import InferenceConfig, parse_inference
from prediction.choice import choose
from prediction.distribution import tell_labels
from prediction.ensembles import Ensemble, load_ensemble
from prediction.forms import probabilities_path
from prediction.labelling import predict_clips, resume_key
from prediction.results import partial_results
from prediction.submission import write_submission
from prediction.validation import check
from system.console import command
from system.devices import keep_memory, pick_device
from system.errors import UserError
from system.threads import computing_threads, free_threads
from util import format_scores

if TYPE_CHECKING:
    import torch


@command
def main(argv: Sequence[str] | None = None) -> None:
    config = parse_inference(argv)
    if config.check is not None:
        check(config, config.check)
    else:
        with free_threads():
            infer(config)


def infer(config: InferenceConfig) -> None:
    """Load the ensemble, label the clips with it, and write the submission and its probabilities."""
    keep_memory()
    device = pick_device(config.gpu)
    if config.output.is_dir():
        raise UserError(f"-o {config.output}: is a folder; name the CSV to write")
    if config.open:
        choice = choose(config)
        print(choice.told, flush=True)
        config = choice.config
    label(config, load_ensemble(config), device)


def label(config: InferenceConfig, ensemble: Ensemble, device: torch.device) -> None:
    """Find the clips, predict those that an interrupted run has not, write the submission, and say how it looks."""
    from prediction.clips import find_clips_to_label

    clips = find_clips_to_label(config, ensemble.config)
    form = clips.form
    key, identities = resume_key(config, ensemble, clips, device), clips.identities(config.batch_size)
    keep_bad = config.on_bad_clip == "majority"
    counts = np.array(ensemble.config.class_counts)
    prior = counts.astype(np.float32) / np.float32(counts.sum())  # what is known of a clip that is not read
    with partial_results(config.output, key, len(counts), identities, keep_bad) as results:
        with computing_threads(results.threads):
            predict_clips(config, ensemble, clips, results, device)
        written = write_submission(config.output, form, ensemble.classes, partial(results.read, fill=prior))
        results.remove()
    tell_labels(written.predicted, written.near_ties, counts, ensemble.classes)
    if clips.longer.count:
        print(f"warning: {clips.longer}", file=sys.stderr)
    truth = np.full(len(clips.names), -1)  # by clip, -1 where there is none or the clip could not be read
    truth[: len(clips)] = clips.target
    truth[results.bad] = -1
    truth = truth[form.rows]
    if bad := len(results.bad) + clips.lost:
        print(f"warning: {bad} clips could not be read and got the largest class", file=sys.stderr)
    if (known := truth >= 0).any():
        left_out = f", without {bad} that could not be read" if bad else ""
        group = clips.group[form.rows[known]]
        scores = format_scores(truth[known], written.predicted[known], counts.tolist(), group)
        print(f"test {scores}{left_out}")
    print(f"{config.output}: {len(form.ids):,} clips; probabilities in {probabilities_path(config.output)}")


if __name__ == "__main__":
    sys.exit(main())
