"""Extensions: a user's own augmentations, losses, optimisers, views and networks, by name (docs/extending.md)."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from system.errors import UserError, first_line

Thing = TypeVar("Thing")
REGISTERED: dict[str, dict[str, Any]] = {"augmentation": {}, "loss": {}, "optimizer": {}, "view": {}}
NEEDED = {"augmentation": ("domain", "draw", "apply"), "optimizer": ("lr", "weight_decay")}  # attributes
DOMAINS = ("wave", "feature")  # what an augmentation may change
_loaded: dict[str, str] = {}  # the hash of each module's file


def register(kind: str, name: str) -> Callable[[Thing], Thing]:
    """Make a class or function known under a name: an "augmentation", a "loss", an "optimizer" or a "view"."""

    def add(thing: Thing) -> Thing:
        if any(name in things for things in REGISTERED.values()):
            raise UserError(f"{name}: is registered already; use another name")
        if lacking := [one for one in NEEDED.get(kind, ()) if not hasattr(thing, one)]:
            raise UserError(f"{name}: lacks {' and '.join(lacking)}, which an {kind} needs")
        if kind == "augmentation" and (thing.domain not in DOMAINS or not dataclasses.is_dataclass(thing)):  # type: ignore[attr-defined]
            raise UserError(f"{name}: needs a domain, {' or '.join(DOMAINS)}, and an option that switches it on")
        REGISTERED[kind][name] = thing
        return thing

    return add


def with_options() -> dict[str, Any]:
    """What is registered and has options of its own, by name."""
    known = {name: thing for things in REGISTERED.values() for name, thing in things.items()}
    return {name: thing for name, thing in known.items() if dataclasses.is_dataclass(thing)}


def load(paths: Iterable[Path]) -> dict[str, str]:
    """Import files, each once, and return hashes of their contents by name. UserError names one that fails."""
    hashes = {}
    for path in paths:
        try:
            source = path.read_bytes()
        except OSError as error:
            raise UserError(f"--extension {path}: {error.strerror}") from None
        hashes[path.name] = digest = hashlib.sha256(source).hexdigest()
        name = f"extension_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
        if _loaded.get(name) == digest:
            continue
        for things in REGISTERED.values():  # an earlier version of it
            for known in [known for known, thing in things.items() if thing.__module__ == name]:
                del things[known]
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise UserError(f"--extension {path}: not a Python file")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever a file of the user's may raise
            raise UserError(f"--extension {path}: {type(error).__name__}: {first_line(error)}") from error
        _loaded[name] = digest
    return hashes
