"""Which rows does a picture have? One per layer; where there are too many, neighbours that are alike fold into one.

The decades of a folded row are added up, so that the sum over the rows stays what it was.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.records.vocabulary import Factor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gradtrace.measure.names import Names

MAX_ROWS = 32
"""More rows than this are folded."""
MIN_FOLDED_ROWS = 12
"""So many are left at least, so that a slope stays visible among a thousand layers that are alike."""
TOLERANCES = (0.1, 0.25, 0.5, 1.0, 2.0, math.inf)
"""Decades per factor within which layers are alike; the first that makes it short enough."""


@dataclass(frozen=True, slots=True)
class Row:
    """One layer, or several alike."""

    first: str
    """Module path; of several, the one nearest to the loss."""
    last: str
    num_layers: int
    gains: dict[Factor, float]
    """Decades per factor."""
    before: float
    """Decades from the loss gradient to the output of this layer."""
    after: float
    """Decades from the loss gradient to behind this layer."""
    function: str
    gradient_rms: float
    relative_gradient: float
    """|dL/dW| / |W| of the layer nearest to the input; NaN without weights."""
    source: str = ""
    relative_update: float = math.nan
    """|update| / |W| of the first optimizer step, of the same layer; NaN where none was taken."""
    is_layer: bool = True
    """Whether the gradient goes through weights here, and not past them or through none."""
    labels: tuple[str, ...] = ()
    """What a single layer may be called, the most telling first: ``38 Linear 32x32``, ``38 Linear``, ``38``."""

    def told_beside(self, other: Row, names: Names) -> str:
        """Its last layer in a sentence with `other`: by its weight, where both are the same module's."""
        if other is self or self.last != other.last or not self.labels:
            return names.told(self.last)
        return self.labels[1].removeprefix("model ")


def fold(rows: Sequence[Row], max_rows: int = MAX_ROWS) -> tuple[Row, ...]:
    """Join neighbours that are alike until about `max_rows` are left; the decades add up as before."""
    if len(rows) <= max_rows:
        return tuple(rows)
    blocks = _group(rows, lambda group, row: _block(group[0]) == _block(row) != "")
    rows = [join(group) for group in blocks]
    largest = max(2, math.ceil(len(rows) / MIN_FOLDED_ROWS))
    folded = list(rows)
    for tolerance in TOLERANCES:
        if len(folded) <= max_rows:
            break
        folded = [join(group) for group in _group(rows, lambda g, r: len(g) < largest and _alike(g[0], r, tolerance))]  # noqa: B023
    if len(folded) > max_rows:  # nothing alike: neighbours, whatever they are
        size = math.ceil(len(folded) / max_rows)
        folded = [join(folded[start : start + size]) for start in range(0, len(folded), size)]
    return tuple(folded)


def join(group: Sequence[Row]) -> Row:
    """One row for several."""
    if len(group) == 1:
        return group[0]
    first, last = group[0], group[-1]
    gains: dict[Factor, float] = {}
    for row in group:
        for factor, gain in row.gains.items():
            gains[factor] = gains.get(factor, 0.0) + gain
    block = _block(first)
    same_block = block != "" and block == _block(last)
    return Row(
        first=block if same_block else first.first,
        last=block if same_block else last.last,
        num_layers=sum(row.num_layers for row in group),
        gains={factor: gains[factor] for factor in Factor if factor in gains},
        before=first.before,
        after=last.after,
        function=first.function,
        gradient_rms=first.gradient_rms,
        relative_gradient=last.relative_gradient,
        source=first.source,
        relative_update=last.relative_update,
        is_layer=any(row.is_layer for row in group),
    )


def _group(rows: Sequence[Row], belongs: Callable[[list[Row], Row], bool]) -> list[list[Row]]:
    groups: list[list[Row]] = []
    for row in rows:
        if groups and belongs(groups[-1], row):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _block(row: Row) -> str:
    """Path up to its first number, as ``blocks.12`` of ``blocks.12.attn.out_proj``."""
    match = re.match(r"(?:.*?\.)??\d+(?=\.|$)", row.first)
    return match.group() if match else ""


def _alike(a: Row, b: Row, tolerance: float) -> bool:
    if _family(a.first) != _family(b.first) or a.function != b.function:
        return False
    decades = [(a.gains.get(factor, 0.0), b.gains.get(factor, 0.0)) for factor in a.gains.keys() | b.gains.keys()]
    return all(x == y or abs(x - y) <= tolerance for x, y in decades)


def _family(path: str) -> str:
    return re.sub(r"\d+", "*", path)
