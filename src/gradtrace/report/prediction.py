"""How is a prediction written? A table with one line per layer, then the sentences; text in, text out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.cells import cell_len

from gradtrace.records.prediction import PARTS
from gradtrace.report.words import clean, decades, padded, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gradtrace.records.prediction import Initialisation, LayerPrediction, Prediction

CELL, NARROW_CELL = 11, 9
"""Width of a column of numbers, and in a terminal of 80."""
MOST_ROWS = 40
"""Layers shown; the middle of a longer list is left out and counted."""


def to_text(prediction: Prediction, width: int = 100) -> str:
    """The whole prediction for a terminal."""
    return "\n".join(_lines(prediction, width))


def _lines(prediction: Prediction, width: int) -> Iterator[str]:
    name = "reference" if prediction.reference else "predicted"
    yield f"gradtrace predict {clean(prediction.title)}   phase: {prediction.phase}"
    yield ""
    yield from _table(prediction.layers, width)
    yield ""
    told = f"output to input: {name} {decades(prediction.decades)} decades"
    told += f" (95 %: {decades(prediction.low)} to {decades(prediction.high)})"
    if not math.isnan(prediction.measured_decades):
        told += f", measured {decades(prediction.measured_decades)}"
    yield told
    yield ""
    for sentence in prediction.sentences:
        yield from wrapped(clean(sentence), width)
    told = ", ".join(f"{f.format} {_depth(f.depth)}" for f in prediction.formats)
    if any(math.isfinite(f.depth) for f in prediction.formats):
        yield from wrapped(f"Gradients of a mean loss are rounded to zero after this many layers: {told}.", width)
    for title, lines in (
        ("Theory and measurement disagree", [d.message for d in prediction.disagreements]),
        ("Without a rule", _joined(prediction.gaps)),
        ("Notes", prediction.notes),
    ):
        if lines:
            yield f"\n{title}"
        for line in lines[:8]:
            yield from ("  " + each for each in wrapped(clean(line), width - 2, "  "))
        if len(lines) > 8:
            yield f"  and {len(lines) - 8} more"


def _joined(gaps: Sequence[str]) -> list[str]:
    """What is said of several layers alike, once.

    >>> _joined(["a.0: no rule", "a.1: no rule", "b: unknown"])
    ['a.0 and 1 more: no rule', 'b: unknown']
    """
    whose: dict[str, list[str]] = {}
    for gap in gaps:
        module, _, why = gap.partition(": ")
        whose.setdefault(why, []).append(module)
    return [
        modules[0] + (f" and {len(modules) - 1} more" if len(modules) > 1 else "") + (f": {why}" if why else "")
        for why, modules in whose.items()
    ]


def _depth(depth: float) -> str:
    return "never" if math.isinf(depth) else f"{depth:.0f}"


def _table(layers: Sequence[LayerPrediction], width: int) -> Iterator[str]:
    """One line per layer; where that is too wide, the growth's parts stand on a line of their own."""
    parts = [part for part in PARTS if any(abs(getattr(x.split, part) - 1) > 5e-4 for x in layers)]
    names = [clean(x.module or "model") for x in layers]
    full = [f"{name} {clean(x.module_type)}" for name, x in zip(names, layers, strict=True)]
    names = full if max(map(cell_len, full), default=0) <= min(width - 12 - NARROW_CELL * 5, 28) else names
    size = min(max([*map(cell_len, names), 6]), 28)
    inline = size + 12 + CELL * (len(parts) + 5) <= width
    cell = CELL if size + 12 + CELL * 5 <= width else NARROW_CELL
    size = max(min(size, width - 12 - cell * 5), 12)
    heads = ["growth", *(parts if inline else []), "decades", "measured", "corr.", "measured"]
    yield "layer".ljust(size) + " activation".ljust(12) + "".join(head.rjust(cell) for head in heads)
    rows = list(zip(names, layers, strict=True))
    for name, layer in rows[: MOST_ROWS // 2]:
        yield from _row(name, layer, parts, (size, cell), inline)
    if len(rows) > MOST_ROWS:
        yield f"... {len(rows) - MOST_ROWS} layers ..."
    for name, layer in rows[max(MOST_ROWS // 2, len(rows) - MOST_ROWS // 2) :]:
        yield from _row(name, layer, parts, (size, cell), inline)


def _row(
    name: str, layer: LayerPrediction, parts: Sequence[str], widths: tuple[int, int], inline: bool
) -> Iterator[str]:
    size, cell = widths
    numbers = [f"{layer.split.growth:.3g}"]
    numbers += [f"{getattr(layer.split, part):.3g}" for part in parts] if inline else []
    numbers += [decades(layer.decades), decades(layer.measured_decades)]
    numbers += [f"{layer.correlation:.3f}", f"{layer.measured_correlation:.3f}"]
    told = "".join(n.replace("nan", "-").replace("NaN", "-").rjust(cell) for n in numbers)
    yield padded(name, size) + f" {layer.activation}".ljust(12) + told
    factors = [(part, getattr(layer.split, part)) for part in parts]
    split = " x ".join(f"{part} {factor:.3g}" for part, factor in factors if abs(factor - 1) > 5e-4)
    if split and not inline:
        yield f"  = {split}"


def _gain(gain: float) -> str:
    return "" if math.isnan(gain) else f"gain {gain:.4g}"


def initialisation_text(done: Initialisation) -> str:
    """What `init_critical_` did: one line per parameter."""
    size = max([len(parameter.name) for parameter in done.parameters] + [9])
    lines = [
        f"{clean(p.name).ljust(size)}  {p.method.ljust(24)} {_gain(p.gain):12} {p.reason}" for p in done.parameters
    ]
    left = [f"left as they are: {', '.join(map(clean, done.untouched))}"] if done.untouched else []
    return "\n".join(line.rstrip() for line in [*lines, *left, *map(clean, done.notes)])
