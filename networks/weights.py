"""Weights to start from: files and timm's own, and what may be wrong with them."""

from __future__ import annotations

import pickle
import re
import urllib.error
import urllib.request
from pathlib import Path

import huggingface_hub
import timm
from timm.models import load_state_dict
from torch import Tensor, nn

from system.errors import UserError, first_line


def read_weights(path: Path) -> dict[str, Tensor]:
    """A file's weights under the network's own names. UserError where it is missing or no file of weights."""
    if not path.is_file():
        raise UserError(f"--weights {path}: no such file")
    try:
        state: dict[str, Tensor] = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # whatever an unpickler or a parser meets in a file from anywhere
        raise UserError(f"--weights {path}: not a file of weights ({distrust(error)})") from error
    if any(key.startswith("net.") for key in state):  # a checkpoint of ours
        state = {key.removeprefix("net."): value for key, value in state.items() if key.startswith("net.")}
    return state


def check_download(name: str, timeout_seconds: float = 5.0) -> None:
    """UserError, at once, where timm's weights can be neither downloaded nor found in the cache."""
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag that it does not know
        raise UserError(f"--pretrained: {first_line(error)}") from error
    if config is None or not (config.hf_hub_id or config.url):
        raise UserError(f"--pretrained: timm has no weights for {name}")
    if config.hf_hub_id:
        file = "model.safetensors"
        if isinstance(huggingface_hub.try_to_load_from_cache(config.hf_hub_id, file), str):
            return
        url = huggingface_hub.hf_hub_url(config.hf_hub_id, file)
    else:
        url = str(config.url)
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=timeout_seconds).close()
    except urllib.error.HTTPError:
        pass  # the server answers: what it has is timm's to find out
    except OSError as error:
        raise UserError(
            f"--pretrained: cannot download {name} from here ({first_line(error)}); "
            f"fetch {url} elsewhere and give it as --weights FILE"
        ) from error


def distrust(error: BaseException) -> str:
    """Why torch's or timm's loader did not take a file: what they say at length, and how to make them take it."""
    cause: BaseException | None = error
    while cause:  # timm's error may name less than the one before it
        if found := re.search(r"(?:GLOBAL|Unsupported globals:) ([\w.]+\w)", str(cause)):
            return f"it would run code, {found[1]}, and is refused"
        cause = cause.__cause__ or cause.__context__
    refused = isinstance(error, (LookupError, pickle.UnpicklingError))  # their texts are of no use to a reader
    return "damaged, or another kind of file" if refused else first_line(error)


def check_fit(weights: str, name: str, net: nn.Module, state: dict[str, Tensor]) -> None:
    """UserError where a file's weights are not those of a network."""
    own = set(net.state_dict())
    if len(own & set(state)) < len(own) / 2:
        raise UserError(f"--weights {weights}: holds no weights of {name}; give a file made for that network")
