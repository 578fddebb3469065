"""Train the folds of one network: ``python train.py -t 224 -m dla60_res2next -f 0 -g 0``.

torch and what builds on it are imported where they are used, so that ``-h`` and a mistyped flag answer at once.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from arg import TrainConfig, parse_train
from system.console import command
from system.devices import keep_memory, pick_device
from system.errors import UserError
from system.options import command_line
from system.threads import free_threads
from training.conclusion import Ended, conclude, tell_next
from training.fold import quieten, train_fold
from training.plan import make_plan, told
from training.resolve import choose_folds, described, open_store, resolve
from training.runs import fold_folder, must_train

if TYPE_CHECKING:
    import torch

    from dataset import Store


@command
def main(argv: Sequence[str] | None = None) -> None:
    began = time.monotonic()
    config = parse_train(argv)
    with free_threads():
        quieten()
        train(config, began)


def train(config: TrainConfig, began: float = math.inf) -> None:
    """Plan what the options leave open, and train the runs of the plan one after the other.

    `began` is when the command did, by time.monotonic(), to say beforehand how long all of it will take.
    """
    from training.tensorboard import require_tensorboard

    if config.logger == "tensorboard":
        require_tensorboard()
    keep_memory()
    devices = [pick_device(gpu) for gpu in config.gpus or (None,)]
    store = open_store(config)
    plan = make_plan(config, store, devices[0])
    if said := told(plan):
        print(said, flush=True)
    if config.plan:
        return
    ended = []
    for position, member in enumerate(plan.members):
        ended.append(train_run(member, store, devices, math.inf if position else began))
        conclude(ended[-1], store)
    tell_next(config, ended)


def train_run(config: TrainConfig, store: Store, devices: Sequence[torch.device], began: float = math.inf) -> Ended:
    """Train the folds that are asked for, one after the other on each device; a finished one is left as it is."""
    from model import check_start
    from training.workers import train_side_by_side

    folds = choose_folds(config, store)
    first = resolve(config, store, folds[0], devices[0])
    runs = [dataclasses.replace(first, fold=fold) for fold in folds]
    runs = [run for run in runs if must_train(run, fold_folder(config, run), config.restart)]
    if runs:
        print(described(config, first, devices[0]), flush=True)
        check_start(runs[0])  # what is wrong with network or weights is said before anything is written
    if len(devices) > 1:
        if runs and (failed := train_side_by_side(config, runs, [str(device) for device in devices])):
            which = ",".join(map(str, failed))
            again = command_line(config, folds=tuple(failed))
            raise UserError(f"not trained: fold {which}; this trains what is missing: {again}")
    elif runs:
        store = store.on(devices[0])
        net = None  # the first fold's, compiled once for all
        for position, run in enumerate(runs):
            left = len(runs) - position
            net = train_fold(config, store, run, devices[0], left, net=net, began=math.inf if position else began).net
    return Ended(config, tuple(dataclasses.replace(first, fold=fold) for fold in range(store.folds)))


if __name__ == "__main__":
    sys.exit(main())
