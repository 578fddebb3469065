"""Say how good every run is, which ensemble is best, and what to fix: ``python report.py``.

All of it comes from the out-of-fold predictions. Heavy libraries are imported where they are used, so that ``-h`` and a
mistyped option answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from arg import InferenceConfig, ReportConfig, parse_report
from system.console import command
from system.errors import UserError
from system.options import command_line
from system.paths import PAGE


@command
def main(argv: Sequence[str] | None = None) -> None:
    report(parse_report(argv))


def report(config: ReportConfig) -> None:
    """Score the runs under `config.work`, choose an ensemble of them, and write both down with what goes wrong."""
    from reporting.export import export, spare_decisions
    from reporting.findings import Findings
    from reporting.gather import find_runs, held_out_clips
    from reporting.page import write_page
    from reporting.systems import judge_runs, write_chosen
    from reporting.verdict import say, say_choice, say_comparison, table_of

    for path in (config.output, config.export):
        if path and path.is_dir():
            raise UserError(f"{path}: is a folder; name a file")
    if config.export:
        spare_decisions(config.export, config.work)
    clips = held_out_clips(config.work)
    results = judge_runs(clips, find_runs(clips, config.runs))
    if config.compare:
        print(say_comparison(results.compared(*map(results.named, config.compare))))
        return
    print(table_of(results))
    findings = Findings(results, results.named(config.subject) if config.subject else results.best())
    comparisons = results.comparisons()
    verdict = say(findings, comparisons)
    print("\n" + "\n".join(verdict) + "\n")
    path = config.output or config.work / PAGE
    write_page(path, findings, comparisons, verdict, command_line(config), config.audio)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, opens in any browser")
    if results.ensembles:
        write_chosen(results, results.ensembles, comparisons)
        if findings.system.learned:
            label = InferenceConfig(None if clips.test_clips else Path("CLIPS"), config.work)
            where = "" if clips.test_clips else ", with your folder of clips for CLIPS"
            if config.runs:
                print(f"next{where}: {results.ensembles.command}")
            else:
                print(f"{say_choice(results.ensembles, label)}\nnext{where}: {command_line(label)}")
    if config.export:
        export(config.export, findings)


if __name__ == "__main__":
    sys.exit(main())
