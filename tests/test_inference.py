"""Inference: its streams, what it keeps of an interrupted run, its arithmetic, and the submission it writes."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import inference
import model
import prediction.ensembles
import prediction.labelling
import prediction.submission
import preprocess
import report
import train
from arg import NO_AUGMENT, FeatureConfig, Fold, InferenceConfig, OptimConfig, RunConfig, parse_inference
from dataset import as_float
from model import Classifier, build_network, fold_batch_norm, load_classifier, save_checkpoint
from prediction.forms import read_form
from prediction.results import MARKS, ROWS, Results, partial_results
from prediction.spec import EnsembleSpec, Member, write_ensemble
from prediction.submission import write_submission
from preprocessing.decode import decode_stream
from preprocessing.files import ClipFolder
from preprocessing.ids import match_ids
from system.errors import UserError
from tests.conftest import CLASSES, RATE, one_error_line, tone
from transform import VIEWS, view
from util import Names

FEATURES = FeatureConfig(sample_rate=RATE, clip_samples=4000, n_mels=32, frames=32, hop_samples=130, n_fft=1024)
RUN = RunConfig(
    model="test_resnet",
    classes=CLASSES,
    class_counts=(1, 5, 2),
    features=FEATURES,
    augment=NO_AUGMENT,
    optim=OptimConfig(),
    fold=0,
    seed=0,
    folds_hash="x",
)
BATCH = 4


def save_fold(work: Path, fold: Fold, seed: int, name: str = "test_resnet-32x32", **changes: Any) -> None:
    torch.manual_seed(seed)
    classifier = Classifier(dataclasses.replace(RUN, fold=fold, **changes))
    randomise_norms(classifier.net)
    path = work / "runs" / name / f"fold{fold}" / "last.ckpt"
    save_checkpoint(path, classifier.config, classifier.state_dict(), finished=True)


def randomise_norms(net: nn.Module) -> None:
    """Statistics as after some training: those of a new network fold away without a trace."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)


def save_two_folds(work: Path) -> Path:
    for fold in range(2):
        save_fold(work, fold, seed=fold)
    return work


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with nothing but two folds of random weights; not to be written to."""
    return save_two_folds(tmp_path_factory.mktemp("runs"))


def write_waves(folder: Path, count: int, seed: int = 0) -> Path:
    """Clips of three folders, some shorter and longer than the window, their names not in the order of writing."""
    draw = np.random.default_rng(seed)
    for number in range(count):
        path = folder / CLASSES[number % 3] / f"{(7 * number) % 1000:03}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, tone(CLASSES[number % 3], draw, (0.5, 0.3, 0.7)[number % 3 - number % 2]), RATE)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten clips, three batches; not to be written to."""
    return write_waves(tmp_path_factory.mktemp("clips"), 10)


def arguments(work: Path, output: Path, clips: Path | None, *options: str) -> list[str]:
    asked = ["-t", "32", "-m", "test_resnet", "-f", "2", "-g", "cpu", "--batch-size", str(BATCH)]
    if clips:
        asked += ["-i", str(clips)]
    return [*asked, "-w", str(work), "-o", str(output), *options]


def outcome(output: Path) -> list[bytes]:
    """Both files of a run that went well, which has left nothing else."""
    beside = output.with_name(f"{output.stem}_probabilities.csv")
    assert {path.name for path in output.parent.iterdir() if path.is_file()} == {output.name, beside.name}
    assert not list(output.parent.glob("*.partial"))
    return [output.read_bytes(), beside.read_bytes()]


@pytest.fixture(scope="module")
def whole(runs: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """What a run that nothing interrupts writes."""
    output = tmp_path_factory.mktemp("whole") / "out.csv"
    assert inference.main(arguments(runs, output, clips)) == 0
    return outcome(output)


def batch_rows(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[int]:
    """The sizes of the batches that the networks are given from now on; Ctrl-C comes after `stop_after` of them."""
    seen: list[int] = []
    predict = model.predict

    def noted(models: Any, waves: Iterator[Tensor], *rest: Any) -> Iterator[NDArray[np.float32]]:
        for result in predict(models, waves, *rest):
            if len(seen) == stop_after:
                raise KeyboardInterrupt
            seen.append(result.shape[2])
            yield result

    monkeypatch.setattr(model, "predict", noted)
    return seen


# ------------------------------------------------------------------------------------------------ which checkpoints


def test_without_f_all_folds_are_used(
    runs: Path, store_work: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the store or, without one, those that the runs' folders hold; both are two here."""
    work, output = tmp_path / "work", tmp_path / "out.csv"
    shutil.copytree(runs, work)
    asked = ["-t", "32", "-m", "test_resnet", "-g", "cpu", "-a", "n", "-w", str(work), "-o", str(output)]
    assert inference.main([*asked, "-i", str(clips)]) == 0
    assert "networks: 2, views: 1" in capsys.readouterr().out
    shutil.copytree(store_work, work, dirs_exist_ok=True)
    save_fold(work, 2, seed=2)  # of an earlier division into three
    assert inference.main([*asked, "-i", str(clips)]) == 0
    assert "networks: 2, views: 1" in capsys.readouterr().out
    assert inference.main([*asked, "-i", str(clips), "-f", "1,"]) == 0
    assert "networks: 1, views: 1" in capsys.readouterr().out


def test_folds_that_are_not_there(runs: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names those there are, as -f takes them."""
    shutil.copytree(runs, tmp_path / "work")
    (run,) = (tmp_path / "work" / "runs").iterdir()
    asked = arguments(tmp_path / "work", tmp_path / "out.csv", clips)
    for there, f in (("0,1", "5"), ("1,", "2"), ("1,full", "1")):
        if there == "1,":
            shutil.rmtree(run / "fold0")
        elif there == "1,full":
            save_fold(tmp_path / "work", "full", seed=0)
        assert inference.main([*asked, "-f", f]) == 2
        assert one_error_line(capsys).endswith(f", or use those there are: -f {there}")
        assert inference.main([*asked, "-f", there]) == 0


def test_folds_of_other_recipes_are_said(
    runs: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs, tmp_path / "work")
    asked = arguments(tmp_path / "work", tmp_path / "out.csv", clips)
    assert inference.main(asked) == 0
    assert "differ" not in capsys.readouterr().err
    save_fold(tmp_path / "work", 1, seed=1, optim=dataclasses.replace(RUN.optim, epochs=99))
    assert inference.main(asked) == 0
    said = f"folds differ in optim.epochs: {RUN.optim.epochs} in fold 0, 99 in fold 1"
    assert f"warning: test_resnet-32x32: {said}; they are averaged all the same" in capsys.readouterr().err


def test_classes_may_be_called_as_columns_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, work, output = tmp_path / "data", tmp_path / "work", tmp_path / "out.csv"
    names = ("fname", "id", "label")
    draw = np.random.default_rng(0)
    for split, takes in (("train", 9), ("test", 2)):
        for name, kind in zip(names, CLASSES, strict=True):
            (root / split / name).mkdir(parents=True)
            for take in range(takes):
                soundfile.write(root / split / name / f"s{take}_nohash_0.wav", tone(kind, draw), RATE)
    assert preprocess.main(["-i", str(root), "-w", str(work), "-k", "3"]) == 0
    network = ["-t", "32", "-m", "test_resnet", "-g", "cpu", "-w", str(work)]
    assert train.main([*network, "--epochs", "8", "--lr", "4e-3", "--optimizer", "adamw"]) == 0
    assert inference.main([*network, "-o", str(output)]) == 0
    assert "networks: 3, views: 4" in capsys.readouterr().out
    probabilities = pd.read_csv(tmp_path / "out_probabilities.csv", header=None, skiprows=1)
    rows = probabilities.iloc[:, 1:].to_numpy(float)
    labels = pd.read_csv(output)
    assert list(labels.columns) == ["fname", "label"]
    assert [names[column] for column in rows.argmax(1)] == labels["label"].tolist()
    assert report.main(["-w", str(work)]) == 0

    sample = tmp_path / "sample.csv"
    sample.write_text("id,label,id,fname\n" + "".join(f"{name},0,0,1\n" for name in reversed(labels["fname"].tolist())))
    asked = ["-w", str(work), "--sample-submission", str(sample)]
    assert inference.main([*network, *asked[2:], "-o", str(tmp_path / "shares.csv")]) == 0
    shares = pd.read_csv(tmp_path / "shares.csv", header=None, skiprows=1).iloc[::-1, 1:].to_numpy(float)
    np.testing.assert_array_equal(shares, rows[:, [2, 1, 0]])
    assert (tmp_path / "shares.csv").read_text().startswith("id,label,id,fname\n")
    assert inference.main(["--check", str(tmp_path / "shares.csv"), *asked]) == 0


# -------------------------------------------------------------------------------------------------- right answers


def test_a_folder_of_many_clips_is_labelled_as_clip_by_clip(runs: Path, tmp_path: Path) -> None:
    """Over 64 clips a pool decodes, in pieces that no batch fits; views, folds and order as they should be."""
    folder = write_waves(tmp_path / "clips", 80)
    assert inference.main(arguments(runs, tmp_path / "out.csv", folder, "--batch-size", "7")) == 0
    table = pd.read_csv(tmp_path / "out_probabilities.csv")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.flac"))
    assert list(table["fname"]) == names
    models = [load_classifier(runs / "runs" / "test_resnet-32x32" / f"fold{fold}" / "last.ckpt") for fold in range(2)]
    for row in (0, 1, 30, 62, 63, 64, 79):
        wave, _ = soundfile.read(folder / names[row], dtype="int16")
        spare = 4000 - len(wave)
        # an odd sample too many is cut off, or put, at the end
        wave = np.pad(wave, (-(-spare // 2), spare // 2)) if spare > 0 else wave[-spare // 2 :][:4000]
        wave = as_float(torch.from_numpy(wave.copy()))[None]
        with torch.inference_mode():
            each = [model(view(wave, index, RATE)).softmax(1) for model in models for index in range(VIEWS)]
        expected = torch.cat(each).mean(0).numpy()
        np.testing.assert_allclose(table.loc[row, list(CLASSES)].to_numpy(float), expected, atol=1e-5)


def test_a_store_and_its_folder_give_the_same_bytes(
    runs: Path, store_work: Path, data_root: Path, tmp_path: Path
) -> None:
    shutil.copytree(store_work, tmp_path / "work")
    shutil.copytree(runs / "runs", tmp_path / "work" / "runs")
    results = []
    for name, folder in (("store", None), ("folder", data_root / "test")):
        (tmp_path / name).mkdir()
        assert inference.main(arguments(tmp_path / "work", tmp_path / name / "out.csv", folder)) == 0
        results.append(outcome(tmp_path / name / "out.csv"))
    assert results[0] == results[1]


def test_decoding_waits_to_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocessing.decode.CHUNK_FILES", 4)
    folder = ClipFolder.scan(write_waves(tmp_path / "clips", 500))
    scratch = tmp_path / "scratch"
    stream = decode_stream(folder, RATE, scratch)
    for _ in range(4):
        assert len(next(stream).offset) == 4
    assert len(list(scratch.iterdir())) <= 4 * (os.cpu_count() or 1)
    stream.close()
    assert not scratch.exists()


# ---------------------------------------------------------------------------------------------- interrupted runs


def test_an_interrupted_run_resumes(
    runs: Path,
    clips: Path,
    whole: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out.csv"
    with monkeypatch.context() as patch:
        batch_rows(patch, stop_after=1)
        assert inference.main(arguments(runs, output, clips)) == 130
    assert "4 clips are labelled; the same command resumes" in capsys.readouterr().err
    assert not output.exists()
    seen = batch_rows(monkeypatch)
    assert inference.main(arguments(runs, output, clips)) == 0
    assert "resuming after 4 clips" in capsys.readouterr().out
    assert seen == [4, 2]
    assert outcome(output) == whole


@pytest.mark.parametrize("change", ["--batch-size", "-a", "--ensemble", "--precision", "checkpoint", "clip"])
def test_what_an_interrupted_run_depends_on(
    runs: Path,
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: str,
) -> None:
    shutil.copytree(runs, tmp_path / "work")
    shutil.copytree(clips, tmp_path / "clips")
    output = tmp_path / "out" / "out.csv"
    with monkeypatch.context() as patch:
        batch_rows(patch, stop_after=1)
        assert inference.main(arguments(tmp_path / "work", output, tmp_path / "clips")) == 130
    values = {"--batch-size": "5", "-a": "n", "--ensemble": "hard", "--precision": "bf16"}
    options = [change, values[change]] if change in values else []
    if change == "checkpoint":
        save_fold(tmp_path / "work", 1, seed=9)
    elif change == "clip":
        os.utime(min((tmp_path / "clips" / "high").iterdir()), ns=(1, 1))
    seen = batch_rows(monkeypatch)
    assert inference.main(arguments(tmp_path / "work", output, tmp_path / "clips", *options)) == 0
    assert "starting over" in capsys.readouterr().out
    assert sum(seen[-3:] if change == "--precision" else seen) == 10
    resumed = outcome(output)
    assert inference.main(arguments(tmp_path / "work", output, tmp_path / "clips", *options)) == 0
    assert outcome(output) == resumed


def test_a_bad_clip_stops_the_run_and_loses_nothing(
    runs: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(clips, tmp_path / "clips")
    names = sorted(path.relative_to(clips).as_posix() for path in clips.rglob("*.flac"))
    (tmp_path / "clips" / names[9]).write_bytes(b"fLaC, but no more")
    output = tmp_path / "out" / "out.csv"
    # In one piece all ten would be decoded, and the bad one met, before the first batch.
    monkeypatch.setattr("preprocessing.decode.CHUNK_FILES", 2)
    assert inference.main(arguments(runs, output, tmp_path / "clips")) == 2
    assert f"{names[9]}: unreadable" in (line := one_error_line(capsys))
    assert "--on-bad-clip majority" in line
    seen = batch_rows(monkeypatch)
    assert inference.main(arguments(runs, output, tmp_path / "clips", "--on-bad-clip", "majority")) == 0
    assert seen == [2]
    table = pd.read_csv(output.with_name("out_probabilities.csv"))
    np.testing.assert_allclose(table.loc[9, list(CLASSES)].to_numpy(float), np.array(RUN.class_counts) / 8)
    assert pd.read_csv(output)["label"][9] == "low"
    assert "without 1 that" in capsys.readouterr().out


def test_bad_clips_that_were_let_pass_are_met_again(
    runs: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(clips, tmp_path / "clips")
    bad = min((tmp_path / "clips" / "high").iterdir())
    bad.write_bytes(b"")
    output = tmp_path / "out.csv"
    with monkeypatch.context() as patch:
        batch_rows(patch, stop_after=1)
        assert inference.main(arguments(runs, output, tmp_path / "clips", "--on-bad-clip", "majority")) == 130
    capsys.readouterr()
    assert inference.main(arguments(runs, output, tmp_path / "clips")) == 2
    assert bad.name in one_error_line(capsys)


def test_rows_that_are_not_whole_do_not_count(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    batches = [(f"clips {n}".encode(), draw.random((n, 3), np.float32)) for n in (4, 4, 2)]
    identities = [(len(rows), clips) for clips, rows in batches]

    def begin(folder: Path) -> None:
        folder.mkdir()
        assert len(list(Results(folder, {}, 3, identities).append(batches))) == 3

    def cut(name: str, size: int) -> Callable[[Path], None]:
        return lambda folder: os.truncate(folder / name, size)

    def flip(folder: Path) -> None:
        content = bytearray((folder / ROWS).read_bytes())
        content[60] ^= 1
        (folder / ROWS).write_bytes(content)

    damages: list[tuple[Callable[[Path], None], int]] = [
        (lambda folder: None, 3),
        (cut(MARKS, 47), 2),
        (cut(ROWS, 119), 2),
        (cut(ROWS, 48), 1),
        (cut(MARKS, 0), 0),
        (flip, 1),
    ]
    for number, (damage, kept) in enumerate(damages):
        folder = tmp_path / str(number)
        begin(folder)
        damage(folder)
        results = Results(folder, {}, 3, identities)
        assert (results.batches, results.rows) == (kept, [0, 4, 8, 10][kept])
        assert len(list(results.append(batches[kept:]))) == 3 - kept
        np.testing.assert_array_equal(
            results.read(np.arange(10), np.zeros(3, np.float32)), np.concatenate([rows for _, rows in batches])
        )
        results = Results(folder, {}, 3, [*identities[:1], (4, b"others"), *identities[2:]])
        assert results.batches == 1


def test_rows_keep_the_number_of_threads_that_they_were_begun_with(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    batch = [(b"clips", np.full((4, 3), 0.5, np.float32))]
    for key, expected, rows in (
        ({"views": 4, "threads": 2}, 2, 0),
        ({"views": 4, "threads": 1}, 2, 4),
        ({"views": 1, "threads": 1}, 1, 0),
    ):
        results = Results(tmp_path / "part", key, 3, [(4, b"clips")])
        assert (results.threads, results.rows) == (expected, rows)
        list(results.append(batch[results.batches :]))


def test_two_runs_do_not_write_to_one_file(tmp_path: Path) -> None:
    with (
        partial_results(tmp_path / "out.csv", {}, 3, [], False),
        pytest.raises(UserError, match=r"out\.csv is being written by process .*: wait for it, or name another"),
        partial_results(tmp_path / "out.csv", {}, 3, [], False),
    ):
        pass
    assert not list(tmp_path.iterdir())


class Killed(BaseException):
    """As SIGKILL: from then on nothing that the process does has any effect on `folder`."""


class Kill:
    """Counts what is done to the files below a folder, and stops in the middle of action number `at`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, at: int) -> None:
        self.folder, self.left = str(folder), at
        self.open = io.open
        monkeypatch.setattr(io, "open", self.opened)
        for name in ("replace", "unlink", "rmdir", "mkdir"):
            monkeypatch.setattr(os, name, self.counted(getattr(os, name)))

    def reached(self) -> bool:
        """Whether this is the action; raises after it."""
        if self.left < 0:
            raise Killed
        self.left -= 1
        return self.left < 0

    def counted(self, action: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(path: Any, *args: Any, **options: Any) -> Any:
            if str(path).startswith(self.folder) and self.reached():
                raise Killed
            return action(path, *args, **options)

        return wrapped

    def opened(self, path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        file = self.open(path, mode, *args, **options)
        return file if mode in ("r", "rb") or not str(path).startswith(self.folder) else Written(file, self)


class Written:
    """A file whose writes are counted; the last one is cut off in its middle."""

    def __init__(self, file: Any, kill: Kill) -> None:
        self._file, self._kill = file, kill

    def write(self, content: Any) -> Any:
        if self._kill.reached():
            self._file.write(content[: len(content) // 2])
            self._file.flush()
            raise Killed
        return self._file.write(content)

    def truncate(self, size: int) -> Any:
        if self._kill.reached():
            raise Killed
        return self._file.truncate(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Written:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


def test_killed_at_every_write_and_rename(runs: Path, clips: Path, whole: list[bytes], tmp_path: Path) -> None:
    """What stood there before stays whole until the new one is; the next run gives what an unbroken one does."""
    config = parse_inference(arguments(runs, tmp_path / "0" / "out.csv", clips))
    ensemble, device = prediction.ensembles.load_ensemble(config), torch.device("cpu")
    for number in range(1000):
        folder = tmp_path / str(number)
        folder.mkdir()
        output = folder / "out.csv"
        output.write_bytes(b"old")
        config = dataclasses.replace(config, output=output)
        with pytest.MonkeyPatch.context() as patch:
            Kill(patch, folder, number)
            killed = False
            try:
                inference.label(config, ensemble, device)
            except Killed:
                killed = True
        beside = output.with_name("out_probabilities.csv")
        assert output.read_bytes() in (b"old", whole[0]), number
        if output.read_bytes() != b"old":
            assert beside.read_bytes() == whole[1], number
        if beside.exists():
            assert beside.read_bytes() == whole[1], number
        inference.label(config, ensemble, device)
        assert outcome(output) == whole, number
        if not killed:
            break
    assert number > 20  # so the shim sees what is done


# --------------------------------------------------------------------------------------------------- the networks


def features_of(size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 1, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "size", "some"),
    [("resnet18", 64, True), ("test_efficientnet", 64, True), ("densenet121", 64, True), ("test_convnext", 64, False)],
)
def test_batch_norm_folds_into_convolutions(name: str, size: int, some: bool) -> None:
    torch.manual_seed(0)
    net = build_network(name, 5, dataclasses.replace(FEATURES, n_mels=size, frames=size)).eval()
    randomise_norms(net)
    feature = torch.randn(3, 1, size, size)
    with torch.inference_mode():
        before = net(feature).softmax(1)
    folded = fold_batch_norm(net, features_of(size))
    with torch.inference_mode():
        after = net(feature).softmax(1)
    assert (folded > 0) == some
    assert (after - before).abs().max() < 1e-5
    if name == "resnet18":
        assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())


class Odd(nn.Module):
    """A network in which a normalisation follows a convolution, but not only that, or not right away."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.convolution, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(x)
        if self.kind == "in place between":
            x.relu_()
        y = self.norm(x)
        if self.kind == "read twice":
            y = y + x
        if self.kind == "norm twice":
            y = self.norm(y)
        if self.kind == "its weight read":
            y = y * self.norm.weight.mean()
        return self.head(y.mean((2, 3)))


@pytest.mark.parametrize("kind", ["in place between", "read twice", "norm twice", "its weight read"])
def test_what_does_not_fold_stays_as_it_is(kind: str) -> None:
    torch.manual_seed(0)
    net = Odd(kind).eval()
    randomise_norms(net)
    with torch.inference_mode():
        before = net(features_of(8))
    assert fold_batch_norm(net, features_of(8)) == 0
    with torch.inference_mode():
        assert torch.equal(net(features_of(8)), before)
    assert isinstance(net.norm, nn.BatchNorm2d)


def test_half_precision_says_its_error(
    runs: Path,
    clips: Path,
    whole: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out.csv"
    options = arguments(runs, output, clips, "--precision", "bf16")
    assert inference.main(options) == 0
    said = capsys.readouterr().out
    table = pd.read_csv(output.with_name("out_probabilities.csv"))[list(CLASSES)].to_numpy()
    exact = pd.read_csv(io.BytesIO(whole[1]))[list(CLASSES)].to_numpy()
    difference = np.abs(table - exact)
    assert 0 < difference.max() < 0.02
    assert f"bfloat16: probabilities within {difference[:BATCH].max():.1e} of float32's" in said

    monkeypatch.setattr(prediction.labelling, "HALF_TOLERANCE", 0.0)
    with monkeypatch.context() as patch:
        batch_rows(patch, stop_after=4)  # two of them to compare
        assert inference.main(options) == 130
    assert "using float32" in capsys.readouterr().out
    monkeypatch.setattr(prediction.labelling, "HALF_TOLERANCE", 1.0)  # an interrupted run resumes as it began
    assert inference.main(options) == 0
    assert "resuming after 8" in capsys.readouterr().out
    assert outcome(output) == whole


def test_weights_that_are_no_numbers_are_an_error(
    runs: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs, tmp_path / "work")
    path = tmp_path / "work" / "runs" / "test_resnet-32x32" / "fold1" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["net.fc.bias"][0] = torch.nan
    torch.save(checkpoint, path)
    assert inference.main(arguments(tmp_path / "work", tmp_path / "out.csv", clips)) == 2
    assert "not a number" in one_error_line(capsys)
    assert not list(tmp_path.glob("out*"))


# -------------------------------------------------------------------------------------------- weighted ensembles

SPEC = EnsembleSpec(
    classes=CLASSES,
    folds_hash="x",
    folds=(0, 1),
    method="greedy",
    members=(Member("test_resnet-32x32", 0, 0.3), Member("test_resnet-32x32", 2, 0.2), Member("wide", 1, 0.5)),
    temperature=0.6,
    scores={},
)


@pytest.fixture(scope="module")
def weighted(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`runs`, another run with features of another size, and SPEC; not to be written to."""
    work = tmp_path_factory.mktemp("weighted")
    shutil.copytree(runs, work, dirs_exist_ok=True)
    for fold in range(2):
        save_fold(work, fold, 5 + fold, "wide", features=dataclasses.replace(FEATURES, n_mels=40))
    write_ensemble(work, SPEC)
    return work


def weighted_arguments(work: Path, output: Path, clips: Path, *options: str) -> list[str]:
    asked = ["--ensemble", "weighted", "-w", str(work), "-o", str(output), "-i", str(clips)]
    return [*asked, "-g", "cpu", "--batch-size", str(BATCH), *options]


@pytest.mark.parametrize(
    ("options", "weights", "folds"),
    [
        ((), {("test_resnet-32x32", 0): 0.3, ("test_resnet-32x32", 2): 0.2, ("wide", 1): 0.5}, (0, 1)),
        (("-a", "n", "-f", "1"), {("test_resnet-32x32", 0): 0.5, ("wide", 0): 0.5}, (0,)),
    ],
)
def test_a_weighted_ensemble(
    weighted: Path,
    clips: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    weights: dict[tuple[str, int], float],
    folds: tuple[int, ...],
) -> None:
    output = tmp_path / "out.csv"
    assert inference.main(weighted_arguments(weighted, output, clips, *options)) == 0
    table = pd.read_csv(tmp_path / "out_probabilities.csv")
    wave, _ = soundfile.read(clips / table["fname"][4], dtype="float32")
    assert len(wave) == FEATURES.clip_samples
    wave = torch.from_numpy(wave)[None]
    pooled = np.zeros(len(CLASSES))
    for (run, number), weight in weights.items():
        for fold in folds:
            model = load_classifier(weighted / "runs" / run / f"fold{fold}" / "last.ckpt")
            with torch.inference_mode():
                pooled += weight / len(folds) * model(view(wave, number, RATE)).softmax(1)[0].numpy()
    expected = pooled ** (1 / 0.6) / (pooled ** (1 / 0.6)).sum()
    np.testing.assert_allclose(table.loc[4, list(CLASSES)].to_numpy(float), expected, atol=1e-5)


@pytest.mark.parametrize("change", [{"temperature": 0.7}, {"members": (Member("wide", 1, 1.0),)}])
def test_what_a_weighted_ensemble_left_depends_on_its_weights(
    weighted: Path,
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
) -> None:
    shutil.copytree(weighted, tmp_path / "work")
    asked = weighted_arguments(tmp_path / "work", tmp_path / "out" / "out.csv", clips)
    with monkeypatch.context() as patch:
        batch_rows(patch, stop_after=1)
        assert inference.main(asked) == 130
    write_ensemble(tmp_path / "work", dataclasses.replace(SPEC, **change))
    assert inference.main(asked) == 0
    assert "starting over" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [({"classes": ("x", "y")}, "other classes"), ({"folds_hash": "y"}, "stale"), ({"folds": (0, 1, 2)}, "fold 2")],
)
def test_a_weighted_ensemble_of_other_runs_is_refused(
    weighted: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], said: str
) -> None:
    shutil.copytree(weighted, tmp_path / "work")
    write_ensemble(tmp_path / "work", dataclasses.replace(SPEC, **change))
    assert inference.main(weighted_arguments(tmp_path / "work", tmp_path / "out.csv", clips)) == 2
    line = one_error_line(capsys)
    assert said in line
    again = f"run python report.py -w {tmp_path / 'work'} again"
    assert ("ensemble.json" in line and line.endswith(again)) or "train with -f 2" in line


# -------------------------------------------------------------------------------------------------- the submission


def test_names_are_a_sequence() -> None:
    texts = ["b/ä.wav", "", "a", "中文😀", "a"]
    names = Names(texts)
    assert list(names) == texts
    assert len(names) == 5
    assert list(names[1:4]) == texts[1:4]
    assert (names[-1], names[0]) == ("a", "b/ä.wav")
    assert names.index("中文😀") == 3
    with pytest.raises(IndexError):
        names[5]


def test_ids_are_matched_as_a_dictionary_would() -> None:
    fnames = [f"{folder}/{number}.wav" for folder in "ab" for number in range(50)]
    order = np.random.default_rng(0).permutation(100)
    for ids, names in (
        ([fnames[row] for row in order], fnames),
        ([f"{row}.wav" for row in order], [f"x/{row}.wav" for row in range(100)]),
        ([str(row) for row in order], [f"x/{row}.wav" for row in range(100)]),
    ):
        assert match_ids(Names(ids), Names(names), Path("sample.csv")).tolist() == order.tolist()
    with pytest.raises(UserError, match="100 ids without a clip"):  # names alone are not enough here
        match_ids([name[2:] + name[:1] for name in fnames], fnames, Path("sample.csv"))
    with pytest.raises(UserError, match="1 id more than once"):
        match_ids([*fnames[1:], fnames[1]], fnames, Path("sample.csv"))


@pytest.mark.parametrize("count", [0, 1, 3, 10])
def test_a_submission_in_blocks_is_that_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(prediction.submission, "BLOCK_ROWS", 3)
    names = [f"{number:02},x" for number in range(count)]
    rows = np.random.default_rng(0).dirichlet(np.ones(3), count).astype(np.float32)
    form = read_form(None, Names(names[::-1]), CLASSES)
    write_submission(tmp_path / "out.csv", form, CLASSES, lambda index: rows[::-1][index])
    full = pd.DataFrame(rows, columns=list(CLASSES))
    full.insert(0, "fname", names)
    labels = pd.DataFrame({"fname": names, "label": [CLASSES[index] for index in rows.argmax(1)]})
    assert (tmp_path / "out_probabilities.csv").read_text() == full.to_csv(index=False)
    assert (tmp_path / "out.csv").read_text() == labels.to_csv(index=False)


def test_precision_is_an_option() -> None:
    assert InferenceConfig.precision == "auto"
    assert parse_inference(["--precision", "16"]).precision == "16"
