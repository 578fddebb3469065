"""Decode a data set once, check it and split it into folds: the store that training reads.

What is heavy is imported where it is used, so that ``-h`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from arg import parse_preprocess
from preprocessing.pipeline import preprocess
from system.console import command


@command
def main(argv: Sequence[str] | None = None) -> None:
    preprocess(parse_preprocess(argv))


if __name__ == "__main__":
    sys.exit(main())
