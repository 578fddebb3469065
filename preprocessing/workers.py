"""Decoding processes. A file that crashes or hangs a process does not stop the run."""

from __future__ import annotations

import copy
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from system.errors import UserError
from system.processes import HANGS, contain, cores, end_of, light_context, main_module_hidden

Item = TypeVar("Item")
Result = TypeVar("Result")
Task = Callable[[list[Item]], Result]
STALL_SECONDS = 30.0  # without a block from a decoder: it hangs
SPARE_BYTES = 1 << 30  # of memory that a decoding process may take, whatever a file's header asks for
PRELOAD = ("preprocessing.decode", "preprocessing.audit", "preprocessing.duplicates", "scipy.fft", "soundfile", "soxr")


def isolated(
    task: Task[Item, Result], chunks: Iterable[list[Item]], lost: Callable[[Item, str], Result]
) -> Iterator[Result]:
    """`task` of each chunk of files, in their order, in other processes.

    Where a process ends over its chunk, the chunks under way are repeated by fresh processes, file by file; for a file
    over which one ends again, `lost` is given it and what it does to a process. So a chunk may give several results.
    Few chunks are under way at a time: memory stays flat. What `task` raises is raised here.
    """
    rest = iter(chunks)
    first = list(islice(rest, cores()))
    rest = chain(first, rest)
    under_way = deque[tuple[list[Item], Future[Result]]]()
    pool: _Pool | None = None
    try:
        while True:
            for chunk in islice(rest, 4 * len(first) - len(under_way)):
                pool = pool or _Pool(len(first))
                under_way.append((chunk, pool.submit(task, chunk)))
            if not under_way:
                return
            try:
                result = under_way[0][1].result()
            except BrokenProcessPool:
                assert pool is not None
                pool.cause()
                pool = None
                yield from _repeated(task, under_way, lost)
                under_way.clear()
            else:
                under_way.popleft()
                yield result
    finally:
        if pool:
            pool.end()


def _repeated(
    task: Task[Item, Result], broken: Iterable[tuple[list[Item], Future[Result]]], lost: Callable[[Item, str], Result]
) -> Iterator[Result]:
    """The results of the chunks that were under way in a pool that broke, file by file where there are none yet."""
    pool: _Pool | None = None
    try:
        for chunk, future in broken:
            if future.exception() is None:
                yield future.result()
                continue
            for item in chunk:
                pool = pool or _Pool(1)
                try:
                    yield pool.submit(task, [item]).result()
                except BrokenProcessPool:
                    reason, pool = pool.cause(), None
                    yield lost(item, reason)
    finally:
        if pool:
            pool.end()


class _Pool:
    """A pool of processes that can be killed, and that tells why it broke."""

    def __init__(self, processes: int) -> None:
        context: Any = copy.copy(light_context(PRELOAD))
        make, self._processes = context.Process, list[BaseProcess]()

        def made(*args: Any, **options: Any) -> BaseProcess:
            self._processes.append(make(*args, **options))
            return self._processes[-1]

        context.Process = made
        processes = min(processes, 61)  # Windows waits for no more
        self._pool = ProcessPoolExecutor(processes, context, initializer=contain, initargs=(SPARE_BYTES,))
        self._begun = self.submit(len, [])

    def submit(self, task: Task[Item, Result], chunk: list[Item]) -> Future[Result]:
        try:
            with main_module_hidden():  # starts a process where none is idle
                return self._pool.submit(task, chunk)
        except BrokenProcessPool as error:  # since the last result
            broken = Future[Result]()
            broken.set_exception(error)
            return broken

    def cause(self) -> str:
        """What a file has done to the process that broke the pool; UserError where no process had begun."""
        self._pool.shutdown()  # it has ended the other processes
        codes = [process.exitcode or 0 for process in self._processes]
        code = next((code for code in codes if code not in (0, -signal.SIGTERM)), codes[0])
        reason = f"crashes ({end_of(code)})"
        if self._begun.exception():
            raise UserError(f"a decoding process {reason} before it has begun: free memory")
        return f"hangs, no sound came in {STALL_SECONDS:g} s" if code == HANGS else reason

    def end(self) -> None:
        for process in self._processes:
            process.kill()
        self._pool.shutdown(cancel_futures=True)
