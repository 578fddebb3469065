"""What a person sees of a command: progress, durations, errors in one line."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TextIO, TypeVar

from system.errors import Stopped, UserError

Item = TypeVar("Item")


def command(main: Callable[[Sequence[str] | None], None]) -> Callable[..., int]:
    """Make a script's `main`: what the user can mend is one line on stderr; returns the exit status.

    In a notebook or another interactive interpreter it is an exception instead: a cell passes over a number.
    The work, whose results are files, continues to its end even where nobody reads its output any more.
    """

    def status(argv: Sequence[str] | None) -> int:
        if hasattr(sys, "ps1"):  # as in every interactive interpreter
            main(argv)
            return 0
        try:
            main(argv)
            sys.stdout.flush()
        except (UserError, OSError) as error:  # OSError: a full disk, a folder that may not be read or written
            print(f"error: {error}", file=sys.stderr)
            return 2
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            return stopped.status
        except KeyboardInterrupt:
            print("stopped by the user", file=sys.stderr)
            return 130
        return 0

    def wrapped(argv: Sequence[str] | None = None) -> int:
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # read once by torch: a Mac's CPU does the rest
        out: Any = sys.stdout and _Output(sys.stdout)  # None: nobody ever reads
        err: Any = sys.stderr and _Output(sys.stderr)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return status(argv)

    return wrapped


def counted(count: int, noun: str) -> str:
    """1 clip, 2,000 clips."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class _Output:
    """A stream that takes any text: what its encoding lacks is escaped, what has no reader any more goes nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a pipe on Windows has few letters

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._unless_unread(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._unless_unread(self._stream.flush)

    def _unless_unread(self, call: Callable[..., Any], *args: Any) -> None:
        try:
            call(*args)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EINVAL):  # Windows says EINVAL
                raise
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 (no file)
                os.dup2(nowhere.fileno(), self._stream.fileno())


def clock(seconds: float) -> str:
    """A duration as a person says it: 42 s, 3 min 20 s, 2 h 05 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def progress(items: Iterable[Item], total: int, what: str, every_seconds: float = 10.0) -> Iterator[Item]:
    """Yield `items`, showing how far it is and the time left: a bar on a terminal, else a line now and then."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=what, dynamic_ncols=True, leave=False)
        return
    start = said = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said >= every_seconds and done < total:
            left = clock((now - start) / done * (total - done))
            print(f"{what}: {done:,} of {total:,}, {left} left", file=sys.stderr, flush=True)
            said = now
