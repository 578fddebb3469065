"""The rules of a plan: what to train with where no option says so. docs/recipe.md has what each was measured on."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from arg import SIZE, AugmentOptions, FeatureOptions, OptimConfig, TrainConfig
from system.errors import UserError
from training.facts import Facts, Machine

NETWORK = "melresnet"
REFERENCE = ("dla60_res2next", 224)
WITH_WEIGHTS = "resnet18"  # the network of --pretrained: there are none for ours
OWN = ("melresnet", "bcresnet")  # the project's own networks, made for features of this height and hop

# Features of the project's own networks. Of a window of a second at 16 kHz: 40 bands, a frame of 32 ms every 10 ms.
NARROW_BANDS, WIDE_BANDS, LONG_SECONDS = 40, 64, 2.5  # mel bands of windows up to LONG_SECONDS, and of longer ones
HOP_SECONDS, HOP_SAMPLES = 0.010, 32  # from frame to frame: the longer of the two ...
FRAMES = (32, 160)  # ... with no fewer frames and no more, ...
LONGEST_HOP_SECONDS, MOST_FRAMES = 0.050, 640  # ... unless they came more seldom than this, up to so many
FRAME_SECONDS = 0.032  # of sound in a frame at least, and two hops
# Of timm's networks, made for photographs, which divide each axis by 32
SQUARE, GPU_SQUARE = (SIZE, 0.016), (128, 0.008)  # mel bands, and frames for a second, and the seconds between them
FEWEST_BANDS = 8
FILLED = 0.75  # of the spectrum: what is filled no further is left out above that

# Learning
MIXUP, EQUALIZER = 0.2, 0.3  # of long trainings
FEW_EPOCHS, SMOOTHING = 8, 0.1  # below so many the base augmentation, and labels smoothed by this
CELLS = 40 * 101  # of the feature that epochs are counted for
PRESENTATIONS = {
    "default": 170_000,
    "gpu": 340_000,
    "fast": 30_000,
}  # clips that a fold is shown, of a feature of CELLS
EPOCHS = {"default": (13, 200), "gpu": (20, 200), "fast": (3, 60)}  # no fewer and no more
MOST_PRESENTATIONS, LEAST_EPOCHS = 2_000_000, 4  # of many clips: fewer epochs than the least above, down to these
BATCH = OptimConfig.batch_size  # clips, on a processor
GPU_BATCH = 256
LEAST_BATCH = 16
STEPS = {"cpu": 4, "gpu": 64}  # of an epoch that a batch leaves at least
KEPT_BYTES = {"melresnet": 640, "bcresnet": 6_600}  # that a training step keeps of a clip for each cell of its feature
MEMORY_SHARE = 0.25  # of the device, that these may fill


@dataclass(frozen=True)
class Choice:
    """What a rule decided, in words, and why."""

    what: str
    why: str


def is_open(config: TrainConfig) -> bool:
    """Whether anything is to be planned.

    Where network and size of the feature are both given there is not: what else is left open has the defaults that
    -h names, as before there were plans.
    """
    asked = config.features
    sized = asked.size or (asked.n_mels and (asked.frames or asked.hop_samples))
    return config.model is None or not sized or config.preset in ("fast", "reference")


def fill(config: TrainConfig, facts: Facts, machine: Machine) -> tuple[TrainConfig, list[Choice]]:
    """`config` with what it leaves open decided, and the choices. What is given stays.

    UserError where that cannot be: --weights of an unknown network.
    """
    choices: list[Choice] = []
    if is_open(config):
        if config.preset == "reference":
            config = _reference(config, choices)
        else:
            config = _network(config, choices)
            config = _features(config, facts, machine, choices)
            config = _learning(config, facts, machine, choices)
        if config.preset == "fast":
            config = _beside(config, choices)
    return dataclasses.replace(config, preset=None, budget=None, plan=False), choices


def is_own(model: str | None) -> bool:
    return model is not None and model.startswith(OWN)


def _reference(config: TrainConfig, choices: list[Choice]) -> TrainConfig:
    features, model = config.features, config.model or REFERENCE[0]
    if not features.size:
        hop = features.hop_samples
        frames = None if hop else features.frames or REFERENCE[1]
        bands = features.n_mels or REFERENCE[1]
        size: dict[str, Any] = {"size": bands} if bands == frames else {"n_mels": bands, "frames": frames}
        features = dataclasses.replace(features, **({"n_mels": None, "frames": None} | size))
    what = ", ".join(([] if config.model else [model]) + ([] if features == config.features else ["224 x 224"]))
    if what:
        choices.append(Choice(what, "the reference system's, with its learning"))
    return dataclasses.replace(config, model=model, features=features)


def _network(config: TrainConfig, choices: list[Choice]) -> TrainConfig:
    if config.model is not None:
        return config
    if config.pretrained:
        choices.append(Choice(WITH_WEIGHTS, "the smallest of the measured networks that timm has weights for"))
        return dataclasses.replace(config, model=WITH_WEIGHTS)
    if config.weights is not None:
        return _like_checkpoint(config, choices)
    choices.append(Choice(NETWORK, "the most accurate for its time on every data set that was tried"))
    return dataclasses.replace(config, model=NETWORK)


def _like_checkpoint(config: TrainConfig, choices: list[Choice]) -> TrainConfig:
    """`config` with the network, and the mel bands, of the checkpoint that --weights names."""
    from model import read_config

    try:
        run = read_config(config.weights)["config"]  # type: ignore[arg-type]
    except UserError:
        raise UserError(f"--weights {config.weights}: no checkpoint of train.py; name its network with -m") from None
    features = config.features
    if not features.size and not features.n_mels:
        features = dataclasses.replace(features, n_mels=run.features.n_mels)
    choices.append(Choice(f"{run.model}, {features.n_mels or features.size} mel bands", "as in the file of --weights"))
    return dataclasses.replace(config, model=run.model, features=features)


def _features(config: TrainConfig, facts: Facts, machine: Machine, choices: list[Choice]) -> TrainConfig:
    asked, rate, samples = config.features, facts.sample_rate, facts.window_samples
    planned = _own_features if is_own(config.model) else _square_features
    fmax = _highest(asked, facts, choices)
    features = dataclasses.replace(planned(asked, facts, machine), fmax=fmax)
    features = _without_empty_bands(features, asked, facts)
    made = features.resolve(rate, samples)
    before = vars(asked)
    given = {name: value for name, value in vars(features).items() if value != before[name] and name != "fmax"}
    if given:
        shown = {"size": "{0} x {0}", "n_mels": "{} mel bands", "frames": "{} frames", "n_fft": "n_fft {}"}
        sized = [shown[name].format(value) for name, value in given.items() if value]
        frame, hop = (_time(count / rate) for count in (made.n_fft, made.hop_samples))
        window = f"windows of {_time(facts.window_seconds)} at {rate:,} Hz"
        choices.append(Choice(", ".join(sized), f"{window}, a frame of {frame} every {hop}"))
    return dataclasses.replace(config, features=features)


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _highest(asked: FeatureOptions, facts: Facts, choices: list[Choice]) -> float | None:
    """The highest frequency of the mel bands, where they are not to go up to half the sample rate."""
    half = facts.sample_rate / 2
    if asked.fmax is not None or facts.filled_hertz > FILLED * half:
        return asked.fmax
    unit = 10.0 ** (math.floor(math.log10(facts.filled_hertz)) - 1)
    fmax = math.ceil(facts.filled_hertz / unit) * unit  # to two digits, upwards
    if fmax <= 2 * asked.fmin or fmax >= half:
        return None
    choices.append(
        Choice(f"up to {fmax:,g} Hz", f"nothing of the clips lies above, though they are stored up to {half:,g} Hz")
    )
    return fmax


def _own_features(asked: FeatureOptions, facts: Facts, machine: Machine) -> FeatureOptions:
    rate, samples = facts.sample_rate, facts.window_samples
    features = asked
    if not asked.size and not asked.n_mels:
        bands = WIDE_BANDS if facts.window_seconds > LONG_SECONDS else NARROW_BANDS
        features = dataclasses.replace(features, n_mels=bands)
    if not asked.size and not asked.frames and not asked.hop_samples:
        least, most = FRAMES
        most = max(most, min(MOST_FRAMES, round(facts.window_seconds / LONGEST_HOP_SECONDS)))
        count = samples / max(HOP_SECONDS * rate, HOP_SAMPLES)
        hop = max(1, math.ceil(samples / max(least, min(most, round(count)))))
        features = dataclasses.replace(features, frames=1 + max(FEWEST_BANDS, math.ceil(samples / hop)))
    if not asked.n_fft:
        hop = features.resolve(rate, samples).hop_samples
        longest = max(FRAME_SECONDS * rate, 2 * hop)
        short = max(longest if samples >= 8 * longest else samples / 8, 2 * hop, 16)  # some frames fit into a window
        features = dataclasses.replace(features, n_fft=2 ** round(math.log2(short)))
    return features


def _square_features(asked: FeatureOptions, facts: Facts, machine: Machine) -> FeatureOptions:
    """As many frames as mel bands for a second, and more for longer windows, a multiple of 32."""
    if asked.size or (asked.n_mels and (asked.frames or asked.hop_samples)):
        return asked
    large = machine.kind == "cuda" and machine.memory_bytes > 6e9
    bands, hop_seconds = GPU_SQUARE if large else SQUARE
    most = max(FRAMES[1], 2 * bands)
    frames = 32 * max(bands // 32, min(most // 32, round(facts.window_seconds / hop_seconds / 32)))
    bands, frames = asked.n_mels or bands, asked.frames or frames
    if asked.hop_samples:
        return dataclasses.replace(asked, n_mels=bands)
    if bands == frames:
        return dataclasses.replace(asked, n_mels=None, frames=None, size=bands)
    return dataclasses.replace(asked, n_mels=bands, frames=frames)


def _without_empty_bands(features: FeatureOptions, asked: FeatureOptions, facts: Facts) -> FeatureOptions:
    """`features` with a larger n_fft or fewer mel bands, of those that were not given, until no mel band is empty.

    What can only be had with other options than those given is left as it is: `LogMel` refuses it, and says why.
    """
    from dataset import empty_bands, mel_filters

    rate, samples = facts.sample_rate, facts.window_samples
    bands_given = asked.size or asked.n_mels
    while empty_bands(mel_filters(made := features.resolve(rate, samples))):
        fewer = 0 if bands_given else max(FEWEST_BANDS, made.n_mels * 3 // 4)
        if not asked.n_fft and (2 * made.n_fft <= samples or fewer in (0, made.n_mels)):
            features = dataclasses.replace(features, n_fft=2 * made.n_fft)
        elif fewer and fewer < made.n_mels:
            size: dict[str, Any] = {"n_mels": fewer, "size": None}
            if features.size:
                size["frames"] = features.size
            features = dataclasses.replace(features, **size)
        else:
            break
        if made.n_fft > 64 * rate:  # bands that are given, and too narrow for anything
            break
    return features


def _learning(config: TrainConfig, facts: Facts, machine: Machine, choices: list[Choice]) -> TrainConfig:
    optim, own, fast = config.optim, is_own(config.model), config.preset == "fast"
    if optim.batch_size is None and own:
        optim = dataclasses.replace(optim, batch_size=_batch(config, facts, machine, choices))
    if not (own or fast):
        return dataclasses.replace(config, optim=optim)
    if optim.epochs is None:
        optim = dataclasses.replace(optim, epochs=_epochs(config, facts, machine, choices))
    few = int(optim.epochs or 0) < FEW_EPOCHS
    if few and not optim.label_smoothing and optim.loss == "cross-entropy":
        optim = dataclasses.replace(optim, label_smoothing=SMOOTHING)
        choices.append(Choice(f"label smoothing {SMOOTHING:g}", "few epochs"))
    augment = _augment(config, facts, own and not few, choices)
    return dataclasses.replace(config, optim=optim, augment=augment)


def _augment(config: TrainConfig, facts: Facts, strong: bool, choices: list[Choice]) -> AugmentOptions:
    asked, given = config.augment, dict[str, Any]()
    if asked.preset is None:
        given["preset"] = "more" if strong else "base"
    for name, value in (("mixup_alpha", MIXUP), ("equalizer", EQUALIZER)):
        if getattr(asked, name) is None and asked.preset != "none":
            given[name] = value if strong else 0.0
    what = [f"augmentation {given['preset']}"] if "preset" in given else []
    what += [f"mixup {MIXUP:g}"] if given.get("mixup_alpha") else []
    what += [f"equalizer {EQUALIZER:g}"] if given.get("equalizer") else []
    if what:
        noise = "" if facts.noise or not strong else "; there are no background recordings to mix in"
        why = "no clip comes twice alike, in many epochs" if strong else "few epochs"
        choices.append(Choice(", ".join(what), why + noise))
    return dataclasses.replace(asked, **given)


def _cells(config: TrainConfig, facts: Facts) -> int:
    features = config.features.resolve(facts.sample_rate, facts.window_samples)
    return features.n_mels * features.frames


def _batch(config: TrainConfig, facts: Facts, machine: Machine, choices: list[Choice]) -> int:
    gpu = machine.kind != "cpu"
    kept = next(size for name, size in KEPT_BYTES.items() if str(config.model).startswith(name))
    fits = max(2.0, MEMORY_SHARE * machine.memory_bytes / (kept * _cells(config, facts)))
    steps = STEPS["gpu" if gpu else "cpu"]
    # no more than leave some steps, but of few clips as many as on a processor
    usual = 2 ** round(math.log2(max(LEAST_BATCH, min(BATCH, facts.clips / STEPS["cpu"]))))
    wanted = max(usual, min(GPU_BATCH, 2 ** int(math.log2(max(2, facts.clips / steps))))) if gpu else usual
    batch = min(wanted, 2 ** int(math.log2(fits)))
    if batch < wanted:
        why = f"as many as fit into a quarter of {machine.memory_bytes / 1e9:.2g} GB of memory"
    elif batch < BATCH:
        why = f"{facts.clips:,} clips are then {math.ceil(facts.clips / batch)} steps of an epoch"
    elif batch > BATCH:
        why = f"a GPU is idle with fewer, and an epoch still has {facts.clips // batch} steps; not measured"
    else:
        return batch
    choices.append(Choice(f"{batch} clips a batch", why))
    return batch


def _epochs(config: TrainConfig, facts: Facts, machine: Machine, choices: list[Choice]) -> int:
    kind = "fast" if config.preset == "fast" else "default" if machine.kind == "cpu" else "gpu"
    larger = max(1.0, _cells(config, facts) / CELLS)
    shown = PRESENTATIONS[kind] / (larger if kind == "fast" else larger**0.5)
    least, most = EPOCHS[kind]
    clips = max(facts.clips, 1)
    least = max(min(least, LEAST_EPOCHS), min(least, round(MOST_PRESENTATIONS / clips)))
    drawn = facts.rarest ** (config.optim.balance + config.optim.class_weights)
    epochs = max(least, min(round(most / drawn), round(shown / clips)))
    why = f"{clips:,} clips a fold to learn from are shown {epochs * clips:,} times"
    if round(shown / clips) > epochs:
        why += "; of more a network learns few clips by heart"
    if kind == "gpu":
        why += "; twice a processor's, not measured"
    choices.append(Choice(f"{epochs} epoch{'s' if epochs > 1 else ''}", why))
    return epochs


def _beside(config: TrainConfig, choices: list[Choice]) -> TrainConfig:
    """A first answer: one fold, in a run of its own, so that the default plan can follow beside it."""
    if config.folds is None:
        config = dataclasses.replace(config, folds=(0,))
        choices.append(Choice("fold 0 alone", "a first answer; the clips that it holds out tell how good it is"))
    if not config.tag:
        config = dataclasses.replace(config, tag="fast")
    return config
