"""Checkpoints from strangers: what they must not do, and what is said instead."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from model import read_checkpoint
from networks.weights import read_weights
from system.errors import UserError


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("code from a file has run",))


@pytest.mark.parametrize("kind", ["pickle", "torch", "module"])
def test_a_file_that_would_run_code_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = tmp_path / "last.ckpt"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"format": 1, "config": Evil()}, protocol=2))
    else:
        torch.save({"format": 1, "config": Evil()} if kind == "torch" else nn.Linear(2, 2), path)
    what = r"torch\.nn\.modules\.linear\.Linear" if kind == "module" else "print"
    for read in (read_checkpoint, read_weights):
        with pytest.raises(UserError, match=rf"it would run code, (builtins\.)?{what}, and is refused") as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "weights_only" not in str(caught.value)  # torch's advice to let it run
    assert "code from a file" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a"),
        (b"hello", "damaged, or another kind of file"),
        (b"PK\x03\x04" + bytes(100), "not a"),
    ],
)
def test_a_file_of_another_kind(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    for read in (read_checkpoint, read_weights):
        with pytest.raises(UserError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("written", "way_out"),
    [(99, "made by a newer version: update this project"), (0, "train again with --restart"), ("x", "train again")],
)
def test_another_version_says_what_to_do(tmp_path: Path, written: Any, way_out: str) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"format": written, "config": {}, "state_dict": {}}, path)
    with pytest.raises(UserError, match=f"format {written}, .*{way_out}"):
        read_checkpoint(path)
