"""Do the gradients fit into the number format? Histograms of log2 |g| against the limits of each format.

Limits are the smallest subnormal and the largest number (IEEE 754; OCP 8-bit floating point specification, 2023); what
is below half the smallest subnormal rounds to zero.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.thresholds import HALF_FORMATS
from gradtrace.report.html.section import Plot, Section, Table
from gradtrace.report.words import clean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gradtrace.records.trace import ParameterStats, Trace

MOST_ROWS = 64
"""Rows that are drawn; neighbours are joined."""
SHORT_NAMES = {"float16": "fp16", "bfloat16": "bf16", "float8_e4m3fn": "fp8 e4m3", "float8_e5m2": "fp8 e5m2"}


def formats(trace: Trace) -> Section | None:
    """The gradients of the parameters as histograms; None where none was counted."""
    held = [(p, dict(p.gradient.log2_counts)) for p in trace.parameters if p.gradient and p.gradient.log2_counts]
    if not held:
        return None
    size = math.ceil(len(held) / MOST_ROWS)
    groups = [held[i : i + size] for i in range(0, len(held), size)]
    exponents = [e for _, counts in held for e in counts]
    low, high = min(exponents), max(exponents)
    data = {
        "low": low,
        "high": high,
        "rows": [[_label(group), *_fractions(group, low, high)] for group in groups],
        "limits": [
            [SHORT_NAMES[name], smallest, math.log2(largest)] for name, (smallest, largest) in HALF_FORMATS.items()
        ],
    }
    note = f"{size} parameters to a row." if size > 1 else ""
    reading = (
        "A row is a parameter, a column a power of two, the darker the more of its gradient's entries are that large. "
        "The upright lines are the smallest number of each format (0 ←), and the largest (→ inf): what lies beyond is "
        f"lost in it, unless the loss is scaled. {note}"
    )
    plot = Plot("formats", "formats", "Gradients in powers of two", reading.strip(), data, _table(held))
    return Section("formats", "Whether numbers fit their format", _answer(held), (plot,))


def _label(group: Sequence[tuple[ParameterStats, Mapping[int, int]]]) -> str:
    first, last = clean(group[0][0].name), clean(group[-1][0].name)
    return first if first == last else f"{first} … {last}"


def _fractions(group: Sequence[tuple[ParameterStats, Mapping[int, int]]], low: int, high: int) -> list[float]:
    sums = [0] * (high - low + 1)
    for _, counts in group:
        for exponent, count in counts.items():
            sums[exponent - low] += count
    total = sum(sums)
    return [round(count / total, 4) if total else 0.0 for count in sums]


def lost_frac(counts: Mapping[int, int], smallest: int) -> float:
    """Of the entries that are not zero, the fraction below half of 2^smallest.

    >>> lost_frac({-30: 1, -25: 1, -20: 2}, -24)
    0.25
    """
    total = sum(counts.values())
    return sum(count for exponent, count in counts.items() if exponent < smallest - 1) / total if total else 0.0


def _answer(held: Sequence[tuple[ParameterStats, Mapping[int, int]]]) -> str:
    whole: dict[int, int] = {}
    for _, counts in held:
        for exponent, count in counts.items():
            whole[exponent] = whole.get(exponent, 0) + count
    used = ", ".join(dict.fromkeys(clean(p.gradient.dtype) for p, _ in held if p.gradient))
    told = [f"{SHORT_NAMES[name]} {lost_frac(whole, smallest):.1%}" for name, (smallest, _) in HALF_FORMATS.items()]
    fate = f"so many of their entries would become zero: {', '.join(told)}."
    return f"Gradients are {used}. In a smaller format, without loss scaling, {fate}"


def _table(held: Sequence[tuple[ParameterStats, Mapping[int, int]]]) -> Table:
    heads = tuple(f"lost in {SHORT_NAMES[name]}" for name in HALF_FORMATS)
    rows = []
    for parameter, counts in held:
        assert parameter.gradient is not None
        lost = (f"{lost_frac(counts, smallest):.1%}" for smallest, _ in HALF_FORMATS.values())
        zeros = f"{parameter.gradient.zero_frac:.1%}"
        rows.append((clean(parameter.name), clean(parameter.gradient.dtype), f"2^{min(counts)}", f"2^{max(counts)}",
                     zeros, *lost))  # fmt: skip
    return Table(("parameter", "format", "smallest", "largest", "exact zeros", *heads), tuple(rows))
