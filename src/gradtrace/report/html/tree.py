"""How do the rows of a path fold? By the module tree: neighbours that share the beginning of their paths are a node.

layers                 rows 1 to 1000
  layers.999 … 960     a range, because a thousand children at once help nobody
    layers.999         a row
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_CHILDREN = 32
"""More siblings than this are joined to ranges."""
MOST_OPEN = 40
"""Rows that are visible at first: about two screens."""


@dataclass(frozen=True, slots=True)
class Node:
    """A row, or the rows of a module or of a range of modules."""

    label: str
    first: int
    last: int
    """Rows from `first` to `last`, both included."""
    children: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """A node in the order of reading."""

    label: str
    first: int
    last: int
    level: int
    parent: int
    """Place of its parent among the lines, -1 at the top."""
    is_open: bool
    num_children: int


def tree(paths: Sequence[str]) -> tuple[Node, ...]:
    """The nodes of rows with these module paths, in the order given.

    >>> [(node.label, len(node.children)) for node in tree(["head", "body.1.fc", "body.1.act", "body.0.fc"])]
    [('head', 0), ('body', 2)]
    """
    parts = [path.split(".") for path in paths]
    return _chunked(_nodes(parts, 0, len(parts), 0))


def _nodes(parts: Sequence[Sequence[str]], start: int, stop: int, level: int) -> tuple[Node, ...]:
    found = []
    for _, group in groupby(range(start, stop), key=lambda i: parts[i][level] if level < len(parts[i]) else f"\0{i}"):
        rows = list(group)
        first, last = rows[0], rows[-1]
        if len(rows) == 1:
            found.append(Node(".".join(parts[first]), first, first))
            continue
        shared = _shared(parts[first : last + 1])
        depth = max(shared, level + 1)
        children = _chunked(_nodes(parts, first, last + 1, depth))
        found.append(Node(".".join(parts[first][:depth]), first, last, children))
    return tuple(found)


def _shared(paths: Sequence[Sequence[str]]) -> int:
    """Parts that all these paths begin with."""
    return sum(1 for _ in takewhile(lambda same: len(set(same)) == 1, zip(*paths, strict=False)))


def _chunked(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    if len(nodes) <= MOST_CHILDREN:
        return nodes
    size = max(math.ceil(len(nodes) / MOST_CHILDREN), math.ceil(math.sqrt(len(nodes))))
    chunks = [nodes[i : i + size] for i in range(0, len(nodes), size)]
    return tuple(
        Node(f"{chunk[0].label} … {chunk[-1].label}", chunk[0].first, chunk[-1].last, chunk)
        if len(chunk) > 1
        else chunk[0]
        for chunk in chunks
    )


def lines(nodes: Sequence[Node]) -> tuple[Line, ...]:
    """The nodes depth first; opened level by level for as long as few lines are visible."""
    opened = _open(nodes)
    flat: list[Line] = []

    def visit(node: Node, level: int, parent: int) -> None:
        place = len(flat)
        flat.append(Line(node.label, node.first, node.last, level, parent, id(node) in opened, len(node.children)))
        for child in node.children:
            visit(child, level + 1, place)

    for node in nodes:
        visit(node, 0, -1)
    return tuple(flat)


def _open(nodes: Sequence[Node]) -> set[int]:
    """Whole levels, as long as what they show fits."""
    opened: set[int] = set()
    num_visible, level = len(nodes), list(nodes)
    while level:
        children = [child for node in level for child in node.children]
        num_visible += len(children)
        if num_visible > MOST_OPEN:
            break
        opened |= {id(node) for node in level if node.children}
        level = children
    return opened
