"""The form of a submission: header, ids and their order, from a sample submission or by default."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    """What a submission must look like."""

    header: tuple[str, ...]
    ids: Sequence[str]  # the first column
    probabilities: bool  # whether a column for each class follows, in place of the label


@dataclass(frozen=True)
class ClipForm(Form):
    """A form whose clips are known."""

    rows: Ints  # the clip of each id


def read_form(path: Path | None, fnames: Sequence[str], classes: tuple[str, ...]) -> ClipForm:
    """Header and order of the sample submission at `path`; without one, fname,label in the order of the names.

    UserError where the sample does not fit the clips and classes, or where two clips have one name.
    """
    if path is not None:
        form = read_sample(path, classes)
        return ClipForm(form.header, form.ids, form.probabilities, match_ids(form.ids, fnames, path))
    ids: Sequence[str] = fnames
    order: Sequence[int] = range(len(fnames))
    if any(one > other for one, other in pairwise(fnames)):
        order = sorted(order, key=fnames.__getitem__)
        ids = Names(fnames[row] for row in order)
    for one, other in pairwise(ids):
        if one == other:
            raise UserError(f"{one}: several clips have this name; rename them")
    return ClipForm(("fname", "label"), ids, probabilities=False, rows=np.array(order, np.int64))


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


def probabilities_path(output: Path) -> Path:
    """Where that file is."""
    return output.with_name(f"{output.stem}_probabilities.csv")


def match_ids(ids: Sequence[str], fnames: Sequence[str], path: Path) -> Ints:
    """The position of each id's clip: by its whole path, else by its name, else by its name without the extension.

    UserError where none of the three matches ids and clips one to one; `path` is the file of the ids.
    """
    import pandas as pd

    wanted = pd.Index(hashes(ids))
    for key in (str, lambda fname: Path(fname).name, lambda fname: Path(fname).stem):
        known = pd.Index(hashes(map(key, fnames)))
        if len(wanted) == len(known) and known.is_unique and wanted.is_unique:
            rows = known.get_indexer(wanted).astype(np.int64)
            if (rows >= 0).all():
                return rows
    repeated = len(ids) - len(set(ids))
    unknown, missing = sorted(set(ids) - set(fnames)), sorted(set(fnames) - set(ids))
    kinds = {"ids without a clip": unknown, "clips without an id": missing}
    what = [f"{len(names)} {kind} (such as {names[0]})" for kind, names in kinds.items() if names]
    what += [f"{repeated} ids more than once"] if repeated else []
    raise UserError(f"{path}: its ids are not the clips to label: {', '.join(what)}; see -i and --sample-submission")


def hashes(names: Iterable[str]) -> Ints:
    """64 bits of each name, which stand for it: a table of a million names would take 80 MB and more.

    Two of a million different names have the same bits in one of 37 million such tables.
    """
    return np.fromiter(map(hash, names), np.int64)
