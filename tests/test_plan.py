"""What is planned where no option says so, and that it is kept."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import train
import training.plan
import training.rules
from arg import TrainConfig, parse_train
from dataset import Clips, LogMel, Store
from model import save_checkpoint
from system.errors import UserError
from system.options import command_line
from tests.conftest import one_error_line
from training.facts import Facts, Machine, filled_hertz
from training.plan import Plan, make_plan
from training.resolve import options_of, resolve
from training.rules import fill
from util import Names

CPU = Machine("cpu", 8 << 30, 2)
WORDS = Facts(16_000, 16_000, 4_295, 5, 12, 1.2, 8_000.0, False)  # gsc12
SOUNDS = Facts(16_000, 80_000, 1_200, 4, 50, 1.0, 8_000.0, False)  # esc50
MANY = Facts(16_000, 16_000, 48_000, 5, 30, 1.2, 8_000.0, True)


def filled(words: str, facts: Facts = WORDS, machine: Machine = CPU) -> tuple[str, str]:
    """The options that a command is filled to, and the reasons."""
    config, choices = fill(parse_train(words.split()), facts, machine)
    text = " ".join(shlex.split(command_line(config))[2:])
    return text, "\n".join(f"{choice.what}: {choice.why}" for choice in choices)


def gpu(gigabytes: float, kind: str = "cuda") -> Machine:
    return Machine(kind, int(gigabytes * 1e9), 8)


OWN = "--augment more --mixup 0.2 --equalizer 0.3"


@pytest.mark.parametrize(
    ("words", "facts", "options"),
    [
        ("", WORDS, f"-m melresnet --n-mels 40 --frames 101 --n-fft 512 --epochs 40 --batch-size 64 {OWN}"),
        ("", SOUNDS, f"-m melresnet --n-mels 64 --frames 161 --n-fft 1024 --epochs 89 --batch-size 64 {OWN}"),
        ("-m resnet18", WORDS, "-m resnet18 -t 64"),
        ("-m resnet18", SOUNDS, "-m resnet18 --n-mels 64 --frames 160"),
        ("-t 64", WORDS, f"-m melresnet -t 64 --n-fft 512 --epochs 39 --batch-size 64 {OWN}"),
        ("--hop 160", WORDS, f"-m melresnet --n-mels 40 --hop 160 --n-fft 512 --epochs 40 --batch-size 64 {OWN}"),
        (
            "--n-mels 32 --epochs 5 --augment none",
            WORDS,
            "-m melresnet --n-mels 32 --frames 101 --n-fft 512 --epochs 5 --batch-size 64 "
            "--label-smoothing 0.1 --augment none",
        ),
        ("--pretrained", WORDS, "-m resnet18 -t 64 --pretrained"),
        ("--preset reference", WORDS, "-m dla60_res2next -t 224"),
        ("--preset reference -m resnet18 -f 1", WORDS, "-m resnet18 -f 1 -t 224"),
        ("-t 224 -m dla60_res2next", SOUNDS, "-m dla60_res2next -t 224"),
        ("-t 64 -m melresnet", WORDS, "-m melresnet -t 64"),
        (
            "-m melresnet --n-mels 40 --frames 101 --n-fft 512 --augment more --precision bf16 --epochs 40",
            SOUNDS,
            "-m melresnet --n-mels 40 --frames 101 --n-fft 512 --epochs 40 --precision bf16 --augment more",
        ),
    ],
)
def test_what_is_left_open_is_planned_around_what_is_given(words: str, facts: Facts, options: str) -> None:
    assert filled(words, facts)[0] == options


def test_reasons_are_given_for_choices_alone() -> None:
    assert filled("-t 224 -m dla60_res2next")[1] == ""
    _, why = filled("")
    assert "windows of 1 s at 16,000 Hz, a frame of 32 ms every 10 ms" in why
    assert "4,295 clips a fold to learn from are shown 171,800 times" in why
    _, why = filled("-m melresnet --n-mels 40 --epochs 9 --augment none")
    assert not [word for word in ("melresnet", "40", "epochs", "augment", "mixup") if word in why]


def test_a_first_answer_is_one_fold_in_a_run_of_its_own() -> None:
    for facts, seconds, speed in ((WORDS, 120, 1_000), (MANY, 900, 400)):
        config, _ = fill(parse_train(["--preset", "fast"]), facts, CPU)
        assert (config.folds, config.tag) == ((0,), "fast")
        assert 0.2 * seconds < (config.optim.epochs or 0) * facts.clips / speed < 0.7 * seconds
    config, _ = fill(
        parse_train(["--preset", "fast", "-f", "2", "-t", "64", "-m", "resnet18", "--tag", "x"]), WORDS, CPU
    )
    assert (config.folds, config.tag, config.model, config.features.size) == ((2,), "x", "resnet18", 64)
    assert (config.optim.epochs or 0) < 13


def test_epochs_fall_with_clips_and_never_below_a_few() -> None:
    epochs = []
    for clips in (16, 240, 1_200, 4_295, 12_000, 48_000, 160_000, 800_000):
        config, _ = fill(TrainConfig(), dataclasses.replace(WORDS, clips=clips), CPU)
        epochs.append(config.optim.epochs or 0)
    assert epochs == sorted(epochs, reverse=True)
    assert (epochs[0], epochs[-1]) == (200, 4)
    rare, _ = fill(parse_train(["--balance", "1"]), dataclasses.replace(WORDS, clips=240, rarest=10.0), CPU)
    assert rare.optim.epochs == 20  # a clip of the rarest class is shown ten times an epoch


@pytest.mark.parametrize("facts", [WORDS, SOUNDS, MANY])
@pytest.mark.parametrize("machine", [gpu(2), gpu(8), gpu(11), gpu(24), gpu(80), gpu(16, "mps")])
def test_on_a_gpu_batches_fit_and_leave_steps(facts: Facts, machine: Machine) -> None:
    config, choices = fill(TrainConfig(), facts, machine)
    batch, size = config.optim.batch_size, config.features
    assert config.model == "melresnet"
    assert isinstance(batch, int)
    assert 32 <= batch <= 256
    # training.tuning.bytes_a_clip measures 637 bytes for each cell of the feature
    assert batch * 637 * (size.n_mels or 0) * (size.frames or 0) < 0.3 * machine.memory_bytes
    assert batch == 64 or facts.clips / batch >= 64 or machine.memory_bytes < 4e9
    assert (batch == 256) == (facts is MANY and machine.memory_bytes > 4e9)
    assert [choice for choice in choices if "not measured" in choice.why]
    assert fill(parse_train(["-m", "resnet18"]), WORDS, machine)[0].features.size == (
        128 if machine.memory_bytes > 6e9 and machine.kind == "cuda" else 64
    )


def test_no_planned_mel_band_is_empty() -> None:
    """From infrasound to ultrasound, clicks to minutes, whatever part of the features is given."""
    draw = np.random.default_rng(0)
    given = ("", "-m resnet18", "-t 64", "--n-mels 24", "--hop 160", "--n-fft 512", "-m bcresnet3", "--frames 50")
    rates = (100, 250, 999, 1_000, 4_000, 8_000, 16_000, 44_100, 96_000, 250_000, 1_000_000)
    for rate in rates:
        for seconds in (0.02, 0.1, 1.0, 5.0, 300.0):
            share = float(draw.choice([0.03, 0.2, 1.0]))
            samples = round(rate * seconds)
            facts = Facts(rate, samples, 100, 5, 3, 1.0, share * rate / 2, False)
            for words in ("", str(draw.choice(given[1:]))):
                if "--hop" in words and samples < 8 * 160:
                    continue  # too few frames, which is refused
                config, _ = fill(parse_train(words.split()), facts, CPU)
                features = config.features.resolve(rate, samples)
                LogMel(features)
                if not {"-t", "-m", "--frames", "--hop"} & set(words.split()):
                    assert features.padded_samples < samples + max(8, features.hop_samples)
                    assert features.frames <= 641


# ------------------------------------------------------------------------------------------------------ the spectrum


def store_of(work: Path, waves: NDArray[np.float64], rate: int) -> Store:
    """A store of (clips, samples) waves, full scale 1, in place of those in `work`."""
    clips, samples = waves.shape
    integers = torch.from_numpy((waves * 32767).round().astype(np.int16).ravel())
    rows = np.arange(clips, dtype=np.int32)
    train_clips = Clips(
        integers,
        rows.astype(np.int64) * samples,
        np.full(clips, samples, np.int32),
        np.zeros(clips, np.int32),
        rows,
        Names(),
    )
    store = Store.open(work)
    splits = store.splits | {"train": train_clips}
    folds = (rows % 2).astype(np.int16)
    return dataclasses.replace(store, sample_rate=rate, clip_samples=samples, splits=splits, fold_of=folds)


def noises(rate: int, limit: float, level: float = 0.1, slope: float = 0.0) -> NDArray[np.float64]:
    """Noise up to `limit` Hz, (20, rate / 2), falling by `slope` dB an octave."""
    draw = np.random.default_rng(3)
    spectrum = np.fft.rfft(draw.standard_normal((20, rate // 2)))
    hertz = np.fft.rfftfreq(rate // 2, 1 / rate)
    spectrum *= np.where((hertz > 0) & (hertz < limit), np.maximum(hertz, 50.0) ** (-slope / 6.02), 0)
    wave = np.fft.irfft(spectrum)
    return level * wave / wave.std()


@pytest.mark.parametrize("level", [0.1, 0.001])
@pytest.mark.parametrize(("rate", "limit", "fmax"), [(16_000, 3_900, 4_000), (44_100, 4_000, 4_100), (8_000, 500, 550)])
def test_what_was_filtered_is_not_looked_at(
    rate: int, limit: float, fmax: float, level: float, store_work: Path
) -> None:
    store = store_of(store_work, noises(rate, limit, level), rate)
    assert filled_hertz(store) == pytest.approx(limit, rel=0.1)
    plan = make_plan(parse_train(["-w", str(store_work), "--limit", "4"]), store, torch.device("cpu"))
    assert plan.members[0].features.fmax == pytest.approx(fmax, rel=0.05)
    assert any("nothing of the clips lies above" in choice.why for choice in plan.choices)


def test_unfiltered_sound_keeps_its_spectrum(store_work: Path) -> None:
    for name, waves in {
        "white": noises(44_100, 22_050),
        "voice": noises(44_100, 22_050, slope=9.0),
        "one in ten": np.concatenate([*[noises(44_100, 4_000)] * 9, noises(44_100, 22_050)]),
        "silence": np.zeros((20, 100)),
        "short": noises(44_100, 22_050)[:, :20],
    }.items():
        assert filled_hertz(store_of(store_work, waves, 44_100)) > 0.95 * 22_050, name


# ------------------------------------------------------------------------------------------------ plans that are kept


@pytest.fixture
def work(store_work: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    for path in store_work.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder


def planned(words: str, work: Path) -> Plan:
    return make_plan(parse_train(["-w", str(work), *words.split()]), Store.open(work), torch.device("cpu"))


def begin(config: TrainConfig, work: Path, fold: int = 0, **changes: Any) -> None:
    """Leave a finished fold's checkpoint, as if it had been trained."""
    from model import Classifier

    run = dataclasses.replace(resolve(config, Store.open(work), fold), **changes)
    folder = training.plan._run_of(config, Store.open(work)) / f"fold{fold}"
    folder.mkdir(parents=True)
    save_checkpoint(folder / "last.ckpt", run, Classifier(run).state_dict(), True)


def test_a_later_version_finds_the_plan_that_was_made(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = planned("-f 0", work)
    monkeypatch.setattr(training.rules, "NETWORK", "bcresnet1")
    monkeypatch.setattr(training.rules, "MIXUP", 0.5)
    assert planned("-f 0", work) == first
    (member,) = planned("", work).members
    assert member == dataclasses.replace(first.members[0], folds=None)
    assert planned("--tag b", work).members[0].model == "bcresnet1"
    assert planned("--restart", work).members[0].model == "bcresnet1"
    table = (work / "clips.csv").read_text()
    (work / "clips.csv").write_text(table.replace(",low,", ",high,", 1))
    monkeypatch.setattr(training.rules, "NETWORK", "bcresnet2")
    assert planned("", work).members[0].model == "bcresnet2"  # of other clips


def test_restarting_one_fold_keeps_the_plan_of_the_others(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (member,) = planned("", work).members
    begin(member, work, 0)
    begin(member, work, 1)
    monkeypatch.setattr(training.rules, "MIXUP", 0.5)
    assert planned("--restart -f 1", work).members[0].augment.mixup_alpha == 0.2
    assert planned("--restart -f 0,1", work).members[0].augment.mixup_alpha == 0.5


def test_dry_runs_and_looking_at_a_plan_keep_none(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not train.main(["-w", str(work), "--plan"])
    said = capsys.readouterr().out
    planned("--limit 8", work)
    assert not (work / "runs").exists()
    assert "plan for 36 clips of 3 classes, windows of 0.5 s at 8,000 Hz, 2 folds" in said
    assert "for 2 folds, measured on a few steps; 0." in said
    (line,) = [line for line in said.splitlines() if "the same as: " in line]
    explicit = shlex.split(line.partition("train.py ")[2])
    (member,) = planned(" ".join(explicit[2:]), work).members
    store = Store.open(work)
    assert resolve(member, store, 0) == resolve(planned("", work).members[0], store, 0)
    assert not train.main([*explicit, "--plan"])
    assert "the same as: " in capsys.readouterr().out


def test_the_first_of_two_processes_decides(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, store = parse_train(["-w", str(work)]), Store.open(work)
    member, choices = training.plan.complete(config, store, torch.device("cpu"))
    monkeypatch.setattr(training.rules, "MIXUP", 0.5)
    first = planned("", work)
    late = Plan((member,), tuple(choices))
    assert training.plan.store_plan(config, store, late) == first != late


def test_plans_that_cannot_be_read_are_planned_anew(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, path = planned("", work), work / "runs" / "plans.json"
    good = json.loads(path.read_text())
    (key,) = good
    newer = json.loads(path.read_text())
    newer[key]["members"][0]["colour"] = "red"
    newer["--later"] = {"of": "another version"}
    for text in ("", "{", "[]", "null", json.dumps({key: {}}), json.dumps({key: [1]}), json.dumps(newer)):
        path.write_text(text)
        assert planned("", work) == first
        assert "warning: " in capsys.readouterr().err
        assert json.loads(path.read_text())[key] == good[key]
    assert json.loads(path.read_text())["--later"]
    path.unlink()
    begin(dataclasses.replace(first.members[0], optim=dataclasses.replace(first.members[0].optim, epochs=7)), work)
    again = planned("", work)  # runs/ was copied without it
    assert again.members[0].optim.epochs == 7
    assert "--restart plans it anew" in again.choices[0].why


@pytest.mark.parametrize("words", ["", "-m resnet18", "-t 64", "-m resnet18 -t 64", "-m test_resnet --n-mels 32"])
def test_what_was_trained_before_there_were_plans_goes_on(words: str, work: Path) -> None:
    config = parse_train(["-w", str(work), *words.split()])
    features = dataclasses.replace(config.features, size=config.features.size or 64)
    before = dataclasses.replace(config, model=config.model or "resnet18", features=features)
    begin(before, work)
    store = Store.open(work)
    (member,) = planned(words, work).members
    assert resolve(member, store, 0) == resolve(before, store, 0)
    (member,) = planned(f"{words} -f 1", work).members
    assert resolve(member, store, 1) == resolve(before, store, 1)


def test_explicit_runs_of_now_are_not_those_of_then(work: Path) -> None:
    (member,) = planned("-m resnet18 -t 64 --epochs 1", work).members
    begin(member, work)
    assert planned("", work).members[0].model == "melresnet"


def test_precision_stays_that_of_the_other_folds(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.tuning.processor_precision", lambda run: "bf16")
    begin(parse_train(["-w", str(work), "-t", "32", "-m", "test_resnet"]), work)
    assert planned("-t 32 -m test_resnet -f 1", work).members[0].optim.precision == "auto"  # float32, then as now
    assert planned("-t 40 -m test_resnet", work).members[0].optim.precision == "bf16"


def test_weights_bring_their_network(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(parse_train(["-w", str(work), "-m", "bcresnet1", "--n-mels", "24", "--frames", "40"]), work)
    path = work / "runs" / "bcresnet1-24x40" / "fold0" / "last.ckpt"
    (member,) = planned(f"--weights {path}", work).members
    assert (member.model, member.features.n_mels, member.weights) == ("bcresnet1", 24, path)
    other = tmp_path / "timm.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, other)
    assert train.main(["-w", str(work), "--weights", str(other)]) == 2
    assert one_error_line(capsys) == f"error: --weights {other}: no checkpoint of train.py; name its network with -m"


def test_a_wrong_option_leaves_no_plan(work: Path) -> None:
    for words in ("-m resnet1x", "--fmin 5000", "-f 7", "--n-fft 64 -t 64"):
        with pytest.raises(UserError):
            planned(words, work)
        assert not (work / "runs").exists()


def test_another_batch_has_its_rate(work: Path) -> None:
    (member,) = planned("", work).members  # 18 clips
    assert (member.optim.batch_size, member.optim.optimizer, member.optim.lr) == (16, "muon", 0.01)
    (member,) = planned("--batch-size 16", work).members
    assert member.optim.lr == 0.02  # as it is given
    assert options_of(resolve(planned("", work).members[0], Store.open(work), 0)).optim.lr == 0.01
