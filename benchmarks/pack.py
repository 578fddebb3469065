"""A part of a store as a store of its own, small enough to travel.

    python -m benchmarks.pack work part --clips 1900 --splits train

Takes clips of the splits named, drawn without regard to their order, and keeps their folds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from preprocessing.store import load_clips, load_store
from system.paths import CLIPS, STORE, WAVES


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pack", description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="what preprocess.py made")
    parser.add_argument("part", type=Path, help="the folder to write")
    parser.add_argument("--clips", type=int, metavar="N", help="at most; default: all")
    parser.add_argument("--splits", nargs="+", choices=("train", "test", "noise"), default=["train"])
    options = parser.parse_args()
    pack(options.work, options.part, options.clips, options.splits)


def pack(work: Path, part: Path, clips: int | None, splits: list[str]) -> None:
    facts, table = load_store(work), load_clips(work)
    table = table[table["split"].isin(splits)]
    if clips is not None and clips < len(table):
        table = table.sample(clips, random_state=0).sort_index()
    waves = np.memmap(work / WAVES, "<i2", "r")
    part.mkdir(parents=True, exist_ok=True)
    with (part / WAVES).open("wb") as file:
        for offset, length in zip(table["offset"], table["length"], strict=True):
            file.write(waves[offset : offset + length].tobytes())
    table["offset"] = table["length"].cumsum() - table["length"]
    table.to_csv(part / CLIPS, index=False, lineterminator="\n")
    facts["counts"] = {split: int((table["split"] == split).sum()) for split in facts["counts"]}
    (part / STORE).write_text(json.dumps(facts))
    print(f"{part}: {len(table):,} clips, {(part / WAVES).stat().st_size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
