"""What fits a run to the machine: memory layout, the batch that fits, its learning rate, the time a fold takes."""

from __future__ import annotations

import copy
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from arg import FeatureConfig, RunConfig
from dataset import WaveData
from model import Classifier, layout_of, make_optimizer
from networks.muon import operations
from system.devices import free_memory, native_bfloat16, pick_precision
from system.errors import UserError, first_line
from transform import VIEWS
from util import generator

STEP_SECONDS = 0.0005  # of a training step beside what is tried, ...
EPOCH_SECONDS = 0.01  # of an epoch, ...
LAST_SECONDS = 0.3  # and of a fold: its files and the curve
LARGEST_BATCH = 1024  # clips; the rules for the rate are not to be stretched further
LEAST_STEPS = 16  # of an epoch that --batch-size auto leaves
PAYS = 1.12  # times as fast as float32 bfloat16 is to be on a processor: between the networks of docs/performance.md
PAIRS, TRIAL_SECONDS = 4, 0.1  # of steps in either precision to compare, each to last about so long


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The arithmetic that --precision stands for on `device`, as a context."""
    kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(pick_precision(precision, device))
    return torch.autocast(device.type, dtype=kind or torch.bfloat16, enabled=kind is not None)


def made_batch(model: Classifier, clips: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Noise in place of clips: (clips, clip_samples) int16 waves and (clips, classes) targets."""
    features, classes = model.config.features, len(model.config.classes)
    draw = generator(device, 0)
    wave = torch.randint(-9000, 9000, (clips, features.clip_samples), device=device, generator=draw, dtype=torch.int16)
    return wave, torch.eye(classes, device=device)[torch.arange(clips, device=device) % classes]


def step(model: Classifier, wave: Tensor, target: Tensor, learn: bool = True) -> None:
    """What a training step computes but for the optimiser; forward only, as for judging, where `learn` is False."""
    with torch.inference_mode(not learn):
        with autocast(model.config.optim.precision, wave.device):
            feature, rows = model.augmented(wave, target, generator(wave.device, 0))
            loss = model.loss(model.logits(feature), rows)
        if learn:
            loss.backward()
    loss.item()  # waits for the device


def seconds(call: Callable[[], None], repeats: int = 2) -> float:
    """The shortest of a few calls."""
    took = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return min(took)


def apart(model: Classifier) -> Classifier:
    """A copy to try things on."""
    return copy.deepcopy(model).train()


def muon_share(net: nn.Module, run: RunConfig) -> float:
    """What Muon's step takes, in floating-point operations, for each that the run's network takes for a batch.

    It depends on the configuration alone, so that every machine and every fold comes to the same. Under --batch-size
    auto the batch is the one that the default rate is meant for.
    """
    learning = learning_operations(net, run.features) * run.optim.batch_size * run.optim.accumulate
    return sum(map(operations, net.parameters())) / max(learning, 1)


def learning_operations(net: nn.Module, features: FeatureConfig) -> int:
    """Floating-point operations a clip of a network's training step: backward takes twice what forward does."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        net.eval()(torch.zeros(1, 1, features.n_mels, features.frames, device=next(net.parameters()).device))
    return 3 * int(counter.get_total_flops())


@contextmanager
def tried(model: Classifier) -> Iterator[None]:
    """`model` itself, which may be compiled, to try things on: it is left as it was, and so are torch's generators."""
    device = model.device
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # dropout draws from the global generators
        try:
            yield
        finally:
            model.load_state_dict(state)
            model.zero_grad()
            model.train()


def expected_seconds(model: Classifier, data: WaveData) -> float:
    """How long a fold will take from here on, to the scores of its held-out clips, on the device that `model` is on."""
    epoch, scores = expected_parts(model, data)
    return model.config.optim.epochs * epoch + scores


def look_seconds(model: Classifier, data: WaveData) -> float:
    """About how long a look at the held-out clips takes, from one at a few; less than `expected_seconds` needs."""
    clips = min(8, model.config.optim.batch_size)
    wave, target = made_batch(model, clips, model.device)
    with tried(model):
        model.eval()
        return seconds(lambda: step(model, wave, target, learn=False)) / clips * len(data.valid)


def expected_parts(model: Classifier, data: WaveData) -> tuple[float, float]:
    """Seconds of an epoch, with its look at the held-out clips, and of a fold's scores.

    From a few steps and looks at clips. A compiled network is compiled here for the batches that will come.
    """
    device, optim = model.device, model.config.optim
    batches = data.train_batches(0)
    wave, target = made_batch(model, max(map(len, batches.parts())), device)
    optimizer = make_optimizer(model.net, optim, model.config.parts.get(optim.optimizer))

    def seconds_a_clip(clips: int, learn: bool, repeats: int = 2) -> float:
        return seconds(lambda: step(model, wave[:clips], target[:clips], learn), repeats) / clips

    def update() -> None:
        optimizer.step(lambda: 0.0)
        next(model.net.parameters()).sum().item()  # waits for the device

    with tried(model):
        clips = min(8, len(wave))  # of a slow network a part of the batch tells enough, sooner
        if model.net._compiled_call_impl is not None:
            clips = len(wave)  # another size would be compiled as well
            compile_sizes(model, data)
        seconds_a_clip(clips, learn=True, repeats=1)  # warms up
        while clips < len(wave) and seconds_a_clip(clips, learn=True, repeats=1) * 4 * clips < 1:
            clips = min(4 * clips, len(wave))
        learning, updating = seconds_a_clip(clips, learn=True), seconds(update)
        model.eval()
        looking = seconds_a_clip(clips, learn=False)
    training = len(data.train) * learning + len(batches) * (updating / optim.accumulate + STEP_SECONDS)
    look = len(data.valid) * looking
    return training + look + EPOCH_SECONDS, VIEWS * look + LAST_SECONDS


def processor_precision(run: RunConfig) -> str:
    """ "bf16" where a training step of the run is clearly faster in it on this processor, else "32": --precision.

    From a few pairs of steps of the network on noise, one in either precision right after the other. The shortest of
    each count, in time of the processor, to which other processes add little. A chip without bfloat16 is not tried.
    """
    if not native_bfloat16():
        return "32"
    optims = {precision: dataclasses.replace(run.optim, precision=precision) for precision in ("32", "bf16")}
    with torch.random.fork_rng([]):  # initial weights and dropout
        model = Classifier(run)
        wave, target = made_batch(model, run.optim.batch_size, torch.device("cpu"))

        def step_seconds(precision: str, clips: int) -> float:
            model.config = dataclasses.replace(run, optim=optims[precision])
            start = time.thread_time()
            step(model, wave[:clips], target[:clips])
            return time.thread_time() - start

        clips = min(2, len(wave))
        warm = min(step_seconds("32", clips) for _ in range(2))
        clips = max(clips, min(len(wave), int(clips * TRIAL_SECONDS / max(warm, 1e-3))))
        step_seconds("bf16", clips)  # warms up
        pairs = max(2, min(PAIRS, int(PAIRS * TRIAL_SECONDS / max(warm, 1e-3))))
        took: dict[str, list[float]] = {precision: [] for precision in optims}
        for _ in range(pairs):
            for precision, found in took.items():
                found.append(step_seconds(precision, clips))
    return "bf16" if min(took["32"]) >= PAYS * min(took["bf16"]) else "32"


def pick_layout(model: Classifier) -> torch.memory_format:
    """The faster memory layout of the network.

    `layout_of` on a processor, where the choice must not depend on the clock: results are to be the same. Channels-last
    was the faster one for all five networks of timm that were measured there (docs/performance.md). On a GPU the faster
    of the two over a few steps of a copy, or `layout_of` under --deterministic.
    """
    device, optim = model.device, model.config.optim
    if device.type == "mps":  # some of whose operations have been wrong in channels-last
        return torch.contiguous_format
    if device.type == "cpu" or optim.deterministic:
        return layout_of(model.net)
    batch = made_batch(model, optim.batch_size, device)
    took = {}
    with torch.random.fork_rng([device]):
        for layout in (torch.channels_last, torch.contiguous_format):
            probe = apart(model)
            probe.use_layout(layout)
            seconds(partial(step, probe, *batch), 3)  # warms up, picks algorithms
            took[layout] = seconds(partial(step, probe, *batch), 5)
    return min(took, key=lambda layout: took[layout])


def deterministic_cost(model: Classifier) -> float:
    """How much longer a training step on a GPU takes for being deterministic, as a factor, from a copy."""
    batch = made_batch(model, model.config.optim.batch_size, model.device)
    took = []
    benchmark = torch.backends.cudnn.benchmark
    with torch.random.fork_rng([model.device]):
        for deterministic in (True, False):
            torch.use_deterministic_algorithms(deterministic)
            torch.backends.cudnn.benchmark = not deterministic
            probe = apart(model)
            seconds(partial(step, probe, *batch), 3)  # warms up
            took.append(seconds(partial(step, probe, *batch), 5))
    torch.use_deterministic_algorithms(False)  # Lightning's trainer switches it on
    torch.backends.cudnn.benchmark = benchmark
    return took[0] / took[1]


def compile_network(model: Classifier) -> None:
    """Make `model.net` run through torch.compile from now on; where that does not work, say why and leave it."""
    try:
        model.net.compile(dynamic=False)  # two sizes of batch at most
        step(model, *made_batch(model, 2, model.device))
    except Exception as error:  # whatever a compiler that is missing or too old leads to
        model.net._compiled_call_impl = None
        print(f"warning: --compile: trains without it, no working compiler ({first_line(error)})", file=sys.stderr)
    model.zero_grad()


def compile_sizes(model: Classifier, data: WaveData) -> None:
    """Have a compiled network compile what it will be asked for: batches of every size, to learn from and to judge."""
    for learn, batches in ((True, data.train_batches(0)), (False, data.val_dataloader())):
        model.train(learn)
        for size in sorted({len(part) for part in batches.parts()}):
            step(model, *made_batch(model, size, model.device), learn)
    model.train()


def largest_batch(model: Classifier, clips: int, device: torch.device) -> int:
    """The largest power of two of clips a step that fits, up to LARGEST_BATCH and `clips` / LEAST_STEPS.

    On a GPU it is tried; on a processor it is estimated from what a step keeps for its backward pass, of which half of
    the free memory may be filled. UserError where not even two clips fit.
    """
    most = 2 ** int(math.log2(max(2, min(LARGEST_BATCH, clips // LEAST_STEPS))))
    if device.type != "cuda":
        fits = int(free_memory() / 2 / bytes_a_clip(model))
        most = min(most, 2 ** int(math.log2(fits)) if fits >= 2 else 0)
    else:
        probe = apart(model).to(device)
        while most >= 2 and not fits_gpu(probe, most, device):
            most //= 2
    if most < 2:
        raise UserError(f"--batch-size auto: not even 2 clips fit into the memory of {device}; use a smaller -t or -m")
    return most


def bytes_a_clip(model: Classifier, clips: int = 4) -> float:
    """Memory that a training step keeps for its backward pass, for each clip, with half as much again for the rest."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    probe = apart(model)
    own = sum(parameter.nbytes for parameter in probe.parameters())
    with torch.random.fork_rng([]), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step(probe, *made_batch(model, clips, torch.device("cpu")))
    return 1.5 * max(1, sum(kept.values()) - own) / clips


def fits_gpu(probe: Classifier, clips: int, device: torch.device) -> bool:
    try:
        step(probe, *made_batch(probe, clips, device))
        free, total = torch.cuda.mem_get_info(device)
        return free > total / 20  # for the optimiser and what else comes
    except torch.OutOfMemoryError:
        return False
    finally:
        probe.zero_grad()
        torch.cuda.empty_cache()


def scaled_rate(lr: float, optimizer: str, batch_size: int, base: int) -> float:
    """The learning rate for `batch_size` where `lr` is meant for `base` clips a step.

    In proportion for SGD (Goyal et al. 2017, "Accurate, large minibatch SGD"), with the square root for AdamW (Malladi
    et al. 2022, "On the SDEs and scaling rules for adaptive gradient algorithms") and for Muon, whose steps are as long
    as AdamW's whatever the gradient.
    """
    return lr * (batch_size / base) ** (1.0 if optimizer == "sgd" else 0.5)
