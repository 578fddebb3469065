"""Errors that the command line shows as one line."""

from __future__ import annotations


class UserError(Exception):
    """A mistake that the user can mend: shown as one line that names the culprit and the way out, no traceback."""


class Stopped(Exception):  # noqa: N818 (no error)
    """A signal has ended the work, which is saved; the message says how to resume, `status` is the exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def first_line(error: BaseException) -> str:
    """An error's first line, shortened to 160 characters."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 160 else line[:157] + "..."
