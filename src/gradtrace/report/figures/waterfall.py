"""Where on its way from the loss to the input is the gradient lost, and to what? As a figure for a paper.

One row per layer, the loss on top; each row's step is split by factor, every factor from where the one before it ended,
so that the rows add up to the whole. The bound and the theory's line are those of the HTML report.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING

from gradtrace.errors import InputError
from gradtrace.measure.ledger import ledger
from gradtrace.measure.path import Paths
from gradtrace.records.vocabulary import Factor
from gradtrace.report.expectation import expected_decades
from gradtrace.report.figures.palette import BAND, BOUND, EXPECTED, FACTOR_COLOURS, INK, LINE, SOFT
from gradtrace.report.figures.paper import LOOK, WIDTHS_IN, label_decades, label_rows, looking, new_figure
from gradtrace.report.html.phrases import FACTORS
from gradtrace.report.picture import row_name
from gradtrace.report.rows import Row
from gradtrace.report.tables import BAND_DECADES, Picture, counts, main_trace, picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gradtrace.records.finding import Diagnosis
    from gradtrace.records.shown import Columns
    from gradtrace.records.trace import Trace

MOST_ROWS = 28
ROW_IN, FRAME_IN = 0.135, 0.95
"""[inches] Height of a row, and of all that is not a row."""
NAME_LETTERS = {1: 18, 2: 40}
"""Letters of a layer's name beside the rows."""
SMALLEST_BOUND = -0.5
"""[decades] Above it the activations' bound says nothing (ReLU: 0)."""


def plot_waterfall(trace: Trace, *, columns: Columns = 1, axes: Axes | None = None) -> Figure:
    """The waterfall of `trace`, in a figure of its own or in `axes`.

    Raises:
        InputError: there is nothing to draw, matplotlib is not installed, or `columns` is neither 1 nor 2.
    """
    table = picture(trace, MOST_ROWS)
    if not table.rows:
        raise InputError("there is no waterfall to draw: no layer with weights received a gradient")
    figure = new_figure(columns, FRAME_IN + ROW_IN * len(table.rows)) if axes is None else axes.get_figure(root=True)
    assert figure is not None
    with looking():
        if axes is None:
            _draw(axes := figure.add_subplot(), trace, table, NAME_LETTERS[columns])
            figure.legend(*_legend(axes, table.told), loc="outside upper left", ncols=3 if columns == 1 else 6)
        else:
            _draw(axes, trace, table, NAME_LETTERS[2 if _width_in(axes) > WIDTHS_IN[1] else 1])
            axes.legend(*_legend(axes, table.told), loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)
    return figure


def plot_diagnosis(diagnosis: Diagnosis, *, columns: Columns = 1, axes: Axes | None = None) -> Figure:
    """The waterfall of the first trace of the loss gradient; raises `InputError` as `plot_waterfall` does."""
    trace = main_trace(diagnosis)
    if trace is None:
        raise InputError("there is no waterfall to draw: no backward pass was measured")
    return plot_waterfall(trace, columns=columns, axes=axes)


def _width_in(axes: Axes) -> float:
    figure = axes.get_figure(root=True)
    return float(figure.get_figwidth() * axes.get_position().width) if figure is not None else 0.0


def _threads(trace: Trace, table: Picture) -> tuple[list[float], list[float]]:
    """The decades behind each row that the bound and the theory allow; a folded row ends where its last layer does.

    The bound is left out where it says nothing.
    """
    paths = Paths(trace)
    book = ledger(trace, paths)
    levels = expected_decades(trace, paths, book)
    ends = [end - 1 for end in accumulate(row.num_layers for row in table.rows)]
    says_something = math.isfinite(table.bound) and table.bound <= SMALLEST_BOUND
    return [book[end].bound_log10 for end in ends] if says_something else [], [levels[end] for end in ends]


def _draw(axes: Axes, trace: Trace, table: Picture, letters: int) -> None:
    bounds, expected = _threads(trace, table)
    band = (table.late - BAND_DECADES, table.late + BAND_DECADES)
    if all(map(math.isfinite, band)):
        axes.axvspan(*band, color=BAND, linewidth=0, zorder=0, label="healthy")
    for number, row in enumerate(table.rows):
        _draw_row(axes, number, row, table.told)
    _thread(axes, bounds, BOUND, "-", "bound: max a'")
    _thread(axes, expected, EXPECTED, (0, (3, 2)), "theory")
    levels = [-1.0, 1.0, *band, *(row.after for row in table.rows), *bounds, *expected]
    known = [level for level in levels if math.isfinite(level)]
    axes.set_xlim(math.floor(min(known)), math.ceil(max(known)))
    axes.set_ylim(len(table.rows) - 0.5, -0.5)
    label_rows(axes, [row_name(row, letters) for row in table.rows])
    label_decades(axes, "x", 7)
    axes.set_xlabel(f"gradient, relative to the {table.start}", size=LOOK["axes.labelsize"])
    axes.grid(axis="x", color=LINE, zorder=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_row(axes: Axes, number: int, row: Row, told: Sequence[Factor]) -> None:
    steps = [(factor, gain) for factor in told if counts(gain := row.gains.get(factor, 0.0)) and math.isfinite(gain)]
    height, level = 0.78 / max(len(steps), 1), row.before
    for place, (factor, gain) in enumerate(steps):
        top = number - 0.39 + place * height
        axes.barh(top, gain, height * 0.94, level, align="edge", color=FACTOR_COLOURS[factor], linewidth=0, zorder=2)
        level += gain
    if math.isfinite(row.after):
        axes.plot([row.after, row.after], [number + 0.3, number + 0.7], color=SOFT, linewidth=0.6, zorder=1.5)
    elif math.isfinite(row.before):
        told_as = "to zero" if row.after < 0 else "not finite"
        axes.annotate(told_as, (row.before, number), (3, 0), textcoords="offset points", va="center", color=INK)


def _thread(axes: Axes, levels: Sequence[float], colour: str, dashes: object, label: str) -> None:
    """From the loss (0) on, from the bottom of each row to that of the next."""
    if not any(map(math.isfinite, levels)):
        return
    x = [0.0, *(level if math.isfinite(level) else math.nan for level in levels)]
    y = [number - 0.5 for number in range(len(x))]
    axes.plot(x, y, color=colour, linestyle=dashes, linewidth=0.8, zorder=3, label=label)


def _legend(axes: Axes, told: Sequence[Factor]) -> tuple[list[Artist], list[str]]:
    """Handles and words: factors of one colour in one, then band and lines."""
    from matplotlib.patches import Patch

    words: dict[str, list[str]] = {}
    for factor in told:
        words.setdefault(FACTOR_COLOURS[factor], []).append(FACTORS[factor])
    patches = {", ".join(names): Patch(color=colour, linewidth=0) for colour, names in words.items()}
    handles, labels = axes.get_legend_handles_labels()
    return [*patches.values(), *handles], [*patches, *labels]
