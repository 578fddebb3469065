"""The form of a submission: header, ids and order, from a sample or by default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from system.errors import UserError
from util import Names

Ints = NDArray[np.int64]
BLOCK_ROWS = 8192  # read and written at a time


@dataclass(frozen=True)
class Form:
    """What the submission must look like."""

    header: tuple[str, ...]
    ids: Sequence[str]  # as they stand in the first column, in order
    probabilities: bool  # a column a class, instead of the label


@dataclass(frozen=True)
class ClipForm(Form):
    """A form whose clips are known."""

    rows: Ints  # the clip of each id


def read_form(path: Path | None, fnames: Sequence[str], classes: tuple[str, ...]) -> ClipForm:
    """Header and order from the sample submission at `path`, or fname,label by name where there is none.

    UserError where it does not fit the clips and classes.
    """
    if path is None:
        in_order = all(one <= other for one, other in pairwise(fnames))
        order = range(len(fnames)) if in_order else sorted(range(len(fnames)), key=fnames.__getitem__)
        ids = fnames if in_order else Names(fnames[row] for row in order)
        for one, other in pairwise(ids):
            if one == other:
                raise UserError(f"{one}: several clips have this name; rename them")
        return ClipForm(("fname", "label"), ids, probabilities=False, rows=np.array(order, np.int64))
    form = read_sample(path, classes)
    return ClipForm(form.header, form.ids, form.probabilities, match_ids(form.ids, fnames, path))


def read_sample(path: Path, classes: tuple[str, ...]) -> Form:
    """The form that a sample submission shows. UserError where it is none for these classes."""
    import pandas as pd

    read: Any = {"dtype": str, "keep_default_na": False}
    try:
        header = tuple(pd.read_csv(path, header=None, nrows=1, **read).iloc[0])  # a class may be called as the id is
        with pd.read_csv(path, usecols=[0], chunksize=BLOCK_ROWS, **read) as parts:
            ids = Names(id_ for part in parts for id_ in part.iloc[:, 0])
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a sample submission ({error})") from error
    probabilities = len(header) > 2 and sorted(header[1:]) == sorted(classes)
    if len(header) != 2 and not probabilities:
        raise UserError(f"{path}: need an id and a label, or an id and a column for each of {', '.join(classes)}")
    return Form(header, ids, probabilities)


def probability_form(form: Form, classes: tuple[str, ...]) -> Form:
    """The form of the file of all probabilities that is written beside a submission."""
    return Form((form.header[0], *classes), form.ids, probabilities=True)


def match_ids(ids: Sequence[str], fnames: Sequence[str], path: Path) -> Ints:
    """The position of each id's clip: by its whole path, else by its name, else by its name without the extension."""
    for key in (str, lambda fname: Path(fname).name, lambda fname: Path(fname).stem):
        if (rows := _match(ids, fnames, key)) is not None:
            return rows
    repeated = len(ids) - len(set(ids))
    unknown, missing = sorted(set(ids) - set(fnames)), sorted(set(fnames) - set(ids))
    kinds = {"ids without a clip": unknown, "clips without an id": missing}
    what = [f"{len(names)} {kind} (such as {names[0]})" for kind, names in kinds.items() if names]
    what += [f"{repeated} ids more than once"] if repeated else []
    raise UserError(f"{path}: its ids are not the clips to label: {', '.join(what)}; see -i and --sample-submission")


def _match(ids: Sequence[str], fnames: Sequence[str], key: Callable[[str], str]) -> Ints | None:
    """For each id the position of the one name that has it as its key; None unless they match one to one.

    By sorted hashes, then name by name: a dictionary of a million names takes ten times the memory.
    """
    if len(ids) != len(fnames):
        return None
    of_id = np.fromiter(map(hash, ids), np.int64, len(ids))
    of_name = np.fromiter((hash(key(fname)) for fname in fnames), np.int64, len(fnames))
    by_id, by_name = of_id.argsort(), of_name.argsort()
    if (np.diff(of_name[by_name]) == 0).any():
        return None
    rows = np.empty(len(ids), np.int64)
    rows[by_id] = by_name
    return rows if all(key(fnames[int(row)]) == id_ for row, id_ in zip(rows, ids, strict=True)) else None
