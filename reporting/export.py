"""The list of suspected labels that a person edits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from system.errors import UserError
from system.options import command_line

if TYPE_CHECKING:
    from reporting.findings import Findings


def spare_decisions(path: Path, work: Path) -> None:
    """UserError where a list of suspects at `path`, to be written anew, holds decisions that are not on record yet."""
    from preprocessing.decisions import READ_COLUMNS, read_record, unshielded
    from preprocessing.tables import read_table

    if not path.exists():
        return
    header, rows, _ = read_table(path)
    if not set(READ_COLUMNS) <= set(header):
        raise UserError(f"{path}: is there, and no list of suspects: name another file")
    record = read_record(work)
    fname, action = header.index("fname"), header.index("action")
    decided = [unshielded(row[fname]) for _, row in rows if len(row) > max(fname, action) and row[action].strip()]
    if lost := [name for name in decided if name not in record]:
        raise UserError(
            f"{path}: has {len(lost):,} decisions that are not on record yet, {lost[0]!r} the first: give it to "
            "preprocess.py --relabel before, or name another file"
        )


def export(path: Path, findings: Findings) -> None:
    """Write the list of suspected labels. UserError where the networks have learned nothing that could tell."""
    from arg import PreprocessConfig
    from reporting.suspects import write_suspects

    if not findings.system.learned:
        raise UserError(f"{path}: not written: {findings.system.name} has learned nothing, so it can suspect no label")
    write_suspects(path, findings.suspects)
    print(
        f"{path}: {len(findings.suspects):,} suspected labels. Listen, write relabel, drop or keep under action, then\n"
        f"  {command_line(PreprocessConfig(work=findings.clips.work, relabel=path))}"
    )
