"""Work on a system that lacks what Windows lacks (tests/windows), and what is chosen on a Mac."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import dataset
import inference
import preprocess
import report
import train
from model import Classifier, predict
from system.devices import pick_device, pick_precision
from system.errors import UserError
from tests.test_arg import RUN
from training.tuning import made_batch, step

ROOT = Path(__file__).parents[1]
CODE = """
import os, sys
import pytest
import inference, preprocess, report, train
import system.processes

with open("open.txt", "w") as file, pytest.raises(PermissionError):  # the emulation is at work
    os.replace("open.txt", "other.txt")
assert open("open.txt", "a").write("\\n") and open("open.txt", "rb").read() == b"\\r\\n"
assert system.processes.os.name == "nt" and not hasattr(system.processes.os, "setpgid")

commands = {"preprocess": preprocess, "train": train, "inference": inference, "report": report}
for line in sys.stdin.read().splitlines():
    name, *argv = line.split("|")
    if status := commands[name].main(argv):
        sys.exit(f"{name}: {status}")
"""
SAME = ("clips.csv", "waves.i16", "store.json", "runs/*/fold*/oof.*", "../submission*.csv")


def commands(root: Path, work: Path) -> list[list[str]]:
    network = ["-t", "32", "-m", "resnet10t", "-g", "cpu", "-w", str(work)]
    return [
        ["preprocess", "-i", str(root), "-w", str(work), "-k", "2"],
        ["train", *network, "-f", "all", "--batch-size", "8", "--precision", "32", "--epochs", "1"],
        ["inference", *network, "-f", "2", "-o", str(work.parent / "submission.csv")],
        ["report", "-w", str(work)],
    ]


def test_all_commands_give_on_windows_what_they_give_here(data_root: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    here, there = tmp_path / "here" / "work", tmp_path / "there" / "work"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests" / "windows"), "PYTHONIOENCODING": "cp1252"}
    environment["PYTHONPATH"] += os.pathsep + str(ROOT)
    lines = "\n".join("|".join(command) for command in commands(data_root, there))
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, env=environment, input=lines.encode(), capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode("cp1252")
    scripts = {"preprocess": preprocess, "train": train, "inference": inference, "report": report}
    for name, *argv in commands(data_root, here):
        assert scripts[name].main(argv) == 0
    for pattern in SAME:
        expected = {path.relative_to(here): path.read_bytes() for path in here.glob(pattern)}
        assert expected
        assert {path.relative_to(there): path.read_bytes() for path in there.glob(pattern)} == expected
    assert {path.relative_to(there) for path in there.rglob("*")} == {
        path.relative_to(here) for path in here.rglob("*")
    }
    texts = [path for path in there.rglob("*") if path.suffix in (".csv", ".json", ".html")]
    assert [path.name for path in texts if b"\r" in path.read_bytes()] == []


def test_a_mac_uses_its_gpu_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="-g mps: torch finds no GPU of Apple's here"):
        pick_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device(None) == pick_device("mps") == torch.device("mps")
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_precision("auto", torch.device("mps")) == "32-true"
    with pytest.raises(UserError, match="--precision bf16: Apple's GPUs compute in float32"):
        pick_precision("bf16", torch.device("mps"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device(None) == torch.device("cuda", 0)


class NoDouble(TorchDispatchMode):
    """As on Apple's GPUs, there are no tensors in float64."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            assert not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.float64, function
        return result


def test_a_gpu_of_apple_is_given_nothing_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "fast_double", lambda device: device.type == "cuda")
    model = Classifier(RUN)
    assert torch.float64 not in {tensor.dtype for tensor in [*model.parameters(), *model.buffers()]}
    wave, target = made_batch(model, 4, torch.device("cpu"))
    model(dataset.as_float(wave))  # the window, which is in float64 on the processor, is made once
    with NoDouble():  # type: ignore[no-untyped-call]
        step(model, wave, target)
        for parameter in model.parameters():
            assert parameter.grad is None or parameter.grad.dtype == torch.float32
        assert next(predict([model], [wave], 4, torch.device("cpu"))).shape == (1, 4, 4, len(RUN.classes))


def test_installing_is_refused_in_one_line() -> None:
    """pip shows what its backend says."""
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["build-system"]["build-backend"]
    module = importlib.import_module(backend)
    for build in (module.build_wheel, module.build_sdist, module.build_editable):
        with pytest.raises(SystemExit, match=r"used from its folder: pip install -r requirements\.txt, .*") as refusal:
            build("folder")
        assert "\n" not in str(refusal.value)
