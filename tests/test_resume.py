"""A training that is interrupted anywhere and resumed ends as one that never was: bit by bit, on a CPU."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch

import callback
import train
from model import Classifier, read_checkpoint
from system.threads import computing_threads
from tests.conftest import one_error_line
from tests.crash import Died, dies_at

BATCHES = 3  # an epoch, of 6 clips
OPTIONS = ["-t", "32", "-m", "test_resnet", "--batch-size", "6", "-g", "cpu", "-f", "0", "--epochs", "2"]
OPTIONS += ["--optimizer", "muon"]
FOLD = Path("runs", "test_resnet-32x32", "fold0")


@pytest.fixture(autouse=True)
def _saved_after_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(callback, "SAVE_SHARE", float("inf"))
    monkeypatch.setattr("training.tuning.expected_seconds", lambda *_: 1.0)
    monkeypatch.setattr(callback, "draw_curve", lambda *_: None)  # both take as long as the training
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, drop_rate=0.5))  # draws from torch's own


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """A network this small is no faster with more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def work(store_work: Path, tmp_path: Path) -> Path:
    shutil.copytree(store_work, tmp_path / "work")
    return tmp_path / "work"


def run(work: Path, *options: str) -> int:
    return train.main([*OPTIONS, "-w", str(work), *options])


def outcome(work: Path) -> dict[str, Any]:
    """All that a fold leaves, but for seconds."""
    folder = work / FOLD
    assert not list(folder.glob(".*.tmp"))
    result: dict[str, Any] = {name: (folder / name).read_bytes() for name in ("oof.npz", "oof.csv")}
    result["history"] = pd.read_csv(folder / "history.csv").drop(columns="seconds").to_csv()
    for name in ("last.ckpt", "best.ckpt"):
        checkpoint = read_checkpoint(folder / name)
        weights = {key: value.numpy().tobytes() for key, value in checkpoint.pop("state_dict").items()}
        result[name] = weights, {key: checkpoint[key] for key in ("config", "finished", "best")}
    assert result["last.ckpt"][1]["best"] == result["best.ckpt"][1]["best"]
    summary = pd.read_csv(work / "runs" / "summary.csv").drop(columns="seconds")
    return result | {"summary": summary.drop(columns="command").to_csv()}


@pytest.fixture(scope="module")
def whole(store_work: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A work folder after `run`, when nothing happened, and its outcome; not to be written to."""
    work = tmp_path_factory.mktemp("whole") / "work"
    shutil.copytree(store_work, work)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", partial(timm.create_model, drop_rate=0.5))
        assert run(work) == 0
    return work, outcome(work)


def at_batch(number: int, action: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Have the training step of this batch of the process, from 0, begin with an action."""
    step, done = Classifier.training_step, iter(range(10**6))

    def training_step(model: Classifier, batch: Any, batch_index: int) -> Any:
        if next(done) == number:
            action()
        return step(model, batch, batch_index)

    patch.setattr(Classifier, "training_step", training_step)


def no_training(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Classifier, "training_step", lambda *_: pytest.fail("is trained again"))


def test_it_dies_at_a_step_on_the_disk(work: Path, whole: tuple[Path, dict[str, Any]]) -> None:
    """At every 14th of them; `benchmarks/soak.py crashes` takes each one."""
    start = shutil.copytree(work, work.with_name("start"))
    with dies_at(None, work) as steps:
        assert run(work) == 0
    assert outcome(work) == whole[1]
    for last in range(4, len(steps), 14):
        shutil.rmtree(work)
        shutil.copytree(start, work)
        with contextlib.suppress(Died), dies_at(last, work):  # nothing to die of where all that is left is to tidy up
            run(work)
        assert run(work) == 0
        assert outcome(work) == whole[1], (last, steps[last])


@pytest.mark.parametrize(
    ("number", "batch", "status"), [(signal.SIGINT, 1, 130), (signal.SIGTERM, 2 * BATCHES - 2, 143)]
)
def test_a_signal_stops_it_after_the_batch_under_way(
    number: signal.Signals,
    batch: int,
    status: int,
    work: Path,
    whole: tuple[Path, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(callback, "SAVE_SECONDS", 1e9)
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        at_batch(batch, partial(os.kill, os.getpid(), number), patch)
        assert run(work) == status
    where = f"epoch {batch // BATCHES + 1}, batch {batch % BATCHES + 2}"
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith(f"stopped by {number.name}; the same command")
    assert f"resumes from {where} of {BATCHES}" in said[-1]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert run(work) == 0
    assert f"resumes from {where}" in capsys.readouterr().out
    assert outcome(work) == whole[1]


def test_a_second_ctrl_c_stops_at_once(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("goes on")

    at_batch(0, twice, monkeypatch)
    assert run(work) == 130
    assert capsys.readouterr().err.strip().endswith("stopped by the user")
    assert not (work / FOLD / "last.ckpt").exists()


def stop_at(batch: int, work: Path, *options: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at_batch(batch, partial(os.kill, os.getpid(), signal.SIGINT), patch)
        assert run(work, *options) == 130


def test_it_resumes_with_its_own_number_of_threads(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They can change the last bit of a result."""
    with computing_threads(2):
        stop_at(1, work)
    seen: list[int] = []
    at_batch(0, lambda: seen.append(torch.get_num_threads()), monkeypatch)
    assert run(work) == 0
    assert seen == [2]
    assert torch.get_num_threads() == 1
    assert read_checkpoint(work / FOLD / "last.ckpt")["threads"] == 2


def test_half_a_step_is_never_saved(work: Path) -> None:
    """With two batches a step, and three an epoch."""
    check_resumed(work, 0, ("--accumulate", "2", "--ema", "0", "--precision", "bf16", "--grad-clip", "1"))


def test_a_balanced_epoch_resumes_at_a_batch(work: Path) -> None:
    """In the middle of an epoch that draws some clips more than once, others not at all."""
    relabel_some(work)
    check_resumed(work, 4, ("--balance", "1", "--class-weights", "0.5"))


def check_resumed(work: Path, batch: int, options: tuple[str, ...]) -> None:
    """A run that is stopped at a batch, and saved before its epoch's third batch, ends as one that is not."""
    other = shutil.copytree(work, work.with_name("other"))
    assert run(other, *options) == 0
    stop_at(batch, work, *options)
    assert read_checkpoint(work / FOLD / "last.ckpt")["batch"] == 2
    assert run(work, *options) == 0
    assert outcome(work) == outcome(other)


def relabel_some(work: Path) -> None:
    """Give half the clips of "low" another label, so that classes are uneven."""
    clips = pd.read_csv(work / "clips.csv", keep_default_na=False)
    low = clips.index[clips["label"] == "low"]
    clips.loc[low[::2], "label"] = "high"
    clips.to_csv(work / "clips.csv", index=False, lineterminator="\n")


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
    work: Path, whole: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    stop_at(4, work)
    last = work / FOLD / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1  # one bit of a weight
    last.write_bytes(content)
    assert run(work) == 0
    said = capsys.readouterr()
    assert "last.ckpt" in said.err
    assert "is damaged" in said.err
    assert "previous.ckpt takes its place" in said.err
    assert "resumes from epoch 2, batch 2" in said.out
    assert outcome(work) == whole[1]
    for name in ("last.ckpt", "previous.ckpt"):
        (work / FOLD / name).write_bytes(b"")
    assert run(work) == 2
    assert "--restart" in one_error_line(capsys)
    assert run(work, "--restart") == 0
    assert outcome(work) == whole[1]


def test_other_settings_are_refused_and_restart_keeps_the_old_run_until_there_is_a_new_one(
    work: Path, whole: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_at(1, work)
    assert run(work, "--optimizer", "muon", "--lr", "0.1") == 2
    line = one_error_line(capsys)
    assert "begun with other settings (optim.lr 0.02 -> 0.1)" in line
    assert "--tag" in line
    folder = work / FOLD
    shutil.rmtree(folder)
    shutil.copytree(whole[0] / FOLD, folder)
    old = {path.name: path.read_bytes() for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        at_batch(0, partial(os.kill, os.getpid(), signal.SIGINT), patch)
        at_batch(0, lambda: (_ for _ in ()).throw(Died()), patch)
        with pytest.raises(Died):
            run(work, "--restart", "--optimizer", "muon", "--lr", "0.1")
    new = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert all(new[name] == content for name, content in old.items())
    stop_at(0, work, "--restart", "--optimizer", "muon", "--lr", "0.1")
    assert [path.name for path in folder.iterdir()] == ["last.ckpt"]
    assert run(work, "--optimizer", "muon", "--lr", "0.1") == 0
    assert read_checkpoint(folder / "last.ckpt")["config"].optim.lr == 0.1


def test_what_was_held_out_is_predicted_again_where_that_is_missing(
    work: Path, whole: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole[0], work, dirs_exist_ok=True)
    (work / FOLD / "oof.npz").unlink()
    no_training(monkeypatch)
    assert run(work) == 0
    assert outcome(work) == whole[1]


HOLD = """
import sys, time
from pathlib import Path
from system.locks import claimed
with claimed(Path(sys.argv[1]), "it is held", "wait"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_fold_is_trained_by_one_process_at_a_time(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = work / FOLD / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE)
    assert holder.stdout
    assert holder.stdout.readline() == b"held\n"
    try:
        with monkeypatch.context() as patch:
            no_training(patch)
            assert run(work) == 2
        line = one_error_line(capsys)
        assert f"is being trained by process {holder.pid} on " in line
        assert str(work / FOLD) in line
    finally:
        holder.kill()
        holder.wait()
    assert f"process {holder.pid}" in lock.read_text()  # but nobody holds it
    assert run(work) == 0


def test_a_disk_that_is_full_for_a_while_costs_nothing(
    work: Path, whole: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full, save = [False], torch.save

    def fails(contents: Any, file: Any) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(contents, file)

    def fill(state: bool) -> None:
        full[0] = state

    monkeypatch.setattr(torch, "save", fails)
    with monkeypatch.context() as patch:
        at_batch(1, partial(fill, True), patch)
        at_batch(4, partial(fill, False), patch)
        assert run(work) == 0
    warning = capsys.readouterr().err
    assert "training continues: [Errno 28] No space left on device" in warning
    assert "last.ckpt" in warning
    assert outcome(work) == whole[1]
    with monkeypatch.context() as patch:
        at_batch(2, partial(fill, True), patch)
        assert run(work, "--restart") == 2
    assert "No space left on device" in one_error_line(capsys)
    fill(False)
    assert read_checkpoint(work / FOLD / "last.ckpt")["batch"] in (1, 2)
    assert run(work) == 0
    assert outcome(work) == whole[1]


def no_memory() -> None:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried")


def test_a_batch_that_does_not_fit(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        at_batch(2, no_memory, patch)
        assert run(work) == 2
    line = one_error_line(capsys)
    assert "out of memory on cpu: use --batch-size 3 in place of 6" in line


def test_the_clips_of_a_loss_that_is_no_number_are_named(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loss, seen = Classifier.loss, iter(range(100))
    monkeypatch.setattr(Classifier, "loss", lambda *args: loss(*args) * (float("nan") if next(seen) == 3 else 1))
    assert run(work) == 2
    line = one_error_line(capsys)
    assert "first in epoch 2, batch 1 (" in line
    assert line.count(".wav") == 3
    assert "and 3 more" in line
    assert "--optimizer muon and a lower --lr, and --restart" in line
    last = read_checkpoint(work / FOLD / "last.ckpt")
    assert (last["epoch"], last["batch"]) == (1, 0)
    assert all(value.isfinite().all() for value in last["training"]["current_model_state"].values())
