"""Die at each step that a run takes on the disk: what a kill or a power cut there would leave behind.

    with dies_at(None, work) as steps: run()       # counts: len(steps)
    with dies_at(3, work) as steps: run()          # Died, in place of step 3 (from 0) and of every later one

Steps are what changes files in a folder: opening for writing, renaming, removing, making and removing folders and
truncating, by this process, whatever function they are done through; and all that os.fsync does.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Died(BaseException):
    """In place of a step. As after a real death, nothing that the program does to clean up has any effect either."""


CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class _Shim:
    """Where steps are told of. An audit hook cannot be taken away, so that there is one for all."""

    def __init__(self) -> None:
        self.steps: list[str] | None = None  # None: not counting
        self.last: int | None = None
        self.folder = ""
        self.hooked = False

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.steps is None or not args or not isinstance(args[0], (str, bytes, os.PathLike)):
            return
        path = os.fsdecode(args[0])
        if (event in CHANGES or (event == "open" and args[2] & WRITING)) and path.startswith(self.folder):
            self.step(f"{event} {Path(path).name}")

    def step(self, what: str) -> None:
        assert self.steps is not None
        self.steps.append(what)
        if self.last is not None and len(self.steps) > self.last:
            raise Died(what)


_shim = _Shim()


@contextlib.contextmanager
def dies_at(step: int | None, folder: Path) -> Iterator[list[str]]:
    """Count the steps of the body in `folder`, and let it die in place of number `step`, if any; yields what they are.

    `folder` must be absolute, as must be the paths that the body uses.
    """
    if not _shim.hooked:
        sys.addaudithook(_shim.hook)
        _shim.hooked = True
    fsync = os.fsync

    def counted(fd: Any) -> None:
        _shim.step("fsync")
        fsync(fd)

    steps: list[str] = []
    _shim.steps, _shim.last, _shim.folder = steps, step, str(folder)
    os.fsync = counted
    try:
        yield steps
    finally:
        _shim.steps = None
        os.fsync = fsync
