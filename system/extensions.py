"""Extensions: a user's own augmentations, losses, optimisers, views and networks, by name (docs/extending.md)."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from system.errors import UserError, first_line

Thing = TypeVar("Thing")
REGISTERED: dict[str, dict[str, Any]] = {"augmentation": {}, "loss": {}, "optimizer": {}, "view": {}}
_loaded: dict[str, str] = {}  # names of files, by their contents' hashes


def register(kind: str, name: str) -> Callable[[Thing], Thing]:
    """Make a class or function known under a name: an "augmentation", a "loss", an "optimizer" or a "view"."""

    def add(thing: Thing) -> Thing:
        if any(name in things for things in REGISTERED.values()):
            raise UserError(f"{name}: is registered already; use another name")
        REGISTERED[kind][name] = thing
        return thing

    return add


def with_options() -> dict[str, Any]:
    """What is registered and has options of its own, by name."""
    known = {name: thing for things in REGISTERED.values() for name, thing in things.items()}
    return {name: thing for name, thing in known.items() if dataclasses.is_dataclass(thing)}


def made(kind: str, name: str, values: Mapping[str, Any] | None = None) -> Any:
    """What is registered under a name, with its options. UserError where it is not: its file has not been loaded."""
    if name not in REGISTERED[kind]:
        raise UserError(f"{kind} {name}: not known here; give the file that defines it with --extension FILE")
    return REGISTERED[kind][name](**(values or {}))


def load(paths: Iterable[Path]) -> dict[str, str]:
    """Import files, each once, and return hashes of their contents by name. UserError names one that fails."""
    hashes = {}
    for path in paths:
        try:
            source = path.read_bytes()
        except OSError as error:
            raise UserError(f"--extension {path}: {error.strerror}") from None
        hashes[path.name] = digest = hashlib.sha256(source).hexdigest()
        if digest in _loaded:
            continue
        name = f"extension_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
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
        _loaded[digest] = path.name
    return hashes
