"""What a run takes on this machine, in time and memory, from a few steps of its network."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from arg import RunConfig, TrainConfig
from system.console import clock
from training.fold import memory_errors
from training.resolve import choose_folds
from training.runs import finished_run, fold_folder

if TYPE_CHECKING:
    import torch

    from dataset import Store

PROGRAM_BYTES = 0.5e9  # torch and what else is loaded
STATES = 5  # of every weight: itself, its gradient, the optimiser's two, the average


def cost(config: TrainConfig, run: RunConfig, store: Store, devices: list[torch.device]) -> list[str]:
    """How long the folds that are not trained yet will take, and in how much memory, in words; nothing where none is.

    UserError where a step does not fit into the memory.
    """
    from dataset import WaveData
    from model import Classifier, layout_of, seed_key
    from system.threads import computing_threads
    from training.tuning import bytes_a_clip, expected_seconds

    runs = [dataclasses.replace(run, fold=fold) for fold in choose_folds(config, store)]
    left = [one for one in runs if config.restart or finished_run(fold_folder(config, one)) != one]
    if not left:
        return []
    device, run, optim = devices[0], left[0], run.optim
    model = Classifier(run)
    batch = optim.batch_size * bytes_a_clip(model)
    memory = batch + STATES * sum(weights.nbytes for weights in model.parameters())
    side = min(len(left), len(devices))
    threads = None
    if device.type == "cpu":
        import torch

        memory += PROGRAM_BYTES
        threads = max(1, torch.get_num_threads() // len(devices)) if len(devices) > 1 else None
    with memory_errors(run, device), computing_threads(threads):
        model.to(device).use_layout(layout_of(model.net))
        data = WaveData(store, run.fold, optim.batch_size, seed_key(run), run.limit, device=device)
        each = expected_seconds(model, data)
    time = f"about {clock(each)} a fold"
    if len(left) > 1:
        time += f", {clock(each * math.ceil(len(left) / side))} for {len(left)} folds"
    time += f" {side} at a time" if side > 1 else ""
    return [f"{time}, measured on a few steps; {memory / 1e9:.1f} GB of memory{' for each' if side > 1 else ''}"]


def machine_name(devices: list[torch.device]) -> str:
    """What is computed on, as a person says it."""
    import torch

    first, many = devices[0], f"{len(devices)} x " if len(devices) > 1 else ""
    if first.type == "cuda":
        about = torch.cuda.get_device_properties(first)
        return f"{many}{about.name} ({about.total_memory / 1e9:.0f} GB)"
    if first.type == "mps":
        return "Apple's GPU"
    return f"{many}processor (threads: {torch.get_num_threads()}, for the cores that are free)"
