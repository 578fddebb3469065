"""What holds for any input, not for examples alone: folds, ensembles, views, tables, and the store's round trip.

The examples are drawn from a fixed seed, so that every run sees the same.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import dataset
import preprocessing.audit
import preprocessing.folds
import preprocessing.pipeline
import preprocessing.store
import system.paths
import transform
import util
from arg import PreprocessConfig
from preprocessing.files import printable

settings.register_profile(
    "fixed",
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("fixed")

# ---------------------------------------------------------------------------------------------------------- text

TEXT = st.text(max_size=12).map(printable)  # whatever a table may hold
AWKWARD = st.sampled_from(["=1+1", "+1", "-rf", "@x", 'say "hi"', "a,b", ",", '"', "'", " ", "NA", "nan", "1e5", "007",
                           "中文", "e\u0301", "\N{RIGHT-TO-LEFT OVERRIDE}x", "\u2028", "\x85", "#x", "\\"])  # fmt: skip
CELL = st.one_of(TEXT, AWKWARD, st.builds(str.__add__, AWKWARD, TEXT))


# --------------------------------------------------------------------------------------------------------- folds


@st.composite
def clip_tables(draw: st.DrawFn, grouped: bool | None = None, clusters: bool = True) -> pd.DataFrame:
    n = draw(st.integers(4, 60))
    classes, speakers = draw(st.integers(2, 6)), draw(st.integers(2, 20))
    grouped = draw(st.booleans()) if grouped is None else grouped
    label = draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n))
    group = draw(st.lists(st.integers(-2, speakers - 1), min_size=n, max_size=n)) if grouped else [-1] * n
    cluster = draw(st.lists(st.integers(-12, 3), min_size=n, max_size=n)) if clusters else [-1] * n
    return pd.DataFrame(
        {
            "fname": [f"{row:03}.wav" for row in range(n)],
            "label": [f"c{value}" for value in label],
            "group": [f"g{value}" if value >= 0 else "" for value in group],
            "cluster": [f"n{value}" if value >= 0 else "" for value in cluster],
        }
    )


def linked(clips: pd.DataFrame) -> list[set[int]]:
    """Rows that a chain of groups and clusters joins: whole sets are merged until none meet."""
    sets: list[set[int]] = []
    for row in range(len(clips)):
        keys = {("group", clips["group"][row]), ("cluster", clips["cluster"][row])} - {("group", ""), ("cluster", "")}
        one = {row}
        for other in [s for s in sets if any(clips[kind][r] == value for r in s for kind, value in keys)]:
            sets.remove(other)
            one |= other
        sets.append(one)
    return sets


@given(clip_tables(), st.integers(2, 5), st.integers(0, 2**32))
def test_folds_cover_every_clip_once_and_tear_no_group(clips: pd.DataFrame, folds: int, seed: int) -> None:
    units = linked(clips)
    assume(len(units) >= folds)
    fold = preprocessing.folds.assign_folds(clips, folds, seed, {})
    assert fold.shape == (len(clips),)  # one fold each: disjoint, and all are covered
    assert set(fold) == set(range(folds))
    assert all(len({int(fold[row]) for row in unit}) == 1 for unit in units)
    assert np.array_equal(fold, preprocessing.folds.assign_folds(clips, folds, seed, {}))


@given(clip_tables(grouped=False, clusters=False), st.integers(2, 5), st.integers(0, 2**32))
def test_without_groups_each_class_is_split_as_evenly_as_it_can_be(clips: pd.DataFrame, folds: int, seed: int) -> None:
    """The bound: one clip of a class between its largest and its smallest fold."""
    assume(len(clips) >= folds)
    fold = preprocessing.folds.assign_folds(clips, folds, seed, {})
    for label in set(clips["label"]):
        count = np.bincount(fold[clips["label"] == label], minlength=folds)
        assert count.max() - count.min() <= 1, (label, count)
    size = np.bincount(fold, minlength=folds)
    assert size.max() - size.min() <= clips["label"].nunique()


def unevenness(fold: NDArray[np.int64], label: NDArray[np.str_]) -> float:
    """The sum over classes and folds of the squared share of the class that the fold has: least where all are even."""
    return sum(float(((np.bincount(fold[label == name]) / (label == name).sum()) ** 2).sum()) for name in set(label))


@given(clip_tables(grouped=True, clusters=False), st.integers(2, 4), st.integers(0, 2**32))
def test_with_groups_classes_are_split_more_evenly_than_by_chance(clips: pd.DataFrame, folds: int, seed: int) -> None:
    """The bound: the mean of random splits of the same groups."""
    units = linked(clips)
    assume(len(units) >= 3 * folds)
    label = clips["label"].to_numpy(str)
    rng = np.random.default_rng(0)
    chance = []
    for _ in range(30):
        fold = np.zeros(len(clips), np.int64)
        for unit in units:
            fold[list(unit)] = rng.integers(folds)
        chance.append(unevenness(fold, label))
    fold = preprocessing.folds.assign_folds(clips, folds, seed, {})
    assert unevenness(fold, label) <= np.mean(chance)


@given(clip_tables(clusters=False), st.integers(2, 5), st.data())
def test_known_folds_are_kept_when_clips_are_added(clips: pd.DataFrame, folds: int, data: st.DataObject) -> None:
    old = np.array(data.draw(st.lists(st.booleans(), min_size=len(clips), max_size=len(clips))))
    before = clips[old].reset_index(drop=True)
    assume(len(before) > 1)
    assume(len(linked(before)) >= folds)
    known = dict(zip(before["fname"], preprocessing.folds.assign_folds(before, folds, 0, {}).tolist(), strict=True))
    after = dict(zip(clips["fname"], preprocessing.folds.assign_folds(clips, folds, 1, known).tolist(), strict=True))
    assert known.items() <= after.items()
    assert all(len({after[clips["fname"][row]] for row in unit}) == 1 for unit in linked(clips))


# ----------------------------------------------------------------------------------------------------- ensembles


@st.composite
def probabilities(draw: st.DrawFn) -> NDArray[np.float64]:
    """(members, n, classes), rows that sum to one; ties and zeros are common."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(2, 5)))
    weights = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 8)))
    weights[..., 0] += weights.sum(2) == 0
    return weights / weights.sum(2, keepdims=True)


@given(probabilities(), st.randoms(use_true_random=False))
def test_the_order_of_an_ensembles_members_does_not_matter(members: NDArray[np.float64], random: Any) -> None:
    order = list(range(len(members)))
    random.shuffle(order)
    for vote in (util.soft_vote, util.hard_vote):
        result = vote(members)
        np.testing.assert_allclose(vote(members[order]), result, rtol=0, atol=1e-12)
        np.testing.assert_allclose(result.sum(1), 1, rtol=0, atol=1e-12)
        assert result.min() >= 0


@given(probabilities())
def test_a_majoritys_choice_wins_and_nobody_else_does(members: NDArray[np.float64]) -> None:
    result = util.hard_vote(members)
    for clip in range(members.shape[1]):
        votes = Counter(int(row.argmax()) for row in members[:, clip])
        most = max(votes.values())
        winners = {choice for choice, count in votes.items() if count == most}
        assert int(result[clip].argmax()) in winners
        mean = members[:, clip].mean(0)
        assert mean[result[clip].argmax()] >= max(mean[choice] for choice in winners) - 1e-9


@given(probabilities())
def test_members_that_agree_are_their_ensemble(members: NDArray[np.float64]) -> None:
    alike = np.repeat(members[:1], 5, axis=0)
    np.testing.assert_allclose(util.soft_vote(alike), members[0], atol=1e-12)
    assert np.array_equal(util.hard_vote(alike).argmax(1), members[0].argmax(1))


# --------------------------------------------------------------------------------------------------------- views


@given(st.integers(1, 4), st.integers(1, 3000), st.sampled_from([8000, 16_000, 44_100]), st.integers(0, 2**31))
def test_views_keep_the_shape_and_see_each_clip_alone(batch: int, length: int, rate: int, seed: int) -> None:
    wave = torch.rand((batch, length), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    kept = wave.clone()
    assert transform.view(wave, 0, rate) is wave
    for index in range(transform.VIEWS):
        seen = transform.view(wave, index, rate)
        assert seen.shape == wave.shape
        assert seen.dtype == wave.dtype
        assert torch.equal(seen, transform.view(wave, index, rate))
        for row in range(batch):
            assert torch.equal(transform.view(wave[row : row + 1], index, rate)[0], seen[row])
    assert torch.equal(wave, kept)  # no view writes into the batch
    shift = min(round(0.05 * rate), length)
    zeros = torch.zeros(batch, shift)
    assert torch.equal(transform.view(wave, 1, rate), torch.cat([wave[:, shift:], zeros], 1))
    assert torch.equal(transform.view(wave, 2, rate), torch.cat([zeros, wave[:, : length - shift]], 1))


# -------------------------------------------------------------------------------------------------------- tables


@given(st.lists(st.tuples(CELL, CELL, CELL, st.integers(-1, 9), st.floats(-100, 0).map(lambda x: round(x, 2) + 0.0)),
                max_size=6))  # fmt: skip
@example([("=1+1.wav", "@label", "-group", 0, -1.5), ('a "b", c.wav', "NA", "", 1, -100.0)])
def test_a_table_is_read_as_it_was_written(rows: list[tuple[str, str, str, int, float]]) -> None:
    columns = {name: [0] * len(rows) for name in preprocessing.store.CLIP_COLUMNS}
    table = pd.DataFrame(columns).astype(
        dict.fromkeys(preprocessing.store.TEXT_COLUMNS & set(preprocessing.store.CLIP_COLUMNS), "str")
    )
    table = table.astype(dict.fromkeys(preprocessing.store.FLOAT_COLUMNS, "float64"))
    for column, name in enumerate(("fname", "label", "group", "fold", "peak_db")):
        table[name] = [row[column] for row in rows]
    rejected = pd.DataFrame({name: table.get(name, table["fname"]) for name in preprocessing.store.REJECTED_COLUMNS})
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        assert preprocessing.store.save_store(
            work, {"format": preprocessing.store.STORE_FORMAT, "classes": [row[1] for row in rows]}, table, rejected, {}
        )
        assert not preprocessing.store.save_store(
            work, json.loads((work / system.paths.STORE).read_text("utf-8")), table, rejected, {}
        )
        again = preprocessing.store.load_clips(work)
        assert preprocessing.store.load_store(work)["classes"] == [row[1] for row in rows]
    for column, name in enumerate(("fname", "label", "group", "fold", "peak_db")):
        assert again[name].tolist() == [row[column] for row in rows]


# --------------------------------------------------------------------------------------------------------- store

NAME = st.one_of(TEXT, AWKWARD).map(
    lambda text: text.replace("/", "").strip(".").replace("\N{REPLACEMENT CHARACTER}", "")
)


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), NAME, st.integers(1, 3000), st.integers(0, 2**31)), min_size=2, max_size=8
    ),
    st.sampled_from(["=no", "@x, y", '"q"', "中"]),
)
def test_samples_come_back_from_the_store_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, rows: list[tuple[str, str, int, int]], label: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, written = Path(folder).resolve() / "data", dict[str, NDArray[np.int16]]()
        for number, (kind, name, length, seed) in enumerate([*rows, ("a", "", 900, 1), ("b", "", 900, 2)]):
            wave = np.random.default_rng([seed, number]).integers(-32768, 32768, length).astype(np.int16)
            wave[0] = number  # no two alike, even of one sample
            fname = f"{kind}{label}/{name} {number}.{'flac' if length % 2 else 'wav'}"
            (root / fname).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(root / fname, wave, 8000, subtype="PCM_16")
            written[fname] = wave
        preprocessing.pipeline.preprocess(PreprocessConfig(root, root.parent / "work", folds=2, group="none"))
        clips = dataset.Store.open(root.parent / "work").clips("train")
        read = {
            name: clips.waves[start : start + length].numpy().copy()
            for name, start, length in zip(clips.fname, clips.offset, clips.length, strict=True)
        }
        assert read.keys() == written.keys()
        for name, wave in written.items():
            assert np.array_equal(read[name], wave)


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=8),
    st.integers(1, 20),
    st.data(),
)
def test_a_gathered_window_is_the_clips_slice_in_zeros(lengths: list[int], size: int, data: st.DataObject) -> None:
    length = np.array(lengths)
    offset = np.cumsum(length) - length
    waves = np.arange(1, length.sum() + 1).astype(np.int16)
    rows = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=10)))
    first = np.array(data.draw(st.lists(st.integers(-25, 25), min_size=len(rows), max_size=len(rows))))
    expected = np.zeros((len(rows), size), np.int16)
    for out, row, start in zip(expected, rows, first, strict=True):
        for position in range(size):
            if 0 <= start + position < length[row]:
                out[position] = waves[offset[row] + start + position]
    found = dataset.gather(torch.from_numpy(waves), offset[rows], length[rows], first, size)
    np.testing.assert_array_equal(found, expected)
    assert waves.tolist() == list(range(1, len(waves) + 1))  # the store is not written to
