"""How do the table of activations and the phase diagram look in a terminal? Records in, text out."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from typing import TYPE_CHECKING

from gradtrace.theory.mean_field import critical_curve
from gradtrace.theory.nonlinearities import TABLE, nonlinearity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gradtrace.records.prediction import Prediction
    from gradtrace.theory.table import ActivationRow

COLUMNS, ROWS = 60, 14


def _number(value: float, digits: int, cell: int) -> str:
    """With a blank in front of it, whatever its exponent."""
    text = f"{value:.{digits}g}".replace("nan", "-")
    return text if len(text) < cell else f"{value:.1e}"


def activations_text(rows: Sequence[ActivationRow], torch_gains: Mapping[str, float], width: int = 120) -> str:
    """One line per activation, `torch.nn.init.calculate_gain` in the last column ('-': it does not know it)."""
    wide = width >= 12 + 9 * 11
    heads = ("max |a'|", "at", "E[a^2]", "E[a'^2]", "fwd", "bwd", "sigma_w^2", "sigma_b^2", "torch")
    kept = [place for place, head in enumerate(heads) if wide or head != "at"]
    cell, digits = (11, 5) if wide else ((width - 12) // len(kept), 3)
    lines = [
        "activation  " + "".join(heads[place].removeprefix("" if wide else "sigma_").rjust(cell) for place in kept)
    ]
    for row in rows:
        numbers = (row.max_slope, row.at, row.second, row.slope_second, row.forward_gain, row.backward_gain,
                   row.sigma_w2, row.sigma_b2, torch_gains.get(row.name, math.nan))  # fmt: skip
        told = [_number(numbers[place] + 0.0, digits, cell) for place in kept]
        lines.append(row.name.ljust(12) + "".join(number.rjust(cell) for number in told))
    notes = (
        "Moments at q = 1. Gains, sqrt(fan Var(w)): fwd keeps the signal (fan_in), bwd the gradient (fan_out), torch "
        "is calculate_gain. Critical at q = 1: (sigma_w^2, sigma_b^2); a negative sigma_b^2: only with the mean of a "
        "taken out."
    )
    return "\n".join([*lines, *textwrap.wrap(notes, width)])


def diagram_text(prediction: Prediction) -> str:
    """(sigma_w^2, sigma_b^2) with the critical curve of the most common activation, and the layers as 'o'."""
    names = Counter(layer.activation for layer in prediction.layers if layer.activation in TABLE)
    if not names:
        return "no phase diagram: no layer has an activation that the table knows"
    name = names.most_common(1)[0][0]
    curve = [(w, b) for w, b, _ in critical_curve(nonlinearity(name))]
    own = [
        (x.gain**2 * (1 if x.num_steps else x.fan_in / x.fan_out), x.sigma_b2)
        for x in prediction.layers
        if x.activation == name
    ]
    if not curve:
        return f"no phase diagram: {name} has no critical curve with sigma_b^2 >= 0"
    widest = 1.25 * max([w for w, _ in own] + [min(max(w for w, _ in curve), 4.0)])
    highest = max([1.25 * b for _, b in own] + [0.3])
    lines = [f"phase diagram of {name}: . ordered   # chaotic   o the {len(own)} layers with it"]
    for row in range(ROWS):
        b = highest * (ROWS - 1 - row) / (ROWS - 1)
        cells = ["#" if _chaotic(curve, widest * column / (COLUMNS - 1), b) else "." for column in range(COLUMNS)]
        for w, bias in own:
            if round(bias / highest * (ROWS - 1)) == ROWS - 1 - row:
                cells[min(round(w / widest * (COLUMNS - 1)), COLUMNS - 1)] = "o"
        lines.append(f"{b:7.3f} " + "".join(cells))
    lines.append(" " * 8 + "0".ljust(COLUMNS - 6) + f"{widest:6.3g}")
    lines.append("sigma_b^2 upwards, sigma_w^2 = fan_in Var(w) to the right")
    return "\n".join(lines)


def _chaotic(curve: Sequence[tuple[float, float]], w: float, b: float) -> bool:
    """Right of the critical curve at this height; above its end, of its last point."""
    below = max(((bias, weight) for weight, bias in curve if bias <= b), default=None)
    above = min(((bias, weight) for weight, bias in curve if bias > b), default=None)
    if below is None or above is None:
        edge = (below or above or (0.0, math.inf))[1]
    else:
        share = (b - below[0]) / (above[0] - below[0])
        edge = below[1] + share * (above[1] - below[1])
    return w > edge
