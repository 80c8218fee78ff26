"""Which rows and numbers does every renderer show? Neutral tables, made from a trace, without any formatting.

A picture has one row per layer of the ledger, from the loss to the input. Where there are too many, neighbours that are
alike fold into one row, with their decades added up, so that the sum over the rows stays what it was.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.measure.ledger import LedgerRow, ledger
from gradtrace.records.vocabulary import Factor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gradtrace.records.finding import Diagnosis
    from gradtrace.records.trace import Trace

MAX_ROWS = 32
"""More rows than this are folded."""
MIN_FOLDED_ROWS = 12
"""So many are left at least, so that a slope stays visible among a thousand layers that are alike."""
TOLERANCES = (0.1, 0.25, 0.5, 1.0, 2.0, math.inf)
"""Decades per factor within which layers are alike; the first that makes it short enough."""
BAND_DECADES = 2.0
"""Healthy: early layers within [1e-2, 1e2] of the late ones (the vocabulary of `healthy`)."""

BARE = "It is one backward pass of one batch: no optimizer step was seen, and no other batch."
"""What is said of a trace by itself."""


@dataclass(frozen=True, slots=True)
class Row:
    """One layer, or several alike."""

    first: str
    """Module path; of several, the one nearest to the loss."""
    last: str
    num_layers: int
    gains: dict[Factor, float]
    """Decades per factor."""
    before: float
    """Decades from the loss gradient to the output of this layer."""
    after: float
    """Decades from the loss gradient to behind this layer."""
    function: str
    gradient_rms: float
    relative_gradient: float
    """|dL/dW| / |W| of the layer nearest to the input; NaN without weights."""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """What the gradient does on its way from the loss to the earliest layer."""

    rows: tuple[Row, ...]
    num_layers: int
    factors: tuple[Factor, ...]
    """Those that occur, in the order of `Factor`."""
    totals: dict[Factor, float]
    """Decades per factor over all rows."""
    output: float
    """Decades from the loss gradient to the network's output: where the healthy band is centred."""
    bound: float
    """Product of max |a'| over all layers, in decades."""
    num_bounded: int
    """Layers with an activation function."""
    functions: tuple[str, ...]
    """Names of the activation functions that occur."""
    start: str = "loss"
    """Where the gradient comes from: 'loss', or 'output' for a random cotangent there."""

    @property
    def told(self) -> tuple[Factor, ...]:
        """The factors that are not nothing."""
        return tuple(factor for factor in self.factors if any(counts(row.gains.get(factor, 0.0)) for row in self.rows))

    @property
    def network_decades(self) -> float:
        """From the network's output to the earliest layer."""
        return self.rows[-1].after - self.output if self.rows else math.nan


def counts(gain: float) -> bool:
    """Whether a gain would show: a hundredth of a decade, or not a number."""
    return not abs(gain) < 0.005


def picture(trace: Trace, max_rows: int = MAX_ROWS) -> Picture:
    """The table of `trace`, folded to about `max_rows` rows."""
    book = ledger(trace)
    totals: dict[Factor, float] = {}
    for entry in book:
        for factor, gain in entry.gains:
            totals[factor] = totals.get(factor, 0.0) + gain
    num_loss_rows = sum(entry.module == "loss" for entry in book)
    bounded = [entry for entry in book if entry.function]
    return Picture(
        rows=fold([_row(entry, book[i - 1].product_log10 if i else 0.0) for i, entry in enumerate(book)], max_rows),
        num_layers=len(book) - num_loss_rows,
        factors=tuple(factor for factor in Factor if factor in totals),
        totals=totals,
        output=book[0].product_log10 if num_loss_rows else 0.0,
        bound=book[-1].bound_log10 if book else 0.0,
        num_bounded=len(bounded),
        functions=tuple(dict.fromkeys(entry.function for entry in bounded)),
        start="loss" if trace.probe == "loss" else "output",
    )


def _row(entry: LedgerRow, before: float) -> Row:
    return Row(
        first=entry.module or "model",
        last=entry.module or "model",
        num_layers=1,
        gains=dict(entry.gains),
        before=before,
        after=entry.product_log10,
        function=entry.function,
        gradient_rms=entry.gradient_rms,
        relative_gradient=entry.relative_gradient,
        source=entry.source,
    )


# -------------------------------------------------------------------------------------------------------------- fold


def fold(rows: Sequence[Row], max_rows: int = MAX_ROWS) -> tuple[Row, ...]:
    """Join neighbours that are alike until about `max_rows` are left; the decades add up as before."""
    if len(rows) <= max_rows:
        return tuple(rows)
    blocks = _group(rows, lambda group, row: _block(group[0]) == _block(row) != "")
    rows = [join(group) for group in blocks]
    largest = max(2, math.ceil(len(rows) / MIN_FOLDED_ROWS))
    folded = list(rows)
    for tolerance in TOLERANCES:
        if len(folded) <= max_rows:
            break
        folded = [join(group) for group in _group(rows, lambda g, r: len(g) < largest and _alike(g[0], r, tolerance))]  # noqa: B023
    if len(folded) > max_rows:  # nothing alike: neighbours, whatever they are
        size = math.ceil(len(folded) / max_rows)
        folded = [join(folded[start : start + size]) for start in range(0, len(folded), size)]
    return tuple(folded)


def join(group: Sequence[Row]) -> Row:
    """One row for several."""
    if len(group) == 1:
        return group[0]
    first, last = group[0], group[-1]
    gains: dict[Factor, float] = {}
    for row in group:
        for factor, gain in row.gains.items():
            gains[factor] = gains.get(factor, 0.0) + gain
    block = _block(first)
    same_block = block != "" and block == _block(last)
    return Row(
        first=block if same_block else first.first,
        last=block if same_block else last.last,
        num_layers=sum(row.num_layers for row in group),
        gains={factor: gains[factor] for factor in Factor if factor in gains},
        before=first.before,
        after=last.after,
        function=first.function,
        gradient_rms=first.gradient_rms,
        relative_gradient=last.relative_gradient,
        source=first.source,
    )


def _group(rows: Sequence[Row], belongs: Callable[[list[Row], Row], bool]) -> list[list[Row]]:
    groups: list[list[Row]] = []
    for row in rows:
        if groups and belongs(groups[-1], row):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _block(row: Row) -> str:
    """Path up to its first number, as ``blocks.12`` of ``blocks.12.attn.out_proj``."""
    match = re.match(r"(?:.*?\.)??\d+(?=\.|$)", row.first)
    return match.group() if match else ""


def _alike(a: Row, b: Row, tolerance: float) -> bool:
    if _family(a.first) != _family(b.first) or a.function != b.function:
        return False
    decades = [(a.gains.get(factor, 0.0), b.gains.get(factor, 0.0)) for factor in a.gains.keys() | b.gains.keys()]
    return all(x == y or abs(x - y) <= tolerance for x, y in decades)


def _family(path: str) -> str:
    return re.sub(r"\d+", "*", path)


# ------------------------------------------------------------------------------------------------------------ words


def main_trace(diagnosis: Diagnosis) -> Trace | None:
    """The trace that the picture shows: the first of the loss gradient."""
    return next((trace for trace in diagnosis.traces if trace.probe == "loss"), next(iter(diagnosis.traces), None))


def probe_trace(diagnosis: Diagnosis) -> Trace | None:
    """The trace of a random gradient at the output, if there is one beside the loss gradient's."""
    main = main_trace(diagnosis)
    return next((trace for trace in diagnosis.traces if trace.probe != "loss" and trace is not main), None)


def relative_range(trace: Trace) -> tuple[float, float] | None:
    """Smallest and largest |dL/dW| / |W| over the parameters that got a gradient, zeros left out."""
    ratios = [
        parameter.gradient.norm / parameter.norm
        for parameter in trace.parameters
        if parameter.gradient is not None and parameter.norm > 0 and len(parameter.shape) > 1
    ]
    ratios = [ratio for ratio in ratios if ratio > 0 and math.isfinite(ratio)]
    return (min(ratios), max(ratios)) if ratios else None


def unseen(trace: Trace) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(sentence, names) of everything that the trace could not see."""
    coverage = trace.coverage
    in_steps = trace.through_time is not None  # a fused recurrence was looked into step by step
    opaque = tuple(name for name in coverage.opaque if not (in_steps and name.startswith("fused recurrence")))
    told = (
        ("no gradient reached", coverage.no_gradient),
        ("hidden inside, one op to autograd", opaque),
        ("op kinds that the table does not know (measured, filed under 'other')", coverage.unknown),
        ("activations whose derivative could not be read", coverage.unreadable),
        ("values went on without the tape", trace.severed),
    )
    return tuple((what, names) for what, names in told if names) + tuple((note, ()) for note in coverage.notes)
