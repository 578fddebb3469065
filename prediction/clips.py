"""The clips to label: a store's test clips, or the audio files in a folder."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arg import FeatureConfig, InferenceConfig, RunConfig
from dataset import Clips, Store, gather
from prediction.forms import ClipForm, read_form, sample_for_folder
from preprocessing.decode import decode_stream, durations
from preprocessing.files import ClipFolder, some
from preprocessing.fullscale import full_scales
from preprocessing.store import load_rejected
from preprocessing.summary import LONG
from system.console import counted
from system.errors import UserError
from system.paths import CLIPS, STORE
from util import Names

Batch = tuple[Tensor, NDArray[np.bool_]]  # (B, clip_samples) int16 waves; which of them could not be read
Batches = Generator[Batch, None, None]
MEND = "mend or remove it, or use --on-bad-clip majority"


@dataclass
class Longer:
    """The clips met so far that are longer than the window by a quarter or more."""

    window: float  # seconds
    count: int = 0
    longest: float = 0.0  # seconds

    def add(self, seconds: NDArray[np.float64]) -> None:
        self.count += int((seconds >= LONG * self.window).sum())
        self.longest = max(self.longest, float(seconds.max(initial=0)))

    def __str__(self) -> str:
        return (
            f"{counted(self.count, 'clip')} longer than the window of {self.window:g} s by a quarter or more, up to "
            f"{self.longest:.1f} s: judged by their central {self.window:g} s; cut them, or train with longer "
            "windows (preprocess.py --clip-seconds)"
        )


@dataclass(frozen=True)
class TestClips:
    """Clips in their order. A batch is always of the same clips: those from a multiple of the batch size on."""

    names: Names  # of the clips, and then of `lost`
    lost: int  # that the store could not read; a folder's such clips are met on the way
    target: NDArray[np.integer[Any]]  # index of the class, -1 where it is not known; (clips,)
    group: NDArray[np.integer[Any]]  # whose clips are not independent, (clips,); a folder's clips each have their own
    form: ClipForm  # of the submission; its clips are these
    origin: str  # what an interrupted run must have found the same, beside the clips' names and `stamps`
    stamps: tuple[NDArray[np.int64], ...]  # sizes of the clips' files, times of their last changes; (clips,) each
    # (batch size, first clip, scratch folder, strict) -> the batches from that clip on; strict: UserError names a clip
    # that cannot be read
    waves: Callable[[int, int, Path, bool], Batches]
    longer: Longer  # a folder's are met on the way

    def __len__(self) -> int:
        return len(self.target)

    def identities(self, batch_size: int) -> Iterator[tuple[int, bytes]]:
        """For each batch how many clips are in it, and what tells them from others."""
        for start in range(0, len(self), batch_size):
            part = slice(start, min(start + batch_size, len(self)))
            names = "\n".join(self.names[part]).encode("utf-8", "surrogatepass")
            yield part.stop - start, b"\0".join([names, *(stamp[part].tobytes() for stamp in self.stamps)])


def find_clips_to_label(config: InferenceConfig, run: RunConfig) -> TestClips:
    """The store's test clips or a folder's. UserError where there are none, or where a clip is known to be unreadable.

    `run` is what one of the ensemble's networks was trained with.
    """
    store = Store.open(config.work) if (config.work / STORE).exists() else None
    if store and store.folds_hash != run.folds_hash:
        print(f"warning: {config.work} has other folds or labels now than these runs were trained on", file=sys.stderr)
    if config.input_path is None:
        if store is None:
            raise UserError(f"{config.work} holds no store: run preprocess.py, or give a folder of clips, -i FOLDER")
        return store_clips(config, store, run)
    files = ClipFolder.scan(config.input_path)
    sample, trained = sample_for_folder(config, files)
    form, rows = wanted(read_form(sample, files.names, run.classes, config.positive, trained), len(files))
    if sample and (also := [name for name in files.names[rows] if name in trained]):
        print(f"warning: {sample} names training clips, too: {some(also, 'clip')}", file=sys.stderr)
    files = part_of_folder(files, rows)
    full_scale, notes = full_scales({"test": files})
    for note in notes:
        print(note)
    longer = Longer(run.features.clip_samples / run.features.sample_rate)
    index = {name: position for position, name in enumerate(run.classes)}
    return TestClips(
        names=files.names,
        lost=0,
        target=np.fromiter((index.get(file.label, -1) for file in files), np.int32, len(files)),
        group=np.arange(len(files)),
        form=form,
        origin="folder",
        stamps=(files.size, files.mtime_ns),
        waves=partial(decoded_waves, files, run.features, full_scale, longer),
        longer=longer,
    )


def store_clips(config: InferenceConfig, store: Store, run: RunConfig) -> TestClips:
    """The test clips of a store. UserError where there are none, or none at the runs' sample rate."""
    features = run.features
    if store.sample_rate != features.sample_rate:
        rates = f"{store.sample_rate} Hz and the runs at {features.sample_rate} Hz"
        raise UserError(f"{store.work} is at {rates}: give a folder of clips, -i FOLDER")
    clips, rejected = store.clips("test", run.classes), load_rejected(store.work)
    rejected = rejected[rejected["split"] == "test"]
    names = Names(chain(clips.fname, rejected["fname"]))
    sample = config.sample_submission or store.sample_submission
    if not len(names) and sample is None:
        raise UserError(f"{store.root} has no test clips: give a folder of clips, -i FOLDER")
    form, rows = wanted(read_form(sample, names, run.classes, config.positive), len(names))
    rejected = rejected.iloc[rows[rows >= len(clips)] - len(clips)]
    clips = clips.take(rows[rows < len(clips)])
    if len(rejected) and config.on_bad_clip == "error":
        name, reason = rejected.iloc[0][["fname", "reason"]]
        more = f", and {len(rejected) - 1} more" if len(rejected) > 1 else ""
        raise UserError(f"{name}: {reason}{more}; {MEND}")
    longer = Longer(features.clip_samples / features.sample_rate)
    longer.add(clips.length / features.sample_rate)
    return TestClips(
        names=names[rows],
        lost=len(rejected),
        target=clips.target,
        group=clips.group,
        form=form,
        origin=file_digest(store.work / CLIPS),
        stamps=(),
        waves=partial(stored_waves, clips, features),
        longer=longer,
    )


def wanted(form: ClipForm, clips: int) -> tuple[ClipForm, NDArray[np.int64]]:
    """The form whose clips are those alone that it has an id for, and the rows of those among all `clips`; says both.

    They stay in their order.
    """
    if form.remark:
        print(f"warning: {form.sample}: {form.remark}", file=sys.stderr)
    rows = np.unique(form.rows)
    if beyond := clips - len(rows):
        named, others = counted(len(rows), "clip"), counted(beyond, "other")
        print(f"labelling {named} that the sample submission names, and not {others}")
    return dataclasses.replace(form, rows=np.searchsorted(rows, form.rows)), rows


def part_of_folder(files: ClipFolder, rows: NDArray[np.int64]) -> ClipFolder:
    """The clips of those rows, which are in order."""
    odd = {new: files.odd[row] for new, row in enumerate(rows.tolist()) if row in files.odd}
    size, mtime_ns = files.size[rows], files.mtime_ns[rows]
    return dataclasses.replace(
        files, names=files.names[rows], odd=odd, size=size, mtime_ns=mtime_ns, rows=range(len(rows))
    )


def stored_waves(
    clips: Clips, features: FeatureConfig, batch_size: int, start: int, scratch: Path, strict: bool
) -> Batches:
    """`TestClips.waves` of a store, which has none that cannot be read."""
    for first in range(start, len(clips), batch_size):
        rows = np.arange(first, min(first + batch_size, len(clips)))
        yield clips.windows(rows, features.clip_samples), np.zeros(len(rows), np.bool_)


def decoded_waves(
    files: ClipFolder,
    features: FeatureConfig,
    full_scale: Mapping[str, float],
    longer: Longer,
    batch_size: int,
    start: int,
    scratch: Path,
    strict: bool,
) -> Batches:
    """`TestClips.waves` of a folder, decoded in pieces of other sizes than the batches; `longer` is filled."""
    size = features.clip_samples
    longer.add(np.nan_to_num(durations([file.path for file in files[:start]])))  # that an earlier run has labelled
    windows, bad = torch.zeros((0, size), dtype=torch.int16), np.zeros(0, np.bool_)
    for part in decode_stream(files[start:], features.sample_rate, scratch, full_scale):
        unread = np.array([reason != "" for reason in part.reason])
        if strict and unread.any():
            first = int(unread.argmax())
            raise UserError(f"{files.names[start + first]}: {part.reason[first]}; {MEND}")
        start += len(unread)
        longer.add(part.length / features.sample_rate)
        central = (part.length - size) // 2
        windows = torch.cat([windows, gather(torch.from_numpy(part.waves), part.offset, part.length, central, size)])
        bad = np.concatenate([bad, unread])
        while len(windows) >= batch_size:
            yield windows[:batch_size], bad[:batch_size]
            windows, bad = windows[batch_size:], bad[batch_size:]
    if len(windows):
        yield windows, bad


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
