"""Label errors and what errors depend on, against cleanlab, scikit-learn, scipy and numbers worked by hand."""

from __future__ import annotations

import csv
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import fisher_exact
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import cross_val_predict

from preprocessing.decisions import unshielded
from reporting import suspects

HAND = np.array([[0.9, 0.1, 0.0], [0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1], [0.1, 0.1, 0.8], [0.5, 0.4, 0.1]])
HAND_TRUTH = np.array([0, 0, 0, 1, 2, 1])


def planted(seed: int, n: int = 3000, classes: int = 6) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """Labels of which 5 % are swapped, out-of-fold probabilities of a model that learnt from them, and which are."""
    draw = np.random.default_rng(seed)
    label = draw.integers(0, classes, n)
    features = draw.standard_normal((classes, 12))[label] + 0.9 * draw.standard_normal((n, 12))
    wrong = np.zeros(n, bool)
    wrong[draw.permutation(n)[: n // 20]] = True
    given = np.where(wrong, (label + draw.integers(1, classes, n)) % classes, label)
    model = LogisticRegression(max_iter=200)
    return given, cross_val_predict(model, features, given, cv=3, method="predict_proba"), wrong


# ------------------------------------------------------------------------------------------------- wrong labels


def test_confident_learning_by_hand() -> None:
    confident = suspects.confident_classes(HAND_TRUTH, HAND)  # at least .6, the mean of .9 .7 .2; .5 of .6 .4; .8
    assert confident.tolist() == [0, 0, 1, 1, 2, -1]
    assert suspects.judge(HAND_TRUTH, HAND)["suspected"].tolist() == [False, False, True, False, False, False]


def test_a_class_without_clips_is_suspected_of_nothing() -> None:
    judged = suspects.judge(np.array([0, 1, 1]), np.array([[0.1, 0.1, 0.8], [0, 1, 0], [0, 0.9, 0.1]]))
    assert not judged["suspected"].any()


@pytest.mark.parametrize("seed", [0, 1])
def test_confident_learning_is_cleanlabs(seed: int) -> None:
    count = pytest.importorskip("cleanlab.count")
    ranking = pytest.importorskip("cleanlab.rank")
    truth, probabilities, _ = planted(seed)
    joint, off_diagonal = count.compute_confident_joint(
        truth, probabilities, calibrate=False, return_indices_of_off_diagonals=True
    )
    confident, judged = suspects.confident_classes(truth, probabilities), suspects.judge(truth, probabilities)
    assert np.array_equal(confusion_matrix(truth[confident >= 0], confident[confident >= 0]), joint)
    assert np.array_equal(np.flatnonzero(judged["suspected"]), off_diagonal)
    quality = ranking.get_label_quality_scores(truth, probabilities, method="self_confidence")
    assert judged["p_label"].to_numpy() == pytest.approx(quality)


@pytest.mark.parametrize("seed", [0, 1])
def test_planted_labels_are_found(seed: int) -> None:
    truth, probabilities, wrong = planted(seed)
    found = wrong[suspects.by_suspicion(suspects.judge(truth, probabilities)).index]
    assert found[: len(truth) // 20].sum() > 0.7 * wrong.sum()
    assert found[: len(truth) // 10].sum() > 0.9 * wrong.sum()


def test_judged_clips() -> None:
    judged = suspects.judge(HAND_TRUTH, HAND)
    assert judged["predicted"].tolist() == [0, 0, 1, 1, 2, 0]
    assert judged["suggested"].tolist() == [1, 1, 1, 0, 0, 0]  # never the label
    assert judged["p_suggested"].tolist() == [0.1, 0.2, 0.7, 0.3, 0.1, 0.5]
    assert suspects.by_suspicion(judged).index.tolist()[:2] == [2, 5]
    assert suspects.confident_errors(judged, 9).index.tolist() == [2, 5]


# ---------------------------------------------------------------------------------------------- what is confused


def test_confused_pairs_are_both_sides_of_the_confusion_matrix() -> None:
    draw = np.random.default_rng(0)
    truth, predicted = draw.integers(0, 4, 200), draw.integers(0, 4, 200)
    matrix = confusion_matrix(truth, predicted)
    pairs = suspects.confused_pairs(matrix)
    assert len(pairs) == 6
    assert pairs["errors"].is_monotonic_decreasing
    for row in pairs.itertuples():
        assert (row.a_as_b, row.b_as_a) == (matrix[row.a, row.b], matrix[row.b, row.a])
        assert row.errors == row.a_as_b + row.b_as_a
    assert not len(suspects.confused_pairs(np.diag(matrix.diagonal())))


def test_weak_groups() -> None:
    """Group 0: 1 of 1 wrong; 1: 9 of 10; 2 to 99: 1 of 10."""
    group = np.concatenate([[0], np.repeat(np.arange(1, 100), 10)])
    wrong = np.zeros(len(group), bool)
    wrong[0] = True
    wrong[1:10] = True
    wrong[11::10] = True
    table = suspects.weak_groups(wrong, group)
    assert len(table) == 100
    assert table.loc[table["weak"], "group"].tolist() == [1]
    first = table.iloc[0]
    assert (first["group"], first["clips"], first["errors"], first["rate"]) == (1, 10, 9, 0.9)
    rest = [[9, 1], [int(wrong.sum()) - 9, int((~wrong).sum()) - 1]]
    assert first["p_value"] == pytest.approx(fisher_exact(rest, alternative="greater").pvalue)
    assert not suspects.weak_groups(wrong, np.arange(len(wrong)))["weak"].any()  # each clip a speaker
    assert not len(suspects.weak_groups(np.zeros(3, bool), np.arange(3)))


def test_few_groups_are_called_weak_by_chance() -> None:
    draw = np.random.default_rng(0)
    called = [suspects.weak_groups(draw.random(1000) < 0.1, np.arange(1000) % 100)["weak"].any() for _ in range(60)]
    assert np.mean(called) <= 0.1  # at most 5 % of such data sets; 9 of 60 would be 3 standard deviations more


def test_bins_hold_equally_many_clips_as_far_as_ties_allow() -> None:
    value = np.concatenate([np.arange(10) / 100, np.ones(90)])  # nine clips in ten last a second
    assert suspects.equal_bins(value).tolist() == [0] * 10 + [1] * 90
    spread = np.random.default_rng(0).permutation(100)
    assert suspects.equal_bins(spread).tolist() == (spread // 10).tolist()
    assert not len(suspects.equal_bins(value[:0]))


def test_disagreeing_duplicates() -> None:
    cluster = ["a", "", "a", "b", "b", "c", "c", ""]
    truth = np.array([0, 1, 0, 1, 2, 0, 0, 1])
    predicted = np.array([0, 0, 1, 1, 1, 0, 0, 1])
    table = suspects.disagreeing_duplicates(cluster, truth, predicted)
    assert table.to_dict("list") == {
        "cluster": ["b", "a"],
        "labels": [2, 1],
        "predictions": [1, 2],
        "clips": [(3, 4), (0, 2)],
    }
    assert not len(suspects.disagreeing_duplicates(["", ""], truth[:2], truth[:2]))


# ----------------------------------------------------------------------------------------------------- the list


def clip_table(fname: list[str], cluster: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"fname": fname, "group": "s", "fold": range(len(fname)), "cluster": cluster})


def test_the_list_has_what_is_wrong_most_suspicious_first_and_decides_nothing(tmp_path: Path) -> None:
    clips = clip_table([f"{n}.wav" for n in range(6)], ["", "1.wav", "", "", "1.wav", ""])
    path = tmp_path / "suspects.csv"
    table = suspects.list_suspects(clips, ["no", "up", "yes"], suspects.judge(HAND_TRUTH, HAND))
    assert table.index.tolist() == [1, 4, 2, 5]
    suspects.write_suspects(path, table)
    with path.open(encoding="utf-8-sig", newline="") as text:
        rows = list(csv.DictReader(text))
    assert [row["fname"] for row in rows] == ["1.wav", "4.wav", "2.wav", "5.wav"]
    assert [row["action"] for row in rows] == [""] * 4
    assert [row["reason"] for row in rows] == [
        "labelled yes: its near duplicate 4.wav",
        "labelled no: its near duplicate 1.wav",
        "confidently of another class",
        "taken for another class",
    ]
    assert list(rows[2].values()) == ["2.wav", "no", "up", "", "0.2", "0.7", "s", "2", "confidently of another class"]


def test_a_spreadsheet_runs_no_cell(tmp_path: Path) -> None:
    fname = ["=1+1/a.wav", "'=1/b.wav", "plain.wav", "'plain.wav", "@x", "-1"]
    clips = clip_table(fname, [""] * 6)
    path = tmp_path / "suspects.csv"
    judged = suspects.judge(np.zeros(6, np.int64), np.tile([0.1, 0.9], (6, 1)))
    suspects.write_suspects(path, suspects.list_suspects(clips, ["+1", "-2"], judged))
    with path.open(encoding="utf-8-sig", newline="") as text:
        cells = [cell for row in csv.reader(text) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert [unshielded(cell) for cell in cells if cell.endswith((".wav", "@x", "-1"))] == fname


def test_a_large_data_set_takes_little_memory() -> None:
    n, classes = 60_000, 30
    draw = np.random.default_rng(0)
    truth, group = draw.integers(0, classes, n), draw.integers(0, 4000, n)
    probabilities = draw.dirichlet(np.full(classes, 0.1), n)
    probabilities[np.arange(n), truth] += 1
    probabilities /= probabilities.sum(1, keepdims=True)
    cluster = np.where(draw.random(n) < 0.05, draw.integers(0, 1000, n).astype(str).astype(object), "")
    tracemalloc.start()
    judged = suspects.judge(truth, probabilities)
    wrong = (judged["predicted"] != judged["label"]).to_numpy()
    suspects.weak_groups(wrong, group)
    suspects.equal_bins(draw.random(n))
    suspects.list_suspects(clip_table([str(n) for n in range(n)], list(cluster)), [str(c) for c in range(30)], judged)
    assert tracemalloc.get_traced_memory()[1] < 500 << 20
    tracemalloc.stop()
