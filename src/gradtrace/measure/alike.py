"""Activations that a recurrence repeats by the hundred: those of one kind and shape are read off the tape together.

What autograd saved of them is their result y, from which a' follows (sigmoid: y (1 - y); tanh: 1 - y^2). They are
stacked in bounded batches and each statistic is reduced once for a batch, to the same numbers as one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gradtrace.measure.forward import PART_SIZE, unit_axis
from gradtrace.measure.reduction import SAMPLE_SIZE, count_rows, step_of
from gradtrace.measure.seen import SATURATED_FRAC, Seen
from gradtrace.tape.activations import TABLE, wide
from gradtrace.tape.derivatives import INVERSES
from gradtrace.tape.kinds import base_name
from gradtrace.tape.private import is_packed, is_saved, saved

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor
    from torch.autograd.graph import Node

    from gradtrace.measure.deferred import Deferred

_LEAST = 4
"""So many of a kind are worth a batch."""

_Kind = tuple[str, torch.Size, torch.dtype, torch.device, int]


def read_alike(nodes: Sequence[Node], deferred: Deferred) -> dict[Node, Seen]:
    """What the tape saved of sigmoids and tanhs of which there are several alike; of all other ops nothing."""
    groups: dict[_Kind, list[Node]] = {}
    for node in nodes:
        name = base_name(node.name())
        if name in INVERSES and is_saved(node, "result") and not is_packed(node, "_saved_result"):
            y = saved(node, "result")
            if y.layout is torch.strided and y.numel() and not y.is_complex() and not y.is_nested:
                axis = unit_axis(y, node) % max(y.dim(), 1)
                groups.setdefault((name, y.shape, y.dtype, y.device, axis), []).append(node)
    found: dict[Node, Seen] = {}
    with torch.no_grad():
        for (name, shape, _, _, axis), members in groups.items():
            for batch in _batches(members, shape.numel()) if len(members) >= _LEAST else ():
                ys = torch.stack([wide(saved(node, "result")) for node in batch])
                found |= zip(batch, _measured(name, ys, axis, deferred), strict=True)
    return found


def _batches(members: list[Node], numel: int) -> Iterator[list[Node]]:
    size = max(1, PART_SIZE // numel)
    for start in range(0, len(members), size):
        yield members[start : start + size]


def _measured(name: str, ys: Tensor, axis: int, deferred: Deferred) -> Iterator[Seen]:
    slope, inverse = INVERSES[name]
    activation = TABLE[name.lower()](ys)
    assert activation is not None
    slopes = slope(ys).abs_()
    rows = slopes.view(len(ys), -1)
    others = [i + 1 for i in range(ys.dim() - 1) if i != axis]
    x = inverse(ys.view(len(ys), -1)[:, :: step_of(rows.shape[1], SAMPLE_SIZE)])
    numel, num_units = rows.shape[1], ys.shape[axis + 1] if ys.dim() > 1 else 1
    columns = {
        "sum": rows.sum(1),
        "norm": torch.linalg.vector_norm(
            rows, dim=1, dtype=torch.float32 if ys.device.type == "mps" else torch.float64
        ),
        "flat": count_rows(torch.lt, rows, activation.flat_below(SATURATED_FRAC)),
        "nonzero": count_rows(torch.ne, rows, 0.0),
        "units": slopes.amax(others) if others else rows,
        "x": x,
    }
    handles = {what: deferred.put_rows(values) for what, values in columns.items()}
    for i in range(len(ys)):
        yield Seen(activation=(activation, {what: each[i] for what, each in handles.items()}, numel, num_units))
