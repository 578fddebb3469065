"""Features against librosa, windows and batches by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from arg import FeatureOptions
from dataset import (
    Batches,
    Clips,
    LogMel,
    Store,
    WaveData,
    balanced_rows,
    gather,
    gather_by_torch,
    mel_filters,
    one_hot,
    read_waves,
)
from system.errors import UserError
from util import Names


def librosa_decibels(wave: NDArray[np.float32], options: FeatureOptions) -> NDArray[np.float32]:
    """The oracle: one clip, (n_mels, frames)."""
    config = options.resolve(16000, len(wave))
    extra = config.padded_samples - len(wave)
    mel = librosa.feature.melspectrogram(
        y=np.pad(wave, (extra // 2, extra - extra // 2)),
        sr=16000,
        n_fft=config.n_fft,
        hop_length=config.hop_samples,
        n_mels=config.n_mels,
        fmin=config.fmin,
        fmax=config.fmax,
    )
    return librosa.power_to_db(mel, ref=1, amin=1e-10, top_db=80)


SIZES = [
    FeatureOptions(32, 32),
    FeatureOptions(64, 64),
    FeatureOptions(128, 128),
    FeatureOptions(224, 224),
    FeatureOptions(40, 101),
    FeatureOptions(64, None, 512),
    FeatureOptions(32, 64, n_fft=1024, fmin=50, fmax=7000),
]


@pytest.mark.parametrize("options", SIZES, ids=lambda o: f"{o.n_mels}x{o.frames}")
def test_features_equal_librosas(real_waves: NDArray[np.float32], options: FeatureOptions) -> None:
    batch = torch.from_numpy(real_waves)
    ours = LogMel(options.resolve(16000, 16000)).decibels(batch).transpose(1, 2).numpy()
    theirs = np.stack([librosa_decibels(wave, options) for wave in real_waves])
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-3, rtol=0)


@pytest.mark.parametrize("options", SIZES, ids=lambda o: f"{o.n_mels}x{o.frames}")
def test_filters_are_slaneys_triangles_to_the_last_bit(options: FeatureOptions) -> None:
    """By the formula: linear up to 1 kHz (15 mel), logarithmic above (Slaney 1998, "Auditory Toolbox")."""
    config = options.resolve(16000, 16000)
    step = np.log(6.4) / 27  # a mel's share of an e-fold

    def to_mel(hertz: float) -> float:
        return hertz * 3 / 200 if hertz < 1000 else 15 + float(np.log(hertz / 1000)) / step

    mel = np.linspace(to_mel(config.fmin), to_mel(config.fmax or 8000), config.n_mels + 2)
    corner = np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(step * (np.maximum(mel, 15) - 15)))  # Hz
    bins = np.linspace(0, 8000, 1 + config.n_fft // 2)[:, None]
    rise = (bins - corner[:-2]) / np.diff(corner)[:-1]
    fall = (corner[2:] - bins) / np.diff(corner)[1:]
    expected = np.maximum(0, np.minimum(rise, fall)) / (corner[2:] - corner[:-2]) * 2
    np.testing.assert_allclose(mel_filters(config), expected.astype(np.float32), rtol=0, atol=1e-17)


def test_normalisation_is_per_clip_and_blind_to_level(real_waves: NDArray[np.float32]) -> None:
    frontend = LogMel(FeatureOptions(64, 64).resolve(16000, 16000))
    batch = torch.from_numpy(real_waves)
    feature = frontend(batch)
    assert feature.shape == (10, 1, 64, 64)
    torch.testing.assert_close(feature.mean((1, 2, 3)), torch.zeros(10), atol=1e-4, rtol=0)
    torch.testing.assert_close(feature.std((1, 2, 3), correction=0), torch.ones(10), atol=1e-4, rtol=0)
    loud = frontend(4 * batch)
    torch.testing.assert_close(loud, feature, atol=2e-2, rtol=0)  # but for what falls below the floor of 1e-10


def test_a_clip_has_the_same_features_in_any_company(real_waves: NDArray[np.float32]) -> None:
    frontend = LogMel(FeatureOptions(32, 32).resolve(16000, 16000))
    batch = torch.from_numpy(real_waves)
    torch.testing.assert_close(frontend(batch)[3:4], frontend(batch[3:4]), atol=1e-5, rtol=0)


def test_silence_becomes_zeros() -> None:
    feature = LogMel(FeatureOptions(32, 32).resolve(16000, 16000))(torch.zeros(2, 16000))
    assert torch.equal(feature, torch.zeros(2, 1, 32, 32))


def test_empty_mel_bands_are_refused() -> None:
    with pytest.raises(UserError, match="12 bands empty: use --n-fft 1024, or fewer --n-mels"):
        LogMel(FeatureOptions(224, 224, n_fft=512).resolve(16000, 16000))
    LogMel(FeatureOptions(224, 224, n_fft=1024).resolve(16000, 16000))
    LogMel(FeatureOptions(224, 224).resolve(16000, 16000))


@pytest.mark.parametrize("rate", [100, 250, 999, 500_000, 1_000_000])
@pytest.mark.parametrize("size", [32, 64, 224])
def test_the_usual_features_of_infrasound_and_ultrasound(rate: int, size: int) -> None:
    config = FeatureOptions(size=size).resolve(rate, 2 * rate)
    wave = torch.sin(torch.arange(2 * rate) * 0.3)[None]
    feature = LogMel(config)(wave)
    assert feature.shape == (1, 1, size, size)
    assert int(feature[0, 0, :, size // 2].argmax()) > 0
    if rate < 1000:
        LogMel(FeatureOptions(size=size, fmin=rate / 10, fmax=rate / 4).resolve(rate, 2 * rate))


def store_of(*clips: list[int]) -> Clips:
    """Clips of the given samples, back to back."""
    length = np.array([len(clip) for clip in clips])
    return Clips(
        waves=torch.cat([torch.tensor(clip, dtype=torch.int16) for clip in clips]),
        offset=np.cumsum(length) - length,
        length=length.astype(np.int32),
        target=np.arange(len(clips), dtype=np.int32) % 2,
        group=np.arange(len(clips), dtype=np.int32),
        fname=Names(f"{n}.wav" for n in range(len(clips))),
    )


def test_short_clips_are_centred_and_long_ones_cropped() -> None:
    clips = store_of([1, 2], [3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7], [8, 9, 10])
    np.testing.assert_array_equal(
        clips.windows(np.array([0, 1, 2, 3]), 4), [[0, 1, 2, 0], [3, 4, 5, 6], [2, 3, 4, 5], [0, 8, 9, 10]]
    )
    np.testing.assert_array_equal(clips.windows(np.array([3, 0]), 7), [[0, 0, 8, 9, 10, 0, 0], [0, 0, 0, 1, 2, 0, 0]])


def test_a_window_larger_than_the_store() -> None:
    np.testing.assert_array_equal(store_of([1, 2]).windows(np.array([0]), 6), [[0, 0, 1, 2, 0, 0]])


def test_drawn_crops_stay_inside_the_clip_and_reach_all_of_it() -> None:
    clips = store_of([9] * 5, list(range(10, 20)), [9] * 5)
    drawn = {int(clips.windows(np.array([1]), 8, np.random.default_rng(seed))[0, 0]) for seed in range(40)}
    assert drawn == {10, 11, 12}


def test_shifts_bring_in_zeros_or_what_a_longer_clip_has_there() -> None:
    clips = store_of([9, 9], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8], [9, 9])
    draws = [np.random.default_rng(seed) for seed in range(200)]
    short = {tuple(clips.windows(np.array([1]), 4, draw, shift=2)[0].tolist()) for draw in draws}
    assert short == {(3, 4, 0, 0), (2, 3, 4, 0), (1, 2, 3, 4), (0, 1, 2, 3), (0, 0, 1, 2)}
    long = {tuple(clips.windows(np.array([2]), 6, draw, shift=1)[0].tolist()) for draw in draws}
    assert long == {(0, *range(1, 6)), *(tuple(range(n, n + 6)) for n in (1, 2, 3)), (*range(4, 9), 0)}
    assert torch.equal(clips.windows(np.array([1, 2]), 4), clips.windows(np.array([1, 2]), 4, None, shift=2))


@pytest.mark.parametrize("seed", range(3))
def test_gather_is_a_padded_slice(seed: int) -> None:
    draw = np.random.default_rng(seed)
    length = draw.integers(1, 30, 20)
    offset, waves = np.cumsum(length) - length, draw.integers(-99, 99, length.sum()).astype(np.int16)
    first = draw.integers(-20, 20, 20)
    expected = []
    for o, n, f in zip(offset, length, first, strict=True):
        padded = np.concatenate([np.zeros(20, np.int16), waves[o : o + n], np.zeros(80, np.int16)])
        expected.append(padded[20 + f : 20 + f + 25])
    for way in (gather, gather_by_torch):
        np.testing.assert_array_equal(way(torch.from_numpy(waves), offset, length, first, 25), expected)


def test_an_epoch_has_every_clip_once_and_its_own_order() -> None:
    clips = store_of(*[[n, n, n] for n in range(1, 11)])

    def epoch(number: int, seed: tuple[int, ...] | None = (7,)) -> list[list[int]]:
        return [wave[:, 0].tolist() for wave, _ in Batches(clips, 2, 3, 4, seed, number)]

    first = epoch(0)
    assert sorted(clip for batch in first for clip in batch) == list(range(1, 11))
    assert [len(batch) for batch in first] == [4, 3, 3]
    assert first == epoch(0)
    assert first != epoch(1)
    assert first != epoch(0, (8,))
    assert epoch(0, None) == [[1, 2, 3, 4], [5, 6, 7], [8, 9, 10]]


@pytest.mark.parametrize(("power", "rare"), [(1.0, 80), (0.5, 160 / (1 + 19**0.5)), (0.25, 160 / (1 + 19**0.75))])
def test_a_balanced_epoch_draws_classes_by_a_power_of_their_clips_and_clips_evenly(power: float, rare: float) -> None:
    """152 clips against 8: the rare class's share is 8^(1 - power) / (8^(1 - power) + 152^(1 - power))."""
    target = np.array([1] * 8 + [0] * 152)
    epochs = [balanced_rows(target, power, (3,), epoch) for epoch in range(20)]
    assert {len(rows) for rows in epochs} == {160}
    assert all(abs((target[rows] == 1).sum() - rare) <= 1 for rows in epochs)
    drawn = np.bincount(np.concatenate(epochs), minlength=160)
    assert abs(drawn[:8].sum() - 20 * rare) <= 1  # what is rounded off an epoch comes in another
    for own in (drawn[:8], drawn[8:]):
        assert own.max() - own.min() <= 1


def test_a_balanced_epoch_hangs_on_its_key_and_keeps_its_batches() -> None:
    clips = dataclasses.replace(store_of(*[[n, n, n] for n in range(1, 11)]), target=np.array([0] * 9 + [1], np.int32))
    plain = Batches(clips, 2, 3, 4, (7,))
    even = dataclasses.replace(plain, balance=1.0)

    def values(batches: Batches) -> list[list[int]]:
        return [wave[:, 0].tolist() for wave, _ in batches]

    assert [len(batch) for batch in values(even)] == [len(batch) for batch in values(plain)] == [4, 3, 3]
    assert sum(batch.count(10) for batch in values(even)) == 5  # the only clip of its class, of ten
    assert values(even) == values(even)
    assert values(even) != values(dataclasses.replace(even, epoch=1))
    assert values(even) != values(dataclasses.replace(even, seed=(8,)))
    assert values(dataclasses.replace(even, first=1)) == values(even)[1:]


def test_targets_are_rows_of_class_weights() -> None:
    assert one_hot(np.array([1, -1]), 3).tolist() == [[0, 1, 0], [0, 0, 0]]


def test_store_and_folds(store_work: Path) -> None:
    store = Store.open(store_work)
    assert (store.classes, store.sample_rate, store.clip_samples) == (("high", "low", "sweep"), 8000, 4000)
    seen = []
    for fold in range(2):
        data = WaveData(store, fold, 8, (0,))
        assert len(data.train) + len(data.valid) == 36
        speakers = [{Path(name).name.split("_")[0] for name in part.fname} for part in (data.train, data.valid)]
        assert not speakers[0] & speakers[1]
        seen += list(data.valid.fname)
    assert len(set(seen)) == 36
    full = WaveData(store, "full", 8, (0,))
    assert (len(full.train), len(full.valid)) == (36, 0)
    assert len(store.noise()) == 16000
    assert len(WaveData(store, 0, 8, (0,), limit=5).train) == 5


def test_an_epoch_resumes_at_a_batch() -> None:
    clips = store_of(*[[n, n + 1, n + 2, n + 3] for n in range(1, 11)])
    whole = Batches(clips, 2, 3, 4, (7,), 1, shift=1)
    rest = dataclasses.replace(whole, first=1)
    assert len(whole) == len(rest) == 3  # of the epoch
    for (wave, target), (again, target_again) in zip(list(whole)[1:], list(rest), strict=True):
        assert torch.equal(wave, again)
        assert torch.equal(target, target_again)


def test_names_are_a_sequence_of_strings() -> None:
    texts = ["a", "", "=b,c", "\u00e9\u4e2d\U0001f600", "d/e.wav"]
    names = Names(texts[:2])
    names.extend(texts[2:])
    assert list(names) == texts
    assert (names[-1], len(names)) == ("d/e.wav", 5)
    part = names[np.array([True, False, False, True, True])]
    assert list(part) == ["a", texts[3], "d/e.wav"]
    assert list(part[np.array([2, 0])]) == ["d/e.wav", "a"]
    assert list(names[1:3]) == ["", "=b,c"]


def test_batches_never_hold_a_single_clip_to_learn_from() -> None:
    def sizes(clips: int, batch_size: int, seed: tuple[int, ...] | None = (0,)) -> list[int]:
        return [len(wave) for wave, _ in Batches(store_of(*[[1]] * clips), 2, 1, batch_size, seed)]

    assert sizes(3, 2) == [3]
    assert sizes(9, 4) == [3, 3, 3]
    assert sizes(65, 64) == [33, 32]
    assert sizes(3, 2, None) == [2, 1]


def test_no_clips_make_no_batches() -> None:
    assert list(Batches(store_of([1]).take(np.zeros(0, np.int64)), 2, 1, 4)) == []


def test_too_few_clips_to_train_on(store_work: Path) -> None:
    with pytest.raises(UserError, match="at least 2"):
        WaveData(Store.open(store_work), 0, 8, (0,), limit=1)


def test_waves_larger_than_the_memory_can_be_mapped(tmp_path: Path) -> None:
    with (tmp_path / "waves.i16").open("wb") as file:
        file.write(np.array([1, -2], "<i2").tobytes())
        file.truncate(1 << 40)  # a hole, which takes no disk
    waves = read_waves(tmp_path)
    assert len(waves) == 1 << 39
    assert waves[:3].tolist() == [1, -2, 0]
