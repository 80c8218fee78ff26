"""How far back in time does the gradient reach? Gradient by step, what is left by lag, and the map |dL_t/ds_s|."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.errors import InputError
from gradtrace.measure.path import log10
from gradtrace.records.horizon import HALVED_DECADES, VANISHED_DECADES
from gradtrace.report.figures.heat import colour_bar, heat_colours
from gradtrace.report.figures.palette import BROKEN, LINE, SERIES, SOFT
from gradtrace.report.figures.paper import WIDTHS_IN, label_decades, looking, new_figure
from gradtrace.report.html.pooling import span
from gradtrace.report.words import clean, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gradtrace.records.shown import Columns
    from gradtrace.records.time import Chain, Reach, ThroughTime

MOST_CHAINS = len(SERIES)
"""Recurrences in one figure: one colour each."""
PANEL_IN = 1.9
"""[inches] Height of a panel."""
LETTERS = 34


def plot_through_time(record: ThroughTime, *, columns: Columns = 2) -> Figure:
    """One to three panels, beside each other in two columns and below each other in one.

    Raises:
        InputError: there is nothing to draw, matplotlib is not installed, or `columns` is neither 1 nor 2.
    """
    panels = _panels(record)
    if not panels:
        raise InputError("there is nothing to draw through time: no recurrence and no position was measured")
    figure = new_figure(columns, PANEL_IN * (1 if columns == 2 else len(panels)) + (0.35 if columns == 2 else 0.1))
    with looking():
        shape = (1, len(panels)) if columns == 2 else (len(panels), 1)
        for axes, draw in zip(figure.subplots(*shape, squeeze=False).flat, panels, strict=True):
            draw(axes)
        first = figure.axes[0]
        handles, names = first.get_legend_handles_labels()
        if handles:
            figure.legend(handles, names, loc="outside upper left", ncols=1 if columns == 1 else min(len(names), 3))
    if len(panels) == 1 and columns == 2:
        figure.set_figwidth(WIDTHS_IN[1])
    return figure


def _panels(record: ThroughTime) -> list[Callable[[Axes], None]]:
    chains = record.chains[:MOST_CHAINS]
    reaches = [chain.reach for chain in chains] if chains else [*record.losses[:MOST_CHAINS]]
    names = [chain.name for chain in chains] or [record.positions or "the input"] * len(reaches)
    known = [(name, reach, colour) for name, reach, colour in zip(names, reaches, SERIES, strict=False) if reach]
    panels: list[Callable[[Axes], None]] = []
    if chains:
        panels.append(lambda axes: _draw_steps(axes, chains))
    if known:
        panels.append(lambda axes: _draw_lags(axes, known))
        panels.append(lambda axes: _draw_map(axes, known[0][1], "h" if chains else "x"))
    return panels


def _label(name: str) -> str:
    return shorten(clean(name), LETTERS)


def _draw_steps(axes: Axes, chains: Sequence[Chain]) -> None:
    for chain, colour in zip(chains, SERIES, strict=False):
        levels = [level if math.isfinite(level := log10(norm)) else math.nan for norm in chain.states]
        axes.plot(range(len(levels)), levels, color=colour, label=_label(chain.name))
        for cut in chain.cuts:
            axes.axvline(cut + 0.5, color=BROKEN, linewidth=0.6, linestyle=(0, (2, 2)))
    axes.set_xlim(0, max(chain.num_steps for chain in chains))
    axes.set_xlabel("step t")
    axes.set_ylabel("gradient at the state of t")
    _finish(axes)


def _draw_lags(axes: Axes, known: Sequence[tuple[str, Reach, str]]) -> None:
    for name, reach, colour in known:
        curve = [level if math.isfinite(level) else math.nan for level in reach.curve()]
        axes.plot(range(len(curve)), curve, color=colour, label=_label(name))
    low = axes.get_ylim()[0]
    for level, words in ((HALVED_DECADES, "a half"), (VANISHED_DECADES, "a thousandth")):
        if level > low:
            axes.axhline(level, color=SOFT, linewidth=0.6, linestyle=(0, (3, 2)))
            axes.annotate(words, (1, level), (0, 1.5), xycoords=("axes fraction", "data"), textcoords="offset points",
                          ha="right", color=SOFT, size=6.5)  # fmt: skip
    axes.set_xlabel("steps back")
    axes.set_ylabel("left of a gradient (median)")
    _finish(axes)


def _draw_map(axes: Axes, reach: Reach, letter: str) -> None:
    longest = max((len(row) for row in reach.rows), default=0)
    values = np.full((len(reach.rows), longest), np.nan)
    for place, row in enumerate(reach.rows):
        values[place, : len(row)] = row
    low, high = span(values)
    targets = np.array(reach.targets, float)
    middle = (targets[1:] + targets[:-1]) / 2
    ends = np.concatenate([[2 * targets[0] - middle[0]], middle, [2 * targets[-1] - middle[-1]]]) if len(
        middle
    ) else targets[0] + np.array([-0.5, 0.5])  # fmt: skip
    axes.pcolormesh(np.arange(longest + 1) - 0.5, ends, heat_colours(values, low, high), rasterized=True)
    axes.set_xlabel("s")
    axes.set_ylabel("t")
    colour_bar(axes, low, high, f"|dL_t/d{letter}_s|")


def _finish(axes: Axes) -> None:
    low, high = axes.get_ylim()
    if high - low < 1.0:  # at least a decade, so that two ticks are there
        axes.set_ylim((low + high) / 2 - 0.6, (low + high) / 2 + 0.6)
    label_decades(axes, "y", 6)
    axes.grid(axis="y", color=LINE)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
