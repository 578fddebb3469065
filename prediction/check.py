"""prediction.check."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from arg import InferenceConfig
from prediction.forms import Form, probability_form, read_form, read_sample
from prediction.submission import probabilities_path
from prediction.validation import NEAR_TIE, Check, check_submission
from preprocessing.files import ClipFolder, is_test_root
from preprocessing.store import load_rejected, load_store, read_clips
from system.errors import UserError
from system.paths import STORE
from util import Names

if TYPE_CHECKING:
    from arg import RunConfig
Ints = NDArray[np.integer[Any]]
CHANCE = 0.001  # what is likelier than this by chance alone is not warned of
SHIFT = 0.1  # smallest share of the labels that would have to be others: a million rows make any difference significant
COLLAPSE = 0.9  # share of a single class ...
COLLAPSE_RATIO = 1.5  # ... and how many times its share of training that must be
EXCESS_RATIO = 3.0  # times its share of training, from which a class is far too frequent ...
EXCESS = 0.1  # ... if that is so large a part of all labels, too
LEAST_EXPECTED = 5.0  # clips of a class; rarer ones are pooled (Cochran 1954)


def check(config: InferenceConfig) -> None:
    """Say what is wrong with the CSV `config.check`, and how its labels look; UserError where it would be rejected."""
    assert config.check is not None
    store = load_store(config.work) if (config.work / STORE).exists() else None
    classes, counts = training_labels(config.work, store)
    form, what = expected_form(config, store, classes)
    found = check_submission(config.check, form, classes)
    for problem in found.problems:
        print(problem)
    near_ties = found.near_ties
    if not form.probabilities:
        near_ties = near_ties_beside(config.check, form, classes, found)
    tell_labels(found, near_ties, classes, counts)
    if found.problems:
        kinds = f"{len(found.problems)} problem{'s' if len(found.problems) > 1 else ''}"
        raise UserError(f"{config.check}: would be rejected, {kinds}, compared with {what}")
    print(f"{config.check}: would be accepted, {len(form.ids):,} rows as in {what}")


def training_labels(work: Path, store: dict[str, Any] | None) -> tuple[tuple[str, ...], Ints]:
    """The classes and their numbers of training clips: of the store or, without one, of a run's checkpoint."""
    if store is not None:
        classes = tuple(store["classes"])
        count = Counter[str]()
        for part in read_clips(work, ["label", "split"]):
            count.update(part["label"][part["split"] == "train"])
        return classes, np.array([count[name] for name in classes])
    path = min((work / "runs").glob("*/fold*/last.ckpt"), default=None)
    if path is None:
        raise UserError(
            f"{work} holds neither a store nor a run to tell the classes: give the folder that does, -w FOLDER"
        )
    from model import read_config

    run: RunConfig = read_config(path)["config"]
    return run.classes, np.array(run.class_counts)


def expected_form(config: InferenceConfig, store: dict[str, Any] | None, classes: tuple[str, ...]) -> tuple[Form, str]:
    """What the submission is compared with, and its name: a sample submission's rows, or else the clips to label."""
    folder, sample = config.input_path, config.sample_submission
    if sample is None and store is not None and store["sample_submission"]:
        test_root = store["test_root"] and Path(store["test_root"])
        sample = Path(store["sample_submission"]) if folder is None or is_test_root(test_root, folder) else None
    if sample is not None:
        return read_sample(sample, classes), str(sample)
    if folder is not None:
        return read_form(None, ClipFolder.scan(folder).names, classes), str(folder)
    if store is None:
        raise UserError(
            f"{config.work} holds no store to tell the ids: give --sample-submission, or the clips with -i FOLDER"
        )
    names = Names(test_names(config.work))
    if not len(names):
        raise UserError(f"{store['root']} has no test clips: give --sample-submission, or the clips with -i FOLDER")
    return read_form(None, names, classes), f"the test clips of {config.work}"


def test_names(work: Path) -> Iterator[str]:
    """The names of a store's test clips, with those that could not be read."""
    rejected = load_rejected(work)
    for part in chain(read_clips(work, ["fname", "split"]), [rejected]):
        yield from part["fname"][part["split"] == "test"]


def near_ties_beside(path: Path, form: Form, classes: tuple[str, ...], found: Check) -> int | None:
    """The number of near ties in the probabilities beside a submission of labels; None where there are none of it."""
    beside = probabilities_path(path)
    if not beside.exists():
        return None
    other = check_submission(beside, probability_form(form, classes), classes)
    if other.problems:
        print(f"warning: {beside}: not used: {other.problems[0]}", file=sys.stderr)
        return None
    if different := int((found.predicted != other.predicted).sum()):
        print(f"warning: {beside}: not used: {different:,} labels are not its most probable classes", file=sys.stderr)
        return None
    return other.near_ties


def tell_labels(found: Check, near_ties: int | None, classes: tuple[str, ...], training: Ints) -> None:
    """Say how a submission's labels are distributed and how many are doubtful; warn of what training does not have."""
    for remark in found.remarks:
        print(f"warning: {remark}", file=sys.stderr)
    count = np.bincount(found.predicted[found.predicted >= 0], minlength=len(classes))
    if not (total := int(count.sum())):
        return
    for warning in label_warnings(count, training, classes):
        print(f"warning: {warning}", file=sys.stderr)
    p, moved = shift_test(count, training)
    most, least = int(count.argmax()), int(count.argmin())
    tested = f"chi-square test, p {p:.2g}" if p is not None else "too few labels for a test"
    print(
        f"labels: {classes[most]} most often ({count[most] / total:.1%}), {classes[least]} least "
        f"({count[least] / total:.1%}); {moved:.1%} off the distribution in training ({tested})"
    )
    if near_ties is not None:
        share = near_ties / total
        print(f"near a tie: {near_ties:,} labels ({share:.1%}), whose two best classes are within {NEAR_TIE:g}")


def label_warnings(count: Ints, training: Ints, classes: tuple[str, ...]) -> list[str]:
    """What the numbers of labels of each class have that chance does not explain, given those of training; both (C,).

    One class has nearly all; or classes are missing or far too frequent; or else the distributions differ (shift_test).
    """
    from scipy.special import bdtrc

    total, expected = int(count.sum()), training / training.sum()
    share = count / total

    def said(c: int) -> str:
        return f"{share[c]:.1%} of the labels are {classes[c]}, in training {expected[c]:.1%}"

    # the chance of so many labels or more, had each been drawn by its share of training (Bonferroni's, for all classes)
    chance = len(classes) * np.where(count > 0, bdtrc(np.maximum(count - 1.0, 0), total, expected), 1.0)
    ratio = np.divide(share, expected, out=np.full(len(share), np.inf), where=expected > 0)
    top = int(count.argmax())
    if share[top] >= COLLAPSE and ratio[top] >= COLLAPSE_RATIO and chance[top] < CHANCE:
        return [said(top)]
    excess = (chance < CHANCE) & (ratio >= EXCESS_RATIO) & (share >= EXCESS)
    warnings = [said(c) for c in np.flatnonzero(excess).tolist()]
    missing = (count == 0) & (len(classes) * (1 - expected) ** total < CHANCE)
    if names := [f"{classes[c]} ({expected[c]:.1%} in training)" for c in np.flatnonzero(missing).tolist()]:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        warnings.append(f"classes that no clip is given: {len(names)} of {len(classes)}, {shown}")
    p, moved = shift_test(count, training)
    if not warnings and p is not None and p < CHANCE and moved >= SHIFT:
        most = np.abs(share - expected).argsort()[::-1][:3].tolist()
        shown = ", ".join(f"{classes[c]} {share[c]:.1%} for {expected[c]:.1%}" for c in most)
        warnings.append(f"the labels are not distributed as in training: {shown} (chi-square test, p {p:.1g})")
    return warnings


def shift_test(count: Ints, training: Ints) -> tuple[float | None, float]:
    """p of Pearson's chi-square test that labels and training are of one distribution, and how far they are apart.

    The distance is the total variation, half the sum of the differences of shares: the share of labels that would have
    to be others. Classes of fewer than LEAST_EXPECTED labels, as expected, are pooled; None, where that leaves one.
    """
    from scipy.special import chdtrc

    moved = 0.5 * float(np.abs(count / count.sum() - training / training.sum()).sum())
    table = np.stack([count, training]).astype(float)
    margin = table.sum(0) * count.sum() / table.sum()  # of labels
    rare = margin < LEAST_EXPECTED
    if rare.any():
        while margin[rare].sum() < LEAST_EXPECTED and not rare.all():
            rare[np.where(rare, np.inf, margin).argmin()] = True
        table = np.column_stack([table[:, ~rare], table[:, rare].sum(1)])
    if table.shape[1] < 2:
        return None, moved
    expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
    return float(chdtrc(table.shape[1] - 1, ((table - expected) ** 2 / expected).sum())), moved
