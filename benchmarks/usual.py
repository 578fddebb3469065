"""The usual way of this field, which the benchmarks compare with: a clip at a time in the workers of a DataLoader."""

from __future__ import annotations

from typing import Any

import librosa
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from arg import FeatureConfig
from benchmarks.common import cores
from dataset import Clips, Store


class ClipFolder(Dataset[tuple[Tensor, int]]):
    """One clip at a time: read, augmented and turned into a feature by librosa, on the processor.

    Where the files are missing, waves come from the store, which is faster; `source` says which it is.
    """

    def __init__(self, store: Store, clips: Clips, features: FeatureConfig, augment: bool = True) -> None:
        self.clips, self.root, self.features, self.augment = clips, store.root, features, augment
        self.files = len(clips) > 0 and (store.root / clips.fname[0]).exists()
        self.source = f"librosa on {'files' if self.files else 'waves of the store'}"
        self[0]  # has librosa import what it needs here, once, and not in every worker

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        config = self.features
        wave: NDArray[Any] = self.read(index)
        if self.augment:
            reach = config.sample_rate // 10
            wave = np.roll(wave, np.random.randint(-reach, reach)) * np.random.uniform(0.5, 2)  # noqa: NPY002
            wave = wave + np.random.uniform(0, 0.005) * np.random.randn(len(wave))  # noqa: NPY002
        mel = librosa.feature.melspectrogram(
            y=wave.astype(np.float32),
            sr=config.sample_rate,
            n_fft=config.n_fft,
            hop_length=config.hop_samples,
            n_mels=config.n_mels,
            fmin=config.fmin,
            fmax=config.fmax,
        )
        db = librosa.power_to_db(mel, top_db=config.top_db)
        feature = np.zeros((config.n_mels, config.frames), np.float32)
        columns = min(config.frames, db.shape[1])
        feature[:, :columns] = ((db - db.mean()) / (db.std() + 1e-6))[:, :columns]
        return torch.from_numpy(feature)[None], int(self.clips.target[index])

    def read(self, index: int) -> NDArray[np.float32]:
        config = self.features
        if not self.files:
            packed: NDArray[np.int16] = self.clips.windows(np.array([index]), config.clip_samples)[0].numpy()
            return packed.astype(np.float32) / np.float32(32768)
        wave, _ = librosa.load(self.root / self.clips.fname[index], sr=config.sample_rate)
        fixed: NDArray[np.float32] = librosa.util.fix_length(wave, size=config.clip_samples)
        return fixed


def loader(clips: ClipFolder, batch_size: int, device: torch.device, train: bool) -> DataLoader[Any]:
    """A DataLoader as it is usually set up, with a worker for each core."""
    return DataLoader(
        clips,
        batch_size,
        shuffle=train,
        drop_last=train,
        num_workers=cores(),
        pin_memory=device.type == "cuda",
    )
