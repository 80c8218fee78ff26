"""How does a run look in one line, and its layers in a block of colour? Time goes to the right, the newest at the edge.

    loss      2.31 ▇▆▅▄▃▃▂▂▁▁
    heat map: one row per layer, the output on top; bright gets most of the gradient, dark next to nothing

Steps are pooled into columns of 1, 2, 3, 4, 6, 8, 12, ... steps, so that a growing run is redrawn rarely.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
from rich.text import Text

from gradtrace.records.parameter_name import module_in
from gradtrace.records.run import Series

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gradtrace.records.run import Run, RunSteps

_SPARKS, _ASCII_SPARKS = "▁▂▃▄▅▆▇█", "_.-=*#%@"
SPAN_DECADES = 6.0
"""[decades] The darkest colour: further down, no float32 weight is moved in sight of a float32 sum (eps is 1.2e-7)."""

COLOURS = ("#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06", "#f7d13d", "#fcffa4")
"""Inferno of matplotlib (CC0), ten colours from nothing to most."""

ASCII_HEAT = " .:-=+*%@#"
NOT_FINITE, NOT_MEASURED = "#00d7ff", "#303030"


def column_of_steps(steps: RunSteps, width: int) -> NDArray[np.int64]:
    """[rows]: the column, of at most `width`, that each row of `steps` falls into.

    >>> from dataclasses import replace
    >>> from gradtrace.records.run import RunSteps
    >>> steps = replace(RunSteps.empty(0), first=np.arange(10), count=np.ones(10, int))
    >>> column_of_steps(steps, 4)
    array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3])
    """
    if not len(steps.first):
        return steps.first
    begin, end = int(steps.first[0]), int(steps.first[-1] + steps.count[-1])
    sizes = (size << doubled for doubled in itertools.count() for size in ((2, 3) if doubled else (1, 2, 3)))
    per_column = next(size for size in sizes if math.ceil((end - begin) / size) <= width)
    return (steps.first - begin) // per_column


def pooled(values: NDArray[np.floating], columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """The largest of each column [columns, ...], for ascending `columns` [rows]; NaN where nothing was measured.

    >>> pooled(np.array([1.0, 5.0, np.nan, np.nan, np.inf]), np.array([0, 0, 1, 3, 3]))
    array([ 5., nan, nan, inf])
    """
    out = np.full((int(columns[-1]) + 1 if len(columns) else 0, *values.shape[1:]), np.nan)
    if len(columns):
        starts = np.flatnonzero(np.diff(columns, prepend=-1))
        out[columns[starts]] = np.fmax.reduceat(values, starts, axis=0)  # fmax: NaN only where all are
    return out


def sparkline(values: Sequence[float], *, ascii_only: bool = False) -> str:
    """One character per value; logarithmic where positive values span more than two decades.

    >>> sparkline([3.0, 2.0, math.nan, 1.0, math.inf])
    '█▅ ▁!'
    """
    sparks = _ASCII_SPARKS if ascii_only else _SPARKS
    finite = [value for value in values if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) > 100 * min(finite):
        return sparkline([math.log10(value) if value > 0 else value for value in values], ascii_only=ascii_only)
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(sparks) - 1) / (high - low) if high > low else 0.0
    return "".join(
        " " if math.isnan(value) else "!" if math.isinf(value) else sparks[round((value - low) * scale)]
        for value in values
    )


def layer_decades(run: Run, columns: NDArray[np.int64]) -> tuple[list[str], NDArray[np.float64]]:
    """Names [layers], the input's first, and log10 of the RMS gradient [columns, layers] relative to the largest layer.

    A layer is all the parameters of one module; NaN: not measured, +inf: not finite, -inf: exactly zero.
    """
    groups: dict[str, list[int]] = {}
    for index, parameter in enumerate(run.header.parameters):
        groups.setdefault(module_in(parameter.name) or parameter.name, []).append(index)
    norms = pooled(run.steps.series(Series.GRADIENT_NORM)[1], columns)
    rms = np.full((len(norms), len(groups)), np.nan)
    for place, members in enumerate(groups.values()):
        numel = sum(math.prod(run.header.parameters[index].shape) for index in members)
        known = norms[:, members]
        squares = np.where(np.isnan(known), 0.0, known) ** 2
        rms[:, place] = np.sqrt(squares.sum(1) / max(numel, 1))
        rms[np.isnan(known).all(1), place] = np.nan
    largest = np.max(np.where(np.isfinite(rms), rms, 0.0), axis=1, initial=0.0, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return list(groups), np.log10(rms / np.where(largest > 0, largest, 1.0))


def heat(decades: NDArray[np.float64], num_lines: int, *, ascii_only: bool = False) -> list[tuple[range, Text]]:
    """Lines of one cell per column, each with the layers that it shows; the last layer is on top.

    Args:
        decades: Relative to the largest layer [columns, layers], as of `layer_decades`.
        num_lines: At most so many. Where there are more layers, a line shows two of them, one above the other in half a
            cell each, and then neighbouring layers share a row, of which the darkest shows.
        ascii_only: Characters instead of colours; one row per line.
    """
    num_layers = decades.shape[1]
    per_line = 1 if ascii_only or num_layers <= num_lines else 2
    rows = rows_of_layers(num_layers, per_line * num_lines)[::-1]
    shaded = [shades(decades[:, row.start : row.stop]).tolist() for row in rows]
    lines = []
    for top in range(0, len(rows), per_line):
        bottom = min(top + per_line, len(rows)) - 1
        members = range(rows[bottom].start, rows[top].stop)
        cells = list(zip(shaded[top], shaded[bottom], strict=True))
        lines.append((members, Text("".join(_ascii_cell(one) for one, _ in cells)) if ascii_only else _blocks(cells)))
    return lines


def _blocks(cells: list[tuple[int, int]]) -> Text:
    """The upper and the lower shade of each cell."""
    line = Text()
    for (upper, lower), alike in itertools.groupby(cells):
        line.append("▀" * len(list(alike)), f"{colour(upper)} on {colour(lower)}")
    return line


def rows_of_layers(num_layers: int, num_rows: int) -> list[range]:
    """Neighbouring layers in at most `num_rows` groups, as even as can be.

    >>> rows_of_layers(5, 2), rows_of_layers(2, 8)
    ([range(0, 2), range(2, 5)], [range(0, 1), range(1, 2)])
    """
    num_rows = max(min(num_rows, num_layers), 1)
    edges = [num_layers * row // num_rows for row in range(num_rows + 1)]
    return [range(start, end) for start, end in itertools.pairwise(edges) if end > start]


def shades(decades: NDArray[np.float64]) -> NDArray[np.int64]:
    """[columns]: 0 to 9 from nothing to most; -1: not measured, 10: not finite."""
    lowest = np.min(np.where(np.isnan(decades), np.inf, decades), axis=1)
    level = np.clip((lowest + SPAN_DECADES) / SPAN_DECADES, 0.0, 1.0) * (len(COLOURS) - 1)
    shade = np.where(np.isfinite(level), np.round(level), 0).astype(np.int64)
    shade[np.isnan(decades).all(1)] = -1
    shade[np.isposinf(decades).any(1)] = len(COLOURS)
    return shade


def colour(shade: int) -> str:
    """That of one of `shades`."""
    return NOT_MEASURED if shade < 0 else NOT_FINITE if shade >= len(COLOURS) else COLOURS[shade]


def _ascii_cell(shade: int) -> str:
    return "?" if shade < 0 else "!" if shade >= len(COLOURS) else ASCII_HEAT[shade]
