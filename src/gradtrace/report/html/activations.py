"""The fourth question: where on their curves do the activations sit, and which units are dead?

A layer passes on a'(z) at each pre-activation z. Where |a'| is under 5 % of its maximum it is saturated; where it is
exactly zero on every sample the unit is dead. The curve is that of `gradtrace.theory.nonlinearities`, with torch's
defaults.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.layer import layer_below, place
from gradtrace.measure.names import Names
from gradtrace.measure.path import Paths
from gradtrace.records.shown import counted
from gradtrace.records.vocabulary import Factor
from gradtrace.report.html.section import Plot, Section, Table
from gradtrace.report.words import clean, short
from gradtrace.theory.activations import saturation
from gradtrace.theory.gaussian import Array
from gradtrace.theory.nonlinearities import TABLE, nonlinearity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.trace import ActivationStats, Op, Trace

MOST_LAYERS = 24
"""Layers of one function that are drawn."""
LEAST_TOLD = 0.005
"""Fractions below are shown as 0 %."""
MOST_DEAD_ROWS = 48
MOST_BINS = 96
"""Units are pooled to so many cells."""
CURVE_POINTS = 161
MOST_SPAN = 40.0
"""Pre-activations beyond are drawn on a scale that is logarithmic at its ends."""


def activations(trace: Trace) -> Section | None:
    """Every activation op of the network (the loss has its own); None where there is none."""
    ops = [op for op in trace.ops if op.activation is not None and op.factor is not Factor.LOSS]
    if not ops:
        return None
    paths, names = Paths(trace), Names(trace)
    found = [(name_of(op, paths, names), op.activation) for op in reversed(ops) if op.activation is not None]
    plots = []
    drawable = [(name, stats) for name, stats in found if stats.function in TABLE and stats.preactivation_quantiles]
    if drawable:
        plots.append(Plot("curves", "curves", "Pre-activations over a'", _reading(), _curves(drawable), _table(found)))
    if any(stats.dead_units for _, stats in found):
        dead = _dead_rows(found)
        plots.append(Plot("dead", "dead", "Dead units", _dead_reading(), _dead_data(dead), _dead_table(found)))
    notes = () if drawable else ("The pre-activations could not be read, so that there is no picture of them.",)
    return Section("activations", "What the activations do", _answer(found), tuple(plots), notes)


def name_of(op: Op, paths: Paths, names: Names) -> str:
    """``hidden.3 Tanh``, and for a function that is called by the layer it follows ``relu behind fc1``."""
    module, below = op.site.module or "", layer_below(op, paths)
    call = f" #{op.site.call + 1}" if op.site.call else ""
    if module and place(op, paths) == module:
        return clean(names.labels(module)[1]) + call
    function = clean(op.activation.function) if op.activation is not None else ""
    if below is None:
        return f"{function}{call}"
    return f"{function} behind {clean(place(below, paths)) or 'the model'}"


def _reading() -> str:
    return (
        "On top the derivative a' of the function; below it, layer by layer from the input on, where the "
        "pre-activations lie: the box holds the middle half, the thin line 90 %, the mark is the median. Shaded: "
        "|a'| is under 5 % of its maximum, hardly any gradient passes. (ReLU and its kin are flat on one side by "
        "design: half of the pre-activations there is healthy.)"
    )


def _answer(found: Sequence[tuple[str, ActivationStats]]) -> str:
    name, worst = max(found, key=lambda each: each[1].saturated_frac)
    dead = sum(len(stats.dead_units) for _, stats in found)
    units = sum(stats.num_units for _, stats in found)
    told = f"{counted(len(found), 'activation')}. "
    if worst.saturated_frac < LEAST_TOLD:
        told += "None is saturated."
    else:
        told += f"Most saturated: {name}, {worst.saturated_frac:.0%} of its pre-activations."
    if dead:
        return f"{told} Dead: {dead:,} of {units:,} units got no gradient on any sample."
    return f"{told} No unit is dead."


def _curves(found: Sequence[tuple[str, ActivationStats]]) -> list[dict[str, object]]:
    panels = []
    for function in dict.fromkeys(stats.function for _, stats in found):
        layers = [(name, stats) for name, stats in found if stats.function == function]
        kept = [layers[i] for i in spread(len(layers), MOST_LAYERS)]
        low, high = _span(function, [stats for _, stats in kept])
        x = _grid(function, low, high)
        flat = saturation(nonlinearity(function))
        panels.append(
            {
                "function": function,
                "of": len(layers),
                "log": high - low > 2 * MOST_SPAN,
                "x": x.tolist(),
                "slope": nonlinearity(function).a_prime(x).tolist(),
                "flat": list(flat),
                "layers": [
                    [name, list(stats.preactivation_quantiles), stats.saturated_frac, stats.derivative_mean]
                    for name, stats in kept
                ],
            }
        )
    return panels


def spread(count: int, most: int) -> list[int]:
    """At most `most` indices of `count`, evenly spaced, both ends among them.

    >>> spread(5, 9), spread(100, 4)
    ([0, 1, 2, 3, 4], [0, 33, 66, 99])
    """
    return list(range(count)) if count <= most else [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _span(function: str, layers: Sequence[ActivationStats]) -> tuple[float, float]:
    """From the lowest 5 % to the highest 95 % quantile, the ends of the steep part among them."""
    flat = [x for x in saturation(nonlinearity(function)) if math.isfinite(x)]
    ends = [q for stats in layers for q in (stats.preactivation_quantiles[1], stats.preactivation_quantiles[5])]
    known = [x for x in (*flat, *ends, -2.0, 2.0) if math.isfinite(x)]
    room = 0.06 * (max(known) - min(known))
    return min(known) - room, max(known) + room


def _grid(function: str, low: float, high: float) -> Array:
    """Even steps, or even in asinh where the span is long; both sides of each kink, so that a jump is upright."""
    if high - low <= 2 * MOST_SPAN:
        x = np.linspace(low, high, CURVE_POINTS)
    else:
        x = np.sinh(np.linspace(math.asinh(low), math.asinh(high), CURVE_POINTS))
    kinks = [at for kink in nonlinearity(function).kinks for at in (kink - 1e-9, kink + 1e-9) if low < at < high]
    return np.sort(np.concatenate((x, kinks)))


def _table(found: Sequence[tuple[str, ActivationStats]]) -> Table:
    columns = ("layer", "function", "units", "mean |a'|", "rms a'", "max |a'|", "saturated", "a' = 0", "z mean",
               "z std", "z 5 %", "z median", "z 95 %")  # fmt: skip
    rows = []
    for name, stats in found:
        q = stats.preactivation_quantiles
        quantiles = (short(q[1]), short(q[3]), short(q[5])) if q else ("", "", "")
        measured = (stats.derivative_mean, stats.derivative_rms, stats.derivative_max)
        rows.append((name, clean(stats.function), str(stats.num_units), *map(short, measured),
                     f"{stats.saturated_frac:.1%}", f"{stats.zero_frac:.1%}", short(stats.preactivation_mean),
                     short(stats.preactivation_std), *quantiles))  # fmt: skip
    return Table(columns, tuple(rows))


# ---------------------------------------------------------------------------------------------------------- dead units


def _dead_reading() -> str:
    return (
        "A row is a layer, a cell a unit (or a few neighbours, pooled). Red units are dead: their derivative was "
        "exactly zero on every sample of the batch. A larger batch may wake some."
    )


def _dead_rows(found: Sequence[tuple[str, ActivationStats]]) -> list[tuple[str, ActivationStats]]:
    """Layers that can have dead units; of many, those that have the most, in the order of the network."""
    layers = [(i, each) for i, each in enumerate(found) if each[1].dead_units or each[1].zero_frac > 0]
    layers.sort(key=lambda each: -len(each[1][1].dead_units) / max(1, each[1][1].num_units))
    return [each for _, each in sorted(layers[:MOST_DEAD_ROWS], key=lambda pair: pair[0])]


def _dead_data(rows: Sequence[tuple[str, ActivationStats]]) -> list[list[object]]:
    data: list[list[object]] = []
    for name, stats in rows:
        num_bins = min(MOST_BINS, max(1, stats.num_units))
        counts = [0] * num_bins
        for unit in stats.dead_units:
            counts[min(unit * num_bins // max(1, stats.num_units), num_bins - 1)] += 1
        data.append([name, stats.num_units, len(stats.dead_units), counts])
    return data


def _dead_table(found: Sequence[tuple[str, ActivationStats]]) -> Table:
    return Table(
        ("layer", "units", "dead", "fraction", "which"),
        tuple(
            (name, str(stats.num_units), str(len(stats.dead_units)),
             f"{len(stats.dead_units) / max(1, stats.num_units):.0%}", _which(stats.dead_units))
            for name, stats in found if stats.dead_units
        ),
    )  # fmt: skip


def _which(units: Sequence[int]) -> str:
    told = ", ".join(map(str, units[:12]))
    return told + (" ..." if len(units) > 12 else "")
