"""What pip calls to install this project, which is used from its folder: its modules' names are too plain to share."""

from __future__ import annotations

from typing import Any, NoReturn


def build_wheel(*_: Any, **__: Any) -> NoReturn:
    """Refuse in one line."""
    way = "pip install -r requirements.txt, then python preprocess.py"
    raise SystemExit(f"kfold-audio is not installed but used from its folder: {way}")


build_sdist = build_editable = build_wheel
