"""The report as one HTML file that opens offline and reads without JavaScript.

`page.html` is a Jinja2 template, filled from the findings; `charts` draws. `page.js` filters and sorts what is there.
Names from files are escaped wherever they stand. A Content-Security-Policy names the page's own script and style by
their hashes: nothing else runs, and nothing is loaded but data inside the file.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from arg import NO_AUGMENT, OptimConfig
from reporting.charts import Axis, Chart, Strip, bar, linear, logarithmic
from reporting.findings import LISTED_DUPLICATES, Findings
from reporting.gather import HeldOut, Run
from reporting.media import Media, media_of
from reporting.scores import BINS, Coverage, reliability
from reporting.suspects import equal_bins
from reporting.systems import NAMES, Ensembles, Pair
from reporting.verdict import ONE_RUN, ensemble_verdict, remark
from system.console import clock, counted
from system.files import replacing
from system.options import to_plain
from util import Interval, share

Ints = NDArray[np.int64]
MOST_BYTES = 15_000_000
HERE = Path(__file__).parent
DASH = "\N{EN DASH}"
WITH_MEDIA = 400  # listed clips for which sound and picture are made ...
MEDIA_SECONDS = 400  # ... or fewer, where they are long
TOP = 3  # classes shown of a clip
PAIRS, GROUPS = 15, 20  # listed
MOST_CLASSES = 60  # of the confusion matrix: more cells than that nobody reads
THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)  # in the table of what can be labelled


def write_page(
    path: Path,
    findings: Findings,
    comparisons: Sequence[Pair],
    verdict: Sequence[str],
    command: str,
    audio: bool = True,
) -> None:
    """Write the report as an HTML file of at most 15 MB; `command` is what asked for it.

    Were it larger, the last of the listed clips would lose sound and picture.
    """
    clips, results = findings.clips, findings.results
    cards, codec = make_cards(findings, audio)
    ensembles = results.ensembles if results.ensembles and len(results.ensembles.runs) > 1 else None
    lead = "balanced_accuracy" if clips.uneven else "accuracy"
    content = {
        "findings": findings,
        "clips": clips,
        "results": results,
        "lead": lead,
        "fold_accuracies": [
            getattr(fold, lead).value for one in results.systems.values() for fold in one.summary.folds.values()
        ],
        "scores": findings.system.summary.overall,
        "verdict": verdict,
        "made": f"{datetime.now():%Y-%m-%d %H:%M}, {command}",
        "facts": facts(clips),
        "curves": curves(results.runs),
        "comparisons": comparisons,
        "one_run": ONE_RUN if results.ensembles and not ensembles else "",
        "ensembles": ensembles,
        "members": members(ensembles) if ensembles else [],
        "matrix": matrix(findings),
        "pairs": findings.pairs.head(PAIRS).to_dict("records"),
        "classes": by_f1(findings),
        "reliability": reliability_chart(findings),
        "coverage": coverage_charts(findings.coverage),
        "thresholds": thresholds(findings.coverage),
        "factors": [factor(findings, *one) for one in findings.factors()],
        "groups": [
            (clips.group_names[row["group"]], row, Interval(row["rate"], row["low"], row["high"]))
            for row in findings.weak.head(GROUPS).to_dict("records")
        ],
        "duplicates": duplicates(findings, cards),
        "kinds": sorted({kind for card in cards for kind in card.kinds}),
        "codec": codec,
        "method": method(clips),
    }
    page = render(content, cards)
    if len(page) > MOST_BYTES:
        drop_media(cards, len(page) - MOST_BYTES)
        page = render(content, cards)
    with replacing(path) as beside:
        beside.write_bytes(page)


def render(content: Mapping[str, Any], cards: Sequence[Card]) -> bytes:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    forms = {"percent": percent, "decimal": decimal, "points": points, "clock": clock, "breakable": breakable}
    environment.filters |= forms
    environment.globals |= forms | {
        "rate": rate, "span": span, "counted": counted, "Strip": Strip, "bar": bar, "remark": remark,
        "settings": settings, "because": ensemble_verdict, "NAMES": NAMES, "zip": zip, "enumerate": enumerate,
    }  # fmt: skip
    style, script = (Markup((HERE / name).read_text("utf-8")) for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "img-src data:; media-src data:; base-uri 'none'; form-action 'none'"
    )
    page = environment.get_template("page.html").render(
        **content, cards=cards, heard=sum(bool(card.audio) for card in cards), style=style, script=script, policy=policy
    )
    return page.encode("utf-8", "replace")  # a lone surrogate is of a name that is not UTF-8


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


# ------------------------------------------------------------------------------------------------------- numbers


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%" if math.isfinite(value) else DASH


def decimal(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else DASH


def points(value: float) -> str:
    """A difference of shares in percentage points."""
    return f"{100 * value:+.2f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else DASH


def span(one: Interval, form: Callable[[float], str] = percent) -> str:
    """93.6-94.8, the ends of an interval; "" where it has none."""
    if not (math.isfinite(one.low) and math.isfinite(one.high)):
        return ""
    ends = [form(end).removesuffix("\N{NO-BREAK SPACE}%") for end in (one.low, one.high)]
    return (" to " if form is points else DASH).join(ends)


def rate(one: Interval, form: Callable[[float], str] = percent) -> Markup:
    return Markup("{}<small> {}</small>").format(form(one.value), span(one, form))


def breakable(name: str) -> Markup:
    """A path that may be broken after its slashes."""
    return Markup("/<wbr>").join(name.split("/"))


# -------------------------------------------------------------------------------------------------- what is shown


def facts(clips: HeldOut) -> str:
    speakers = counted(sum(map(bool, clips.group_names)), "speaker") if clips.grouped else "speakers not known"
    return (
        f"{counted(len(clips), 'clip')}, {len(clips.classes):,} classes, {speakers}, {clips.folds} folds, "
        f"{clips.sample_rate:,} Hz, {clips.clip_samples / clips.sample_rate:g} s a clip"
    )


def settings(run: Run) -> list[str]:
    """How a run was trained, for a row of a table: epochs, optimiser, features, augmentation, what it began with."""
    if run.config is None:
        return [DASH] * 5
    optim, features = run.config.optim, run.config.features
    said = ("optimizer", "lr", "weight_decay", "batch_size", "epochs")
    learning = [
        f"{optim.optimizer}, rate {optim.lr:g}, weight decay {optim.weight_decay:g}, batch {optim.batch_size}",
        *_differing(to_plain(optim), to_plain(OptimConfig()), said),
    ]
    own = [name for name in run.config.parts if name not in to_plain(optim).values()]  # augmentations of extensions
    augment = [*_differing(to_plain(run.config.augment), to_plain(NO_AUGMENT)), *own]
    return [
        f"{optim.epochs}",
        ", ".join(learning),
        f"{features.n_mels} bands, {features.frames} frames, n_fft {features.n_fft}, hop {features.hop_samples}",
        ", ".join(augment) or "none",
        run.config.weights or "random weights",
    ]


def _differing(values: Mapping[str, Any], usual: Mapping[str, Any], without: Sequence[str] = ()) -> list[str]:
    """The settings that are not as `usual`, in words."""
    changed = {name: value for name, value in values.items() if name not in without and value != usual.get(name)}
    texts = {
        name: [f"{one:g}" if isinstance(one, float) else str(one) for one in np.ravel(value)]
        for name, value in changed.items()
    }
    return [f"{name.replace('_', ' ')} {' to '.join(text)}" for name, text in texts.items()]


def curves(runs: Sequence[Run]) -> list[tuple[str, Chart, Chart]]:
    """Of each run the held-out errors and the losses by epoch, on scales that all runs share."""
    rows = [row for run in runs for history in run.history.values() for row in history]
    if not rows:
        return []
    errors = logarithmic("held-out errors, %", [1 - row.get("valid_accuracy", math.nan) for row in rows], 100)
    nats = [row.get(name, math.nan) for row in rows for name in ("train_loss", "valid_loss")]
    losses = logarithmic("loss, nats", nats)
    drawn = []
    for run in runs:
        if not any(run.history.values()):
            continue
        last = max(row["epoch"] + 1 for history in run.history.values() for row in history)
        epochs = linear("epoch", [1, max(2, last)], whole=True)
        top = Chart(f"{run.name}: held-out errors by epoch", epochs, errors, 190)
        bottom = Chart(f"{run.name}: loss by epoch", epochs, losses, 190)
        for fold, history in sorted(run.history.items()):
            x = [row["epoch"] + 1 for row in history]
            column = {
                name: [row.get(name, math.nan) for row in history]
                for name in ("train_loss", "valid_loss", "valid_accuracy")
            }
            end = f"fold {fold}: accuracy {percent(column['valid_accuracy'][-1])} at the end" if history else ""
            top.line(x, [1 - value for value in column["valid_accuracy"]], "line fold", end)
            bottom.line(x, column["train_loss"], "line second fold")
            bottom.line(x, column["valid_loss"], "line fold")
        drawn.append((run.name, top, bottom))
    return drawn


def members(ensembles: Ensembles) -> list[tuple[str, str, float, float]]:
    """Run, its views with their weights, its weight, and the accuracy that is lost without it."""
    views: dict[str, dict[int, float]] = {}
    for (run, view), weight in zip(ensembles.members, ensembles.chosen.final.weights.tolist(), strict=True):
        if weight > 0:
            views.setdefault(run, {})[view] = weight
    texts = {run: ", ".join(f"{view}: {weight:.2f}" for view, weight in own.items()) for run, own in views.items()}
    return [(run, texts[run], sum(own.values()), ensembles.gains[run]) for run, own in views.items()]


@dataclass(frozen=True)
class Cell:
    given: int
    predicted: int
    clips: int
    share: float  # of the given class
    kind: str  # its colour: r or e, and 0 to 9


def matrix(findings: Findings) -> list[list[Cell]]:
    """The confusion matrix, confused classes side by side; of many classes the MOST_CLASSES with most errors."""
    counts = findings.confusion
    errors = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    kept = set(np.argsort(-errors, kind="stable")[:MOST_CLASSES].tolist())
    order = [index for index in cluster_order(counts) if index in kept]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    wrong = np.where(np.eye(len(counts), dtype=bool), 0, shares)[np.ix_(order, order)]
    most = max(wrong.max(initial=0), 1e-9)

    def cell(i: int, j: int) -> Cell:
        kind = f"r{round(9 * shares[i, j])}" if i == j else f"e{math.ceil(9 * math.sqrt(shares[i, j] / most))}"
        return Cell(i, j, int(counts[i, j]), float(shares[i, j]), kind)

    return [[cell(i, j) for j in order] for i in order]


def cluster_order(counts: Ints) -> list[int]:
    """An order of the classes, of (C, C) confusions, in which those that are confused stand together.

    Average linkage on one minus the share of two classes' clips that are confused, leaves in optimal order
    (Bar-Joseph et al. 2001).
    """
    from scipy.cluster.hierarchy import leaves_list, linkage

    classes = len(counts)
    if classes < 3:
        return list(range(classes))
    both = counts + counts.T
    clips = counts.sum(1)
    distance = 1 - both / np.maximum(clips[:, None] + clips, 1)
    above = np.triu_indices(classes, 1)
    return [int(index) for index in leaves_list(linkage(distance[above], "average", optimal_ordering=True))]


def by_f1(findings: Findings) -> list[tuple[int, Any]]:
    """Index and scores of the classes, the worst first."""
    classes = enumerate(findings.system.summary.classes)
    return sorted(classes, key=lambda one: one[1].f1.value if one[1].clips else math.inf)


def reliability_chart(findings: Findings) -> Chart:
    bins = reliability(findings.truth, findings.system.probabilities, findings.group)
    lowest = [value for one in bins for value in (one.confidence, one.accuracy.low)]
    x, y = (linear(f"{what}, %", [*lowest, 0.9, 1.0], 100) for what in ("probability", "accuracy"))
    chart = Chart(f"Accuracy against probability in {len(bins)} bins", x, y, 340)
    chart.line([x.low, 1], [y.low, 1], "guide")
    for one in bins:
        said = f"probability {percent(one.confidence)}, accuracy {percent(one.accuracy.value)} ({span(one.accuracy)})"
        chart.dot(one.confidence, one.accuracy, f"{said}, {counted(one.clips, 'clip')}")
    return chart


def coverage_charts(found: Coverage) -> tuple[Chart, Chart]:
    """Precision and share of what is labelled, by the threshold."""
    x = linear("probability at least, %", [*found.thresholds.tolist(), 0.5, 1.0], 100)
    right = linear("correct, % of the labelled", [*found.precisions.tolist(), found.target, 1.0], 100, 4)
    top = Chart("Precision of what is labelled, by the least probability", x, right, 175)
    bottom = Chart(
        "Share of clips that are labelled, by the least probability", x, linear("labelled, % of all", [0, 1], 100), 175
    )
    top.line([x.low, x.high], [found.target] * 2, "guide")
    top.line(found.thresholds.tolist(), found.precisions.tolist())
    bottom.line(found.thresholds.tolist(), found.shares.tolist())
    if found.reached:
        top.upright(found.threshold)
        bottom.upright(found.threshold)
    return top, bottom


def thresholds(found: Coverage) -> list[tuple[float, float, float]]:
    """Thresholds that some clip reaches, the share of the clips that do, and the share of these that is right."""
    taken = [(least, int((found.thresholds >= least).sum())) for least in THRESHOLDS]
    return [(least, float(found.shares[n - 1]), float(found.precisions[n - 1])) for least, n in taken if n]


def factor(findings: Findings, name: str, unit: str, value: NDArray[np.float64]) -> tuple[str, int, Chart]:
    """Its name, the fewest clips of a bin, and the share of errors by bins of equal mass."""
    bins = equal_bins(value)
    digits = 2 if unit == "s" else 0
    drawn = []
    for number in range(bins.max() + 1):
        inside = bins == number
        least, most = value[inside].min(), value[inside].max()
        label = f"{least:.{digits}f}" if least == most else f"{least:.{digits}f} to {most:.{digits}f}"
        drawn.append((label, int(inside.sum()), share(findings.wrong[inside], findings.group[inside])))
    apart = math.ceil(len(drawn) / 3)  # there is room for three labels; the others show under the pointer
    marks = [(float(at), label) for at, (label, _, _) in enumerate(drawn) if at % apart == 0]
    highest = [limit for _, _, error in drawn for limit in (0.0, 0.01, error.value, error.high)]
    axis = Axis(f"{name}, {unit}", -0.5, len(drawn) - 0.5, marks)
    chart = Chart(f"Share of errors by {name}", axis, linear("errors, %", highest, 100, 4), 200)
    for at, (label, clips, error) in enumerate(drawn):
        said = f"{label} {unit}: {percent(error.value)} errors ({span(error)}), {counted(clips, 'clip')}"
        chart.dot(at, error, said, "error")
    return name, min(clips for _, clips, _ in drawn), chart


def duplicates(findings: Findings, cards: Sequence[Card]) -> list[tuple[list[int], str, str]]:
    """Places in the list, names, and what is the matter, of near duplicates that disagree."""
    at = {card.row: index for index, card in enumerate(cards)}
    found = []
    for row in findings.twins.head(LISTED_DUPLICATES).to_dict("records"):
        listed = [at[clip] for clip in row["clips"] if clip in at]
        if listed:
            taken = f"{row['predictions']} class{'es' if row['predictions'] > 1 else ''}"
            names = ", ".join(cards[index].fname for index in listed)
            found.append((listed, names, f"{counted(row['labels'], 'label')}, taken for {taken}"))
    return found


def method(clips: HeldOut) -> list[str]:
    drawn = "speakers (groups), whose clips are not independent" if clips.grouped else "clips, taken as independent"
    return [
        "Every clip is judged by the network that was not trained on it: that of the fold that held it out. "
        "Probabilities are the mean over the test-time views.",
        f"Intervals are 95 % intervals over {drawn}. They do not cover what another training would change.",
        "Two systems are compared on the same clips. The p value is that of a sign-flip test over "
        f"{'speakers' if clips.grouped else 'clips'}, not corrected for the number of pairs.",
        f"The calibration error has {BINS} bins of equal mass, all folds pooled.",
        "Ensembles are cross-fitted: the weights and the temperature for a clip were fitted to the other folds.",
        "New clips are labelled by all folds together. That is usually a little better than the one network "
        "that judges a clip here.",
    ]


# --------------------------------------------------------------------------------------------------- listed clips


@dataclass
class Card:
    """A listed clip, as the page shows it."""

    row: int  # among the clips of the system
    fname: str
    answers: list[tuple[str, str, str, str]]  # role, class, probability, and how it is marked
    kinds: list[str]  # what is the matter with it
    facts: str
    keys: str  # for page.js: given, predicted, fold, speaker, p of the given and of the predicted class
    audio: str | None  # data URIs
    mel: str | None


def make_cards(findings: Findings, audio: bool) -> tuple[list[Card], str]:
    """The listed clips, the most important first, and the codec of their sound; "" where there is none."""
    clips = findings.clips
    rows, problems = findings.listed()
    heard = rows[: min(WITH_MEDIA, round(MEDIA_SECONDS * clips.sample_rate / clips.clip_samples))] if audio else []
    media = Media([], [], "")
    if heard:
        media = media_of(clips, findings.results.runs, findings.position[heard])
    absent = [None] * (len(rows) - len(heard))
    table, judged = findings.table.iloc[rows], findings.judged.iloc[rows]
    probabilities = findings.system.probabilities[rows]
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
    group = findings.group[rows]
    cards = []
    for at, (clip, one) in enumerate(zip(table.itertuples(), judged.itertuples(), strict=True)):
        answers = [("correct" if one.label == one.predicted else "label", one.label, "given")]
        if one.label != one.predicted:
            answers.append(("predicted", one.predicted, "wrong"))
        others = [other for other in top[at].tolist() if other not in (one.label, one.predicted)]
        answers += [("", other, "other") for other in others[: TOP - len(answers)]]
        facts = [f"speaker {clip.group}"] if clip.group else []
        facts += [f"fold {clip.fold}", f"{clip.length / clips.sample_rate:.2f}\N{NO-BREAK SPACE}s"]
        cards.append(
            Card(
                row=rows[at],
                fname=clip.fname,
                answers=[
                    (role, clips.classes[index], chance(float(probabilities[at, index])), kind)
                    for role, index, kind in answers
                ],
                kinds=problems[at],
                facts=", ".join(facts),
                keys=f"{one.label} {one.predicted} {clip.fold} {group[at]} {one.p_label:.4g} {one.p_predicted:.4g}",
                audio=[*media.audio, *absent][at],
                mel=[*media.mel, *absent][at],
            )
        )
    return cards, media.codec


def chance(value: float) -> str:
    """A probability in percent that is never rounded to 0 or 100."""
    if 0 < value < 0.0005:
        return "< 0.1\N{NO-BREAK SPACE}%"
    return "> 99.9\N{NO-BREAK SPACE}%" if 0.9995 <= value < 1 else percent(value)


def drop_media(cards: Sequence[Card], excess: int) -> None:
    """Take sound and picture from the last cards on, until `excess` bytes are gone."""
    for card in reversed(cards):
        if excess <= 0:
            break
        excess -= len(card.audio or "") + len(card.mel or "")
        card.audio = card.mel = None
