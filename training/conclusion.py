"""The end of a train.py command: what is known over all folds of its runs, and what to type next."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from arg import FULL, Fold, InferenceConfig, ReportConfig, RunConfig, SizeOptions, TrainConfig, joined
from prediction.choice import choose
from preprocessing.store import load_store
from system.options import command_line
from system.paths import PREDICTIONS
from training.heldout import out_of_fold
from training.runs import changes, finished_run, fold_folder, mixed_settings, started_run
from util import never_predicted, uneven

if TYPE_CHECKING:
    from dataset import Store


class Ended(NamedTuple):
    """A run of which folds were trained."""

    config: TrainConfig  # nothing is left open
    runs: tuple[RunConfig, ...]  # all folds of the data set

    @property
    def folders(self) -> list[Path]:
        return [fold_folder(self.config, run) for run in self.runs]

    @property
    def finished(self) -> list[Fold]:
        return [run.fold for run, folder in zip(self.runs, self.folders, strict=True) if finished_run(folder) == run]

    @property
    def missing(self) -> list[Fold]:
        finished = self.finished
        return [run.fold for run in self.runs if run.fold not in finished]


def conclude(ended: Ended, store: Store) -> None:
    """Say how good a run is out of fold, if all of its folds are finished."""
    config, runs = ended
    if config.folds == (FULL,) or ended.missing:
        return
    answers = out_of_fold(store.clips("train"), [folder / PREDICTIONS for folder in ended.folders])
    print(f"all {len(runs)} folds: out-of-fold {answers.told(runs[0].classes, runs[0].class_counts)}")
    if never_predicted(answers.truth, answers.predicted) and uneven(runs[0].class_counts):
        advise_weights(config, runs[0])


def tell_next(asked: TrainConfig, ended: Sequence[Ended], together: bool = False) -> None:
    """Print the command that follows on `asked`, whose runs these are; `together`: their ensemble has been found."""
    if len(ended) == 1:
        _tell_next_of_one(asked, ended[0])
        return
    report, label = command_line(ReportConfig(asked.work)), _alone(asked)
    clips = _with_clips(label)
    if asked.folds is None and not asked.limit and any(one.missing for one in ended):
        print(f"to label with what is trained so far: {command_line(label)}{clips}")
        print(f"next: {command_line(asked)}")
    elif together:
        print(f"next: {command_line(label)}{clips}")
    else:
        print(f"next: {report}, which looks for the best ensemble, and then {command_line(label)}{clips}")


def _tell_next_of_one(asked: TrainConfig, ended: Ended) -> None:
    config, runs = ended
    full, missing = config.folds == (FULL,), ended.missing
    if missing and not full and not config.limit:
        _tell_missing(asked, ended, missing)
        return
    if not full and not missing:
        print(f"{command_line(ReportConfig(config.work))} says what it gets wrong, and which runs to put together")
    if config.limit:
        print(f"a dry run; on all clips: {command_line(asked, limit=0, restart=False)}")
        return
    label, instead = _labelling(asked, ended, (FULL,) if full else tuple(run.fold for run in runs))
    if instead:
        print(f"{command_line(_alone(asked))} labels with {instead}")
    print(f"next: {command_line(label)}{_with_clips(label)}")


def _tell_missing(asked: TrainConfig, ended: Ended, missing: Sequence[Fold]) -> None:
    """Which command trains the rest of a run, and which labels with what there is."""
    config, runs = ended
    before = [found for folder in ended.folders if (found := started_run(folder)) and not found.limit]
    others = [run.fold for run in before if changes(run, runs[0]) or run.folds_hash != runs[0].folds_hash]
    if mixed := mixed_settings(run for run in before if run.folds_hash == runs[0].folds_hash):
        print(f"{ended.folders[0].parent}: {mixed}")
    elif finished := ended.finished:
        label, _ = _labelling(asked, ended, tuple(finished))
        print(f"to label with fold {joined(finished)} alone: {command_line(label)}{_with_clips(label)}")
    if others or asked.budget:
        asked = config
    print(f"next: {command_line(asked, folds=tuple(others or missing), restart=bool(others))}")


def _alone(asked: TrainConfig) -> InferenceConfig:
    """inference.py without options but those that it cannot do without."""
    clips = None if load_store(asked.work)["counts"]["test"] else Path("CLIPS")
    return InferenceConfig(clips, asked.work, extensions=asked.extensions)


def _with_clips(label: InferenceConfig) -> str:
    return ", with your folder of clips for CLIPS" if label.input_path else ""


def _labelling(asked: TrainConfig, ended: Ended, folds: tuple[Fold, ...]) -> tuple[InferenceConfig, str]:
    """The options to label with these folds, none where inference.py chooses them by itself, else what it chooses."""
    alone, (config, runs) = _alone(asked), ended
    choice = choose(alone)
    if choice.config.named == (ended.folders[0].parent.name,) and choice.config.folds == folds:
        return alone, ""
    size = SizeOptions.of(runs[0].features)
    everything = folds == tuple(run.fold for run in runs)
    label = dataclasses.replace(alone, features=size, models=(runs[0].model,), tag=config.tag)
    instead = "report.py's ensemble" if choice.config.ensemble == "weighted" else choice.best.shown(())
    return dataclasses.replace(label, folds=() if everything else folds), instead


def advise_weights(config: TrainConfig, run: RunConfig) -> None:
    """Print which command has rare classes count more, where they do not yet."""
    if not (run.optim.balance or run.optim.class_weights):
        optim = dataclasses.replace(config.optim, class_weights=1.0)
        augment = dataclasses.replace(config.augment, preset="more")  # few clips are soon known by heart
        changed = {"optim": optim, "augment": augment, "tag": f"{config.tag}weighted"}
        again = command_line(config, **changed, folds=None, restart=False)
        print(f"rare classes count more with --class-weights (--balance draws them more often): {again}")
