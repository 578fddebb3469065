"""Reading the store, batches of waves, and the log-mel front end.

`Store` reads what `preprocess.py` wrote; `WaveData` hands Lightning whole batches, one gather each; `LogMel` turns a
batch of waves into features on whatever device it is on. The network is none of this module's business.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from arg import FULL, FeatureConfig, Fold, UserError
from preprocess import WAVES, load_clips, load_store
from util import seed_of

Ints = NDArray[np.int64]

# Frames whose spectra are computed at a time. On a CPU they stay in the cache (2 MB at n_fft 2048), which is several
# times faster; on a GPU the bound is for its memory alone.
FRAMES_AT_ONCE = {"cpu": 128, "cuda": 16_384}


# ------------------------------------------------------------------------------------------------- the front end


class LogMel(nn.Module):
    """Log-mel spectrograms of a batch, normalised clip by clip.

    Equals ``librosa.power_to_db(librosa.feature.melspectrogram(y, ...), ref=1, amin=1e-10, top_db=80)`` of each clip
    after symmetric zero padding to `FeatureConfig.padded_samples`. Then each clip's mean is taken away and it is
    divided by its standard deviation, so that its level alone changes nothing; a clip without any variation becomes
    zeros.

    Raises UserError where a mel band would be empty: too many bands for n_fft.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        with warnings.catch_warnings(action="ignore"):  # of empty bands: an error below
            filters = librosa.filters.mel(
                sr=config.sample_rate, n_fft=config.n_fft, n_mels=config.n_mels, fmin=config.fmin, fmax=config.fmax
            )  # (n_mels, 1 + n_fft / 2)
        empty = int((filters.max(axis=1) == 0).sum())
        if empty:
            raise UserError(
                f"{config.n_mels} mel bands with n_fft {config.n_fft} at {config.sample_rate} Hz leave {empty} bands "
                f"empty: use a larger --n-fft or fewer --n-mels"
            )
        self.register_buffer("filters", torch.from_numpy(filters).T.contiguous())
        # In float32 the rounding of window and FFT alone, noise 145 dB below a frame's power, is off by over 1e-3 dB
        # in bands that lie 80 dB below the loudest.
        self.register_buffer("window", torch.hann_window(config.n_fft, periodic=True, dtype=torch.float64))

    def decibels(self, wave: Tensor) -> Tensor:
        """(B, clip_samples) float32 waves, full scale 1 -> (B, n_mels, frames) in dB, as librosa has it."""
        config = self.config
        extra = config.padded_samples - config.clip_samples
        half = config.n_fft // 2
        wave = F.pad(wave, (extra // 2 + half, extra - extra // 2 + half))
        frames = wave.unfold(1, config.n_fft, config.hop_samples)  # (B, frames, n_fft), a view
        at_once = max(1, FRAMES_AT_ONCE[wave.device.type] // config.frames)
        power = torch.cat([self._mel_power(part) for part in frames.split(at_once)])  # (B, frames, n_mels)
        db = 10 * torch.log10(power.clamp(min=1e-10)).transpose(1, 2)
        return torch.maximum(db, db.amax((1, 2), keepdim=True) - config.top_db)

    def _mel_power(self, frames: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(frames * self.window)
        power = spectrum.real.square() + spectrum.imag.square()  # (B, frames, 1 + n_fft / 2)
        return power.float() @ self.filters

    def forward(self, wave: Tensor) -> Tensor:
        """(B, clip_samples) float32 waves -> (B, 1, n_mels, frames), mean 0 and standard deviation 1 in each clip."""
        with torch.autocast(wave.device.type, enabled=False):  # powers span 80 dB: more than half precision holds
            db = self.decibels(wave.float())
            centred = db - db.mean((1, 2), keepdim=True)
            scale = centred.square().mean((1, 2), keepdim=True).sqrt()
            return (centred / scale.clamp(min=1e-3)).unsqueeze(1)


def as_float(wave: Tensor) -> Tensor:
    """int16 waves as float32, full scale 1."""
    return wave.float() / 32768


# --------------------------------------------------------------------------------------------------- the store


@dataclass(frozen=True)
class Clips:
    """Rows of the store: which samples of `waves` are whose. All arrays have one entry a clip."""

    waves: NDArray[np.int16]  # every clip back to back, a memory map
    offset: Ints  # samples
    length: Ints  # samples
    target: Ints  # index of the class, -1 without a label
    fname: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.offset)

    def take(self, rows: NDArray[Any]) -> Clips:
        return Clips(self.waves, self.offset[rows], self.length[rows], self.target[rows], self.fname[rows])

    def windows(self, rows: Ints, clip_samples: int, draw: np.random.Generator | None = None) -> NDArray[np.int16]:
        """(rows,) -> (rows, clip_samples) int16: shorter clips centred in zeros, longer ones cropped.

        The crop is central, or drawn uniformly where a generator is given.
        """
        offset, length = self.offset[rows], self.length[rows]
        spare = length - clip_samples  # negative: to be padded
        first = spare // 2
        if draw is not None:
            first = np.where(spare > 0, draw.integers(0, np.maximum(spare, 0) + 1), first)
        return gather(self.waves, offset, length, first, clip_samples)


def gather(waves: NDArray[np.int16], offset: Ints, length: Ints, first: Ints, size: int) -> NDArray[np.int16]:
    """Windows of `size` samples from back-to-back clips, (n, size); a clip's sample `first` comes first.

    What lies before a clip's start (`first` < 0) or behind its end is zero.
    """
    if len(waves) < size:  # less than one window in the whole store
        waves = np.concatenate([waves, np.zeros(size - len(waves), np.int16)])
    begin = offset + first
    inside = np.clip(begin, 0, len(waves) - size)
    windows = sliding_window_view(waves, size)[inside]  # copies row by row
    for row in np.flatnonzero(begin != inside):  # only ever the first and the last clips of the store
        windows[row] = np.roll(windows[row], inside[row] - begin[row])
    partial = np.flatnonzero((first < 0) | (first + size > length))
    if len(partial):
        position = np.arange(size) + first[partial, None]
        windows[partial] *= (position >= 0) & (position < length[partial, None])
    return windows


@dataclass(frozen=True)
class Store:
    """What `preprocess.py` left in the work folder."""

    work: Path
    root: Path
    table: pd.DataFrame  # clips.csv
    classes: tuple[str, ...]
    sample_rate: int  # Hz
    clip_samples: int
    folds: int
    test_root: Path | None
    sample_submission: Path | None

    @classmethod
    def open(cls, work: Path) -> Store:
        """Raises UserError where the work folder holds no store, or one of another format."""
        info = load_store(work)
        optional = {key: Path(info[key]) if info[key] else None for key in ("test_root", "sample_submission")}
        return cls(
            work=work,
            root=Path(info["root"]),
            table=load_clips(work),
            classes=tuple(info["classes"]),
            sample_rate=info["sample_rate"],
            clip_samples=info["clip_samples"],
            folds=info["folds"],
            **optional,
        )

    def clips(self, split: str, classes: tuple[str, ...] | None = None) -> Clips:
        """The clips of "train", "test" or "noise"; targets count by `classes`, the store's own if not given."""
        table = self.table[self.table["split"] == split]
        return clips_of(table, read_waves(self.work), classes or self.classes)

    def fold_of(self) -> Ints:
        """The fold of every training clip, in the order of `clips("train")`."""
        return self.table.loc[self.table["split"] == "train", "fold"].to_numpy(np.int64)

    def folds_hash(self) -> str:
        """Changes with any training clip's name, label or fold."""
        table = self.table.loc[self.table["split"] == "train", ["fname", "label", "fold"]]
        return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()[:16]

    def noise(self) -> NDArray[np.int16]:
        """The background recordings as one, (samples,); empty where there are none."""
        noise = self.clips("noise")
        parts = [noise.waves[o : o + n] for o, n in zip(noise.offset, noise.length, strict=True)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int16)


def read_waves(folder: Path) -> NDArray[np.int16]:
    """The samples that preprocess wrote into a folder, as a memory map."""
    path = folder / WAVES
    if not path.stat().st_size:  # nothing to map
        return np.zeros(0, np.int16)
    return np.memmap(path, dtype="<i2", mode="r")


def clips_of(table: pd.DataFrame, waves: NDArray[np.int16], classes: tuple[str, ...]) -> Clips:
    """Rows of a clip table (fname, label, offset, length) over `waves`."""
    index = {name: position for position, name in enumerate(classes)}
    return Clips(
        waves=waves,
        offset=table["offset"].to_numpy(np.int64),
        length=table["length"].to_numpy(np.int64),
        target=np.array([index.get(label, -1) for label in table["label"]], np.int64),
        fname=table["fname"].to_numpy(object),
    )


# -------------------------------------------------------------------------------------------------- the batches


@dataclass(frozen=True)
class Batches:
    """An epoch's batches of (B, clip_samples) int16 waves and (B, classes) targets; B differs by one at most.

    With a `seed` key the order and the crops are drawn anew for each epoch, from (key, epoch) and (key, epoch, batch)
    alone; without one the clips come in order, cropped at their centres.
    """

    clips: Clips
    num_classes: int
    clip_samples: int
    batch_size: int
    seed: tuple[int, ...] | None = None
    epoch: int = 0

    def __len__(self) -> int:
        count = -(-len(self.clips) // self.batch_size)
        if self.seed is None:
            return count
        return min(count, len(self.clips) // 2)  # batch normalisation cannot learn from one clip

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if not len(self):
            return
        rows = np.arange(len(self.clips))
        if self.seed is not None:
            np.random.default_rng(seed_of(*self.seed, self.epoch)).shuffle(rows)
        for batch, part in enumerate(np.array_split(rows, len(self))):
            draw = None
            if self.seed is not None:
                draw = np.random.default_rng(seed_of(*self.seed, self.epoch, batch))
            waves = torch.from_numpy(self.clips.windows(part, self.clip_samples, draw))
            yield waves, one_hot(self.clips.target[part], self.num_classes)


def one_hot(target: Ints, num_classes: int) -> Tensor:
    """(B,) class indices -> (B, classes) float32 rows of class weights; all zero for -1, no label."""
    rows = np.zeros((len(target), num_classes), np.float32)
    known = target >= 0
    rows[known, target[known]] = 1
    return torch.from_numpy(rows)


class WaveData(pl.LightningDataModule):
    """The training and held-out clips of one fold, in batches."""

    def __init__(self, store: Store, fold: Fold, batch_size: int, seed: tuple[int, ...], limit: int = 0) -> None:
        super().__init__()
        clips, fold_of = store.clips("train"), store.fold_of()
        held_out = fold_of == (-1 if fold == FULL else fold)
        self.train, self.valid = clips.take(~held_out), clips.take(held_out)
        if limit:
            self.train, self.valid = thin(self.train, limit, seed), thin(self.valid, limit, seed)
        if len(self.train) < 2:
            raise UserError(f"fold {fold}: {len(self.train)} clips to train on, and at least 2 are needed; see --limit")
        self.num_classes = len(store.classes)
        self.clip_samples = store.clip_samples
        self.batch_size = batch_size
        self.seed = seed

    def _batches(self, clips: Clips, seed: tuple[int, ...] | None = None, epoch: int = 0) -> Batches:
        return Batches(clips, self.num_classes, self.clip_samples, self.batch_size, seed, epoch)

    def train_dataloader(self) -> Batches:
        """Asked for anew in every epoch (the trainer reloads it), since an epoch's draws hang on its number."""
        return self._batches(self.train, self.seed, self.trainer.current_epoch if self.trainer else 0)

    def val_dataloader(self) -> Batches:
        return self._batches(self.valid)


def thin(clips: Clips, limit: int, seed: tuple[int, ...]) -> Clips:
    """At most `limit` of the clips, drawn without regard to their order."""
    rows = np.random.default_rng(seed_of(*seed, limit)).permutation(len(clips))[:limit]
    return clips.take(np.sort(rows))
