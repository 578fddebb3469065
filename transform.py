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
from torch.nn import functional as F

from arg import AugmentConfig, FeatureConfig
from system.extensions import REGISTERED

# ------------------------------------------------------------------------------------------------------- waves

NOISE_SAMPLES = 1 << 22  # of white noise, drawn once a run: drawing it for every clip takes longer than all the rest


@dataclass(frozen=True)
class WaveDraw:
    """Parameters of one batch, (B,) each, all on its device."""

    gain: Tensor  # a factor
    noise: Tensor  # first sample of the white noise that each clip gets
    noise_std: Tensor  # its standard deviation, full scale 1
    background: Tensor  # first sample of the background recording that each clip gets
    background_snr: Tensor  # dB; infinite where the clip gets none
    speed: Tensor | None  # a factor; None where all clips keep theirs


def draw_wave(
    config: AugmentConfig, shape: tuple[int, int], noise_samples: int, background_samples: int, draw: Generator
) -> WaveDraw:
    """Parameters for a (B, L) batch, with as many samples of white noise and of background recordings, 0 for none.

    Shifts are drawn elsewhere (`dataset.Clips.windows`): a window is read from where it begins, at no cost.
    """
    batch, samples = shape
    device = draw.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(batch, device=device).uniform_(low, high, generator=draw)

    def first(available: int) -> Tensor:
        return torch.randint(max(1, available - samples + 1), (batch,), device=device, generator=draw)

    chosen = uniform(0, 1) < (config.background_probability if background_samples >= samples else 0)
    return WaveDraw(
        gain=10 ** (uniform(-config.gain_db, config.gain_db) / 20),
        noise=first(noise_samples),
        noise_std=uniform(0, config.noise_std),
        background=first(background_samples),
        background_snr=torch.where(chosen, uniform(*config.background_snr_db), torch.inf),
        speed=uniform(1 - config.speed, 1 + config.speed) if config.speed else None,
    )


def apply_wave(wave: Tensor, params: WaveDraw, noise: Tensor, background: Tensor) -> Tensor:
    """(B, L) int16 waves -> (B, L) float32, full scale 1: scaled, resampled, with background and white noise added.

    The gain comes before the noise, whose level is absolute: under per-clip normalisation a gain alone would change
    nothing. `noise` is (samples,) of white noise of standard deviation 1; `background` is (samples,) of recordings,
    full scale 1, mixed at the drawn ratio of powers. Either is left out where it is shorter than a clip.
    """
    samples = wave.shape[1]
    result = wave.float().mul_(params.gain[:, None] / 32768)
    if params.speed is not None:
        result = resampled(result, params.speed)
    if len(background) >= samples:
        piece = pieces(background, params.background, samples)
        ratio = result.square().mean(1) / piece.square().mean(1).clamp(min=1e-12)
        result.addcmul_(piece, (ratio * 10 ** (-params.background_snr / 10)).sqrt()[:, None])
    if len(noise) >= samples:
        result.addcmul_(pieces(noise, params.noise, samples), params.noise_std[:, None])
    return result


def resampled(wave: Tensor, speed: Tensor) -> Tensor:
    """(B, L) waves played at (B,) speeds, their middles staying where they are, by linear interpolation.

    Tempo and pitch change together, as on a tape (Ko et al. 2015, "Audio augmentation for speech recognition"). A
    faster clip gets zeros at both ends, a slower one loses both.
    """
    samples = wave.shape[1]
    place = (torch.arange(samples, device=wave.device) * 2 + 1) / samples - 1  # -1 to 1
    grid = torch.stack([place * speed[:, None], torch.zeros_like(wave)], -1)[:, None]
    return F.grid_sample(wave[:, None, None], grid, align_corners=False)[:, 0, 0]


def pieces(recording: Tensor, first: Tensor, samples: int) -> Tensor:
    """(B,) first samples -> (B, samples) of a recording, copied row by row."""
    return recording.unfold(0, samples, 1).index_select(0, first)


def white_noise(draw: Generator) -> Tensor:
    """(NOISE_SAMPLES,) of standard deviation 1, on the generator's device."""
    return torch.empty(NOISE_SAMPLES, device=draw.device).normal_(generator=draw)


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


EQUALIZER_KNOTS = 5  # levels along the frequency axis, evenly spaced on it


def draw_equalizer(deviation: float, batch: int, draw: Generator) -> Tensor:
    """Levels of a random equaliser, (B, EQUALIZER_KNOTS), normal around 0."""
    return deviation * torch.randn(batch, EQUALIZER_KNOTS, device=draw.device, generator=draw)


def apply_equalizer(feature: Tensor, levels: Tensor) -> Tensor:
    """(B, 1, H, W) features raised by (B, knots) levels, joined by straight lines along frequency (H).

    What is added to a log-mel feature is a filter of the sound: rooms, distances and microphones differ by one.
    """
    curve = F.interpolate(levels[:, None], size=feature.shape[2], mode="linear", align_corners=True)  # (B, 1, H)
    return feature + curve[..., None]


def draw_mixup(alpha: float, batch: int, draw: Generator) -> tuple[Tensor, Tensor]:
    """Each clip's own share, (B,) in 0.5 to 1, and its partner's index, (B,)."""
    # a Beta variate as a ratio of Gammas: torch's Beta takes no generator
    source = draw
    if draw.device.type == "mps":  # which draws no Gammas
        source = Generator().manual_seed(int(torch.randint(2**31 - 1, (), device=draw.device, generator=draw)))
    concentration = torch.full((2, batch), alpha, device=source.device)
    gamma = torch._standard_gamma(concentration, generator=source).to(draw.device)
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


def view(wave: Tensor, index: int | str, sample_rate: int) -> Tensor:
    """Test-time view `index` of (B, L) float waves, or one by the name that an extension gave it.

    It is the same each time and for each clip alone.

    0: the clip itself; 1 and 2: earlier and later by 50 ms; 3: with quiet white noise. All of them change what the
    network sees; a change of volume would not, under per-clip normalisation.
    """
    if isinstance(index, str):
        named: Tensor = REGISTERED["view"][index](wave, sample_rate)
        return named
    if index == 0:
        return wave
    if index in (1, 2):
        later = min(round(VIEW_SHIFT_SECONDS * sample_rate), wave.shape[1]) * (1 if index == 2 else -1)
        return F.pad(wave, (later, -later))  # a negative padding cuts off
    if index == 3:
        noise = np.random.default_rng(0).standard_normal(wave.shape[1], np.float32) * VIEW_NOISE_STD
        return wave + torch.from_numpy(noise).to(wave.device)
    raise ValueError(f"view {index}: there are {VIEWS}")
