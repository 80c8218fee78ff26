"""The recurrences of one trace as the rules see them: layers with one or two directions, and what time does to each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.diagnosis.profile import log10_ratio
from gradtrace.diagnosis.thresholds import SEQUENCE_ENDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.horizon import Horizon
    from gradtrace.records.time import Chain, ThroughTime


@dataclass(frozen=True, slots=True)
class Layer:
    """The chains of one layer of one call: one, or both directions of a bidirectional module."""

    chains: tuple[Chain, ...]

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What it is called in every batch."""
        one = self.chains[0]
        return one.module, one.kind, one.layer, one.call

    @property
    def worst(self) -> Chain:
        """The direction with the shorter horizon."""
        return min(self.chains, key=lambda chain: chain.horizon.steps if chain.horizon else math.inf)

    @property
    def num_steps(self) -> int:
        """Steps that the loss gradient travels."""
        return max(last - first for first, last in (chain.span for chain in self.chains))

    def extent(self, rate: float) -> float:
        """Decades that the loss gradient gains (loses: negative) from the late tenth of the states to the early tenth.

        In a bidirectional layer a position has the gradient of both directions' states; which end is early depends on
        the direction, so that the sign is that of `rate`, decades per step of a random gradient.
        """
        if len(self.chains) == 1 or any(chain.cuts for chain in self.chains):
            return max((_decades(_travelled(chain)) for chain in self.chains), key=abs)
        ahead, back = self.chains[0].states[1:], self.chains[1].states[:0:-1]
        contrast = _decades([math.hypot(a, b) for a, b in zip(ahead, back, strict=False)])
        return math.copysign(contrast, rate)


def layers(record: ThroughTime) -> list[Layer]:
    """The layers of recurrent modules and cells, in order; loops of the user's own are left out."""
    groups: dict[tuple[str, int, int], list[Chain]] = {}
    for chain in record.chains:
        if chain.kind != "loop":
            groups.setdefault((chain.module, chain.layer, chain.call), []).append(chain)
    return [Layer(tuple(chains)) for chains in groups.values()]


def chain_of(record: ThroughTime | None, module: str) -> Chain | None:
    """The longest chain of a module, of what is inside it or of what it is inside of."""
    if record is None:
        return None
    near = [chain for chain in record.chains if _related(chain.module, module)]
    return max(near, key=lambda chain: chain.num_steps, default=None)


def loop_extent(chain: Chain) -> float:
    """Decades that the loss gradient gains or loses over a single chain."""
    return _decades(_travelled(chain))


def horizon_of(layer: Layer, record: ThroughTime) -> Horizon | None:
    """The horizon of the same layer as it was measured on `record` (on the first batch)."""
    same = next((one for one in layers(record) if one.key == layer.key), None)
    return same.worst.horizon if same is not None else None


def _related(a: str, b: str) -> bool:
    return a == b or a.startswith(f"{b}.") or b.startswith(f"{a}.")


def _travelled(chain: Chain) -> Sequence[float]:
    first, last = chain.span
    return chain.states[first : last + 1]


def _decades(states: Sequence[float]) -> float:
    """Of the early tenth over the late tenth (RMS of either); 0 where nothing can be said."""
    if len(states) < 2:
        return 0.0
    width = max(1, len(states) // SEQUENCE_ENDS)
    early, late = (math.hypot(*part) for part in (states[:width], states[-width:]))
    ratio = log10_ratio(early, late)
    return 0.0 if math.isnan(ratio) else ratio
