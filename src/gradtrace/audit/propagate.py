"""How do signal and gradient travel through the recorded network? Forward along the steps, backward against them.

Backward, per value:  E[g^2] = sum over its users of growth x E[g^2] of what they make  (independent branches), with the
variance of its logarithm from three sources, all relative to one network measured with K cotangents on B samples:

    weights      2 / fan_in (1 / M + R),    M = K B positions directions,  R = sum of 1 / width over the layers above
    activations  (E[a'^4] / E[a'^2]^2 - 1) / width, shared by samples whose pre-activations are alike
    signal       (d ln growth / d ln q)^2 Var(ln q): a wrong q stays wrong, so these standard deviations add

A product of l Gaussian matrices of width n has n / (l + 1) directions left (participation ratio), hence R. For one
cotangent, M = 1, this is the spread of Hanin & Nica (2018) in `theory.finite_width`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.audit.recording import local_growth
from gradtrace.audit.rules.effect import Arrival, Effect, Scene
from gradtrace.audit.rules.table import RULES
from gradtrace.audit.signals import Signal, sharing, steepness_of_largest
from gradtrace.theory.finite_width import spread_of_powers
from gradtrace.theory.through_time import band

if TYPE_CHECKING:
    from gradtrace.audit.recording import Recording, Step
    from gradtrace.theory.gaussian import Array

MODEL_ERROR = 0.02
"""Relative error of the theory itself on E[g^2] per layer (inputs that are not Gaussian, small batches), as found by
`python -m benchmarks.prediction`; added up along the depth, and along time, as its square root."""
GAUSSIAN_SHARE = 3.0
"""E[x^4] / E[x^2]^2 of the gradient that a' multiplies."""


@dataclass(slots=True)
class Gradient:
    """E[g^2] of one value relative to the network's output, and how sure that is."""

    energy: float = 0.0
    variance: float = 0.0
    """Of ln E[g^2], independent from layer to layer."""
    drift: float = 0.0
    """Standard deviation of ln E[g^2] from the signal's uncertainty."""
    narrowness: float = 0.0
    """R: the inverse of the number of directions that the gradient has left."""
    depth: int = 0
    """Most layers with weights between here and the output."""
    shape: float = 0.0
    """The part of ln E[g^2] that the shapes demand: fan_out / fan_in, skipped and pooled positions."""
    profile: Array | None = None
    """Of what a recurrence made, as in `Arrival`; None: even and independent."""


@dataclass(slots=True)
class Propagation:
    """Predicted signals and gradients of every value; effects of every step."""

    signals: list[Signal]
    effects: list[Effect]
    gradients: list[Gradient]
    unruled: list[int] = field(default_factory=list)
    """Steps without a rule."""


def propagate(recording: Recording, num_cotangents: int) -> Propagation:
    """Forward, then backward."""
    signals: list[Signal] = [value.measured for value in recording.values]
    effects: list[Effect] = []
    unruled: list[int] = []
    for step in recording.steps:
        effect = effect_of(recording, step, signals)
        if effect.note:
            unruled.append(step.index)
        effects.append(effect)
        for output, signal in zip(step.outputs, effect.signals, strict=False):
            if signal is not None:
                signals[output] = signal
    for step, effect in zip(recording.steps, effects, strict=True):
        if effect.largest_of > 1:
            _select(recording, effects, signals, step, effect.largest_of)
    return Propagation(signals, effects, _backward(recording, signals, effects, num_cotangents), unruled)


def effect_of(recording: Recording, step: Step, signals: list[Signal]) -> Effect:
    """What the rule says of a step; without one, what was measured."""
    scene = _scene(recording, step, signals)
    rule = RULES.get(step.function)
    effect = rule(scene) if rule is not None else None
    return effect if effect is not None else _measured(scene, step)


def _scene(recording: Recording, step: Step, signals: list[Signal]) -> Scene:
    producer = recording.values[step.inputs[0]].producer if step.inputs else None
    return Scene(
        step,
        [recording.values[i] for i in step.inputs],
        [recording.values[i] for i in step.outputs],
        [signals[i] for i in step.inputs],
        recording.batch_size,
        step.input_tensors,
        recording.steps[producer].function if producer is not None else "",
    )


def _select(recording: Recording, effects: list[Effect], signals: list[Signal], pool: Step, largest_of: int) -> None:
    """Max pooling hands gradient to the largest of its window: the activation before it is steeper there."""
    value = recording.values[pool.inputs[0]]
    if value.producer is None or len(value.consumers) != 1:
        return
    effect = effects[value.producer]
    if effect.function is not None:
        before = signals[recording.steps[value.producer].inputs[0]]
        effect.parts = [{"activation": steepness_of_largest(effect.function, before.variance, largest_of)}]


def _measured(scene: Scene, step: Step) -> Effect:
    """Without a rule: the growth that the step itself showed, or none of it where that could not be had either."""
    found = step.local
    if found is None and step.call is not None:  # it has a rule, which does not hold for these operands
        found = local_growth(step.call, step.args, step.kwargs, step.input_tensors)
    known = found if found is not None else [1.0] * len(step.inputs)
    note = f"{step.function}: no rule, " + ("measured" if found is not None else "counted as 1")
    return Effect([None] * len(step.outputs), [{"other": growth} for growth in known], unit_variance=0.01, note=note)


def arrival_of(
    recording: Recording, effect: Effect, step: Step, slot: int, output: int, profile: Array | None
) -> Arrival:
    """What the gradient of one output of a step, with this profile along its time, becomes at one of its inputs."""
    if slot >= len(effect.parts):
        return Arrival(0.0)
    if effect.transport is not None:
        return effect.transport(slot, step.outputs.index(output), profile)
    growth = math.prod(effect.parts[slot].values())
    before, after = recording.values[step.inputs[slot]], recording.values[output]
    if effect.conserved:
        growth *= after.numel / max(before.numel, 1)
    if step.function == "stack" and profile is not None and len(profile) == len(step.inputs):
        return Arrival(growth * float(profile[slot, 0]))
    if slot in step.profiles:
        return Arrival(growth, np.array(step.profiles[slot]))
    keeps = before.axis is not None and before.axis == after.axis
    return Arrival(growth, profile if keeps else None)


def local_variance(recording: Recording, propagation: Propagation, index: int, num_cotangents: int) -> float:
    """Variance of ln E[g^2] of one value, given the gradients of what is made from it."""
    gradients, fresh = propagation.gradients, []
    for consumer, slot in recording.values[index].consumers:
        step, effect = recording.steps[consumer], propagation.effects[consumer]
        for output in step.outputs:
            if not gradients[output].energy > 0:
                continue
            arrival = arrival_of(recording, effect, step, slot, output, gradients[output].profile)
            if arrival.growth > 0:
                above = replace(gradients[output], variance=0.0, drift=0.0)
                signal = propagation.signals[step.inputs[0]]
                fresh.append(_through(effect, slot, signal, above, arrival, recording, num_cotangents))
    merged = _merge(fresh, propagation.signals[index].features, recording.batch_size)
    return merged.variance + merged.drift**2


def _backward(
    recording: Recording, signals: list[Signal], effects: list[Effect], num_cotangents: int
) -> list[Gradient]:
    gradients = [Gradient() for _ in recording.values]
    arrivals: list[list[Gradient]] = [[] for _ in recording.values]
    for output in recording.outputs:
        arrivals[output].append(Gradient(1.0))
    for value in reversed(recording.values):
        for index, slot in value.consumers:
            step, effect = recording.steps[index], effects[index]
            for output in step.outputs:
                above = gradients[output]
                if not above.energy > 0:
                    continue
                arrival = arrival_of(recording, effect, step, slot, output, above.profile)
                if arrival.growth > 0:
                    signal = signals[step.inputs[0]]
                    arrivals[value.index].append(
                        _through(effect, slot, signal, above, arrival, recording, num_cotangents)
                    )
        gradients[value.index] = _merge(arrivals[value.index], signals[value.index].features, recording.batch_size)
    return gradients


def _through(
    effect: Effect,
    slot: int,
    signal: Signal,
    gradient: Gradient,
    arrival: Arrival,
    recording: Recording,
    num_cotangents: int,
) -> Gradient:
    growth = arrival.growth
    variance, narrowness, depth, shape = gradient.variance, gradient.narrowness, gradient.depth, gradient.shape
    parts = math.prod(factor for part, factor in effect.parts[slot].items() if part != "stride")
    if effect.transport is not None:
        shape += arrival.shape
    elif parts > 0:
        shape += math.log(growth / parts)
    if effect.fan is not None:
        directions = max(num_cotangents * recording.batch_size * effect.positions, 1.0)
        applied = effect.num_layers + arrival.steps
        variance += arrival.steps * MODEL_ERROR**2
        variance += applied * math.log1p(2 / effect.fan[0] * (1 / directions + narrowness))
        shape += math.log(effect.fan[1] / effect.fan[0]) if effect.transport is None else 0.0
        narrowness = min(narrowness + applied / effect.fan[1], 1.0)
        depth += effect.num_layers
    if effect.unit_variance and math.isfinite(effect.unit_variance):
        share = sharing(signal.correlation, recording.batch_size) if effect.activation else 1 / recording.batch_size
        spread = 1 + (GAUSSIAN_SHARE - 1) * min(1.0, 1 / num_cotangents + narrowness)
        variance += math.log1p(effect.unit_variance / max(signal.features, 1) * share * spread)
    drift = gradient.drift + abs(effect.sensitivity) * math.sqrt(max(signal.log_variance, 0.0))
    drift += spread_of_powers(arrival.steps, effect.units) if effect.units else 0.0
    return Gradient(gradient.energy * growth, variance, drift, narrowness, depth, shape, arrival.profile)


def _merge(arrivals: list[Gradient], width: int, batch_size: int) -> Gradient:
    if not arrivals:
        return Gradient()
    energy = sum(g.energy for g in arrivals)
    shares = [g.energy / energy for g in arrivals]
    cross = sum(a * b for i, a in enumerate(shares) for b in shares[:i])
    return Gradient(
        energy,
        sum(s * math.sqrt(g.variance) for s, g in zip(shares, arrivals, strict=True)) ** 2
        + 8 * cross / max(width, 1) * (1 / batch_size + 1 / max(width, 1)),
        sum(s * g.drift for s, g in zip(shares, arrivals, strict=True)),
        sum(s * g.narrowness for s, g in zip(shares, arrivals, strict=True)),
        max(g.depth for g in arrivals),
        sum(s * g.shape for s, g in zip(shares, arrivals, strict=True)),
        _merged_profile(shares, [g.profile for g in arrivals]),
    )


def _merged_profile(shares: list[float], profiles: list[Array | None]) -> Array | None:
    like = next((profile for profile in profiles if profile is not None), None)
    if like is None:
        return None
    even = band(len(like)) if like.ndim == 2 else np.ones_like(like)
    fitting = (p if p is not None and p.shape == like.shape else even for p in profiles)
    return np.asarray(sum(share * profile for share, profile in zip(shares, fitting, strict=True)))
