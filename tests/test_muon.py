"""Muon against the singular value decomposition, timm's version of it, and its own state."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.optim import Muon as TimmMuon  # type: ignore[attr-defined]
from torch import nn
from torch.nn import functional as F

from model import make_optimizer
from networks.muon import Muon, is_matrix, orthogonal


@pytest.mark.parametrize("shape", [(3, 20, 90), (1, 64, 9), (2, 5, 5)])
def test_directions_of_any_size_come_out_alike(shape: tuple[int, int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape, generator=draw), full_matrices=False)
    values = torch.logspace(0, -2, min(shape[1:]))
    singular = torch.linalg.svdvals(orthogonal(left * values @ right))
    assert singular.min() > 0.6
    assert singular.max() < 1.2
    for scale in (1e-4, 1e4):  # nor does the size of the whole matter
        scaled = orthogonal(scale * (left * values @ right))
        torch.testing.assert_close(scaled, orthogonal(left * values @ right), rtol=0, atol=1e-3)
    cosine = (orthogonal(left * values @ right) * (left @ right)).sum() / (left @ right).square().sum()
    assert cosine > 0.9


def test_nothing_to_follow_stays_finite() -> None:
    assert torch.equal(orthogonal(torch.zeros(1, 4, 6)), torch.zeros(1, 4, 6))
    assert orthogonal(torch.ones(1, 40, 60)).isfinite().all()  # of rank one


def network() -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = timm.create_model("test_resnet", in_chans=1, num_classes=5)
    return net


def learn(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """The losses of so many steps, on the same few clips."""
    draw = torch.Generator().manual_seed(0)
    feature, target = torch.randn(8, 1, 32, 32, generator=draw), torch.arange(8) % 5
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(feature), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_as_timms() -> None:
    """timm iterates in bfloat16 and in another order, so the first losses agree closely and later ones less so."""
    net = network()
    theirs = copy.deepcopy(net)
    groups = [{"params": list(theirs.parameters()), "weight_decay": 0.01}]
    expected = learn(theirs, TimmMuon(groups, lr=0.02), 4)
    got = learn(net, Muon([{"params": list(net.parameters()), "weight_decay": 0.01}], 0.02), 4)
    assert got[0] == expected[0]
    assert got == pytest.approx(expected, rel=0.02)
    assert got[-1] < got[0] / 2


def test_what_is_no_matrix_is_adamws() -> None:
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1), nn.Conv2d(3, 6, 3))
    theirs = copy.deepcopy(net)
    ours = Muon([{"params": list(net.parameters()), "weight_decay": 0.1}], 0.02)
    adamw = torch.optim.AdamW(theirs.parameters(), 0.02, betas=(0.9, 0.95), weight_decay=0.1)
    draw = torch.Generator().manual_seed(0)
    for _ in range(3):
        for one, other in zip(net.parameters(), theirs.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=draw)
            other.grad = one.grad.clone()
        ours.step()
        adamw.step()
    assert [name for name, weight in net.named_parameters() if is_matrix(weight)] == ["3.weight"]
    for (name, weight), other in zip(net.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(weight, other) == (name != "3.weight"), name


def test_it_goes_on_from_its_state() -> None:
    from arg import OptimConfig

    optim = OptimConfig(optimizer="muon", lr=0.02, weight_decay=0.01)
    net = network()
    optimizer = make_optimizer(net, optim)
    learn(net, optimizer, 2)
    other = copy.deepcopy(net)
    again = make_optimizer(other, optim)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert learn(net, optimizer, 2) == learn(other, again, 2)
