"""How does the way of the gradient look in characters? A bar per layer on an axis of decades.

    layers.3   ━━━━━━━━━━━━━━━━aaf        body: the gradient that is left behind this layer
    layers.2   ━━━━━━━━━━━━━aaf           small letters: what this layer took, by factor
    layers.1   ━━━━━━━━━━━━━FF            capitals: what it added

Letters tell the factors apart without colour; the colours are those of the page, after Okabe and Ito (2008), for any
eye, with a contrast of 4.5:1 or more against black and against white.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from gradtrace.records.vocabulary import Factor
from gradtrace.report.tables import BAND_DECADES, counts
from gradtrace.report.words import clean, decades, short, shorten

if TYPE_CHECKING:
    from gradtrace.report.rows import Row
    from gradtrace.report.tables import Picture


@dataclass(frozen=True, slots=True)
class Look:
    """How one factor is drawn."""

    letter: str
    style: str
    heading: str
    meaning: str


LOOKS: dict[Factor, Look] = {
    Factor.ACTIVATION: Look("a", "#c25500", "a'", "activations"),
    Factor.WEIGHT: Look("f", "#007bc0", "f'", "weights"),
    Factor.NORM: Look("n", "#008661", "norm", "norms"),
    Factor.ATTENTION: Look("t", "#b1568f", "attn", "attention"),
    Factor.MERGE: Look("m", "#877500", "merge", "merges"),
    Factor.RESHAPE: Look("r", "#70767f", "rest", "reshaping"),
    Factor.LOSS: Look("l", "#70767f", "rest", "loss"),
    Factor.OTHER: Look("o", "#70767f", "rest", "other ops"),
}

_NUMBER = 6
"""Width of a column of decades."""
_RELATIVE = {"|grad|/|W|": "relative_gradient", "update/|W|": "relative_update"}
"""Headings and fields of what the weights get."""
_BOTH_FROM = 100
"""Cells of a screen that has room for both; a narrower one shows the update where it is known."""
_MIN_BAR, _MAX_BAR = 18, 64
_MIN_SPAN = 4.0
"""Fewest decades that the axis covers."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Widths of the columns, and which factors have one of their own."""

    name: int
    bar: int
    own: tuple[Factor, ...]
    has_rest: bool
    low: float
    high: float
    band: tuple[float, float]
    body: str
    dot: str
    level: int
    """How much a row says of its layer: 0 with class and shape, 1 with its class, 2 its path alone."""
    relative: tuple[str, ...]
    """Headings of what the weights get."""

    def cell(self, level: float) -> int:
        """Cells of the bar up to `level`."""
        if math.isnan(level):
            return 0
        frac = (min(max(level, self.low), self.high) - self.low) / (self.high - self.low)
        return round(frac * self.bar)


def draw(table: Picture, width: int, *, ascii_only: bool = False) -> list[Text]:
    """The lines of the picture, each at most `width` wide; [] without layers."""
    if not table.rows:
        return []
    layout = lay_out(table, width, ascii_only=ascii_only)
    return [_legend(table, layout), Text(), *_heading(layout), *(_line(row, layout) for row in table.rows)]


def lay_out(table: Picture, width: int, *, ascii_only: bool) -> Layout:
    """Fit the columns into `width`: as many factors as there is room for, the others under 'rest'."""
    told = [factor for factor in table.told if LOOKS[factor].heading != "rest"]
    most = min(max(20 if width >= 80 else 16, width // 4), 40)
    choices = (0, 1) if width >= _BOTH_FROM else (1,)
    level = next((one for one in choices if all(cell_len(row_name(r, 200, one)) <= most for r in table.rows)), 2)
    name = min(max(6, *(cell_len(row_name(row, 200, level)) for row in table.rows)), most)
    relative = tuple(_RELATIVE) if width >= _BOTH_FROM else tuple(_RELATIVE)[-1:]
    relative = relative if table.updates_known else tuple(_RELATIVE)[:1]
    last = sum(len(heading) + 1 for heading in relative)
    free = width - name - 1 - (_MIN_BAR + 1) - (_NUMBER + 1) - last
    fitting = max(2, free // (_NUMBER + 1))
    if len(told) + 1 > fitting:  # the largest ones stay
        told = sorted(told, key=lambda factor: -_weight(table.totals[factor]))[: fitting - 1]
        told = [factor for factor in table.factors if factor in told]
    rest = any(counts(gain) for row in table.rows for factor, gain in row.gains.items() if factor not in told)
    used = (_NUMBER + 1) * (len(told) + rest) + (_NUMBER + 1) + last
    bar = min(max(width - name - 1 - used, _MIN_BAR - 8), _MAX_BAR)
    levels = [level for row in table.rows for level in (row.before, row.after) if math.isfinite(level)] or [0.0]
    band = (table.late - BAND_DECADES, table.late + BAND_DECADES)
    low, high = math.floor(min(levels)) - 1.0, float(math.ceil(max(levels)))
    high = max(high, low + _MIN_SPAN)
    body, dot = ("=", ".") if ascii_only else ("━", "·")
    return Layout(name, bar, tuple(told), rest, low, high, band, body, dot, level, relative)


def _weight(total: float) -> float:
    return abs(total) if math.isfinite(total) else math.inf


def row_name(row: Row, width: int, level: int = 2) -> str:
    """``layers.9 Linear 32x32``, ``layers.99 … layers.90 (10 alike)``, or shorter."""
    first, last = clean(row.first), clean(row.last)
    if row.num_layers == 1:
        return shorten(clean(row.labels[level]) if row.labels else first, width)
    if first == last:
        whole = f"{first} ({row.num_layers} layers)"
        return whole if cell_len(whole) <= width else shorten(first, width)
    whole = f"{first} … {last} ({row.num_layers} alike)"
    if cell_len(whole) <= width:
        return whole
    pairs = zip(first.split("."), last.split("."), strict=False)
    num_shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    tail = f"…{'.'.join(last.split('.')[num_shared:])} ×{row.num_layers}"
    return shorten(first, max(width - cell_len(tail), 4)) + tail


def _legend(table: Picture, layout: Layout) -> Text:
    line = Text(f"Decades (powers of ten) from the {table.start} (top) to the input (bottom); ").append(
        layout.dot * 3, "dim"
    )
    line.append(" healthy\nA row: one layer's weights, and what follows them up to the row above.\n")
    line.append(f"{layout.body * 3} left", "bold").append("   lost (CAPITAL: gained) by ")
    for place, factor in enumerate(table.told):
        look = LOOKS[factor]
        line.append(", " if place else "").append(look.letter, look.style).append(f" {look.meaning}")
    return line


def _heading(layout: Layout) -> list[Text]:
    scale = [" "] * layout.bar
    for label, level in ((f"{layout.low:.0f}", layout.low), (f"{layout.high:.0f}", layout.high)):
        at = min(max(layout.cell(level) - (len(label) if level > layout.low else 0), 0), layout.bar - len(label))
        scale[at : at + len(label)] = label
    start, end = (layout.cell(level) for level in layout.band)
    middle = " healthy "
    at = (start + end - len(middle)) // 2
    room = scale[max(at - 1, 0) : at + len(middle) + 1]
    if at > 0 and at + len(middle) <= layout.bar and end - start >= len(middle) and not "".join(room).strip():
        scale[at : at + len(middle)] = middle
    headings = [LOOKS[factor].heading for factor in layout.own] + ["rest"] * layout.has_rest
    line = Text("layer".ljust(layout.name) + " " + "".join(scale) + " " + "so far".rjust(_NUMBER), "bold")
    for heading, factor in zip(headings, [*layout.own, Factor.OTHER], strict=False):
        line.append(" " + heading.rjust(_NUMBER), f"bold {LOOKS[factor].style}")
    for heading in layout.relative:
        line.append(" " + heading, "bold")
    return [line]


def _line(row: Row, layout: Layout) -> Text:
    line = (
        Text(set_cell_size(row_name(row, layout.name, layout.level), layout.name)).append(" ").append(bar(row, layout))
    )
    line.append(" " + decades(row.after).rjust(_NUMBER), "bold")
    for factor in layout.own:
        shown = decades(row.gains[factor]) if factor in row.gains else ""
        line.append(" " + shown.rjust(_NUMBER), LOOKS[factor].style)
    if layout.has_rest:
        rest = [gain for factor, gain in row.gains.items() if factor not in layout.own]
        line.append(" " + (decades(sum(rest)) if rest else "").rjust(_NUMBER), LOOKS[Factor.OTHER].style)
    for heading in layout.relative:
        ratio = getattr(row, _RELATIVE[heading])
        line.append(" " + ("" if math.isnan(ratio) else short(ratio)).rjust(len(heading)))
    return line


def bar(row: Row, layout: Layout) -> Text:
    """One bar of exactly `layout.bar` cells."""
    if math.isnan(row.after):
        return Text("not finite".ljust(layout.bar)[: layout.bar], "bold #d53f34")
    before, after = layout.cell(row.before), layout.cell(row.after)
    text = Text(layout.body * min(before, after), "bold")
    for factor, num_cells in _split(row, after - before):
        letter = LOOKS[factor].letter if after < before else LOOKS[factor].letter.upper()
        text.append(letter * num_cells, LOOKS[factor].style)
    start, end = (layout.cell(level) for level in layout.band)
    for cell in range(len(text), layout.bar):
        text.append(layout.dot if start <= cell < end else " ", "dim")
    return text


def _split(row: Row, num_cells: int) -> list[tuple[Factor, int]]:
    """Which factors fill the cells that this row takes (or adds), in proportion to what each took (or added)."""
    sign = -1.0 if num_cells < 0 else 1.0
    parts = [(factor, min(sign * gain, 1e9)) for factor, gain in row.gains.items() if sign * gain > 0]
    whole = sum(part for _, part in parts)
    cells, done, reached = [], 0, 0.0
    for factor, part in parts:
        reached += part
        upto = round(abs(num_cells) * reached / whole)
        cells.append((factor, upto - done))
        done = upto
    return cells
