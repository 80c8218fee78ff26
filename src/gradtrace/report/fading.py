"""How does a gradient fade with the length of the sequence, and with the lag? Bars by length, strips by lag."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from gradtrace.report.words import ascii_text, decades, power

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SPAN = 9.0
"""Decades that a bar and a strip cover."""
SHADES = " .:-=+*#%@"


class Verdict(Protocol):
    """What is told of one network at one length."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def num_steps(self) -> int: ...  # noqa: D102
    @property
    def decades(self) -> float: ...  # noqa: D102
    @property
    def horizon_steps(self) -> float: ...  # noqa: D102
    @property
    def told(self) -> str: ...  # noqa: D102


class Fading(Protocol):
    """What is left of a gradient by lag, in decades."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def curve(self) -> tuple[float, ...]: ...  # noqa: D102


def compare_lengths(verdicts: Sequence[Verdict], width: int, *, ascii_only: bool = False) -> str:
    """One row a network and length: what the first state gets of the gradient at the last, per step, and how far."""
    bar = max(10, min(width, 120) - 69)
    heads = "left at t=0".rjust(12) + "a step".rjust(8) + "reaches".rjust(9)
    lines = [f"{'':<15}{'T':>5}  {'':<{bar}}{heads}   verdict"]
    for one in verdicts:
        full = max(0.0, 1.0 + max(one.decades, -SPAN) / SPAN) if math.isfinite(one.decades) else 0.0
        per_step = 10 ** (one.decades / one.num_steps) if math.isfinite(one.decades) else math.nan
        reach = f"{one.horizon_steps:.0f}" if one.horizon_steps < 1e4 else "on"
        numbers = power(one.decades).rjust(12) + f"x{per_step:.2f}".rjust(8) + reach.rjust(9)
        mark = ("━" * round(bar * min(full, 1.0))).ljust(bar)
        lines.append(f"{one.name:<15}{one.num_steps:>5}  {mark}{numbers}   {one.told}")
    text = "\n".join(lines)
    return ascii_text(text.replace("━", "=")) if ascii_only else text


def compare_lags(fadings: Sequence[Fading], width: int) -> str:
    """One strip a network over the same lags, on a scale that grows by powers; a shade is a decade."""
    return "\n".join(_strips(fadings, max(20, min(width, 120) - 28)))


def _strips(fadings: Sequence[Fading], columns: int) -> Iterator[str]:
    longest = max(len(one.curve) for one in fadings)
    lags = [round((longest - 1) ** (column / (columns - 1))) for column in range(columns)]
    ticks = [tick for tick in (1, 3, 10, 30, 100, 300, 1000) if tick < longest]
    axis = [" "] * (columns + 4)
    for tick in ticks:
        at = min(range(columns), key=lambda column: abs(lags[column] - tick))
        axis[at : at + len(str(tick))] = str(tick)
    yield f"{'':<17}{''.join(axis).rstrip()}"
    for one in fadings:
        strip = "".join(_shade(one.curve[lag]) if lag < len(one.curve) else " " for lag in lags)
        yield f"{one.name:<16}|{strip}| {decades(one.curve[-1]):>6}"


def _shade(value: float) -> str:
    if math.isnan(value):
        return "?"
    return SHADES[max(0, min(9, 9 + math.floor(value + 0.5)))] if math.isfinite(value) else SHADES[0]
