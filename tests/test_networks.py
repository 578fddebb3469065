from __future__ import annotations

from pathlib import Path

import pytest
import torch

from arg import FeatureConfig, FeatureOptions
from model import build_network, fold_batch_norm
from networks.bcresnet import AlongFrequency, SubSpectralNorm


def features(n_mels: int, frames: int) -> FeatureConfig:
    return FeatureOptions(n_mels, frames).resolve(16_000, 16_000)


def test_the_papers_number_of_weights() -> None:
    """Table 1 of the paper: 9.2 k parameters at width 1, 321 k at width 8."""
    for name, thousands in (("bcresnet1", 9.2), ("bcresnet8", 321)):
        count = sum(weight.numel() for weight in build_network(name, 12, features(40, 101)).parameters())
        assert count / 1000 == pytest.approx(thousands, rel=0.005)


def test_melresnet_is_small() -> None:
    assert sum(weight.numel() for weight in build_network("melresnet", 12, features(40, 101)).parameters()) < 350_000


@pytest.mark.parametrize("name", ["melresnet", "bcresnet1"])
@pytest.mark.parametrize(("n_mels", "frames"), [(40, 101), (64, 64), (33, 20), (8, 8)])
def test_features_of_any_size(name: str, n_mels: int, frames: int) -> None:
    net = build_network(name, 3, features(n_mels, frames))
    wave = torch.randn(4, 1, n_mels, frames)
    net(wave).sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in net.parameters())
    before = net.eval()(wave)
    assert fold_batch_norm(net, wave) > 0
    torch.testing.assert_close(net(wave), before, rtol=1e-3, atol=1e-4)


def test_each_band_is_normalised_on_its_own() -> None:
    x = torch.randn(8, 2, 10, 6) * torch.arange(1, 11)[:, None] + torch.arange(10)[:, None]
    bands = SubSpectralNorm(2, 10)(x).unflatten(2, (5, 2))  # (B, C, bands, F / bands, T)
    torch.testing.assert_close(bands.mean((0, 3, 4)), torch.zeros(2, 5), rtol=0, atol=1e-5)
    torch.testing.assert_close(bands.var((0, 3, 4), unbiased=False), torch.ones(2, 5), rtol=0, atol=1e-3)


def test_weights_of_an_earlier_run(tmp_path: Path) -> None:
    net = build_network("bcresnet1", 3, features(40, 101))
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    other = build_network("bcresnet1", 30, features(40, 101), str(tmp_path / "weights.pt"))
    assert torch.equal(other.stem[0].weight, net.stem[0].weight)  # type: ignore[index, union-attr]
    assert other.head.out_features == 30  # type: ignore[union-attr]


@pytest.mark.parametrize(("rows", "stride"), [(20, 1), (20, 2), (5, 2), (1, 1)])
def test_the_product_with_band_matrices_is_the_convolution(rows: int, stride: int) -> None:
    convolution = AlongFrequency(3, rows, stride)
    x, again = (torch.linspace(-1, 1, 2 * 3 * rows * 7).view(2, 3, rows, 7).requires_grad_() for _ in range(2))
    ours = convolution(x)
    theirs = torch.nn.functional.conv2d(again, convolution.weight, None, (stride, 1), (1, 0), groups=3)
    torch.testing.assert_close(ours, theirs)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    torch.testing.assert_close(x.grad, again.grad)
