"""Command lines and configurations."""

from __future__ import annotations

import dataclasses
import select
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import arg
import inference
import train
from arg import FeatureConfig, FeatureOptions, OptimConfig, OptimOptions, RunConfig
from system.errors import UserError
from system.options import Command, command_line, from_plain, parse, to_plain

RUN = RunConfig(
    model="resnet18",
    classes=("a", "b"),
    class_counts=(3, 4),
    features=FeatureConfig(16000, 16000, 64, 64, 254, 2048),
    augment=arg.AUGMENT_PRESETS["more"],
    optim=OptimConfig(),
    fold=0,
    seed=1,
    folds_hash="abc",
)


def test_the_documented_commands_parse() -> None:
    prepared = arg.parse_preprocess(["-i", "DATASET"])
    trained = arg.parse_train(["-t", "224", "-m", "dla60_res2next", "-f", "0", "-g", "0"])
    labelled = arg.parse_inference(["-t", "224", "-m", "dla60_res2next", "-f", "5", "-a", "y"])
    assert (prepared.input_path, prepared.folds, prepared.work) == (Path("DATASET"), 5, Path("work"))
    assert (trained.model, trained.folds, trained.gpus) == ("dla60_res2next", (0,), ("0",))
    assert trained.features.bands_and_frames == (224, 224)
    assert labelled.runs == ("dla60_res2next-224x224",)
    assert labelled.folds == (0, 1, 2, 3, 4)
    assert labelled.tta
    assert labelled.output == Path("submission.csv")


def test_a_weighted_ensemble_brings_its_runs() -> None:
    assert arg.parse_inference(["--ensemble", "weighted"]).runs == ()
    assert arg.parse_inference(["--ensemble", "weighted"]).folds == ()
    assert arg.parse_inference(["--ensemble", "weighted", "-f", "3"]).folds == (0, 1, 2)
    assert arg.parse_inference([]).folds == ()
    assert arg.parse_inference([]).runs == ()
    for options in ("-t 64", "-m resnet18", "--runs a b", "--tag a", "--n-mels 64", "--frames 64", "--checkpoint best"):
        with pytest.raises(UserError, match=r"leave"):
            arg.parse_inference(["--ensemble", "weighted", *options.split()])


@pytest.mark.parametrize(
    ("text", "folds"),
    [("all", None), ("0,2", (0, 2)), ("full", ("full",)), ("3", (3,)), ("1,full,1", (1, "full")), ("0,", (0,))],
)
def test_folds_of_train(text: str, folds: object) -> None:
    assert arg.parse_train(["-f", text]).folds == folds


@pytest.mark.parametrize(
    ("text", "folds"),
    [("3", (0, 1, 2)), ("full", ("full",)), ("2,0", (2, 0)), ("0,full", (0, "full")), ("0,", (0,)), ("1", (0,))],
)
def test_folds_of_inference(text: str, folds: object) -> None:
    assert arg.parse_inference(["-f", text]).folds == folds
    for wrong in ("0", "x", "1,x", "-1", "", ",", "0,,"):
        with pytest.raises(UserError):
            arg.parse_inference([f"-f={wrong}"])
    with pytest.raises(
        UserError, match="-f 0: a single number is how many folds to use; for fold 0 alone use -f 1 or the list -f 0,"
    ):
        arg.parse_inference(["-f", "0"])


@pytest.mark.parametrize(
    "options",
    [
        "-f x",
        "-f -1",
        "--epochs 0",
        "--ohem 0",
        "--label-smoothing 1",
        "--batch-size 1",
        "--hop 512 --frames 32",
        "--seed -1",
        "--limit -1",
        "--mixup -1",
        "--mixup inf",
        "--budget inf",
        "--budget 0",
        "--budget 3 min",
        "--budget 3m --preset fast",
        "--speed 1",
        "--lr 0.1",
        "--weight-decay 0",
        "--n-fft 1025",
        "--n-mels 0",
        "--tag a/b",
        "--optimizer sgd --weight-decay -1",
        "-t 4",
        "--weights a --pretrained",
        "--optimizer muo",
        "--augment most",
        "--batch-size many",
        "--extension",
    ],
)
def test_train_refuses_what_makes_no_sense(options: str) -> None:
    with pytest.raises(UserError):
        arg.parse_train(options.split())


def test_an_unknown_flag_is_one_line_that_points_to_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--epoch", "3"]) == 2
    assert inference.main(["--fold", "3"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "error: unrecognized argument --epoch (did you mean --epochs? train.py -h lists the options)",
        "error: unrecognized argument --fold (did you mean --folds? inference.py -h lists the options)",
    ]
    with pytest.raises(UserError, match=r"unrecognized argument --zzzzzz \(train.py -h lists the options\)"):
        arg.parse_train(["--zzzzzz=1"])


def test_in_a_notebook_an_error_is_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    assert train.main(["--epochs", "0"]) == 2
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)
    with pytest.raises(UserError, match="--epochs 0: use at least 1"):
        train.main(["--epochs", "0"])


@pytest.mark.parametrize(("clips", "epochs"), [(0, 200), (20, 200), (560, 100), (4_296, 13), (48_000, 13)])
def test_fewer_clips_are_shown_more_often(clips: int, epochs: int) -> None:
    assert arg.default_epochs(clips) == epochs


@pytest.mark.parametrize("parse", [arg.parse_preprocess, arg.parse_train, arg.parse_inference])
def test_help_lists_the_options(parse: Callable[[list[str]], object], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse(["-h"])
    assert "--seed" in (out := capsys.readouterr().out) or "--tta" in out


@pytest.mark.parametrize(("frames", "hop"), [(32, 517), (64, 254), (128, 126), (224, 72)])
def test_one_second_gives_exactly_the_frames_asked_for(frames: int, hop: int) -> None:
    config = FeatureOptions(frames, frames).resolve(16000, 16000)
    assert config.hop_samples == hop
    assert config.n_fft == 2048
    assert 1 + config.padded_samples // hop == frames


def test_a_given_hop_gives_librosas_frames() -> None:
    config = arg.parse_train(["--n-mels", "64", "--hop", "512"]).features.resolve(16000, 16000)
    assert (config.n_mels, config.frames, config.padded_samples) == (64, 32, 16000)


@pytest.mark.parametrize(("rate", "n_fft"), [(8000, 1024), (16000, 2048), (22050, 2048), (44100, 4096)])
def test_n_fft_follows_the_sample_rate(rate: int, n_fft: int) -> None:
    assert FeatureOptions().resolve(rate, rate).n_fft == n_fft


@pytest.mark.parametrize("band", ["--fmax 0", "--fmin 8000", "--fmax 8001", "--fmin 300 --fmax 200"])
def test_an_empty_band_is_refused(band: str) -> None:
    with pytest.raises(UserError, match="need 0 <= fmin < fmax <= 8000 Hz"):
        arg.parse_train(band.split()).features.resolve(16000, 16000)


def test_a_configuration_survives_as_plain_values() -> None:
    plain = to_plain(RUN)
    assert from_plain(RunConfig, plain) == RUN
    for broken in ({**plain, "colour": 1}, {key: value for key, value in plain.items() if key != "seed"}):
        with pytest.raises(ValueError, match="keys"):
            from_plain(RunConfig, broken)


def test_an_absent_field_is_what_the_code_did_before_it_existed() -> None:
    plain = to_plain(RUN)
    del plain["augment"]["speed"], plain["limit"], plain["optim"]["deterministic"]
    revived = from_plain(RunConfig, plain)
    assert (revived.augment.speed, revived.limit, revived.optim.deterministic) == (0.0, 0, False)
    assert dataclasses.replace(revived, augment=RUN.augment) == RUN


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (arg.PreprocessConfig, "-i 'my data' -k 3 --manifest m.csv --columns path=file label=word --strict"),
        (arg.TrainConfig, "-w 'my -f runs' -m a -f 0,full -g cpu,cpu --tag=-x --restart"),
        (arg.TrainConfig, "--hop 100 --optimizer adamw --lr 0.0001 --batch-size 8"),
        (arg.TrainConfig, "--batch-size auto --optimizer sgd --augment more --speed 0.0 --grad-clip 1e-30"),
        (arg.InferenceConfig, "-m a,b -f 3, -a n --ensemble hard -t 40"),
        (arg.InferenceConfig, "--runs x 'y z' -f full"),
        (arg.InferenceConfig, "--check c.csv -w 'x y'"),
        (arg.ReportConfig, "--compare a b --no-audio -o 'x y.html'"),
    ],
)
def test_a_printed_command_gives_its_configuration_again(kind: type[Command], words: str) -> None:
    config = parse(kind, shlex.split(words))
    python, script, *again = shlex.split(command_line(config))
    assert (python, script) == ("python", kind.script)
    assert parse(kind, again) == config
    assert command_line(kind()) == f"python {kind.script}"


def test_a_printed_command_names_the_script_as_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    for called, named in (
        ("/some where/train.py", "python '/some where/train.py' -f 0,2"),
        ("train.py", "python train.py -f 0,2"),
        ("../inference.py", "python ../train.py -f 0,2"),
        ("/usr/lib/ipykernel_launcher.py", "python train.py -f 0,2"),
    ):
        monkeypatch.setattr(sys, "argv", [called])
        assert command_line(arg.TrainConfig(), folds=(0, 2)) == named


@pytest.mark.parametrize("kind", [OptimOptions, OptimConfig])
@pytest.mark.parametrize(("name", "value"), [("epochs", 0), ("precision", "8"), ("warmup", 1), ("batch_size", 1)])
def test_a_value_is_checked_however_it_is_given(kind: type[OptimOptions], name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} {value}"):
        kind(**{name: value})


def test_nothing_heavy_is_imported_before_the_arguments_are_parsed() -> None:
    heavy = "{'torch', 'pandas', 'librosa', 'sklearn', 'pytorch_lightning', 'matplotlib'}"
    code = f"import sys, preprocess, train, inference; print({heavy} & set(sys.modules))"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_unbuffered_output_comes_at_once() -> None:
    """python -u: a line is there while the script that printed it still works."""
    code = """
import sys
from system.console import command

@command
def main(argv=None):
    print("first")
    sys.stdin.readline()
    print("second")

sys.exit(main())
"""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-u", "-c", code]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], text=True, **pipes) as process:
        assert process.stdout
        there, _, _ = select.select([process.stdout], [], [], 30)
        rest, _ = process.communicate("\n")
    assert there
    assert rest == "first\nsecond\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_work_goes_on_when_nobody_reads_what_it_prints(stream: str, tmp_path: Path) -> None:
    """As in `python train.py | head -1`: 1 MB is more than any pipe or buffer holds."""
    code = f"""
import sys
from pathlib import Path
from typing import Any
from system.console import command
from system.errors import UserError

@command
def main(argv=None):
    print("first", file=sys.{stream}, flush=True)
    print("x" * 1_000_000, file=sys.{stream})
    Path(argv[0]).write_text("done")
    raise UserError("which nobody reads either")

sys.exit(main(sys.argv[1:]))
"""
    root, other = Path(__file__).parents[1], "stderr" if stream == "stdout" else "stdout"
    pipes: dict[str, Any] = {stream: subprocess.PIPE, other: subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "result")], cwd=root, text=True, **pipes)
    reader, rest = getattr(process, stream), getattr(process, other)
    assert reader.readline() == "first\n"
    reader.close()
    with process, rest:
        said = rest.read()
    assert process.returncode == 2
    assert (tmp_path / "result").read_text() == "done"
    assert said == ("error: which nobody reads either\n" if stream == "stdout" else "")
