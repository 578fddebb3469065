"""The form of a submission: header, ids and their order, from a sample submission or by default."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from preprocessing.ids import Ints, match_ids
from preprocessing.sample import Form, Reading, form_of, read_sample
from system.errors import UserError
from util import Names

__all__ = ["BLOCK_ROWS", "ClipForm", "Form", "match_ids", "probabilities_path", "probability_form", "read_form"]

BLOCK_ROWS = 8192  # read and written at a time


@dataclass(frozen=True)
class ClipForm(Form):
    """A form whose clips are known."""

    rows: Ints = dataclasses.field(kw_only=True)  # the clip of each id
    sample: Path | None = None
    remark: str = ""  # what the sample has that no submission should have


def read_form(
    path: Path | None, fnames: Sequence[str], classes: tuple[str, ...], positive: str | None = None
) -> ClipForm:
    """The form of the sample submission at `path`; without one, fname,label in the order of the names.

    `positive` is the class that --positive names. UserError where the sample does not fit the clips and classes, or
    where two clips have one name.
    """
    if path is not None:
        reading = sample_reading(path, classes, positive)
        if not reading.usable:
            raise UserError(f"{path}: {reading.misfit}")
        form = reading.form
        rows = match_ids(form.ids, fnames, path, form.header[form.id_at])
        return ClipForm(**vars(form), rows=rows, sample=path, remark=reading.misfit)
    ids: Sequence[str] = fnames
    order: Sequence[int] = range(len(fnames))
    if any(one > other for one, other in pairwise(fnames)):
        order = sorted(order, key=fnames.__getitem__)
        ids = Names(fnames[row] for row in order)
    for one, other in pairwise(ids):
        if one == other:
            raise UserError(f"{one}: several clips have this name; rename them")
    return ClipForm(("fname", "label"), ids, rows=np.array(order, np.int64))


def sample_reading(path: Path, classes: tuple[str, ...], positive: str | None = None) -> Reading:
    """What the sample submission at `path` asks for. UserError where it is none at all."""
    return form_of(read_sample(path), classes, positive)


def probability_form(form: Form, classes: tuple[str, ...]) -> Form:
    """The form of the file of all probabilities that is written beside a submission."""
    return Form((form.header[form.id_at], *classes), form.ids, probabilities=True)


def probabilities_path(output: Path) -> Path:
    """Where that file is."""
    return output.with_name(f"{output.stem}_probabilities.csv")
