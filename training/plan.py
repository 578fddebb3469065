"""The plan of a command: which runs it trains, with every option that it leaves open decided.

A plan is options in full: a run of it is the same as one explicit command. It is kept in the work folder, so that a
command that was interrupted, or is given for another fold, finds the same plan, whatever a later version would choose.
Plans depend on the clips and the machine; where two processes come to different ones, the first that is kept counts.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arg import AUGMENT_PRESETS, FULL, OPTIMIZERS, AugmentOptions, FeatureOptions, OptimOptions, RunConfig, TrainConfig
from system.errors import UserError, first_line
from system.extensions import REGISTERED
from system.files import replacing
from system.locks import locked
from system.options import command_line, from_plain, to_plain
from system.paths import PLANS
from training.budget import members_of
from training.facts import facts_of, machine_of
from training.resolve import BATCH_SIZE, choose_folds, feature_options, options_of, resolve
from training.rules import Choice, fill, is_open
from training.runs import started_run

if TYPE_CHECKING:
    import torch

    from dataset import Store

PER_CALL = ("input_path", "work", "folds", "gpus", "limit", "restart", "logger", "plan", "extensions")  # no part of it
MODEL_BEFORE_PLANS = "resnet18"  # what -m stood for where it was left open


@dataclass(frozen=True)
class Plan:
    """What a command trains."""

    members: tuple[TrainConfig, ...]  # in the order in which they are trained; nothing is left open
    choices: tuple[Choice, ...]


def make_plan(
    config: TrainConfig, store: Store, device: torch.device, devices: int = 1, ends: float = math.inf
) -> Plan:
    """The plan that was made before for the same options and clips, or else a new one, which is kept.

    A new one takes over what folds of its run have that stand there without a plan. A dry run, and --plan, keep none.
    With --budget it is for so many devices, and is to be over by `ends`, of time.monotonic().
    """
    from model import check_start

    before = stored_plan(config, store)
    if before is not None and not _anew(config, before, store):
        return before
    member, choices = complete(config, store, device)
    members, more = members_of(config, member, store, device, devices, ends)
    if config.budget and config.optim.epochs is None:  # what else depends on the epochs is planned for those that fit
        fits, optim = members[0], dataclasses.replace(config.optim, epochs=members[0].optim.epochs)
        again = dataclasses.replace(config, optim=dataclasses.replace(optim, precision=fits.optim.precision))
        if fits.features != member.features:
            again = dataclasses.replace(again, features=fits.features)
        member, choices = complete(again, store, device)
        members = (dataclasses.replace(member, folds=fits.folds), *members[1:])
    plan = Plan(members, (*choices, *more))
    if config.plan or config.limit:
        return plan
    check_start(_first(member, store, device))  # what is wrong with network or weights is said before it is kept
    return store_plan(config, store, plan)


def complete(config: TrainConfig, store: Store, device: torch.device) -> tuple[TrainConfig, list[Choice]]:
    """A member of a plan: `config` with nothing left open, and the choices with their reasons."""
    if not config.restart and (begun := _before_plans(config, store)):
        return begun, [Choice(f"as runs/{_run_of(begun, store).name}", "begun before there were plans")]
    planned, choices = dataclasses.replace(config, preset=None, budget=None, plan=False), list[Choice]()
    if is_open(config):
        planned, choices = fill(config, facts_of(store), machine_of(device))
    there = None if config.restart or config.budget else _begun(planned, store)
    if there and not is_open(config):  # all but what is measured follows from the options
        precision = there.optim.precision if config.optim.precision == "auto" else config.optim.precision
        return dataclasses.replace(planned, optim=dataclasses.replace(planned.optim, precision=precision)), []
    if there and _known(there.optim.optimizer):
        same = _as_begun(config, planned, there)
        why = "what is there of it was begun so; --restart plans it anew, --tag NAME another beside it"
        name = _run_of(planned, store).name
        return same, [Choice(f"as runs/{name}", why)]
    run = _first(planned, store, device)
    if device.type == "cpu" and planned.optim.precision == "auto":
        planned, run = _with_precision(planned, run, choices)
    if not is_open(config):
        return planned, []
    return _explicit(config, planned, run, choices), choices


def _first(config: TrainConfig, store: Store, device: torch.device) -> RunConfig:
    return resolve(config, store, choose_folds(config, store)[0], device)


def _with_precision(config: TrainConfig, run: RunConfig, choices: list[Choice]) -> tuple[TrainConfig, RunConfig]:
    """`config` with bfloat16 where this processor is faster so; "auto" stays where not: that is float32 here."""
    from training.tuning import processor_precision

    if processor_precision(run) != "bf16":
        return config, run
    choices.append(Choice("precision bf16", "steps of the network are clearly faster in bfloat16 on this processor"))
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, precision="bf16"))
    return config, dataclasses.replace(run, optim=dataclasses.replace(run.optim, precision="bf16"))


def _explicit(asked: TrainConfig, config: TrainConfig, run: RunConfig, choices: list[Choice]) -> TrainConfig:
    """`config` with every value of `run`, which is its own, so that other defaults change nothing."""
    from training.tuning import scaled_rate

    optim = OptimOptions(**vars(run.optim))
    why = "the fewest errors of those that were measured"
    if optim.optimizer == "adamw":
        why = "muon would more than double the arithmetic of so small a feature, or so wide a network"
    rate = f"peak rate {optim.lr:g}"
    if asked.optim.lr is None and asked.optim.batch_size is None and optim.batch_size != BATCH_SIZE:
        scaled = scaled_rate(run.optim.lr, run.optim.optimizer, run.optim.batch_size, BATCH_SIZE)
        optim = dataclasses.replace(optim, lr=float(f"{scaled:.3g}"))
        rate = f"peak rate {optim.lr:g}"
        why += f"; the rate is that of {BATCH_SIZE} clips a batch, {run.optim.lr:g}, scaled to {optim.batch_size}"
    if asked.optim.optimizer == "auto":
        choices.append(Choice(f"{optim.optimizer}, {rate}", why))
    augment = _augment_of(config.augment, run)
    features = config.features
    if features.n_fft is None:
        features = dataclasses.replace(features, n_fft=run.features.n_fft)
    return dataclasses.replace(config, features=features, optim=optim, augment=augment)


def _augment_of(asked: AugmentOptions, run: RunConfig) -> AugmentOptions:
    """`asked` with the values of a run in place of what it leaves open."""
    own = run.augment
    preset = asked.preset or max(AUGMENT_PRESETS, key=lambda name: _alike(AUGMENT_PRESETS[name], own))
    return AugmentOptions(preset, *(
        getattr(own, name) if getattr(asked, name) is None else getattr(asked, name)
        for name in ("speed", "mixup_alpha", "equalizer")
    ))  # fmt: skip


def _alike(one: object, other: object) -> int:
    return sum(value == getattr(other, name) for name, value in vars(one).items())


# ----------------------------------------------------------------------------------- what stands there without a plan


def _begun(config: TrainConfig, store: Store) -> RunConfig | None:
    """A fold that stands in the run of `config`, trained on the same clips; one of those asked for, if there is."""
    folder = _run_of(config, store)
    asked = [f"fold{fold}" for fold in config.folds or ()]
    paths = sorted(folder.glob("fold*"), key=lambda path: (path.name not in asked, path.name == f"fold{FULL}", path))
    runs = (started_run(path) for path in paths)
    same = (store.folds_hash, config.limit)
    return next((run for run in runs if run and (run.folds_hash, run.limit) == same), None)


def _known(optimizer: str) -> bool:
    """Whether an optimiser is built in, or an extension that is loaded."""
    return optimizer in OPTIMIZERS or optimizer in REGISTERED["optimizer"]


def _run_of(config: TrainConfig, store: Store) -> Path:
    """The folder of a run, all its folds."""
    from arg import run_name

    features = config.features.resolve(store.sample_rate, store.clip_samples)
    name = run_name(str(config.model), features.n_mels, features.frames, config.tag)
    return config.work / "runs" / name


def _as_begun(asked: TrainConfig, config: TrainConfig, run: RunConfig) -> TrainConfig:
    """`config` with what `asked` leaves open as in a fold that was begun."""

    def filled(given: OptimOptions) -> OptimOptions:
        values = {name: value for name, value in vars(given).items() if value not in (None, "auto")}
        own = dict(vars(run.optim))
        if values.get("optimizer", own["optimizer"]) != own["optimizer"]:
            own |= {"lr": None, "weight_decay": None}
        return OptimOptions(**(own | values))

    features = config.features
    own = feature_options(run.features)
    same = {name: getattr(own, name) if value is None else value for name, value in vars(asked.features).items()}
    if features.hop_samples or (same["frames"] and same["hop_samples"]):
        same |= {name: getattr(features, name) for name in ("size", "n_mels", "frames", "hop_samples")}
    same["fmin"] = asked.features.fmin or own.fmin
    augment = _augment_of(asked.augment, run)
    return dataclasses.replace(config, features=FeatureOptions(**same), optim=filled(asked.optim), augment=augment)


def _before_plans(config: TrainConfig, store: Store) -> TrainConfig | None:
    """The run that a version without plans has begun for the same options, where one has; it kept no plans."""
    if not is_open(config) or config.preset or config.budget or (config.work / "runs" / PLANS).exists():
        return None
    named = dataclasses.replace(config, model=config.model or MODEL_BEFORE_PLANS)
    bands, frames = config.features.bands_and_frames
    size: dict[str, Any] = {"n_mels": bands, "frames": None if config.features.hop_samples else frames}
    named = dataclasses.replace(named, features=dataclasses.replace(config.features, size=None, **size))
    run = _begun(named, store)
    if run is None or not _known(run.optim.optimizer):
        return None
    was = dataclasses.replace(named, optim=dataclasses.replace(named.optim, batch_size=run.optim.batch_size))
    if dataclasses.replace(resolve(was, store, run.fold), optim=run.optim) != run:
        return None  # asked for by other options
    return _as_begun(config, named, run)


# ------------------------------------------------------------------------------------------------ plans that are kept


def stored_plan(config: TrainConfig, store: Store) -> Plan | None:
    path = config.work / "runs" / PLANS
    entry = _read(path).get(_key(config))
    try:
        return None if entry is None or entry["folds_hash"] != store.folds_hash else _revived(config, entry)
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        why = first_line(error)
        print(f"warning: {path}: a plan of another version, or damaged ({why}): planned anew", file=sys.stderr)
        return None


def _revived(config: TrainConfig, entry: dict[str, Any]) -> Plan:
    call = {name: getattr(config, name) for name in PER_CALL if name != "plan"}
    members = []
    for options in entry["members"]:
        member = from_plain(TrainConfig, options)
        own = {"folds": member.folds} if config.folds is None else {}
        members.append(dataclasses.replace(member, **{**call, **own}))
    if not members or any(member.model is None for member in members):
        raise ValueError("names no network")
    return Plan(tuple(members), tuple(Choice(**choice) for choice in entry["choices"]))


def _anew(config: TrainConfig, plan: Plan, store: Store) -> bool:
    """Whether --restart is for all that there is: else the folds that stay would stand beside others."""
    if not config.restart:
        return False
    folders = {_run_of(member, store) for member in plan.members}
    there = {path.name for folder in folders for path in folder.glob("fold*")}
    return config.folds is None or there <= {f"fold{fold}" for fold in config.folds}


def store_plan(config: TrainConfig, store: Store, plan: Plan) -> Plan:
    """Keep a plan, and return it, or the one that another process has kept meanwhile."""
    path = config.work / "runs" / PLANS
    path.parent.mkdir(parents=True, exist_ok=True)
    members = []
    for member in plan.members:
        options = to_plain(member)
        keep = () if config.folds is not None else ("folds",)
        members.append({name: value for name, value in options.items() if name in keep or name not in PER_CALL})
    entry = {
        "folds_hash": store.folds_hash,
        "choices": [dataclasses.asdict(choice) for choice in plan.choices],
        "members": members,
    }
    with locked(path.with_name(f".{path.name}.lock")):
        if not config.restart and (first := stored_plan(config, store)):
            return first
        with replacing(path) as beside:
            text = json.dumps(_read(path, tell=True) | {_key(config): entry}, indent=1)
            beside.write_text(f"{text}\n", "utf-8", newline="\n")
    return plan


def _key(config: TrainConfig) -> str:
    """What a plan is kept under: the options that it depends on, as a command."""
    plain = TrainConfig()
    preset = None if config.preset == "default" else config.preset
    config = dataclasses.replace(config, preset=preset, **{name: getattr(plain, name) for name in PER_CALL})
    return command_line(config).partition(plain.script)[2].strip("' ")


def _read(path: Path, tell: bool = False) -> dict[str, Any]:
    """All plans that are kept; none where the file is missing or, which is said, damaged."""
    try:
        plans = json.loads(path.read_text("utf-8"))
        if isinstance(plans, dict):
            return plans
        why = "no table"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        why = first_line(error)
    if tell:
        print(f"warning: {path}: damaged ({why}); what is planned takes its place", file=sys.stderr)
    return {}


# ------------------------------------------------------------------------------------------------------- what is said


def told(plan: Plan, store: Store, devices: list[torch.device], config: TrainConfig) -> str:
    """The plan in a few lines: each choice with its reason, what it takes, and the commands that say the same.

    "" where the options left nothing open, and are not asked about.
    """
    if not plan.choices and not config.plan:
        return ""
    from training.cost import cost, machine_name

    clips, seconds = len(store.clips("train")), store.clip_samples / store.sample_rate
    lines = [
        f"plan for {clips:,} clips of {len(store.classes)} classes, windows of {seconds:g} s at {store.sample_rate:,} "
        f"Hz, {store.folds} folds, on {machine_name(devices)}:"
    ]
    lines += [f"  {choice.what}: {choice.why}" for choice in plan.choices]
    for member in plan.members:
        run = _first(member, store, devices[0])
        if config.budget is None:  # which a trial has been made for
            lines += [f"  {line}" for line in cost(member, run, store, devices)]
        shown = {name: getattr(member, name) for name in (*PER_CALL, "tag") if name != "plan"}
        lines.append(f"  the same as: {command_line(options_of(run, **shown))}")
    return "\n".join(lines)
