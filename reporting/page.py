"""The report as one HTML file that opens offline: `write_page` puts numbers, page.html, page.css and page.js together.

The page is inert where it could do harm: names from files are data in a JSON block, and page.js shows them as text
nodes only; a Content-Security-Policy lets no script or style run but the two of this folder, which it names by their
hashes, and lets nothing be loaded but data inside the file.

`Report` and the classes before it are what the caller computes. Clips are known by their position in `Clips`, classes
by theirs in `Task.classes`. A `Rate` is a number with the ends of its 95 % interval, None where there is none. Numbers
may be NumPy's, and lists arrays.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, Literal, TypedDict

import numpy as np

from system.files import replacing

MOST_BYTES = 15_000_000
HERE = Path(__file__).parent
Rate = Sequence[float | None]  # value, low, high


class Task(TypedDict):
    clips: int
    classes: list[str]
    groups: int | None  # speakers; None where none are known
    folds: int
    sample_rate: int  # Hz
    seconds: float  # the window


class Scores(TypedDict):
    accuracy: Rate
    macro_f1: Rate
    log_loss: Rate  # nats
    top3: Rate
    ece: Rate  # expected calibration error


class FoldScore(TypedDict):
    fold: int
    clips: int
    accuracy: Rate


class History(TypedDict):
    """A fold's curves, one value an epoch."""

    fold: int
    epoch: list[int]
    train_loss: list[float]
    valid_loss: list[float]
    valid_accuracy: list[float]


class Run(TypedDict):
    name: str
    status: Literal["complete", "incomplete", "stale"]
    note: str  # what is missing, in words
    command: str | None  # completes it
    scores: Scores | None
    folds: list[FoldScore]
    seconds: float | None  # of training
    history: list[History]


class Comparison(TypedDict):
    """Two runs or ensembles on the same clips."""

    a: str
    b: str
    difference: Rate  # accuracy of a minus that of b
    p: float
    only_a: int  # clips that a alone has right
    only_b: int


class Candidate(TypedDict):
    name: str
    scores: Scores


class Member(TypedDict):
    run: str
    view: str
    weight: float
    brings: float | None  # accuracy that goes without it


class Ensemble(TypedDict):
    method: str  # in a sentence
    verdict: str  # in sentences
    command: str  # uses it
    temperature: float
    candidates: list[Candidate]  # ways to combine, the best single run among them
    members: list[Member]


class Subject(TypedDict):
    """The run or ensemble that everything after the ensemble is about."""

    name: str
    scores: Scores


class Confusion(TypedDict):
    counts: list[list[int]]  # (given label, predicted)
    order: list[int]  # of classes, such that confusions cluster


ClassScore = TypedDict(
    "ClassScore", {"class": int, "clips": int, "precision": Rate, "recall": Rate, "f1": Rate}
)  # this form, because "class" is a keyword


class ReliabilityBin(TypedDict):
    confidence: float  # mean
    accuracy: Rate
    clips: int


class AtTarget(TypedDict):
    coverage: float
    threshold: float
    precision: Rate


class Coverage(TypedDict):
    """Clips are labelled by themselves where the confidence reaches a threshold."""

    points: list[tuple[float, float, float | None]]  # threshold, share of clips, share of them that is right
    target: float  # precision
    at_target: AtTarget | None  # None where no threshold reaches it
    note: str


class Pair(TypedDict):
    a: int
    b: int
    a_as_b: int  # clips given as a and taken for b
    b_as_a: int


class Group(TypedDict):
    name: str
    weak: bool  # more than chance allows for
    clips: int
    error: Rate


class FactorBin(TypedDict):
    label: str
    clips: int
    error: Rate


class Factor(TypedDict):
    name: str
    unit: str
    bins: list[FactorBin]


class Duplicate(TypedDict):
    clips: list[int]
    note: str


class Clips(TypedDict):
    """The listed clips as columns of one length, the most important first; a few hundred have sound and picture."""

    fname: list[str]
    label: list[int]
    predicted: list[int]
    confidence: list[float]  # probability of the predicted class
    p_label: list[float]  # and of the given one
    fold: list[int]
    group: list[str]
    problems: list[list[str]]  # kinds, in words
    seconds: list[float]
    top: list[list[tuple[int, float]]]  # the most probable classes, the first first
    mel: list[str | None]  # data URIs, as `media.clip_media` makes them
    audio: list[str | None]


class Report(TypedDict):
    title: str
    made: str  # when and by which command
    verdict: list[str]  # plain sentences, the most important first
    method: list[str]  # how intervals, calibration error and tests are defined
    task: Task
    runs: list[Run]
    comparisons: list[Comparison]
    ensemble: Ensemble | None
    subject: Subject
    confusion: Confusion
    per_class: list[ClassScore]
    reliability: list[ReliabilityBin]
    coverage: Coverage
    pairs: list[Pair]
    groups: list[Group]  # the weakest first; empty where none are known
    factors: list[Factor]
    duplicates: list[Duplicate]
    clips: Clips
    media_note: str  # which clips have sound, and in which form


def write_page(path: Path, report: Mapping[str, Any]) -> None:
    """Write a `Report` as an HTML file of at most 15 MB.

    Were it larger, the last listed clips would lose sound and picture. ValueError, which names the place, where the
    report is not what `Report` says.
    """
    plain = _plain(report)
    _check(plain, Report, "report")
    _check_indices(plain)
    page = _page(plain)
    if len(page) > MOST_BYTES:
        _drop_media(plain["clips"], len(page) - MOST_BYTES)
        page = _page(plain)
    with replacing(path) as beside:
        beside.write_bytes(page)


def _page(report: dict[str, Any]) -> bytes:
    style, script = ((HERE / name).read_text("utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "img-src data:; media-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    text = Template((HERE / "page.html").read_text("utf-8"))
    return text.substitute(policy=policy, style=style, script=script, data=embedded_json(report)).encode()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def embedded_json(value: Any) -> str:
    """JSON that no HTML or JavaScript parser takes for anything else, whatever strings it holds."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":  # which JSON has within strings only
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plain(value: Any) -> Any:
    """`value` in Python's own types; floats to six digits, None where they are not finite."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # a lone surrogate, of a name that is not UTF-8
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    return value


def _check(value: Any, form: Any, where: str) -> None:
    """Demand the keys of `form` and those of the TypedDicts in it; leaves are not looked at."""
    origin = typing.get_origin(form)
    if origin in (typing.Union, types.UnionType):
        if value is not None:
            _check(value, typing.get_args(form)[0], where)
    elif origin is list:
        item = typing.get_args(form)[0]
        if typing.is_typeddict(item):
            for position, entry in enumerate(value):
                _check(entry, item, f"{where}[{position}]")
    elif typing.is_typeddict(form):
        fields = typing.get_type_hints(form)
        if value.keys() != fields.keys():
            raise ValueError(
                f"{where}: lacks {fields.keys() - value.keys()}, has unknown {value.keys() - fields.keys()}"
            )
        for name, field in fields.items():
            _check(value[name], field, f"{where}.{name}")


def _check_indices(report: dict[str, Any]) -> None:
    clips, classes = report["clips"], len(report["task"]["classes"])
    lengths = {name: len(column) for name, column in clips.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"report.clips: columns of several lengths, {lengths}")
    if not all(0 <= index < classes for name in ("label", "predicted") for index in clips[name]):
        raise ValueError(f"report.clips: label and predicted must be below {classes}")
    if sorted(report["confusion"]["order"]) != list(range(classes)):
        raise ValueError(f"report.confusion.order: must be a permutation of {classes} classes")
    if [len(row) for row in report["confusion"]["counts"]] != [classes] * classes:
        raise ValueError(f"report.confusion.counts: must be {classes} x {classes}")


def _drop_media(clips: dict[str, Any], excess: int) -> None:
    """Take sound and picture from the last clips on, until `excess` bytes are gone."""
    for index in reversed(range(len(clips["fname"]))):
        if excess <= 0:
            break
        excess -= len(clips["audio"][index] or "") + len(clips["mel"][index] or "")
        clips["audio"][index] = clips["mel"][index] = None
