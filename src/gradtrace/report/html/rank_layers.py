"""Which rank's own gradient stands apart, and in which layers? Each beside the median of all ranks in that layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradtrace.report.html.activations import spread
from gradtrace.report.html.pooling import quantised, span
from gradtrace.report.html.section import Plot, Table
from gradtrace.report.words import clean, short

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradtrace.records.run import Run

MOST_FRAMES = 60
"""Steps to choose from; of more, so many are spread evenly."""

TABLE_CELLS = 4000


def rank_layers(run: Run) -> Plot | None:
    """Layer by rank; None where gradients are not told apart by layer."""
    said = run.ranks
    if said is None or said.layers is None or max(said.columns) >= len(run.header.parameters):
        return None
    beside = beside_median(said.layers)
    if np.isnan(beside).all():
        return None
    names = [clean(run.header.parameters[column].name) for column in said.columns]
    usual = _median_over_steps(beside)
    chosen = list(spread(len(said.steps), MOST_FRAMES))
    frames = np.stack([usual, *(beside[i] for i in chosen)]).transpose(0, 2, 1)  # [frames, layers, ranks]
    low, high = span(frames)
    edge = max(-low, high, 0.3)  # the same distance to both sides: the median's own colour is that of the middle
    data = {
        "names": names,
        "num_ranks": beside.shape[1],
        "steps": said.steps[chosen].tolist(),
        "edge": edge,
        "cells": quantised(frames, -edge, edge).data,
    }
    reading = (
        "A row is a parameter, a column a rank. A colour is the norm of the rank's own gradient before it is averaged, "
        "over the median of all ranks: a column of its own colour is a rank that is not like the others, a single cell "
        "a layer in which it is not." + (" Red is what was not finite." if np.isinf(frames).any() else "")
    )
    title = "Own gradient norm by layer and rank, times the median of all ranks"
    return Plot("ranklayers", "ranklayers", title, reading, data, _table(names, usual))


def beside_median(layers: NDArray[np.float64]) -> NDArray[np.float64]:
    """[reports, ranks, layers]: times the median over ranks; infinite where it was not finite; NaN: not known.

    >>> beside_median(np.array([[[1.0], [2.0], [4.0], [np.inf]]])).ravel()
    array([0.5, 1. , 2. , inf])
    """
    known = np.where(np.isfinite(layers) & (layers > 0.0), layers, np.nan)
    found = np.full_like(known, np.nan)
    several = (~np.isnan(known)).sum(axis=1) > 1  # [reports, layers]
    place, layer = several.nonzero()
    those = known[place, :, layer]
    found[place, :, layer] = those / np.nanmedian(those, axis=1, keepdims=True) if len(those) else those
    return np.where(np.isinf(layers), np.inf, np.where(layers == 0.0, 0.0, found))


def _median_over_steps(beside: NDArray[np.float64]) -> NDArray[np.float64]:
    """[ranks, layers]: of the steps at which it is known and finite."""
    found = np.full(beside.shape[1:], np.nan)
    for rank, layer in np.ndindex(*found.shape):
        values = beside[:, rank, layer]
        values = values[np.isfinite(values)]
        if values.size:
            found[rank, layer] = np.median(values)
    return found


def _table(names: list[str], usual: NDArray[np.float64]) -> Table:
    """Median over steps."""
    ranks = spread(len(usual), max(1, TABLE_CELLS // len(names)))
    heads = ("median over steps", *(f"rank {rank}" for rank in ranks))
    rows = ((name, *(short(float(usual[rank, i])) for rank in ranks)) for i, name in enumerate(names))
    return Table(heads, tuple(rows))
