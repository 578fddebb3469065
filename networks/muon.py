"""The optimiser Muon: momentum made orthogonal."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

# Of the quintic iteration, step by step: found for Muon by Y. Jiacheng, as published with modded-nanogpt. Singular
# values from 2e-3 of the matrix's norm on come to lie between 0.85 and 1.15.
COEFFICIENTS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
LEAST_SIDE = 4  # of a matrix; what is smaller has no directions to balance


class Muon(torch.optim.Optimizer):
    """Momentum whose every matrix is made orthogonal: all directions of a layer's weights move equally far.

    Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; steps are scaled to those of AdamW
    (Liu et al. 2025, "Muon is scalable for LLM training"), and weights decay as there. A convolution is the matrix
    (outputs, inputs * height * width), also one in groups, whose rows see different inputs. As in timm's version the
    head is a matrix like any other, and momentum is not Nesterov's. AdamW learns what is no matrix, at the same rate:
    biases, normalisation, and convolutions that are depthwise or of one channel.

    This is our own on purpose. timm's version takes three to four times as long for a step, because it orthogonalises
    one matrix after another where this one stacks those of a shape and gathers the factors of wide ones (`orthogonal`).
    torch.optim.Muon refuses convolutions.

    `groups` are those of any optimiser, each with its own "weight_decay".
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        parted = [
            {**group, "params": chosen, "matrices": matrices}
            for group in groups
            for matrices in (True, False)
            if (chosen := [weight for weight in group["params"] if is_matrix(weight) == matrices])
        ]
        super().__init__(parted, {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            learnt = {weight: weight.grad for weight in group["params"] if weight.grad is not None}
            (self._step_matrices if group["matrices"] else self._step_rest)(group, learnt)
        return loss

    def _step_matrices(self, group: dict[str, Any], learnt: dict[Tensor, Tensor]) -> None:
        alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for weight in learnt:
            alike[weight.shape].append(weight)
        for shape, same in alike.items():
            momenta = [self._state(weight, "momentum") for weight in same]
            torch._foreach_lerp_(momenta, [learnt[weight] for weight in same], 1 - group["momentum"])
            updates = orthogonal(torch.stack([momentum.reshape(shape[0], -1) for momentum in momenta]))
            scale = 0.2 * math.sqrt(max(updates.shape[1:]))
            torch._foreach_mul_(same, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(same, [update.view(shape) for update in updates], alpha=-group["lr"] * scale)

    def _step_rest(self, group: dict[str, Any], learnt: dict[Tensor, Tensor]) -> None:
        weights = list(learnt)
        for weight in weights:
            self.state[weight].setdefault("step", torch.zeros(()))  # not on a GPU, which would be waited for
        means, squares = ([self._state(weight, name) for weight in weights] for name in ("mean", "square"))
        steps = [self.state[weight]["step"] for weight in weights]
        beta1, beta2 = group["betas"]
        settings: dict[str, Any] = {name: group[name] for name in ("lr", "weight_decay")}
        settings |= {"beta1": beta1, "beta2": beta2, "eps": 1e-8, "foreach": True, "amsgrad": False, "maximize": False}
        adamw(weights, list(learnt.values()), means, squares, [], steps, **settings)

    def _state(self, weight: Tensor, name: str) -> Tensor:
        """The weight's state of that name, zero at first."""
        state = self.state[weight]
        if name not in state:
            state[name] = torch.zeros_like(weight)
        value: Tensor = state[name]
        return value


def is_matrix(weight: Tensor) -> bool:
    """Whether Muon takes a parameter; a row alone, such as a depthwise convolution's of each channel, is none."""
    return weight.ndim >= 2 and weight.shape[1] > 1 and min(len(weight), weight[0].numel()) >= LEAST_SIDE


def orthogonal(matrices: Tensor) -> Tensor:
    """(B, m, n) matrices with their singular values brought near 1; those far below the largest stay smaller.

    The Newton-Schulz iteration X <- (a + b A + c A^2) X with A = X X^T. For matrices that are wide, as those of
    convolutions are, its factors, all polynomials of the first A, are gathered in m by m, and X is multiplied once.
    Float32, since the products of A with itself lose too much in half precision.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    x = matrices.float()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    wide = gathering_pays(*x.shape[1:])
    product, gathered = x @ x.mT, None
    for step, (a, b, c) in enumerate(COEFFICIENTS):
        if step and not wide:
            product = x @ x.mT
        factor = torch.baddbmm(product, product, product, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        if wide:
            gathered = factor if gathered is None else factor @ gathered
            if step + 1 < len(COEFFICIENTS):
                product = factor @ product @ factor
        else:
            x = factor @ x
    return (x if gathered is None else gathered @ x).to(matrices.dtype)


def gathering_pays(m: int, n: int) -> bool:
    """Whether the factors of m by n matrices, m <= n, are to be gathered; see `orthogonal`."""
    return _operations(m, n, gathered=True) < _operations(m, n, gathered=False)


def operations(weight: Tensor) -> int:
    """Floating-point operations that Muon's step takes for a parameter, but for what AdamW's would take as well."""
    if not is_matrix(weight):
        return 0
    m, n = sorted((len(weight), weight[0].numel()))
    return _operations(m, n, gathering_pays(m, n))


def _operations(m: int, n: int, gathered: bool) -> int:
    steps, product, square = len(COEFFICIENTS), 2 * m * m * n, 2 * m**3
    return 2 * product + (4 * steps - 3) * square if gathered else steps * (2 * product + square)
