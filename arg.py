"""The configuration: frozen dataclasses, whose fields are the options of the command line (see `system.options`).

Nothing heavy is imported here, so that ``-h`` answers at once; files are looked at by the scripts, not here.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from system.errors import UserError
from system.extensions import REGISTERED, with_options
from system.options import Command, Options, option, parse, part, registered, require, resolved

FULL = "full"  # the fold that holds nothing out
TIMM_WEIGHTS = "timm:"  # RunConfig.weights where they are timm's own
Fold = int | str  # an index, or FULL
# what a column of a manifest may be
MANIFEST_ROLES = ("path", "label", "group", "fold", "split", "start", "end", "duration")
ARCHIVES = ("speech_commands_v0.01", "speech_commands_v0.02")  # what --download fetches
LOWEST_RATE, HIGHEST_RATE = 100, 1_000_000  # Hz: infrasound and ultrasound are recorded at 250 Hz and 500 kHz
CHALLENGES = {"speech-commands": ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")}  # words kept
NO_LIST = Path("none")  # of --relabel
PRESENTATIONS = 56_000  # clips that a fold is shown at least, where --epochs is not given, ...
EPOCHS = (13, 200)  # ... in no fewer and no more epochs than these
OPTIMIZERS = {"adamw": (2e-3, 0.05), "sgd": (0.05, 5e-4), "muon": (0.02, 0.01)}  # peak rate and weight decay of each
SIZE = 64  # mel bands and frames of the feature where neither options nor a plan say another
PRESETS = ("fast", "default", "best", "reference")


# --------------------------------------------------------------------------------------------- preprocess.py


def _role_and_name(text: str) -> tuple[str, str]:
    role, equals, name = text.partition("=")
    require(bool(equals and name), f"--columns {text}: use ROLE=NAME, as path=file")
    return role, name


def _old_and_new(text: str) -> tuple[str, ...]:
    """An old label and a new one, or (the name of a file of such pairs,)."""
    old, equals, new = text.rpartition("=")
    require(bool(old.strip()) == bool(equals), f"--map {text}: use OLD=NEW, or a file")
    return (old, new.strip()) if equals else (text,)


def map_word(entry: Sequence[str]) -> str:
    """An entry of --map as it is typed: with a space in front of -1=low, which would be taken for an option."""
    return " " * entry[0].startswith("-") + "=".join(entry)


@dataclass(frozen=True)
class PreprocessConfig(Command):
    """What `preprocess.py` is asked to do."""

    script = "preprocess.py"
    purpose = "Decode every clip of a data set once, check them, and split them into folds."
    example = "-i DATASET"

    # fmt: off
    # None: that of the store in `work`, with the options of that
    input_path: Path | None = option(
        None, "-i", "--input-path", metavar="DIR", help="root of the data set; default: the manifest's folder")
    work: Path = option(Path("work"), "-w", "--work", metavar="DIR", help="where results go")
    folds: int = option(
        5, "-k", "--folds", metavar="N", help="number of folds",
        check=(lambda n: n >= 2, "at least 2 are needed to hold anything out"))
    seed: int = option(0, "--seed", metavar="N", help="of the split into folds (default: 0)")
    group: str = option(
        "auto", "--group", choices=("auto", "names", "none"),
        help="auto: keep a speaker's clips in one fold (named <speaker>_nohash_<n>, or a manifest's column); names: by "
        "words in the names, wherever they stand")
    group_pattern: str | None = option(
        None, "--group-pattern", metavar="REGEX",
        help="finds what stays in one fold in the names: '(?P<group>[^/_]+)_'")
    label_pattern: str | None = option(
        None, "--label-pattern", metavar="REGEX",
        help="finds the labels in the names: '(?P<label>[a-z]+)_[0-9]+'; default: the folder is the label")
    manifest: Path | None = option(
        None, "--manifest", metavar="CSV", help="names the clips and their labels; paths are relative to -i")
    columns: tuple[tuple[str, str], ...] = option(
        (), "--columns", nargs="+", metavar="ROLE=NAME", parse=_role_and_name, show="=".join,
        help=f"columns of the manifest, where they are not called as usual: {', '.join(MANIFEST_ROLES)}")
    map: tuple[tuple[str, ...], ...] = option(
        (), "--map", nargs="+", metavar="FILE|OLD=NEW", parse=_old_and_new, show=map_word,
        help="new labels for old ones: a table of two columns, or pairs; no new label drops the clips, and * is every "
        "label that is not named ('*=unknown')")
    silence: int | None = option(
        None, "--silence", metavar="N", check=(lambda n: n >= 0, "use 0 or more"),
        help="a class silence of N pieces of the noise recordings, each as long as the window")
    challenge: str | None = option(
        None, "--challenge", choices=tuple(CHALLENGES),
        help="Kaggle's speech challenge: its ten words, unknown and --silence; --map and --silence change that")
    download: str | None = option(
        None, "--download", choices=ARCHIVES, help="fetch this data set first, into -i (default: its name)")
    noise: Path | None = option(
        None, "--noise", metavar="DIR",
        help="recordings for train.py --augment more to mix in, of any length, beside those of the data set's "
        "_background_noise_; without -i the data set and options of the last run")
    relabel: Path | None = option(
        None, "--relabel", metavar="CSV",
        help="a list of suspects with an action for each clip (relabel, drop, keep), to be kept on record; none: take "
        "all decisions back; without -i the data set and options of the last run")
    sample_submission: Path | None = option(
        None, "--sample-submission", metavar="CSV",
        help="names the clips to label; default: sample_submission.csv and the like beside the data")
    strict: bool = option(False, "--strict", help="stop with an error where a clip would be left out or flagged")
    picture: bool = option(False, "--picture", help="draw durations, levels and classes: audit.png")
    sample_rate: int | None = option(
        None, "--sample-rate", metavar="HZ", help="default: the clips' most common one",
        check=(lambda hertz: LOWEST_RATE <= hertz <= HIGHEST_RATE, f"use {LOWEST_RATE} to {HIGHEST_RATE} Hz"))
    clip_seconds: float | None = option(
        None, "--clip-seconds", metavar="S",
        help="window length; default: 95th percentile of the durations, rounded up to 0.1 s",
        check=(lambda seconds: 0 < seconds <= 3600, "use more than 0, up to 3600"))
    # fmt: on

    def __post_init__(self) -> None:
        super().__post_init__()
        for role in ("label", "group"):
            pattern = getattr(self, f"{role}_pattern")
            try:
                named = pattern is None or role in re.compile(pattern).groupindex
            except re.error as error:
                raise UserError(f"--{role}-pattern {pattern}: {error}") from None
            require(named, f"--{role}-pattern {pattern}: mark the {role} in it as (?P<{role}>...)")
        require(not self.group_pattern or self.group == "auto", f"--group-pattern and --group {self.group}: give one")
        require(not (self.columns and not self.manifest), "--columns: give the --manifest that has them")
        require(not (self.manifest and self.download), "--manifest and --download: give one")
        unknown = [role for role, _ in self.columns if role not in MANIFEST_ROLES]
        require(not unknown, f"--columns {''.join(unknown[:1])}=...: use {', '.join(MANIFEST_ROLES)}")

    def as_given(self, given: Sequence[str]) -> PreprocessConfig:
        if self.input_path is not None:
            return self
        if self.manifest or self.download:
            root = self.manifest.parent if self.manifest else Path(self.download or "")
            return dataclasses.replace(self, input_path=root)
        last = self.relabel is not None or self.noise is not None
        require(last, "give the data set: -i DIR, --manifest CSV or --download NAME")
        free = ("work", "noise", "relabel", "sample_submission", "strict", "picture")
        other = [name.replace("_", "-") for name in given if name not in free]
        alone = f"--{'relabel' if self.relabel else 'noise'} alone keeps the options of the last run"
        require(not other, f"--{''.join(other[:1])}: give -i too; {alone}")
        return self


# --------------------------------------------------------------------------------------------------- features


@dataclass(frozen=True)
class FeatureConfig:
    """A log-mel spectrogram of fixed size, complete: nothing about the features is decided anywhere else."""

    sample_rate: int  # Hz
    clip_samples: int  # length of the window that every clip is padded or cropped to
    n_mels: int
    frames: int
    hop_samples: int
    n_fft: int
    fmin: float = 0.0  # Hz
    fmax: float | None = None  # Hz; None: half the sample rate
    top_db: float = 80.0  # range kept below each clip's maximum

    @property
    def padded_samples(self) -> int:
        """Length after symmetric padding, of which centred frames every hop are exactly `frames`."""
        return max(self.clip_samples, self.hop_samples * (self.frames - 1))


ENOUGH = (lambda number: number >= 8, "use at least 8")  # mel bands, or frames


@dataclass(frozen=True)
class SizeOptions(Options):
    """How large the feature is to be."""

    # fmt: off
    size: int | None = option(
        None, "-t", "--size", metavar="N", kw_only=True, check=ENOUGH,
        help="mel bands and frames of the feature; default: planned")
    n_mels: int | None = option(
        None, "--n-mels", metavar="N", check=ENOUGH, help="mel bands, where they differ from --size")
    frames: int | None = option(
        None, "--frames", metavar="N", check=ENOUGH, help="frames, where they differ from --size")
    # fmt: on

    @classmethod
    def of(cls, features: FeatureConfig) -> SizeOptions:
        """The options that name features of that size."""
        square = features.n_mels == features.frames
        return SizeOptions(size=features.n_mels) if square else SizeOptions(features.n_mels, features.frames)

    @property
    def bands_and_frames(self) -> tuple[int, int]:
        return self.n_mels or self.size or SIZE, self.frames or self.size or SIZE


@dataclass(frozen=True)
class FeatureOptions(SizeOptions):
    """What the command line says about the features; a window makes a `FeatureConfig` of it."""

    # fmt: off
    hop_samples: int | None = option(  # then there are as many frames as it gives
        None, "--hop", metavar="N", help="samples from frame to frame, instead of --frames",
        check=(lambda samples: samples >= 1, "use at least 1 sample"))
    n_fft: int | None = option(
        None, "--n-fft", metavar="N", help="samples of a frame; default: 2048 at 16 kHz, in proportion at other rates",
        check=(lambda n: n >= 16 and n % 2 == 0, "use an even number from 16"),  # an odd one gives a frame less
    )
    fmin: float = option(0.0, "--fmin", metavar="HZ", help="lowest frequency of the mel bands")
    fmax: float | None = option(None, "--fmax", metavar="HZ", help="highest; default: half the sample rate")
    # fmt: on

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not (self.hop_samples and self.frames), "--hop and --frames: give one of the two")

    def resolve(self, sample_rate: int, clip_samples: int) -> FeatureConfig:
        """The features of windows of `clip_samples` samples at `sample_rate` Hz. UserError where there are none."""
        n_mels, frames = self.bands_and_frames
        if self.hop_samples:
            hop = self.hop_samples
            frames = 1 + clip_samples // hop
            require(frames >= 8, f"--hop {hop}: gives {frames} frames of {clip_samples} samples; use a smaller hop")
        else:
            hop = math.ceil(clip_samples / (frames - 1))
        nyquist = sample_rate / 2
        fmax = nyquist if self.fmax is None else self.fmax
        need = f"need 0 <= fmin < fmax <= {nyquist:g} Hz"
        require(0 <= self.fmin < fmax <= nyquist, f"--fmin {self.fmin:g} --fmax {fmax:g}: {need}")
        power = round(math.log2(0.128 * sample_rate))
        if sample_rate < 1000:  # infrasound, where mel bands are equally wide: none may lie between two bins
            power = max(power, math.ceil(math.log2(sample_rate * (n_mels + 1) / (fmax - self.fmin))))
        n_fft = self.n_fft or 2**power
        return FeatureConfig(sample_rate, clip_samples, n_mels, frames, hop, n_fft, self.fmin, self.fmax)


# --------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class AugmentConfig:
    """Training-time augmentation; a strength of 0 switches its part off. See `transform.py` for what each one does."""

    gain_db: float = 6.0  # uniform in +- this
    shift_seconds: float = 0.1  # uniform in +- this
    noise_std: float = 0.005  # of full scale; standard deviation uniform in 0 to this
    background_probability: float = 0.0  # share of clips that get background noise
    background_snr_db: tuple[float, float] = (5.0, 30.0)
    time_masks: int = 0  # masks a clip
    freq_masks: int = 0
    mask_share: float = 0.1  # widest mask, as a share of the axis
    mixup_alpha: float = 0.0  # Beta(alpha, alpha)
    equalizer: float = option(0.0, absent=0.0)  # standard deviation of five levels along frequency; a feature has 1
    speed: float = option(0.1, absent=0.0)  # uniform in 1 +- this, by resampling, which changes the pitch with it


NO_AUGMENT = AugmentConfig(gain_db=0, shift_seconds=0, noise_std=0, speed=0)
AUGMENT_PRESETS = {
    "none": NO_AUGMENT,
    "base": AugmentConfig(),
    "more": AugmentConfig(background_probability=0.5, time_masks=1, freq_masks=1, mask_share=0.2),
}


@dataclass(frozen=True)
class AugmentOptions(Options):
    """What the command line says about augmentation: one of the presets, and what differs from it."""

    # fmt: off
    preset: str | None = option(
        None, "--augment", choices=tuple(AUGMENT_PRESETS),
        help="base: level, place, speed, white noise; more: masks and background noise, too; default: base, or planned")
    speed: float | None = option(
        None, "--speed", metavar="SHARE", help=f"change of a clip's speed; default: {AugmentConfig.speed:g}, or none",
        check=(lambda share: 0 <= share < 1, "use a share from 0 up to 1"))
    mixup_alpha: float | None = option(
        None, "--mixup", metavar="ALPHA", help="of the Beta distribution; default: none, or planned",
        check=(lambda alpha: 0 <= alpha < math.inf, "use 0 (none) or more"))
    equalizer: float | None = option(
        None, "--equalizer", metavar="STD",
        help="of random levels along frequency, where a feature's own deviation is 1; default: none, or planned",
        check=(lambda std: 0 <= std < math.inf, "use 0 (none) or more"))
    # fmt: on

    def resolve(self) -> AugmentConfig:
        given = {name: value for name, value in vars(self).items() if name != "preset" and value is not None}
        return dataclasses.replace(AUGMENT_PRESETS[self.preset or "base"], **given)


def _batch_size(text: str) -> int | str:
    require(text == "auto" or text.isdecimal(), f"--batch-size {text}: use a number of clips, or auto")
    return text if text == "auto" else int(text)


RATES, DECAYS = (", ".join(f"{both[i]:g} with {name}" for name, both in OPTIMIZERS.items()) for i in range(2))


@dataclass(frozen=True)
class OptimOptions(Options):
    """How the network is to learn; `training.resolve.resolve` chooses what is None or "auto"."""

    # fmt: off
    epochs: int | None = option(
        None, "--epochs", metavar="N", check=(lambda n: n >= 1, "use at least 1"),
        help=f"passes over the clips; default: {EPOCHS[0]}, or more where there are few clips, or planned")
    batch_size: int | str | None = option(
        None, "--batch-size", metavar="N", parse=_batch_size,
        help="clips a batch; auto: the largest that fits, the rate scaled from 64 clips a batch; default: 64, or less "
        "of few clips", check=(lambda n: n == "auto" or n >= 2, "use at least 2 (batch normalisation)"))
    accumulate: int = option(
        1, "--accumulate", metavar="N", help="batches a step of the optimiser",
        check=(lambda n: n >= 1, "use at least 1 batch a step"))
    optimizer: str = option(
        "auto", "--optimizer", choices=lambda: ("auto", *OPTIMIZERS, *REGISTERED["optimizer"]),
        help="sgd is Nesterov's; auto: muon, or adamw where muon would more than double the arithmetic")
    lr: float | None = option(
        None, "--lr", metavar="RATE", help=f"peak; default: {RATES}",
        check=(lambda rate: rate > 0, "use a positive rate"))
    weight_decay: float | None = option(
        None, "--weight-decay", metavar="X", help=f"default: {DECAYS}", check=(lambda x: x >= 0, "use 0 or more"))
    warmup: float = option(
        0.1, "--warmup", metavar="SHARE", help="share of the steps", check=(lambda x: 0 <= x < 1, "use 0 up to 1"))
    ema_decay: float = option(
        0.999, "--ema", metavar="X", help="decay of the averaged weights; 0: none",
        check=(lambda x: 0 <= x < 1, "use 0 (none) up to 1"))
    grad_clip: float = option(
        0.0, "--grad-clip", metavar="NORM", help="largest norm of the gradient; default: none",
        check=(lambda norm: norm >= 0, "use a positive norm, or 0 for none"))
    loss: str = option(
        "cross-entropy", "--loss", choices=lambda: ("cross-entropy", *REGISTERED["loss"]),
        help="what is minimised; extensions add others")
    label_smoothing: float = option(
        0.0, "--label-smoothing", metavar="SHARE", help="spread over all classes (default: 0)",
        check=(lambda share: 0 <= share < 1, "use 0 up to 1"))
    ohem: float = option(
        1.0, "--ohem", metavar="SHARE", help="learn from this share of a batch, the hardest",
        check=(lambda share: 0 < share <= 1, "use a share above 0, up to 1 (1: every clip)"))
    balance: float = option(
        0.0, "--balance", metavar="POWER", absent=0.0,
        help="draw a class of n clips by n^(1 - POWER); 1, all alike, where rare classes have dozens of clips",
        check=(lambda power: 0 <= power <= 1, "use a power from 0 (as they are) to 1 (all alike)"))
    class_weights: float = option(
        0.0, "--class-weights", metavar="POWER", absent=0.0,
        help="weigh clips of a class of n by n^-POWER in the loss; 1, classes alike, where rare ones have but ten",
        check=(lambda power: 0 <= power <= 1, "use a power from 0 (clips alike) to 1 (classes alike)"))
    precision: str = option(  # "auto" stays in the record: what it is depends on the device, which may be another later
        "auto", "--precision", choices=("auto", "32", "bf16", "16"),
        help="auto: half on a GPU but Apple's, bf16 on a processor that is faster in it, else 32")
    compile: bool = option(False, "--compile", help="run the network through torch.compile")
    deterministic: bool = option(
        False, "--deterministic", help="the same bits each time on a GPU, too, which makes it slower")
    # fmt: on

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag, value in (("--lr", self.lr), ("--weight-decay", self.weight_decay)):
            named = self.optimizer != "auto" or value is None
            require(named, f"{flag}: name the --optimizer that it is meant for")
        smoothed = self.label_smoothing == 0 or self.loss == "cross-entropy"
        require(smoothed, f"--label-smoothing: --loss {self.loss} knows none; leave one of the two out")


@dataclass(frozen=True)
class OptimConfig(OptimOptions):
    """How the network learns."""

    epochs: int = resolved(OptimOptions, "epochs", EPOCHS[0])
    batch_size: int = resolved(OptimOptions, "batch_size", 64)
    optimizer: str = resolved(OptimOptions, "optimizer", "muon")
    loss: str = resolved(OptimOptions, "loss", "cross-entropy")
    lr: float = resolved(OptimOptions, "lr", OPTIMIZERS["muon"][0])  # peak rate
    weight_decay: float = resolved(OptimOptions, "weight_decay", OPTIMIZERS["muon"][1])


@dataclass(frozen=True)
class RunConfig:
    """One fold's run, complete: it stands in the checkpoint, and everything is rebuilt from it."""

    model: str  # timm's name
    classes: tuple[str, ...]  # in the order of the network's outputs
    class_counts: tuple[int, ...]  # training clips of each, in that order
    features: FeatureConfig
    augment: AugmentConfig
    optim: OptimConfig
    fold: Fold
    seed: int
    folds_hash: str  # of the store's (fname, label, fold) table
    weights: str = ""  # what the network started from: "" (random), TIMM_WEIGHTS or a file
    limit: int = 0  # training clips used; 0: all
    extensions: dict[str, str] = dataclasses.field(default_factory=dict)  # files loaded: the hash of each by its name
    parts: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)  # the options of what is used of them


def default_epochs(clips: int, rarest: float = 1.0) -> int:
    """Passes over so many clips to train on that show the network enough of them, few or many.

    A clip of the rarest class counts `rarest` times as much as an average one, and none is to count more than EPOCHS[1]
    times: of few clips that come too often a network learns the noise by heart.
    """
    least, most = EPOCHS
    return max(least, min(round(most / rarest), round(PRESENTATIONS / max(clips, 1))))


def run_name(model: str, n_mels: int, frames: int, tag: str = "") -> str:
    """The folder of a kind of run under ``runs/``, all its folds."""
    return f"{model.replace('/', '_')}-{n_mels}x{frames}" + (f"-{tag}" if tag else "")


def _train_folds(text: str) -> tuple[Fold, ...] | None:
    """-f of train.py; None is all of them, whose number only the store knows."""
    if text == "all":
        return None
    folds = _listed(text)
    require(folds != (), f"-f {text}: use an index (0), a list (0,2), all or full")
    return folds


def _listed(text: str) -> tuple[Fold, ...]:
    """The folds of a list with commas, each once; () where it is not one of indices and "full". It may end with one."""
    parts = tuple(dict.fromkeys(text.removesuffix(",").split(",")))
    known = all(part == FULL or part.isdecimal() for part in parts)
    return tuple(part if part == FULL else int(part) for part in parts) if known else ()


def joined(items: Sequence[Any]) -> str:
    return ",".join(map(str, items))


def _gpus(text: str) -> tuple[str, ...]:
    """-g of train.py; which GPUs there are is found out later."""
    gpus = tuple(text.split(","))
    indices = all(gpu.isdecimal() for gpu in gpus)
    known = indices or set(gpus) == {"cpu"} or text == "mps"
    require(known, f"-g {text}: use an index (0), a list (0,1,2), cpu, cpu,cpu, or mps")
    return gpus


def _extensions() -> Any:
    return option(
        (), "--extension", metavar="FILE", repeat=True, group="extensions",
        help="a Python file that adds a network, an augmentation, ... (docs/extending.md)",
    )  # fmt: skip


def _seconds(text: str) -> float:
    """30m, 2h, 90s or 90, in seconds."""
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
    try:
        return float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        raise UserError(f"--budget {text}: use minutes (30m), hours (2h) or seconds (90)") from None


def _time(seconds: float) -> str:
    unit, name = next(
        (unit, name) for unit, name in ((3600, "h"), (60, "m"), (1, "s")) if seconds % unit == 0 or unit == 1
    )
    return f"{seconds / unit:g}{name}"


@dataclass(frozen=True)
class TrainConfig(Command):
    """What `train.py` is asked to do: folds of one kind of run, or what a plan says where options leave it open."""

    script = "train.py"
    purpose = "Train the folds of a network; what no option says is planned from the clips and the machine."

    # fmt: off
    input_path: Path | None = option(
        None, "-i", "--input-path", metavar="DIR", group="what to train",
        help="root of the data set: prepared first where --work is not")
    work: Path = option(Path("work"), "-w", "--work", metavar="DIR", help="what preprocess.py made")
    preset: str | None = option(
        None, "--preset", choices=PRESETS,
        help="what is planned: fast, a first answer in minutes; default; best, an ensemble of several kinds of "
        "networks; reference, the reference system's network and size")
    budget: float | None = option(
        None, "--budget", metavar="TIME", parse=_seconds, show=_time,
        help="plan the best that this machine trains in that time, and end within it: 30m, 2h, or seconds",
        check=(lambda seconds: 0 < seconds < math.inf, "use a positive time"))
    plan: bool = option(False, "--plan", help="print the plan, with reasons, time and memory, and train nothing")
    model: str | None = option(None, "-m", "--model", metavar="NAME",
        help="any timm network, or one made for sound: melresnet, bcresnet1, 2, 3, 6, 8; default: planned")
    folds: tuple[Fold, ...] | None = option(
        None, "-f", "--fold", metavar="F", parse=_train_folds, show=joined,
        help="an index, a list (0,2), all, or full (every clip) (default: all)")
    gpus: tuple[str, ...] | None = option(
        None, "-g", "--gpu", metavar="G", parse=_gpus, show=joined,
        help="index of a GPU, cpu, or mps (Apple's); a list (0,1,2 or cpu,cpu): as many folds side by side, a process "
        "each; default: a GPU where there is one")
    tag: str = option(
        "", "--tag", help="ends the run's name: another setting beside the first",
        check=(lambda tag: re.fullmatch(r"[\w.-]*", tag) is not None, "use letters, digits and . _ -"))
    limit: int = option(
        0, "--limit", metavar="N", help="use N training clips, a dry run; default: all",
        check=(lambda n: n >= 0, "use a number of clips, or 0 for all"))
    restart: bool = option(False, "--restart", help="train a finished fold again")
    logger: str = option(
        "csv", "--logger", choices=("csv", "tensorboard"),
        help="csv: history.csv, always written; tensorboard: its events, too (pip install tensorboard)")
    features: FeatureOptions = part(FeatureOptions, "feature")
    optim: OptimOptions = part(OptimOptions, "training")
    augment: AugmentOptions = part(AugmentOptions, "training")
    seed: int = option(
        0, "--seed", metavar="N", help="of initial weights, order and augmentation (default: 0)",
        check=(lambda seed: seed >= 0, "use 0 or more"))
    weights: Path | None = option(
        None, "--weights", metavar="FILE", help="start from this file: timm's, or a checkpoint")
    pretrained: bool = option(False, "--pretrained", help="start from timm's weights (downloads them)")
    extensions: tuple[Path, ...] = _extensions()
    parts: dict[str, dict[str, Any]] = registered()  # the options of what extensions register, by its name
    # fmt: on

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, values in self.parts.items():
            known = with_options()
            require(name in known, f"{name}: not known here; give the file that defines it with --extension FILE")
            known[name](**values)  # checks them
        require(not (self.weights and self.pretrained), "--weights and --pretrained: give one of the two")
        planned = not (self.budget and self.preset in ("fast", "reference"))
        require(planned, f"--budget and --preset {self.preset}: give one of the two; --budget chooses what is trained")


# -------------------------------------------------------------------------------------------------- inference

WITH_CHECK = ("work", "input_path", "sample_submission", "positive")  # the options of inference.py that go with --check


def _inference_folds(text: str) -> tuple[Fold, ...]:
    folds = tuple(range(int(text))) if text.isdecimal() else _listed(text)
    require(text != "0", "-f 0: a single number is how many folds to use; for fold 0 alone use -f 1 or the list -f 0,")
    require(folds != (), f"-f {text}: use the number of folds (5), a list (0,2,full), or full")
    return folds


def _shown_folds(folds: tuple[Fold, ...]) -> str:
    if folds == tuple(range(len(folds))):
        return str(len(folds))
    return joined(folds) + ("," if len(folds) == 1 and folds != (FULL,) else "")


@dataclass(frozen=True)
class InferenceConfig(Command):
    """What `inference.py` is asked to do."""

    script = "inference.py"
    purpose = (
        "Label clips with an ensemble over folds, views and models: the best of what is trained, or what is named."
    )

    # fmt: off
    input_path: Path | None = option(
        None, "-i", "--input-path", metavar="PATH", help="folder of clips, or one clip; default: the test clips")
    work: Path = option(Path("work"), "-w", "--work", metavar="DIR", help="holds runs/")
    features: SizeOptions = part(SizeOptions)
    models: tuple[str, ...] = option(
        (), "-m", "--model", metavar="NAMES", parse=lambda text: tuple(text.split(",")), show=joined,
        help="one timm name or several: a,b; without -t the best run of each; default: the best run of all")
    tag: str = option("", "--tag", help="of the runs")
    named: tuple[str, ...] = option(
        (), "--runs", nargs="+", metavar="RUN", help="folders under runs/, instead of -t, -m and --tag")
    folds: tuple[Fold, ...] = option(  # (): all that the runs have or, for a weighted ensemble, those of ensemble.json
        (), "-f", "--folds", metavar="N", parse=_inference_folds, show=_shown_folds,
        help="folds 0 to N-1, a list (0,2; one fold alone: 0,), or full; default: all of the run, or ensemble.json's")
    gpu: str | None = option(
        None, "-g", "--gpu", metavar="G",
        help="index of a GPU, cpu, or mps (Apple's); default: a GPU where there is one")
    tta: bool = option(
        True, "-a", "--tta", choices={"y": True, "n": False}, help="average four views of each clip (default: y)")
    output: Path = option(Path("submission.csv"), "-o", "--output", metavar="CSV", help="to write")
    ensemble: str | None = option(  # weighted: the runs are ensemble.json's
        None, "--ensemble", choices=("soft", "hard", "weighted"),
        help="mean of the probabilities, majority vote, or the runs, views and weights that report.py found best; "
        "default: soft, or weighted where no run is named and that is clearly better")
    sample_submission: Path | None = option(
        None, "--sample-submission", metavar="CSV",
        help="names the clips to label; header, order and form to keep; default: the data set's")
    positive: str | None = option(
        None, "--positive", metavar="CLASS",
        help="whose probability a single column of numbers in the sample submission is; none: it holds labels")
    on_bad_clip: str = option(
        "error", "--on-bad-clip", choices=("error", "majority"), help="majority: give it the largest class")
    checkpoint: str = option("last", "--checkpoint", choices=("last", "best"), help="best: on the held-out fold")
    batch_size: int = option(
        64, "--batch-size", metavar="N", help="clips at a time", check=(lambda n: n >= 1, "use at least 1"))
    precision: str = option(
        "auto", "--precision", choices=("auto", "32", "bf16", "16"), help="auto: half on a GPU but Apple's, else 32")
    check: Path | None = option(
        None, "--check", metavar="CSV",
        help="say whether this submission would be accepted, and how its labels look; goes with "
        + ", ".join(f"--{name.replace('_', '-')}" for name in WITH_CHECK))
    views: tuple[str, ...] = option(
        (), "--view", metavar="NAME", repeat=True, help="average this view of an extension, too")
    extensions: tuple[Path, ...] = _extensions()
    # fmt: on

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.views:
            known = " or ".join(REGISTERED["view"]) or "--extension FILE to define it"
            require(name in REGISTERED["view"], f"--view {name}: use {known}")
        if self.ensemble != "weighted":
            return
        runs: dict[str, Any] = {
            "-t": self.features.size,
            "--n-mels": self.features.n_mels,
            "--frames": self.features.frames,
        }
        runs |= {"-m": self.models, "--tag": self.tag, "--runs": self.named}
        given = ", ".join(flag for flag, value in runs.items() if value)
        last = self.checkpoint == "last"
        require(not given, f"{given}: ensemble.json names the runs of --ensemble weighted; leave that out")
        require(not self.views, "--view: ensemble.json names the views of --ensemble weighted; leave it out")
        require(last, f"--checkpoint {self.checkpoint}: --ensemble weighted was fitted to the last ones; leave it out")

    def as_given(self, given: Sequence[str]) -> InferenceConfig:
        for name in given if self.check else ():
            flag = name.rpartition(".")[2].replace("_", "-")
            allowed = name in ("check", *WITH_CHECK)
            require(allowed, f"--check and --{flag}: give one of the two, a check labels nothing")
        return self

    @property
    def size(self) -> tuple[int, int] | None:
        """The mel bands and frames of the runs that -t and -m name together; None where they name none."""
        asked = self.features
        sized = self.models and (asked.size or (asked.n_mels and asked.frames))
        return asked.bands_and_frames if sized and not self.named else None

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of folders under runs/; none where ensemble.json names them, or the best is to be found."""
        if self.size is None:
            return tuple(dict.fromkeys(self.named))
        return tuple(dict.fromkeys(run_name(model, *self.size, self.tag) for model in self.models))

    @property
    def open(self) -> bool:
        """Whether the best run is to be found, among those of the size, networks and tag that are given."""
        return not self.runs and self.ensemble != "weighted"


@dataclass(frozen=True)
class ReportConfig(Command):
    """What `report.py` is asked to do."""

    script = "report.py"
    purpose = "Say from the out-of-fold predictions how good every run is, which ensemble is best, and what goes wrong."

    # fmt: off
    work: Path = option(Path("work"), "-w", "--work", metavar="DIR", help="holds clips.csv and runs/")
    runs: tuple[str, ...] = option((), "--runs", nargs="+", metavar="RUN", help="folders under runs/; default: all")
    output: Path | None = option(
        None, "-o", "--output", metavar="HTML", help="page to write; default: report.html in --work")
    subject: str | None = option(
        None, "--subject", metavar="RUN", help="whose errors are shown: a run, or ensemble; default: the best of them")
    compare: tuple[str, str] | None = option(
        None, "--compare", nargs=2, metavar=("A", "B"),
        help="compare two runs, or a run and ensemble, and write nothing")
    export: Path | None = option(
        None, "--export", metavar="CSV", help="write suspected labels, to edit and give to preprocess.py --relabel")
    audio: bool = option(True, "--no-audio", help="no clips to listen to in the page")
    # fmt: on


parse_preprocess = partial(parse, PreprocessConfig)
parse_train = partial(parse, TrainConfig)
parse_inference = partial(parse, InferenceConfig)
parse_report = partial(parse, ReportConfig)
