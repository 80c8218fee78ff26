"""Which layers are mostly made of units that are zero on every sample, beyond what chance does?"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from gradtrace.diagnosis.thresholds import ALIVE_SILENT, DEAD_FRAC, DEAD_SIGMAS, MIN_SAMPLES, dead_frac
from gradtrace.records.vocabulary import Factor

if TYPE_CHECKING:
    from gradtrace.records.trace import ActivationStats, Op, Trace

DEADLY = {"relu", "relu6", "threshold", "hardswish", "hardshrink", "softshrink"}
"""Units that are silent where their derivative is zero."""


def dead_layers(
    traces: tuple[Trace, ...], *, rare: bool = True, least_frac: float = DEAD_FRAC
) -> list[tuple[Op, float]]:
    """Ops most of whose units are dead on every sample of every trace, with the fraction."""
    common: dict[Key, set[int]] = {}
    fired: Counter[Key] = Counter()
    found = {}
    for trace in traces:
        for key, op in by_key(trace).items():
            a = op.activation
            if a is None or a.function not in DEADLY or op.factor is Factor.LOSS or not a.num_units:
                continue
            common[key] = common.get(key, set(a.dead_units)) & set(a.dead_units)
            fired[key] += round((1.0 - a.zero_frac) * a.num_samples * a.num_units)
            found[key] = (op, a)
    fracs = {key: len(common[key]) / a.num_units for key, (_, a) in found.items()}
    num_alike = sum(samples_alike(fracs[key], a.num_units) for key, (_, a) in found.items())
    layers = []
    for key, (op, a) in found.items():
        frac = fracs[key]
        least = least_frac if _samples_differ(a) else dead_frac(a.num_units, num_alike, least_frac)
        seen_enough = a.num_samples * len(traces) >= MIN_SAMPLES
        if frac == 1.0 or (
            seen_enough and frac >= max(least, _rare(fired[key], a.num_units, len(common[key])) if rare else 0.0)
        ):
            layers.append((op, frac))
    return layers


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


def _samples_differ(a: ActivationStats) -> bool:
    """Whether the units that are not silent throughout are silent now and then."""
    silent_frac = len(a.dead_units) / a.num_units
    return silent_frac < 1.0 and (a.zero_frac - silent_frac) / (1.0 - silent_frac) >= ALIVE_SILENT
