"""A data set prepared from end to end: found, decoded, checked, split into folds, saved."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from arg import NO_LIST, PreprocessConfig
from preprocessing.audit import flag_clips
from preprocessing.decode import Audio, Floats, Key, common_rate, decode_files
from preprocessing.duplicates import find_clusters, reject_duplicates
from preprocessing.files import SPLITS, File, printable, store_order
from preprocessing.folds import split_clips
from preprocessing.fullscale import full_scales
from preprocessing.labels import DROPPED
from preprocessing.previous import Previous, completed, note_down, previous_store, resume_journal, split_options
from preprocessing.silence import are_pieces, cut_silence, wants_silence
from preprocessing.store import (
    CLIP_COLUMNS,
    REJECTED_COLUMNS,
    SAMPLE_MISFIT,
    STORE_FORMAT,
    map_waves,
    save_store,
    settle,
    writing,
)
from preprocessing.summary import summary_lines
from system.console import clock
from system.errors import UserError
from system.locks import locked
from system.paths import CLIPS, JOURNAL, LOCK, PICTURE, REJECTED, STORE, WAVES

if TYPE_CHECKING:
    from pandas import DataFrame

    from preprocessing.decisions import Record
    from preprocessing.scan import DataSet


def preprocess(config: PreprocessConfig) -> bool:
    """Bring the store in `config.work` up to date with the data set, and print what a person should check.

    Returns whether its tables have changed.

    Only new and changed files are decoded, and known clips keep their folds, unless the options that decide them have
    changed. What a person decided about clips (`config.relabel`, and the record of earlier decisions) is applied.
    UserError where there is nothing to train on, or where `config.strict` finds anything amiss.
    """
    from preprocessing.archives import download
    from preprocessing.decisions import apply_record
    from preprocessing.picture import draw_picture
    from preprocessing.scan import scan
    from preprocessing.testset import compared

    started = time.monotonic()
    config = completed(config)
    if config.download and config.input_path:
        download(config.download, config.input_path)
    work = config.work
    _insist_outside(work, config)
    data = scan(config)
    with writing(work), locked(work / LOCK):
        settle(work)
        before = previous_store(config, data.root)
        found, heard = len(data.files), _hear(config, data, before)
        if wants_silence(config):
            data, heard = _with_silence(config, data, heard)
        record = _decided(config, data, before.folds)
        table, voided = apply_record(_table(data.files, heard.audios), record)
        clips, rejected = _usable(reject_duplicates(table), data.root)
        # not among pieces of noise: they may overlap, and their recording keeps them in one fold
        searched = (clips["split"] != "noise").to_numpy() & ~are_pieces(clips)
        clips["cluster"] = find_clusters(clips, before.clips, work / WAVES, heard.sample_rate, heard.bands, searched)
        clips["flags"] = flag_clips(clips, heard.sample_rate)
        if config.strict:
            _insist(clips, rejected, record)
        split = split_clips(clips, config, before.folds)
        clips["fold"] = split.fold
        store = _facts(config, data, clips, heard, split.folds)
        names = [*clips.loc[clips["split"] == "test", "fname"], *rejected.loc[rejected["split"] == "test", "fname"]]
        fits, misfit = compared(data.sample, store["classes"], names) if data.sample else ("", "")
        store |= {SAMPLE_MISFIT: misfit} if misfit else {}
        changed = save_store(work, store, clips[CLIP_COLUMNS], rejected[REJECTED_COLUMNS], record)
        (work / JOURNAL).unlink(missing_ok=True)
        if config.picture:
            draw_picture(clips[clips["split"] != "noise"], store["classes"], heard.sample_rate, work / PICTURE)
        spare = _spare_note(work / WAVES, clips, rejected)
    notes = [*data.notes, *before.notes, *heard.notes, *voided, *split.notes, *spare, *filter(None, [misfit])]
    what = f"{heard.new:,} new or changed of {found:,} files decoded" if changed else "nothing has changed"
    print(*summary_lines(config, store, clips, rejected, record, notes), *filter(None, [fits]), sep="\n")
    print(f"{what}, {clock(time.monotonic() - started)}\n")
    return changed


class _Heard(NamedTuple):
    """The audio of a data set's files."""

    sample_rate: int  # Hz, of the store
    audios: list[Audio]  # of all files
    new: int  # files that were decoded for that
    bands: tuple[NDArray[np.int64], Floats]  # the `spectral_bands` of new clips, by their offsets
    full_scale: dict[str, float]  # of the float samples of a split, where it has some
    notes: list[str]


def _insist_outside(work: Path, config: PreprocessConfig) -> None:
    """UserError for a new work folder in the data set, whose folders are classes."""
    assert config.input_path
    root = config.input_path.resolve()
    if not config.manifest and work.resolve().is_relative_to(root) and not (work / STORE).exists():
        other = shlex.quote(str(root.with_name("work")))
        raise UserError(f"-w {work}: lies in the data set {root}, whose folders are classes; give another: -w {other}")


def _decided(config: PreprocessConfig, data: DataSet, folds: dict[str, int]) -> Record:
    """What a person decided about clips: what is on record, with what --relabel brings."""
    from preprocessing.decisions import forget_folds, read_list, read_record

    if config.relabel == NO_LIST:
        return {}
    record = read_record(config.work)
    if not folds:  # those on record are of another split, and would move what stands with a clip that comes back
        record = forget_folds(record)
    if config.relabel is None:
        return record
    labels = {file.fname: file.label for file in data.files if file.split == "train" and not file.reason}
    return read_list(config.relabel, labels, folds, record)


def _hear(config: PreprocessConfig, data: DataSet, before: Previous) -> _Heard:
    """Decode what is not known from an earlier run."""
    train = [file.path for file in data.files if file.split == "train" and not file.reason]
    sample_rate = config.sample_rate or (before.store and before.store["sample_rate"]) or common_rate(train)
    known: dict[Key, Audio] = {}
    if before.store and before.store["sample_rate"] == sample_rate:
        known |= before.known
    usable = [file for file in data.files if not file.reason]
    once = before.store.get("full_scale", {}) if before.store else {}
    # Most of them at the extremes: it may be that an older version clipped float samples beyond full scale.
    square = {key for key, audio in known.items() if key[0] not in once and audio.clipped > 0.5}
    odd = {file.split for file in usable if file.key not in known or file.key in square}
    found, notes = full_scales({split: [f for f in usable if f.split == split] for split in SPLITS if split in odd})
    full_scale = {split: value for split, value in once.items() if split not in odd} | found
    same = {split for split in SPLITS if full_scale.get(split, 1.0) == once.get(split, 1.0)}
    again = {key for key in square if key[0] in found}
    known = {key: audio for key, audio in known.items() if key[0] in same and key not in again}
    new = [file for file in usable if file.key not in known]
    if new:
        known |= resume_journal(config.work, data.root, sample_rate, full_scale)
        new = [file for file in new if file.key not in known]
    audios, bands = decode_files(new, sample_rate, config.work / WAVES, partial(note_down, config.work), full_scale)
    known |= zip((file.key for file in new), audios, strict=True)
    offset = np.array([audio.offset for audio in audios if audio.length], np.int64)
    every = [Audio(reason=file.reason) if file.reason else known[file.key] for file in data.files]
    return _Heard(sample_rate, every, len(new), (offset, bands), full_scale, notes)


def _with_silence(config: PreprocessConfig, data: DataSet, heard: _Heard) -> tuple[DataSet, _Heard]:
    """Both with pieces of the noise recordings: --silence."""
    pairs = [*zip(data.files, heard.audios, strict=True)]
    length = [audio.length for file, audio in pairs if file.split == "train" and audio.length]
    if not length:
        return data, heard  # the error is that no clip can be read
    window = _window(np.array(length), heard.sample_rate, config.clip_seconds)
    waves = map_waves(config.work / WAVES)
    files, audios, notes = cut_silence(config, data.files, heard.audios, waves, heard.sample_rate, window)
    pairs += zip(files, audios, strict=True)
    pairs.sort(key=lambda pair: store_order(pair[0]))
    data = data._replace(files=[file for file, _ in pairs], notes=[*data.notes, *notes])
    return data, heard._replace(audios=[audio for _, audio in pairs])


def _table(files: Sequence[File], audios: Iterable[Audio]) -> DataFrame:
    """One row a file: the fields of `File` and `Audio`."""
    import pandas as pd

    fields = File._fields.index("reason")  # which Audio has, too
    columns = [*File._fields[:fields], *Audio._fields]
    table = pd.DataFrame([(*file[:fields], *audio) for file, audio in zip(files, audios, strict=True)], columns=columns)
    for name in ("fname", "label", "group"):
        table[name] = [printable(text) for text in table[name]]
    return table


def _usable(table: DataFrame, root: Path) -> tuple[DataFrame, DataFrame]:
    """The usable clips and the files left out; UserError where fewer than two classes are left."""
    clips = table[table["reason"] == ""].reset_index(drop=True)
    rejected = table[table["reason"] != ""].reset_index(drop=True)
    if clips.loc[clips["split"] == "train", "label"].nunique() < 2:
        why = f"{rejected['fname'][0]}: {rejected['reason'][0]}"
        raise UserError(f"{root}: fewer than 2 classes have a usable clip ({why})")
    return clips, rejected


def _insist(clips: DataFrame, rejected: DataFrame, record: Record) -> None:
    """UserError where any file is left out, but by a person's decision, or any clip flagged: --strict."""
    from preprocessing.decisions import DROP

    dropped = [decision.fname for decision in record.values() if decision.action == DROP]
    by_hand = (rejected["split"] == "train") & rejected["fname"].isin(dropped) | (rejected["reason"] == DROPPED)
    rejected = rejected[~by_hand]
    flagged = clips[clips["flags"] != ""]
    if not len(rejected) + len(flagged):
        return
    column, row = ("reason", rejected.iloc[0]) if len(rejected) else ("flags", flagged.iloc[0])
    counts = f"{len(rejected):,} files would be left out, {len(flagged):,} clips flagged"
    raise UserError(f"{row['fname']}: {row[column]} ({counts}; without --strict, {REJECTED} and {CLIPS} list them)")


def _facts(config: PreprocessConfig, data: DataSet, clips: DataFrame, heard: _Heard, folds: int) -> dict[str, Any]:
    """What store.json says."""
    sample_rate = heard.sample_rate
    train = clips[clips["split"] == "train"]
    return {
        "format": STORE_FORMAT,
        "root": str(data.root),
        "test_root": data.test_root and str(data.test_root),
        "sample_submission": data.sample and str(data.sample.path),
        "sample_rate": sample_rate,
        "clip_samples": _window(train["length"], sample_rate, config.clip_seconds),
        "classes": sorted(set(train["label"])),
        "folds": folds,
        "grouped": bool((train["group"] != "").any()),
        "counts": {split: int((clips["split"] == split).sum()) for split in SPLITS},
        "options": split_options(config),
        "noise": config.noise and str(config.noise.resolve()),
        **({"full_scale": heard.full_scale} if heard.full_scale else {}),
    }


def _window(lengths: NDArray[np.int64], sample_rate: int, clip_seconds: float | None) -> int:
    """Samples of the window: `clip_seconds`, or the 95th percentile of `lengths` (samples) rounded up to 0.1 s."""
    if clip_seconds is None:
        tenths = float(np.percentile(lengths, 95)) / sample_rate * 10
        clip_seconds = max(1, math.ceil(round(tenths, 2))) / 10  # a resampled second may be a sample too long
    return max(1, round(clip_seconds * sample_rate))


def _spare_note(waves: Path, clips: DataFrame, rejected: DataFrame) -> list[str]:
    """What to say where most of `waves` is of no clip any more."""
    parts = np.concatenate([table[["offset", "length"]].to_numpy(np.int64) for table in (clips, rejected)])
    parts = parts[np.argsort(parts[:, 0], kind="stable")]
    end = np.maximum.accumulate(parts.sum(1))  # pieces of noise lie in their recordings
    used = 2 * int(np.clip(np.diff(end, prepend=0), 0, parts[:, 1]).sum())
    spare = waves.stat().st_size - used
    worth = spare > max(used, 1 << 20)
    return [f"delete {waves} and run this again to free {spare >> 20:,} MiB no clip uses"] if worth else []
