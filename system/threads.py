"""How many threads to compute with: one for each core that other processes leave free.

Beside a busy process two threads on two cores are slower than one, since OpenMP's threads spin while they wait for each
other. Steps of melresnet on two cores, clips/s alone and beside an endless loop, medians of four rounds: 601 and 127
with two threads, 396 and 365 with one. Spinning less helps less and costs something alone: GOMP_SPINCOUNT=1000 made 567
and 236, OMP_WAIT_POLICY=passive 422 and 302.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from system.processes import cores

LEAST_SECONDS = 0.2  # of a measurement: the system counts in hundredths of a second


@contextlib.contextmanager
def free_threads() -> Iterator[None]:
    """Have torch compute in the body with as many threads as cores are free, and no more than it would by itself.

    Nothing changes where the environment says how many (OMP_NUM_THREADS). The load is measured while torch is imported.
    """
    started, before = time.monotonic(), others_seconds()
    import torch

    usual = torch.get_num_threads()
    if usual == 1 or "OMP_NUM_THREADS" in os.environ:
        yield
        return
    time.sleep(max(0.0, started + LEAST_SECONDS - time.monotonic()))  # where torch was there already
    busy = max(0.0, others_seconds() - before) / (time.monotonic() - started)  # cores, on average
    with computing_threads(min(usual, max(1, int(cores() - busy + 0.5)))):
        yield


@contextlib.contextmanager
def computing_threads(count: int | None) -> Iterator[int]:
    """Have torch compute with `count` threads in the body, or with as many as it does now; yields how many."""
    import torch

    usual = torch.get_num_threads()
    if count is None or count == usual:
        yield usual
        return
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(usual)


def others_seconds() -> float:
    """Processor time that other processes have had on this process's cores since the system started; 0: not known.

    Processes of low priority ("nice") do not count: they wait for this one.
    """
    try:
        names, ticks = {f"cpu{core}" for core in os.sched_getaffinity(0)}, os.sysconf("SC_CLK_TCK")
        with open("/proc/stat") as table:  # noqa: PTH123 (not a file of the user's)
            rows = [line.split() for line in table if line.split(maxsplit=1)[0] in names]
    except (OSError, AttributeError):  # not Linux
        return 0.0
    busy = sum(int(row[column]) for row in rows for column in (1, 3, 6, 7, 8))  # user, system, interrupts, stolen
    return busy / ticks - time.process_time()
