"""A data set prepared from end to end: found, decoded, audited, split into folds, saved."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from arg import NO_LIST, PreprocessConfig, TrainConfig
from preprocessing.audit import flag_clips
from preprocessing.decode import Audio, Key, common_rate, decode_files
from preprocessing.duplicates import find_clusters, reject_duplicates
from preprocessing.folds import split_clips
from preprocessing.journal import note_down, resume_journal
from preprocessing.store import (
    CLIP_COLUMNS,
    REJECTED_COLUMNS,
    STORE_FORMAT,
    load_clips,
    load_rejected,
    load_store,
    save_store,
    settle,
    writing,
)
from preprocessing.summary import summary_lines
from system.console import clock
from system.errors import UserError
from system.locks import locked
from system.options import command_line
from system.paths import CLIPS, JOURNAL, LOCK, NEXT, PICTURE, REJECTED, STORE, WAVES

if TYPE_CHECKING:
    from pandas import DataFrame

    from preprocessing.decisions import Record
    from preprocessing.files import File
    from preprocessing.scan import DataSet


def _table(files: Sequence[File], audios: Iterable[Audio]) -> DataFrame:
    import pandas as pd

    from preprocessing.files import File, printable

    columns = [*File._fields[:-1], *Audio._fields]
    rows = [(*file[:-1], *audio) for file, audio in zip(files, audios, strict=True)]
    table = pd.DataFrame(rows, columns=columns)
    for name in ("fname", "label", "group"):
        table[name] = [printable(text) for text in table[name]]
    return table


def _insist(clips: DataFrame, rejected: DataFrame, record: Record) -> None:
    """UserError where any file is left out, but by a person's decision, or any clip flagged: --strict."""
    from preprocessing.decisions import DROP

    dropped = [decision.fname for decision in record.values() if decision.action == DROP]
    rejected = rejected[(rejected["split"] != "train") | ~rejected["fname"].isin(dropped)]
    flagged = clips[clips["flags"] != ""]
    if not len(rejected) + len(flagged):
        return
    column, row = ("reason", rejected.iloc[0]) if len(rejected) else ("flags", flagged.iloc[0])
    counts = f"{len(rejected):,} files would be left out, {len(flagged):,} clips flagged"
    raise UserError(f"{row['fname']}: {row[column]} ({counts}; without --strict, {REJECTED} and {CLIPS} list them)")


def preprocess(config: PreprocessConfig) -> None:
    """Bring the store in `config.work` up to date with the data set, and print what a person should check.

    Only new and changed files are decoded, and known clips keep their folds, unless the options that decide them have
    changed. What a person decided about clips (`config.relabel`, and the record of earlier decisions) is applied.
    UserError where there is nothing to train on, or where `config.strict` finds anything amiss.
    """
    from preprocessing.archives import download
    from preprocessing.audit import draw_audit
    from preprocessing.scan import scan

    started = time.monotonic()
    config = _complete(config)
    if config.download and config.input_path:
        download(config.download, config.input_path)
    data = scan(config)
    work = config.work
    with writing(work), locked(work / LOCK):
        settle(work)
        notes = list(data.notes)
        old = _previous(config, data.root, notes)
        record = _decided(config, data, old)
        sample_rate, known, new = _hear(config, data, old)
        clips, rejected = _judge(data, known, old.clips, record, work / WAVES, sample_rate, notes)
        if config.strict:
            _insist(clips, rejected, record)
        folds = split_clips(clips, config, old.folds, notes)
        store = _facts(config, data, clips, sample_rate, folds)
        changed = save_store(work, store, clips[CLIP_COLUMNS], rejected[REJECTED_COLUMNS], record)
        (work / JOURNAL).unlink(missing_ok=True)
        if changed or not (work / PICTURE).exists():
            draw_audit(clips[clips["split"] != "noise"], store["classes"], sample_rate, work / PICTURE)
        used = 2 * int(clips["length"].sum() + rejected["length"].sum())
        if (spare := (work / WAVES).stat().st_size - used) > used:
            notes.append(f"delete {work / WAVES} and run this again to free {spare >> 20:,} MiB no clip uses")
    if (work / "runs").is_dir() and old.clips is not None and _to_learn(old.clips) != _to_learn(clips):
        notes.append("what was trained before is stale: train.py --restart trains it again, --tag NAME beside it")
    seconds = time.monotonic() - started
    what = f"{new:,} new or changed of {len(data.files):,} files decoded" if changed else "nothing has changed"
    print(*summary_lines(config, store, clips, rejected, record, notes), f"{what}, {clock(seconds)}", "", sep="\n")
    print(f"next: {command_line(TrainConfig(work=work))}")


def _to_learn(clips: DataFrame) -> list[list[Any]]:
    """What a run hangs on: name, label and fold of each training clip."""
    rows: list[list[Any]] = clips.loc[clips["split"] == "train", ["fname", "label", "fold"]].to_numpy(object).tolist()
    return rows


def _complete(config: PreprocessConfig) -> PreprocessConfig:
    """`config`; where it names no data set, that of the store in its work folder, with the options of that."""
    if config.input_path is not None:
        return config
    if (config.work / NEXT).is_dir():  # of a run that was killed: the store may lack its facts
        with writing(config.work), locked(config.work / LOCK):
            settle(config.work)
    store = load_store(config.work)
    manifest, columns = store["options"]["manifest"], store["options"]["columns"]
    options = store["options"] | {"manifest": manifest and Path(manifest), "columns": tuple(columns.items())}
    return dataclasses.replace(
        config,
        **options,
        input_path=Path(store["root"]),
        sample_rate=store["sample_rate"],
        clip_seconds=store["clip_samples"] / store["sample_rate"],
        noise=config.noise or (Path(store["noise"]) if store.get("noise") else None),
    )


def _decided(config: PreprocessConfig, data: DataSet, old: _Earlier) -> Record:
    """What a person decided about clips: what is on record, with what --relabel brings."""
    from preprocessing.decisions import read_list, read_record

    if config.relabel == NO_LIST:
        return {}
    record = read_record(config.work)
    if not old.folds:  # those on record are of another split, and would move what stands with a clip that comes back
        record = {fname: dataclasses.replace(decision, fold=-1) for fname, decision in record.items()}
    if config.relabel is None:
        return record
    labels = {file.fname: file.label for file in data.files if file.split == "train" and not file.reason}
    return read_list(config.relabel, labels, old.folds, record)


def _hear(config: PreprocessConfig, data: DataSet, old: _Earlier) -> tuple[int, dict[Key, Audio], int]:
    """The sample rate (Hz) of the store, the audio of every file, and how many files were decoded for that."""
    train = [file.path for file in data.files if file.split == "train" and not file.reason]
    sample_rate = config.sample_rate or (old.store and old.store["sample_rate"]) or common_rate(train)
    known = dict(old.known) if old.store and old.store["sample_rate"] == sample_rate else {}
    new = [file for file in data.files if not file.reason and file.key not in known]
    if new:
        facts = {"format": STORE_FORMAT, "root": str(data.root), "sample_rate": sample_rate}
        known |= resume_journal(config.work, facts)
        new = [file for file in new if file.key not in known]
        audios = decode_files(new, sample_rate, config.work / WAVES, partial(note_down, config.work))
        known |= zip((file.key for file in new), audios, strict=True)
    return sample_rate, known, len(new)


def _judge(
    data: DataSet,
    known: Mapping[Key, Audio],
    old: DataFrame | None,
    record: Record,
    waves: Path,
    sample_rate: int,
    notes: list[str],
) -> tuple[DataFrame, DataFrame]:
    """The usable clips, flagged, with the folds that a manifest gives ('' for none), and the files left out."""
    from preprocessing.decisions import apply_record

    table = _table(data.files, (Audio(reason=file.reason) if file.reason else known[file.key] for file in data.files))
    notes += apply_record(table, record)
    reject_duplicates(table)
    clips = table[table["reason"] == ""].reset_index(drop=True)
    rejected = table[table["reason"] != ""].reset_index(drop=True)
    if clips.loc[clips["split"] == "train", "label"].nunique() < 2:
        why = f"{rejected['fname'][0]}: {rejected['reason'][0]}"
        raise UserError(f"{data.root}: fewer than 2 classes have a usable clip ({why})")
    clips["cluster"] = find_clusters(clips, old, waves, sample_rate)
    clips["flags"] = flag_clips(clips, sample_rate)
    return clips, rejected


def _facts(config: PreprocessConfig, data: DataSet, clips: DataFrame, sample_rate: int, folds: int) -> dict[str, Any]:
    """What store.json says."""
    from preprocessing.files import SPLITS

    train = clips[clips["split"] == "train"]
    return {
        "format": STORE_FORMAT,
        "root": str(data.root),
        "test_root": data.test_root and str(data.test_root),
        "sample_submission": data.sample_submission and str(data.sample_submission),
        "sample_rate": sample_rate,
        "clip_samples": _window(train["length"], sample_rate, config.clip_seconds),
        "classes": sorted(set(train["label"])),
        "folds": folds,
        "grouped": bool((train["group"] != "").any()),
        "counts": {split: int((clips["split"] == split).sum()) for split in SPLITS},
        "options": _options(config),
        "noise": config.noise and str(config.noise.resolve()),
    }


def _options(config: PreprocessConfig) -> dict[str, Any]:
    """The options that decide labels and folds, as store.json has them."""
    names = ("folds", "seed", "group", "group_pattern", "label_pattern")
    manifest = config.manifest and str(config.manifest.resolve())
    return {**{name: getattr(config, name) for name in names}, "manifest": manifest, "columns": dict(config.columns)}


class _Earlier(NamedTuple):
    """What an earlier run left in the store; empty where there was none, or none to go on from."""

    store: dict[str, Any] | None = None
    clips: DataFrame | None = None
    known: dict[Key, Audio] = {}  # noqa: RUF012 (never changed)
    folds: dict[str, int] = {}  # noqa: RUF012


def _previous(config: PreprocessConfig, root: Path, notes: list[str]) -> _Earlier:
    """What an earlier run on `root` left in the store: its facts, the audio of its files, the folds of its clips.

    Folds are empty where an option that decides them differs. What cannot be used goes to `notes`.
    """
    import pandas as pd

    from preprocessing.decisions import read_record
    from preprocessing.files import File
    from system.paths import RECORD

    if not (config.work / STORE).exists():
        return _Earlier()
    try:
        old = load_store(config.work)
        clips, rejected = load_clips(config.work), load_rejected(config.work)
    except UserError as error:
        notes.append(f"everything is decoded anew: {error}")
        return _Earlier()
    if old["root"] != str(root):
        notes.append(f"everything is decoded anew: {config.work} held {old['root']}")
        if (config.work / RECORD).exists() and config.relabel != NO_LIST:
            notes.append(f"{config.work / RECORD} was made for that, and goes for what has the same name and label "
                         "here: --relabel none takes it back")  # fmt: skip
        return _Earlier()
    train = clips[clips["split"] == "train"]
    folds = {}
    if old["options"] == _options(config):
        dropped = {decision.fname: decision.fold for decision in read_record(config.work).values()}
        folds = dropped | dict(zip(train["fname"], train["fold"], strict=True))

    # Duplicates have been decoded too. What could not be read is tried again: a permission changes no time of a file.
    decoded = pd.concat([rejected[rejected["length"] > 0], clips.assign(reason="")])
    samples = (config.work / WAVES).stat().st_size // 2 if (config.work / WAVES).exists() else 0
    if (decoded["offset"] + decoded["length"]).max() > samples:
        notes.append(f"everything is decoded anew: {config.work / WAVES} is shorter than {CLIPS} says")
        return _Earlier(store=old, folds=folds)
    keys = decoded[list(File._fields[:4])].itertuples(index=False, name=None)
    audios = decoded[list(Audio._fields[:-1])].itertuples(index=False, name=None)
    known = {key: Audio(*audio) for key, audio in zip(keys, audios, strict=True)}
    return _Earlier(old, clips, known, folds)


def _window(lengths: NDArray[np.int64], sample_rate: int, clip_seconds: float | None) -> int:
    """Samples of the window: `clip_seconds`, or the 95th percentile of `lengths` (samples) rounded up to 0.1 s."""
    if clip_seconds is None:
        tenths = float(np.percentile(lengths, 95)) / sample_rate * 10
        clip_seconds = max(1, math.ceil(round(tenths, 2))) / 10  # a resampled second may be a sample too long
    return max(1, round(clip_seconds * sample_rate))
