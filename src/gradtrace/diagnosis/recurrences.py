"""The recurrences of one trace as the rules see them: layers with one or two directions, and what time does to each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.diagnosis.data_scale import scale_of_recurrence
from gradtrace.diagnosis.profile import log10_ratio
from gradtrace.diagnosis.thresholds import CLEAR_DECADES, DOMINANT_FRAC, INPUT_RMS, SEQUENCE_ENDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.diagnosis.scene import View
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
        the direction, so that the sign is that of `rate`, decades per step of a random gradient. Where it is read
        inside alone, either end is as far from that as a direction of its own makes it.
        """
        positions = self._positions()
        if positions is None or self._read_inside():
            return max((_decades(_travelled(chain)) for chain in self.chains), key=abs)
        return math.copysign(_decades(positions), rate)

    @property
    def starved_inside(self) -> bool:
        """Whether the positions between the two ends of a bidirectional layer get far less than the ends."""
        positions = None if self._read_inside() else self._positions()
        return positions is not None and log10_ratio(min(positions), max(positions)) <= -CLEAR_DECADES

    def _read_inside(self) -> bool:
        """Whether no direction is read where it ends, as of the word in the middle of a window."""
        return all(chain.span[1] < chain.num_steps for chain in self.chains)

    def _positions(self) -> list[float] | None:
        """Gradient by position of a bidirectional layer whose directions run through."""
        if [chain.direction for chain in self.chains] != ["forward", "backward"] or any(c.cuts for c in self.chains):
            return None
        ahead, back = self.chains[0].states[1:], self.chains[1].states[:0:-1]
        return [math.hypot(a, b) for a, b in zip(ahead, back, strict=False)]


def layers(record: ThroughTime) -> list[Layer]:
    """Of recurrent modules, cells and loops through time; a loop that takes nothing new in is a matter of depth."""
    groups: dict[tuple[str, int, int], list[Chain]] = {}
    for chain in record.chains:
        if chain.inputs == "varying":
            groups.setdefault((chain.module, chain.layer, chain.call), []).append(chain)
    return [Layer(tuple(chains)) for chains in groups.values()]


def worst_of(layer: Layer, record: ThroughTime) -> Chain | None:
    """The worse direction of the same layer as it was measured on `record` (on the first batch)."""
    same = next((one for one in layers(record) if one.key == layer.key), None)
    return same.worst if same is not None else None


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


def flattening_data(chain: Chain, view: View) -> float:
    """RMS of the data, an order of magnitude above unit scale, where all but the recurrent weights loses most."""
    budget = chain.budget()
    lost = math.fsum(budget.values())
    is_flat = lost < 0.0 and lost - budget["weights"] <= DOMINANT_FRAC * lost
    scale = scale_of_recurrence(chain.module, view) if is_flat and chain.layer == 0 else None
    return scale.input_rms if scale is not None and scale.input_rms >= INPUT_RMS else 0.0
