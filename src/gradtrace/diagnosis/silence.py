"""Which layers are mostly made of units that are zero on every sample, beyond what chance does?"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import layer_below
from gradtrace.diagnosis.thresholds import ALIVE_SILENT, DEAD_FRAC, DEAD_SIGMAS, MIN_SAMPLES, dead_frac
from gradtrace.records.vocabulary import Factor

if TYPE_CHECKING:
    from gradtrace.records.trace import Op, Trace

DEADLY = {"relu", "relu6", "threshold", "hardswish", "hardshrink", "softshrink"}
"""Units that are silent where their derivative is zero."""


@dataclass(frozen=True, slots=True)
class Units:
    """The units of a layer over all that it was applied to in one pass."""

    op: Op
    """Its activation where the fewest of them are silent."""
    silent: frozenset[int]
    """Those that are zero on every sample of every application."""
    num_units: int
    num_samples: int
    zero_frac: float


def dead_layers(
    traces: tuple[Trace, ...], *, rare: bool = True, least_frac: float = DEAD_FRAC
) -> list[tuple[Op, float]]:
    """Ops most of whose units are dead on every sample of every trace, with the fraction."""
    return [(units.op, frac) for units, frac in dead_by_key(traces, rare=rare, least_frac=least_frac).values()]


def dead_by_key(
    traces: tuple[Trace, ...], *, rare: bool = True, least_frac: float = DEAD_FRAC
) -> dict[Key, tuple[Units, float]]:
    """`dead_layers`, under the keys of their first applications."""
    common: dict[Key, frozenset[int]] = {}
    fired: Counter[Key] = Counter()
    found: dict[Key, Units] = {}
    for trace in traces:
        for key, units in deadly_units(trace).items():
            common[key] = common.get(key, units.silent) & units.silent
            fired[key] += round((1.0 - units.zero_frac) * units.num_samples * units.num_units)
            found.setdefault(key, units)  # of the first trace, which is looked at
    fracs = {key: len(common[key]) / units.num_units for key, units in found.items()}
    num_alike = sum(samples_alike(fracs[key], units.num_units) for key, units in found.items())
    layers = {}
    for key, units in found.items():
        frac = fracs[key]
        least = least_frac if _samples_differ(units) else dead_frac(units.num_units, num_alike, least_frac)
        seen_enough = units.num_samples * len(traces) >= MIN_SAMPLES
        by_chance = _rare(fired[key], units.num_units, len(common[key])) if rare else 0.0
        if frac == 1.0 or (seen_enough and frac >= max(least, by_chance)):
            layers[key] = units, frac
    return layers


def deadly_units(trace: Trace) -> dict[Key, Units]:
    """The units that can die, layer by layer.

    Of a layer that is applied again and again (at each time step, to each of a pair) a unit learns from any application
    in which it is not silent: its weights are the same.
    """
    applied: dict[tuple[object, ...], list[tuple[Key, Op]]] = {}
    ranks: Counter[int] = Counter()
    for key, op in by_key(trace).items():
        a, below = op.activation, layer_below(op, trace)
        if a is None or a.function not in DEADLY or op.factor is Factor.LOSS or not a.num_units:
            continue
        same: tuple[object, ...] = key
        if below is not None:  # several activations of one application are of other units, as of the halves of a split
            same = (below.weights, a.function, a.num_units, ranks[below.index])
            ranks[below.index] += 1
        applied.setdefault(same, []).append((key, op))
    return {pairs[0][0]: _together([op for _, op in pairs]) for pairs in applied.values()}


def _together(ops: list[Op]) -> Units:
    stats = [op.activation for op in ops if op.activation is not None]
    num_samples = sum(a.num_samples for a in stats)
    return Units(
        op=min(ops, key=lambda op: len(op.activation.dead_units) if op.activation else 0),
        silent=frozenset.intersection(*(frozenset(a.dead_units) for a in stats)),
        num_units=stats[0].num_units,
        num_samples=num_samples,
        zero_frac=sum(a.zero_frac * a.num_samples for a in stats) / max(num_samples, 1),
    )


def _rare(num_fired: int, num_units: int, num_silent: int) -> float:
    """The fraction of units that would be silent by chance if all fired as seldom as those that did fire.

    How often a unit fires ~ Poisson(rate); those that fired show its zero-truncated mean, rate / (1 - exp(-rate)).
    """
    if num_units - num_silent < MIN_SAMPLES:
        return 0.0
    mean = num_fired / (num_units - num_silent)
    low, rate = 0.0, mean
    for _ in range(60):  # rate = mean * (1 - exp(-rate)), by bisection
        middle = (low + rate) / 2
        low, rate = (middle, rate) if mean * -math.expm1(-middle) > middle else (low, middle)
    silent = math.exp(-rate)
    return silent + DEAD_SIGMAS * math.sqrt(silent * (1.0 - silent) / num_units)


Key = tuple[str, str | None, int, str, int]


def by_key(trace: Trace) -> dict[Key, Op]:
    """The activation ops of a trace under names that are the same for every batch: site, and which of its ops there."""
    counts: Counter[tuple[str, str | None, int, str]] = Counter()
    keyed: dict[Key, Op] = {}
    for op in sorted((op for op in trace.ops if op.activation is not None), key=lambda op: op.sequence):
        site = (op.name, op.site.module, op.site.call, op.site.source)
        key: Key = (*site, counts[site])
        keyed[key] = op
        counts[site] += 1
    return keyed


def samples_alike(silent_frac: float, num_units: int) -> bool:
    """Whether about half of the units are silent, as where all samples look alike, or more."""
    return silent_frac >= 1.0 - dead_frac(num_units)


def _samples_differ(units: Units) -> bool:
    """Whether the units that are not silent throughout are silent now and then."""
    silent_frac = len(units.silent) / units.num_units
    return silent_frac < 1.0 and (units.zero_frac - silent_frac) / (1.0 - silent_frac) >= ALIVE_SILENT
