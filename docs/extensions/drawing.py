"""How is a verdict drawn small? The way of the gradient as a bar per layer, and time or training below it, as SVG.

A cell of a bar is a decade: grey what is left of the gradient behind a layer, in colour what the layer took of it
(added to it, where hatched), by factor. Colours are classes, so that the page's style sheet decides for light and dark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from gradtrace.records.vocabulary import Factor
from gradtrace.report.picture import row_name
from gradtrace.report.tables import BAND_DECADES, main_trace, picture
from gradtrace.report.words import clean, decades, shorten
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.finding import Diagnosis
    from gradtrace.records.trace import Trace
    from gradtrace.report.rows import Row
    from gradtrace.report.tables import Picture

WIDTH, NAME, NUMBER, ROW = 344, 124, 46, 15
"""Pixels: of the whole, of the names on the left and the numbers on the right, of a row."""
NAME_CHARACTERS = 17
MAX_ROWS, MAX_REMARKS = 26, 3
CURVE_HEIGHT = 64
MIN_SPAN = 4.0


@dataclass(frozen=True, slots=True)
class Axis:
    """Decades to pixels."""

    low: float
    high: float

    def x(self, level: float) -> float:
        """Where a level is drawn; what lies outside is drawn at the border."""
        frac = (min(max(level, self.low), self.high) - self.low) / (self.high - self.low)
        return NAME + frac * (WIDTH - NAME - NUMBER)


def draw(diagnosis: Diagnosis) -> str:
    """One or two small pictures, or a sentence where nothing can be drawn."""
    trace = main_trace(diagnosis)
    table = picture(trace, MAX_ROWS) if trace is not None else None
    parts = [waterfall(table, _remarks(trace))] if trace is not None and table is not None and table.rows else []
    if (record := diagnosis.through_time) is not None and record.chains:
        chain = min(record.chains, key=lambda chain: chain.horizon.steps if chain.horizon else math.inf)
        levels = [math.log10(state) if state > 0 else -math.inf for state in chain.states]
        parts.append(
            curve(levels, f"decades of the loss gradient at each step of {clean(chain.name)}, 0 to {chain.num_steps}")
        )
    if len(diagnosis.losses) > 2:
        parts.append(_losses(diagnosis.losses))
    return "".join(parts) or "<p>No layer with weights received a gradient: there is nothing to draw.</p>"


def _losses(losses: Sequence[float]) -> str:
    """On a scale of decades where they span more than two."""
    finite = [loss for loss in losses if math.isfinite(loss)] or [1.0]
    told = f"loss over {len(losses) - 1} training steps"
    if min(finite) > 0 and max(finite) > 100 * min(finite):
        return curve([math.log10(loss) if loss > 0 else math.nan for loss in losses], f"{told}, in decades")
    return curve(losses, told)


def _remarks(trace: Trace) -> list[tuple[str, str]]:
    """(where, what) that no bar can show: parts without a gradient, and the birth of the first NaN or Inf."""
    cut = dict.fromkeys(name.rpartition(".")[0] or name for name in trace.coverage.no_gradient)
    found = [(name, "no gradient") for name in list(cut)[:MAX_REMARKS]]
    found += [("…", f"no gradient in {len(cut) - MAX_REMARKS} more")] if len(cut) > MAX_REMARKS else []
    if (birth := trace.nonfinite) is not None:
        found.append((birth.site.module or "loss", f"born here: {base_name(birth.op)}, {birth.phase}"))
    return found


def waterfall(table: Picture, remarks: list[tuple[str, str]]) -> str:
    """A bar per layer, from the loss at the top to the input at the bottom; remarks below."""
    axis, height = _axis(table), ROW * len(table.rows)
    marks = []
    if math.isfinite(table.late):
        start, end = (axis.x(table.late + side * BAND_DECADES) for side in (-1, 1))
        marks.append(f'<rect class="band" x="{start:.1f}" y="0" width="{end - start:.1f}" height="{height}"/>')
    for place, row in enumerate(table.rows):
        marks += _row(row, place * ROW, axis)
    for where, what in remarks:
        marks.append(_label(0, height + 12, shorten(clean(where), NAME_CHARACTERS), "start", "name"))
        marks.append(_label(NAME, height + 12, clean(what), "start", "bad"))
        height += ROW
    if math.isfinite(table.rows[0].after):
        for level, anchor in ((axis.low, "start"), (axis.high, "end")):
            marks.append(_label(axis.x(level), height + 13, f"{level:+.0f}" if level else "0", anchor))
        marks.append(_label((NAME + WIDTH - NUMBER) / 2, height + 13, "decades", "middle"))
    last = table.rows[-1]
    told = f"From the {table.start} to {clean(last.last)}: {decades(last.after)} decades"
    return _svg(marks, height + 18, told)


def _axis(table: Picture) -> Axis:
    levels = [x for row in table.rows for x in (row.before, row.after) if math.isfinite(x)] or [0.0]
    low, high = math.floor(min(levels)) - 1.0, float(math.ceil(max(levels)))
    return Axis(low, max(high, low + MIN_SPAN))


def _row(row: Row, top: float, axis: Axis) -> list[str]:
    marks = [_label(0, top + 12, row_name(row, NAME_CHARACTERS), "start", "name")]
    if math.isnan(row.after):
        return [*marks, _label(NAME, top + 12, "not finite", "start", "bad")]
    before, after = axis.x(row.before), axis.x(row.after)
    marks.append(_rect("left", NAME, top, min(before, after) - NAME))
    sign = 1.0 if after > before else -1.0
    parts = [(factor, min(sign * gain, 1e9)) for factor, gain in row.gains.items() if sign * gain > 0]
    whole, at = sum(part for _, part in parts), min(before, after)
    for factor, part in parts:
        width = abs(after - before) * part / whole
        marks.append(_rect(f"{_class(factor)}{' gained' if sign > 0 else ''}", at, top, width))
        at += width
    return [*marks, _label(WIDTH, top + 12, decades(row.after), "end")]


def _class(factor: Factor) -> str:
    shown = (Factor.ACTIVATION, Factor.WEIGHT, Factor.NORM, Factor.ATTENTION, Factor.MERGE)
    return factor.value if factor in shown else "rest"


def curve(values: Sequence[float], told: str) -> str:
    """A line over time with its smallest and largest value; a gap where a number is not finite."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    span = (high - low) or 1.0
    step = (WIDTH - NAME - NUMBER) / max(len(values) - 1, 1)
    stretches: list[list[str]] = [[]]
    for place, value in enumerate(values):
        if math.isfinite(value):
            y = 4 + (high - value) / span * (CURVE_HEIGHT - 8)
            stretches[-1].append(f"{NAME + place * step:.1f},{y:.1f}")
        elif stretches[-1]:
            stretches.append([])
    marks = [f'<polyline class="curve" points="{" ".join(points)}"/>' for points in stretches if points]
    for value, y in ((high, 12), (low, CURVE_HEIGHT)):
        marks.append(_label(NAME - 6, y, f"{value:.3g}", "end"))
    return _svg(marks, CURVE_HEIGHT + 4, told) + f"<figcaption>{escape(told)}</figcaption>"


def _svg(marks: list[str], height: float, told: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}" role="img" '
        f'aria-label="{escape(told)}">{"".join(marks)}</svg>'
    )


def _rect(name: str, x: float, top: float, width: float) -> str:
    return f'<rect class="{name}" x="{x:.1f}" y="{top + 3:.0f}" width="{max(width, 0):.1f}" height="{ROW - 5}"/>'


def _label(x: float, y: float, text: str, anchor: str, name: str = "number") -> str:
    return f'<text class="{name}" x="{x:.1f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>'
