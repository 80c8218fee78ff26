"""What happened during the run? The loss, and below it the gradient norm of every weight at every step.

Steps and weights are pooled by the largest, so that a spike of a single step stays; old steps that the run's file has
pooled are as wide as they are many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradtrace.errors import InputError
from gradtrace.records.run import EventKind, Run, Scalar, Series
from gradtrace.report.figures.heat import colour_bar, heat_colours
from gradtrace.report.figures.palette import BROKEN, SERIES
from gradtrace.report.figures.paper import label_decades, looking, new_figure
from gradtrace.report.html.pooling import edges, pooled, span
from gradtrace.report.words import clean, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gradtrace.records.shown import Columns

MOST_STEPS, MOST_ROWS = 600, 200
"""Cells of the map: no page shows more."""
MOST_NAMES = 20
LETTERS = {1: 18, 2: 36}
HEIGHT_IN = {1: 3.4, 2: 3.6}
"""[inches]"""


def plot_run(run: Run, *, columns: Columns = 1) -> Figure:
    """Loss and heat map of `run`, under each other.

    Raises:
        InputError: no step was watched, matplotlib is not installed, or `columns` is neither 1 nor 2.
    """
    if not len(run.steps.first):
        raise InputError("there is no run to draw: no step was watched")
    has_loss = not np.isnan(run.steps.scalar(Scalar.LOSS)[1]).all()
    figure = new_figure(columns, HEIGHT_IN[columns] - (0 if has_loss else 0.9))
    with looking():
        if has_loss:
            above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 3.2])
            _draw_loss(above, run)
        else:
            below = figure.subplots()
        _draw_map(below, run, LETTERS[columns])
    return figure


def _draw_loss(axes: Axes, run: Run) -> None:
    """A line, and the range between smallest and largest where steps are pooled; logarithmic where it can be."""
    columns = edges(len(run.steps.first), MOST_STEPS)
    one = np.array([0, 1])
    low, high = (
        pooled(values[None], one, columns, largest=largest)[0]
        for values, largest in zip(run.steps.scalar(Scalar.LOSS), (False, True), strict=True)
    )
    low, high = (np.where(np.isfinite(values), values, np.nan) for values in (low, high))
    last = run.steps.first + run.steps.count - 1
    at = (run.steps.first[columns[:-1]] + last[columns[1:] - 1]) / 2
    decades = bool(np.nanmin(low, initial=np.inf) > 0)
    low, high = (np.log10(values) if decades else values for values in (low, high))
    axes.fill_between(at, low, high, color=SERIES[0], alpha=0.25, linewidth=0)
    axes.plot(at, (low + high) / 2, color=SERIES[0])
    if decades:
        label_decades(axes, "y", 4)
    axes.set_ylabel("loss")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_map(axes: Axes, run: Run, letters: int) -> None:
    parameters = run.header.parameters
    chosen = [i for i, parameter in enumerate(parameters) if len(parameter.shape) > 1] or list(range(len(parameters)))
    norms = run.steps.series(Series.GRADIENT_NORM)[1][:, chosen].T
    rows, columns = edges(len(chosen), MOST_ROWS), edges(norms.shape[1], MOST_STEPS)
    values = pooled(norms, rows, columns, largest=True)
    low, high = span(values)
    ends = run.steps.first[columns[:-1]], [run.steps.first[-1] + run.steps.count[-1]]
    place = np.arange(len(rows)) - 0.5
    axes.pcolormesh(np.concatenate(ends), place, heat_colours(values, low, high), rasterized=True)
    names = [clean(parameters[i].name).removesuffix(".weight") for i in chosen]
    _name_rows(axes, [names[first] for first in rows[:-1]], letters)
    for step in sorted({event.step for event in run.events if event.kind is EventKind.NONFINITE}):
        axes.axvline(step, color=BROKEN, linewidth=0.6, linestyle=(0, (2, 2)))
    axes.set_xlabel("step")
    colour_bar(axes, low, high, "gradient norm")


def _name_rows(axes: Axes, names: list[str], letters: int) -> None:
    """As many as there is room for."""
    axes.set_ylim(len(names) - 0.5, -0.5)
    every = -(-len(names) // MOST_NAMES)
    axes.set_yticks(range(0, len(names), every), [shorten(name, letters) for name in names[::every]])
    axes.tick_params(axis="y", length=0)
