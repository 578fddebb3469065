"""Locks between processes, which the system takes from a process that ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from system.errors import UserError

# What a file system without locks says: no such call, no lock server, no such operation (under two names on macOS;
# FUSE and Windows say EINVAL). ENOSYS is also filelock's answer on a system that it has no locks for.
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
_warned: set[int] = set()  # file systems, by number


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`, a file made for that, which stays; waits for whoever has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        _take(file.fileno(), path, wait=True)
        yield


@contextlib.contextmanager
def claimed(path: Path, doing: str, otherwise: str) -> Iterator[None]:
    """Hold an exclusive lock on `path`, a file made for that, which goes.

    UserError where another process has it: "`doing` by process 12 on host since …: `otherwise`".
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("ab+", buffering=0)
        if not _take(file.fileno(), path, wait=False):
            with file:
                file.seek(1)  # Windows lets nobody else read the first byte, which is what is locked
                holder = file.read().decode("utf-8", "replace").strip() or "another process"
            raise UserError(f"{doing} by {holder}: {otherwise}")
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()  # whoever held it has removed it between the two calls, and another may have made a new one
    try:
        with file:
            file.truncate(0)
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            file.write(f"\nprocess {os.getpid()} on {socket.gethostname()} since {since}\n".encode())
            try:
                yield
            finally:
                if os.name != "nt":  # before another process can take it
                    path.unlink(missing_ok=True)
    finally:
        if os.name == "nt":  # which removes no open file, so not one that another process has taken
            with contextlib.suppress(OSError):
                path.unlink()


def _take(file: int, path: Path, wait: bool) -> bool:
    """Lock an open file; returns False where another process has it. Where there are no locks, warns and goes on."""
    from filelock import lock_descriptor  # none of its lock files, which outlive a process that is killed

    try:
        return lock_descriptor(file, blocking=wait)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    if (device := path.parent.stat().st_dev) not in _warned:
        _warned.add(device)
        advice = "run one command at a time on it"
        print(f"warning: {path.parent} is on a file system without locks: {advice}", file=sys.stderr, flush=True)
    return True
