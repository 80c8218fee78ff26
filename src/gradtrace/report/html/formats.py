"""Do the gradients fit into the number format? Histograms of log2 |g| against the limits of each format.

What each format loses, and which loss scale saves it, comes from `diagnosis.number_formats`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.number_formats import format_loss, parameter_gradients
from gradtrace.diagnosis.thresholds import HALF_FORMATS
from gradtrace.report.html.section import Plot, Section, Table
from gradtrace.report.number_formats import SHORT_NAMES, share, told
from gradtrace.report.words import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.trace import TensorStats, Trace

MOST_ROWS = 64
"""Rows that are drawn; neighbours are joined."""


def formats(trace: Trace) -> Section | None:
    """The gradients of the parameters as histograms; None where none was counted."""
    held = parameter_gradients(trace)
    if not held:
        return None
    size = math.ceil(len(held) / MOST_ROWS)
    groups = [held[i : i + size] for i in range(0, len(held), size)]
    low, high = min(g.log2_counts[0][0] for _, g in held), max(g.log2_counts[-1][0] for _, g in held)
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
        "A row is a parameter, a column a power of two; the stronger a cell's colour, the more of the gradient's "
        "entries are of that size. The upright lines are the smallest number of each format (0 ←) and the largest "
        f"(→ inf): what lies beyond is lost in it, unless the loss is scaled, which moves all rows alike. {note}"
    )
    plot = Plot("formats", "formats", "Gradients in powers of two", reading.strip(), data, _table(held))
    answer, *notes = told(trace)
    return Section("formats", "Whether numbers fit their format", answer, (plot,), tuple(notes))


def _label(group: Sequence[tuple[str, TensorStats]]) -> str:
    first, last = clean(group[0][0]), clean(group[-1][0])
    return first if first == last else f"{first} … {last}"


def _fractions(group: Sequence[tuple[str, TensorStats]], low: int, high: int) -> list[float]:
    sums = [0] * (high - low + 1)
    for _, stats in group:
        for exponent, count in stats.log2_counts:
            sums[exponent - low] += count
    total = sum(sums)
    return [round(count / total, 4) if total else 0.0 for count in sums]


def _table(held: Sequence[tuple[str, TensorStats]]) -> Table:
    lost = {name: [format_loss([stats], name) for _, stats in held] for name in HALF_FORMATS}
    over = [name for name, each in lost.items() if any(one.overflow_frac for one in each)]
    heads = (*(f"0 in {SHORT_NAMES[name]}" for name in HALF_FORMATS), *(f"above {SHORT_NAMES[name]}" for name in over))
    rows = []
    for place, (name, stats) in enumerate(held):
        shares = [lost[each][place].flushed_frac for each in HALF_FORMATS]
        shares += [lost[each][place].overflow_frac for each in over]
        bins = stats.log2_counts
        rows.append((clean(name), clean(stats.dtype), f"2^{bins[0][0]}", f"2^{bins[-1][0]}", f"{stats.zero_frac:.1%}",
                     *map(share, shares)))  # fmt: skip
    return Table(("parameter", "format", "smallest", "largest", "exact zeros", *heads), tuple(rows))
