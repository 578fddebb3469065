"""Processes that train folds side by side, each on a device of its own."""

from __future__ import annotations

import contextlib
import io
import math
import multiprocessing
import multiprocessing.connection
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from arg import Fold, RunConfig, TrainConfig
from system.devices import keep_memory
from system.errors import Stopped, UserError
from system.extensions import load
from system.processes import ask_to_stop, end_of, noted_signals, start_process
from training.fold import quieten, train_fold
from training.table import Job, Table, summary

TICK_SECONDS = 0.25  # between two looks at signals and two drawings of the table
GRACE_SECONDS = 60.0  # that a fold has to stop by itself


class Line(NamedTuple):
    """What a process printed, with its newlines."""

    text: str
    error: bool  # to stderr


class Done(NamedTuple):
    """A fold is finished."""

    accuracy: float | None


class Failed(NamedTuple):
    """A fold cannot be trained."""

    line: str
    traceback: str  # empty for what the user can mend


class Worker:
    """A process that trains one fold after another on one device."""

    def __init__(self, config: TrainConfig, device: str, threads: int) -> None:
        self.device = device
        self.job: Job | None = None
        self.broken = False  # what went wrong may lie with the device
        self.connection, theirs = multiprocessing.Pipe()
        self.process = start_process(_work, theirs, config, device, threads)
        theirs.close()  # so that its end is noticed here

    def hand(self, job: Job | None, ends: float = math.inf) -> None:
        """Let it train `job`, to be over by `ends`, or end."""
        self.job = job
        if job is not None:
            job.state, job.device, job.started = "training", self.device, time.monotonic()
        with contextlib.suppress(OSError):  # it has died, which is noticed where it is listened to
            self.connection.send((job.run, ends) if job else None)


def train_side_by_side(
    config: TrainConfig, runs: Sequence[RunConfig], devices: Sequence[str], ends: float = math.inf
) -> list[Fold]:
    """Train `runs`, as many at a time as there are devices, and return the folds that are not trained in the end.

    All is over by `ends`, of time.monotonic(): the time left is divided over the rounds of folds left.
    A fold that fails does not stop the others. A device takes no further fold after a failure that may be its own.
    Results are those of training one by one with as many threads as each process gets here: its share of those that
    torch would use, which depends on the number of devices alone.

    SIGINT and SIGTERM are passed on, so that folds stop in a good state, and KeyboardInterrupt is raised then; a
    second one ends the processes at once.
    """
    import torch

    threads = max(1, torch.get_num_threads() // len(devices))
    jobs = [Job(run) for run in runs]
    waiting = deque(jobs)
    workers: list[Worker] = []
    table = Table(jobs)
    said = f"{len(jobs)} fold{'s' if len(jobs) > 1 else ''} on {', '.join(devices)}; threads for each: {threads}"
    spare = len(devices) - len(jobs)
    print(said + (f"; fewer folds than devices: {spare} of these stay idle" if spare > 0 else ""), flush=True)

    def turn() -> tuple[Job, float]:
        """The next fold, and when it is to be over."""
        now, rounds = time.monotonic(), math.ceil(len(waiting) / len(devices))
        return waiting.popleft(), now + (ends - now) / rounds

    def start(device: str) -> None:
        workers.append(Worker(config, device, threads))
        workers[-1].hand(*turn())

    def end(job: Job, state: str, why: str = "") -> None:
        job.state, job.seconds = state, time.monotonic() - job.started
        if why:
            table.say(f"fold {job.run.fold} {state} on {job.device}: {why}\n", error=True)
        table.say(f"{summary(jobs, len(workers), time.monotonic())}\n")

    def hear(worker: Worker, message: object) -> None:
        job = worker.job
        if isinstance(message, Line):
            table.say(*message)
        elif job is None:
            return
        elif isinstance(message, Done):
            job.accuracy = message.accuracy
            end(job, "done")
            worker.hand(*turn()) if waiting and not stops else worker.hand(None)
        elif isinstance(message, Failed):
            worker.job, worker.broken = None, bool(message.traceback)
            table.say(message.traceback, error=True)
            end(job, "failed", message.line)
        else:
            job.report, job.reported = message, time.monotonic()  # type: ignore[assignment]

    def bury(worker: Worker) -> None:
        workers.remove(worker)
        worker.process.join()
        worker.connection.close()
        if worker.job is not None and worker.job.state == "training":
            worker.broken = True
            how = end_of(worker.process.exitcode or 0)
            hint = ", perhaps for want of memory: use fewer devices at a time" if how == "SIGKILL" else ""
            end(worker.job, *(("stopped",) if stops else ("failed", f"its process ended with {how}{hint}")))
        if waiting and not worker.broken and not stops:
            start(worker.device)

    with noted_signals() as stops, table:
        stopping_since = None
        try:
            for device in devices[: len(jobs)]:
                start(device)
            while workers:
                by_connection: dict[Any, Worker] = {worker.connection: worker for worker in workers}
                for connection in multiprocessing.connection.wait(list(by_connection), TICK_SECONDS):
                    worker = by_connection[connection]
                    try:
                        message = worker.connection.recv()
                    except (EOFError, OSError):
                        bury(worker)
                    else:
                        hear(worker, message)
                if stops and stopping_since is None:
                    stopping_since = time.monotonic()
                    table.say(f"stopping, within {GRACE_SECONDS:.0f} s; once more ends it at once\n", error=True)
                    for worker in workers:
                        ask_to_stop(worker.process)
                if len(stops) > 1 or (stopping_since is not None and time.monotonic() - stopping_since > GRACE_SECONDS):
                    for worker in workers:
                        worker.process.kill()
                table.draw(summary(jobs, len(workers), time.monotonic()))
        finally:
            for worker in workers:
                worker.process.kill()
                worker.process.join()
    if stops:
        raise KeyboardInterrupt
    return [job.run.fold for job in jobs if job.state != "done"]


def _work(connection: multiprocessing.connection.Connection, config: TrainConfig, name: str, threads: int) -> None:
    """Train what comes through `connection` until None does, and tell how it goes; ends at the first failure."""
    sending = threading.Lock()

    def send(message: NamedTuple) -> None:
        with sending:
            connection.send(message)

    sys.stdout, sys.stderr = _Forwarded(send, error=False), _Forwarded(send, error=True)
    try:
        import torch
        from tqdm import tqdm

        from dataset import Store

        load(config.extensions)
        torch.set_num_threads(threads)
        device = torch.device(name)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # or libraries would take some of the first GPU's memory too
        quieten()
        tqdm.set_lock(threading.RLock())  # its own is a semaphore, whose loss is complained of when a process is killed
        keep_memory()
        store = Store.open(config.work).on(device)
        net = None
        while (job := connection.recv()) is not None:
            run, ends = job
            if store.folds_hash != run.folds_hash:
                raise UserError(f"{config.work} was prepared anew meanwhile: start again")
            net, scores = train_fold(config, store, run, device, report=send, net=net, ends=ends)
            send(Done(scores.get("accuracy")))
    except (UserError, OSError) as error:
        send(Failed(str(error), ""))
    except Stopped as stopped:
        send(Line(f"{stopped}\n", error=True))
        sys.exit(stopped.status)
    except (KeyboardInterrupt, SystemExit):  # asked to stop, most likely by the parent
        sys.exit(130)
    except BaseException as error:
        line = (str(error).strip() or "no message").splitlines()[0]
        send(Failed(f"{type(error).__name__}: {line}", traceback.format_exc()))


class _Forwarded(io.TextIOBase):
    """A stream whose text goes to the parent, in whole lines."""

    def __init__(self, send: Callable[[NamedTuple], None], error: bool) -> None:
        self._send = send
        self._error = error
        self._text = ""

    def write(self, text: str) -> int:
        self._text += text
        if self._text.endswith("\n"):
            self._send(Line(self._text, self._error))
            self._text = ""
        return len(text)
