"""Which run inference.py labels with where no option names one, and that train.py recommends the same."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import inference
import report
from arg import (
    FULL,
    FeatureOptions,
    Fold,
    TrainConfig,
    parse_inference,
    parse_train,
)
from dataset import Store
from model import read_config
from prediction.choice import Choice, choose
from prediction.spec import read_ensemble, write_ensemble
from system.errors import UserError
from tests.conftest import one_error_line
from tests.trained import MODEL, make
from training.conclusion import Ended, tell_next
from transform import VIEWS


@pytest.fixture
def work(store_work: Path, tmp_path: Path) -> Path:
    """A store of 36 training clips in two folds, and no run."""
    shutil.copytree(store_work, tmp_path / "work")
    return tmp_path / "work"


def chosen(work: Path, *options: str) -> Choice:
    return choose(parse_inference(["-w", str(work), *options]))


def run_and_folds(work: Path, *options: str) -> tuple[tuple[str, ...], tuple[Fold, ...]]:
    config = chosen(work, *options).config
    assert not config.open
    return config.named, config.folds


# ----------------------------------------------------------------------------------------------------- the best


def test_the_best_run_is_that_of_most_clips_right(work: Path) -> None:
    make(work, 12, "a")
    make(work, 15, "b")
    make(work, 14, "c")
    choice = chosen(work)
    assert (choice.config.named, choice.config.folds, choice.config.ensemble) == ((f"{MODEL}-16x16-b",), (0, 1), "soft")
    first, *others = choice.told.splitlines()
    assert f"{MODEL}-16x16-b, folds 0,1: the best of 3 runs, out of fold accuracy 0.8333 (95% interval" in first
    assert "groups of 36 clips)" in first  # speakers: what train.py and report.py say, too
    assert f"python report.py -w {work} looks for an ensemble" in others[0]
    assert others[1] == (
        f"the next best, {MODEL}-16x16-c (0.7778): python inference.py -w {work} -t 16 -m {MODEL} --tag c"
    )


def test_report_and_inference_agree_on_the_best(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for tag, right in (("a", 12), ("b", 15), ("c", 14)):
        make(work, right, tag)
    assert report.main(["-w", str(work), "--no-audio"]) == 0
    said = capsys.readouterr().out
    assert f"The best single run ({MODEL}-16x16-b)" in said or f"the best run, {MODEL}-16x16-b" in said


def test_of_uneven_classes_balanced_accuracy_decides(work: Path) -> None:
    """Clips are in the order of their classes; where one class is ten times another's, each class counts alike."""
    store = Store.open(work)
    for tag, right in (("large", 0), ("alike", 1)):
        folder = make(work, 18, tag, class_counts=(30, 3, 3))
        for fold in range(2):
            path = folder / f"fold{fold}" / "oof.npz"
            with np.load(path) as part:
                found = dict(part)
            truth = np.array([0] * 16 + [1, 2])
            answer = np.zeros(18, int) if right == 0 else np.array([0] * 10 + [1] * 6 + [1, 2])
            found["target"], found["probabilities"] = truth, np.broadcast_to(np.eye(3)[answer], (VIEWS, 18, 3))
            np.savez(path, **found)
    assert len(store.classes) == 3
    assert run_and_folds(work) == ((f"{MODEL}-16x16-alike",), (0, 1))  # 16/18 and 12/18 of the clips right
    assert "balanced accuracy 0.8750" in chosen(work).told


def test_equals_are_taken_by_name(work: Path) -> None:
    for tag in ("b", "a"):
        make(work, 15, tag)
    assert run_and_folds(work)[0] == (f"{MODEL}-16x16-a",)


def test_what_is_not_complete_comes_last(work: Path) -> None:
    """In this order, whatever the scores: stale and dry runs, those of every clip, of some folds, complete ones."""
    make(work, 18, "dry", limit=10)
    assert "a dry run on 10 clips" in chosen(work).told
    make(work, 18, "stale", folds_hash="other")
    choice = chosen(work)
    assert (choice.config.named, choice.config.folds) == ((f"{MODEL}-16x16-stale",), (0, 1))
    assert "trained on other folds or labels than there are now" in choice.told
    make(work, 0, "full", (FULL,))
    choice = chosen(work)
    assert (choice.config.named, choice.config.folds) == ((f"{MODEL}-16x16-full",), (FULL,))
    assert "trained on every clip, so that nothing was held out" in choice.told
    make(work, 17, "part", (1,))
    choice = chosen(work)
    assert (choice.config.named, choice.config.folds) == ((f"{MODEL}-16x16-part",), (1,))
    assert "; not complete: 18 of 36 clips were held out so far" in choice.told
    make(work, 3, "whole")
    assert run_and_folds(work) == ((f"{MODEL}-16x16-whole",), (0, 1))
    make(work, 18, "begun", finished=False)
    assert run_and_folds(work) == ((f"{MODEL}-16x16-whole",), (0, 1))


def test_full_fills_the_gap_of_an_incomplete_run_only(work: Path) -> None:
    make(work, 12, folds=(0, FULL))
    assert run_and_folds(work)[1] == (0, FULL)
    make(work, 12, folds=(1,))
    assert run_and_folds(work)[1] == (0, 1)
    assert run_and_folds(work, "-f", "0,1,full")[1] == (0, 1, FULL)
    assert run_and_folds(work, "-f", "full")[1] == (FULL,)


def test_folds_of_other_settings_are_left_out(work: Path) -> None:
    make(work, 12, folds=(0,))
    make(work, 12, folds=(1,), seed=5)
    choice = chosen(work)
    assert choice.config.folds == (0,)
    assert "without fold 1, which has other settings" in choice.told


def test_runs_alone_are_enough(work: Path, tmp_path: Path) -> None:
    make(work, 12, "a")
    make(work, 15, "b")
    shutil.copytree(work / "runs", tmp_path / "elsewhere" / "runs")
    choice = chosen(tmp_path / "elsewhere")
    assert (choice.config.named, choice.config.folds) == ((f"{MODEL}-16x16-b",), (0, 1))
    assert "over 36 clips)" in choice.told  # nothing is known of the speakers there
    for path in (tmp_path / "elsewhere").glob("runs/*-b/*/oof.npz"):
        path.write_bytes(b"PK")
    assert run_and_folds(tmp_path / "elsewhere")[0] == (f"{MODEL}-16x16-a",)


# ------------------------------------------------------------------------------------------------- restrictions


def test_what_is_given_restricts_the_choice(work: Path) -> None:
    make(work, 16)
    make(work, 12, size=32)
    make(work, 14, "x", size=32)
    make(work, 13, "x", model="test_byobnet")
    best, of_32, other = f"{MODEL}-16x16", f"{MODEL}-32x32-x", "test_byobnet-16x16-x"
    for options, names in (
        ("", (best,)),
        ("-t 32", (of_32,)),
        (f"-m {MODEL}", (best,)),
        ("-m test_byobnet", (other,)),
        ("--tag x", (of_32,)),
        ("-t 16 --tag x", (other,)),
        (f"-m {MODEL} --tag x", (of_32,)),
        (f"-m test_byobnet,{MODEL}", (other, best)),
        ("--n-mels 32", (of_32,)),
        ("--frames 16", (best,)),
    ):
        assert run_and_folds(work, *options.split()) == (names, (0, 1)), options
    asked = parse_inference(["-t", "32", "-m", MODEL])
    assert not asked.open
    assert asked.runs == (f"{MODEL}-32x32",)  # untagged, though the tagged one is better
    assert run_and_folds(work, "-a", "n", "-f", "1,") == ((best,), (1,))


def test_runs_that_have_the_folds_asked_for_come_first(work: Path) -> None:
    make(work, 16, "a")
    make(work, 12, "b", (0, 1, FULL))
    assert run_and_folds(work, "-f", "full") == ((f"{MODEL}-16x16-b",), (FULL,))
    (work / "runs" / f"{MODEL}-16x16-b" / "fold0" / "best.ckpt").touch()
    assert run_and_folds(work, "--checkpoint", "best") == ((f"{MODEL}-16x16-b",), (0,))


def test_networks_without_a_common_fold(work: Path) -> None:
    make(work, 12, folds=(0,))
    make(work, 12, folds=(1,), model="test_byobnet")
    with pytest.raises(UserError, match="no fold is trained of all these networks"):
        chosen(work, "-m", f"{MODEL},test_byobnet")


# --------------------------------------------------------------------------------------------------- the ensemble


def with_ensemble(work: Path) -> Path:
    """Three runs and report.py's ensemble of them, its gain replaced by a clear one."""
    for tag, right in (("a", 12), ("b", 15), ("c", 14)):
        make(work, right, tag)
    assert report.main(["-w", str(work), "--no-audio"]) == 0
    write_ensemble(work, dataclasses.replace(read_ensemble(work), gain=(0.02, 0.001, 0.039)))
    return work


def test_an_ensemble_that_is_clearly_better_is_used(work: Path) -> None:
    with_ensemble(work)
    choice = chosen(work)
    assert (choice.config.ensemble, choice.config.runs) == ("weighted", ())
    assert "better than the best run by +2.00 points (+0.10 to +3.90)" in choice.told
    assert f"that run alone: python inference.py -w {work} -t 16 -m {MODEL} --tag b" in choice.told
    for options in ("-t 16", "--tag b", "--ensemble soft", "--ensemble hard"):
        assert chosen(work, *options.split()).config.named == (f"{MODEL}-16x16-b",), options


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gain": (0.01, -0.002, 0.022)}, "not clearly better, +1.00 points (-0.20 to +2.20), out of fold"),
        ({"gain": None, "sources": {}}, "written by an earlier version"),
    ],
)
def test_an_ensemble_that_is_not_clearly_better_is_not_used(work: Path, change: dict[str, Any], says: str) -> None:
    before = read_ensemble(with_ensemble(work))
    write_ensemble(work, dataclasses.replace(before, **change))
    choice = chosen(work)
    assert choice.config.named == (f"{MODEL}-16x16-b",)
    assert says in choice.told
    write_ensemble(work, dataclasses.replace(read_ensemble(work), gain=None, sources=before.sources))  # of one run
    assert "not the ensemble" not in chosen(work).told


def test_an_ensemble_of_other_runs_is_not_used(work: Path) -> None:
    with_ensemble(work)
    make(work, 13, "c")  # trained again
    assert f"{MODEL}-16x16-c has been trained or removed since; python report.py -w {work}" in chosen(work).told
    make(work, 14, "c")
    assert chosen(work).config.ensemble == "weighted"
    make(work, 3, "d")
    assert f"{MODEL}-16x16-d has been trained or removed since" in chosen(work).told
    (work / "ensemble.json").write_text("{")
    choice = chosen(work)
    assert choice.config.named == (f"{MODEL}-16x16-b",)
    assert "ensemble.json" in choice.told


# -------------------------------------------------------------------------------------------------- from end to end


def test_inference_without_options_is_that_of_the_run_by_name(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(work, 15, "b", weights=True)
    make(work, 12, "a", weights=True)
    for name, options in (("alone", []), ("named", ["-t", "16", "-m", MODEL, "--tag", "b", "-f", "2", "-a", "y"])):
        asked = ["-w", str(work), "-g", "cpu", "-o", str(tmp_path / f"{name}.csv"), *options]
        assert inference.main(asked) == 0
    assert (tmp_path / "alone.csv").read_bytes() == (tmp_path / "named.csv").read_bytes()
    both = [pd.read_csv(tmp_path / f"{name}_probabilities.csv") for name in ("alone", "named")]
    pd.testing.assert_frame_equal(*both)
    assert capsys.readouterr().out.count("the best of 2 runs") == 1


def test_nothing_to_choose_from(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(work: Path, *options: str) -> str:
        assert inference.main(["-w", str(work), "-g", "cpu", *options]) == 2
        return one_error_line(capsys)

    assert f"nothing is trained yet; python train.py -w {work} trains" in error(work)
    assert f"begin with python preprocess.py -i DATASET -w {tmp_path / 'none'}" in error(tmp_path / "none")
    folder = make(work, 0, finished=False)
    assert f"training has not finished; run the train.py command of {folder.name} again" in error(work)
    make(work, 12)
    assert f"python inference.py -t 32; there is {folder.name}" in error(work, "-t", "32")
    assert "python inference.py -m resnet18; there is" in error(work, "-m", f"{MODEL},resnet18")
    assert "no last.ckpt for fold 2" in error(work, "-f", "3")


def test_a_checkpoint_that_cannot_be_read_is_left_out(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(work, 15, "b")
    folder = make(work, 12, "a")
    (work / "runs" / f"{MODEL}-16x16-b" / "fold0" / "last.ckpt").write_bytes(b"no checkpoint")
    assert run_and_folds(work) == ((folder.name,), (0, 1))
    assert "-b/fold0/last.ckpt: not a checkpoint" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- what train.py says


def said_next(work: Path, capsys: pytest.CaptureFixture[str], asked: str, *ended: Ended) -> list[str]:
    """The lines that train.py ends with where the options `asked` were given."""
    capsys.readouterr()
    tell_next(parse_train(["-w", str(work), *asked.split()]), ended)
    return capsys.readouterr().out.replace(f" -w {work}", "").splitlines()


def ended(work: Path, tag: str = "", **changes: Any) -> Ended:
    """The run that `make` leaves."""
    folder = work / "runs" / (f"{MODEL}-16x16" + (f"-{tag}" if tag else ""))
    first = read_config(min(folder.glob("fold*/last.ckpt")))["config"]
    config = TrainConfig(work=work, model=MODEL, features=FeatureOptions(size=16), tag=tag, **changes)
    for path in folder.glob("fold*"):
        (path / "oof.csv").touch()
    return Ended(config, tuple(dataclasses.replace(first, fold=fold) for fold in range(2)))


def test_the_next_command_is_short_where_it_picks_this_run(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(work, 12)
    report = "python report.py says what it gets wrong, and which runs to put together"
    assert said_next(work, capsys, "", ended(work)) == [report, "next: python inference.py"]
    make(work, 15, "b")
    assert said_next(work, capsys, "", ended(work)) == [
        report,
        f"python inference.py labels with {MODEL}-16x16-b, folds 0,1",
        f"next: python inference.py -t 16 -m {MODEL}",
    ]
    make(work, 0, "b", (FULL,))
    assert said_next(work, capsys, "-f full", ended(work, "b", folds=(FULL,)))[-1] == (
        f"next: python inference.py -t 16 -m {MODEL} --tag b -f full"
    )


def test_after_some_folds_it_says_how_to_train_the_rest_and_to_label_with_these(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(work, 12, folds=(0,))
    assert said_next(work, capsys, "--preset fast", ended(work)) == [
        "to label with fold 0 alone: python inference.py",
        "next: python train.py --preset fast -f 1",
    ]
    make(work, 12, "b")
    assert said_next(work, capsys, "--preset fast", ended(work)) == [
        f"to label with fold 0 alone: python inference.py -t 16 -m {MODEL} -f 1",
        "next: python train.py --preset fast -f 1",
    ]


def test_after_several_runs_the_report_comes_next(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(work, 12)
    make(work, 15, "b")
    runs = [ended(work), ended(work, "b")]
    assert said_next(work, capsys, "--preset best", *runs) == [
        "next: python report.py, which looks for the best ensemble, and then python inference.py"
    ]
    shutil.rmtree(work / "runs" / f"{MODEL}-16x16-b" / "fold1")
    assert said_next(work, capsys, "--preset best", *runs) == [
        "to label with what is trained so far: python inference.py",
        "next: python train.py --preset best",
    ]
