"""What README.md and docs/ name is there: files, headings, tests, benchmarks; and every command parses."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import arg

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
TEXT = {name: path.read_text("utf-8") for name, path in PAGES.items()}
CODE = re.compile(r"^```\w*\n(.*?)^```|`([^`]+)`", re.DOTALL | re.MULTILINE)
PARSERS: dict[str, Callable[[list[str]], object]] = {
    "preprocess": arg.parse_preprocess,
    "train": arg.parse_train,
    "inference": arg.parse_inference,
    "report": arg.parse_report,
}


def code(text: str) -> list[str]:
    """The lines of code blocks, and what stands between backticks on one line or two."""
    found: list[str] = []
    for block, inline in CODE.findall(text):
        found += block.splitlines() if block else [inline.replace("\n", " ")]
    return found


def commands(text: str) -> list[str]:
    return [line.partition(" #")[0].strip() for line in code(text) if line.startswith("python ")]


def anchors(text: str) -> set[str]:
    """The headings' names in links, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def names_in(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXT[name]):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = PAGES[name].parent / file if file else PAGES[name]
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target.read_text("utf-8")), link


@pytest.mark.parametrize("name", PAGES)
def test_commands_parse(name: str) -> None:
    for command in commands(TEXT[name]):
        if "…" in command or "--extension" in command:  # test_extensions.py runs these
            continue
        words = shlex.split(command)
        if words[1] == "-m":
            assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file(), command
        else:
            PARSERS[words[1].removesuffix(".py")](words[2:])


@pytest.mark.parametrize("name", PAGES)
def test_files_and_tests_are_there(name: str) -> None:
    packages = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
    for inline in code(TEXT[name]):
        for path in re.findall(rf"\b(?:{packages})/[\w/]+\.\w+", inline):
            assert (ROOT / path).exists() or path.startswith("work/"), path
        for file, function in re.findall(r"(test_\w+\.py)(?:::(\w+))?", inline):
            assert (ROOT / "tests" / file).is_file(), file
            assert not function or function in names_in(ROOT / "tests" / file), f"{file}::{function}"
