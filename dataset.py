"""Reading the store, batches of waves, and the log-mel front end.

`Store` reads what `preprocess.py` wrote; `WaveData` hands Lightning whole batches, one gather each; `LogMel` turns a
batch of waves into features on whatever device it is on. The network is none of this module's business.
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from arg import FULL, FeatureConfig, Fold
from preprocessing.folds import dependent
from preprocessing.store import load_store, map_waves, read_clips
from system.errors import UserError
from system.paths import WAVES
from util import Names, prefetched, seed_of

Ints = NDArray[np.integer[Any]]

# ------------------------------------------------------------------------------------------------- the front end
FRAMES_AT_ONCE = 256  # a thread of a CPU, whose cache then holds them and their spectra (2 MB at n_fft 512)
GPU_FRAMES_AT_ONCE = 16_384  # which bounds the memory that they take
SINGLE_BINS = 10  # of the spectrum, under the narrowest mel band, from which on single precision is precise enough
BANDS_AT_ONCE = 16  # on a CPU: a part of the mel bands needs but a part of the spectrum


class LogMel(nn.Module):
    """Log-mel spectrograms of a batch, normalised clip by clip.

    Equals ``librosa.power_to_db(librosa.feature.melspectrogram(y, ...), ref=1, amin=1e-10, top_db=80)`` of each clip
    after symmetric zero padding to `FeatureConfig.padded_samples`. Then each clip's mean is taken away and it is
    divided by its standard deviation, so that its level alone changes nothing; a clip without any variation becomes
    zeros.

    Raises UserError where a mel band would be empty: too many bands for n_fft.
    """

    window: Tensor  # as last used
    filters: Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        filters = mel_filters(config)
        if empty := empty_bands(filters):
            larger = config
            while empty_bands(mel_filters(larger)):
                larger = dataclasses.replace(larger, n_fft=2 * larger.n_fft)
            raise UserError(
                f"{config.n_mels} mel bands with n_fft {config.n_fft} at {config.sample_rate} Hz leave {empty} bands "
                f"empty: use --n-fft {larger.n_fft}, or fewer --n-mels"
            )
        # In float32 the FFT's own rounding, noise some 140 dB below a frame's power, can be off by over 1e-3 dB in
        # bands of few bins that lie 80 dB below the loudest; in wider ones it averages out.
        self.single = int((filters > 0).sum(axis=0).min()) >= SINGLE_BINS
        # Both follow from the configuration, so no checkpoint holds them.
        self.register_buffer("filters", torch.from_numpy(filters), persistent=False)
        self.hann = self.window = torch.hann_window(config.n_fft, dtype=torch.float64)  # Apple's GPUs refuse it
        self.bands = [slice(low, low + BANDS_AT_ONCE) for low in range(0, config.n_mels, BANDS_AT_ONCE)]
        used = [np.flatnonzero(filters[:, bands].any(axis=1)) for bands in self.bands]
        self.bins = [slice(int(bins[0]), int(bins[-1]) + 1) for bins in used]  # of the spectrum, for each of `bands`

    def decibels(self, wave: Tensor) -> Tensor:
        """(B, clip_samples) float32 waves, full scale 1 -> (B, frames, n_mels) in dB: librosa's, transposed."""
        config = self.config
        extra = config.padded_samples - config.clip_samples
        half = config.n_fft // 2
        kind = torch.float32 if self.single or not fast_double(wave.device) else torch.float64
        wave = F.pad(wave.to(kind), (extra // 2 + half, extra - extra // 2 + half))
        frames = wave.unfold(1, config.n_fft, config.hop_samples)  # (B, frames, n_fft), a view
        on_cpu = wave.device.type == "cpu"
        at_once = FRAMES_AT_ONCE * torch.get_num_threads() if on_cpu else GPU_FRAMES_AT_ONCE
        power = torch.cat(
            [
                torch.cat([self._mel_power(part) for part in clips.split(at_once, dim=1)], dim=1)
                for clips in frames.split(max(1, at_once // config.frames))
            ]
        )
        db = power.clamp_(min=1e-10).log10_().mul_(10)
        return torch.maximum(db, db.amax((1, 2), keepdim=True) - config.top_db)

    def _mel_power(self, frames: Tensor) -> Tensor:
        """(B, frames, n_fft) -> (B, frames, n_mels), the power in each mel band."""
        if (self.window.device, self.window.dtype) != (frames.device, frames.dtype):
            self.window = self.hann.to(frames.device, frames.dtype)
        spectrum = torch.fft.rfft(frames * self.window)
        square = torch.view_as_real(spectrum).float().square()
        power = (square[..., 0] + square[..., 1]).flatten(0, 1)  # (B * frames, 1 + n_fft / 2)
        if power.device.type == "cpu":
            parts = zip(self.bins, self.bands, strict=True)
            mel = torch.cat([power[:, bins] @ self.filters[bins, bands] for bins, bands in parts], dim=1)
        else:  # one large product costs less there than several small ones
            mel = power @ self.filters
        return mel.unflatten(0, frames.shape[:2])

    def forward(self, wave: Tensor) -> Tensor:
        """(B, clip_samples) float32 waves -> (B, 1, n_mels, frames), mean 0 and standard deviation 1 in each clip."""
        with torch.autocast(wave.device.type, enabled=False):  # powers span 80 dB: more than half precision holds
            db = self.decibels(wave.float())
            centred = db - db.mean((1, 2), keepdim=True)
            scale = centred.square().mean((1, 2), keepdim=True).sqrt_().clamp_(min=1e-3)
            return (centred / scale).transpose(1, 2).unsqueeze(1)


def mel_filters(config: FeatureConfig) -> NDArray[np.float32]:
    """librosa's triangular filters of equal area on Slaney's mel scale, (1 + n_fft / 2, n_mels).

    In float64 until the end: librosa's own float32 rounds twice, so that a quarter of the weights differ in the last
    bit from those that networks were trained with before.
    """
    from librosa.filters import mel  # takes half a second, which only whoever builds a model waits for

    with warnings.catch_warnings(action="ignore", category=UserWarning):  # empty bands, which `LogMel` refuses
        band: dict[str, Any] = {"n_mels": config.n_mels, "fmin": config.fmin, "fmax": config.fmax}
        filters = mel(sr=config.sample_rate, n_fft=config.n_fft, **band, dtype=np.float64)
    return np.ascontiguousarray(filters.T, np.float32)


def empty_bands(filters: NDArray[np.float32]) -> int:
    return int((filters.max(axis=0) == 0).sum())


def fast_double(device: torch.device) -> bool:
    """Whether a device computes in float64 at a speed worth the while: not on graphics cards, at 1/32 of float32."""
    if device.type != "cuda":
        return device.type == "cpu"
    return torch.cuda.get_device_capability(device) in ((6, 0), (7, 0), (8, 0), (9, 0), (10, 0))


def as_float(wave: Tensor) -> Tensor:
    """int16 waves as float32, full scale 1."""
    return wave.float().mul_(1 / 32768)


# --------------------------------------------------------------------------------------------------- the store


@dataclass(frozen=True)
class Clips:
    """Rows of the store: which samples of `waves` are whose. All arrays have one entry a clip."""

    waves: Tensor  # (samples,) int16, every clip back to back: a memory map, or on a GPU
    offset: NDArray[np.int64]  # samples
    length: NDArray[np.int32]  # samples
    target: NDArray[np.int32]  # index of the class, -1 without a label
    group: NDArray[np.int32]  # number of its group, or of the recording that it is a part of; without, one for itself
    fname: Names

    def __len__(self) -> int:
        return len(self.offset)

    def take(self, rows: NDArray[Any]) -> Clips:
        """A part, by indices or a mask."""
        columns = (self.offset[rows], self.length[rows], self.target[rows], self.group[rows], self.fname[rows])
        return Clips(self.waves, *columns)

    def windows(self, rows: Ints, clip_samples: int, draw: np.random.Generator | None = None, shift: int = 0) -> Tensor:
        """(rows,) -> (rows, clip_samples) int16: shorter clips centred in zeros, longer ones cropped.

        The crop is central, or drawn uniformly where a generator is given; then each window also begins later or
        earlier by up to `shift` samples, uniformly, and what lies beyond the clip's ends is zero.
        """
        offset, length = self.offset[rows], self.length[rows].astype(np.int64)
        spare = length - clip_samples  # negative: to be padded
        first = spare // 2
        if draw is not None:
            first = np.where(spare > 0, draw.integers(0, np.maximum(spare, 0) + 1), first)
            first -= draw.integers(-shift, shift + 1, len(rows))
        return gather(self.waves, offset, length, first, clip_samples)


def gather(waves: Tensor, offset: Ints, length: Ints, first: Ints, size: int) -> Tensor:
    """Windows of `size` samples from back-to-back clips, (n, size); a clip's sample `first` comes first.

    What lies before a clip's start (`first` < 0) or behind its end is zero.
    """
    if waves.device.type == "cpu":
        return torch.from_numpy(gather_by_numpy(waves.numpy(), offset, length, first, size))
    return gather_by_torch(waves, offset, length, first, size)


def gather_by_torch(waves: Tensor, offset: Ints, length: Ints, first: Ints, size: int) -> Tensor:
    """`gather` on whatever device `waves` are."""
    if len(waves) < size:  # less than one window in the whole store
        waves = F.pad(waves, (0, size - len(waves)))
    begin = offset + first
    inside = np.clip(begin, 0, len(waves) - size)
    windows = waves.as_strided((len(waves) - size + 1, size), (1, 1))  # every window there is; they overlap
    result = windows.index_select(0, torch.from_numpy(inside).to(waves.device))  # copies row by row
    for row in np.flatnonzero(begin != inside).tolist():  # only ever the first and the last clips of the store
        result[row] = result[row].roll(int(inside[row] - begin[row]))
    before, behind = _empty_columns(length, first, size)
    if before or behind:
        start, end = (torch.from_numpy(edge)[:, None].to(waves.device) for edge in (-first, length - first))
        column = torch.arange(size, device=waves.device)
        result[:, :before].masked_fill_(column[:before] < start, 0)
        result[:, size - behind :].masked_fill_(column[size - behind :] >= end, 0)
    return result


def gather_by_numpy(waves: NDArray[np.int16], offset: Ints, length: Ints, first: Ints, size: int) -> NDArray[np.int16]:
    """`gather` on a processor, by NumPy: torch's threads would be a second team there, beside the network's.

    Both spin while they wait, on the same cores: features took two and a half times as long.
    """
    if len(waves) < size:
        waves = np.pad(waves, (0, size - len(waves)))
    begin = offset + first
    inside = np.clip(begin, 0, len(waves) - size)
    result = sliding_window_view(waves, size)[inside]
    for row in np.flatnonzero(begin != inside).tolist():
        result[row] = np.roll(result[row], int(inside[row] - begin[row]))
    before, behind = _empty_columns(length, first, size)
    column = np.arange(size)
    result[:, :before][column[:before] < -first[:, None]] = 0
    result[:, size - behind :][column[size - behind :] >= (length - first)[:, None]] = 0
    return result


def _empty_columns(length: Ints, first: Ints, size: int) -> tuple[int, int]:
    """How many columns at the start and at the end some clip leaves a part of empty."""
    return int(np.clip(-first, 0, size).max(initial=0)), int(np.clip(first + size - length, 0, size).max(initial=0))


@dataclass(frozen=True)
class Store:
    """What `preprocess.py` left in the work folder, at some 20 bytes a clip and its name."""

    work: Path
    root: Path
    classes: tuple[str, ...]
    sample_rate: int  # Hz
    clip_samples: int
    folds: int
    test_root: Path | None
    sample_submission: Path | None
    splits: dict[str, Clips]  # "train", "test" and "noise"
    fold_of: NDArray[np.int16]  # the fold of each training clip
    folds_hash: str  # changes with any training clip's name, label or fold

    @classmethod
    def open(cls, work: Path) -> Store:
        """Raises UserError where the work folder holds no store, or one of another format."""
        info = load_store(work)
        classes = tuple(info["classes"])
        rate, samples, folds = (info[key] for key in ("sample_rate", "clip_samples", "folds"))
        test_root, form = (Path(info[key]) if info[key] else None for key in ("test_root", "sample_submission"))
        table = read_table(work, classes)
        return cls(work, Path(info["root"]), classes, rate, samples, folds, test_root, form, *table)

    def clips(self, split: str, classes: tuple[str, ...] | None = None) -> Clips:
        """The clips of "train", "test" or "noise"; targets count by `classes`, the store's own if not given."""
        clips = self.splits[split]
        if classes in (None, self.classes):
            return clips
        index = {name: position for position, name in enumerate(classes or ())}
        renumbered = np.array([*(index.get(name, -1) for name in self.classes), -1], np.int32)
        return dataclasses.replace(clips, target=renumbered[clips.target])

    def noise(self) -> Tensor:
        """The background recordings as one, (samples,) int16; empty where there are none."""
        noise = self.splits["noise"]
        parts = [noise.waves[o : o + n] for o, n in zip(noise.offset, noise.length, strict=True)]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int16)

    def on(self, device: torch.device) -> Store:
        """The store with its samples in a GPU's memory, where they fill less than half of what is free there."""
        waves = self.splits["train"].waves
        if device.type != "cuda" or waves.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
            return self
        waves = waves.to(device)
        splits = {split: dataclasses.replace(clips, waves=waves) for split, clips in self.splits.items()}
        return dataclasses.replace(self, splits=splits)


def read_table(work: Path, classes: tuple[str, ...]) -> tuple[dict[str, Clips], NDArray[np.int16], str]:
    """clips.csv in little memory: the clips of each split, the folds of those to train on, and their table's hash."""
    index = {name: position for position, name in enumerate(classes)}
    columns = {"offset": np.int64, "length": np.int32, "target": np.int32, "group": np.int32, "fold": np.int16}
    group_of: dict[str, int] = {}
    names = {split: Names() for split in ("train", "test", "noise")}
    parts: dict[str, list[dict[str, Ints]]] = {split: [] for split in names}
    digest = hashlib.sha256(b"fname,label,fold\n")
    for chunk in read_clips(work, ["fname", "label", "group", "split", "fold", "offset", "length"]):
        chunk["target"] = chunk["label"].map(index).fillna(-1)
        chunk["group"] = [group_of.setdefault(name, len(group_of)) if name else -1 for name in dependent(chunk)]
        for split, rows in chunk.groupby("split"):
            names[str(split)].extend(rows["fname"])
            parts[str(split)].append({name: rows[name].to_numpy(kind) for name, kind in columns.items()})
            if split == "train":
                table = rows[["fname", "label", "fold"]].to_csv(index=False, header=False, lineterminator="\n")
                digest.update(table.encode())
    waves = read_waves(work)
    joined = {
        split: {name: np.concatenate([np.zeros(0, kind), *(part[name] for part in parts[split])], dtype=kind)
                for name, kind in columns.items()}
        for split in names
    }  # fmt: skip
    for table in joined.values():
        alone = table["group"] < 0
        table["group"][alone] = len(group_of) + np.arange(np.count_nonzero(alone))
    splits = {
        split: Clips(waves, table["offset"], table["length"], table["target"], table["group"], names[split])
        for split, table in joined.items()
    }
    return splits, joined["train"]["fold"], digest.hexdigest()[:16]


def read_waves(folder: Path) -> Tensor:
    """The samples that preprocess wrote into a folder, (samples,) int16, as a memory map that is not to be written."""
    path = folder / WAVES
    if path.stat().st_size < 2:  # nothing to map
        return torch.zeros(0, dtype=torch.int16)
    # A map that could be written to, a copy for each page, would be refused where the file is larger than the memory.
    waves = map_waves(path)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # torch's, of an array not to be written to
        return torch.from_numpy(waves)


# -------------------------------------------------------------------------------------------------- the batches


@dataclass(frozen=True)
class Batches:
    """An epoch's batches of (B, clip_samples) int16 waves and (B, classes) targets; B differs by one at most.

    With a `seed` key the order, the crops and the shifts are drawn anew for each epoch, from (key, epoch) and (key,
    epoch, batch) alone; without one the clips come in order, cropped at their centres. The `first` batches are left
    out. Batches lie on `device`, to which they are copied while others are computed.
    """

    clips: Clips
    num_classes: int
    clip_samples: int
    batch_size: int
    seed: tuple[int, ...] | None = None
    epoch: int = 0
    shift: int = 0  # samples
    first: int = 0
    balance: float = 0.0  # see `balanced_rows`; 0: every clip once
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)

    def __len__(self) -> int:
        """Batches of the whole epoch, `first` or not: a trainer that resumes in the middle counts them so."""
        count = -(-len(self.clips) // self.batch_size)
        if self.seed is None:
            return count
        return min(count, len(self.clips) // 2)  # batch normalisation cannot learn from one clip

    def parts(self) -> list[NDArray[np.int32]]:
        """The clips of every batch of the epoch, as indices."""
        rows = np.arange(len(self.clips), dtype=np.int32)
        if self.seed is not None:
            if self.balance:
                rows = balanced_rows(self.clips.target, self.balance, self.seed, self.epoch)
            np.random.default_rng(seed_of(*self.seed, self.epoch)).shuffle(rows)
        return np.array_split(rows, len(self)) if len(self) else []

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.clips.waves.is_cuda:  # a gather there is a launch, and a thread would only compete for the interpreter
            return self._batches()
        return prefetched(self._batches())

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        to_device = Mover(self.device)
        for batch, part in enumerate(self.parts()):
            if batch < self.first:
                continue
            draw = None
            if self.seed is not None:
                draw = np.random.default_rng(seed_of(*self.seed, self.epoch, batch))
            waves = self.clips.windows(part, self.clip_samples, draw, self.shift)
            yield to_device(waves), to_device(one_hot(self.clips.target[part], self.num_classes))


def balanced_rows(target: Ints, power: float, seed: tuple[int, ...], epoch: int) -> NDArray[np.int32]:
    """As many clips as there are, (n,), for an epoch in which a class of k clips has a share as k^(1 - power).

    With a `power` of 0 classes come as often as they have clips, with 1 all alike. What rounding takes from a class in
    an epoch it gets in another. The clips of a class are dealt in drawn orders of all of them, one after the other and
    from epoch to epoch: none is ever ahead of another by more than one.
    """
    _, code, count = np.unique(target, return_inverse=True, return_counts=True)
    wanted = np.append(0.0, np.cumsum(count ** (1.0 - power)))
    edges = wanted / wanted[-1] * len(target)  # of the classes among an epoch's clips
    before, after = (np.diff(np.floor(epochs * edges + 0.5).astype(np.int64)) for epochs in (epoch, epoch + 1))
    rows = []
    for number, own in enumerate(np.split(np.argsort(code, kind="stable"), np.cumsum(count)[:-1])):
        first, last = int(before[number]), int(after[number])  # of all that are ever dealt of the class
        rounds = range(first // len(own), last // len(own) + 1)
        keys = (seed_of(*seed, 0, 0, number, one) for one in rounds)  # a key of its own length
        dealt = np.concatenate([np.random.default_rng(key).permutation(own) for key in keys])
        rows.append(dealt[first - rounds.start * len(own) : last - rounds.start * len(own)])
    return np.concatenate(rows).astype(np.int32)


def one_hot(target: Ints, num_classes: int) -> Tensor:
    """(B,) class indices -> (B, classes) float32 rows of class weights; all zero for -1, no label."""
    rows = np.zeros((len(target), num_classes), np.float32)
    known = target >= 0
    rows[known, target[known]] = 1
    return torch.from_numpy(rows)


class Mover:
    """Copies tensors to a GPU on a stream of their own, so that the copies overlap what it computes meanwhile."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, tensor: Tensor) -> Tensor:
        if self.stream is None or tensor.is_cuda:
            return tensor.to(self.device)
        with torch.cuda.stream(self.stream):
            moved = tensor.pin_memory().to(self.device, non_blocking=True)
        self.stream.synchronize()  # of the thread that prepares batches; nobody else waits
        moved.record_stream(torch.cuda.default_stream(self.device))
        return moved


class WaveData(pl.LightningDataModule):
    """The training and held-out clips of one fold, in batches on `device`.

    `shift_samples` is how far a training clip is shifted at most, see `Clips.windows`; `balance` is a power for
    `balanced_rows`.
    """

    def __init__(
        self,
        store: Store,
        fold: Fold,
        batch_size: int,
        seed: tuple[int, ...],
        limit: int = 0,
        shift_samples: int = 0,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (immutable)
        balance: float = 0.0,
    ) -> None:
        super().__init__()
        clips = store.clips("train")
        held_out = store.fold_of == (-1 if fold == FULL else fold)
        self.train, self.valid = clips.take(~held_out), clips.take(held_out)
        if limit:
            self.train, self.valid = thin(self.train, limit, seed), thin(self.valid, limit, seed)
        if len(self.train) < 2:
            raise UserError(f"fold {fold}: {len(self.train)} clips to train on, and at least 2 are needed; see --limit")
        self.num_classes = len(store.classes)
        self.clip_samples = store.clip_samples
        self.batch_size = batch_size
        self.seed = seed
        self.shift_samples = shift_samples
        self.device = device
        self.balance = balance
        self.begin = (0, 0)  # where training begins: the epoch, and its batches that are left out

    def train_batches(self, epoch: int, first: int = 0) -> Batches:
        """The batches of an epoch, from its `first` on."""
        return dataclasses.replace(
            self._in_order(self.train),
            seed=self.seed,
            epoch=epoch,
            shift=self.shift_samples,
            first=first,
            balance=self.balance,
        )

    def train_dataloader(self) -> Batches:
        """Asked for anew in every epoch (the trainer reloads it), since an epoch's draws depend on its number."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        return self.train_batches(epoch, self.begin[1] if epoch == self.begin[0] else 0)

    def val_dataloader(self) -> Batches:
        return self._in_order(self.valid)

    def _in_order(self, clips: Clips) -> Batches:
        return Batches(clips, self.num_classes, self.clip_samples, self.batch_size, device=self.device)


def thin(clips: Clips, limit: int, seed: tuple[int, ...]) -> Clips:
    """At most `limit` of the clips, drawn without regard to their order."""
    rows = np.random.default_rng(seed_of(*seed, limit)).permutation(len(clips))[:limit]
    return clips.take(np.sort(rows))
