"""Say how good every run is, which ensemble is best, and what to fix: ``python report.py``.

All of it comes from the out-of-fold predictions. What is heavy is imported where it is used, so that ``-h`` and a
mistyped flag answer at once.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from arg import ReportConfig, UserError, command, parse_report

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from reporting.findings import Findings
    from reporting.gather import HeldOut, Run
    from reporting.media import Media

PAGE = "report.html"


@command
def main(argv: Sequence[str] | None = None) -> None:
    report(parse_report(argv), shlex.join(["python", "report.py", *(sys.argv[1:] if argv is None else argv)]))


def report(config: ReportConfig, typed: str = "python report.py") -> None:
    """Score the runs under `config.work`, choose an ensemble of them, and write both down with what goes wrong."""
    from reporting.content import make_report
    from reporting.findings import Findings
    from reporting.gather import find_runs, held_out_clips
    from reporting.page import write_page
    from reporting.systems import all_compared, best, compared, find_ensemble, named, score_runs, write_chosen
    from reporting.verdict import say, say_comparison, table_of

    if config.export:
        spare_decisions(config.export, config.work)
    clips = held_out_clips(config.work)
    runs = find_runs(clips, config.runs)
    systems = score_runs(clips, runs)
    if not systems:
        first = f"{runs[0].name}: {runs[0].note}; {runs[0].command}".rstrip("; ")
        raise UserError(f"{config.work}: no predictions to judge. {first}")
    ensembles = find_ensemble(clips, runs)
    if config.compare:
        a, b = (named(systems, ensembles, name) for name in config.compare)
        print(say_comparison(a, b, compared(clips, a, b)))
        return
    print(table_of(runs, systems, ensembles))
    for run in runs:
        if run.note:
            print(f"{run.name}: {run.status}, {run.note}" + (f"\n  {run.command}" if run.command else ""))
    subject = named(systems, ensembles, config.subject) if config.subject else best(systems, ensembles)
    findings = Findings(clips, subject, clips.loud_over_quiet())
    comparisons = all_compared(clips, systems, ensembles)
    verdict = say(clips, runs, ensembles, comparisons, findings)
    print("\n" + "\n".join(verdict) + "\n")
    if config.export:
        export(config.export, clips, findings)
    path = config.output or config.work / PAGE
    made = f"{datetime.now():%Y-%m-%d %H:%M}, {typed}"
    media = media_of(clips, runs) if config.audio else without_media
    write_page(path, make_report(clips, runs, systems, ensembles, comparisons, findings, verdict, made, media))
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, opens in any browser")
    if ensembles:
        write_chosen(clips, ensembles)
        print(f"next: {ensembles.command}")


def spare_decisions(path: Path, work: Path) -> None:
    """UserError where a list of suspects at `path`, to be written anew, holds decisions that are not on record yet."""
    from relabel import READ_COLUMNS, read_record, unshielded
    from source import read_rows

    if not path.exists():
        return
    header, rows = read_rows(path)
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


def export(path: Path, clips: HeldOut, findings: Findings) -> None:
    """Write the list of suspected labels, without those that a person has decided on already."""
    from relabel import read_record
    from reporting.suspects import write_suspects
    from train import work_option

    count = write_suspects(path, findings.table, clips.classes, findings.judged, read_record(clips.work))
    options = [*work_option(clips.work), "--relabel", str(path)]
    print(
        f"{path}: {count:,} clips to listen to; fill in its action column (relabel, drop, keep), then\n"
        f"  {shlex.join(['python', 'preprocess.py', *options])}"
    )


def media_of(clips: HeldOut, runs: Sequence[Run]) -> Callable[[NDArray[np.int64]], Media]:
    """Makes sound and picture of clips by position: what the networks hear and, of the first run, what they see."""
    from dataset import LogMel, Store, as_float
    from reporting.media import clip_media

    features = next(run.features for run in runs if run.features)

    def make(rows: NDArray[np.int64]) -> Media:
        waves = Store.open(clips.work).clips("train").windows(rows, clips.clip_samples)
        mel = LogMel(features)(as_float(waves))[:, 0]  # (rows, n_mels, frames)
        return clip_media(list(waves.numpy()), clips.sample_rate, list(mel.numpy()))

    return make


def without_media(rows: NDArray[np.int64]) -> Media:
    from reporting.media import Media

    return Media([None] * len(rows), [None] * len(rows), "")


if __name__ == "__main__":
    sys.exit(main())
