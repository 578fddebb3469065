"""What an HTML parser finds in the report's page, for tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

VOID = {"meta", "link", "img", "input", "br", "wbr", "hr"}


class Node:
    def __init__(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.tag, self.attributes = tag, attributes
        self.inside: list[Node | str] = []

    def __getitem__(self, name: str) -> str:
        return self.attributes.get(name) or ""

    @property
    def text(self) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in self.inside)

    def every(self, tag: str = "", kind: str = "", **attributes: str) -> Iterator[Node]:
        """The elements inside, in order, with a tag, a class and attributes."""
        for part in self.inside:
            if isinstance(part, Node):
                fits = not tag or part.tag == tag
                fits &= not kind or kind in part["class"].split()
                if fits and all(part[name] == value for name, value in attributes.items()):
                    yield part
                yield from part.every(tag, kind, **attributes)

    def one(self, tag: str = "", kind: str = "", **attributes: str) -> Node:
        return next(self.every(tag, kind, **attributes))


class Page(HTMLParser):
    """A page, read without running its script."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.root = Node("", {})
        self.open = [self.root]
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        assert self.open == [self.root]  # every element is closed

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs))
        self.open[-1].inside.append(node)
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].inside.append(data)

    def section(self, name: str) -> Node:
        return self.root.one("section", id=name)

    def rows(self, section: str, table: int = 0) -> list[list[str]]:
        """The texts of a table's cells, without its head."""
        body = list(self.section(section).every("tbody"))[table]
        cells = [[cell for cell in row.inside if isinstance(cell, Node)] for row in body.every("tr")]
        return [[" ".join(cell.text.split()) for cell in row] for row in cells]

    @property
    def verdict(self) -> list[str]:
        return [sentence.text for sentence in self.root.one("div", "verdict").every("p")]

    @property
    def cells(self) -> dict[tuple[int, int], int]:
        """Clips by label and prediction."""
        found = [
            json.loads(cell["data-show"]) for cell in self.root.one("table", "matrix").every("td") if cell["data-show"]
        ]
        return {(one["given"], one["predicted"]): one["of"] for one in found}

    @property
    def cards(self) -> list[dict[str, Any]]:
        """The listed clips."""
        found = []
        for card in self.root.one("ol", "cards").every("li", "card"):
            given, predicted, fold, group, p_label, p_predicted = card["data-keys"].split(" ")
            found.append(
                {
                    "fname": card.one("code").text,
                    "label": int(given),
                    "predicted": int(predicted),
                    "fold": int(fold),
                    "group": int(group),
                    "p_label": float(p_label),
                    "confidence": float(p_predicted),
                    "kinds": card["data-kinds"].split("|"),
                    "audio": next((audio["src"] for audio in card.every("audio")), None),
                    "text": card.text,
                }
            )
        return found


def listed(cards: list[dict[str, Any]], **columns: object) -> list[int]:
    """Places of the clips with these values."""
    return [at for at, card in enumerate(cards) if all(card[name] == value for name, value in columns.items())]
