"""What earlier runs left in a work folder: a store, or the journal of a run that was killed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from arg import NO_LIST, PreprocessConfig
from preprocessing.decode import Audio, Key, digest_of
from preprocessing.files import File
from preprocessing.labels import read_map
from preprocessing.store import STORE_FORMAT, load_clips, load_rejected, load_store, map_waves, settle, writing
from system.errors import UserError
from system.files import replacing
from system.locks import locked
from system.paths import CLIPS, JOURNAL, LOCK, NEXT, RECORD, STORE, WAVES

if TYPE_CHECKING:
    from pandas import DataFrame


class Previous(NamedTuple):
    """What an earlier run left in the store; empty where there was none, or none that can be used."""

    notes: list[str]  # why it is not used
    store: dict[str, Any] | None = None
    clips: DataFrame | None = None
    known: dict[Key, Audio] = {}  # noqa: RUF012 (never changed)
    folds: dict[str, int] = {}  # noqa: RUF012


def completed(config: PreprocessConfig) -> PreprocessConfig:
    """`config`; where it names no data set, that of the store in its work folder, with the options of that."""
    if config.input_path is not None:
        return config
    if (config.work / NEXT).is_dir():  # of a run that was killed: the store may lack its facts
        with writing(config.work), locked(config.work / LOCK):
            settle(config.work)
    store = load_store(config.work)
    sample = store["sample_submission"] and Path(store["sample_submission"])
    manifest, columns = store["options"]["manifest"], store["options"]["columns"]
    options = store["options"] | {"manifest": manifest and Path(manifest), "columns": tuple(columns.items())}
    options["map"] = tuple(options.get("map", {}).items())
    return dataclasses.replace(
        config,
        **options,
        input_path=Path(store["root"]),
        sample_rate=store["sample_rate"],
        clip_seconds=store["clip_samples"] / store["sample_rate"],
        noise=config.noise or (Path(store["noise"]) if store.get("noise") else None),
        sample_submission=config.sample_submission or (sample if sample and sample.exists() else None),
    )


def split_options(config: PreprocessConfig) -> dict[str, Any]:
    """The options that decide labels and folds, as store.json has them; some only where they are given."""
    names = ("folds", "seed", "group", "group_pattern", "label_pattern")
    manifest = config.manifest and str(config.manifest.resolve())
    always = {name: getattr(config, name) for name in names} | {"manifest": manifest, "columns": dict(config.columns)}
    given = {"map": read_map(config.map) or None, "silence": config.silence, "challenge": config.challenge}
    return always | {name: value for name, value in given.items() if value is not None}


def previous_store(config: PreprocessConfig, root: Path) -> Previous:
    """What an earlier run on `root` left in the store: its facts, the audio of its files, the folds of its clips.

    Folds are empty where an option that decides them differs.
    """
    import pandas as pd

    from preprocessing.decisions import read_record

    work = config.work
    if not (work / STORE).exists():
        return Previous([])
    try:
        old, clips, rejected = load_store(work), load_clips(work), load_rejected(work)
    except UserError as error:
        return Previous([f"everything is decoded anew: {error}"])
    if old["root"] != str(root):
        notes = [f"everything is decoded anew: {work} held {old['root']}"]
        if (work / RECORD).exists() and config.relabel != NO_LIST:
            notes.append(f"{work / RECORD} was made for that, and applies to what has the same name and label here: "
                         "--relabel none takes it back")  # fmt: skip
        return Previous(notes)
    train = clips[clips["split"] == "train"]
    folds = {}
    if old["options"] == split_options(config):
        dropped = {decision.fname: decision.fold for decision in read_record(work).values()}
        folds = dropped | dict(zip(train["fname"], train["fold"], strict=True))

    # Duplicates have been decoded too. What could not be read is tried again: a permission changes no time of a file.
    decoded = pd.concat([rejected[rejected["length"] > 0], clips.assign(reason="")])
    samples = (work / WAVES).stat().st_size // 2 if (work / WAVES).exists() else 0
    if (decoded["offset"] + decoded["length"]).max() > samples:
        return Previous(
            [f"everything is decoded anew: {work / WAVES} is shorter than {CLIPS} says"], old, None, {}, folds
        )
    keys = decoded[list(File._fields[:4])].itertuples(index=False, name=None)
    audios = decoded[list(Audio._fields[:-1])].itertuples(index=False, name=None)
    known = {key: Audio(*audio) for key, audio in zip(keys, audios, strict=True)}
    return Previous([], old, clips, known, folds)


def resume_journal(work: Path, root: Path, sample_rate: int, full_scale: dict[str, float]) -> dict[Key, Audio]:
    """What a run that was killed had decoded, by its journal, and is in WAVES.

    Without a journal, or with that of another data set, rate or full scale, a new one is begun.
    """
    path, waves = work / JOURNAL, work / WAVES
    facts = {"format": STORE_FORMAT, "root": str(root), "sample_rate": sample_rate}
    facts |= {"full_scale": full_scale} if full_scale else {}
    try:
        lines = path.read_text("ascii").splitlines()
        if not waves.exists() or not waves.stat().st_size or json.loads(lines[0]) != facts:
            raise ValueError("another data set")
    except (OSError, ValueError, IndexError):
        with replacing(path) as beside:
            beside.write_text(json.dumps(facts), "ascii")
        return {}
    samples = map_waves(waves)
    known = {}
    for line in lines[1:]:
        try:
            entries = json.loads(line)
        except ValueError:  # cut off when a run was killed
            continue
        for key, values in entries:
            audio = Audio(*values)
            if audio.digest == digest_of(samples[audio.offset : audio.offset + audio.length]):
                known[tuple(key)] = audio
    return known


def note_down(work: Path, chunk: Iterable[tuple[File, Audio]]) -> None:
    """Add to the journal what has just been written to WAVES."""
    entries = [(file.key, audio) for file, audio in chunk if audio.length]
    with (work / JOURNAL).open("a", encoding="ascii") as journal:
        journal.write("\n" + json.dumps(entries))  # first: the last line may be cut off
