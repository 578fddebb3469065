"""The three commands end to end on a small data set, and what they say when something is wrong."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score

import inference
import preprocess
import train
from arg import parse_train
from dataset import Batches, Store, WaveData
from model import Classifier, load_classifier, predict
from system.options import command_line
from tests.conftest import CLASSES, RATE, one_error_line, tone
from util import hard_vote

TRAIN = ["-t", "32", "-m", "resnet10t", "--batch-size", "8", "--optimizer", "adamw", "--lr", "4e-3", "-g", "cpu"]
INFER = ["-t", "32", "-m", "resnet10t", "-f", "2", "-g", "cpu"]
RUN = "resnet10t-32x32"


def run_all(root: Path, work: Path, output: Path) -> None:
    assert preprocess.main(["-i", str(root), "-w", str(work), "-k", "2"]) == 0
    assert train.main([*TRAIN, "-w", str(work), "-f", "all", "--epochs", "12"]) == 0
    assert inference.main([*INFER, "-w", str(work), "-o", str(output), "-a", "y"]) == 0


@pytest.fixture(scope="module")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `work/`, two trained folds in it, and `submission.csv`; not to be written to."""
    folder = tmp_path_factory.mktemp("trained")
    run_all(data_root, folder / "work", folder / "submission.csv")
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """`trained`, to be spoilt."""
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, dtype={"fname": str, "label": str})


def test_the_whole_job(trained: Path) -> None:
    submission = read(trained / "submission.csv")
    assert list(submission.columns) == ["fname", "label"]
    assert list(submission["fname"]) == sorted(
        f"{kind}/{speaker}_nohash_0.wav" for kind in CLASSES for speaker in ("t0", "t1")
    )
    truth = [Path(name).parent.name for name in submission["fname"]]
    assert accuracy_score(truth, submission["label"]) >= 5 / 6
    probabilities = read(trained / "submission_probabilities.csv")
    assert list(probabilities.columns) == ["fname", *CLASSES]
    np.testing.assert_allclose(probabilities[list(CLASSES)].sum(axis=1), 1, atol=1e-5)
    assert list(probabilities[list(CLASSES)].idxmax(axis=1)) == list(submission["label"])


def test_the_files_of_a_run(trained: Path) -> None:
    summary = pd.read_csv(trained / "work" / "runs" / "summary.csv")
    clips = read(trained / "work" / "clips.csv")
    for fold in range(2):
        folder = trained / "work" / "runs" / RUN / f"fold{fold}"
        for name in ("last.ckpt", "best.ckpt"):
            torch.load(folder / name, weights_only=True)
        history = pd.read_csv(folder / "history.csv")
        assert list(history["epoch"]) == list(range(12))
        assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
        assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
        oof = np.load(folder / "oof.npz")
        held_out = clips[(clips["split"] == "train") & (clips["fold"] == fold)]
        assert oof["fname"].tolist() == held_out["fname"].tolist()
        assert oof["probabilities"].shape == (4, len(held_out), 3)
        assert [CLASSES[index] for index in oof["target"]] == held_out["label"].tolist()
        table = read(folder / "oof.csv")
        np.testing.assert_allclose(table[list(CLASSES)], oof["probabilities"].mean(0), atol=1e-6)
        row = summary[(summary["run"] == RUN) & (summary["fold"] == fold)].iloc[0]
        predicted = table[list(CLASSES)].idxmax(axis=1)
        assert row["accuracy"] == pytest.approx(accuracy_score(table["label"], predicted))
        assert row["command"].startswith("python train.py -w ")


def test_the_same_seed_gives_the_same_bytes(trained: Path, data_root: Path, tmp_path: Path) -> None:
    run_all(data_root, tmp_path / "work", tmp_path / "submission.csv")
    for name in ("submission.csv", "submission_probabilities.csv", "work/clips.csv", f"work/runs/{RUN}/fold1/oof.npz"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes(), name
    for fold in range(2):
        first, again = (
            torch.load(folder / f"work/runs/{RUN}/fold{fold}/last.ckpt", weights_only=True)["state_dict"]
            for folder in (trained, tmp_path)
        )
        assert all(torch.equal(first[key], again[key]) for key in first)


def test_runs_alone_label_a_folder(trained: Path, data_root: Path, tmp_path: Path) -> None:
    """Nothing but runs/ and the clips; the clips are found at any depth and in another format."""
    shutil.copytree(trained / "work" / "runs", tmp_path / "work" / "runs")
    clips = tmp_path / "clips" / "more"
    clips.mkdir(parents=True)
    for path in (data_root / "test").rglob("*.wav"):
        soundfile.write(clips / f"{path.parent.name}-{path.stem}.flac", *soundfile.read(path))
    output = tmp_path / "out.csv"
    arguments = [*INFER, "-w", str(tmp_path / "work"), "-i", str(tmp_path / "clips"), "-o", str(output)]
    assert inference.main(arguments) == 0
    assert list(read(output)["label"]) == list(read(trained / "submission.csv")["label"])
    assert read(output)["fname"][0].startswith("more/high-")


def test_a_sample_submission_is_kept_in_header_and_order(trained: Path, tmp_path: Path) -> None:
    known = read(trained / "submission.csv").set_index("fname")["label"]
    sample = pd.DataFrame({"id": list(known.index)[::-1], "word": "?"})
    sample.to_csv(tmp_path / "sample.csv", index=False)
    arguments = [*INFER, "-w", str(trained / "work"), "--sample-submission", str(tmp_path / "sample.csv")]
    assert inference.main([*arguments, "-o", str(tmp_path / "labels.csv")]) == 0
    labels = pd.read_csv(tmp_path / "labels.csv")
    assert list(labels.columns) == ["id", "word"]
    assert list(labels["id"]) == list(sample["id"])
    assert list(labels["word"]) == list(known[sample["id"]])

    sample.drop(columns="word").assign(low=0, sweep=0, high=0).to_csv(tmp_path / "sample.csv", index=False)
    assert inference.main([*arguments, "-o", str(tmp_path / "probabilities.csv")]) == 0
    table = pd.read_csv(tmp_path / "probabilities.csv")
    assert list(table.columns) == ["id", "low", "sweep", "high"]
    assert list(table[["low", "sweep", "high"]].idxmax(axis=1)) == list(labels["word"])


def test_a_reloaded_checkpoint_predicts_what_was_recorded(trained: Path) -> None:
    """So the averaged weights, which were validated, are those that were saved."""
    store = Store.open(trained / "work")
    for fold in range(2):
        folder = trained / "work" / "runs" / RUN / f"fold{fold}"
        waves = (wave for wave, _ in WaveData(store, fold, 8, (0,)).val_dataloader())
        parts = list(predict([load_classifier(folder / "last.ckpt")], waves, 4, torch.device("cpu")))
        oof = np.load(folder / "oof.npz")
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts], axis=1), oof["probabilities"])
        history = pd.read_csv(folder / "history.csv")
        assert history["valid_accuracy"].iloc[-1] == accuracy_score(oof["target"], oof["probabilities"][0].argmax(1))


def test_other_ways_to_ensemble(trained: Path, tmp_path: Path) -> None:
    store = Store.open(trained / "work")
    folders = [trained / "work" / "runs" / RUN / f"fold{fold}" for fold in range(2)]
    waves = [wave for wave, _ in Batches(store.clips("test"), 3, store.clip_samples, 64)]

    def members(checkpoint: str, views: int) -> NDArray[np.float32]:  # (networks, clips, classes)
        models = [load_classifier(folder / checkpoint) for folder in folders]
        return next(predict(models, waves, views, torch.device("cpu"))).mean(1)

    for options, expected in (
        (["-a", "n"], members("last.ckpt", 1).mean(0)),
        (["--runs", RUN], members("last.ckpt", 4).mean(0)),
        (["--checkpoint", "best"], members("best.ckpt", 4).mean(0)),
        (["--ensemble", "hard"], hard_vote(members("last.ckpt", 4))),
    ):
        assert inference.main([*INFER, "-w", str(trained / "work"), "-o", str(tmp_path / "out.csv"), *options]) == 0
        table = read(tmp_path / "out_probabilities.csv")
        np.testing.assert_allclose(table[list(CLASSES)], expected, atol=1e-6)


def test_a_fold_on_every_clip_and_two_models_in_one_ensemble(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = str(copied / "work")
    assert train.main([*TRAIN, "-w", work, "-f", "full", "--epochs", "1"]) == 0
    assert "nothing held out" in capsys.readouterr().out
    assert not (copied / "work" / "runs" / RUN / "foldfull" / "oof.npz").exists()
    assert inference.main(["-t", "32", "-m", "resnet10t", "-f", "full", "-w", work, "-o", str(copied / "x.csv")]) == 0
    other = [*TRAIN, "-w", work, "--epochs", "1", "--tag", "b", "-f", "0,1"]
    assert train.main(other) == 0
    assert inference.main([*INFER, "-w", work, "-o", str(copied / "y.csv"), "--runs", RUN, f"{RUN}-b"]) == 0
    assert "networks: 4, views: 4" in capsys.readouterr().out


def test_a_finished_fold_is_left_alone_and_other_settings_are_refused(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = str(copied / "work")
    checkpoint = copied / "work" / "runs" / RUN / "fold0" / "last.ckpt"
    before = checkpoint.read_bytes()
    assert train.main([*TRAIN, "-w", work, "-f", "0", "--epochs", "12"]) == 0
    assert "trained already" in capsys.readouterr().out
    assert train.main([*TRAIN, "-w", work, "-f", "0", "--epochs", "13", "--seed", "1"]) == 2
    line = one_error_line(capsys)
    assert "optim.epochs 12 -> 13" in line
    assert "seed 0 -> 1" in line
    assert "--restart" in line
    assert checkpoint.read_bytes() == before


def test_a_dry_run_makes_way_for_the_real_one(
    store_work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "submission.csv").write_text("stays")
    shutil.copytree(store_work, tmp_path / "work")
    arguments = [*TRAIN, "-w", str(tmp_path / "work"), "--epochs", "1"]
    assert train.main([*arguments, "--limit", "8"]) == 0
    assert "all 2 folds" in capsys.readouterr().out
    assert train.main([*arguments, "-f", "0"]) == 0
    out = capsys.readouterr().out
    assert "all 2 folds" not in out  # one of them is the dry run's
    assert out.strip().endswith(f"next: {command_line(parse_train(arguments), folds=(1,))}")
    assert "--limit" in infer_fails(tmp_path, capsys)


def test_a_dry_run_of_a_trained_fold_advises_no_other_dry_run(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TRAIN, "-w", str(copied / "work"), "--epochs", "1", "-f", "0"]
    assert train.main([*arguments, "--limit", "8", "--restart"]) == 0
    assert capsys.readouterr().out.strip().endswith(f"on all clips: {command_line(parse_train(arguments))}")


def test_without_test_clips_the_next_command_names_a_folder(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preprocess.main(["-i", str(data_root / "train"), "-w", str(tmp_path / "work"), "-k", "2"])
    assert train.main([*TRAIN, "-w", str(tmp_path / "work"), "--epochs", "1"]) == 0
    assert "-i CLIPS" in capsys.readouterr().out.splitlines()[-1]


def test_training_prepares_the_data_first(data_root: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    arguments = [*TRAIN, "-w", str(work), "-i", str(data_root), "-f", "0", "--epochs", "1", "--limit", "8"]
    assert train.main(arguments) == 0
    assert (work / "clips.csv").exists()


def test_background_recordings_can_be_added(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, work, folder = tmp_path / "data", str(tmp_path / "work"), tmp_path / "noise"
    shutil.copytree(data_root / "train", root, ignore=shutil.ignore_patterns("_*"))
    shutil.copytree(data_root / "train" / "_background_noise_", folder)
    arguments = [*TRAIN, "-w", work, "-f", "0", "--epochs", "1", "--limit", "8", "--augment", "more"]
    assert train.main([*arguments, "-i", str(root)]) == 0
    advice = f"none in _background_noise_): python preprocess.py -w {work} --noise FOLDER adds some"
    assert f"no background recordings are mixed in ({advice}" in capsys.readouterr().err
    assert preprocess.main(["--noise", str(folder), "-w", work]) == 0
    assert train.main([*arguments, "--restart"]) == 0
    assert "background" not in capsys.readouterr().err


def test_every_epoch_draws_its_own_order(store_work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = []
    made = WaveData.train_batches

    def noted(data: WaveData, epoch: int, first: int = 0) -> Batches:
        epochs.append(epoch)
        return made(data, epoch, first)

    monkeypatch.setattr(WaveData, "train_batches", noted)
    shutil.copytree(store_work, tmp_path / "work")
    assert train.main([*TRAIN, "-w", str(tmp_path / "work"), "-f", "0", "--epochs", "3", "--limit", "8"]) == 0
    assert sorted(set(epochs)) == [0, 1, 2]


def test_ctrl_c_ends_in_a_line(
    store_work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "training_step", stop)
    shutil.copytree(store_work, tmp_path / "work")
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert train.main([*TRAIN, "-w", str(tmp_path / "work"), "-f", "0", "--limit", "8"]) == 130
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores further ones
    assert capsys.readouterr().err.strip().endswith("stopped by the user")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-m", "resnet81"], "unknown model resnet81"),
        (["-f", "2"], "folds 0 to 1"),
        (["-g", "7"], "-g cpu"),
        (["--weights", "none.pth"], "none.pth: no such file"),
        (["--n-fft", "32"], "empty"),
        (["-i", "elsewhere"], "another data set"),
        (["-w", "nowhere"], "preprocess.py"),
    ],
)
def test_what_train_cannot_do(
    store_work: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*TRAIN, "-w", str(store_work), *options]) == 2
    assert says in one_error_line(capsys)
    assert not (store_work / "runs").exists()


def test_a_loss_that_is_no_number_stops_the_run(
    store_work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(store_work, tmp_path / "work")
    arguments = [*TRAIN, "-w", str(tmp_path / "work"), "-f", "0", "--epochs", "2", "--optimizer", "sgd", "--lr", "1e30"]
    assert train.main(arguments) == 2
    assert "--optimizer sgd and a lower --lr" in one_error_line(capsys)


def infer_fails(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The error line of an inference that must fail and leave the submission that was there."""
    output = folder / "submission.csv"
    before = output.read_bytes()
    capsys.readouterr()
    assert inference.main([*INFER, "-w", str(folder / "work"), "-o", str(output), *options]) == 2
    assert output.read_bytes() == before
    return one_error_line(capsys)


def test_what_inference_cannot_do(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "for fold 2,3; train with -f 2,3" in infer_fails(trained, capsys, "-f", "4")
    assert f"there is {RUN}" in infer_fails(trained, capsys, "-m", "resnet10t,resnet18")
    assert "-g cpu" in infer_fails(trained, capsys, "-g", "9")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert str(empty) in infer_fails(trained, capsys, "-i", str(empty))
    assert "nowhere" in infer_fails(trained, capsys, "-i", str(tmp_path / "nowhere"))


def test_a_sample_submission_that_does_not_fit(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sample.csv"
    names = list(read(trained / "submission.csv")["fname"])
    for ids, says in (
        ([*names, "other.wav"], "1 id without a clip (such as other.wav)"),
        ([*names, f"x/{names[0]}"], f"1 id for another id's clip (such as {names[0]} and x/{names[0]})"),
        ([*names, names[0]], "1 id more than once"),
    ):
        pd.DataFrame({"fname": ids, "label": ""}).to_csv(path, index=False)
        line = infer_fails(trained, capsys, "--sample-submission", str(path))
        assert says in line
        assert str(path) in line
    pd.DataFrame({"fname": names, "high": 0, "deep": 0, "sweep": 0}).to_csv(path, index=False)
    assert "a column for each of high, low, sweep" in infer_fails(trained, capsys, "--sample-submission", str(path))


def test_checkpoints_that_do_not_belong_together(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copied / "work" / "runs" / RUN / "fold1" / "last.ckpt"
    good = torch.load(path, weights_only=True)
    config = good["config"]
    for changes, says in (
        ({"classes": ["a", "b", "c"]}, "other classes"),
        ({"folds_hash": "other"}, "stale"),
        ({"features": {**config["features"], "n_mels": 40}}, "made for 40x32 features, not 32x32"),
        ({"features": {**config["features"], "clip_samples": 3900}}, "3900 samples"),
    ):
        torch.save({**good, "config": {**config, **changes}}, path)
        line = infer_fails(copied, capsys)
        assert says in line
        assert str(path) in line
    torch.save({**good, "finished": False}, path)
    assert "not finished" in infer_fails(copied, capsys)


def test_a_test_clip_that_cannot_be_read(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    soundfile.write(clips / "a.wav", tone("high", np.random.default_rng(5)), RATE)
    (clips / "b.wav").write_bytes(b"RIFF, but no more")
    assert "b.wav" in infer_fails(copied, capsys, "-i", str(clips))
    output = tmp_path / "out.csv"
    arguments = [*INFER, "-w", str(copied / "work"), "-i", str(clips), "-o", str(output)]
    assert inference.main([*arguments, "--on-bad-clip", "majority"]) == 0
    assert read(output)["fname"].tolist() == ["a.wav", "b.wav"]
    assert read(output)["label"][1] in CLASSES
    (clips / "a.wav").unlink()
    assert inference.main([*arguments, "--on-bad-clip", "majority"]) == 0
    assert read(output)["fname"].tolist() == ["b.wav"]


def test_runs_whose_folds_have_changed_since_are_called_stale(
    copied: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = str(copied / "work")
    assert preprocess.main(["-i", str(data_root), "-w", work, "-k", "2", "--seed", "1"]) == 0
    assert train.main([*TRAIN, "-w", work, "-f", "0", "--epochs", "8"]) == 2
    assert "stale" in one_error_line(capsys)
    assert inference.main([*INFER, "-w", work, "-o", str(tmp_path / "out.csv")]) == 0
    assert "other folds" in capsys.readouterr().err
