"""The form of a submission: header, ids and their order, from a sample submission or by default."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from arg import InferenceConfig
from preprocessing.files import ClipFolder, is_test_root, prefix_of
from preprocessing.ids import Ints, hashes, match_ids
from preprocessing.sample import Form, form_of, read_sample
from preprocessing.store import load_store, read_clips
from system.errors import UserError
from system.paths import STORE
from util import Names


@dataclass(frozen=True)
class ClipForm(Form):
    """A form whose clips are known."""

    rows: Ints = dataclasses.field(kw_only=True)  # the clip of each id
    sample: Path | None = None
    remark: str = ""  # what the sample has that no submission should have


def read_form(
    path: Path | None,
    fnames: Sequence[str],
    classes: tuple[str, ...],
    positive: str | None = None,
    trained: Container[str] = (),
) -> ClipForm:
    """The form of the sample submission at `path`; without one, fname,label in the order of the names.

    `positive` is the class that --positive names; `trained` are the training clips, which ids mean less likely.
    UserError where the sample does not fit the clips and classes, or where two clips have one name.
    """
    if path is not None:
        reading = form_of(read_sample(path), classes, positive)
        if not reading.usable:
            raise UserError(f"{path}: {reading.misfit}")
        form = reading.form
        rows = match_ids(form.ids, fnames, path, form.header[form.id_at], trained)
        return ClipForm(**vars(form), rows=rows, sample=path, remark=reading.misfit)
    if positive is not None:
        raise UserError(f"--positive {positive}: no sample submission is found; give --sample-submission")
    ids: Sequence[str] = fnames
    order: Sequence[int] = range(len(fnames))
    if any(one > other for one, other in pairwise(fnames)):
        order = sorted(order, key=fnames.__getitem__)
        ids = Names(fnames[row] for row in order)
    for one, other in pairwise(ids):
        if one == other:
            raise UserError(f"{one}: several clips have this name; rename them")
    return ClipForm(("fname", "label"), ids, rows=np.array(order, np.int64))


def sample_for_folder(config: InferenceConfig, files: ClipFolder) -> tuple[Path | None, set[str]]:
    """The sample submission for the clips of -i FOLDER, None for none, and which of the clips the store trains on.

    It is the one that is given; or the store's for its own test folder and, where all its ids are there, for a folder
    that holds the data set, lies in it, or has no other clips. Where the store's is not used, that is said.
    """
    folder, given = config.input_path, config.sample_submission
    store = load_store(config.work) if (config.work / STORE).exists() else None
    if store is None or not (given or store["sample_submission"]):
        return given, set()
    root, sample = Path(store["root"]), given or Path(store["sample_submission"])
    trained = training_clips(config.work, root, files)
    if given or folder is None or is_test_root(store["test_root"] and Path(store["test_root"]), folder):
        return sample, trained
    way = f"--sample-submission {shlex.quote(str(sample))}"
    try:
        ids = read_sample(sample).form.ids
        match_ids(ids, files.names, sample, unlikely=trained)
    except UserError:
        print(f"the data set's sample submission is not for {folder} and not used; {way} says why")
        return None, trained
    top = folder.resolve()
    if len(ids) < len(files) and not (top.is_relative_to(root) or root.is_relative_to(top)):
        print(f"all clips of {folder} are meant; {way} takes those alone that the data set's sample submission names")
        return None, trained
    print(f"the data set's sample submission says which clips are meant: {sample}")
    return sample, trained


def training_clips(work: Path, root: Path, files: ClipFolder) -> set[str]:
    """The names of those files that are training clips of the store in `work`, a data set at `root`."""
    top = Path(files.top)
    if top.is_relative_to(root):
        before, cut = prefix_of(top, root), 0
    elif root.is_relative_to(top):
        before, cut = "", len(prefix_of(root, top))
    else:
        return set()
    parts = read_clips(work, ["fname", "split"])
    known = np.concatenate([hashes(part["fname"][part["split"] == "train"]) for part in parts])
    trained = np.isin(hashes(before + name[cut:] for name in files.names), known)
    return {files.names[row] for row in np.flatnonzero(trained).tolist()}


def probability_form(form: Form, classes: tuple[str, ...]) -> Form:
    """The form of the file of all probabilities that is written beside a submission."""
    return Form((form.header[form.id_at], *classes), form.ids, tuple(range(len(classes))))


def probabilities_path(output: Path) -> Path:
    """Where that file is."""
    return output.with_name(f"{output.stem}_probabilities.csv")
