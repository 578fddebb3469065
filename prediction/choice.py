"""Which run to label with where the options leave it open: the best by its out-of-fold score, or report.py's ensemble.

`work/runs/` alone is enough to choose by: the scores come from the runs' oof.npz. With a store the intervals take
the clips of a speaker as dependent, and runs on other folds or labels than the store's come last.
"""

from __future__ import annotations

import dataclasses
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from arg import FULL, Fold, InferenceConfig, PreprocessConfig, ReportConfig, RunConfig, SizeOptions, TrainConfig, joined
from arg import run_name as name_of
from prediction.ensembles import trained_folds
from prediction.spec import EnsembleSpec, digest_of, read_ensemble
from system.console import counted
from system.errors import UserError
from system.options import command_line
from system.paths import ENSEMBLE, LAST, PREDICTIONS, STORE
from training.heldout import Answers, out_of_fold
from training.runs import changes
from util import format_scores, main_score

if TYPE_CHECKING:
    from dataset import Store


@dataclass(frozen=True, eq=False)
class Candidate:
    """Finished folds of a run that have one recipe, and how good they are."""

    folder: Path
    config: RunConfig  # of the first of `folds`
    folds: tuple[Fold, ...]  # in order, "full" last
    answers: Answers | None  # to what the folds held out; None where they held nothing out, or it is lost
    complete: bool  # whether every clip was held out once
    stale: bool  # whether the store has other folds or labels now

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def tag(self) -> str | None:
        """What --tag was; None where the folder was renamed."""
        features = self.config.features
        plain = name_of(self.config.model, features.n_mels, features.frames)
        if self.name == plain:
            return ""
        return self.name.removeprefix(f"{plain}-") if self.name.startswith(f"{plain}-") else None

    @property
    def score(self) -> float:
        if self.answers is None:
            return 0.0
        return main_score(self.answers.truth, self.answers.predicted, self.config.class_counts)

    @property
    def rank(self) -> tuple[float, ...]:
        """Larger is better. The last one trained comes first where nothing else tells."""
        judged = 0 if self.answers is None else len(self.answers.truth)
        trained = 0.0 if judged else (self.folder / f"fold{self.folds[0]}" / LAST).stat().st_mtime
        return (not self.config.limit, not self.stale, self.complete, judged, self.score, len(self.folds), trained)

    def used(self, asked: Sequence[Fold]) -> tuple[Fold, ...]:
        """The folds to label with: those asked for or, where none are, all; "full" beside others fills a gap only."""
        held_out = tuple(fold for fold in self.folds if fold != FULL)
        return tuple(asked) or (held_out if self.complete else self.folds)

    def shown(self, asked: Sequence[Fold]) -> str:
        folds = self.used(asked)
        return f"{self.name}, fold{'s' if len(folds) > 1 else ''} {joined(folds)}"

    def named(self, config: InferenceConfig) -> InferenceConfig:
        """`config` with the options that name this run."""
        if self.tag is None:
            return dataclasses.replace(config, features=SizeOptions(), models=(), tag="", named=(self.name,))
        size, models = SizeOptions.of(self.config.features), (self.config.model,)
        return dataclasses.replace(config, features=size, models=models, tag=self.tag, named=())


class Choice(NamedTuple):
    """What to label with."""

    config: InferenceConfig  # nothing is left open
    told: str  # what was chosen and why, in a line or two
    best: Candidate  # the best run, or the best of the first network that was named


def choose(config: InferenceConfig) -> Choice:
    """The best run, or ensemble, among what `config` allows. UserError where there is none."""
    found = find_candidates(config)
    allowed = [one for one in found if _allows(config, one)]
    if not allowed:
        raise UserError(_nothing(config, found))
    if config.models:
        return _best_of_each_network(config, allowed)
    best = _best(config, allowed)
    others = [one for one in allowed if one.name != best.name]
    said = [f"{best.shown(config.folds)}: {_why(config, best, allowed)}"]
    restricted = config.features != SizeOptions() or config.tag or config.ensemble or config.views
    if not restricted and config.checkpoint == "last" and (config.work / ENSEMBLE).exists():
        spec, why = _clearly_better_ensemble(config, found)
        if spec:
            alone = command_line(best.named(config))
            return Choice(dataclasses.replace(config, ensemble="weighted"), f"{why}\nthat run alone: {alone}", best)
        said += [f"not the ensemble of report.py: {why}"] if why else []
    elif not restricted and sum(one.complete for one in allowed) > 1:
        said.append(f"{command_line(ReportConfig(config.work))} looks for an ensemble of the runs that is better")
    if others:
        second = _best(config, others)
        score = f" ({second.score:.4f})" if second.answers else ""
        said.append(f"the next best, {second.name}{score}: {command_line(second.named(config))}")
    return Choice(_settled(config, [best]), "\n".join(said), best)


def find_candidates(config: InferenceConfig) -> list[Candidate]:
    """All finished folds under runs/, by run and recipe; a checkpoint that cannot be read is warned of."""
    from dataset import Store

    store = Store.open(config.work) if (config.work / STORE).exists() else None
    runs = config.work / "runs"
    folders = sorted(path for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else []
    return [one for folder in folders for one in _candidates_of(config, folder, store)]


def _candidates_of(config: InferenceConfig, folder: Path, store: Store | None) -> list[Candidate]:
    """The folds of a run, those of one recipe together; "full", which may have more epochs, with the first."""
    folds = _finished(config, folder)
    groups: list[list[RunConfig]] = []
    for run in folds:
        same = (group for group in groups if _belongs(run, group[0]))
        group = next(same, None)
        groups.append([run]) if group is None else group.append(run)
    return [_candidate(folder, group, store) for group in groups]


def _finished(config: InferenceConfig, folder: Path) -> list[RunConfig]:
    """What the folds were trained with whose training ended and that have the checkpoint asked for; "full" last."""
    from model import read_config

    found = []
    for fold in trained_folds(folder):
        path = folder / f"fold{fold}" / LAST
        if path.exists() and path.with_name(f"{config.checkpoint}.ckpt").exists():
            try:
                checkpoint = read_config(path)
            except UserError as error:
                print(f"warning: {error}; not used", file=sys.stderr)
                continue
            if checkpoint["finished"]:
                found.append(dataclasses.replace(checkpoint["config"], fold=fold))
    return found


def _belongs(run: RunConfig, other: RunConfig) -> bool:
    if (run.folds_hash, run.classes) != (other.folds_hash, other.classes):
        return False
    if run.fold == FULL:
        return (run.model, run.features, run.limit) == (other.model, other.features, other.limit)
    return not changes(run, other)


def _candidate(folder: Path, group: Sequence[RunConfig], store: Store | None) -> Candidate:
    first, folds = group[0], tuple(run.fold for run in group)
    stale = store is not None and store.folds_hash != first.folds_hash
    paths = [folder / f"fold{fold}" / PREDICTIONS for fold in folds if fold != FULL]
    answers = None
    if paths and all(path.exists() for path in paths):
        try:
            answers = out_of_fold(store.clips("train") if store and not stale else None, paths)
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            print(f"warning: {folder}: its out-of-fold predictions cannot be read ({error})", file=sys.stderr)
    complete = answers is not None and len(answers.truth) == sum(first.class_counts)
    return Candidate(folder, first, folds, answers, complete, stale)


def _allows(config: InferenceConfig, one: Candidate) -> bool:
    """Whether a run has the size, the network and the tag that are given."""
    asked, features = config.features, one.config.features
    return (
        (asked.n_mels or asked.size) in (None, features.n_mels)
        and (asked.frames or asked.size) in (None, features.frames)
        and (not config.models or one.config.model in config.models)
        and (not config.tag or one.tag == config.tag)
    )


def _best(config: InferenceConfig, found: Sequence[Candidate]) -> Candidate:
    """The best of those that have the folds asked for or, where none has, of all; the first by name of equals."""
    able = [one for one in found if set(config.folds) <= set(one.folds)]
    return max(able or found, key=lambda one: one.rank)


def _best_of_each_network(config: InferenceConfig, allowed: Sequence[Candidate]) -> Choice:
    of = {model: [one for one in allowed if one.config.model == model] for model in config.models}
    if lacking := [model for model, found in of.items() if not found]:
        raise UserError(_nothing(dataclasses.replace(config, models=(lacking[0],)), allowed))
    best = [_best(config, found) for found in of.values()]
    said = (f"{one.shown(config.folds)}: {_why(config, one, of[one.config.model])}" for one in best)
    return Choice(_settled(config, best), "\n".join(said), best[0])


def _settled(config: InferenceConfig, runs: Sequence[Candidate]) -> InferenceConfig:
    """`config` for these runs and the folds that all of them have."""
    folds = [fold for fold in runs[0].used(config.folds) if all(fold in run.used(config.folds) for run in runs)]
    if not folds:
        have = "; ".join(f"{run.name} has {joined(run.folds)}" for run in runs)
        raise UserError(f"-m: no fold is trained of all these networks: {have}; train the same, or name one network")
    names = tuple(run.name for run in runs)
    return dataclasses.replace(
        config,
        features=SizeOptions(),
        models=(),
        tag="",
        named=names,
        folds=tuple(folds),
        ensemble=config.ensemble or "soft",
    )


def _clearly_better_ensemble(config: InferenceConfig, found: Sequence[Candidate]) -> tuple[EnsembleSpec | None, str]:
    """The ensemble of ensemble.json where it is to be used, and why; else why not."""
    again = f"{command_line(ReportConfig(config.work))} makes it anew"
    try:
        spec = read_ensemble(config.work)
    except UserError as error:
        return None, str(error)
    if not spec.sources:
        return None, f"{ENSEMBLE} was written by an earlier version, without the gain over the best run; {again}"
    complete = {one.name: one for one in found if one.complete and not one.stale and not one.config.limit}
    there = {name: digest_of(one.folder, one.used(())) for name, one in complete.items()}
    if there != spec.sources:
        new = sorted(set(there.items()) ^ set(spec.sources.items()))
        return None, f"{new[0][0]} has been trained or removed since; {again}"
    if spec.gain is None:
        return None, ""  # it is this run
    gain, low, high = (100 * value for value in spec.gain)
    points = f"{gain:+.2f} points ({low:+.2f} to {high:+.2f})"
    use = command_line(config, ensemble="weighted")
    if low <= 0:
        return None, f"its labels are not clearly better, {points}, out of fold; {use} uses it all the same"
    lacking = [name for name in spec.runs if not set(config.folds) <= set(complete[name].folds)]
    if lacking:
        return None, f"{lacking[0]} has not all of the folds that are asked for"
    runs = counted(len(spec.runs), "run")
    return spec, f"the ensemble of {runs} that report.py found: better than the best run by {points}, out of fold"


def _why(config: InferenceConfig, best: Candidate, found: Sequence[Candidate]) -> str:
    """Why a run is chosen, with its score."""
    runs = len({one.name for one in found})
    if runs == 1:
        given = config.models or config.features != SizeOptions() or config.tag
        said = "the only such run" if given else "the only run"
    elif best.answers is None:
        said = f"the last of {runs} runs, as no score says which is best"
    else:
        said = f"the best of {runs} runs"
    every, remarks = sum(best.config.class_counts), []
    if best.answers is not None:
        truth, group, predicted = best.answers.truth, best.answers.group, best.answers.predicted
        said += f", out of fold {format_scores(truth, predicted, best.config.class_counts, group)}"
        if not best.complete:
            remarks.append(f"not complete: {len(truth):,} of {counted(every, 'clip')} were held out so far")
    elif best.folds == (FULL,):
        remarks.append("trained on every clip, so that nothing was held out to tell how good it is")
    else:
        remarks.append("the predictions that would tell how good it is are not there")
    if other := [fold for one in found if one.name == best.name and one is not best for fold in one.folds]:
        remarks.append(f"without fold {joined(other)}, which has other settings")
    if best.config.limit:
        remarks.append(f"a dry run on {counted(best.config.limit, 'clip')}")
    if best.stale:
        remarks.append("trained on other folds or labels than there are now")
    return "; ".join([said, *remarks])


def _nothing(config: InferenceConfig, found: Sequence[Candidate]) -> str:
    """The error where no run can be used, and the way out."""
    runs = config.work / "runs"
    if found:
        asked = command_line(InferenceConfig(features=config.features, models=config.models, tag=config.tag))
        names = ", ".join(dict.fromkeys(one.name for one in found))
        return f"{runs}: no finished run has the size, network and tag of {asked}; there is {names}"
    if begun := sorted(path.parents[1].name for path in runs.glob(f"*/fold*/{LAST}")):
        if config.checkpoint != "last":
            return f"{runs}: no finished fold has a {config.checkpoint}.ckpt; leave --checkpoint out"
        return f"{runs}: training has not finished; run the train.py command of {begun[0]} again"
    if (config.work / STORE).exists():
        return f"{runs}: nothing is trained yet; {command_line(TrainConfig(work=config.work))} trains"
    first = command_line(PreprocessConfig(Path("DATASET"), config.work))
    return f"{config.work}: holds no runs; give the folder that does, -w FOLDER, or begin with {first}"
