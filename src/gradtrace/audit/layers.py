"""Which steps make a layer, and what is its share? Weights and what follows, up to the next layer or sum.

Along a path the layers' growths multiply to the total: a layer whose input has other users counts their gradient as its
`residual` part, the sum over its own share, so that a block x + f(x) shows 1 + growth of f.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gradtrace.audit.gradients import MODEL_ERROR, arrival_of
from gradtrace.records.prediction import LayerPrediction, Split

if TYPE_CHECKING:
    from gradtrace.audit.gradients import Propagation
    from gradtrace.audit.recording import Recording, Step

DECADES = 1 / (2 * math.log(10))
"""From ln E[g^2] to log10 of the RMS gradient."""
Z95 = 1.96


@dataclass(slots=True)
class Segment:
    """The steps of one layer, in the order of the forward pass."""

    weight: int
    """The step with the weights."""
    steps: list[int] = field(default_factory=list)


def segments(recording: Recording, propagation: Propagation) -> list[Segment]:
    """One per step with weights; steps between two of them belong to the one before, else to the one behind."""
    found = [Segment(s.index, [s.index]) for s in recording.steps if propagation.effects[s.index].fan is not None]
    owned = {segment.weight for segment in found}
    for segment in found:
        step = segment.weight
        while (following := _only_user(recording, step)) is not None and following not in owned:
            owned.add(following)
            segment.steps.append(following)
            step = following
    for segment in found:
        if propagation.effects[segment.weight].transport is not None:
            continue
        while (before := _feeder(recording, segment.steps[0])) is not None and before not in owned:
            owned.add(before)
            segment.steps.insert(0, before)
    return found


def _only_user(recording: Recording, step: int) -> int | None:
    outputs = recording.steps[step].outputs
    users = recording.values[outputs[0]].consumers if len(outputs) == 1 else []
    plain = len(users) == 1 and len(recording.steps[users[0][0]].inputs) == 1
    return users[0][0] if plain else None


def _feeder(recording: Recording, step: int) -> int | None:
    inputs = recording.steps[step].inputs
    producer = recording.values[inputs[0]].producer if len(inputs) == 1 else None
    if producer is None or _only_user(recording, producer) != step:
        return None
    return producer if len(recording.steps[producer].inputs) == 1 else None


def interval(variance: float, drift: float, depth: int) -> float:
    """Half the width, in decades, that holds 95 % of networks."""
    return Z95 * DECADES * math.sqrt(variance + drift**2 + depth * MODEL_ERROR**2)


def centre(energy: float, variance: float) -> float:
    """Decades of a typical network: it lies half a variance below the mean of all."""
    return DECADES * (math.log(energy) - variance / 2) if energy > 0 else -math.inf


def layer_predictions(
    recording: Recording, propagation: Propagation, measured: list[float]
) -> tuple[LayerPrediction, ...]:
    """One record per layer, from the input to the output."""
    return tuple(_layer(recording, propagation, measured, segment) for segment in segments(recording, propagation))


def _layer(recording: Recording, propagation: Propagation, measured: list[float], segment: Segment) -> LayerPrediction:
    start = recording.steps[segment.steps[0]].inputs[0]
    end = _main_output(propagation, recording.steps[segment.steps[-1]])
    weight, effect = recording.steps[segment.weight], propagation.effects[segment.weight]
    gradient, assert_fan = propagation.gradients[start], effect.fan
    assert assert_fan is not None
    middle = centre(gradient.energy, gradient.variance)
    half = interval(gradient.variance, gradient.drift, gradient.depth)
    functions = [propagation.effects[i].activation for i in segment.steps if propagation.effects[i].activation]
    notes = [propagation.effects[i].note for i in segment.steps if propagation.effects[i].note]
    return LayerPrediction(
        module=weight.module,
        module_type=weight.module_type,
        activation=functions[0] if functions else "",
        fan_in=assert_fan[0],
        fan_out=assert_fan[1],
        gain=effect.gain,
        sigma_b2=effect.sigma_b2,
        split=_split(recording, propagation, segment, start, end),
        decades=middle,
        low=middle - half,
        high=middle + half,
        correlation=propagation.signals[end].correlation,
        measured_growth=measured[start] / measured[end] if measured[end] else math.nan,
        measured_decades=_log(measured[start]),
        measured_correlation=_correlation(recording, end),
        time_growth=effect.time_growth,
        num_steps=effect.num_steps,
        note="; ".join(dict.fromkeys(notes)),
        source=weight.source,
    )


def _main_output(propagation: Propagation, step: Step) -> int:
    """The output that most of the gradient arrives at (a recurrence has its last state beside all outputs)."""
    return max(step.outputs, key=lambda index: propagation.gradients[index].energy)


def _correlation(recording: Recording, end: int) -> float:
    """As measured; NaN where the first axis is not the batch."""
    value = recording.values[end]
    known = not recording.on_meta and value.shape[:1] == (recording.batch_size,) and recording.batch_size > 1
    return value.measured.correlation if known else math.nan


def _log(energy: float) -> float:
    return 0.5 * math.log10(energy) if energy > 0 else (-math.inf if energy == 0 else math.nan)


def _split(recording: Recording, propagation: Propagation, segment: Segment, start: int, end: int) -> Split:
    parts: dict[str, float] = {}
    own = 1.0
    for index in segment.steps:
        step, effect = recording.steps[index], propagation.effects[index]
        output = _main_output(propagation, step)
        growth = arrival_of(recording, effect, step, 0, output, propagation.gradients[output]).growth
        for part, factor in effect.parts[0].items():
            parts[part] = parts.get(part, 1.0) * factor
        product = math.prod(effect.parts[0].values())
        if effect.conserved and product:
            parts["stride"] = parts.get("stride", 1.0) * growth / product
        if effect.transport is not None and product:
            parts["time"] = parts.get("time", 1.0) * growth / product
        own *= growth
    arriving = own * propagation.gradients[end].energy
    if arriving > 0:
        parts["residual"] = propagation.gradients[start].energy / arriving
    return Split(**parts)
