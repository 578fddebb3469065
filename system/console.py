"""What a person sees of a command: progress, durations, errors in one line."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from system.errors import Stopped, UserError

Item = TypeVar("Item")


def command(main: Callable[[Sequence[str] | None], None]) -> Callable[..., int]:
    """Make a script's `main`: what the user can mend is one line on stderr; returns the exit status.

    Its work, whose results are files, goes on to the end where nobody reads any more what it prints.
    """

    def status(argv: Sequence[str] | None) -> int:
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
        with _without_readers("stdout"), _without_readers("stderr"):
            return status(argv)

    return wrapped


class _Drain(io.FileIO):
    """A stream that takes what it is given also when its reader, such as `head` or a pager, has ended."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


@contextlib.contextmanager
def _without_readers(name: str) -> Iterator[None]:
    """Have "stdout" or "stderr" of this process work without a reader in the body, unless a caller has replaced it."""
    stream = getattr(sys, name)
    if stream is None or stream is not getattr(sys, f"__{name}__"):
        yield
        return
    stream.flush()
    drained: Any = _Drain(stream.fileno(), "w", closefd=False)
    drain = io.TextIOWrapper(
        drained if stream.write_through else io.BufferedWriter(drained),  # python -u buffers nothing
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    setattr(sys, name, drain)
    try:
        yield
    finally:
        setattr(sys, name, stream)
        with contextlib.suppress(OSError):  # which has been said
            drain.flush()


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
