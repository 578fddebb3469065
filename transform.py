"""Augmentation of whole batches on the device they are on, and the four test-time views.

Drawing is apart from applying: a `draw_*` function takes an explicit generator and returns the parameters, an `apply_*`
function takes them and draws nothing, so that a test can fix them. Pitch shifting is left out on purpose: it costs
more than all the rest together and gives little on short clips.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from arg import AugmentConfig, FeatureConfig

# ------------------------------------------------------------------------------------------------------- waves


@dataclass(frozen=True)
class WaveDraw:
    """Parameters of one batch, all on its device."""

    gain: Tensor  # (B,), a factor
    shift: Tensor  # (B,), samples; positive is later
    noise: Tensor  # (B, L), white noise at an absolute level, full scale 1
    background: Tensor  # (B,), first sample of the background recording that each clip gets
    background_snr: Tensor  # (B,), dB; infinite where the clip gets none


def draw_wave(
    config: AugmentConfig, shape: tuple[int, int], sample_rate: int, background_samples: int, draw: Generator
) -> WaveDraw:
    """Parameters for a (B, L) batch; `background_samples` is the length of the recordings, 0 for none."""
    batch, samples = shape
    device = draw.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(batch, device=device).uniform_(low, high, generator=draw)

    shift = round(config.shift_seconds * sample_rate)
    noise = torch.empty(shape, device=device)
    if config.noise_std:
        noise.normal_(generator=draw).mul_(uniform(0, config.noise_std)[:, None])
    else:
        noise.zero_()
    chosen = uniform(0, 1) < (config.background_probability if background_samples >= samples else 0)
    return WaveDraw(
        gain=10 ** (uniform(-config.gain_db, config.gain_db) / 20),
        shift=torch.randint(-shift, shift + 1, (batch,), device=device, generator=draw),
        noise=noise,
        background=torch.randint(max(1, background_samples - samples + 1), (batch,), device=device, generator=draw),
        background_snr=torch.where(chosen, uniform(*config.background_snr_db), torch.inf),
    )


def apply_wave(wave: Tensor, params: WaveDraw, background: Tensor | None = None) -> Tensor:
    """(B, L) float waves -> the same, shifted, scaled, then with background and white noise added.

    The gain comes before the noise, whose level is absolute: under per-clip normalisation a gain alone would change
    nothing. `background` is (samples,) of recordings, full scale 1; it is mixed at the drawn ratio of powers.
    """
    wave = shifted(wave, params.shift) * params.gain[:, None]
    if background is not None and len(background) >= wave.shape[1]:
        piece = background.unfold(0, wave.shape[1], 1)[params.background]  # (B, L)
        ratio = wave.square().mean(1) / piece.square().mean(1).clamp(min=1e-12)
        wave = wave + piece * (ratio * 10 ** (-params.background_snr / 10)).sqrt()[:, None]
    return wave + params.noise


def shifted(wave: Tensor, samples: Tensor) -> Tensor:
    """Each clip of (B, L) later by its number of samples (earlier where negative); zeros come in, nothing wraps."""
    length = wave.shape[1]
    source = torch.arange(length, device=wave.device) - samples[:, None]  # (B, L)
    outside = (source < 0) | (source >= length)
    return wave.gather(1, source.clamp(0, length - 1)).masked_fill(outside, 0)


# ---------------------------------------------------------------------------------------------------- features


@dataclass(frozen=True)
class MaskDraw:
    """First index and width of the masks, (B, masks) each, on the batch's device."""

    time_start: Tensor
    time_width: Tensor
    freq_start: Tensor
    freq_width: Tensor


def draw_masks(config: AugmentConfig, batch: int, features: FeatureConfig, draw: Generator) -> MaskDraw:
    """Masks of a width uniform in 0 to `mask_share` of the axis, anywhere on it."""

    def spans(count: int, size: int) -> tuple[Tensor, Tensor]:
        widest = round(config.mask_share * size)
        width = torch.randint(widest + 1, (batch, count), device=draw.device, generator=draw)
        place = torch.rand((batch, count), device=draw.device, generator=draw)
        return (place * (size - width + 1)).long(), width

    return MaskDraw(*spans(config.time_masks, features.frames), *spans(config.freq_masks, features.n_mels))


def apply_masks(feature: Tensor, params: MaskDraw) -> Tensor:
    """(B, 1, H, W) features with bands of frequency (H) and time (W) set to 0, the mean of each clip.

    Park et al. 2019, "SpecAugment", without the warping of time.
    """

    def covered(start: Tensor, width: Tensor, size: int) -> Tensor:  # (B, size)
        index = torch.arange(size, device=feature.device)
        begin = start[..., None]  # (B, masks, 1)
        return ((index >= begin) & (index < begin + width[..., None])).any(1)

    freq = covered(params.freq_start, params.freq_width, feature.shape[2])
    time = covered(params.time_start, params.time_width, feature.shape[3])
    return feature.masked_fill(freq[:, None, :, None] | time[:, None, None, :], 0)


def draw_mixup(alpha: float, batch: int, draw: Generator) -> tuple[Tensor, Tensor]:
    """Each clip's own share, (B,) in 0.5 to 1, and its partner's index, (B,)."""
    # a Beta variate as a ratio of Gammas: torch's Beta takes no generator
    concentration = torch.full((2, batch), alpha, device=draw.device)
    gamma = torch._standard_gamma(concentration, generator=draw)
    share = gamma[0] / gamma.sum(0).clamp(min=1e-12)
    return torch.maximum(share, 1 - share), torch.randperm(batch, device=draw.device, generator=draw)


def apply_mixup(feature: Tensor, target: Tensor, share: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
    """Mix (B, 1, H, W) features and their (B, classes) targets with a partner's (Zhang et al. 2018, "mixup")."""
    mixed = feature.lerp(feature[partner], (1 - share)[:, None, None, None])
    return mixed, target.lerp(target[partner], (1 - share)[:, None])


# ------------------------------------------------------------------------------------------------------- views

VIEWS = 4
VIEW_SHIFT_SECONDS = 0.05
VIEW_NOISE_STD = 0.003  # of full scale


def view(wave: Tensor, index: int, sample_rate: int) -> Tensor:
    """Test-time view `index` of (B, L) float waves, the same each time and for each clip alone.

    0: the clip itself; 1 and 2: earlier and later by 50 ms; 3: with quiet white noise. All of them change what the
    network sees; a change of volume would not, under per-clip normalisation.
    """
    if index == 0:
        return wave
    if index in (1, 2):
        shift = round(VIEW_SHIFT_SECONDS * sample_rate) * (1 if index == 2 else -1)
        return shifted(wave, torch.full((len(wave),), shift, device=wave.device))
    if index == 3:
        noise = np.random.default_rng(0).standard_normal(wave.shape[1], np.float32) * VIEW_NOISE_STD
        return wave + torch.from_numpy(noise).to(wave.device)
    raise ValueError(f"view {index}: there are {VIEWS}")
