"""What does the prediction mean, in plain sentences? And which depth and number format does it leave?"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from typing import TYPE_CHECKING

from gradtrace.measure.names import expression
from gradtrace.records.prediction import FormatDepth
from gradtrace.records.shown import counted
from gradtrace.theory.activations import backward_gain
from gradtrace.theory.nonlinearities import TABLE, nonlinearity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.prediction import LayerPrediction

FORMATS = {  # smallest subnormal, smallest normal, largest: IEEE 754 and Micikevicius et al., FP8 formats (2022)
    "float16": (2.0**-24, 2.0**-14, 65504.0),
    "bfloat16": (2.0**-133, 2.0**-126, 3.39e38),
    "float8_e4m3fn": (2.0**-9, 2.0**-6, 448.0),
    "float8_e5m2": (2.0**-16, 2.0**-14, 57344.0),
}
NEUTRAL = 0.05
"""Growth within 5 % of 1 per layer counts as kept; so does phase 'critical'."""
LEAST = 1e-30
"""Growth of E[g^2] under which a layer passes nothing: the RMS gradient would leave float32 in three layers."""
LIKE = 4
"""Layers of one kind from which on one can be unlike the others."""
STANDS_OUT = 2.0
"""Its gain over the median of theirs; of a matrix of independent entries the gain varies by 1 / width."""
ALIKE = 0.99
"""Correlation from which on all samples count as one vector."""


def phase(growth: float, num_layers: int = 100) -> str:
    """'ordered', 'critical' (neutral per layer, or within a factor e over all of them) or 'chaotic'.

    >>> phase(1 / 6), phase(1.01), phase(1.5), phase(1 + 1 / 16, 16)
    ('ordered', 'critical', 'chaotic', 'critical')
    """
    if math.isnan(growth):
        return "unknown"
    change = abs(math.log(growth))
    if change <= math.log1p(NEUTRAL) or change * num_layers <= 1:
        return "critical"
    return "ordered" if growth < 1 else "chaotic"


def depth_of_loss(growth: float, ratio: float = 1e-3) -> float:
    """Layers after which the RMS gradient has changed by `ratio` (or its inverse).

    >>> round(depth_of_loss(1 / 6), 1)
    7.7
    """
    if math.isnan(growth):
        return math.nan
    return math.inf if growth == 1.0 else 2 * abs(math.log(ratio)) / abs(math.log(growth)) if growth > 0 else 0.0


def format_depths(growth: float, decades: Sequence[float], batch_size: int) -> tuple[FormatDepth, ...]:
    """Per format, from an RMS gradient of 1 / batch at the output (a mean loss): half the smallest number becomes 0."""
    start = 1 / batch_size
    finite = [value for value in decades if math.isfinite(value)] or [0.0]
    smallest, largest = start * 10.0 ** max(min(finite), -300), start * 10.0 ** min(max(finite), 300)
    return tuple(
        FormatDepth(name, _depth(growth, start, tiny / 2), _scale(smallest, largest, normal, top))
        for name, (tiny, normal, top) in FORMATS.items()
    )


def _depth(growth: float, start: float, end: float) -> float:
    if math.isnan(growth):
        return math.nan
    if start <= end:
        return 0.0
    return math.inf if not growth < 1.0 else 2 * math.log(start / end) / -math.log(growth) if growth > 0 else 1.0


def _scale(smallest: float, largest: float, normal: float, top: float) -> float:
    scale = 2.0 ** max(0, math.ceil(math.log2(normal / smallest)))
    return scale if largest * scale <= top / 8 else math.nan  # 8: the largest entry beside the RMS


def critical_gain(activation: str) -> float:
    """The gain of Var(w) = gain^2 / fan_out that keeps E[g^2] through this activation at q = 1; NaN if unknown."""
    try:
        return (
            backward_gain(nonlinearity(activation or "identity")) if (activation or "identity") in TABLE else math.nan
        )
    except (TypeError, ValueError):
        return math.nan


def design_sentence(layers: Sequence[LayerPrediction], growth_per_layer: float, residual: bool) -> str:
    """What most of the layers do: 'default Linear + GELU loses 12x gradient energy per layer; gain 1.48 keeps it'."""
    dead = next((layer for layer in layers if layer.split.growth < LEAST), None)
    if dead is not None:
        return f"{_place(dead)} with what follows passes no gradient: no gain brings any back."
    if any(layer.num_steps for layer in layers):  # recurrences have their own sentence, and the head is no design
        layers = [layer for layer in layers[:-1] if not layer.num_steps]
    groups = Counter(
        (layer.module_type, layer.activation, f"{layer.split.growth:.1g}") for layer in layers[:-1] or layers
    )
    if not groups:
        return ""
    (kind, activation, _), _ = groups.most_common(1)[0]
    member = [x for x in layers if (x.module_type, x.activation) == (kind, activation)]
    if residual and growth_per_layer > 0:
        text = f"Residual branches of {len(layers)} layers, most {_named(member, kind, activation)}: this "
        advice = "; scale each by 1 / sqrt(number of blocks)" if growth_per_layer > 1 + 2 * NEUTRAL else ""
        return f"{text}{_effect(growth_per_layer)} per layer{advice}."
    growth = max(statistics.median(x.split.design for x in member), 1e-300)
    if not activation and growth_per_layer > 0 and abs(math.log(growth / growth_per_layer)) > math.log(1.5):
        text = f"{_named(member, kind, '')} and what follows ({counted(len(layers), 'layer')}): this"
        return f"{text} {_effect(growth_per_layer)} per layer."
    text = f"{_named(member, kind, activation)} ({len(member)} of {len(layers)} layers) {_effect(growth)} per layer"
    if abs(math.log(growth)) <= math.log1p(NEUTRAL):
        return text + "."
    if any(layer.split.norm != 1.0 for layer in member):
        return text + "; a normalisation follows the weights, so no gain of theirs changes that."
    own = math.sqrt(member[0].gain ** 2 * member[0].fan_in / member[0].fan_out)
    gain = critical_gain(activation)
    if any(layer.note for layer in member):  # what follows was measured, the gain scales with it
        gain = own / math.sqrt(growth)
    told = f"; gain {gain:.3g} keeps it (it is {own:.3g})" if math.isfinite(gain) else ""
    return text + told + "."


def _named(member: Sequence[LayerPrediction], kind: str, activation: str) -> str:
    """``default Linear + GELU``."""
    default = all(abs(3 * x.gain**2 * x.fan_in / x.fan_out - 1) < 0.1 for x in member)
    return ("default " if default else "") + kind + (f" + {_written(activation)}" if activation else "")


def _effect(growth: float) -> str:
    if abs(math.log(growth)) <= math.log1p(NEUTRAL):
        return f"keeps the gradient energy (times {growth:.3g})"
    return (
        f"loses {1 / growth:.3g}x gradient energy" if growth < 1 else f"multiplies the gradient energy by {growth:.3g}"
    )


_CAPITALS = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "elu": "ELU", "selu": "SELU", "celu": "CELU"}


def _written(activation: str) -> str:
    return _CAPITALS.get(activation, activation)


def alike_sentence(layers: Sequence[LayerPrediction]) -> str:
    """From where on all samples are one vector."""
    hidden = layers[:-1]
    measured = [x.correlation if math.isnan(x.measured_correlation) else x.measured_correlation for x in hidden]
    first = next((i for i, c in enumerate(measured) if c > ALIKE), None)
    if first is None:
        return ""
    return (f"All samples become one vector: their correlation is {measured[first]:.3f} after layer {first + 1}, "
            f"{_place(hidden[first])}, whatever the activations' variance looks like.")  # fmt: skip


def _place(layer: LayerPrediction) -> str:
    """``model[2] (Linear)``."""
    return f"{expression(layer.module)} ({layer.module_type})" if layer.module_type else expression(layer.module)


def outlier_sentence(layers: Sequence[LayerPrediction]) -> str:
    """The layer whose growth is unlike that of all its like: the one that was initialised otherwise."""
    groups: dict[tuple[str, str], list[LayerPrediction]] = {}
    for layer in layers[:-1]:
        groups.setdefault((layer.module_type, layer.activation), []).append(layer)
    for member in (group for group in groups.values() if len(group) >= LIKE):
        usual = statistics.median(x.gain for x in member)
        odd = (
            [x for x in member if x.gain > 0 and abs(math.log(x.gain / usual)) > math.log(STANDS_OUT)] if usual else []
        )
        if len(odd) == 1:
            own = odd[0].split.design
            return (f"{_place(odd[0])} stands out: its gain is {odd[0].gain:.3g}, that of the other {len(member) - 1} "
                    f"like it {usual:.3g}; it {_effect(max(own, 1e-300))}.")  # fmt: skip
    return ""


def time_sentences(layers: Sequence[LayerPrediction]) -> list[str]:
    """How far back in time a recurrence's gradient reaches, one sentence per recurrence."""
    calls: dict[tuple[str, str], list[LayerPrediction]] = {}
    for layer in layers:
        if layer.num_steps and not math.isnan(layer.time_growth):
            calls.setdefault((layer.module or "the model", layer.module_type), []).append(layer)
    return [_time_sentence(name, kind, found) for (name, kind), found in calls.items()]


def _time_sentence(name: str, kind: str, calls: Sequence[LayerPrediction]) -> str:
    num_steps = sum(layer.num_steps for layer in calls)
    rate = statistics.median(layer.time_growth for layer in calls)
    steps = depth_of_loss(rate)
    text = f"{name} ({kind} over {num_steps} steps) {_effect(rate)} per step back in time"
    if math.isfinite(steps) and steps < 100 * num_steps:
        text += f": the RMS gradient {'falls to 1e-3' if rate < 1 else 'grows to 1e3'} within {steps:.3g} steps"
    return text + "."


def depth_sentence(growth: float, depth: int) -> str:
    """How deep this design can be."""
    if math.isnan(growth):
        return "Fewer than three layers: too shallow to speak of depth."
    layers = depth_of_loss(growth)
    if not math.isfinite(layers) or layers > 100 * depth:
        return f"At this rate depth is no problem: the gradient changes by 1e3 in more than {100 * depth} layers."
    change = "falls to 1e-3" if growth < 1 else "grows to 1e3"
    return f"The RMS gradient {change} within {layers:.3g} layers of this design; the network is {depth} deep."


def format_sentence(formats: Sequence[FormatDepth]) -> str:
    """What half precision needs."""
    half = formats[0]
    if math.isnan(half.loss_scale):
        return "No loss scale fits all layers into float16: use bfloat16 or repair the growth first."
    if half.loss_scale > 1:
        return f"float16 needs a loss scale of about 2^{math.log2(half.loss_scale):.0f} (mean loss)."
    return ""
