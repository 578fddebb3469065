"""How the modules depend on each other: one way, no circle, no script imported, late imports counted too."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = {"preprocess", "train", "inference", "report"}
# From the bottom up. A module imports from its own layer and from those before it.
LAYERS = (
    {"system"},
    {"arg", "util"},
    {"networks", "preprocessing"},  # timm's registrations; the store, which dataset reads
    {"dataset", "transform", "model", "callback"},
    {"training", "prediction"},
    {"reporting"},
    SCRIPTS,
)
CARD = {"__init__", "arg", "callback", "dataset", "model", "preprocess", "transform", "util", "train", "inference"}
LAYER_OF = {name: index for index, layer in enumerate(LAYERS) for name in layer}
MOST_LINES = {"arg": 680}  # others: 500


def modules() -> dict[str, Path]:
    """Every module of the product by its dotted name."""
    packages = [name for name in LAYER_OF if (ROOT / name).is_dir()]
    paths = [*ROOT.glob("*.py"), *(path for name in packages for path in (ROOT / name).rglob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


@cache
def imports(path: Path) -> frozenset[str]:
    """The project's modules that a file imports, wherever in it."""
    known, found = modules(), set[str]()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & set(known)
            found |= inside or {node.module}
    return frozenset(found & set(known))


def test_the_top_level_is_the_scripts_and_the_cards_modules() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == CARD | {"report"}


def test_no_circle() -> None:
    TopologicalSorter({name: imports(path) - {name} for name, path in modules().items()}).prepare()


@pytest.mark.parametrize("name", sorted(set(modules()) - {"__init__"}))
def test_imports_point_down(name: str) -> None:
    own = LAYER_OF[name.partition(".")[0]]
    up = {other for other in imports(modules()[name]) - {name} if LAYER_OF[other.partition(".")[0]] > own}
    assert not up
    assert not {other for other in imports(modules()[name]) if other in SCRIPTS}


@pytest.mark.parametrize("name", sorted(set(modules()) - {"__init__"}))
def test_a_module_is_short(name: str) -> None:
    lines = len(modules()[name].read_text("utf-8").splitlines())
    assert lines <= MOST_LINES.get(name, 500)
