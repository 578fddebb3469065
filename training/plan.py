"""The plan of a command: which runs it trains, with every option that it leaves open decided.

A plan is options in full: a run of it is the same as one explicit command. It is kept in the work folder, so that a
command that was interrupted, or is given for another fold, finds the same plan, whatever a later version would choose.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arg import TrainConfig
from system.files import replacing
from system.locks import locked
from system.options import command_line, from_plain, to_plain
from training.budget import members_of
from training.facts import facts_of, machine_of
from training.rules import Choice, fill

if TYPE_CHECKING:
    import torch

    from dataset import Store

PLANS = "plans.json"  # under runs/
PER_CALL = ("input_path", "work", "folds", "gpus", "limit", "restart", "logger", "plan", "extensions")  # no part of it


@dataclass(frozen=True)
class Plan:
    """What a command trains."""

    members: tuple[TrainConfig, ...]  # in the order in which they are trained; nothing is left open
    choices: tuple[Choice, ...]


def make_plan(
    config: TrainConfig, store: Store, device: torch.device, devices: int = 1, ends: float = math.inf
) -> Plan:
    """The plan that was made before for the same options and folds, or else a new one, which is kept.

    With --budget it is for so many devices, and is to be over by `ends`, of time.monotonic().
    """
    before = None if config.restart else stored_plan(config, store)
    if before is not None:
        return before
    member, choices = fill(config, facts_of(store), machine_of(device))
    members, more = members_of(config, member, store, device, devices, ends)
    plan = Plan(members, (*choices, *more))
    if not config.plan:
        store_plan(config, store, plan)
    return plan


def told(plan: Plan) -> str:
    """The plan in a few lines: each choice with its reason, and the commands that say the same."""
    lines = [f"plan: {choice.what} ({choice.why})" for choice in plan.choices]
    if plan.choices:
        lines += [f"  the same as: {command_line(member)}" for member in plan.members]
    return "\n".join(lines)


def stored_plan(config: TrainConfig, store: Store) -> Plan | None:
    entry = _read(config.work / "runs" / PLANS).get(_key(config))
    if entry is None or entry["folds_hash"] != store.folds_hash:
        return None
    call = {name: getattr(config, name) for name in PER_CALL if name != "plan"}
    members = []
    for options in entry["members"]:
        member = from_plain(TrainConfig, options)
        own = {"folds": member.folds} if config.folds is None else {}
        members.append(dataclasses.replace(member, **{**call, **own}))
    return Plan(tuple(members), tuple(Choice(**choice) for choice in entry["choices"]))


def store_plan(config: TrainConfig, store: Store, plan: Plan) -> None:
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
        plans = _read(path) | {_key(config): entry}
        with replacing(path) as beside:
            beside.write_text(json.dumps(plans, indent=1) + "\n", "utf-8")


def _key(config: TrainConfig) -> str:
    """What a plan is kept under: the options that it depends on, as a command."""
    plain = TrainConfig()
    return command_line(dataclasses.replace(config, **{name: getattr(plain, name) for name in PER_CALL})).partition(
        "train.py"
    )[2]


def _read(path: Path) -> dict[str, Any]:
    try:
        plans: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return plans
