"""The second question: where on its way from the loss to the input is the gradient lost, and to what?

Every layer's step is drawn from the decades before it to those behind it, factor by factor. Two lines go along: the
bound, the product of max |a'| so far, and what theory expects (`report.expectation`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gradtrace.diagnosis.thresholds import UPDATE_HEALTHY
from gradtrace.measure.ledger import LedgerRow, ledger
from gradtrace.measure.path import Paths
from gradtrace.records.vocabulary import Factor
from gradtrace.report.expectation import expected_decades
from gradtrace.report.html.activations import spread
from gradtrace.report.html.phrases import FACTORS
from gradtrace.report.html.places import Places
from gradtrace.report.html.section import Plot, Section, Table
from gradtrace.report.html.tree import lines, tree
from gradtrace.report.tables import BAND_DECADES, counts, gates_on, relative_update
from gradtrace.report.words import clean, decades, power, short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.exhibit import UpdateStats
    from gradtrace.records.trace import Trace


MOST_ROWS = 12_000
"""Rows of all traces of a run together: some 2 MB of the page."""


def waterfall(
    trace: Trace, sampled: Sequence[tuple[int, Trace]] = (), updates: Sequence[UpdateStats] = ()
) -> Section | None:
    """The way of the gradient from the loss to the earliest layer; None where no gradient reached a layer.

    Args:
        trace: what is told; of a run its latest whole trace.
        sampled: (step, trace) of a run's whole traces, the latest last: a slider goes through them.
        updates: of the first optimizer step, where one was taken on a copy.
    """
    if (drawn := _drawn(trace, updates)) is None:
        return None
    data, table, answer = drawn
    if sampled:
        data["step"] = sampled[-1][0]
        data["steps"] = _steps(sampled, len(data["rows"]["name"]))
        answer = f"Trace of step {sampled[-1][0]:,}. {answer}"
    plot = Plot("waterfall", "waterfall", "Waterfall", _reading(), data, table)
    return Section("waterfall", "Where the gradient goes", answer, (plot,))


def _steps(sampled: Sequence[tuple[int, Trace]], num_rows: int) -> list[list[Any]]:
    """[step, data] of the traces before the latest, at most so many that the page stays small."""
    most = max(1, MOST_ROWS // max(num_rows, 1))
    earlier = sampled[:-1]
    kept = [earlier[i] for i in spread(len(earlier), most)] if earlier else []
    return [[step, drawn[0]] for step, trace in kept if (drawn := _drawn(trace)) is not None]


def _drawn(trace: Trace, updates: Sequence[UpdateStats] = ()) -> tuple[dict[str, Any], Table, str] | None:
    """What the plot needs, the same as a table, and in a sentence."""
    paths = Paths(trace)
    book = ledger(trace, paths)
    if not book:
        return None
    expected = expected_decades(trace, paths, book)
    output = book[0].product_log10 if book[0].module == "loss" else 0.0
    factors = [factor for factor in Factor if any(counts(row.of(factor)) for row in book)]
    names = [clean(row.module) or "model" for row in book]
    places, moved = Places(trace), {update.name: update for update in updates}
    kinds = [places.kind(row) for row in book]
    moves = [relative_update([moved[name] for name in row.parameters if name in moved]) for row in book]
    data = {
        "start": "loss" if trace.probe == "loss" else "output",
        "band": [output - BAND_DECADES, output + BAND_DECADES],
        "factors": [[factor.value, FACTORS[factor]] for factor in factors],
        "lines": [
            [line.label, line.first, line.last, line.level, line.parent, int(line.is_open), line.num_children]
            for line in lines(tree(names))
        ],
        "rows": {
            "name": names,
            "kind": kinds,
            "source": [row.source for row in book],
            "function": [row.function for row in book],
            "gains": [[row.of(factor) for factor in factors] for row in book],
            "after": [row.product_log10 for row in book],
            "bound": [row.bound_log10 for row in book],
            "expected": expected,
            "norm": [row.gradient_norm for row in book],
            "relative": [row.relative_gradient for row in book],
            "update": moves,
        },
        "fine": UPDATE_HEALTHY,
    }
    full = [f"{name} {kind}".rstrip() for name, kind in zip(names, kinds, strict=True)]
    last = places.told(book[-1].module)
    return data, _table(book, full, factors, expected, moves), _answer(trace, book, last, factors)


def _answer(trace: Trace, book: Sequence[LedgerRow], last: str, factors: Sequence[Factor]) -> str:
    end, start = book[-1].product_log10, "loss" if trace.probe == "loss" else "output"
    if not math.isfinite(end):
        return f"From the {start} to {last}, {'nothing is left' if end < 0 else 'the numbers are not finite'}."
    gates = gates_on(trace, Paths(trace), book)
    of_gates = {Factor.WEIGHT: f" (products with gates {decades(gates)})"} if counts(gates) else {}
    totals = [(FACTORS[f], math.fsum(row.of(f) for row in book), of_gates.get(f, "")) for f in factors]
    told = ", ".join(f"{name} {decades(total)}{note}" for name, total, note in totals)
    rows = f"{len(book):,} rows" if len(book) > 1 else "one row"
    return f"From the {start} to {last} the gradient changes by {decades(end)} decades: {told} ({rows})."


def _reading() -> str:
    return (
        "One row per layer, its weights and what follows them up to the row above; the loss on top, the input at the "
        "bottom. A decade is a factor of ten; to the left the "
        "gradient shrinks, to the right it grows. Fold and unfold modules with a click or the arrow keys. The dashed "
        "line is what weights of this size would do if they knew nothing of the gradient, with a' as measured: it "
        "holds at any step of a training. (What the design does when fresh, with its interval: gradtrace predict.)"
    )


def _table(
    book: Sequence[LedgerRow],
    names: Sequence[str],
    factors: Sequence[Factor],
    expected: Sequence[float],
    moves: Sequence[float],
) -> Table:
    heads = [FACTORS[factor] for factor in factors]
    columns = ("layer", "line", "|gradient|", *heads, "so far", "bound", "expected", "|grad| / |W|", "update / |W|")
    return Table(
        columns,
        tuple(
            (
                name,
                clean(row.source),
                short(row.gradient_norm),
                *(decades(row.of(factor)) for factor in factors),
                decades(row.product_log10),
                power(row.bound_log10),
                decades(level),
                *("" if math.isnan(ratio) else short(ratio) for ratio in (row.relative_gradient, move)),
            )
            for row, name, level, move in zip(book, names, expected, moves, strict=True)
        ),
    )
