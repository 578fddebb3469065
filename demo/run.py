"""The commands one after the other, on made speech or on a folder of clips: ``python -m demo.run``."""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

import system.console
import util
from arg import InferenceConfig
from demo.speech import make_speech
from prediction.choice import choose
from preprocessing.folds import dependent
from preprocessing.store import load_clips, load_store
from system.errors import UserError

VOICES, TEST_VOICES = 80, 20  # espeak-ng has about a hundred
FOLDS, EPOCHS = 3, 12  # minutes on two cores


@system.console.command
def main(argv: Sequence[str] | None = None) -> None:
    started = time.monotonic()
    data, out = _parse(argv)
    work, submission = out / "work", out / "submission.csv"

    if made := data is None:
        data = out / "speech"
        if not data.exists():
            print(f"Making speech of {VOICES + TEST_VOICES} voices in {data} …", flush=True)
            make_speech(data, VOICES, TEST_VOICES)
    _run("preprocess.py", "-i", data, "-w", work, "-k", FOLDS)
    _run("train.py", "-w", work, *(("--epochs", EPOCHS) if made else ()))
    if load_store(work)["counts"].get("test"):
        _run("inference.py", "-w", work, "-o", submission)
    else:
        print(f"\n{data} has no test clips, so inference.py has nothing to label and is left out.")
        submission.unlink(missing_ok=True)  # an earlier run's would be reported as this one's

    _run("report.py", "-w", work)

    print(f"\nDone in {system.console.clock(time.monotonic() - started)}.")
    print(report(work, submission))


def report(work: Path, submission: Path) -> str:
    """How good it is, where the files are, and what to do next."""
    best = choose(InferenceConfig(work=work)).best
    lines = []
    if held_out := best.answers:
        lines.append(f"  out-of-fold accuracy  {_accuracy(held_out.truth, held_out.predicted, held_out.group)}")
    if submission.exists():
        names, truth, predicted = _test_labels(submission)
        known = set(truth) <= set(best.config.classes)
        said = _accuracy(np.array(truth), np.array(predicted), _groups(work, names)) if known else "unknown: no labels"
        lines.append(f"  test accuracy         {said}")
        lines.append(f"  submission            {submission}")
    lines.append(f"  what goes wrong       {work / 'report.html'}")
    lines.append(f"  scores of each fold   {work / 'runs' / 'summary.csv'}")
    lines.append(f"  checkpoints           {best.folder}")
    lines.append("Next, on a data set of your own (a folder a class):")
    for command in (("preprocess.py", "-i", "DATASET"), ("train.py",), ("inference.py",), ("report.py",)):
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


def _test_labels(submission: Path) -> tuple[list[str], list[str], list[str]]:
    """The test clips' names, their folders, which are their labels where they are classes, and the submitted labels."""
    import pandas as pd

    table = pd.read_csv(submission, dtype=str, keep_default_na=False)
    if list(table.columns) != ["fname", "label"]:  # a sample submission may ask for anything
        return [""], [""], [""]
    names = list(table["fname"])
    return names, [PurePosixPath(name).parts[0] for name in names], list(table["label"])


def _groups(work: Path, names: Sequence[str]) -> NDArray[np.integer[Any]]:
    """A number for each clip's speaker, or for the clip itself where that is not known."""
    clips = load_clips(work)
    group_of = dict(zip(clips["fname"], dependent(clips), strict=True))
    return np.unique([group_of.get(name) or f"\0{name}" for name in names], return_inverse=True)[1]


def _accuracy(truth: NDArray[Any], predicted: NDArray[Any], group: NDArray[np.integer[Any]]) -> str:
    classes, (true, taken) = np.unique([truth, predicted], return_inverse=True)
    return util.format_scores(true, taken, [1] * len(classes), group).removeprefix("accuracy ")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")  # the scripts' lines in order with ours, in a pipe too
    sys.exit(main())
