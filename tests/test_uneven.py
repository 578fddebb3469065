"""Classes of uneven sizes, and one score with one interval wherever it is told."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score

import inference
import report
import train
import util
from arg import PreprocessConfig, parse_train
from dataset import Store
from preprocessing.pipeline import preprocess
from reporting.gather import held_out_clips
from tests.conftest import RATE, tone
from tests.pages import Page
from training.resolve import resolve

NETWORK = ["-t", "32", "-m", "test_resnet", "-g", "cpu", "--epochs", "1"]
NUMBERS = r"\d\.\d{4} \((?:95% interval )?(\d\.\d{4}-\d\.\d{4})"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.tuning.expected_seconds", lambda *_: 1.0)
    monkeypatch.setattr("callback.draw_curve", lambda *_: None)


@pytest.fixture(scope="module")
def uneven_work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 clips of one class, 6 of another, two folds, no speakers; not to be written to."""
    root, draw = tmp_path_factory.mktemp("uneven"), np.random.default_rng(1)
    for kind, clips in (("high", 18), ("low", 6)):
        (root / "data" / kind).mkdir(parents=True)
        for clip in range(clips):
            soundfile.write(root / "data" / kind / f"{clip}.wav", tone(kind, draw), RATE)
    preprocess(PreprocessConfig(root / "data", root / "work", folds=2))
    return root / "work"


@pytest.fixture
def always_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks whose answer is the first class."""

    def predict(models: Any, waves: Any, views: int, *_: Any) -> Iterator[NDArray[np.float32]]:
        for wave in waves:
            answer = np.zeros((1, views, len(wave), len(models[0].config.classes)), np.float32)
            answer[..., 0] = 1
            yield answer

    monkeypatch.setattr("model.predict", predict)


@pytest.mark.usefixtures("always_first")
def test_a_class_that_is_never_predicted_is_told_with_the_way_out(
    uneven_work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = shutil.copytree(uneven_work, tmp_path / "work")
    assert train.main([*NETWORK, "-w", str(work)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"epoch 1/1: loss .*, held out, 1 view: loss .*, balanced accuracy 0\.\d{4}, accuracy 0\.", said)
    assert "4 views: balanced accuracy 0.5000 (95% interval" in said
    (end,) = [line for line in said.splitlines() if line.startswith("all 2 folds")]
    assert "out-of-fold balanced accuracy 0.5000 (95% interval" in end
    assert " over 24 clips), accuracy 0.7500 (" in end
    assert end.endswith("; never predicted: 1 class (low)")
    (way_out,) = [line for line in said.splitlines() if "--class-weights" in line and "--balance" in line]
    config = parse_train(shlex.split(way_out[way_out.index("python train.py") :])[2:])
    assert (config.optim.class_weights, config.augment.preset) == (1.0, "more")
    assert (config.tag, config.work) == ("weighted", work)
    assert train.main([*NETWORK, "-w", str(work), "--balance", "1", "--tag", "balanced"]) == 0
    told = capsys.readouterr().out
    assert "never predicted: 1 class (low)" in told
    assert "rare classes count more" not in told

    assert report.main(["-w", str(work)]) == 0
    said = capsys.readouterr().out
    page = Page(work / "report.html")
    heads, row = said.splitlines()[:2]
    assert heads.split()[:3] == ["balanced", "accuracy", "accuracy"]
    assert re.findall(NUMBERS, row)[:2] == re.findall(NUMBERS, end)
    assert "finds 50.0 % (" in page.verdict[0]
    assert page.verdict[0].endswith(" the mean over classes of 6 to 18 clips (balanced accuracy).")
    (missed,) = [sentence for sentence in page.verdict if sentence.startswith("Never predicted: low; with train.py --")]
    assert "--class-weights 1 rare classes count more, --balance draws them more often." in missed
    assert page.rows("runs")[0][2].startswith("50.0 % ")


def test_every_command_tells_the_same_interval_over_groups(
    store_work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """36 clips by six speakers, six test clips by two."""
    work = shutil.copytree(store_work, tmp_path / "work")
    assert train.main([*NETWORK, "-w", str(work)]) == 0
    said = capsys.readouterr().out
    assert "balanced" not in said
    assert re.search(r"held out, 1 view: loss \S+, accuracy 0", said)
    assert len(re.findall(r"4 views: accuracy \S+ \(95% interval \S+ over \d groups of \d+ clips\)", said)) == 2
    (end,) = [line for line in said.splitlines() if line.startswith("all 2 folds")]
    assert " over 6 groups of 36 clips)" in end
    assert report.main(["-w", str(work)]) == 0
    row = capsys.readouterr().out.splitlines()[1]
    assert re.findall(NUMBERS, row)[:1] == re.findall(NUMBERS, end)
    arguments = ["-w", str(work), "-t", "32", "-m", "test_resnet", "-g", "cpu", "-o", str(tmp_path / "out.csv")]
    assert inference.main(arguments) == 0
    assert " over 2 groups of 6 clips)" in capsys.readouterr().out
    assert inference.main([*arguments, "-i", str(Store.open(work).test_root)]) == 0
    assert " over 6 clips)" in capsys.readouterr().out


def test_a_limited_run_is_judged_by_the_groups_of_its_own_clips(
    store_work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = shutil.copytree(store_work, tmp_path / "work")
    assert train.main([*NETWORK, "-w", str(work), "--limit", "9"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"all 2 folds: out-of-fold accuracy .* over \d+ groups of 18 clips\)", said)


def test_parts_of_a_recording_are_a_group(store_work: Path, tmp_path: Path) -> None:
    work = shutil.copytree(store_work, tmp_path / "work")
    rows = (work / "clips.csv").read_text().splitlines()
    for row in range(1, 13):  # the class "high": of two recordings; others keep their speakers
        _, label, _, rest = rows[row].split(",", 3)
        rows[row] = f'"train/high/{(row - 1) // 6}.wav#t={row},{row + 1}",{label},,{rest}'
    (work / "clips.csv").write_text("\n".join(rows) + "\n")
    clips = held_out_clips(work)
    group = Store.open(work).clips("train").group
    assert group[:12].tolist() == [group[0]] * 6 + [group[6]] * 6
    assert len(set(group.tolist())) == 2 + 6
    assert sorted(clips.group_names) == ["s0", "s1", "s2", "s3", "s4", "s5", "train/high/0.wav", "train/high/1.wav"]
    assert clips.group_names[clips.group[0]] == "train/high/0.wav"


@pytest.mark.parametrize(
    ("options", "epochs"),
    [("", 200), ("--class-weights 1", 100), ("--balance 1", 100), ("--balance 0.5 --class-weights 0.5", 100),
     ("--class-weights 0.5", 137), ("--class-weights 1 --epochs 7", 7)],
)  # fmt: skip
def test_no_clip_counts_more_than_200_times_where_epochs_are_not_given(
    options: str, epochs: int, uneven_work: Path
) -> None:
    """18 clips and 6: one of the rare class counts as 24 / (2 * 6) = 2; by the root 6^-0.5 / 0.279 = 1.464."""
    config = parse_train([*NETWORK[:-2], *options.split()])
    assert resolve(config, Store.open(uneven_work), 0).optim.epochs == epochs


@pytest.mark.parametrize("seed", range(3))
def test_balanced_accuracy_is_scikit_learns(seed: int) -> None:
    draw = np.random.default_rng(seed)
    truth = draw.choice(5, 200, p=[0.6, 0.3, 0.06, 0.04, 0])
    predicted = np.where(draw.random(200) < 0.7, truth, draw.integers(0, 4, 200))
    expected = balanced_accuracy_score(truth, predicted)
    assert util.balanced_accuracy(truth, predicted, 5) == pytest.approx(expected)
    found = util.balanced_accuracy_interval(truth, predicted, 5)
    assert found.value == pytest.approx(expected)
    assert found.low < expected < found.high


def test_ten_clips_none_of_them_found_may_be_chance() -> None:
    """Wilson's interval of 0 of 10 ends at 0.2775, that of 190 of 190 begins at 0.9802; of 0.5 in 200 at 0.4314."""
    truth = np.repeat([0, 1], [190, 10])
    found = util.balanced_accuracy_interval(truth, np.zeros(200, np.int64), 2)
    assert (found.low, found.value, found.high) == pytest.approx((0.4314, 0.5, 0.5 + 0.2775 / 2), abs=1e-4)
    assert util.never_predicted(truth, np.zeros(200, np.int64)) == [1]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((190, 10), True), ((30, 10), True), ((29, 10), False), ((10, 0, 10), False), ((), False), ((0,), False)],
)
def test_classes_are_uneven_from_three_times_as_many_clips_on(counts: tuple[int, ...], expected: bool) -> None:
    assert util.uneven(counts) is expected
    assert util.uneven(np.array(counts, np.int64)) is expected
