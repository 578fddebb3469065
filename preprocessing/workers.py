"""Processes that decode, of which a bad file may crash one without stopping the run."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import resource
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count, islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from system.errors import UserError
from system.processes import main_module_hidden

Result = TypeVar("Result")
STALL_SECONDS = 30.0  # without a block from a decoder: it hangs
SPARE_BYTES = 1 << 30  # of memory that a decoding process may take, whatever a file's header asks for


def isolated(
    task: Callable[[list[str]], Result], chunks: Iterable[list[str]], lost: Callable[[str, str], Result]
) -> Iterator[Result]:
    """`task` of each chunk of paths, in their order, by processes that a bad file may take along.

    Where one dies, another goes on with that chunk, file by file; for a file over which it dies again, `lost` is told
    its path and what it does to a process. So a chunk may give several results. Few chunks are under way at a time:
    memory stays flat. What `task` raises is raised here.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rest = iter(chunks)
    first = list(islice(rest, cores))
    rest = chain(first, rest)
    processes = [_Process(task) for _ in first]
    results: dict[int, list[Result]] = {}  # of the chunks under way
    left: dict[int, int] = {}  # parts of each that are still to come
    sent = 0

    def collect(process: _Process[Result]) -> None:
        part = process.parts[0]
        try:
            result = process.receive()
        except (EOFError, OSError):  # it has died
            reason = process.end(grace=0.1)
            process.parts.popleft()
            if part.again:
                results[part.chunk].append(lost(part.paths[0], reason))
                left[part.chunk] -= 1
            else:
                alone = [_Part(part.chunk, [path], again=True) for path in part.paths]
                process.parts.extendleft(reversed(alone))
                left[part.chunk] += len(alone) - 1
            process.start()
            return
        if isinstance(result, Exception):
            raise result
        process.parts.popleft()
        results[part.chunk].append(result)
        left[part.chunk] -= 1

    def send(process: _Process[Result], chunk: int) -> bool:
        """Whether there was another chunk to send."""
        paths = next(rest, None)
        if paths is not None:
            results[chunk], left[chunk] = [], 1
            process.send(_Part(chunk, paths))
        return paths is not None

    try:
        for chunk in count():
            while True:
                for process in processes:
                    while len(process.parts) < 2 and sent < chunk + 4 * len(processes) and send(process, sent):
                        sent += 1
                if chunk == sent:
                    return
                busy = {process.pipe: process for process in processes if process.parts}
                for pipe in wait(list(busy), None if left[chunk] else 0):
                    collect(busy[pipe])  # type: ignore[index]
                if not left[chunk]:
                    break
            del left[chunk]
            yield from results.pop(chunk)
    finally:
        for process in processes:
            process.end()


class _Part(NamedTuple):
    """Files that a process takes at a time."""

    chunk: int
    paths: list[str]
    again: bool = False  # a process has died over it already


class _Process(Generic[Result]):
    """A process that does parts in turn; where it has died, `end` and `start` make another, which does them instead."""

    pipe: Connection

    def __init__(self, task: Callable[[list[str]], Result]) -> None:
        self._task = task
        self.parts = deque[_Part]()  # under way, in order
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("forkserver")  # the first one costs a start, the others next to nothing
        context.set_forkserver_preload(["preprocessing.decode", "preprocessing.audit", "soundfile", "soxr"])
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=decode_parts, args=(theirs, self._task), daemon=True)
        with main_module_hidden():
            self._process.start()
        theirs.close()
        self._started = False
        for part in self.parts:
            self._send(part)

    def send(self, part: _Part) -> None:
        self.parts.append(part)
        self._send(part)

    def _send(self, part: _Part) -> None:
        with contextlib.suppress(OSError):  # it has died, as `receive` will say
            self.pipe.send(part.paths)

    def receive(self) -> Result | Exception:
        """What came of the first part; EOFError or OSError is raised where the process has died over it."""
        if not self._started:
            try:
                self.pipe.recv()
            except (EOFError, OSError):
                raise UserError(f"a decoding process {self.end(grace=0.1)} before it has begun: free memory") from None
            self._started = True
        return self.pipe.recv()

    def end(self, grace: float = 0) -> str:
        """End it; returns what a file must have done to it where it ends by itself in `grace` seconds."""
        self.pipe.close()
        self._process.join(grace)
        self._process.kill()
        self._process.join()
        code = self._process.exitcode or 0
        if code == -signal.SIGALRM:
            return f"hangs, no sound came in {STALL_SECONDS:g} s"
        return f"crashes ({signal.Signals(-code).name if code < 0 else f'exit status {code}'})"


def decode_parts(pipe: Connection, task: Callable[[list[str]], Any]) -> None:
    """What a decoding process does: `task` of what comes through the pipe, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent alone
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries say of damaged files: the reasons are in REJECTED
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    _limit_memory()
    with contextlib.suppress(EOFError, OSError):  # the parent has ended
        pipe.send("ready")
        while True:
            paths = pipe.recv()
            try:
                result = task(paths)
            except Exception as error:
                result = error
            pipe.send(result)


def _limit_memory() -> None:
    """Let this process take SPARE_BYTES more memory than it has, where the system tells how much that is (Linux)."""
    status = Path("/proc/self/status")
    if found := re.search(r"VmData:\s*(\d+) kB", status.read_text()) if status.exists() else None:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = int(found[1]) * 1024 + SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))
