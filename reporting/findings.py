"""What the predictions of one system say about the clips and their labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reporting import suspects
from reporting.scores import Coverage, coverage
from reporting.systems import Results, System
from util import confusion

if TYPE_CHECKING:
    from pandas import DataFrame

LISTED_CLIPS = 5000
LISTED_DUPLICATES = 100  # clusters
CLOSE_CALLS = 100
TYPICAL = 2  # clips of each class, of which the networks are surest
SUSPECT, CONFIDENT, ERROR, CLOSE, DUPLICATE, TYPICAL_CLIP = (
    "suspected label",
    "confident error",
    "error",
    "close call",
    "near duplicate",
    "typical",
)


class Findings:
    """What the predictions of one system say about the clips and their labels. Positions count its own clips."""

    def __init__(self, results: Results, system: System) -> None:
        clips = self.clips = results.clips
        self.results, self.system = results, system
        self.position = np.flatnonzero(system.rows)  # of each of its clips among all
        self.truth = clips.truth[self.position]
        self.group = clips.group[self.position]
        self.table = clips.table.iloc[self.position].reset_index(drop=True)
        self.judged = suspects.judge(self.truth, system.probabilities)
        self.suspects = self._suspects()
        self.predicted = self.judged["predicted"].to_numpy()
        self.wrong = self.predicted != self.truth
        self.coverage: Coverage = coverage(self.truth, system.probabilities, clips.fold[self.position], self.group)
        self.confusion = confusion(self.truth, self.predicted, len(clips.classes))  # (C, C) clips, label x prediction
        self.pairs = suspects.confused_pairs(self.confusion)
        weak = suspects.weak_groups(self.wrong, self.group)
        named = np.array([bool(name) for name in clips.group_names])
        self.weak = weak[named[weak["group"].to_numpy()]]  # a clip without a speaker is a group, but none to name
        self.speakers = np.unique(self.group[named[self.group]])
        self.twins = suspects.disagreeing_duplicates(self.table["cluster"].tolist(), self.truth, self.predicted)
        self.loud_over_quiet = clips.loud_over_quiet()[self.position]

    def _suspects(self) -> DataFrame:
        """Of `suspects.list_suspects` what nobody has decided about; empty where the system has learned nothing."""
        from preprocessing.decisions import read_record

        table = suspects.list_suspects(self.table, self.clips.classes, self.judged)
        open_ = ~table["fname"].isin(list(read_record(self.clips.work))) & self.system.learned
        return table[open_]

    def factors(self) -> list[tuple[str, str, NDArray[np.float64]]]:
        """What errors may depend on: a name, its unit and a value for each clip."""
        rows = self.table
        return [
            ("level", "dB", rows["rms_db"].to_numpy(np.float64)),
            ("duration", "s", rows["length"].to_numpy(np.float64) / self.clips.sample_rate),
            ("loud parts over quiet ones", "dB", self.loud_over_quiet),
        ]

    def listed(self) -> tuple[list[int], list[list[str]]]:
        """The clips worth listening to, the most important first, and what is the matter with each."""
        problems: dict[int, list[str]] = defaultdict(list)

        def add(rows: Sequence[int] | NDArray[Any], what: str) -> None:
            for row in rows:
                problems[int(row)].append(what)

        ranked = suspects.by_suspicion(self.judged)
        sure = self.judged["p_predicted"].to_numpy()
        errors = ranked.index[self.wrong[ranked.index]].to_numpy()
        add(self.suspects.index.to_numpy(), SUSPECT)
        add(suspects.confident_errors(self.judged, max(50, len(errors) // 5)).index, CONFIDENT)
        add([row for twins in self.twins["clips"][:LISTED_DUPLICATES] for row in twins], DUPLICATE)
        add([row for row in errors if row not in problems], ERROR)
        right = np.flatnonzero(~self.wrong)
        add(right[np.argsort(sure[right], kind="stable")[:CLOSE_CALLS]], CLOSE)
        for index in range(len(self.clips.classes)):
            own = right[self.truth[right] == index]
            add(own[np.argsort(-sure[own], kind="stable")[:TYPICAL]], TYPICAL_CLIP)
        rows = list(problems)[:LISTED_CLIPS]
        flags = self.table["flags"]
        return rows, [problems[row] + flags[row].split() for row in rows]
