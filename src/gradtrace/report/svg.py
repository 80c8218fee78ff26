"""How does a record look in a cell of a notebook? One small inline SVG, without script or style sheet.

Every name is escaped; colours are read on white as on black.
"""

from __future__ import annotations

import math
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from gradtrace.report.picture import LOOKS
from gradtrace.report.strip import COLOURS, SPAN_DECADES, colour, rows_of_layers, shades
from gradtrace.report.words import clean, decades, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from gradtrace.report.rows import Row
    from gradtrace.report.tables import Picture

WIDTH, NAME_WIDTH, NUMBER_WIDTH, ROW_HEIGHT = 640, 170, 60, 18
CHART_HEIGHT = 140
HEAT_HEIGHT, MOST_ROWS = 14, 16
GREY, BAND = "#767676", "#00825c"
LINES = ("#0072b2", "#c25200", "#00825c", "#b35a92", "#767676")


def waterfall(table: Picture) -> str:
    """A row per layer: what each factor took or gave, from the decades before it to those behind it."""
    levels = [level for row in table.rows for level in (row.before, row.after) if math.isfinite(level)] or [0.0]
    low, high = math.floor(min(*levels, -1.0)), math.ceil(max(*levels, 1.0))
    left, right = NAME_WIDTH, WIDTH - NUMBER_WIDTH

    def x(level: float) -> float:
        return left + (min(max(level, low), high) - low) / (high - low) * (right - left)

    parts = [_text(x(tick), 12, f"{tick:g}", anchor="middle") for tick in _ticks(low, high)]
    parts += [_line(x(tick), 18, x(tick), 18 + ROW_HEIGHT * len(table.rows)) for tick in _ticks(low, high)]
    for place, row in enumerate(table.rows):
        top = 18 + ROW_HEIGHT * place
        name = row.first if row.num_layers == 1 else f"{row.first} ({row.num_layers})"
        parts.append(_text(left - 8, top + 13, shorten(clean(name), 24), anchor="end"))
        parts += _steps(row, x, top)
        parts.append(_text(WIDTH - 2, top + 13, decades(row.after), anchor="end"))
    title = f"Decades from the {table.start} (top) to the input (bottom)"
    return _picture(parts, 24 + ROW_HEIGHT * len(table.rows), title) + _legend(table)


def _steps(row: Row, x: object, top: float) -> list[str]:
    assert callable(x)
    level, found = row.before, []
    for factor, gain in row.gains.items():
        if not math.isfinite(level) or math.isnan(gain) or abs(gain) < 0.005:
            continue
        start, end = sorted((x(level), x(level + gain)))
        look, width = LOOKS[factor], max(end - start, 1.5)
        place = f'x="{start:.1f}" y="{top + 3}" width="{width:.1f}" height="12"'
        found.append(f'<rect {place} fill="{look.style}"><title>{look.meaning} {decades(gain)}</title></rect>')
        level += gain
    return found


def _legend(table: Picture) -> str:
    told = "".join(
        f'<span style="color:{LOOKS[factor].style}">&#9632;</span> {LOOKS[factor].meaning} &nbsp; '
        for factor in table.told
    )
    return f"<p><small>{told}decades, from the {table.start} to the input</small></p>"


def curves(lines: Sequence[tuple[str, Sequence[float]]], label: str, *, logarithmic: bool = True) -> str:
    """Lines over a whole number; what is not finite (or not positive, where it is logarithmic) is a gap."""
    drawn = [(name, [_level(value, logarithmic) for value in values]) for name, values in lines]
    known = [value for _, values in drawn for value in values if math.isfinite(value)] or [0.0]
    low, high = min(known), max(known)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    longest = max((len(values) for _, values in drawn), default=0)
    left, right, top, bottom = 64.0, WIDTH - 8.0, 10.0, CHART_HEIGHT - 24.0

    def at(place: int, value: float) -> str:
        return (f"{left + place / max(longest - 1, 1) * (right - left):.1f} "
                f"{bottom - (value - low) / (high - low) * (bottom - top):.1f}")  # fmt: skip

    ends = [(low, bottom), (high, top)]
    parts = [_text(left - 6, y + 4, f"{10**v:.2g}" if logarithmic else f"{v:.3g}", anchor="end") for v, y in ends]
    parts += [_line(left, y, right, y) for _, y in ends]
    parts.append(_text((left + right) / 2, CHART_HEIGHT - 6, label, anchor="middle"))
    for number, (_, values) in enumerate(drawn):
        colour = LINES[number % len(LINES)]
        path = "".join(_moves(values, at))
        parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    named = " &nbsp; ".join(
        f'<span style="color:{LINES[i % len(LINES)]}">&#9644;</span> {escape(clean(name))}'
        for i, (name, _) in enumerate(drawn)
    )
    return _picture(parts, CHART_HEIGHT, label) + f"<p><small>{named}</small></p>"


def heat(names: Sequence[str], decades: NDArray[np.float64]) -> str:
    """Gradient by depth (the output on top) over the steps; a path per colour, so that a large map stays small.

    `decades` [columns, layers] are relative to the largest layer, as of `layer_decades`.
    """
    rows = rows_of_layers(len(names), MOST_ROWS)[::-1]
    cell = (WIDTH - NAME_WIDTH - 8.0) / max(len(decades), 1)
    cells: dict[int, list[str]] = {}
    parts = []
    for place, row in enumerate(rows):
        top, at = 4 + HEAT_HEIGHT * place, 0
        name = shorten(clean(names[row[-1]]) or "model", 24)
        parts.append(_text(NAME_WIDTH - 8, top + HEAT_HEIGHT - 3, name, anchor="end"))
        for shade, alike in groupby(shades(decades[:, row.start : row.stop]).tolist()):
            width = len(list(alike))
            path = f"M{NAME_WIDTH + at * cell:.1f} {top}h{width * cell:.1f}v{HEAT_HEIGHT}h{-width * cell:.1f}z"
            cells.setdefault(shade, []).append(path)
            at += width
    parts += [f'<path d="{"".join(paths)}" fill="{colour(shade)}"/>' for shade, paths in sorted(cells.items())]
    label = "gradient per weight by depth (output on top) over the steps"
    return _picture(parts, 8 + HEAT_HEIGHT * len(rows), label) + f"<p><small>{_heat_scale()}</small></p>"


def _heat_scale() -> str:
    last = len(COLOURS) - 1
    told = [
        f'<span style="color:{COLOURS[round(last * (1 - decade / SPAN_DECADES))]}">&#9632;</span> '
        + ("most" if decade == 0 else f"1e-{decade}")
        for decade in range(0, int(SPAN_DECADES) + 1, 2)
    ]
    return "gradient per weight, output on top: " + " &nbsp; ".join(told) + " of it"


def _moves(values: Sequence[float], at: object) -> Iterable[str]:
    assert callable(at)
    pen = "M"
    for place, value in enumerate(values):
        if math.isfinite(value):
            yield f"{pen}{at(place, value)}"
            pen = "L"
        else:
            pen = "M"


def _level(value: float, logarithmic: bool) -> float:
    if not logarithmic:
        return value
    return math.log10(value) if value > 0 and math.isfinite(value) else math.nan


def _ticks(low: int, high: int) -> list[int]:
    step = max(1, math.ceil((high - low) / 8))
    return list(range(low, high + 1, step))


def _text(x: float, y: float, text: str, *, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{GREY}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{GREY}" stroke-opacity="0.3"/>'


def _picture(parts: Iterable[str], height: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}" role="img" '
        f'aria-label="{escape(title)}" font-family="sans-serif" font-size="11" style="max-width:100%">'
        + "".join(parts)
        + "</svg>"
    )
