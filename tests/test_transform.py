"""Augmentation with fixed parameters, by hand; draws by their ranges; the views."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import transform
from arg import AUGMENT_PRESETS, NO_AUGMENT, AugmentConfig, FeatureOptions
from dataset import LogMel, as_float
from transform import MaskDraw, WaveDraw
from util import generator

NONE = torch.zeros(0)


def fixed(batch: int, **changes: torch.Tensor) -> WaveDraw:
    still = WaveDraw(
        gain=torch.ones(batch),
        noise=torch.zeros(batch, dtype=torch.long),
        noise_std=torch.zeros(batch),
        background=torch.zeros(batch, dtype=torch.long),
        background_snr=torch.full((batch,), torch.inf),
        speed=None,
    )
    return dataclasses.replace(still, **changes)


def as_int16(wave: torch.Tensor) -> torch.Tensor:
    return (wave * 32768).round().to(torch.int16)


def test_gain_comes_before_noise_at_an_absolute_level() -> None:
    wave = as_int16(torch.tensor([[0.5, -0.5], [0.5, 0.25]]))
    params = fixed(2, gain=torch.tensor([0.5, 1]), noise=torch.tensor([1, 0]), noise_std=torch.tensor([0.25, 0]))
    changed = transform.apply_wave(wave, params, torch.tensor([9.0, 1, -1]), NONE)
    assert changed.tolist() == [[0.5, -0.5], [0.5, 0.25]]


def test_background_is_mixed_at_the_drawn_ratio_of_powers() -> None:
    wave = as_int16(0.1 * torch.randn(2, 1000, generator=torch.Generator().manual_seed(0)))
    background = torch.randn(5000, generator=torch.Generator().manual_seed(1)) * 3
    params = fixed(2, background=torch.tensor([0, 700]), background_snr=torch.tensor([10.0, torch.inf]))
    added = transform.apply_wave(wave, params, NONE, background) - as_float(wave)
    assert torch.equal(added[1], torch.zeros(1000))
    ratio = 10 * torch.log10(as_float(wave[0]).square().mean() / added[0].square().mean())
    assert ratio.item() == pytest.approx(10, abs=1e-3)
    torch.testing.assert_close(added[0] / added[0].norm(), background[:1000] / background[:1000].norm())


def test_speed_moves_a_tone_and_its_length() -> None:
    """A 500 Hz tone in the middle half of a second, played 1.25 times as fast: 625 Hz in the middle 0.4 s."""
    time = torch.arange(16_000) / 16_000
    wave = as_int16(0.5 * torch.sin(2 * torch.pi * 500 * time) * ((time >= 0.25) & (time < 0.75)))
    changed = transform.apply_wave(wave.expand(2, -1), fixed(2, speed=torch.tensor([1, 1.25])), NONE, NONE)
    torch.testing.assert_close(changed[0], as_float(wave), rtol=0, atol=2e-3)  # two samples' mean at most
    spectrum = torch.fft.rfft(changed[1]).abs()
    assert spectrum.argmax().item() == pytest.approx(625, abs=1)  # bins are 1 Hz apart
    sounding = changed[1].abs() > 0.01
    first, last = sounding.nonzero()[[0, -1]].flatten().tolist()
    assert first == pytest.approx(16_000 * 0.3, abs=16)
    assert last == pytest.approx(16_000 * 0.7, abs=16)


def test_draws_stay_in_their_ranges_and_come_from_the_generator() -> None:
    config = AugmentConfig(gain_db=6, noise_std=0.1, background_probability=0.5, speed=0.1)
    first, again, other = (
        transform.draw_wave(config, (500, 50), 100, 200, generator("cpu", seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.noise, again.noise)
    assert not torch.equal(first.noise, other.noise)
    assert first.gain.min() >= 10 ** (-6 / 20)
    assert first.gain.max() <= 10 ** (6 / 20)
    assert set(first.noise.tolist()) == set(range(51))
    assert first.speed is not None
    assert 0.9 <= first.speed.min() < 0.91
    assert 1.09 < first.speed.max() <= 1.1
    assert 0.09 < first.noise_std.max() <= 0.1
    assert 0.4 < torch.isfinite(first.background_snr).float().mean() < 0.6
    assert first.background.max() <= 150
    assert torch.isinf(transform.draw_wave(config, (50, 50), 100, 0, generator("cpu", 1)).background_snr).all()


def test_white_noise_is_white() -> None:
    noise = transform.white_noise(generator("cpu", 0))
    assert noise.mean().abs() < 2e-3
    assert noise.std().item() == pytest.approx(1, abs=2e-3)
    assert torch.corrcoef(torch.stack([noise[1:], noise[:-1]]))[0, 1].abs() < 2e-3


def test_nothing_to_do_changes_nothing() -> None:
    wave = torch.randint(-9000, 9000, (3, 100), dtype=torch.int16)
    params = transform.draw_wave(NO_AUGMENT, (3, 100), 1000, 1000, generator("cpu", 0))
    changed = transform.apply_wave(wave, params, torch.randn(1000), torch.randn(1000))
    assert torch.equal(changed, as_float(wave))


def test_every_part_of_the_base_set_changes_the_features(real_waves: NDArray[np.float32]) -> None:
    """A volume change alone is undone by the normalisation; with noise after it, it is not."""
    frontend = LogMel(FeatureOptions(32, 32).resolve(16000, 16000))
    wave = as_int16(torch.from_numpy(real_waves))
    noise = torch.randn(16000, generator=torch.Generator().manual_seed(0))
    quiet, loud = (
        frontend(transform.apply_wave(
            wave, fixed(10, gain=torch.full((10,), gain), noise_std=torch.full((10,), 0.005)), noise, NONE
        ))
        for gain in (0.5, 2.0)
    )  # fmt: skip
    assert (quiet - loud).abs().mean() > 0.05


def test_masks_cover_just_their_bands() -> None:
    params = MaskDraw(*(torch.tensor([[value]]) for value in (1, 2, 0, 1)))  # frames 1 and 2, band 0
    masked = transform.apply_masks(torch.ones(1, 1, 3, 4), params)
    assert masked[0, 0].tolist() == [[0, 0, 0, 0], [1, 0, 0, 1], [1, 0, 0, 1]]


def test_masks_scale_with_the_feature() -> None:
    config = dataclasses.replace(AUGMENT_PRESETS["more"], time_masks=2, freq_masks=1, mask_share=0.1)
    features = FeatureOptions(128, 64).resolve(16000, 16000)
    params = transform.draw_masks(config, 400, features, generator("cpu", 0))
    assert params.time_width.shape == (400, 2)
    assert params.time_width.max() == 6
    assert params.freq_width.max() == 13
    assert (params.time_start + params.time_width).max() == 64
    assert params.freq_start.min() == 0


def test_an_equalizer_is_straight_lines_between_its_levels() -> None:
    feature = torch.arange(18.0).reshape(2, 1, 9, 1)
    raised = transform.apply_equalizer(feature, torch.tensor([[0.0, 2, 2, 0, -4], [0.0] * 5])) - feature
    assert raised[0, 0, :, 0].tolist() == [0, 1, 2, 2, 2, 1, 0, -2, -4]
    assert not raised[1].any()
    levels = transform.draw_equalizer(0.5, 4000, generator("cpu", 0))
    assert levels.shape == (4000, 5)
    assert levels.std(0).tolist() == pytest.approx([0.5] * 5, rel=0.05)


def test_mixup_by_hand() -> None:
    feature = torch.arange(3.0).reshape(3, 1, 1, 1)
    target = torch.eye(3)
    mixed, rows = transform.apply_mixup(feature, target, torch.tensor([0.75, 1, 0.5]), torch.tensor([1, 0, 2]))
    assert mixed.flatten().tolist() == [0.25, 1, 2]
    assert rows.tolist() == [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 1]]
    share, partner = transform.draw_mixup(0.3, 1000, generator("cpu", 0))
    assert 0.5 <= share.min() < share.max() <= 1
    assert sorted(partner.tolist()) == list(range(1000))
    expected = np.random.default_rng(0).beta(0.3, 0.3, 100_000)
    assert share.mean().item() == pytest.approx(np.maximum(expected, 1 - expected).mean(), abs=0.02)


def test_views_are_the_same_every_time_and_all_different(real_waves: NDArray[np.float32]) -> None:
    frontend = LogMel(FeatureOptions(64, 64).resolve(16000, 16000))
    wave = torch.from_numpy(real_waves)
    views = [transform.view(wave, index, 16000) for index in range(transform.VIEWS)]
    assert torch.equal(views[0], wave)
    features = [frontend(view) for view in views]
    for index, view in enumerate(views):
        assert torch.equal(view, transform.view(wave, index, 16000))
        assert torch.equal(view[4:5], transform.view(wave[4:5], index, 16000))  # whatever the batch
        for other in features[:index]:
            assert ((features[index] - other).abs().mean((1, 2, 3)) > 0.02).all()
    with pytest.raises(ValueError, match="there are 4"):
        transform.view(wave, 4, 16000)
