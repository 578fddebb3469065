"""Extensions: the examples of docs/extending.md, and what may be wrong with a file."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

import inference
import report
import train
from arg import TrainConfig, parse_train
from model import Classifier, make_optimizer, read_config
from system import extensions
from system.errors import UserError
from system.options import command_line
from tests.conftest import one_error_line
from training.resolve import options_of

TEXT = (Path(__file__).parents[1] / "docs" / "extending.md").read_text("utf-8")
FILES = {code.split("\n", 1)[0].removeprefix("# "): code for code in re.findall(r"```python\n(.*?)```", TEXT, re.S)}
COMMANDS = [
    shlex.split(line)[1:] for block in re.findall(r"```\n(python .*?)```", TEXT, re.S) for line in block.splitlines()
]
TINY = ["--epochs", "1", "-t", "32", "-g", "cpu", "-f", "0"]


def forget() -> None:
    extensions._loaded.clear()
    for things in extensions.REGISTERED.values():
        things.clear()


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """What a test loads is gone after it."""
    yield
    forget()


@pytest.fixture
def work(store_work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, code in FILES.items():
        Path(name).write_text(code, "utf-8")
    return shutil.copytree(store_work, tmp_path / "work")


def run_of(work: Path) -> Path:
    (path,) = (work / "runs").glob("*/fold0/last.ckpt")
    return path


def test_the_document_has_an_example_of_each() -> None:
    assert set(FILES) == {"backwards.py", "focal.py", "nadam.py", "tinynet.py", "quieter.py"}
    assert [words[0] for words in COMMANDS] == ["train.py"] * 4 + ["inference.py"] * 2


@pytest.mark.parametrize("words", COMMANDS[:3], ids=" ".join)
def test_a_run_with_an_extension(words: list[str], work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*words[1:], *TINY, "-m", "test_resnet"]
    assert train.main(command) == 0
    config = read_config(run_of(work))["config"]
    file, (name,) = words[2], config.parts
    assert set(config.extensions) == {file}
    assert list(config.parts[name].values()) == [float(words[-1])]
    assert train.main(command) == 0
    assert "trained already" in capsys.readouterr().out
    again = parse_train(shlex.split(command_line(parse_train(command)))[2:])
    assert again == parse_train(command)
    assert options_of(config, extensions=(Path(file),)).parts == config.parts
    for other in ([*words[:-1], "0.001"], words):  # another value, then another version of the file
        assert train.main([*other[1:], *TINY, "-m", "test_resnet"]) == 2
        assert "trained with other settings" in one_error_line(capsys)
        Path(file).write_text(FILES[file] + "\n# changed\n")


def test_a_run_is_used_without_its_extensions(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--extension", "focal.py", "--loss", "focal", "--extension", "nadam.py", "--optimizer", "nadam"]
    assert train.main([*words, "--extension", "backwards.py", "--backwards", "1", *TINY, "-m", "test_resnet"]) == 0
    forget()
    assert inference.main(["-m", "test_resnet", "-t", "32", "-f", "1", "-g", "cpu"]) == 0
    assert report.main([]) == 0
    assert "test_resnet-32x32: incomplete" in capsys.readouterr().out
    assert train.main([*TINY, "-m", "test_resnet"]) == 2
    assert "optim.optimizer nadam -> " in one_error_line(capsys)
    config = read_config(run_of(work))["config"]
    model = Classifier(config)
    for use in (lambda: model.loss(torch.zeros(2, 3), torch.zeros(2, 3)), lambda: make_optimizer(model, config.optim)):
        with pytest.raises(UserError, match="not known here; give the file that defines it with --extension FILE"):
            use()


SQUARED = """
from pathlib import Path
from dataclasses import dataclass
from system.extensions import register
from system.options import Options, option

@register("loss", "squared")
def squared(logits, target):
    return (logits.softmax(1) - target).square().sum(1)

@register("loss", "listed")
@dataclass(frozen=True)
class Listed(Options):
    shares: tuple[float, ...] = option((0.5,), "--shares", nargs="+", help="10 % or so")
    table: Path | None = option(None, "--table")

    def __call__(self, logits, target):
        assert isinstance(self.shares, tuple) and isinstance(self.table, Path)
        return squared(logits, target)
"""


@pytest.mark.parametrize("loss", ["squared", "listed --shares 0.5 1 --table a.csv"])
def test_a_loss_is_a_function_or_has_options_of_any_type(
    loss: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("squared.py").write_text(SQUARED)
    command = ["--extension", "squared.py", "--loss", *loss.split(), *TINY, "-m", "test_resnet"]
    assert train.main(command) == 0
    assert train.main(command) == 0
    assert "trained already" in capsys.readouterr().out
    assert inference.main(["-m", "test_resnet", "-t", "32", "-f", "1", "-g", "cpu"]) == 0
    with pytest.raises(SystemExit, match="0"):
        parse_train(["--extension", "squared.py", "-h"])
    assert "--table TABLE" in (said := capsys.readouterr().out)
    assert "10 % or so" in said


def test_a_file_that_is_changed_back_is_loaded_again(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    for number in (1, 2, 1):
        path.write_text(f"from system.extensions import register\nregister('view', 'v')(lambda *_: {number})")
        extensions.load([path])
        assert extensions.REGISTERED["view"]["v"]() == number


def test_a_network_and_a_view(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*COMMANDS[3][1:], *TINY[:-1], "0,1"]) == 0
    assert "next: python inference.py --extension tinynet.py\n" in capsys.readouterr().out
    tables = []
    for words in COMMANDS[4:]:
        assert inference.main([*words[1:], "-t", "32", "-f", "1", "-g", "cpu"]) == 0
        tables.append(pd.read_csv("submission_probabilities.csv", index_col="fname"))
    assert "views: 5" in capsys.readouterr().out
    assert (tables[0] != tables[1]).any(axis=None)
    assert tables[0].sub(tables[1]).abs().max(axis=None) < 0.5
    assert inference.main(["-m", "tinynet", "-t", "32", "-f", "1", "--view", "louder"]) == 2
    assert "--view louder: use muffled" in one_error_line(capsys)


def test_folds_side_by_side_load_it_too(work: Path) -> None:
    command = [*COMMANDS[1][1:], "--epochs", "1", "-t", "32", "-m", "test_resnet", "-g", "cpu,cpu"]
    assert train.main(command) == 0
    assert len(list((work / "runs").glob("*/fold*/oof.npz"))) == 2


def test_a_new_option_is_one_field(work: Path) -> None:
    """It stands in the help, is checked, reaches the batch and the record, and is printed."""
    code = FILES["backwards.py"].replace(
        "    def draw", '    least: int = option(1, "--least", help="x")\n\n    def draw'
    )
    Path("backwards.py").write_text(code, "utf-8")
    config = parse_train(["--extension", "backwards.py", "--backwards", "1", "--least", "3"])
    assert config.parts == {"backwards": {"share": 1.0, "least": 3}}
    assert command_line(config) == "python train.py --extension backwards.py --backwards 1.0 --least 3"
    with pytest.raises(UserError, match="--backwards 2: use 0 to 1"):
        parse_train(["--backwards", "2", "--extension", "backwards.py"])
    extensions.REGISTERED["augmentation"].clear()
    with pytest.raises(UserError, match="unrecognized argument --backwards"):
        parse_train(["--backwards", "1"])


def test_augmented_batches_are_changed(work: Path) -> None:
    from dataset import Store
    from training.resolve import resolve
    from util import generator

    words = ["-t", "32", "-m", "test_resnet", "--augment", "none", "--extension", "backwards.py", "--backwards"]
    store, waves = Store.open(work), torch.arange(4000, dtype=torch.int16).repeat(2, 1)
    target = torch.eye(3)[:2]
    plain, turned = (
        Classifier(resolve(parse_train([*words, share]), store, 0)).augmented(waves, target, generator("cpu", 0))[0]
        for share in ("0", "1")
    )
    assert not torch.equal(plain, turned)


OWN = """
from dataclasses import dataclass
from system.extensions import register
from system.options import option
@register("{}", "{}")
@dataclass
class Own:
    {}
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import nothing_like_that", "ModuleNotFoundError: No module named 'nothing_like_that'"),
        ("def", "SyntaxError: invalid syntax"),
        (None, "No such file"),
        (
            OWN.format("optimizer", "adamw", "lr, weight_decay = 1, 0"),
            "adamw: is built in",
        ),
        (OWN.format("optimizer", "mine", "lr = 1"), "mine: lacks weight_decay, which an optimizer needs"),
        (OWN.format("augmentation", "mine", "domain, draw, apply = 'waves', 1, 1"), "mine: needs a domain, wave or"),
        (
            OWN.replace("@dataclass\n", "").format("augmentation", "mine", "domain, draw, apply = 'wave', 1, 1"),
            "and an option that switches it on",
        ),
        (OWN.format("loss", "mine", "x: float = option(1.0, '--lr')"), "extension mine: --lr is another option"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    code: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.py"
    if code is not None:
        path.write_text(code)
    assert train.main(["--extension", str(path)]) == 2
    line = one_error_line(capsys)
    assert said in line


def test_an_unknown_part_is_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="focal: not known here"):
        TrainConfig(parts={"focal": {"gamma": 1.0}})
    assert train.main(["--loss", "focal"]) == 2
    assert "--loss focal: use cross-entropy" in one_error_line(capsys)
    assert train.main(["--extension", "focal.py", "--gamma", "1", "-w", str(work), *TINY]) == 2
    assert "focal: has options, and is not used" in one_error_line(capsys)
    assert train.main(["--extension", "focal.py", "--loss", "focal", "--label-smoothing", "0.1"]) == 2
    assert "--label-smoothing: --loss focal knows none" in one_error_line(capsys)
