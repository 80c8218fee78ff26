"""The tape as a graph: which ops lie between the loss and the leaves, and in which order does gradient reach them?

Kahn's algorithm (1962) over ``node.next_functions``: an op comes after every op that it receives gradient from.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.autograd.graph import GradientEdge

from gradtrace.tape.kinds import LEAF

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor
    from torch.autograd.graph import Node

Edge = tuple[int, int]
"""(index of a node, slot): of an arriving gradient the slot is an input of the source, else an output of the target."""


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes from the loss to the leaves; `targets[i][slot]` is where node i passes the gradient of its input `slot`."""

    nodes: tuple[Node, ...]
    targets: tuple[tuple[Edge | None, ...], ...]
    arrivals: dict[Edge, tuple[Edge, ...]]
    """(node, output) -> the (node, input slot) pairs whose gradients are summed there."""

    def leaves(self) -> dict[int, Tensor]:
        """Index of each leaf op and the tensor that it accumulates into."""
        return {i: node.variable for i, node in enumerate(self.nodes) if node.name() == LEAF}  # type: ignore[attr-defined]


def walk(roots: Iterable[Node]) -> Graph:
    """The graph that is reachable from `roots`, in topological order; linear in nodes and edges."""
    roots = list(dict.fromkeys(roots))
    children = _children(roots)
    waiting = Counter(child for pairs in children.values() for child, _ in filter(None, pairs))
    ready = deque(node for node in roots if not waiting[node])
    order: dict[Node, int] = {}
    while ready:
        node = ready.popleft()
        order[node] = len(order)
        for child, _ in filter(None, children[node]):
            waiting[child] -= 1
            if not waiting[child]:
                ready.append(child)
    targets = tuple(tuple((order[pair[0]], pair[1]) if pair else None for pair in children[node]) for node in order)
    arrivals: dict[Edge, list[Edge]] = {}
    for source, pairs in enumerate(targets):
        for slot, target in enumerate(pairs):
            if target is not None:
                arrivals.setdefault(target, []).append((source, slot))
    return Graph(tuple(order), targets, {target: tuple(edges) for target, edges in arrivals.items()})


def reached_leaves(roots: Iterable[Any]) -> list[Tensor]:
    """The tensors that backward from `roots`, tensors or edges of the tape, would give a gradient to.

    >>> import torch
    >>> w, x = torch.ones(2, requires_grad=True), torch.ones(2)
    >>> [leaf is w for leaf in reached_leaves([(w * x).sum()])]
    [True]
    """
    nodes = [root.node if isinstance(root, GradientEdge) else getattr(root, "grad_fn", None) for root in roots]
    graph = walk([node for node in nodes if node is not None])
    leaves = list(graph.leaves().values())
    nodes, order = [], list(graph.nodes)
    del graph
    release(order)
    return leaves


def _children(roots: list[Node]) -> dict[Node, tuple[tuple[Node, int] | None, ...]]:
    children: dict[Node, tuple[tuple[Node, int] | None, ...]] = {}
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node in children:
            continue
        children[node] = tuple((child, port) if child is not None else None for child, port in node.next_functions)
        stack.extend(child for child, _ in filter(None, children[node]) if child not in children)
    return children


def release(nodes: list[Node]) -> None:
    """Let go of `nodes` (from the loss to the leaves, held by nobody else) one by one, the loss first.

    A node that Python has seen frees its successors in a recursion: 30,000 ops one behind the other, let go by their
    end or all at once, overflow the stack of the process.
    """
    nodes.reverse()
    while nodes:
        nodes.pop()
