"""Register the networks with timm."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from networks.bcresnet import BCResNet
from networks.melresnet import MelResNet

NETWORKS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "melresnet": (MelResNet, {}),
    **{f"bcresnet{width}": (BCResNet, {"width": width}) for width in (1, 2, 3, 6, 8)},
}
default_cfgs = generate_default_cfgs(
    {name: {"input_size": (1, 40, 101), "first_conv": "stem.0", "classifier": "head"} for name in NETWORKS}
)


def _register(name: str) -> None:
    kind, fixed = NETWORKS[name]

    def make(pretrained: bool = False, n_mels: int = 40, **options: Any) -> nn.Module:
        network: nn.Module = build_model_with_cfg(kind, name, pretrained, n_mels=n_mels, **fixed, **options)
        return network

    make.__name__ = make.__qualname__ = name  # which timm takes for the network's
    register_model(make)


for _name in NETWORKS:
    _register(_name)
