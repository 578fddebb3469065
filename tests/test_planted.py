"""The benchmark of label errors: what it swaps, and that its report is of what was swapped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import planted
from preprocessing.store import load_clips


def test_a_share_of_the_labels_becomes_another_class() -> None:
    labels = np.array(["no", "up", "yes"] * 200, object)
    given = planted.swapped(labels, 0.05, seed=1)
    assert (given != labels).sum() == 30
    assert set(given) == {"no", "up", "yes"}
    assert np.array_equal(given, planted.swapped(labels, 0.05, seed=1))
    assert not np.array_equal(given, planted.swapped(labels, 0.05, seed=2))


def test_from_end_to_end(data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = tmp_path / "work"
    kind = [str(data_root), "--work", str(work), "--share", "0.4"]
    options = ["-t", "16", "-m", "test_resnet", "-f", "0", "-g", "cpu", "--epochs", "1", "--batch-size", "8"]
    planted.main([*kind, "--", *options])
    once = json.loads(capsys.readouterr().out.splitlines()[-1])
    manifest = pd.read_csv(work / planted.MANIFEST)
    swapped = manifest[manifest["label"] != manifest["original"]]
    assert (manifest["original"] == [path.split("/")[1] for path in manifest["path"]]).all()
    assert len(swapped) == 14
    clips = load_clips(work).set_index("fname")
    assert list(clips.loc[swapped["path"], "label"]) == list(swapped["label"])
    held = clips[clips["fold"] == 0].index
    assert (once["folds"], once["clips"], once["swapped"]) == (1, len(held), swapped["path"].isin(held).sum())
    planted.main([*kind, "--", *options])  # a training that is finished is not repeated
    said = capsys.readouterr().out
    assert "trained already" in said
    assert json.loads(said.splitlines()[-1]) == once
