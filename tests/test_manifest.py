"""Manifests: their columns, and what they may name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

import preprocessing.archives
import preprocessing.pipeline
import preprocessing.scan
import preprocessing.store
from arg import PreprocessConfig, parse_preprocess
from system.errors import UserError
from tests.preparing import scan, touch

RATE = 8000


def write(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).integers(-9000, 9000, 800).astype(np.int16), RATE)
    return path


def test_a_manifest_beside_or_apart_from_the_clips(tmp_path: Path) -> None:
    touch(tmp_path / "audio", "a.wav b.wav c.wav")
    manifest = tmp_path / "meta.csv"
    manifest.write_text("filename;category;target;Speaker ID;subset\na.wav;no;0;x;\nb.wav;yes;1;;\nc.wav;no;0;y;test\n")
    files, notes = scan(tmp_path / "audio", manifest=manifest)
    assert files == [
        ("train", "a.wav", "no", "x", ""),
        ("train", "b.wav", "yes", "", ""),
        ("test", "c.wav", "no", "y", ""),
    ]
    assert "path=filename, label=category, group=Speaker ID, split=subset" in notes
    (tmp_path / "audio" / "meta.csv").write_text(manifest.read_text())
    assert parse_preprocess(["--manifest", str(tmp_path / "audio" / "meta.csv")]).input_path == tmp_path / "audio"


def test_columns_by_option(tmp_path: Path) -> None:
    root = touch(tmp_path, "a.wav b.wav")
    manifest = root / "meta.csv"
    manifest.write_text("path,label,what is it,who\nnone,x,no,1\nnone,x,yes,2\n")
    manifest.write_text(manifest.read_text().replace("none", "a.wav", 1).replace("none", "b.wav", 1))
    config = parse_preprocess(["--manifest", str(manifest), "--columns", "label=what is it", "group=who"])
    assert [(f.label, f.group) for f in preprocessing.scan.scan(config).files] == [("no", "1"), ("yes", "2")]
    with pytest.raises(UserError, match="no column 'gone'; it has path, label, what is it, who"):
        preprocessing.scan.scan(PreprocessConfig(root, manifest=manifest, columns=(("fold", "gone"),)))
    files, _ = scan(root, manifest=manifest, label_pattern=r"(?P<label>[ab])\.wav")
    assert [file[2] for file in files] == ["a", "b"]


def test_a_manifest_reads_nothing_outside_its_folder(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for n in range(4):
        write(root / f"{n}.wav", n)
    secret = write(tmp_path / "secret.wav", 9)
    write(tmp_path / "data2" / "near.wav", 10)
    bad = ["../secret.wav", "x/../../secret.wav", str(secret), "..", "../data2/near.wav", "..\\secret.wav", "/dev/zero"]
    rows = [f"{n}.wav,{'xy'[n % 2]}" for n in range(4)] + [f"{path},x" for path in bad] + ["./x/../3.wav,y"]
    (root / "all.csv").write_text("\n".join(["path,label", *rows]))
    preprocessing.pipeline.preprocess(PreprocessConfig(root, tmp_path / "work", manifest=root / "all.csv", folds=2))
    assert preprocessing.store.load_clips(tmp_path / "work")["fname"].tolist() == ["0.wav", "1.wav", "2.wav", "3.wav"]
    rejected = preprocessing.store.load_rejected(tmp_path / "work").set_index("fname")["reason"]
    assert rejected.pop("3.wav").endswith("repeats line 5")
    assert set(rejected.index) == set(bad)
    assert rejected.str.contains("leaves the folder").all()
