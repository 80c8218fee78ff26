"""How far is the compiled code from the uncompiled one, by the norms of the weights' gradients, and is that rounding?

Both evaluate the same formula in another order. Each of N ops, on the way to the loss and back, may be off by as many
units in the last place as a pairwise sum of n numbers is long, log2(n) (Higham 2002, Accuracy and Stability of
Numerical Algorithms, sec. 4.2), and errors of one sign add up: together 2 N log2(n) units at the most, as long as no
layer is ill-conditioned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.diagnosis.thresholds import EPSILON, TELLABLE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from gradtrace.records.trace import TensorStats, Trace


@dataclass(frozen=True, slots=True)
class Parting:
    """Of the two codes."""

    distance: float
    """[fraction] The largest over the weights, |compiled - uncompiled| / uncompiled, of the gradients' norms."""
    rounding: float
    """[fraction] What rounding explains."""
    first: str
    """The weight, seen from the loss, from which on they are farther apart than that; '' where none is."""
    is_random: bool
    """Whether random numbers were drawn on the way, which compiled code may draw otherwise."""

    @property
    def is_beyond_rounding(self) -> bool:
        """Whether the two part, as far as that can be told."""
        return bool(self.first) and not self.is_random

    def __str__(self) -> str:
        """A sentence's half for the notes of the trace."""
        told = f"gradient norms of weights are within {self.distance:.2g} (relative) of the compiled code's"
        if self.is_beyond_rounding:
            return (
                f"{told}, more than rounding explains ({self.rounding:.2g}): from {self.first} on, seen from the loss"
            )
        if self.first:
            return f"{told}: random numbers are drawn on the way, and compiled code may draw others"
        return told


def parting(compiled: Trace, uncompiled: Trace, alone: Collection[str], *, is_random: bool) -> Parting | None:
    """Of the weights `alone` that get their gradient from one call each; None where there is none.

    Args:
        compiled: the training's own trace, with the gradients that reached the weights.
        uncompiled: the whole.
        alone: names of the weights to compare.
        is_random: whether random numbers were drawn.
    """
    theirs = {p.name: p.gradient for p in compiled.parameters}
    ours = {op.parameter: op.received for op in uncompiled.ops if op.parameter is not None and op.parameter in alone}
    distances = dict(_distances(_in_order(uncompiled, ours), theirs, ours))
    if not distances:
        return None
    rounding = _rounding(uncompiled)
    is_tellable = rounding < TELLABLE
    first = next((name for name, far in distances.items() if is_tellable and not far <= rounding), "")
    return Parting(max(distances.values()), rounding, first, is_random)


def _in_order(trace: Trace, wanted: Mapping[str, object]) -> list[str]:
    """From the loss on."""
    return list(dict.fromkeys(name for op in trace.ops for name in op.weights if name in wanted))


def _distances(
    names: Sequence[str], theirs: Mapping[str, TensorStats | None], ours: Mapping[str, TensorStats | None]
) -> Iterator[tuple[str, float]]:
    for name in names:
        a, b = theirs.get(name), ours.get(name)
        if a is None or b is None or not math.isfinite(a.norm) or not math.isfinite(b.norm):
            continue
        yield name, abs(a.norm - b.norm) / b.norm if b.norm > 0.0 else math.inf if a.norm > 0.0 else 0.0


def _rounding(trace: Trace) -> float:
    received = [op.received for op in trace.ops if op.received is not None]
    epsilon = max((EPSILON.get(stats.dtype, 0.0) for stats in received), default=0.0)
    longest = max((stats.numel for stats in received), default=1)
    return epsilon * 2 * len(received) * max(1.0, math.log2(max(longest, 2)))
