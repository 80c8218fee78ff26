"""What does one trace say that stands for the traces of R ranks, each of its own share of the batch (data parallelism)?

The loss of all is the mean of theirs, so that an activation's gradient for the whole batch is the ranks' gradients g_r
one below the other, over R, and

    |g|^2 = sum |g_r|^2 / R^2 = (mean of |g_r|^2) / R

The 1 / R is the same at every op and cancels in each gain: a gain of root mean squares is that of one process with the
whole batch; only the op that begins with the loss has one that is sqrt(R) smaller there, where it is the mean over the
ranks as well. Along a path gains of ops and merges telescope, whatever positive numbers norms are, so that the factors
add up to the whole as they do on each rank; the shares of what arrives at an op, <g_i, g> / |g|^2 of the whole, are

    share_i = sum share_{i,r} |g_r|^2 / sum |g_r|^2

and sum to 1 where each rank's do. What each rank has a copy of (a weight) is rank 0's. A parameter's gradient is each
rank's own, whose mean the optimizer sees: nothing here knows the mean's norm, which is in the run's row of that step.

Not of the whole but of the ranks' own numbers are the mean of quartiles and the mean of a best constant's loss.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gradtrace.distributed.traces.pool import Pool
from gradtrace.records.over_ranks import OverRanks
from gradtrace.records.trace import PlateauStats
from gradtrace.tape.kinds import SQUASHING, base_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gradtrace.records.trace import (
        ActivationStats,
        AttentionStats,
        Coverage,
        ForwardStats,
        ObjectiveStats,
        Op,
        ParameterStats,
        TensorStats,
        Trace,
    )

NOTE = (
    "merged over {} ranks by the mean of squares (a parameter's gradient is each rank's own, before it is averaged); "
    "{}everything else that no number says is rank 0's"
)
SPREAD = "norms of what ops received spread over ranks by {:.1%} in the median, and by {:.1%} at {}; "


class Merging:
    """Of this rank's `trace` with the others': `pool` is what they exchange, `whole` what it comes to."""

    def __init__(self, trace: Trace) -> None:
        self.pool = pool = Pool()
        self.own = trace
        pool.same(trace.probe, len(trace.ops), len(trace.parameters))
        self._is_nan = pool.total(float(math.isnan(trace.loss)))
        self._loss = pool.mean(trace.loss)
        self._places: list[int] = []
        """By op, the number of the norm of what it received."""
        self._spreads: list[Callable[[], float | None]] = []
        self._ops = [self._op(op) for op in trace.ops]
        self._shares = [[self._share(op, slot) for slot in range(len(op.targets))] for op in trace.ops]
        self._parameters = [_parameter(one, pool) for one in trace.parameters]

    def whole(self, num_ranks: int) -> Trace:
        """Once `pool` is read."""
        ops = tuple(
            replace(build(), shares=tuple(share() for share in shares))
            for build, shares in zip(self._ops, self._shares, strict=True)
        )
        spreads = tuple(spread() for spread in self._spreads)
        return replace(
            self.own,
            ops=ops,
            parameters=tuple(build() for build in self._parameters),
            loss=math.nan if self._is_nan() else self._loss(),
            coverage=_told(self.own.coverage, ops, spreads, num_ranks),
            ranks=OverRanks(num_ranks, spreads),
        )

    def _op(self, op: Op) -> Callable[[], Op]:
        pool = self.pool
        pool.same(op.name, op.factor, op.targets, op.parameter, op.weights, op.function)
        self._places.append(pool.num_norms)
        received = _tensor(op.received, pool)
        self._spreads.append(_none if op.received is None else pool.spread(self._places[-1]))
        passed = [_tensor(one, pool) for one in op.passed]
        activation, forward = _activation(op.activation, pool), _forward(op.forward, pool)
        objective, attention = _objective(op.objective, pool), _attention(op.attention, pool)
        trapped, plateau = pool.mean(op.trapped_frac), _plateau(op, pool)
        return lambda: replace(
            op,
            received=received(),
            passed=tuple(build() for build in passed),
            activation=activation(),
            forward=forward(),
            objective=objective(),
            attention=attention(),
            trapped_frac=trapped(),
            plateau=plateau(),
        )

    def _share(self, op: Op, slot: int) -> Callable[[], float | None]:
        target, own = op.targets[slot], op.shares[slot]
        if target is None or self.own.ops[target[0]].received is None:
            return lambda: own
        share = self.pool.share(own, self._places[target[0]])
        return lambda: None if own is None and not share() else share()


def _none() -> None:
    """Of what is not there, on any rank."""


def _tensor(stats: TensorStats | None, pool: Pool) -> Callable[[], TensorStats | None]:
    pool.same(stats is None)
    if stats is None:
        return _none
    pool.same(stats.dtype, len(stats.shape))
    norm = pool.norm(stats.norm)
    largest, numel = pool.largest(stats.max_abs), float(stats.numel)
    zeros, odd = pool.mean(stats.zero_frac, numel), pool.mean(stats.nonfinite_frac, numel)
    bins, examples = pool.histogram(stats.log2_counts), _quantiles(stats.example_norms, 5, pool)
    return lambda: replace(
        stats,
        norm=norm(),
        max_abs=largest(),
        zero_frac=zeros(),
        nonfinite_frac=odd(),
        log2_counts=bins(),
        example_norms=examples(),
    )


def _quantiles(values: Sequence[float], num: int, pool: Pool) -> Callable[[], tuple[float, ...]]:
    """`num` from the minimum to the maximum, over the ranks that know them."""
    least, *inner, most = values or (math.inf, *(math.nan,) * (num - 2), -math.inf)
    reads = [pool.smallest(least), *(pool.mean(value) for value in inner), pool.largest(most)]
    return lambda: tuple(read() for read in reads) if reads[0]() <= reads[-1]() else ()


def _known(value: float, pool: Pool) -> Callable[[], float]:
    """A root mean square, over the ranks that know it (NaN: not known)."""
    square = pool.mean(value**2)
    return lambda: math.sqrt(square())


def _activation(stats: ActivationStats | None, pool: Pool) -> Callable[[], ActivationStats | None]:
    pool.same(stats is None)
    if stats is None:
        return _none
    pool.same(stats.function, stats.num_units)
    num = float(stats.num_samples)
    mean, rms = pool.mean(stats.derivative_mean, num), _known(stats.derivative_rms, pool)
    saturated, zeros = pool.mean(stats.saturated_frac, num), pool.mean(stats.zero_frac, num)
    dead, flat = pool.everywhere(stats.dead_units, stats.num_units), pool.smallest(float(stats.saturated_units))
    samples = pool.total(num)
    centre = pool.mean(stats.preactivation_mean, num)
    square = pool.mean(stats.preactivation_mean**2 + stats.preactivation_std**2, num)
    quantiles = _quantiles(stats.preactivation_quantiles, 7, pool)
    return lambda: replace(
        stats,
        derivative_mean=mean(),
        derivative_rms=rms(),
        saturated_frac=saturated(),
        zero_frac=zeros(),
        dead_units=dead(),
        saturated_units=round(flat()),
        num_samples=round(samples()),
        preactivation_mean=centre(),
        preactivation_std=math.sqrt(max(square() - centre() ** 2, 0.0)) if square() == square() else math.nan,
        preactivation_quantiles=quantiles(),
    )


def _forward(stats: ForwardStats | None, pool: Pool) -> Callable[[], ForwardStats | None]:
    pool.same(stats is None)
    if stats is None:
        return _none
    given, made = pool.norm(stats.input_rms), pool.norm(stats.output_rms)
    return lambda: replace(stats, input_rms=given(), output_rms=made())


def _objective(stats: ObjectiveStats | None, pool: Pool) -> Callable[[], ObjectiveStats | None]:
    pool.same(stats is None)
    if stats is None:
        return _none
    value, constant, floor = pool.mean(stats.value), pool.mean(stats.constant), pool.mean(stats.floor)
    beyond = pool.largest(stats.beyond)
    return lambda: replace(stats, value=value(), constant=constant(), floor=floor(), beyond=beyond())


def _plateau(op: Op, pool: Pool) -> Callable[[], PlateauStats | None]:
    """Entries of one rank alone may lie on the flat side: of them is the mean of the ranks that have any."""
    if base_name(op.name) not in SQUASHING:
        return _none
    own = op.plateau if op.plateau is not None else PlateauStats(0.0, math.nan, math.nan, math.nan)
    off, of_flat = pool.mean(own.off_frac), pool.mean(own.off_of_flat)
    lost, left = pool.mean(own.lost_decades), pool.mean(own.left)
    return lambda: PlateauStats(off(), of_flat(), lost(), left()) if off() > 0.0 else None


def _attention(stats: AttentionStats | None, pool: Pool) -> Callable[[], AttentionStats | None]:
    pool.same(stats is None)
    if stats is None:
        return _none
    pool.same(len(stats.one_hot_fracs), len(stats.entropies_bits))
    hot, bits = [pool.mean(one) for one in stats.one_hot_fracs], [pool.mean(one) for one in stats.entropies_bits]
    query, key = _known(stats.query_rms, pool), _known(stats.key_rms, pool)
    return lambda: replace(
        stats,
        one_hot_fracs=tuple(read() for read in hot),
        entropies_bits=tuple(read() for read in bits),
        query_rms=query(),
        key_rms=key(),
    )


_AFFECTS: dict[Any, float] = {None: -1.0, False: 0.0, True: 1.0}


def _parameter(stats: ParameterStats, pool: Pool) -> Callable[[], ParameterStats]:
    pool.same(stats.name, stats.shape, stats.requires_grad)
    gradient = _tensor(stats.gradient, pool)
    affects, called = pool.largest(_AFFECTS[stats.affects_loss]), pool.largest(float(stats.module_called))
    finite = pool.smallest(float(stats.finite))
    return lambda: replace(
        stats,
        gradient=gradient(),
        affects_loss=None if affects() < 0.0 else affects() > 0.0,
        module_called=called() > 0.0,
        finite=finite() > 0.0,
    )


def _told(coverage: Coverage, ops: Sequence[Op], spreads: Sequence[float | None], num_ranks: int) -> Coverage:
    """A sentence more."""
    known = [(spread, op.index) for spread, op in zip(spreads, ops, strict=True) if spread is not None]
    told = ""
    if known:
        most, where = max(known)
        told = SPREAD.format(float(np.median([spread for spread, _ in known])), most, ops[where].site)
    return replace(coverage, notes=(*coverage.notes, NOTE.format(num_ranks, told)))
