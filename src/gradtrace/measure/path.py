"""Along which ops does most of a target's gradient come, and what does each of them do to it?

The **critical path** of a target starts at the loss and, at each merge, takes the branch with the largest share
<g_i, g>/|g|^2 of the sum. Along it

    log10 |L'(target)| = log10 |L'(loss)| + sum over its steps (log10 gain of the op + log10 gain of the merge)

telescopes exactly; the **budget** is that sum per factor. Everything here is linear in the number of ops.

Zeros and non-numbers, on purpose: a gain to exactly zero is -inf decades, what follows it is 0 (nothing is left to
lose); once a norm is NaN or Inf the decades are NaN, and of several branches the one that is not finite is the path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.records.vocabulary import Factor

if TYPE_CHECKING:
    from gradtrace.records.trace import Op, Trace

Arrival = tuple[int, int]
"""(source op, its input slot): an edge along which gradient arrives."""


@dataclass(frozen=True, slots=True)
class Step:
    """Through one op of the path, and into the sum at the op after it."""

    op: int
    slot: int
    """Input of the op by which the path leaves it."""
    gain_log10: float
    """Decades from what the op received to what it passes on."""
    merge_log10: float
    """Decades from that to what its target received, all paths together; 0 where nothing else came."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The decades between the loss and a target, per factor."""

    target: int
    start_log10: float
    """log10 |L'(loss)|, or of the random cotangent."""
    end_log10: float
    """log10 |L'(target)|."""
    decades: tuple[tuple[Factor, float], ...]
    """Sum of the gains of each factor on the path, merges included; in the order of `Factor`, absent ones left out."""

    @property
    def total(self) -> float:
        """Sum over the factors."""
        return sum(decades for _, decades in self.decades)

    @property
    def residual(self) -> float:
        """What the sum misses of the whole: 0 up to rounding, and NaN where gradients are not finite."""
        if self.end_log10 == -math.inf and self.total == -math.inf:
            return 0.0
        return self.end_log10 - self.start_log10 - self.total

    def of(self, factor: Factor) -> float:
        """Decades of one factor."""
        return dict(self.decades).get(factor, 0.0)


class Paths:
    """All critical paths of one trace; make it once where several targets are asked about."""

    def __init__(self, trace: Trace) -> None:
        self.ops = trace.ops
        self.arrivals: list[list[Arrival]] = [[] for _ in trace.ops]
        """Per op, the edges along which gradient came."""
        for op in trace.ops:
            for slot, target in enumerate(op.targets):
                if target is not None and op.passed[slot] is not None:
                    self.arrivals[target[0]].append((op.index, slot))
        self.depths = self._depths()
        """Per op, the most ops with weights on a way to it: the way to follow where all that arrives is zero."""
        self.chosen: list[Arrival | None] = [self._choose(target) for target in range(len(trace.ops))]
        """Per op, the edge by which its critical path arrives; None where the backward pass starts."""

    def _depths(self) -> list[int]:
        depths = [0] * len(self.ops)
        for op in self.ops:
            depth = depths[op.index] + bool(op.weights)
            for target in op.targets:
                if target is not None:
                    depths[target[0]] = max(depths[target[0]], depth)
        return depths

    def path(self, target: int) -> tuple[Step, ...]:
        """The steps from the loss to `target`, the target's own gain left out; () for a start of the backward pass."""
        steps: list[Step] = []
        arrival = self.chosen[target]
        while arrival is not None:
            steps.append(self._step(arrival, target))
            target = arrival[0]
            arrival = self.chosen[target]
        return tuple(reversed(steps))

    def budget(self, target: int) -> Budget:
        """The decades along the critical path of `target`, per factor."""
        path = self.path(target)
        sums: dict[Factor, float] = {}
        for step in path:
            factor = self.ops[step.op].factor
            sums[factor] = sums.get(factor, 0.0) + step.gain_log10
            if step.merge_log10 != 0.0:
                sums[Factor.MERGE] = sums.get(Factor.MERGE, 0.0) + step.merge_log10
        return Budget(
            target,
            start_log10=log10(norm_of(self.ops[path[0].op if path else target])),
            end_log10=log10(norm_of(self.ops[target])),
            decades=tuple((factor, sums[factor]) for factor in Factor if factor in sums),
        )

    def _step(self, arrival: Arrival, target: int) -> Step:
        source, slot = arrival
        passed = self._passed(arrival)
        gain = decades_between(norm_of(self.ops[source]), passed)
        received = norm_of(self.ops[target])
        alone = len(self.arrivals[target]) == 1 and (received == passed or not math.isfinite(passed))
        merge = 0.0 if alone else decades_between(passed, received)
        return Step(source, slot, gain, merge)

    def _passed(self, arrival: Arrival) -> float:
        passed = self.ops[arrival[0]].passed[arrival[1]]
        assert passed is not None
        return passed.norm

    def _choose(self, target: int) -> Arrival | None:
        arrivals = self.arrivals[target]
        if len(arrivals) < 2:
            return arrivals[0] if arrivals else None
        broken = next((arrival for arrival in arrivals if not math.isfinite(self._passed(arrival))), None)
        if broken is not None:
            return broken
        return max(arrivals, key=lambda each: (self._share(each), self._passed(each), self.depths[each[0]]))

    def _share(self, arrival: Arrival) -> float:
        share = self.ops[arrival[0]].shares[arrival[1]]
        return share if share is not None and math.isfinite(share) else 0.0


def critical_path(trace: Trace, target: int) -> tuple[Step, ...]:
    """The path that carries most of the gradient of op `target`, from the loss to it."""
    return Paths(trace).path(target)


def budget(trace: Trace, target: int) -> Budget:
    """The decades between the loss and op `target` along its critical path, per factor."""
    return Paths(trace).budget(target)


def norm_of(op: Op) -> float:
    """|gradient that the op received|; 0 where none came."""
    return op.received.norm if op.received is not None else 0.0


def log10(norm: float) -> float:
    """Decades of a norm: -inf for zero, NaN for what is not finite."""
    if not math.isfinite(norm):
        return math.nan
    return math.log10(norm) if norm > 0.0 else -math.inf


def decades_between(before: float, after: float) -> float:
    """log10(after / before): -inf to zero, 0 from zero to zero, NaN where either is not finite."""
    if before == after and math.isfinite(after):
        return 0.0
    return log10(after) - log10(before)
