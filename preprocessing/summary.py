"""What a person checks before training."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from arg import PreprocessConfig
from preprocessing.folds import units_of
from system.console import clock, counted
from system.paths import CLIPS, PICTURE, REJECTED
from util import uneven

LONG = 1.25  # windows, from which on a clip is said to be longer

if TYPE_CHECKING:
    from pandas import DataFrame

    from preprocessing.decisions import Record


def summary_lines(
    config: PreprocessConfig,
    store: dict[str, Any],
    clips: DataFrame,
    rejected: DataFrame,
    record: Record,
    notes: list[str],
) -> list[str]:
    """The lines that a person checks before training; `notes` are warnings of earlier steps."""
    import pandas as pd

    from preprocessing.decisions import describe
    from preprocessing.files import some
    from preprocessing.naming import propose
    from preprocessing.silence import are_pieces
    from system.options import command_line
    from system.paths import RECORD

    notes = list(notes)
    train = clips[clips["split"] == "train"]
    test = clips[clips["split"] == "test"]
    counts = pd.crosstab(train["label"], train["fold"]).reindex(columns=range(store["folds"]), fill_value=0)
    rows = [(label, [*row, sum(row)]) for label, *row in counts.itertuples(name=None)]
    rows.append(("all", [*counts.sum(), len(train)]))
    rows.append(("classes", [*(counts > 0).sum(), len(counts)]))
    unit = pd.Series(units_of(train), train.index)  # groups, joined where near duplicates link them
    if store["grouped"]:
        groups = unit.groupby(train["fold"]).nunique()
        rows.append(("groups", [*groups, sum(groups)]))
    header = ("class", [*(f"fold {fold}" for fold in range(store["folds"])), "clips"])
    rows.insert(0, header)
    width = max(len(label) for label, _ in rows)
    lines = [f"{label:<{width}}" + "".join(f"{cell:>8}" for cell in cells) for label, cells in rows]
    if len(counts) > 40:
        lines[11 : len(counts) - 9] = [f"... {len(counts) - 20} more classes"]
    torn = int((train[train["cluster"] != ""].groupby("cluster")["fold"].nunique() > 1).sum())
    but = f" but {torn:,} clusters, see below" if torn else ""
    lines.append(f"checked: no group and no duplicate is in two folds{but}")

    rate = store["sample_rate"]
    lines += [
        "",
        f"{len(train):,} clips of {len(counts):,} classes to train on, {len(test):,} test clips "
        f"({(test['label'] != '').sum():,} labelled), {store['counts']['noise']:,} noise recordings",
        f"{rate:,} Hz, window {store['clip_samples'] / rate:g} s, {clock(clips['length'].sum() / rate)} of audio",
    ]
    own = train[~are_pieces(clips)[clips["split"] == "train"]]  # the others are grouped by their recordings
    names = zip(own["fname"], own["group"], strict=True)
    grouped = any(group and not name.startswith(f"{group}#t=") for name, group in names)  # else by recordings alone
    if config.group == "auto" and not grouped:
        told = propose(own["fname"].tolist(), own["label"].tolist())
        danger = "if one speaker's clips lie in several folds, scores will be too good"
        if told:
            notes.append(f"no groups found, but the names tell {told.says}: {danger}; if these are speakers, "
                         f"recordings or the like: {command_line(config, **told.options)}")  # fmt: skip
        elif (own["group"] == "").any():
            notes.append(
                f"no groups found (names like <speaker>_nohash_<n>, a manifest's column, --group-pattern): {danger}"
            )
    elif grouped and (alone := int((own["group"] == "").sum())):
        notes.append(f"{alone:,} clips name no group: each is one for itself")
    units = unit.groupby(train["label"]).nunique()
    if small := list(units.index[units < store["folds"]]):
        what = "groups" if store["grouped"] else "clips"
        notes.append(f"fewer {what} than folds, so some folds hold none: {some(small, 'class', 'classes')}")
    found = Counter(word for flags in clips["flags"] for word in flags.split())
    if found["in-train"]:
        notes.append(f"the same audio is in train (flag in-train): {found['in-train']:,} of {len(test):,} test clips")
    if known := int((test["group"].isin(set(train["group"]) - {""})).sum()):
        notes.append(f"of a group that is in train: {known:,} of {len(test):,} test clips")
    if found:
        kinds = ", ".join(f"{count:,} {word}" for word, count in found.most_common())
        lines.append(f"flagged, and kept: {kinds}; see {config.work / CLIPS}")
    if clusters := clips.loc[clips["cluster"] != "", "cluster"].nunique():
        lines.append(f"near duplicates: {found['near-duplicate']:,} clips in {clusters:,} clusters")
    notes += filter(None, [_longer(train, test, store["clip_samples"], rate), _copied(train, rejected)])
    if record:
        lines.append(f"decided by hand: {describe(record)}; see {config.work / RECORD}")
    if config.picture:
        lines.append(f"durations, levels and clips of each class: {config.work / PICTURE}")
    lines += [f"warning: {note}" for note in notes]

    if len(rejected):
        lines.append(f"rejected: {len(rejected):,} files, see {config.work / REJECTED}")
        kinds = rejected["reason"].str.replace(r"^line \d+: ", "", regex=True)
        kinds = kinds.str.split(r"[:;]| of | as | line | \(", regex=True).str[0]
        kinds += " (" + rejected["split"].replace("", "manifest") + ")"
        for kind, same in rejected.groupby(kinds, sort=False):
            lines.append(f"  {len(same):,} {kind}")
            examples = zip(same["fname"][:3], same["reason"][:3], strict=True)
            lines += [f"    {name}: {reason}" for name, reason in examples]
    return lines


def _longer(train: DataFrame, test: DataFrame, window: int, rate: int) -> str:
    """What becomes of clips much longer than the window (samples), '' where there is none."""
    long = {name: clips["length"][clips["length"] >= LONG * window] for name, clips in
            (("training clip", train), ("test clip", test))}  # fmt: skip
    what = " and ".join(counted(len(length), name) for name, length in long.items() if len(length))
    if not what:
        return ""
    longest = max(length.max() for length in long.values() if len(length)) / rate
    return (
        f"longer than the window of {window / rate:g} s by a quarter or more: {what}, up to {longest:.1f} s. "
        "Training takes a random window of each in every epoch; held out or to be labelled, it is judged by its "
        f"central one. --clip-seconds {math.ceil(10 * longest) / 10:g} takes all of them; columns start_time and "
        "end_time of a manifest cut clips out of them"
    )


def _copied(train: DataFrame, rejected: DataFrame) -> str:
    """That copies of the clips of rare classes do not make these larger, and what does; "" where there are none.

    A class is rare by `util.UNEVEN`, and its copies are at least as many as its clips.
    """
    from preprocessing.files import some

    copies = rejected.loc[rejected["reason"].str.startswith("duplicate of "), "label"].value_counts()
    clips = train["label"].value_counts()
    rare = [name for name in clips.index if uneven([clips[name], clips.max()]) and copies.get(name, 0) >= clips[name]]
    if not rare:
        return ""
    more = "train.py --class-weights 1 counts rare classes more"
    return f"copies are left out, so they make no class larger: {some(rare, 'class', 'classes')}; {more}"
