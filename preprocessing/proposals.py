"""What to type where folders alone do not tell the classes: tables, folders and names that are there, tried out."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from arg import PreprocessConfig
from preprocessing import naming
from preprocessing.columns import ColumnsError
from preprocessing.files import find, subfolders
from preprocessing.layouts import find_layout, looks_like_split
from preprocessing.manifest import read_manifest
from system.errors import UserError
from system.options import command_line

TABLES = frozenset({".csv", ".tsv", ".tab", ".txt", ".json", ".jsonl", ".ndjson", ".parquet"})
BESIDE = re.compile(r"(meta|annot|label|csv|table)\w*", re.IGNORECASE)  # folders beside the clips that hold tables
TRIED = 30  # tables at most, ...
LARGEST_BYTES = 100 << 20  # ... none larger, and as many folders


def propose(root: Path, config: PreprocessConfig, count_classes: Callable[[Path, PreprocessConfig], int]) -> str:
    """The end of an error: the command with a manifest, a folder below `root` or the names that has classes; else ''.

    `count_classes` tells how many classes the folders in a folder give; it may raise UserError.
    """
    ends = []
    found: dict[Path, int] = {}
    for table in _tables(root):
        try:
            files = read_manifest(table, root, dataclasses.replace(config, manifest=table, columns=())).files
        except ColumnsError as error:
            ends.append(f"; {error}")
            continue
        except UserError:
            continue
        usable = [file for file in files if file.split == "train" and not file.reason]
        if len({file.label for file in usable}) > 1:
            found[table] = len(usable)
    if found:
        best = max(found, key=lambda table: found[table])
        shown = best.relative_to(root if best.is_relative_to(root) else root.parent)
        return f"; {shown} names {found[best]:,} clips and their labels: " + command_line(
            config, manifest=best, label_pattern=None
        )
    below = [root / name for name in subfolders(root)[:TRIED]]
    for folders in (below, [folder / name for folder in below for name in subfolders(folder)]):
        inner = []
        for folder in folders[:TRIED]:
            with contextlib.suppress(UserError):
                held_out = looks_like_split(folder.name) in ("test", "validation")
                inner += [folder] if not held_out and count_classes(folder, config) > 1 else []
        if len(inner) == 1:
            return f"; a folder below has classes: {command_line(config, input_path=inner[0])}"
    names = [file.fname for top in find_layout(root).train for file in find(top, root, "", Counter())]
    if told := naming.propose(names, [""] * len(names)):
        return f"; the names tell {told.says}; if that is right: {command_line(config, **told.options)}"
    return "".join(ends[:1])


def _tables(root: Path) -> Iterator[Path]:
    """The tables in `root`, in the folders in it, and beside it."""
    folders = [root, *(root / name for name in subfolders(root)[:TRIED])]
    with contextlib.suppress(PermissionError):  # a parent that must not be listed
        beside = subfolders(root.parent)
        folders += [root.parent, *(root.parent / name for name in beside if BESIDE.fullmatch(name))]
    paths = (path for folder in dict.fromkeys(folders) for path in sorted(folder.iterdir()))
    tables = (path for path in paths if path.suffix.lower() in TABLES and path.is_file())
    for _, path in zip(range(TRIED), tables, strict=False):
        if path.stat().st_size <= LARGEST_BYTES:
            yield path
