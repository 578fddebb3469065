"""The configuration (frozen dataclasses) and one command-line parser a script.

Nothing heavy is imported here, so that ``-h`` answers at once; files are looked at by the scripts, not here.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import shlex
import sys
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from system.errors import UserError

FULL = "full"  # the fold that holds nothing out
TIMM_WEIGHTS = "timm:"  # RunConfig.weights where they are timm's own
Fold = int | str  # an index, or FULL
MANIFEST_ROLES = ("path", "label", "group", "fold", "split")  # what a column of a manifest may be
ARCHIVES = ("speech_commands_v0.01", "speech_commands_v0.02")  # what --download fetches
NO_LIST = Path("none")  # of --relabel
WITH_CHECK = ("work", "input_path", "sample_submission")  # the options of inference.py that go with --check
PRESENTATIONS = 56_000  # clips that a fold is shown at least, where --epochs is not given, ...
EPOCHS = (13, 200)  # ... in no fewer and no more epochs than these
OPTIMIZERS = {"adamw": (2e-3, 0.05), "sgd": (0.05, 5e-4), "muon": (0.02, 0.01)}  # peak rate and weight decay of each
Config = TypeVar("Config")


@dataclass(frozen=True)
class PreprocessConfig:
    """What `preprocess.py` is asked to do."""

    input_path: Path | None  # root of the data set; None: that of the store in `work`, with the options of that
    work: Path = Path("work")
    folds: int = 5
    seed: int = 0
    # "auto": a manifest's column, or the speaker in names of the form <speaker>_nohash_<n>; "none": no groups
    group: str = "auto"
    sample_rate: int | None = None  # Hz; None: the most common one among the clips
    clip_seconds: float | None = None  # None: 95th percentile of the durations, rounded up to 0.1 s
    manifest: Path | None = None  # a CSV that names the clips, relative to `input_path`
    columns: tuple[tuple[str, str], ...] = ()  # of the manifest: (role, name), a role being one of MANIFEST_ROLES
    label_pattern: str | None = None  # searched in names for the group "label"; None: the folder is the label
    group_pattern: str | None = None  # searched in names for the group "group"
    download: str | None = None  # one of ARCHIVES, fetched into `input_path` where that is missing
    noise: Path | None = None  # a folder of recordings to mix in, beside those of the data set
    relabel: Path | None = None  # a list of decisions about clips; NO_LIST: all decisions are taken back
    strict: bool = False  # an error in place of every clip that would be left out or flagged

    def __post_init__(self) -> None:
        for role in ("label", "group"):
            pattern = getattr(self, f"{role}_pattern")
            try:
                named = pattern is None or role in re.compile(pattern).groupindex
            except re.error as error:
                raise UserError(f"--{role}-pattern {pattern}: {error}") from None
            _require(named, f"--{role}-pattern {pattern}: mark the {role} in it as (?P<{role}>...)")
        _require(not (self.group_pattern and self.group == "none"), "--group-pattern and --group none: give one")
        _require(not (self.columns and not self.manifest), "--columns: give the --manifest that has them")
        _require(not (self.manifest and self.download), "--manifest and --download: give one")
        unknown = [role for role, _ in self.columns if role not in MANIFEST_ROLES]
        _require(not unknown, f"--columns {''.join(unknown[:1])}=...: use {', '.join(MANIFEST_ROLES)}")
        _require(self.folds >= 2, f"--folds {self.folds}: at least 2 are needed to hold anything out")
        _require(self.group in ("auto", "none"), f"--group {self.group}: use auto or none")
        if self.sample_rate is not None:
            _require(1000 <= self.sample_rate <= 384_000, f"--sample-rate {self.sample_rate}: use 1000 to 384000 Hz")
        if self.clip_seconds is not None:
            _require(0 < self.clip_seconds <= 3600, f"--clip-seconds {self.clip_seconds}: use more than 0, up to 3600")


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


@dataclass(frozen=True)
class FeatureOptions:
    """What the command line says about the features; a window makes a `FeatureConfig` of it."""

    n_mels: int = 64
    frames: int | None = 64  # None: as many as `hop_samples` gives
    hop_samples: int | None = None
    n_fft: int | None = None  # None: 2048 at 16 kHz, in proportion at other rates, a power of two
    fmin: float = 0.0
    fmax: float | None = None

    def __post_init__(self) -> None:
        _require(self.n_mels >= 8, f"{self.n_mels} mel bands: use at least 8")
        _require(self.frames is None or self.frames >= 8, f"{self.frames} frames: use at least 8")
        _require(
            self.n_fft is None or (self.n_fft >= 16 and self.n_fft % 2 == 0),
            f"--n-fft {self.n_fft}: use an even number from 16",  # an odd one gives a frame less
        )

    def resolve(self, sample_rate: int, clip_samples: int) -> FeatureConfig:
        if self.frames is None:
            assert self.hop_samples is not None
            hop = self.hop_samples
            frames = 1 + clip_samples // hop
            _require(frames >= 8, f"--hop {hop}: gives {frames} frames of {clip_samples} samples; use a smaller hop")
        else:
            frames = self.frames
            hop = math.ceil(clip_samples / (frames - 1))
        n_fft = self.n_fft or 2 ** round(math.log2(0.128 * sample_rate))
        nyquist = sample_rate / 2
        _require(
            0 <= self.fmin < (self.fmax or nyquist) <= nyquist,
            f"--fmin {self.fmin:g} --fmax {self.fmax or nyquist:g}: need 0 <= fmin < fmax <= {nyquist:g} Hz",
        )
        return FeatureConfig(sample_rate, clip_samples, self.n_mels, frames, hop, n_fft, self.fmin, self.fmax)


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
    speed: float = 0.1  # uniform in 1 +- this, by resampling, which changes the pitch with it


NO_AUGMENT = AugmentConfig(gain_db=0, shift_seconds=0, noise_std=0, speed=0)
AUGMENT_PRESETS = {
    "none": NO_AUGMENT,
    "base": AugmentConfig(),
    "more": AugmentConfig(background_probability=0.5, time_masks=1, freq_masks=1, mask_share=0.2),
}


@dataclass(frozen=True)
class OptimConfig:
    """How the network learns."""

    optimizer: str = "muon"  # one of OPTIMIZERS
    lr: float = OPTIMIZERS["muon"][0]  # peak rate
    weight_decay: float = OPTIMIZERS["muon"][1]
    warmup: float = 0.1  # share of all steps
    epochs: int = EPOCHS[0]
    batch_size: int = 64
    ema_decay: float = 0.999  # of the averaged weights; 0: none
    grad_clip: float = 0.0  # largest gradient norm; 0: not clipped
    label_smoothing: float = 0.0
    ohem: float = 1.0  # share of a batch's clips, the hardest, that is learnt from
    precision: str = "auto"  # "auto", "32", "bf16" or "16"
    accumulate: int = 1  # batches a step of the optimiser
    compile: bool = False  # the network through torch.compile
    deterministic: bool = False  # a GPU's algorithms, too, give the same bits each time

    def __post_init__(self) -> None:
        known = ", ".join(OPTIMIZERS)
        _require(self.optimizer in OPTIMIZERS, f"--optimizer {self.optimizer}: use {known}")
        _require(self.accumulate >= 1, f"--accumulate {self.accumulate}: use at least 1 batch a step")
        _require(self.weight_decay >= 0, f"--weight-decay {self.weight_decay:g}: use 0 or more")
        _require(self.grad_clip >= 0, f"--grad-clip {self.grad_clip:g}: use a positive norm, or 0 for none")
        _require(self.epochs >= 1, f"--epochs {self.epochs}: use at least 1")
        _require(self.batch_size >= 2, f"--batch-size {self.batch_size}: use at least 2 (batch normalisation)")
        _require(self.lr > 0, f"--lr {self.lr:g}: use a positive rate")
        _require(0 <= self.label_smoothing < 1, f"--label-smoothing {self.label_smoothing:g}: use 0 up to 1")
        _require(0 < self.ohem <= 1, f"--ohem {self.ohem:g}: use a share above 0, up to 1 (1: every clip)")
        _require(0 <= self.ema_decay < 1, f"--ema {self.ema_decay:g}: use 0 (none) up to 1")
        _require(0 <= self.warmup < 1, f"--warmup {self.warmup:g}: use 0 up to 1")


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


def to_plain(config: Any) -> dict[str, Any]:
    """A dataclass as nested dicts and lists of plain values: what a checkpoint may hold."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, tuple | list) else value

    result: dict[str, Any] = plain(dataclasses.asdict(config))
    return result


def from_plain(kind: type[Config], values: dict[str, Any]) -> Config:
    """The dataclass that `to_plain` wrote; ValueError on a key that is missing or unknown."""
    hints = typing.get_type_hints(kind)
    if set(values) != set(hints):
        raise ValueError(f"{kind.__name__}: missing or unknown keys {sorted(set(values) ^ set(hints))}")

    def revive(hint: Any, value: Any) -> Any:
        if dataclasses.is_dataclass(hint):
            return from_plain(typing.cast(type, hint), value)
        return tuple(value) if isinstance(value, list) else value

    return kind(**{key: revive(hints[key], value) for key, value in values.items()})


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return result


@dataclass(frozen=True)
class TrainConfig:
    """What `train.py` is asked to do: one or several folds of one kind of run."""

    input_path: Path | None  # root of the data set; needed only where `work` is not prepared yet
    work: Path
    model: str
    features: FeatureOptions
    augment: AugmentConfig
    optim: OptimConfig
    folds: tuple[Fold, ...] | None  # None: all
    gpus: tuple[str, ...] | None  # an index or "cpu" for each fold at a time; None: one GPU where there is one
    seed: int = 0
    tag: str = ""
    weights: Path | None = None
    pretrained: bool = False
    limit: int = 0
    restart: bool = False
    auto_epochs: bool = False  # from the number of clips, in place of `optim.epochs`
    auto_optimizer: bool = False  # `optim.optimizer`, or AdamW where that takes more arithmetic than the network
    auto_batch: bool = False  # find the largest batch that fits; `optim.batch_size` is what its rate is meant for
    logger: str = "csv"  # history.csv alone, or "tensorboard" for its events, too
    command: str = ""  # as typed, for the record

    def __post_init__(self) -> None:
        _require(self.seed >= 0, f"--seed {self.seed}: use 0 or more")
        _require(self.limit >= 0, f"--limit {self.limit}: use a number of clips, or 0 for all")
        _require(0 <= self.augment.speed < 1, f"--speed {self.augment.speed:g}: use a share from 0 up to 1")
        _require(self.augment.mixup_alpha >= 0, f"--mixup {self.augment.mixup_alpha:g}: use 0 (none) or more")
        _require(re.fullmatch(r"[\w.-]*", self.tag) is not None, f"--tag {self.tag}: use letters, digits and . _ -")


@dataclass(frozen=True)
class InferenceConfig:
    """What `inference.py` is asked to do."""

    input_path: Path | None  # folder of clips; None: the store's test clips
    work: Path
    runs: tuple[str, ...]  # names of folders under runs/
    size: tuple[int, int] | None  # (n_mels, frames) that they must have; None: any
    folds: tuple[Fold, ...]  # (): all that the runs have or, for a weighted ensemble, those of ensemble.json
    gpu: str | None
    tta: bool = True
    output: Path = Path("submission.csv")
    ensemble: str = "soft"  # or "hard"; or "weighted": the runs are ensemble.json's
    sample_submission: Path | None = None
    on_bad_clip: str = "error"  # or "majority": label it with the most common class
    checkpoint: str = "last"  # or "best"
    batch_size: int = 64
    precision: str = "auto"  # "auto", "32", "bf16" or "16"
    check: Path | None = None  # a CSV to check, in place of labelling anything

    def __post_init__(self) -> None:
        final = self.ensemble != "weighted" or self.checkpoint == "last"
        _require(
            final, f"--checkpoint {self.checkpoint}: --ensemble weighted was fitted to the last ones; leave it out"
        )


@dataclass(frozen=True)
class ReportConfig:
    """What `report.py` is asked to do."""

    work: Path = Path("work")
    runs: tuple[str, ...] = ()  # names of folders under runs/; (): all
    output: Path | None = None  # None: report.html in `work`
    subject: str | None = None  # what the errors are of: a run, or "ensemble"; None: the best
    compare: tuple[str, str] | None = None  # two runs, or a run and "ensemble"
    export: Path | None = None  # CSV of suspected labels to write
    audio: bool = True  # embed clips to listen to


def default_epochs(clips: int) -> int:
    """Passes over so many clips to train on that show the network enough of them, few or many."""
    least, most = EPOCHS
    return min(most, max(least, round(PRESENTATIONS / max(clips, 1))))


def run_name(model: str, n_mels: int, frames: int, tag: str = "") -> str:
    """The folder of a kind of run under ``runs/``, all its folds."""
    return f"{model.replace('/', '_')}-{n_mels}x{frames}" + (f"-{tag}" if tag else "")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors fit one line and point to -h."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} -h lists the options)")


class _Help(argparse.HelpFormatter):
    """Adds the default to an option's help, where there is one to tell and the help does not yet."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=110)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        told = action.default in (None, False, True, "", [], argparse.SUPPRESS) or "default" in text
        return text if told else f"{text} (default: %(default)s)"


def _parser(prog: str, description: str, example: str) -> _Parser:
    return _Parser(
        prog=prog,
        description=description,
        epilog=f"example: {example}",
        formatter_class=_Help,
        allow_abbrev=False,
    )


SIZE = 64  # of the feature, where --size is not given
MODEL = "resnet18"


def _add_size(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("-t", "--size", type=int, metavar="N", help="mel bands and frames of the feature; default: 64")
    parser.add_argument("--n-mels", type=int, metavar="N", help="mel bands, where they differ from --size")
    parser.add_argument("--frames", type=int, metavar="N", help="frames, where they differ from --size")


def parse_preprocess(argv: Sequence[str] | None = None) -> PreprocessConfig:
    parser = _parser(
        "preprocess.py",
        "Decode every clip of a data set once, check them, and split them into folds.",
        "python preprocess.py -i DATASET",
    )
    default = PreprocessConfig(Path())
    parser.add_argument(
        "-i", "--input-path", type=Path, metavar="DIR", help="root of the data set; default: the manifest's folder"
    )
    parser.add_argument("-w", "--work", type=Path, default=default.work, metavar="DIR", help="where results go")
    parser.add_argument("-k", "--folds", type=int, default=default.folds, metavar="N", help="number of folds")
    parser.add_argument("--seed", type=int, default=default.seed, help="of the split into folds")
    parser.add_argument(
        "--group",
        choices=("auto", "none"),
        default=default.group,
        help="auto: keep a speaker's clips in one fold (named <speaker>_nohash_<n>, or a manifest's column)",
    )
    parser.add_argument(
        "--group-pattern", metavar="REGEX", help="finds what stays in one fold in the names: '(?P<group>[^/_]+)_'"
    )
    parser.add_argument(
        "--label-pattern", metavar="REGEX", help="finds the labels in the names: '(?P<label>[a-z]+)_[0-9]+'"
    )
    parser.add_argument(
        "--manifest", type=Path, metavar="CSV", help="names the clips and their labels; paths are relative to -i"
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="ROLE=NAME",
        help=f"columns of the manifest, where they are not called as usual: {', '.join(MANIFEST_ROLES)}",
    )
    parser.add_argument("--download", choices=ARCHIVES, help="fetch this data set first, into -i (default: its name)")
    parser.add_argument(
        "--noise",
        type=Path,
        metavar="DIR",
        help="recordings for train.py --augment more to mix in, of any length, beside those of the data set's "
        "_background_noise_; without -i the data set and options of the last run",
    )
    parser.add_argument(
        "--relabel",
        type=Path,
        metavar="CSV",
        help="a list of suspects with an action for each clip (relabel, drop, keep), to be kept on record; none: take "
        "all decisions back; without -i the data set and options of the last run",
    )
    parser.add_argument("--strict", action="store_true", help="fail in place of leaving out or flagging a clip")
    parser.add_argument("--sample-rate", type=int, metavar="HZ", help="default: the clips' most common one")
    parser.add_argument(
        "--clip-seconds", type=float, metavar="S", help="window length; default: 95th percentile of the durations"
    )
    a = parser.parse_args(argv)
    if a.input_path is None and (a.manifest or a.download):
        a.input_path = a.manifest.parent if a.manifest else Path(a.download)
    if a.input_path is None:
        last = a.relabel is not None or a.noise is not None
        _require(last, "give the data set: -i DIR, --manifest CSV or --download NAME")
        given = _given(parser, argv)
        other = [name.replace("_", "-") for name in given if name not in ("work", "noise", "relabel", "strict")]
        alone = f"--{'relabel' if a.relabel else 'noise'} alone keeps the options of the last run"
        _require(not other, f"--{''.join(other[:1])}: give -i too; {alone}")
    _require(all("=" in pair for pair in a.columns), f"--columns {' '.join(a.columns)}: use ROLE=NAME, as path=file")
    a.columns = tuple(tuple(pair.split("=", 1)) for pair in a.columns)
    return PreprocessConfig(**vars(a))


def parse_train(argv: Sequence[str] | None = None) -> TrainConfig:
    parser = _parser(
        "train.py",
        "Train the folds of one network.",
        "python train.py -t 224 -m dla60_res2next -f 0 -g 0",
    )
    optim = OptimConfig()
    what = parser.add_argument_group("what to train")
    what.add_argument(
        "-i", "--input-path", type=Path, metavar="DIR", help="root of the data set: prepared first where --work is not"
    )
    what.add_argument("-w", "--work", type=Path, default=Path("work"), metavar="DIR", help="what preprocess.py made")
    what.add_argument("-m", "--model", default=MODEL, metavar="NAME", help="any timm network")
    what.add_argument(
        "-f", "--fold", default="all", metavar="F", help="an index, a list (0,2), all, or full (every clip)"
    )
    what.add_argument(
        "-g",
        "--gpu",
        metavar="G",
        help="index of a GPU, or cpu; a list (0,1,2 or cpu,cpu): as many folds side by side, a process each; "
        "default: a GPU where there is one",
    )
    what.add_argument("--tag", default="", help="ends the run's name: another setting beside the first")
    what.add_argument("--limit", type=int, default=0, metavar="N", help="use N training clips, a dry run; default: all")
    what.add_argument("--restart", action="store_true", help="train a finished fold again")

    what.add_argument(
        "--logger",
        choices=("csv", "tensorboard"),
        default="csv",
        help="csv: history.csv, always written; tensorboard: its events, too (pip install tensorboard)",
    )

    feature = parser.add_argument_group("feature")
    _add_size(feature)
    feature.add_argument("--hop", type=int, metavar="N", help="samples from frame to frame, instead of --frames")
    feature.add_argument("--n-fft", type=int, metavar="N", help="samples of a frame; default: 2048 at 16 kHz")
    feature.add_argument("--fmin", type=float, default=0.0, metavar="HZ", help="lowest frequency of the mel bands")
    feature.add_argument("--fmax", type=float, metavar="HZ", help="highest; default: half the sample rate")

    learn = parser.add_argument_group("training")
    learn.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help=f"passes over the clips; default: {EPOCHS[0]}, or more where there are few clips",
    )
    learn.add_argument(
        "--batch-size",
        default=str(optim.batch_size),
        metavar="N",
        help=f"clips a batch; auto: the largest that fits, the rate scaled from {optim.batch_size} clips a batch",
    )
    learn.add_argument(
        "--accumulate", type=int, default=optim.accumulate, metavar="N", help="batches a step of the optimiser"
    )
    learn.add_argument(
        "--optimizer",
        choices=("auto", *OPTIMIZERS),
        default="auto",
        help="sgd is Nesterov's; auto: muon, or adamw where muon would more than double the arithmetic",
    )
    rates, decays = (
        ", ".join(f"{values[index]:g} with {name}" for name, values in OPTIMIZERS.items()) for index in range(2)
    )
    learn.add_argument("--lr", type=float, metavar="RATE", help=f"peak; default: {rates}")
    learn.add_argument("--weight-decay", type=float, metavar="X", help=f"default: {decays}")
    learn.add_argument("--warmup", type=float, default=optim.warmup, metavar="SHARE", help="share of the steps")
    learn.add_argument(
        "--ema", type=float, default=optim.ema_decay, metavar="X", help="decay of the averaged weights; 0: none"
    )
    learn.add_argument(
        "--grad-clip", type=float, metavar="NORM", default=optim.grad_clip, help="largest; default: none"
    )
    learn.add_argument(
        "--label-smoothing", type=float, default=optim.label_smoothing, metavar="SHARE", help="spread over all classes"
    )
    learn.add_argument(
        "--ohem", type=float, default=optim.ohem, metavar="SHARE", help="learn from this share of a batch, the hardest"
    )
    learn.add_argument(
        "--augment", choices=tuple(AUGMENT_PRESETS), default="base", help="more: masks and background noise too"
    )
    learn.add_argument(
        "--speed",
        type=float,
        metavar="SHARE",
        help=f"change of a clip's speed; default: {AugmentConfig.speed:g}, or none",
    )
    learn.add_argument("--mixup", type=float, default=0.0, metavar="ALPHA", help="of the Beta distribution; 0: none")
    learn.add_argument(
        "--precision",
        choices=("auto", "32", "bf16", "16"),
        default=optim.precision,
        help="auto: 32 on a CPU, half on a GPU",
    )
    learn.add_argument("--compile", action="store_true", help="run the network through torch.compile")
    learn.add_argument(
        "--deterministic", action="store_true", help="the same bits each time on a GPU, too, which makes it slower"
    )
    learn.add_argument("--seed", type=int, default=0, help="of initial weights, order and augmentation")
    start = learn.add_mutually_exclusive_group()
    start.add_argument("--weights", type=Path, metavar="FILE", help="start from this file: timm's, or a checkpoint")
    start.add_argument("--pretrained", action="store_true", help="start from timm's weights (downloads them)")
    a = parser.parse_args(argv)
    _require(not (a.hop and a.frames), "--hop and --frames: give one of the two")
    _require(a.hop is None or a.hop >= 1, f"--hop {a.hop}: use at least 1 sample")
    auto_batch = a.batch_size == "auto"
    _require(auto_batch or a.batch_size.isdecimal(), f"--batch-size {a.batch_size}: use a number of clips, or auto")
    auto_optimizer = a.optimizer == "auto"
    for flag, value in (("--lr", a.lr), ("--weight-decay", a.weight_decay)):
        _require(not auto_optimizer or value is None, f"{flag}: name the --optimizer that it is meant for")
    optimizer = optim.optimizer if auto_optimizer else a.optimizer
    rate, decay = OPTIMIZERS[optimizer]
    size = SIZE if a.size is None else a.size
    augment = dataclasses.replace(AUGMENT_PRESETS[a.augment], mixup_alpha=a.mixup)
    if a.speed is not None:
        augment = dataclasses.replace(augment, speed=a.speed)
    return TrainConfig(
        input_path=a.input_path,
        work=a.work,
        model=a.model,
        features=FeatureOptions(
            n_mels=size if a.n_mels is None else a.n_mels,
            frames=None if a.hop else size if a.frames is None else a.frames,
            hop_samples=a.hop,
            n_fft=a.n_fft,
            fmin=a.fmin,
            fmax=a.fmax,
        ),
        augment=augment,
        optim=OptimConfig(
            optimizer=optimizer,
            lr=rate if a.lr is None else a.lr,
            weight_decay=decay if a.weight_decay is None else a.weight_decay,
            warmup=a.warmup,
            epochs=optim.epochs if a.epochs is None else a.epochs,
            batch_size=optim.batch_size if auto_batch else int(a.batch_size),
            ema_decay=a.ema,
            grad_clip=a.grad_clip,
            label_smoothing=a.label_smoothing,
            ohem=a.ohem,
            precision=a.precision,
            accumulate=a.accumulate,
            compile=a.compile,
            deterministic=a.deterministic,
        ),
        folds=_folds(a.fold),
        gpus=_gpus(a.gpu),
        seed=a.seed,
        tag=a.tag,
        weights=a.weights,
        pretrained=a.pretrained,
        limit=a.limit,
        restart=a.restart,
        auto_epochs=a.epochs is None,
        auto_optimizer=auto_optimizer,
        auto_batch=auto_batch,
        logger=a.logger,
        command=shlex.join(["python", "train.py", *(sys.argv[1:] if argv is None else argv)]),
    )


def _folds(text: str) -> tuple[Fold, ...] | None:
    """-f of train.py; None is all of them, whose number only the store knows."""
    if text == "all":
        return None
    folds = _listed(text)
    _require(folds != (), f"-f {text}: use an index (0), a list (0,2), all or full")
    return folds


def _listed(text: str) -> tuple[Fold, ...]:
    """Folds as typed, each once; () where that is no list of indices and "full". A list may end with a comma."""
    parts = tuple(dict.fromkeys(text.removesuffix(",").split(",")))
    known = all(part == FULL or part.isdecimal() for part in parts)
    return tuple(part if part == FULL else int(part) for part in parts) if known else ()


def _gpus(text: str | None) -> tuple[str, ...] | None:
    """-g of train.py; which GPUs there are is found out later."""
    if text is None:
        return None
    gpus = tuple(text.split(","))
    indices = all(gpu.isdecimal() for gpu in gpus)
    _require(indices or set(gpus) == {"cpu"}, f"-g {text}: use an index (0), a list (0,1,2), cpu, or cpu,cpu")
    return gpus


def parse_inference(argv: Sequence[str] | None = None) -> InferenceConfig:
    parser = _parser(
        "inference.py",
        "Label clips with an ensemble over folds, views and models.",
        "python inference.py -t 224 -m dla60_res2next -f 5 -a y",
    )
    parser.add_argument("-i", "--input-path", type=Path, metavar="DIR", help="folder of clips; default: the test clips")
    parser.add_argument("-w", "--work", type=Path, default=Path("work"), metavar="DIR", help="holds runs/")
    _add_size(parser)
    parser.add_argument("-m", "--model", metavar="NAMES", help=f"one timm name or several: a,b; default: {MODEL}")
    parser.add_argument("--tag", default="", help="of the runs")
    parser.add_argument("--runs", nargs="+", metavar="RUN", help="folders under runs/, instead of -t, -m and --tag")
    parser.add_argument(
        "-f",
        "--folds",
        metavar="N",
        help="folds 0 to N-1, a list (0,2; one fold alone: 0,), or full; default: all of the run, or ensemble.json's",
    )
    parser.add_argument("-g", "--gpu", metavar="G", help="index of a GPU, or cpu; default: a GPU where there is one")
    parser.add_argument("-a", "--tta", choices=("y", "n"), default="y", help="average four views of each clip")
    parser.add_argument("-o", "--output", type=Path, default=Path("submission.csv"), metavar="CSV", help="to write")
    parser.add_argument(
        "--ensemble",
        choices=("soft", "hard", "weighted"),
        default="soft",
        help="mean of the probabilities, majority vote, or the runs, views and weights that report.py found best",
    )
    parser.add_argument(
        "--sample-submission", type=Path, metavar="CSV", help="header and order to keep; default: the data set's"
    )
    parser.add_argument(
        "--on-bad-clip", choices=("error", "majority"), default="error", help="majority: give it the largest class"
    )
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last", help="best: on the held-out fold")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="clips at a time")
    parser.add_argument(
        "--precision", choices=("auto", "32", "bf16", "16"), default="auto", help="auto: 32 on a CPU, half on a GPU"
    )
    parser.add_argument(
        "--check",
        type=Path,
        metavar="CSV",
        help="say whether this submission would be accepted, and how its labels look; goes with "
        + ", ".join(f"--{name.replace('_', '-')}" for name in WITH_CHECK),
    )
    a = parser.parse_args(argv)
    other = [name for name in _given(parser, argv) if name not in ("check", *WITH_CHECK)] if a.check else []
    option = "".join(other[:1]).replace("_", "-")
    _require(not other, f"--check and --{option}: give one of the two, a check labels nothing")
    size, runs = _named_runs(a)
    folds: tuple[Fold, ...] = ()
    if a.folds is not None:
        folds = tuple(range(int(a.folds))) if a.folds.isdecimal() else _listed(a.folds)
        mend = "use the number of folds (5), a list (0,2,full), or full"
        if a.folds == "0":
            mend = "is a number of folds: -f 1, or a list as in -f 0, is fold 0 alone"
        _require(folds != (), f"-f {a.folds}: {mend}")
    _require(a.batch_size >= 1, f"--batch-size {a.batch_size}: use at least 1")
    return InferenceConfig(
        input_path=a.input_path,
        work=a.work,
        runs=runs,
        size=size,
        folds=folds,
        gpu=a.gpu,
        tta=a.tta == "y",
        output=a.output,
        ensemble=a.ensemble,
        sample_submission=a.sample_submission,
        on_bad_clip=a.on_bad_clip,
        checkpoint=a.checkpoint,
        batch_size=a.batch_size,
        precision=a.precision,
        check=a.check,
    )


def parse_report(argv: Sequence[str] | None = None) -> ReportConfig:
    parser = _parser(
        "report.py",
        "Say from the out-of-fold predictions how good every run is, which ensemble is best, and what goes wrong.",
        "python report.py",
    )
    default = ReportConfig()
    parser.add_argument(
        "-w", "--work", type=Path, default=default.work, metavar="DIR", help="holds clips.csv and runs/"
    )
    parser.add_argument("--runs", nargs="+", default=[], metavar="RUN", help="folders under runs/; default: all")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="HTML", help="page to write; default: report.html in --work"
    )
    parser.add_argument(
        "--subject", metavar="RUN", help="whose errors are shown: a run, or ensemble; default: the best of them"
    )
    parser.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="compare two runs, or a run and ensemble, and write nothing"
    )
    parser.add_argument(
        "--export", type=Path, metavar="CSV", help="write suspected labels, to edit and give to preprocess.py --relabel"
    )
    parser.add_argument("--no-audio", dest="audio", action="store_false", help="no clips to listen to in the page")
    a = parser.parse_args(argv)
    a.runs = tuple(dict.fromkeys(a.runs))
    a.compare = tuple(a.compare) if a.compare else None
    return ReportConfig(**vars(a))


def _named_runs(a: argparse.Namespace) -> tuple[tuple[int, int] | None, tuple[str, ...]]:
    """The size and the runs that inference.py's options name; no runs where ensemble.json does."""
    if a.ensemble == "weighted":
        flags = {"-t": a.size, "--n-mels": a.n_mels, "--frames": a.frames, "-m": a.model, "--tag": a.tag or None}
        given = [flag for flag, value in {**flags, "--runs": a.runs}.items() if value is not None]
        _require(not given, f"{', '.join(given)}: ensemble.json names the runs of --ensemble weighted; leave that out")
        return None, ()
    if a.runs:
        return None, tuple(dict.fromkeys(a.runs))
    size = SIZE if a.size is None else a.size
    n_mels, frames = a.n_mels or size, a.frames or size
    models = (a.model or MODEL).split(",")
    return (n_mels, frames), tuple(dict.fromkeys(run_name(model, n_mels, frames, a.tag) for model in models))


def _given(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> list[str]:
    """The options that a command line gives, by their names in the namespace; none may be required."""
    absent = object()
    blank = argparse.Namespace(**dict.fromkeys(vars(parser.parse_args([])), absent))  # in place of the defaults
    return [name for name, value in vars(parser.parse_args(argv, blank)).items() if value is not absent]


def work_option(work: Path) -> list[str]:
    return ["-w", str(work)] if work != Path("work") else []


def naming_options(work: Path, run: RunConfig, tag: str) -> list[str]:
    """The options that name a run, of train.py as of inference.py."""
    n_mels, frames = run.features.n_mels, run.features.frames
    size = ["-t", str(n_mels)] if n_mels == frames else ["--n-mels", str(n_mels), "--frames", str(frames)]
    return [*work_option(work), *size, "-m", run.model, *(["--tag", tag] if tag else [])]


def with_folds(command: str, folds: str) -> str:
    """A train.py command for other folds."""
    return re.sub(r"\s(-f ?|--fold[ =])\S+", "", command or "python train.py") + f" -f {folds}"
