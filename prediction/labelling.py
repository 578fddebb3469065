"""Label clips with an ensemble, batch by batch."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from arg import InferenceConfig
from prediction.ensembles import Ensemble
from prediction.results import BAD, SAMPLES, Results
from system.console import clock, progress
from system.devices import pick_precision
from system.errors import UserError
from util import hard_vote, prefetched

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from prediction.clips import Batch, TestClips

BATCHES_AHEAD = 2  # that are decoded or gathered while the networks are busy
HALF_TOLERANCE = 0.02  # largest difference of a probability from float32's


def resume_key(config: InferenceConfig, ensemble: Ensemble, clips: TestClips, device: torch.device) -> dict[str, Any]:
    """All that a clip's probabilities depend on beside the clip, by name, as JSON holds it."""
    import torch

    return {
        "checkpoints": ensemble.digests,
        "clips": clips.origin,
        "views": ensemble.views,
        "ensemble": config.ensemble or "soft",
        "weights": None if ensemble.weights is None else ensemble.weights.tolist(),
        "temperature": ensemble.temperature,
        "batch size": config.batch_size,
        "precision": pick_precision(config.precision, device),
        "device": device.type,
        "threads": torch.get_num_threads(),
    }


def predict_clips(
    config: InferenceConfig, ensemble: Ensemble, clips: TestClips, results: Results, device: torch.device
) -> None:
    """Append the ensemble's probabilities of the clips that `results` does not have yet."""
    import torch

    total = -(-len(clips) // config.batch_size)
    views = ensemble.views if isinstance(ensemble.views, int) else len(ensemble.views)
    said = f"networks: {len(ensemble.models)}, views: {views}, {config.ensemble or 'soft'} vote, {device}"
    if device.type == "cpu":
        said += f", threads: {torch.get_num_threads()}"
    print(f"{len(clips):,} clips, {said}", flush=True)
    if results.rows:
        print(f"resuming after {results.rows:,} clips that an interrupted run labelled")
    started = time.monotonic()
    strict = config.on_bad_clip == "error"
    waves = clips.waves(config.batch_size, results.rows, results.folder / SAMPLES, strict)
    ahead = prefetched(map(pinned, waves) if device.type == "cuda" else waves, BATCHES_AHEAD)
    try:
        rows = predict_rows(config, ensemble, ahead, results, device)
        identities = islice(clips.identities(config.batch_size), results.batches, None)
        labelled = results.append((identity, row) for (_, identity), row in zip(identities, rows, strict=True))
        for _ in progress(labelled, total - results.batches, "labelling, batch"):
            pass
    except torch.OutOfMemoryError as error:
        raise UserError(f"out of memory on {device}: use a smaller --batch-size than {config.batch_size}") from error
    except KeyboardInterrupt:
        if results.rows:
            print(f"{results.rows:,} clips are labelled; the same command resumes from there", file=sys.stderr)
        raise
    finally:
        ahead.close()
        waves.close()
    print(f"labelled in {clock(time.monotonic() - started)}")


def predict_rows(
    config: InferenceConfig, ensemble: Ensemble, batches: Iterator[Batch], results: Results, device: torch.device
) -> Iterator[NDArray[np.float32]]:
    """(B, classes) probabilities of each batch; rows of BAD for clips that could not be read."""
    from model import predict

    unread: deque[NDArray[np.bool_]] = deque()
    first = next(batches, None)
    if first is None:
        return
    dtype = choose_precision(config, ensemble, first[0], results, device)
    hard = config.ensemble == "hard"

    def waves() -> Iterator[Tensor]:
        for wave, bad in chain([first], batches):
            unread.append(bad)
            yield wave

    for probabilities in predict(ensemble.models, waves(), ensemble.views, device, dtype):
        rows = (hard_vote(probabilities.mean(1)) if hard else ensemble.mean(probabilities)).astype(np.float32)
        if not np.isfinite(rows).all():
            raise UserError(f"the networks' output is not a number in {dtype}: use --precision 32, or train again")
        rows[unread.popleft()] = BAD
        yield rows


def choose_precision(
    config: InferenceConfig, ensemble: Ensemble, wave: Tensor, results: Results, device: torch.device
) -> torch.dtype:
    """The precision asked for, or float32 where its error on the first batch, `wave`, is too large; says which."""
    import torch

    from model import predict

    dtypes = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    dtype = dtypes.get(pick_precision(config.precision, device), torch.float32)
    if dtype == torch.float32 or results.float32:
        return torch.float32
    exact, half = (
        ensemble.mean(next(predict(ensemble.models, [wave], ensemble.views, device, kind)))
        for kind in (torch.float32, dtype)
    )
    difference = float(np.abs(exact - half).max())
    said = f"{str(dtype).removeprefix('torch.')}: probabilities within {difference:.1e} of float32's in the first batch"
    if difference <= HALF_TOLERANCE:  # false, too, where it is not a number
        print(said, flush=True)
        return dtype
    print(f"{said}, more than {HALF_TOLERANCE:g}: using float32", flush=True)
    results.give_up_half()
    return torch.float32


def pinned(batch: Batch) -> Batch:
    """A batch in page-locked memory, which is copied to a GPU while other things happen."""
    wave, bad = batch
    return wave.pin_memory(), bad
