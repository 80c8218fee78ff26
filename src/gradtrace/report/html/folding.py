"""How is a flow through a thousand blocks drawn? Blocks that look alike are folded into one, their shares averaged.

A *waist* is a stretch that no way passes by. Between two waists lies a block; neighbouring blocks of the same
shape (the same stretches, up to numbers in their names, joined in the same way) fold into one drawn block.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.report.html.ways import Stretch, Way, Ways


@dataclass(frozen=True, slots=True)
class Block:
    """Stretches first to last, both waists (a waist ends one block and begins the next), and the ways between them."""

    first: int
    last: int
    ways: tuple[Way, ...]

    def shape(self, stretches: Sequence[Stretch]) -> tuple[object, ...]:
        """What alike blocks share."""
        inner = tuple(re.sub(r"\d+", "*", stretches[i].name) for i in range(self.first + 1, self.last + 1))
        joined = tuple(sorted((way.source - self.first, way.target - self.first) for way in self.ways))
        return (self.last - self.first, inner, joined)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What is drawn as one: a stretch, or several alike."""

    stretches: tuple[int, ...]


def blocks(graph: Ways) -> tuple[Block, ...]:
    """The graph cut at its waists: stretches that no way passes by (they are in the order of the backward pass)."""
    crossing = [0] * (len(graph.stretches) + 1)
    for way in graph.ways:
        crossing[way.source + 1] += 1
        crossing[way.target] -= 1
    waists = [i for i, num_passing in enumerate(accumulate(crossing[:-1])) if num_passing == 0]
    inside: list[list[Way]] = [[] for _ in waists]
    for way in graph.ways:
        inside[bisect_right(waists, way.source) - 1].append(way)
    return tuple(Block(first, last, tuple(inside[i])) for i, (first, last) in enumerate(pairwise(waists)))


def fold(graph: Ways, most: int) -> tuple[list[Drawn], list[Way]]:
    """At most about `most` blocks: the stretches to draw, and the ways between their places."""
    cut = blocks(graph)
    runs: list[list[Block]] = []
    for block in cut:
        if runs and runs[-1][-1].shape(graph.stretches) == block.shape(graph.stretches):
            runs[-1].append(block)
        else:
            runs.append([block])
    size = max(1, math.ceil(len(cut) / max(1, most - len(runs))))
    groups = [run[i : i + size] for run in runs for i in range(0, len(run), size)]
    drawn = [Drawn((0,))]
    ways: list[Way] = []
    for group in groups:
        ways += _averaged(group, len(drawn) - 1)
        num_inside = group[0].last - group[0].first
        drawn += [Drawn(tuple(block.first + offset for block in group)) for offset in range(1, num_inside + 1)]
    return drawn, ways


def _averaged(group: Sequence[Block], start: int) -> list[Way]:
    """The ways of the first block between the drawn places, with the means over the group."""
    columns = zip(*(sorted(block.ways, key=lambda way: (way.source, way.target)) for block in group), strict=True)
    found, offset = [], start - group[0].first
    for alike in columns:
        way = alike[0]
        found.append(
            replace(
                way,
                source=way.source + offset,
                target=way.target + offset,
                carried=_mean([each.carried for each in alike]),
                share=_mean([each.share for each in alike]),
                norm=_mean([each.norm for each in alike]),
                total=_mean([each.total for each in alike]),
            )
        )
    return found


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
