"""Train what is best for the clips and the machine, or what is named: ``python train.py``.

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
from system.console import clock, command
from system.devices import keep_memory, pick_device
from system.errors import UserError
from system.options import command_line
from system.threads import free_threads
from training.budget import ends_at, together_seconds
from training.conclusion import Ended, conclude, tell_next
from training.fold import quieten, train_fold, warn_without_noise
from training.plan import make_plan, told
from training.resolve import choose_folds, described, open_store, resolve
from training.runs import fold_folder, must_train

if TYPE_CHECKING:
    import torch

    from dataset import Store

BORROWED = 0.15  # of a fold's share of the time, that it may take from the folds to come
LEAST_SECONDS = 3.0  # of a fold, or a further network is not begun


@command
def main(argv: Sequence[str] | None = None) -> None:
    began = time.monotonic()
    config = parse_train(argv)
    with free_threads():
        quieten()
        train(config, began)


def train(config: TrainConfig, began: float = math.inf) -> None:
    """Plan what the options leave open, and train the runs of the plan one after the other.

    `began` is when the command did, by time.monotonic(), to say beforehand how long all of it will take, and for
    --budget, which counts from there.
    """
    from training.tensorboard import require_tensorboard

    if config.logger == "tensorboard":
        require_tensorboard()
    keep_memory()
    devices = [pick_device(gpu) for gpu in config.gpus or (None,)]
    started = began if began < math.inf else time.monotonic()
    ends = ends_at(config, started)
    store = open_store(config)
    plan = make_plan(config, store, devices[0], len(devices), ends)
    if said := told(plan, store, devices, config):
        print(said, flush=True)
    if config.plan:
        return
    ended = []
    for position, member in enumerate(plan.members):
        if position and ends - time.monotonic() < LEAST_SECONDS * store.folds:
            print(f"no time is left for {member.model}; the same command trains it", flush=True)
            break
        ended.append(train_run(member, store, devices, math.inf if position else began, ends, tell=not said))
        conclude(ended[-1], store)
    in_time = config.budget is None or (
        started + config.budget - time.monotonic() > together_seconds(config.budget) / 2
    )
    tell_next(config, ended, together=in_time and put_together(config, ended))
    if config.budget is not None:
        print(f"it took {clock(time.monotonic() - started)} of {clock(config.budget)}", flush=True)


def put_together(config: TrainConfig, ended: Sequence[Ended]) -> bool:
    """Find the ensemble of several networks whose folds are all finished, as report.py does; whether there was one."""
    from reporting.gather import find_runs, held_out_clips
    from reporting.systems import judge_runs, write_chosen
    from reporting.verdict import gain_of, table_of

    if config.limit or sum(not one.missing for one in ended) < 2:
        return False
    clips = held_out_clips(config.work)
    results = judge_runs(clips, find_runs(clips))
    if results.ensembles is None:
        return False
    comparisons = results.comparisons()
    write_chosen(results, results.ensembles, comparisons)
    print(f"{table_of(results)}\n{gain_of(results.ensembles, comparisons)}", flush=True)
    return True


def train_run(
    config: TrainConfig,
    store: Store,
    devices: Sequence[torch.device],
    began: float = math.inf,
    ends: float = math.inf,
    tell: bool = True,
) -> Ended:
    """Train the folds that are asked for, one after the other on each device; a finished one is left as it is.

    All is over by `ends`, of time.monotonic(): the time left is divided over the folds left before each. The
    settings are printed if `tell`.
    """
    from model import check_start
    from training.workers import train_side_by_side

    folds = choose_folds(config, store)
    first = resolve(config, store, folds[0], devices[0])
    runs = [dataclasses.replace(first, fold=fold) for fold in folds]
    runs = [run for run in runs if must_train(run, fold_folder(config, run), config.restart)]
    if runs:
        if tell:
            print(described(config, first, devices[0]), flush=True)
        warn_without_noise(store, runs[0])
        check_start(runs[0])  # what is wrong with network or weights is said before anything is written
    if len(devices) > 1:
        if runs and (failed := train_side_by_side(config, runs, [str(device) for device in devices], ends)):
            which = ",".join(map(str, failed))
            again = command_line(config, folds=tuple(failed))
            raise UserError(f"not trained: fold {which}; this trains what is missing: {again}")
    elif runs:
        store = store.on(devices[0])
        net = None  # the first fold's, compiled once for all
        for position, run in enumerate(runs):
            left, now = len(runs) - position, time.monotonic()
            # a fold may take a little of the time of those to come, which take what is left
            first_began, until = math.inf if position else began, now + min(1, (1 + BORROWED) / left) * (ends - now)
            net = train_fold(config, store, run, devices[0], left, net=net, began=first_began, ends=until).net
    return Ended(config, tuple(dataclasses.replace(first, fold=fold) for fold in range(store.folds)))


if __name__ == "__main__":
    sys.exit(main())
