"""Write a submission and the probabilities behind it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prediction.forms import BLOCK_ROWS, ClipForm, probabilities_path, probability_form
from prediction.validation import Check, check_submission
from system.errors import UserError
from system.files import remove_leftovers, replacing

Ints = NDArray[np.int64]


def write_submission(
    output: Path, form: ClipForm, classes: tuple[str, ...], rows_at: Callable[[Ints], NDArray[np.float32]]
) -> Check:
    """Write the submission, and every probability beside it; returns what is in them.

    `rows_at` gives the probabilities of clips, (n, classes), by their positions. Both files are read again before they
    take their places: UserError, and nothing is written, where one would be rejected.
    """
    import pandas as pd

    names, all_form = np.array(classes, object), probability_form(form, classes)
    # by position, since a class may be called as the id is
    columns = [classes.index(name) for name in form.header[1:]] if form.probabilities else []
    places = output, probabilities_path(output)
    for path in places:
        remove_leftovers(path)
    with contextlib.ExitStack() as stack:
        paths = [stack.enter_context(replacing(path)) for path in places]  # the last is renamed first
        with contextlib.ExitStack() as opened:
            files = [opened.enter_context(path.open("w", encoding="utf-8", newline="")) for path in paths]
            for start in range(0, max(1, len(form.ids)), BLOCK_ROWS):  # the header, where there is no clip
                rows = rows_at(form.rows[start : start + BLOCK_ROWS])
                everything = pd.DataFrame(rows)
                asked = everything[columns] if form.probabilities else pd.DataFrame({0: names[rows.argmax(1)]})
                for file, table, header in zip(files, (asked, everything), (form.header, all_form.header), strict=True):
                    table.insert(0, "id", list(form.ids[start : start + BLOCK_ROWS]))
                    titles = list(header) if start == 0 else False
                    table.to_csv(file, index=False, header=titles, lineterminator="\n")
        found, probabilities = (
            check_submission(path, shape, classes) for path, shape in zip(paths, (form, all_form), strict=True)
        )
        if problems := [*found.problems, *probabilities.problems]:
            raise UserError(f"{output}: not written, since it would be rejected: {'; '.join(problems)}")
    return dataclasses.replace(found, near_ties=probabilities.near_ties)
