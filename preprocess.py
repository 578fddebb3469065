"""Decode a data set once, check it and split it into folds: the store that training reads.

What is heavy is imported where it is used, so that ``-h`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from arg import TrainConfig, parse_preprocess
from preprocessing.pipeline import preprocess
from system.console import command
from system.options import command_line


@command
def main(argv: Sequence[str] | None = None) -> None:
    config = parse_preprocess(argv)
    if preprocess(config) and (config.work / "runs").is_dir():
        from training.runs import warn_of_stale_runs

        warn_of_stale_runs(config.work)
    print(f"next: {command_line(TrainConfig(work=config.work))} (with --plan it says what it would train, and why)")


if __name__ == "__main__":
    sys.exit(main())
