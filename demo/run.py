"""The commands one after the other, on made speech or on a folder of clips: ``python -m demo.run``."""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

import arg
import system.console
import util
from demo.speech import make_speech
from preprocessing.folds import dependent
from preprocessing.store import load_clips, load_store
from system.errors import UserError

VOICES, TEST_VOICES = 80, 20  # espeak-ng has about a hundred
FOLDS, EPOCHS, MODEL, N_MELS, FRAMES = 3, 12, "melresnet", 40, 101  # minutes on two cores


@system.console.command
def main(argv: Sequence[str] | None = None) -> None:
    started = time.monotonic()
    data, out = _parse(argv)
    work, submission = out / "work", out / "submission.csv"
    network = ("-m", MODEL, "--n-mels", N_MELS, "--frames", FRAMES)

    if data is None:
        data = out / "speech"
        if not data.exists():
            print(f"Making speech of {VOICES + TEST_VOICES} voices in {data} …", flush=True)
            make_speech(data, VOICES, TEST_VOICES)
    _run("preprocess.py", "-i", data, "-w", work, "-k", FOLDS)
    _run("train.py", "-w", work, *network, "-f", "all", "--epochs", EPOCHS)
    if load_store(work)["counts"].get("test"):
        _run("inference.py", "-w", work, *network, "-f", FOLDS, "-a", "y", "-o", submission)
    else:
        print(f"\n{data} has no test clips, so inference.py has nothing to label and is left out.")
        submission.unlink(missing_ok=True)  # an earlier run's would be reported as this one's

    _run("report.py", "-w", work)

    print(f"\nDone in {system.console.clock(time.monotonic() - started)}.")
    print(report(work, submission))


def report(work: Path, submission: Path) -> str:
    """How good it is, where the files are, and what to do next."""
    runs = work / "runs" / arg.run_name(MODEL, N_MELS, FRAMES)
    clips = load_clips(work)
    group_of = dict(zip(clips["fname"], dependent(clips), strict=True))
    names, truth, predicted, classes = _out_of_fold(runs)
    lines = [f"  out-of-fold accuracy  {_accuracy(names, truth, predicted, group_of)}"]
    if submission.exists():
        names, truth, predicted = _test_labels(submission)
        said = _accuracy(names, truth, predicted, group_of) if set(truth) <= set(classes) else "unknown: no labels"
        lines.append(f"  test accuracy         {said}")
        lines.append(f"  submission            {submission}")
    lines.append(f"  what goes wrong       {work / 'report.html'}")
    lines.append(f"  scores of each fold   {work / 'runs' / 'summary.csv'}")
    lines.append(f"  checkpoints           {runs}")
    lines.append("Next, on a data set of your own (a folder a class; best with a GPU):")
    for command in (
        ("preprocess.py", "-i", "DATASET"),
        ("train.py", "-t", 224, "-m", "dla60_res2next", "-f", "all"),
        ("inference.py", "-t", 224, "-m", "dla60_res2next", "-f", 5, "-a", "y"),
        ("report.py",),
    ):
        lines.append(f"  {_shown(*command)}")
    return "\n".join(lines)


def _parse(argv: Sequence[str] | None) -> tuple[Path | None, Path]:
    parser = argparse.ArgumentParser(prog="python -m demo.run", description="Preprocess, train and label, in minutes.")
    parser.add_argument("--data", type=Path, metavar="DIR", help="data set to use, only read; default: speech is made")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where results go; default: demo-work, or a folder in it for --data"
    )
    options = parser.parse_args(argv)
    out = Path("demo-work")
    if options.data is not None:
        if not options.data.is_dir():
            raise UserError(f"--data {options.data}: no such folder")
        path = options.data.resolve()  # work of one data set must not meet another's of the same name
        out /= f"data-{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:6]}"
    return options.data, options.out or out


def _run(script: str, *arguments: object) -> None:
    """Run one of the scripts as a user would; its output is shown as it comes."""
    print(f"\n$ {_shown(script, *arguments)}", flush=True)
    status = subprocess.run([sys.executable, script, *map(str, arguments)]).returncode
    if status:
        raise UserError(f"{script} stopped with status {status}: what it says above is the reason")


def _shown(*command: object) -> str:
    """A command line that can be pasted into a terminal."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return shlex.join(map(str, (python, *command)))


def _out_of_fold(runs: Path) -> tuple[list[str], list[str], list[str], list[str]]:
    """Names, true and predicted labels of every fold's held-out clips, and the classes."""
    import pandas as pd

    tables = [
        pd.read_csv(path, dtype={"fname": str, "label": str}, keep_default_na=False)
        for path in sorted(runs.glob("fold*/oof.csv"))
    ]
    if not tables:
        raise UserError(f"{runs}: no fold has an oof.csv; train.py has not finished")
    table = pd.concat(tables)
    classes = list(table.columns[2:])
    best = table[classes].to_numpy().argmax(1)
    return list(table["fname"]), list(table["label"]), [classes[index] for index in best], classes


def _test_labels(submission: Path) -> tuple[list[str], list[str], list[str]]:
    """The test clips' names, their folders, which are their labels where they are classes, and the submitted labels."""
    import pandas as pd

    table = pd.read_csv(submission, dtype=str, keep_default_na=False)
    if list(table.columns) != ["fname", "label"]:  # a sample submission may ask for anything
        return [""], [""], [""]
    names = list(table["fname"])
    return names, [PurePosixPath(name).parts[0] for name in names], list(table["label"])


def _accuracy(names: Sequence[str], truth: Sequence[str], predicted: Sequence[str], group_of: Mapping[str, str]) -> str:
    classes, (true, taken) = np.unique([truth, predicted], return_inverse=True)
    group = np.unique([group_of.get(name) or f"\0{name}" for name in names], return_inverse=True)[1]
    return util.format_scores(true, taken, [1] * len(classes), group).removeprefix("accuracy ")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")  # the scripts' lines in order with ours, in a pipe too
    sys.exit(main())
