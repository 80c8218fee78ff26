"""By which ways does the gradient of one layer come from the loss, and how much by each?

Going back from the target, what an op carries is dealt out to the edges along which it received its gradient, each by
its share <g_i, g>/|g|^2. Shares may be negative (a way that works against the sum); what is dealt out is in proportion
to their sizes, so that all ways together carry exactly one:

    carried(source) += carried(op) |share_i| / sum_j |share_j|,        carried(target) = 1

Ops in a row without a branch between them are one stretch; a graph of stretches has no cycle, whatever the modules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.report.html.roles import role

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.measure.path import Paths
    from gradtrace.records.trace import Op

SMALLEST = 1e-12
"""Ways that carry less are left out: nothing of them is left in float32 sums, let alone in a picture."""


@dataclass(frozen=True, slots=True)
class Way:
    """An edge from one stretch to the next."""

    source: int
    target: int
    carried: float
    """Of the target layer's gradient, the fraction that came this way."""
    share: float
    """<g_i, g>/|g|^2 where it arrives; NaN where that is not known."""
    norm: float
    """|g_i|: the gradient that came this way."""
    total: float
    """|g|: all that arrived there."""
    role: str = ""
    """'query', 'key' or 'value' where it comes from attention."""

    @property
    def cosine(self) -> float:
        """Of the angle between what came this way and the sum: share |g| / |g_i|."""
        return min(1.0, max(-1.0, self.share * self.total / self.norm)) if self.norm > 0 else math.nan


@dataclass(frozen=True, slots=True)
class Stretch:
    """Ops in a row: all gradient that enters the first leaves the last."""

    ops: tuple[int, ...]
    name: str
    carried: float
    chosen: int | None
    """The stretch before it on its critical path; None at the start."""


@dataclass(frozen=True, slots=True)
class Ways:
    """The graph, from the loss (first) to the target layer (last)."""

    stretches: tuple[Stretch, ...]
    ways: tuple[Way, ...]
    num_left_out: int
    """Edges that carry less than `SMALLEST`."""


def ways(paths: Paths, target: int, name_of: Callable[[Op], str]) -> Ways:
    """The ways to op `target`, its ops joined as long as `name_of` gives them one name."""
    carried, edges, num_left_out = _deal(paths, target)
    outgoing: dict[int, int] = {}
    incoming: dict[int, list[tuple[int, int, float]]] = {}
    for source, slot, op, weight in edges:
        outgoing[source] = outgoing.get(source, 0) + 1
        incoming.setdefault(op, []).append((source, slot, weight))
    stretch_of: dict[int, int] = {}
    members: list[list[int]] = []
    names: list[str] = []
    for op in sorted({target, *incoming, *outgoing}):
        arrivals, name = incoming.get(op, []), name_of(paths.ops[op])
        alone = len(arrivals) == 1 and outgoing[arrivals[0][0]] == 1
        if alone and names[stretch_of[arrivals[0][0]]] == name:
            stretch_of[op] = stretch_of[arrivals[0][0]]
            members[stretch_of[op]].append(op)
        else:
            stretch_of[op] = len(members)
            members.append([op])
            names.append(name)
    stretches = tuple(
        Stretch(tuple(ops), name, carried[ops[0]], _chosen(paths, ops[0], stretch_of))
        for ops, name in zip(members, names, strict=True)
    )
    found = [
        _way(paths, (stretch_of[source], stretch_of[op]), (source, slot), op, weight)
        for source, slot, op, weight in edges
        if stretch_of[source] != stretch_of[op]
    ]
    return Ways(stretches, tuple(found), num_left_out)


def _deal(paths: Paths, target: int) -> tuple[dict[int, float], list[tuple[int, int, int, float]], int]:
    """What each op carries, and the edges (source, slot, op, carried) that carry enough."""
    carried = {target: 1.0}
    edges, num_left_out = [], 0
    for op in range(target, -1, -1):
        if op not in carried or not paths.arrivals[op]:
            continue
        sizes = [_size(paths, arrival) for arrival in paths.arrivals[op]]
        total = math.fsum(sizes)
        for (source, slot), size in zip(paths.arrivals[op], sizes, strict=True):
            weight = carried[op] * (size / total if total else 1 / len(sizes))
            if weight < SMALLEST:
                num_left_out += 1
                continue
            carried[source] = carried.get(source, 0.0) + weight
            edges.append((source, slot, op, weight))
    return carried, edges, num_left_out


def _size(paths: Paths, arrival: tuple[int, int]) -> float:
    share = paths.ops[arrival[0]].shares[arrival[1]]
    return abs(share) if share is not None and math.isfinite(share) else 0.0


def _chosen(paths: Paths, op: int, stretch_of: dict[int, int]) -> int | None:
    arrival = paths.chosen[op]
    return None if arrival is None else stretch_of.get(arrival[0])


def _way(paths: Paths, ends: tuple[int, int], arrival: tuple[int, int], op: int, weight: float) -> Way:
    passed, received = paths.ops[arrival[0]].passed[arrival[1]], paths.ops[op].received
    share = paths.ops[arrival[0]].shares[arrival[1]]
    return Way(
        *ends,
        weight,
        math.nan if share is None else share,
        passed.norm if passed is not None else math.nan,
        received.norm if received is not None else math.nan,
        role(paths, *arrival),
    )
