"""Processes that end with the one that started them."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import types
from collections.abc import Iterator


def end_with_parent() -> None:
    """Make this process, one of multiprocessing's, end with the one that started it, also where that is killed."""
    import multiprocessing

    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="end with parent", daemon=True).start()


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
