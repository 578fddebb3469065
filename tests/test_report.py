"""report.py from runs on the disk to the page, the ensemble and the list of suspects."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss

import inference
import preprocess
import preprocessing.store
import report
import reporting.export
import system.paths
import train
from benchmarks.browser import find_browser, open_browser
from benchmarks.report import make_runs
from prediction.spec import read_ensemble
from reporting.findings import SUSPECT
from reporting.gather import COMPLETE, INCOMPLETE, STALE, find_runs, held_out_clips
from reporting.page import cluster_order
from reporting.verdict import meaning
from tests.conftest import SHARED
from tests.pages import Page, listed
from util import Interval

MODEL = "test_resnet"
RUN = f"{MODEL}-16x16-0"


@pytest.fixture(scope="module")
def made(store_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with drawn predictions on the store of tones; not to be written to."""
    work = tmp_path_factory.mktemp("made") / "work"
    shutil.copytree(store_work, work)
    make_runs(work, 2, MODEL, size=16, skill=1.2)
    return work


@pytest.fixture
def work(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "work")
    return tmp_path / "work"


def out_of_fold(work: Path, run: str) -> tuple[Any, Any]:
    """What the folds' files say: labels, and the mean over the views."""
    parts = [np.load(work / "runs" / run / f"fold{fold}" / "oof.npz") for fold in range(2)]
    return (
        np.concatenate([part["target"] for part in parts]),
        np.concatenate([part["probabilities"].mean(0) for part in parts]),
    )


def right_of(work: Path, run: str) -> int:
    truth, probabilities = out_of_fold(work, run)
    return int((probabilities.argmax(1) == truth).sum())


def test_everything_is_written_and_said(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["-w", str(work)]) == 0
    said = capsys.readouterr().out
    page = Page(work / "report.html")
    for name, _, accuracy, _, loss, *_ in page.rows("runs"):
        truth, probabilities = out_of_fold(work, name)
        right = accuracy_score(truth, probabilities.argmax(1))
        exact = probabilities.astype(float) / probabilities.sum(1, keepdims=True, dtype=float)
        assert accuracy.startswith(f"{100 * right:.1f} % ")
        assert loss.startswith(f"{log_loss(truth, exact):.3f} ")
        assert f"{right:.4f} (" in said
    assert page.verdict[0] in said
    assert sum(page.cells.values()) == 36
    cards = page.cards
    assert sum(card["label"] != card["predicted"] for card in cards) == sum(
        clips for (given, predicted), clips in page.cells.items() if given != predicted
    )
    assert any(card["audio"] for card in cards)
    spec = read_ensemble(work)
    assert spec.folds == (0, 1)
    assert {member.run for member in spec.members} <= {RUN, f"{MODEL}-16x16-1"}
    assert sum(member.weight for member in spec.members) == pytest.approx(1)
    assert f"{100 * spec.scores['accuracy']:.1f} %" in page.verdict[0]
    assert said.endswith(f"\nnext: python inference.py -w {work}\n")
    best = max((f"{MODEL}-16x16-{number}" for number in range(2)), key=lambda run: right_of(work, run))
    assert f"inference.py without options uses {best}" in said


def test_the_ensemble_labels_clips(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["-w", str(work), "--no-audio"]) == 0
    assert not any(card["audio"] for card in Page(work / "report.html").cards)
    assert inference.main(["-w", str(work), "--ensemble", "weighted", "-g", "cpu", "-o", str(tmp_path / "x.csv")]) == 0
    assert len(pd.read_csv(tmp_path / "x.csv")) == 6


def test_a_run_that_is_not_complete_says_what_completes_it(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(work / "runs" / RUN / "fold1")
    runs = {run.name: run for run in find_runs(held_out_clips(work))}
    assert (runs[RUN].status, runs[RUN].folds) == (INCOMPLETE, (0,))
    command = f"python train.py -w {work} -m {MODEL} -f 1 --tag 0 -t 16 --epochs 13 --optimizer muon --augment base"
    assert runs[RUN].command == command
    assert runs[f"{MODEL}-16x16-1"].status == COMPLETE
    assert report.main(["-w", str(work), "--no-audio"]) == 0
    assert command in capsys.readouterr().out
    assert {member.run for member in read_ensemble(work).members} == {f"{MODEL}-16x16-1"}
    (work / "runs" / "summary.csv").write_text("what is this")
    shutil.rmtree(work / "runs" / f"{MODEL}-16x16-1" / "fold0")  # now none is complete
    assert report.main(["-w", str(work), "--no-audio"]) == 0
    said = capsys.readouterr().out
    assert "Not all folds are trained: only 18 of 36 clips are judged so far." in said
    assert "2 of 2 runs are not complete" in said


@pytest.mark.parametrize(
    ("harm", "status", "note"),
    [
        ("npz", INCOMPLETE, "oof.npz is damaged: delete it first, and it is made again"),
        ("no npz", INCOMPLETE, "fold 1: oof.npz is missing"),
        ("checkpoint", STALE, "fold 1: its checkpoint cannot be read"),
        ("nan", STALE, "fold 1: its probabilities are not numbers"),
        ("names", STALE, "fold 1: oof.npz is of other clips"),
        ("folds", STALE, "fold 0,1: trained on other folds or labels"),
        ("running", INCOMPLETE, "fold 1: 3 of 13 epochs done"),
        ("dry", INCOMPLETE, "fold 1: a dry run on 7 clips"),
    ],
)
def test_what_is_wrong_with_a_fold_is_said(work: Path, harm: str, status: str, note: str) -> None:
    folder = work / "runs" / RUN / "fold1"
    npz = folder / "oof.npz"
    with np.load(npz) as part:
        content = dict(part)
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    if harm == "npz":
        npz.write_bytes(npz.read_bytes()[:1000])
    elif harm == "no npz":
        npz.unlink()
    elif harm == "checkpoint":
        (folder / "last.ckpt").write_bytes(b"what is this")
    elif harm == "folds":
        clips = pd.read_csv(work / "clips.csv", keep_default_na=False, dtype=str)
        clips.loc[clips["split"] == "train", "label"] = clips.loc[clips["split"] == "train", "label"].to_numpy()[::-1]
        clips.to_csv(work / "clips.csv", index=False)
    elif harm in ("running", "dry"):
        checkpoint |= {"finished": False, "epoch": 3} if harm == "running" else {}
        checkpoint["config"]["limit"] = 7 if harm == "dry" else 0
        torch.save(checkpoint, folder / "last.ckpt")
    else:
        content["probabilities"][0, 0, 0] = np.nan if harm == "nan" else 0
        content["fname"][0] = "else.wav" if harm == "names" else content["fname"][0]
        np.savez(npz, **content)
    run = next(run for run in find_runs(held_out_clips(work)) if run.name == RUN)
    assert run.status == status
    assert note in run.note
    assert f"-w {work} -m {MODEL} -f " in run.command
    assert "--tag 0 " in run.command
    assert ("--restart" in run.command) == (status == STALE)
    assert not run.rows[held_out_clips(work).fold == 1].any()


def test_a_fold_that_was_begun_with_other_settings_is_trained_again(work: Path) -> None:
    path = work / "runs" / RUN / "fold1" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True) | {"finished": False, "epoch": 1}
    checkpoint["config"]["optim"]["epochs"] = 2
    torch.save(checkpoint, path)
    run = next(run for run in find_runs(held_out_clips(work)) if run.name == RUN)
    assert run.status == INCOMPLETE
    assert "fold 1: 1 of 2 epochs done; folds differ in optim.epochs: 13 in fold 0, 2 in fold 1" in run.note
    assert " -f 1 " in run.command
    assert "--epochs 13 " in run.command
    assert "--restart" in run.command  # train.py refuses to resume it with the settings of the others


def test_a_run_on_all_clips_lacks_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "runs" / f"{MODEL}-16x16-9" / "foldfull").mkdir(parents=True)
    assert report.main(["-w", str(work), "--no-audio"]) == 0
    said = capsys.readouterr().out
    assert f"{MODEL}-16x16-9: on all clips, nothing is held out\n" in said
    assert "not complete" not in said


def test_two_are_compared(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["-w", str(work), "--compare", RUN, f"{MODEL}-16x16-1"]) == 0
    (truth, a), (_, b) = (out_of_fold(work, f"{MODEL}-16x16-{run}") for run in range(2))
    alone = ((a.argmax(1) == truth) & (b.argmax(1) != truth)).sum()
    said = capsys.readouterr().out
    assert f"only one labels correctly: {alone} {RUN}" in said
    assert not (work / "report.html").exists()
    assert report.main(["-w", str(work), "--compare", RUN, "ensemble"]) == 0
    assert report.main(["-w", str(work), "--compare", RUN, "resnet"]) == 2
    assert "resnet: no run with out-of-fold predictions; there is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--runs", "x"], "no run x in"),
        (["--subject", "x"], "x: no run with"),
        (["-w", "nowhere"], "preprocess.py"),
        (["-o", "."], ".: is a folder"),
        (["--export", "."], ".: is a folder"),
    ],
)
def test_mistakes_are_one_line(
    work: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main(["-w", str(work), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_without_any_run(store_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["-w", str(store_work)]) == 2
    assert "train one with python train.py" in capsys.readouterr().err


def test_suspects_go_to_a_person_and_back(
    work: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "suspects.csv"
    assert report.main(["-w", str(work), "--no-audio", "--export", str(path)]) == 0
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert len(table) > 1
    table.loc[0, "action"], table.loc[1, "action"] = "relabel", "drop"
    table.to_csv(path, index=False)
    assert f"python preprocess.py -w {work} --relabel {path}\n" in capsys.readouterr().out
    edited = path.read_bytes()
    assert report.main(["-w", str(work), "--no-audio", "--export", str(path)]) == 2
    assert "has 2 decisions that are not on record yet" in capsys.readouterr().err
    assert path.read_bytes() == edited
    again = ["-i", str(data_root), "-w", str(work), "-k", "2", "--relabel", str(path)]
    assert preprocess.main(again) == 0
    reporting.export.spare_decisions(path, work)  # which are on record now
    clips = preprocessing.store.load_clips(work).set_index("fname")
    assert clips.loc[table.loc[0, "fname"], "label"] == table.loc[0, "suggested"]
    assert table.loc[1, "fname"] not in clips.index
    capsys.readouterr()
    assert report.main(["-w", str(work)]) == 2
    assert "trained on other folds or labels" in capsys.readouterr().err


def test_the_exported_suspects_are_those_of_the_page(work: Path, tmp_path: Path) -> None:
    """As many, in the same order, and without those that a person has decided about; none is its own reason."""
    table = pd.read_csv(work / "clips.csv", keep_default_na=False, dtype=str)
    held = table[table["split"] == "train"].index
    twins = [held[0], held[-1]]  # of two classes
    table.loc[twins, "cluster"] = table.loc[held[0], "fname"]
    table.to_csv(work / "clips.csv", index=False)
    path = tmp_path / "suspects.csv"

    def check() -> pd.DataFrame:
        path.unlink(missing_ok=True)
        assert report.main(["-w", str(work), "--no-audio", "--export", str(path)]) == 0
        exported = pd.read_csv(path, dtype=str, keep_default_na=False)
        page = Page(work / "report.html")
        shown = [card["fname"] for card in page.cards if SUSPECT in card["kinds"]]
        assert shown == exported["fname"].tolist()
        assert any(f"{len(shown)} labels are suspected" in sentence for sentence in page.verdict)
        assert not any(name in reason for name, reason in zip(exported["fname"], exported["reason"], strict=True))
        return exported

    exported = check()
    assert set(exported["fname"][:2]) == set(table.loc[twins, "fname"])
    decided = exported.loc[2, "fname"]
    label = exported.loc[2, "label"]
    (work / system.paths.RECORD).write_text(
        f"fname,label,action,new_label,fold,date,source\n{decided},{label},keep,{label},0,2026-01-01,x\n"
    )
    assert decided not in check()["fname"].tolist()


@pytest.mark.parametrize("kind", ["random", "constant"])
def test_a_network_at_chance_has_learned_nothing(
    store_work: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    work, path = tmp_path / "work", tmp_path / "suspects.csv"
    shutil.copytree(store_work, work)
    make_runs(work, 2, MODEL, size=16, skill=0)
    if kind == "constant":
        for file in work.glob("runs/*/fold*/oof.npz"):
            with np.load(file) as part:
                content = dict(part)
            content["probabilities"][:] = [0.2, 0.5, 0.3]
            np.savez(file, **content)
    assert report.main(["-w", str(work), "--no-audio", "--export", str(path)]) == 2
    said = capsys.readouterr()
    assert "has learned nothing: " in said.out
    assert f"{RUN}: complete, has learned nothing" in said.out
    assert "suspected" not in said.out
    assert "next:" not in said.out
    assert f"{path}: not written: " in said.err
    assert not path.exists()
    page = Page(work / "report.html")
    assert "has learned nothing" in page.verdict[0]
    assert "has learned nothing" in page.rows("runs")[1][0]
    assert SUSPECT not in page.section("clips").text


def test_classes_may_be_called_what_columns_are(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, kind in (("fname", "low"), ("label", "high"), ("id", "sweep")):
        shutil.copytree(data_root / "train" / kind, tmp_path / "data" / name)
    work, path = tmp_path / "work", tmp_path / "suspects.csv"
    assert preprocess.main(["-i", str(tmp_path / "data"), "-w", str(work), "-k", "2"]) == 0
    make_runs(work, 2, MODEL, size=16, skill=1.2)
    assert report.main(["-w", str(work), "--export", str(path)]) == 0
    said = capsys.readouterr().out
    assert f"next, with your folder of clips for CLIPS: python inference.py -i CLIPS -w {work}\n" in said
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert len(table)
    assert set(table["label"]) | set(table["suggested"]) == {"fname", "label", "id"}


def test_half_a_sample_that_a_killed_run_left(work: Path) -> None:
    expected = held_out_clips(work).loud_over_quiet()
    with (work / system.paths.WAVES).open("ab") as file:
        file.write(b"x")
    np.testing.assert_array_equal(held_out_clips(work).loud_over_quiet(), expected)


def test_a_speaker_is_a_group_and_a_clip_without_one_is_its_own(work: Path) -> None:
    table = pd.read_csv(work / "clips.csv", keep_default_na=False, dtype=str)
    train_rows = np.flatnonzero(table["split"] == "train")
    table.loc[train_rows[[0, 7]], "group"] = ""
    table.to_csv(work / "clips.csv", index=False)
    clips = held_out_clips(work)
    assert clips.group.tolist()[0] != clips.group.tolist()[7]
    names = [clips.group_names[code] for code in clips.group]
    assert names == table.loc[train_rows, "group"].tolist()
    assert sorted(set(clips.group.tolist())) == list(range(len(clips.group_names)))


def test_confused_classes_stand_together() -> None:
    counts = np.diag([100] * 6)
    for a, b in ((0, 5), (1, 3), (2, 4)):
        counts[a, b] = counts[b, a] = 20
    order = cluster_order(counts)
    assert sorted(order) == list(range(6))
    for a, b in ((0, 5), (1, 3), (2, 4)):
        assert abs(order.index(a) - order.index(b)) == 1


def test_a_trained_run(store_work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What train.py writes is what report.py reads."""
    work = tmp_path / "work"
    shutil.copytree(store_work, work)
    options = ["-t", "16", "-m", MODEL, "--epochs", "1", "--batch-size", "8", "-g", "cpu"]
    assert train.main(["-w", str(work), *options]) == 0
    assert report.main(["-w", str(work)]) == 0
    page = Page(work / "report.html")
    name, clips, folds, epochs, optimiser, features, augmentation, started, took = page.rows("runs", 1)[0]
    assert (name, clips, folds, epochs) == (f"{MODEL}-16x16", "36", "2 of 2", "1")
    assert optimiser.endswith("batch 8")
    assert features.startswith("16 bands, 16 frames, n_fft ")
    assert augmentation == "gain db 6, shift seconds 0.1, noise std 0.005, speed 0.1"
    assert started == "random weights"
    assert took.endswith(" s")
    assert len(list(page.section("curves").every("svg"))) == 2
    # One run has nothing to be compared with.
    assert "Only one run is complete" in page.section("comparisons").text
    assert not list(page.root.every("section", id="ensemble"))
    assert "best single run" not in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------- the verdict


def verdict(work: Path, *options: str) -> str:
    assert report.main(["-w", str(work), "--no-audio", *options]) == 0
    return "\n".join(Page(work / "report.html").verdict)


def test_one_run_is_said_to_be_the_only_one(work: Path) -> None:
    said = verdict(work, "--runs", RUN)
    assert "Only one run is complete" in said
    assert "better than the best run" not in said


def test_a_run_without_errors(store_work: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(store_work, work)
    make_runs(work, 2, MODEL, size=16, skill=60)
    said = verdict(work)
    assert said.startswith(f"The best single run ({RUN}) labels 100.0 % (")
    assert "No ensemble is clearly better than one run alone." in said
    assert "There is no error, so nothing is confused." in said
    assert "suspected" not in said


def test_only_speakers_that_have_a_name_are_counted(work: Path) -> None:
    table = pd.read_csv(work / "clips.csv", keep_default_na=False, dtype=str)
    table.loc[table["group"] != "s0", "group"] = ""
    table.to_csv(work / "clips.csv", index=False)
    assert "(36 clips, 1 speaker)" in verdict(work)
    page = Page(work / "report.html")
    assert " 1 speaker, " in page.root.one("p", "facts").text
    assert [row[0].split(" ")[0] for row in page.rows("speakers")] == ["s0s0"]  # with a script and without


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Interval(0.01, 0.004, 0.02), "mean what they say"),
        (Interval(0.05, 0.0, 0.08), "may be chance"),
        (Interval(0.05, 0.02, 0.08), "Do not take"),
    ],
)
def test_what_is_said_of_probabilities_heeds_chance(error: Interval, said: str) -> None:
    assert said in meaning(error)


@pytest.mark.skipif(not (SHARED / "gsc12").is_dir(), reason="needs ../shared/data")
def test_the_page_of_recorded_words_in_a_browser(tmp_path: Path) -> None:
    """From files with names as hostile as a file system allows, through report.py, to a page that is used."""
    program = find_browser()
    if program is None:
        pytest.skip("needs chromium or google-chrome on PATH")
    hostile = "<img src=x onerror=alert(1)>"
    for word, name in (("left", hostile), ("right", "right"), ("zero", "zero")):
        folder = tmp_path / "data" / "train" / name
        folder.mkdir(parents=True)
        for number, file in enumerate(sorted((SHARED / "gsc12" / "train" / word).glob("*_nohash_0.flac"))[:20]):
            (folder / (f"{hostile}.flac" if number == 0 else file.name)).symlink_to(file)
    work = tmp_path / "work"
    assert preprocess.main(["-i", str(tmp_path / "data"), "-w", str(work), "-k", "2"]) == 0
    make_runs(work, 2, MODEL, size=32, skill=1.2)
    assert report.main(["-w", str(work)]) == 0
    page = Page(work / "report.html")
    given, predicted = next(pair for pair in page.cells if pair[0] != pair[1])
    in_cell = listed(page.cards, label=given, predicted=predicted)
    with open_browser(program) as tab:
        tab.goto(work / "report.html")
        cards = "[...document.querySelectorAll('.card')].map(card => +card.dataset.clip)"
        tab.click(f'.matrix [data-show*=\'"given":{given},"predicted":{predicted},\']')
        assert tab.evaluate(cards) == in_cell
        assert len(in_cell) == page.cells[given, predicted]
        tab.click(".card img")
        assert 0.2 < tab.wait_for("document.querySelector('.card audio').duration") < 1.5
        tab.evaluate("document.querySelector('#all').click()")
        tab.evaluate("(() => { const field = document.querySelector('[name=fold]'); field.value = '1'; "
                     "field.dispatchEvent(new Event('input', {bubbles: true})); })()")  # fmt: skip
        assert tab.evaluate(cards) == listed(page.cards, fold=1)[:24]
        assert hostile in tab.evaluate("document.body.innerText")
        assert [url for url in tab.requested()[1:] if not url.startswith(("data:", "blob:"))] == []
        assert tab.complaints() == []
        assert not [method for method, _ in tab.events if method == "Page.javascriptDialogOpening"]
