"""Which rows and numbers does every renderer show? Neutral tables, made from a trace, without any formatting.

A picture has one row per layer of the ledger, from the loss to the input (`report.rows`), and one for each recurrence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.diagnosis.gate import gate_decades
from gradtrace.diagnosis.layer import owner
from gradtrace.measure.ledger import LedgerRow, ledger
from gradtrace.measure.names import Names
from gradtrace.measure.path import Paths, decades_between, norm_of
from gradtrace.records.parameter_name import told_name
from gradtrace.records.vocabulary import Factor
from gradtrace.report.recurrences import merged
from gradtrace.report.rows import MAX_ROWS, Row, fold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.exhibit import UpdateStats
    from gradtrace.records.finding import Diagnosis
    from gradtrace.records.trace import Trace

BAND_DECADES = 2.0
"""Healthy: early layers within [1e-2, 1e2] of the late ones (the vocabulary of `healthy`)."""

BARE = "This is one backward pass of one batch: no optimizer step was seen, and no other batch."
"""What is said of a trace by itself."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What the gradient does on its way from the loss to the earliest layer."""

    rows: tuple[Row, ...]
    num_layers: int
    factors: tuple[Factor, ...]
    """Those that occur, in the order of `Factor`."""
    totals: dict[Factor, float]
    """Decades per factor over all rows."""
    late: float
    """Decades from the loss gradient to what the layer nearest to the loss receives: where the healthy band is centred.
    (Not to the network's output: a loss and the output's own squashing cancel each other.)"""
    bound: float
    """Product of max |a'| over all layers, in decades."""
    num_bounded: int
    """Layers with an activation function."""
    functions: tuple[str, ...]
    """Names of the activation functions that occur."""
    gates: float = 0.0
    """Of the decades of the weights, those of products with gates."""
    start: str = "loss"
    """Where the gradient comes from: 'loss', or 'output' for a random cotangent there."""

    @property
    def told(self) -> tuple[Factor, ...]:
        """The factors that are not nothing."""
        return tuple(factor for factor in self.factors if any(counts(row.gains.get(factor, 0.0)) for row in self.rows))

    @property
    def ends(self) -> tuple[Row, Row]:
        """The earliest layer, and the one nearest to the loss, whose gradient `late` is; of no layer, no row."""
        above = [row for row in self.rows[:-1] if row.first != "loss"]
        nearest = next((row for row in above if row.is_layer), above[0] if above else self.rows[-1])
        return self.rows[-1], nearest

    @property
    def early_decades(self) -> float:
        """From the layer nearest to the loss to the earliest one, what each receives."""
        return self.rows[-1].after - self.late if self.rows else math.nan

    @property
    def updates_known(self) -> bool:
        """Whether the first optimizer step was taken, on a copy."""
        return any(not math.isnan(row.relative_update) for row in self.rows)


def told_apart(table: Picture, trace: Trace | None) -> tuple[str, float] | None:
    """(of what, decades) the earliest layer gets more than the one nearest to the loss; None where that says nothing.

    One way through the network may bring next to nothing where others, or the other steps of a loop, bring enough: then
    it is the weights that are compared, whose gradient is the sum over all of them.
    """
    early, late = table.ends
    if early is late or not math.isfinite(table.early_decades):
        return None
    if abs(table.early_decades) <= BAND_DECADES:
        return "the gradient of", table.early_decades
    weights = [p for p in trace.parameters if len(p.shape) > 1 and p.gradient is not None] if trace is not None else []
    sizes = {owner(p.name): p.gradient.rms for p in weights if p.gradient is not None}
    apart = [sizes.get(row, math.nan) for row in (early.last, late.first)]
    if early.last == late.first or not min(apart) > 0.0 or not abs(math.log10(apart[0] / apart[1])) <= BAND_DECADES:
        return None
    return "in its weights, over all ways to them, the gradient of those of", math.log10(apart[0] / apart[1])


def counts(gain: float) -> bool:
    """Whether a gain would show: a hundredth of a decade, or not a number."""
    return not abs(gain) < 0.005


def picture(trace: Trace, max_rows: int = MAX_ROWS, updates: Sequence[UpdateStats] = ()) -> Picture:
    """The table of `trace`, folded to about `max_rows` rows; `updates` are those of the first optimizer step."""
    paths = Paths(trace)
    book = ledger(trace, paths)
    names, moved = Names(trace), {update.name: update for update in updates}
    rows = [_row(entry, trace, book[i - 1].product_log10 if i else 0.0, names, moved) for i, entry in enumerate(book)]
    totals: dict[Factor, float] = {}
    for entry in book:
        for factor, gain in entry.gains:
            totals[factor] = totals.get(factor, 0.0) + gain
    num_loss_rows = sum(entry.module == "loss" for entry in book)
    bounded = [entry for entry in book if entry.function]
    return Picture(
        rows=fold(merged(rows, book, trace), max_rows),
        num_layers=len(book) - num_loss_rows,
        factors=tuple(factor for factor in Factor if factor in totals),
        totals=totals,
        late=_late(trace, book) if num_loss_rows else 0.0,
        bound=book[-1].bound_log10 if book else 0.0,
        num_bounded=len(bounded),
        functions=tuple(dict.fromkeys(entry.function for entry in bounded)),
        gates=gates_on(trace, paths, book),
        start="loss" if trace.probe == "loss" else "output",
    )


def gates_on(trace: Trace, paths: Paths, book: Sequence[LedgerRow]) -> float:
    """Decades of products with gates on the way that the rows follow."""
    return gate_decades(trace, paths.path(book[-1].ops[-1])) if book else 0.0


def _late(trace: Trace, book: Sequence[LedgerRow]) -> float:
    """Decades from the loss gradient to what the layer nearest to the loss receives."""
    start = norm_of(trace.ops[book[0].ops[0]])
    layer = next(trace.ops[i] for row in book for i in row.ops if trace.ops[i].weights)
    return decades_between(start, norm_of(layer))


def _row(entry: LedgerRow, trace: Trace, before: float, names: Names, moved: dict[str, UpdateStats]) -> Row:
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
        relative_update=relative_update([moved[name] for name in entry.parameters if name in moved]),
        is_layer=any(trace.ops[i].weights for i in entry.ops),
        labels=names.labels(entry.module, entry.parameters),
    )


def relative_update(updates: Sequence[UpdateStats]) -> float:
    """|update| / |W| over the matrices among them, or over all where there is no matrix; NaN without any."""
    matrices = [update for update in updates if len(update.shape) > 1] or updates
    weight = math.hypot(*(update.weight_norm for update in matrices))
    return math.hypot(*(update.update_norm for update in matrices)) / weight if weight else math.nan


def main_trace(diagnosis: Diagnosis) -> Trace | None:
    """The trace that the picture shows: the first of the loss gradient."""
    return next((trace for trace in diagnosis.traces if trace.probe == "loss"), next(iter(diagnosis.traces), None))


def probe_trace(diagnosis: Diagnosis) -> Trace | None:
    """The trace of a random gradient at the output, if there is one beside the loss gradient's."""
    main = main_trace(diagnosis)
    return next((trace for trace in diagnosis.traces if trace.probe != "loss" and trace is not main), None)


def update_range(updates: Sequence[UpdateStats]) -> tuple[float, float] | None:
    """Smallest and largest |update| / |W| of the first step over the matrices that moved."""
    moved = [update.ratio for update in updates if len(update.shape) > 1 and update.weight_norm]
    moved = [ratio for ratio in moved if ratio > 0 and math.isfinite(ratio)]
    return (min(moved), max(moved)) if moved else None


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
    found = (
        ("no gradient reached", tuple(told_name(name) for name in coverage.no_gradient)),
        ("hidden inside, one op to autograd", opaque),
        ("op kinds that the table does not know (measured, filed under 'other')", coverage.unknown),
        ("activations whose derivative could not be read", coverage.unreadable),
        ("values went on without the tape", trace.severed),
    )
    return tuple((what, names) for what, names in found if names) + tuple((note, ()) for note in coverage.notes)
