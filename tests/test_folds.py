"""Folds: scikit-learn's, with groups and duplicates on one side; those of a manifest and of an earlier run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

import preprocessing.decode
import preprocessing.folds
import preprocessing.pipeline
import preprocessing.store
import preprocessing.workers
import system.paths
from preprocessing.folds import stratified, stratified_groups
from tests.preparing import fill, fill_speakers, fold_of, prepare, sklearn_folds, write


def test_too_few_groups_make_fewer_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n, name in enumerate(["yes/s_nohash_0.wav", "no/s_nohash_1.wav", "no/t_nohash_0.wav"]):
        write(tmp_path / "data" / name, n)
    clips = prepare(tmp_path / "data", tmp_path / "work", folds=3)
    assert sorted(clips.groupby("group")["fold"].first()) == [0, 1]
    assert preprocessing.store.load_store(tmp_path / "work")["folds"] == 2
    assert "2 folds, not 3: there are no more groups to hold out" in capsys.readouterr().out
    prepare(tmp_path / "data", tmp_path / "work", folds=3)
    assert "nothing has changed" in capsys.readouterr().out

    write(tmp_path / "data" / "no" / "u_nohash_0.wav", 9)  # and more folds where there are more groups
    more = prepare(tmp_path / "data", tmp_path / "work", folds=3)
    assert set(more["fold"]) == {0, 1, 2}
    assert fold_of(clips).items() <= fold_of(more).items()
    (tmp_path / "data" / "no" / "t_nohash_0.wav").unlink()
    assert set(prepare(tmp_path / "data", tmp_path / "work", folds=3)["fold"]) == {0, 1}


def test_a_manifest_gives_groups_and_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = fill(tmp_path / "data", clips=4)
    rows = [f"{label}/{n}.wav,{label},{n % 3},{n % 2}" for label in ("no", "yes") for n in range(4)]
    (root / "all.csv").write_text("\n".join(["path,label,speaker,fold", *rows]))
    clips = prepare(root, tmp_path / "work", manifest=root / "all.csv")
    assert clips["group"].tolist() == ["0", "1", "2", "0"] * 2
    # Speaker 0 has as many clips in fold 0 as in fold 1: all go to the first.
    assert clips["fold"].tolist() == [0, 1, 0, 0] * 2
    assert "clips that left their fold, so that groups and duplicates stay on one side: 2" in capsys.readouterr().out
    clips = prepare(root, tmp_path / "work", manifest=root / "all.csv", group="none")
    assert clips["fold"].tolist() == [0, 1, 0, 1] * 2


def test_other_options_keep_the_audio_but_not_the_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = fill_speakers(tmp_path / "data")
    prepare(root, tmp_path / "work")
    capsys.readouterr()
    clips = prepare(root, tmp_path / "work", group_pattern=r"(?P<group>.)_nohash")
    assert "0 new or changed" in capsys.readouterr().out
    assert clips["group"].str.len().max() == 1
    assert clips.groupby("group")["fold"].nunique().max() == 1


def test_folds_are_scikit_learns_and_keep_speakers_together(tmp_path: Path) -> None:
    root = fill_speakers(tmp_path / "data")
    write(root / "yes" / "anonymous.wav", 1)
    clips = prepare(root, tmp_path / "work", folds=3, seed=7)
    assert clips["group"].tolist() == [
        name.split("/")[1].split("_nohash_")[0] if "_nohash_" in name else "" for name in clips["fname"]
    ]
    splitter = StratifiedGroupKFold(3, shuffle=True, random_state=7)
    assert clips["fold"].tolist() == sklearn_folds(splitter, clips)
    assert clips[clips["group"] != ""].groupby("group")["fold"].nunique().max() == 1
    assert preprocessing.store.load_store(tmp_path / "work")["grouped"] is True

    clips = prepare(root, tmp_path / "work", folds=3, seed=7, group="none")
    assert not clips["group"].any()
    assert clips["fold"].tolist() == sklearn_folds(StratifiedKFold(3, shuffle=True, random_state=7), clips)
    assert preprocessing.store.load_store(tmp_path / "work")["grouped"] is False


def test_the_same_seed_gives_the_same_table_in_another_folder(tmp_path: Path) -> None:
    root = fill_speakers(tmp_path / "data")
    for work, seed in (("a", 3), ("b", 3), ("c", 4)):
        prepare(root, tmp_path / work, seed=seed)
    a, b, c = ((tmp_path / work / system.paths.CLIPS).read_bytes() for work in "abc")
    assert a == b != c


@pytest.mark.filterwarnings("error")
def test_a_class_with_few_speakers_is_split_as_well_as_may_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = fill_speakers(tmp_path / "data")
    for n in range(8):
        write(root / "rare" / f"000{n % 2}_nohash_{n}.wav", n)  # two speakers for five folds
    clips = prepare(root, tmp_path / "work")
    assert clips.groupby("group")["fold"].nunique().max() == 1
    assert clips[clips["label"] == "rare"]["fold"].nunique() == 2
    captured = capsys.readouterr()
    assert "fewer groups than folds, so some folds hold none: 1 class (rare)" in captured.out
    assert not captured.err


def test_every_class_smaller_than_the_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = prepare(fill(tmp_path / "data", "a b c", clips=3), tmp_path / "work", folds=4)
    assert sorted(np.bincount(clips["fold"])) == [2, 2, 2, 3]
    assert clips.groupby(["label", "fold"]).size().max() == 1
    assert "fewer clips than folds, so some folds hold none: 3 classes (a, b, c)" in capsys.readouterr().out


def components(clips: Any) -> Any:
    """Clips joined by a group or a cluster, found the slow way."""
    import pandas as pd

    unit = list(range(len(clips)))
    for key in ("group", "cluster"):
        first: dict[str, int] = {}
        for row, value in enumerate(clips[key]):
            if value:
                old, new = unit[row], unit[first.setdefault(value, row)]
                unit = [new if u == old else u for u in unit]
    return pd.Series(unit)


def test_assigning_folds_keeps_what_it_promises_on_random_tables() -> None:
    import pandas as pd

    rng = np.random.default_rng(0)
    for _ in range(60):
        n, folds = int(rng.integers(6, 80)), int(rng.integers(2, 6))
        group = [f"s{g}" if g < 30 else "" for g in rng.integers(0, 40, n)]
        label = [f"c{c}" for c in rng.integers(0, rng.integers(2, 9), n)]
        cluster = [f"n{c}" if c < 5 else "" for c in rng.integers(0, 60, n)]
        names = [f"{i:03}.wav" for i in range(n)]
        clips = pd.DataFrame({"fname": names, "label": label, "group": group, "cluster": cluster})
        unit = components(clips)
        if unit.nunique() < folds:
            continue
        assert clips.groupby(preprocessing.folds.units_of(clips)).ngroup().nunique() == unit.nunique()
        fold = preprocessing.folds.assign_folds(clips, folds, 0, {})
        assert set(fold) == set(range(folds))
        assert pd.Series(fold).groupby(unit).nunique().max() == 1
        # Forget the folds of some clips: the others keep theirs, and no group is torn apart.
        known = {name: int(f) for name, f in zip(clips["fname"], fold, strict=True) if rng.random() < 0.8}
        if set(known.values()) != set(range(folds)):
            continue
        again = preprocessing.folds.assign_folds(clips, folds, 99, known)
        assert all(again[i] == known[name] for i, name in enumerate(clips["fname"]) if name in known)
        assert pd.Series(again).groupby(unit).nunique().max() == 1


def test_new_clips_go_where_their_class_is_rarest() -> None:
    import pandas as pd

    names = [f"{n:02}" for n in range(9)]
    clips = pd.DataFrame({"fname": names, "label": ["a"] * 3 + ["b"] * 6, "group": "", "cluster": ""})
    known = {"00": 0, "01": 1, "03": 0, "04": 0, "05": 1, "06": 2}
    # "02", the third a, goes to the fold without one; the new b's fill folds 1 and 2 up to the two of fold 0.
    assert preprocessing.folds.assign_folds(clips, 3, 0, known).tolist() == [0, 1, 2, 0, 0, 1, 2, 1, 2]


def of_sklearn(kind: Any, folds: int, seed: int, label: NDArray[Any], unit: NDArray[Any] | None) -> list[int]:
    fold = np.full(len(label), -1)
    splitter = kind(folds, shuffle=True, random_state=seed)
    for index, (_, held_out) in enumerate(splitter.split(label, label, unit)):
        fold[held_out] = index
    return fold.tolist()


@pytest.mark.filterwarnings("ignore:The least populated class")
@pytest.mark.parametrize("seed", range(150))
def test_folds_are_scikit_learns(seed: int) -> None:
    draw = np.random.default_rng(seed)
    folds = int(draw.integers(2, 11))
    n = int(draw.integers(4 * folds, draw.choice([80, 400, 1500])))
    label = np.unique(draw.integers(0, draw.choice([2, 5, 30, 130]), n), return_inverse=True)[1]
    label[:folds] = 0  # scikit-learn wants a class that fills all folds
    label = np.unique(label, return_inverse=True)[1]
    unit = np.unique(draw.integers(0, draw.integers(3 * folds, n + 2), n), return_inverse=True)[1]
    assert stratified(label, folds, seed).tolist() == of_sklearn(StratifiedKFold, folds, seed, label, None)
    if unit.max() + 1 >= folds:
        expected = of_sklearn(StratifiedGroupKFold, folds, seed, label, unit)
        assert stratified_groups(unit, label, folds, seed).tolist() == expected


def test_parts_of_one_recording_stay_together() -> None:
    import pandas as pd

    names = ["r.wav#t=0,1", "r.wav#t=1.5,2.25", "s.wav#t=0,1", "t.wav"]
    clips = pd.DataFrame({"fname": names, "group": ["ann", "bob", "bob", ""], "cluster": ""})
    assert preprocessing.folds.units_of(clips).tolist() == [0, 0, 0, 3]
