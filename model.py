"""The classifier: a log-mel front end and a timm network, how they learn, and how a checkpoint brings them back.

A checkpoint holds plain types and tensors only, and is all that inference needs.
"""

from __future__ import annotations

import difflib
import inspect
import math
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import timm
import torch
from numpy.typing import NDArray
from timm.layers import BatchNormAct2d  # type: ignore[attr-defined]
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import networks.registry  # noqa: F401 (timm learns of them)
import transform
from arg import FULL, TIMM_WEIGHTS, FeatureConfig, OptimConfig, RunConfig
from dataset import LogMel, as_float
from networks.muon import Muon
from networks.weights import check_download, check_fit, distrust, read_weights
from system.errors import UserError, first_line
from system.extensions import DOMAINS, REGISTERED
from system.files import keep_file, replacing
from system.options import from_plain, made, to_plain
from util import balanced_accuracy_of_counts, class_weights, cross_entropy, generator, hardest_mean, macro_f1_of_counts

CHECKPOINT_FORMAT = 3
WITH_TENSORS = ("state_dict", "training", "random")  # what a checkpoint has beside plain values


def build_network(name: str, num_classes: int, features: FeatureConfig, weights: str = "") -> nn.Module:
    """A timm network for (B, 1, n_mels, frames) features, in the memory layout of `layout_of`.

    `weights` is "" (random), TIMM_WEIGHTS (downloaded) or a file (timm's, torchvision's or a checkpoint of
    ours). Three-channel stems are summed into one, and the head is new. UserError where the name is unknown, the
    weights cannot be had or do not fit, or the network does not take features of that size.
    """
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3) or ["resnet18"]
        raise UserError(f"unknown model {name}: timm has {', '.join(close)} and more (timm.list_models())")
    options: dict[str, Any] = {"pretrained": bool(weights)}
    if weights == TIMM_WEIGHTS:
        check_download(name)
    elif weights:
        state = read_weights(Path(weights))
        check_fit(weights, name, outline(name, num_classes, features), state)
        options["pretrained_cfg_overlay"] = {"state_dict": state}
    if "n_mels" in inspect.signature(timm.model_entrypoint(name)).parameters:  # ours are built for a height
        options["n_mels"] = features.n_mels
    try:
        net: nn.Module = timm.create_model(name, in_chans=1, num_classes=num_classes, **options)
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(f"{name}: {weights or 'the network'} cannot be loaded: {first_line(error)}") from error
    try:
        with torch.inference_mode():
            net.eval()(torch.zeros(1, 1, features.n_mels, features.frames))
    except (RuntimeError, AssertionError, ValueError) as error:
        size = f"{features.n_mels}x{features.frames}"
        raise UserError(f"{name} does not take {size} features ({first_line(error)}): use another -t or -m") from error
    return net.train().to(memory_format=layout_of(net))


def outline(name: str, num_classes: int, features: FeatureConfig) -> nn.Module:
    """What `build_network` builds without its weights, on the meta device: it takes no memory and draws nothing.

    UserError where the name is unknown or the network does not take features of that size.
    """
    with torch.random.fork_rng([]):
        try:
            with torch.device("meta"):
                return build_network(name, num_classes, features)
        except UserError:  # some networks need numbers to be built; and a real one's reason is plainer
            return build_network(name, num_classes, features)


def check_start(config: RunConfig) -> None:
    """UserError where a run's features or network cannot be made or its weights be had, without building it."""
    LogMel(config.features)
    net = outline(config.model, len(config.classes), config.features)
    if config.weights == TIMM_WEIGHTS:
        check_download(config.model)
    elif config.weights:
        check_fit(config.weights, config.model, net, read_weights(Path(config.weights)))


def layout_of(net: nn.Module) -> torch.memory_format:
    """The faster memory layout on a processor: channels-last unless the network says otherwise."""
    layout: torch.memory_format = getattr(net, "memory_format", torch.channels_last)
    return layout


class Classifier(pl.LightningModule):
    """`frontend` (LogMel) and `net` (timm), with the losses and the optimiser that `RunConfig` names.

    `background` is the noise recordings that augmentation mixes in, (samples,) int16; None for none.
    """

    def __init__(self, config: RunConfig, weights: str = "", background: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.frontend = LogMel(config.features)
        self.net = build_network(config.model, len(config.classes), config.features, weights)
        # no buffers: those are averaged and saved
        self.background = torch.zeros(0) if background is None else as_float(background)
        self.noise = torch.zeros(0)
        self.layout = layout_of(self.net)  # of its memory
        optim = config.optim
        self.class_weights = torch.from_numpy(class_weights(config.class_counts, optim.class_weights, optim.balance))
        self.held_out_scores: dict[str, float] = {}  # of the last validated epoch
        self.totals = torch.zeros(3)  # of the epoch so far: loss, right answers, clips
        self.ahead = 0.0  # steps of the schedule that are left out, to end in time
        self._loss = torch.zeros(0)  # of the held-out clips so far, and of their classes (true, predicted, both)
        self._counts = torch.zeros(0)

    def forward(self, wave: Tensor) -> Tensor:
        """(B, clip_samples) int16 or float waves -> (B, classes) logits."""
        return self.logits(self.frontend(as_float(wave) if wave.dtype == torch.int16 else wave))

    def logits(self, feature: Tensor) -> Tensor:
        """(B, 1, n_mels, frames) features -> (B, classes) logits."""
        result: Tensor = self.net(feature.contiguous(memory_format=self.layout))
        return result

    def use_layout(self, layout: torch.memory_format) -> None:
        """Keep the network's weights, and what it computes, in this memory format."""
        self.layout = layout
        self.net.to(memory_format=layout)

    def augmented(self, wave: Tensor, target: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """A batch's training features and targets from int16 waves; all randomness comes from `draw`."""
        augment, features = self.config.augment, self.config.features
        shape = (wave.shape[0], wave.shape[1])
        params = transform.draw_wave(augment, shape, len(self.noise), len(self.background), draw)
        changed = transform.apply_wave(wave, params, self.noise, self.background)
        for own in self.augmentations["wave"]:
            changed = own.apply(changed, own.draw(changed.shape, draw))
        feature = self.frontend(changed)
        if augment.equalizer:
            feature = transform.apply_equalizer(feature, transform.draw_equalizer(augment.equalizer, len(wave), draw))
        for own in self.augmentations["feature"]:
            feature = own.apply(feature, own.draw(feature.shape, draw))
        if augment.time_masks or augment.freq_masks:
            feature = transform.apply_masks(feature, transform.draw_masks(augment, len(wave), features, draw))
        if augment.mixup_alpha:
            feature, target = transform.apply_mixup(
                feature, target, *transform.draw_mixup(augment.mixup_alpha, len(wave), draw)
            )
        return feature, target

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        optim = self.config.optim
        if optim.loss == "cross-entropy":
            losses = cross_entropy(logits, target, optim.label_smoothing)
        else:
            losses = self.own_loss(logits, target)
        if optim.class_weights:
            losses = losses * (target @ self.class_weights.to(target.device))
        return hardest_mean(losses, optim.ohem)

    @cached_property
    def augmentations(self) -> dict[str, list[Any]]:
        """Those of extensions that the run uses, by what they change: "wave" or "feature"."""
        parts = self.config.parts.items()
        own = [made("augmentation", name, values) for name, values in parts if name in REGISTERED["augmentation"]]
        return {domain: [one for one in own if one.domain == domain] for domain in DOMAINS}

    @cached_property
    def own_loss(self) -> Any:
        """The loss of an extension: (B, classes) logits and targets -> (B,)."""
        return made("loss", self.config.optim.loss, self.config.parts.get(self.config.optim.loss))

    # Lightning's hooks

    def on_fit_start(self) -> None:
        self.background = self.background.to(self.device)
        self.class_weights = self.class_weights.to(self.device)
        if self.config.augment.noise_std:
            self.noise = transform.white_noise(generator(self.device, *seed_key(self.config)))

    def on_train_epoch_start(self) -> None:
        self.totals = torch.zeros(3, device=self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        draw = generator(self.device, *seed_key(self.config), self.current_epoch, batch_index, self.global_rank)
        feature, target = self.augmented(*batch, draw)
        logits = self.logits(feature)
        loss = self.loss(logits, target)
        with torch.no_grad():
            right = (logits.argmax(1) == target.argmax(1)).sum()
            self.totals += torch.stack([loss.detach() * len(target), right, right.new_tensor(len(target))])
        return loss

    def on_validation_epoch_start(self) -> None:
        kind = torch.float32 if self.device.type == "mps" else torch.float64  # Apple's GPUs have no other
        self._loss = torch.zeros((), device=self.device, dtype=kind)
        self._counts = torch.zeros(3, len(self.config.classes), device=self.device, dtype=torch.int64)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        wave, target = batch
        logits = self(wave)
        self._loss += cross_entropy(logits, target).sum()
        truth, predicted = target.argmax(1), logits.argmax(1)
        for count, classes in zip(self._counts, (truth, predicted, truth[truth == predicted]), strict=True):
            count += classes.bincount(minlength=len(count))

    def on_validation_epoch_end(self) -> None:
        true, predicted, both = self._counts.cpu().numpy()
        self.held_out_scores = {
            "valid_loss": float(self._loss) / int(true.sum()),
            "valid_accuracy": float(both.sum() / true.sum()),
            "valid_balanced_accuracy": balanced_accuracy_of_counts(true, both),
            "valid_macro_f1": macro_f1_of_counts(true, predicted, both),
        }

    def running_scores(self) -> dict[str, float]:
        """Training loss and accuracy of the epoch so far, on augmented clips."""
        loss, right, clips = self.totals.tolist()
        return {"train_loss": loss / max(clips, 1), "train_accuracy": right / max(clips, 1)}

    def configure_optimizers(self) -> Any:
        optim = self.config.optim
        optimizer = make_optimizer(self.net, optim, self.config.parts.get(optim.optimizer))
        steps = int(self.trainer.estimated_stepping_batches)

        def factor(step: int) -> float:
            return rate(step + self.ahead, steps, optim.warmup)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def seed_key(config: RunConfig) -> tuple[int, ...]:
    """What every draw of a run depends on first: (seed, fold); "full" counts as the fold after any other."""
    return (config.seed, 1_000_000 if config.fold == FULL else int(config.fold))


def make_optimizer(net: nn.Module, optim: OptimConfig, own: dict[str, Any] | None = None) -> torch.optim.Optimizer:
    """AdamW, Nesterov SGD, Muon or an extension's with the options `own`; biases and normalisation are not decayed."""
    groups = param_groups_weight_decay(net, optim.weight_decay)
    fused = not optim.grad_clip  # Lightning cannot clip what a fused optimiser unscales
    if optim.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=optim.lr, fused=fused)
    if optim.optimizer == "muon":
        return Muon(groups, optim.lr)
    if optim.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=0.9, nesterov=True, fused=fused)
    result: torch.optim.Optimizer = made("optimizer", optim.optimizer, own)(groups, optim.lr)
    return result


def rate(step: float, steps: int, warmup: float) -> float:
    """The learning rate's factor at a step: a linear rise over the share `warmup`, then half a cosine to zero.

    Loshchilov & Hutter 2017, "SGDR", with one cycle.
    """
    rise = warmup * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1.0, steps - rise))))


def save_checkpoint(
    path: Path, config: RunConfig, state: dict[str, Tensor], finished: bool, previous: Path | None = None, **more: Any
) -> None:
    """Write configuration, weights and `more`, complete or not at all, for any machine to read.

    What stood at `path` is kept as `previous`, if that is given. OSError where the disk is full.
    """
    contents = {
        "format": CHECKPOINT_FORMAT,
        "config": to_plain(config),
        "state_dict": {name: value.cpu() for name, value in state.items()},
        "finished": finished,
        **more,
    }
    try:
        with replacing(path) as beside:
            with beside.open("wb") as file:
                torch.save(contents, file)
            if previous is not None and path.exists():
                keep_file(path, previous)
    except (OSError, RuntimeError) as error:  # torch's writer adds an error of its own to the system's
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        raise


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, with "config" revived. UserError where it is missing, damaged or foreign."""
    return _read(path, tensors=True)


def read_config(path: Path) -> dict[str, Any]:
    """`read_checkpoint` without weights and other tensors, in milliseconds whatever their size.

    Keys: config, finished and format; where training wrote them epoch, batch, history, best and seconds, too. Of the
    file only what is read is checked. Same errors.
    """
    return _read(path, tensors=False)


def _read(path: Path, tensors: bool) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        if zipped := zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as parts:  # torch itself checks no sums
                if not tensors:
                    parts.read(next(name for name in parts.namelist() if name.endswith("/data.pkl")))
                elif part := parts.testzip():
                    raise UserError(f"{part} in it is damaged")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped and not tensors)
        written = checkpoint["format"]
    except Exception as error:  # whatever an unpickler meets in a file from anywhere
        raise UserError(f"{path}: not a checkpoint of train.py ({distrust(error)})") from error
    if written not in (2, CHECKPOINT_FORMAT):
        newer = isinstance(written, int) and written > CHECKPOINT_FORMAT
        way_out = "made by a newer version: update this project" if newer else "train again with --restart"
        raise UserError(f"{path}: format {written}, this version reads {CHECKPOINT_FORMAT}; {way_out}")
    if not tensors:
        checkpoint = {key: value for key, value in checkpoint.items() if key not in WITH_TENSORS}
    try:
        return {**checkpoint, "config": from_plain(RunConfig, checkpoint["config"])}
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{path}: damaged configuration ({first_line(error)}); train again with --restart") from error


def restore_classifier(path: Path, checkpoint: dict[str, Any]) -> Classifier:
    """The trained classifier of what `read_checkpoint` read from `path`, ready to predict."""
    config: RunConfig = checkpoint["config"]
    if not timm.is_model(config.model) and config.extensions:
        files = ", ".join(config.extensions)
        raise UserError(f"{path}: its network {config.model} is defined in {files}: give that with --extension FILE")
    model = Classifier(config)
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(f"{path}: weights and configuration disagree ({first_line(error)})") from error
    return model.eval()


def load_classifier(path: Path | str) -> Classifier:
    """The trained classifier of a checkpoint, ready to predict; everything comes from that file."""
    return restore_classifier(Path(path), read_checkpoint(Path(path)))


def fold_batch_norm(net: nn.Module, feature: Tensor) -> int:
    """Put the batch normalisations that directly follow a convolution into its weights; returns how many.

    For inference alone: `net` is in evaluation mode. `feature` is a (B, 1, n_mels, frames) input, and what follows what
    is seen by running the network on it, so that any network will do. Where its output changes by more than rounding
    nothing is folded: a convolution may have other readers than its normalisation, a network look into its modules.
    """
    pairs = _normalised_convolutions(net, feature)
    parents = {child: (parent, name) for parent in net.modules() for name, child in parent.named_children()}
    undo: list[tuple[nn.Module, str, nn.Module]] = []

    def put(old: nn.Module, new: nn.Module) -> None:
        parent, name = parents[old]
        undo.append((parent, name, old))
        setattr(parent, name, new)

    with torch.inference_mode():
        before = net(feature)
    for convolution, norm in pairs:
        put(convolution, fuse_conv_bn_eval(convolution, norm).to(memory_format=layout_of(net)))
        rest = [norm.drop, norm.act] if isinstance(norm, BatchNormAct2d) else []
        put(norm, nn.Sequential(*rest))  # without any, the identity
    try:
        with torch.inference_mode():
            after = net(feature)
        close = torch.allclose(after, before, rtol=1e-3, atol=1e-3)
        close &= torch.allclose(after.softmax(1), before.softmax(1), rtol=0, atol=1e-5)
    except (AttributeError, TypeError, RuntimeError):
        close = False
    if close:
        return len(pairs)
    for parent, name, old in reversed(undo):
        setattr(parent, name, old)
    return 0


def _normalised_convolutions(net: nn.Module, feature: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """The convolutions whose output goes to a batch normalisation as it is, each called once, and that."""
    made: dict[int, tuple[nn.Conv2d, Tensor, int]] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    calls: Counter[nn.Module] = Counter()

    def convolved(module: nn.Conv2d, _: Any, output: Tensor) -> None:
        calls[module] += 1
        made[id(output)] = module, output, output._version  # kept alive, so that no other tensor gets its id

    def normalised(module: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        calls[module] += 1
        if id(inputs[0]) in made:
            convolution, output, version = made[id(inputs[0])]
            if output._version == version:  # else changed in place meanwhile
                pairs.append((convolution, module))

    hooks = []
    for module in net.modules():
        if type(module) is nn.Conv2d:
            hooks.append(module.register_forward_hook(convolved))
        elif type(module) in (nn.BatchNorm2d, BatchNormAct2d) and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(normalised))
    try:
        with torch.no_grad():  # in inference mode tensors have no versions
            net(feature)
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]


def predict(
    models: Sequence[Classifier],
    waves: Iterable[Tensor],
    views: int | Sequence[int | str],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Iterator[NDArray[np.float32]]:
    """Probabilities of each batch of (B, clip_samples) int16 waves, (models, views, B, classes).

    `views` are numbers or names (see `transform.view`), or how many of those with numbers.
    Each view of a batch is made once, and its features once for all the models that share their settings. The networks
    run in `dtype`, everything else in float32. With CUDA the next batch is under way before one's result is waited for.
    """
    models = [model.to(device).eval() for model in models]
    nets = [model.net if dtype == torch.float32 else deepcopy(model.net).to(dtype) for model in models]
    frontends = {model.config.features: model.frontend for model in models}

    def scores(wave: Tensor) -> Tensor:
        by_view = []
        for index in range(views) if isinstance(views, int) else views:
            features = {
                config: frontend(transform.view(wave, index, config.sample_rate)).to(dtype)
                for config, frontend in frontends.items()
            }
            logits = [
                net(features[model.config.features].contiguous(memory_format=model.layout))
                for model, net in zip(models, nets, strict=True)
            ]
            by_view.append(torch.stack(logits).float().softmax(2))
        return torch.stack(by_view, dim=1)

    ahead = device.type == "cuda"  # elsewhere a copy that is not waited for may be read too early
    before: tuple[Tensor, torch.Event] | None = None
    for wave in waves:
        with torch.inference_mode():
            result = scores(as_float(wave.to(device, non_blocking=ahead))).to("cpu", non_blocking=ahead)
        if not ahead:
            yield result.numpy()
            continue
        copied = torch.cuda.current_stream(device).record_event()
        if before:
            before[1].synchronize()
            yield before[0].numpy()
        before = result, copied
    if before:
        before[1].synchronize()
        yield before[0].numpy()
