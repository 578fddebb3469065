"""Write a submission and the probabilities behind it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prediction.forms import ClipForm, probabilities_path, probability_form
from prediction.validation import Check, check_submission
from preprocessing.sample import BLOCK_ROWS, Form
from system.errors import UserError
from system.files import remove_leftovers, replacing

if TYPE_CHECKING:
    from pandas import DataFrame

Ints = NDArray[np.int64]


def write_submission(
    output: Path, form: ClipForm, classes: tuple[str, ...], rows_at: Callable[[Ints], NDArray[np.float32]]
) -> Check:
    """Write the submission, and every probability beside it; returns what is in them.

    `rows_at` gives the probabilities of clips, (n, classes), by their positions. Both files are read again before they
    take their places: UserError, and nothing is written, where one would be rejected.
    """
    import pandas as pd

    all_form = probability_form(form, classes)
    places = output, probabilities_path(output)
    for path in places:
        remove_leftovers(path)
    with contextlib.ExitStack() as stack:
        paths = [stack.enter_context(replacing(path)) for path in places]  # the last is renamed first
        with contextlib.ExitStack() as opened:
            files = [opened.enter_context(path.open("w", encoding="utf-8", newline="")) for path in paths]
            for start in range(0, max(1, len(form.ids)), BLOCK_ROWS):  # the header, where there is no clip
                rows = rows_at(form.rows[start : start + BLOCK_ROWS])
                tables = cells_of(rows, form, classes), pd.DataFrame(rows)
                for file, table, shape in zip(files, tables, (form, all_form), strict=True):
                    table.insert(0, "id", list(form.ids[start : start + BLOCK_ROWS]))
                    if shape.first_number is not None:
                        table.insert(0, "number", shape.first_number + start + np.arange(len(rows)))
                    titles, decimal = list(shape.header) if start == 0 else False, "," if shape.comma else "."
                    options = {"sep": shape.format.delimiter, "decimal": decimal, "lineterminator": "\n"}
                    table.to_csv(file, index=False, header=titles, **options)
        found, probabilities = (
            check_submission(path, shape, classes) for path, shape in zip(paths, (form, all_form), strict=True)
        )
        if problems := [*found.problems.values(), *probabilities.problems.values()]:
            raise UserError(f"{output}: not written, since it would be rejected: {'; '.join(problems)}")
    return dataclasses.replace(probabilities, remarks=found.remarks)


def cells_of(rows: NDArray[np.float32], form: Form, classes: tuple[str, ...]) -> DataFrame:
    """What a form asks for of (n, classes) probabilities, in the columns behind the ids."""
    import pandas as pd

    names = np.array(classes, object)
    if form.positive is not None:
        return pd.DataFrame({0: rows[:, form.positive]})
    if form.columns:
        return pd.DataFrame(rows)[list(form.columns)]
    if form.best == 1:
        return pd.DataFrame({0: names[rows.argmax(1)]})
    best = names[np.argsort(-rows, axis=1, kind="stable")[:, : form.best]]
    return pd.DataFrame({0: [form.separator.join(labels) for labels in best]})
