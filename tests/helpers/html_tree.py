"""A page as a tree, so that tests ask what a browser would find in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "link", "img", "input", "base", "hr", "source", "embed"}


@dataclass
class Node:
    """An element; children are elements and texts, in their order."""

    tag: str
    attributes: dict[str, str | None]
    children: list[Node | str] = field(default_factory=list)

    def all(self, tag: str = "", kind: str = "") -> Iterator[Node]:
        """Every element below, of this tag, with this class."""
        for child in self.children:
            if isinstance(child, Node):
                classes = (child.attributes.get("class") or "").split()
                if tag in ("", child.tag) and (not kind or kind in classes):
                    yield child
                yield from child.all(tag, kind)

    def one(self, tag: str = "", kind: str = "") -> Node:
        """The first of those, which there has to be."""
        return next(self.all(tag, kind))

    def by_id(self, name: str) -> Node:
        """The element with this id, which there has to be."""
        return next(node for node in self.all() if node.attributes.get("id") == name)

    @property
    def text(self) -> str:
        """All text below, white space as it is."""
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    @property
    def line(self) -> str:
        """All text below on one line."""
        return " ".join(self.text.split())


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Node("document", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def tree(page: str) -> Node:
    """The tree of `page`; fails where an element is not closed by its own name."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert [node.tag for node in reader.open] == ["document"]
    return reader.open[0]
