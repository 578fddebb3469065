"""Worker processes: how they start, what a bad file may do to one, and that they end with the one that started them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from system.devices import keep_memory
from system.errors import Stopped

HANGS = 124  # exit status of a process that `watchdog` has ended, as timeout(1) has it


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def light_context(preload: Sequence[str]) -> BaseContext:
    """The start method for processes without torch: forkserver, with `preload` imported, or spawn on Windows."""
    import multiprocessing

    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context


def contain(spare_bytes: int) -> None:
    """Prepare this process, one of multiprocessing's, for files that may crash it.

    It ends with its parent, leaves Ctrl-C to it, keeps silent on stderr and writes no core file. It keeps the memory of
    one file for the next and, where the system can limit that, takes at most `spare_bytes` more than it has now.
    """
    end_with_parent()
    keep_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        status = Path("/proc/self/status")  # Linux
        if found := re.search(r"VmData:\s*(\d+) kB", status.read_text()) if status.exists() else None:
            hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
            limit = int(found[1]) * 1024 + spare_bytes
            resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


@contextlib.contextmanager
def watchdog(seconds: float) -> Iterator[Callable[..., None]]:
    """End this process with status HANGS if the body goes `seconds` without calling the function that it is given.

    That takes the seconds until it must be called again, if those are others. The dog is a thread: it works on every
    system, and while C code runs that releases the interpreter.
    """
    deadline, over = time.monotonic() + seconds, threading.Event()

    def feed(seconds: float = seconds) -> None:
        nonlocal deadline
        deadline = time.monotonic() + seconds

    def watch() -> None:
        while not over.wait(min(max(deadline - time.monotonic(), 0.01), seconds)):
            if time.monotonic() >= deadline:
                os._exit(HANGS)

    threading.Thread(target=watch, name="watchdog", daemon=True).start()
    try:
        yield feed
    finally:
        over.set()


def end_with_parent() -> None:
    """Make this process, one of multiprocessing's, end with the one that started it, also where that is killed."""
    import multiprocessing

    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="end with parent", daemon=True).start()


def start_process(target: Callable[..., None], *args: Any) -> BaseProcess:
    """A new process, of which nothing is this one's copy, that calls `target`; a Ctrl-C does not reach it.

    On Windows it does, and ends what the process does, if `target` does not see to it.
    """
    import multiprocessing

    process = multiprocessing.get_context("spawn").Process(target=_apart, args=(target, args))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # is inherited until the new process is on its own
    try:
        with main_module_hidden():
            process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    return process


def _apart(target: Callable[..., None], args: tuple[Any, ...]) -> None:
    if os.name != "nt":
        os.setpgid(0, 0)  # no longer among the terminal's processes
    end_with_parent()
    target(*args)


def ask_to_stop(process: BaseProcess) -> None:
    """Send SIGTERM; on Windows, where that would be a kill, the Ctrl-C that ends this process has reached `process`."""
    if os.name != "nt":
        process.terminate()


def end_of(exitcode: int) -> str:
    """How a process has ended: "status 1", "SIGSEGV"."""
    if exitcode >= 0:
        return f"status {exitcode}"
    try:
        return signal.Signals(-exitcode).name
    except ValueError:
        return f"signal {-exitcode}"


@contextlib.contextmanager
def noted_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM do nothing in the body but add to the list."""
    noted: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: noted.append(number)) for number in numbers}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Signals:
    """SIGINT and SIGTERM during training: the first one asks it to stop, after which SIGINT stops it at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def listen(self) -> None:
        """Replace Lightning's handlers, which restore those before them in the end; in a main thread only."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._handle)

    def stopped(self, where: str) -> Stopped:
        """What to raise for the signal that was received; training resumes from `where`."""
        assert self.received
        text = f"stopped by {self.received.name}; the same command (without --restart) resumes from {where}"
        return Stopped(text, 128 + self.received)

    def _handle(self, number: int, _: Any) -> None:
        if number == signal.SIGINT and self.received:
            raise KeyboardInterrupt
        if self.received is None:
            with contextlib.suppress(OSError):  # nobody reads it
                # print may be under way
                os.write(2, b"stopping after this batch, once it is saved; Ctrl-C stops at once\n")
        self.received = signal.Signals(number)


@contextlib.contextmanager
def main_module_hidden() -> Iterator[None]:
    """Keep processes that are started in the body, by spawn or forkserver, from importing this one's script again.

    Each would do that to find what it defines, and so do again what a script does without
    ``if __name__ == "__main__"``: prepare data, for one, which waits for the lock that the first process holds. What
    such a process is to do must be in another module.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")  # without a file: nothing to import
    try:
        yield
    finally:
        sys.modules["__main__"] = main
