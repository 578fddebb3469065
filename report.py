"""Say how good every run is, which ensemble is best, and what to fix: ``python report.py``.

All of it comes from the out-of-fold predictions. What is heavy is imported where it is used, so that ``-h`` and a
mistyped flag answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime

from arg import ReportConfig, parse_report
from reporting.export import export, spare_decisions
from reporting.media import media_of, without_media
from system.console import command
from system.errors import UserError
from system.options import command_line
from system.paths import PAGE


@command
def main(argv: Sequence[str] | None = None) -> None:
    report(parse_report(argv))


def report(config: ReportConfig) -> None:
    """Score the runs under `config.work`, choose an ensemble of them, and write both down with what goes wrong."""
    from reporting.content import make_report
    from reporting.findings import Findings
    from reporting.gather import find_runs, held_out_clips
    from reporting.page import write_page
    from reporting.systems import all_compared, best, compared, find_ensemble, named, score_runs, write_chosen
    from reporting.verdict import remark, say, say_comparison, table_of

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
        if said := remark(run, systems.get(run.name)):
            print(f"{run.name}: {run.status}, {said}" + (f"\n  {run.command}" if run.command else ""))
    subject = named(systems, ensembles, config.subject) if config.subject else best(systems, ensembles)
    findings = Findings(clips, subject, clips.loud_over_quiet())
    comparisons = all_compared(clips, systems, ensembles)
    verdict = say(clips, runs, ensembles, comparisons, findings)
    print("\n" + "\n".join(verdict) + "\n")
    path = config.output or config.work / PAGE
    made = f"{datetime.now():%Y-%m-%d %H:%M}, {command_line(config)}"
    media = media_of(clips, runs) if config.audio else without_media
    write_page(path, make_report(clips, runs, systems, ensembles, comparisons, findings, verdict, made, media))
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, opens in any browser")
    if ensembles:
        write_chosen(clips, ensembles)
        if subject.learned:
            print(f"next: {ensembles.command}")
    if config.export:
        export(config.export, clips, findings)


if __name__ == "__main__":
    sys.exit(main())
