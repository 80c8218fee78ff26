"""How does the gradient travel against the recorded steps, and how sure is that?

Per value:  E[g^2] = sum over its users of growth x E[g^2] of what they make  (independent branches), with the variance
of its logarithm from three sources, all relative to one network measured with K cotangents on B samples:

    weights      2 / fan_in (1 / M + R),    M = K B positions directions,  R = sum of 1 / width over the layers above
    activations  (E[a'^4] / E[a'^2]^2 - 1) / width, shared by samples whose pre-activations are alike
    signal       (d ln growth / d ln q)^2 Var(ln q): a wrong q stays wrong up to the next norm, so these add up linearly

A product of l Gaussian matrices of width n has n / (l + 1) directions left (participation ratio), hence R. For one
cotangent, M = 1, this is the spread of Hanin & Nica (2018) in `theory.finite_width`.

Samples differ in q, and a sample with a large one keeps it: growths multiply sample by sample, so that their mean is
larger than the product of means by exp(s S): s = d ln growth / d ln q times the standard deviation of ln q over
samples, S the sum of the s above. And a norm over positions takes out what is the same at all positions of a channel,
as the gradient of a global average is; attention passes on more of what is the same at all tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.audit.rules.effect import Arrival, Effect
from gradtrace.audit.signals import Signal, sharing
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
    """The part of ln E[g^2] that is not the design's: fan_out / fan_in, skipped positions, samples that differ."""
    profile: Array | None = None
    """Of what a recurrence made, as in `Arrival`; None: even and independent."""
    tilt: float = 0.0
    """S: how far ln E[g^2] of a sample moves with its ln q, times the standard deviation of that."""
    even: float = 0.0
    """Share of the energy that is the same at all positions of a channel, or at all tokens."""
    slanted: float = 0.0
    """Share that follows the pre-activation over the positions of a channel."""
    places: tuple[Array, ...] = ()
    """Relative energy along each spatial axis, of mean 1: less at a border of zeros; (): even."""


@dataclass(slots=True)
class Propagation:
    """Predicted signals and gradients of every value; effects of every step."""

    signals: list[Signal]
    effects: list[Effect]
    gradients: list[Gradient]
    unruled: list[int] = field(default_factory=list)
    """Steps without a rule."""


def backward(recording: Recording, signals: list[Signal], effects: list[Effect], num_cotangents: int) -> list[Gradient]:
    """The gradient of every value."""
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
                arrival = arrival_of(recording, effect, step, slot, output, above)
                if arrival.growth > 0:
                    pair = signals[step.inputs[0]], signals[output]
                    arrivals[value.index].append(
                        _through(effect, slot, pair, above, arrival, recording, num_cotangents)
                    )
        gradients[value.index] = _merge(arrivals[value.index], signals[value.index].features, recording.batch_size)
    return gradients


def arrival_of(recording: Recording, effect: Effect, step: Step, slot: int, output: int, gradient: Gradient) -> Arrival:
    """What the gradient of one output of a step becomes at one of its inputs."""
    profile = gradient.profile
    if slot >= len(effect.parts):
        return Arrival(0.0)
    if effect.transport is not None:
        return effect.transport(slot, step.outputs.index(output), profile)
    growth = math.prod(effect.parts[slot].values()) * (1 - _taken_out(effect, gradient))
    growth *= 1 + gradient.even * math.expm1(effect.spread)
    growth *= math.prod(float((T @ at).sum() / T.sum()) for T, at in zip(effect.axes, gradient.places, strict=False))
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
            arrival = arrival_of(recording, effect, step, slot, output, gradients[output])
            if arrival.growth > 0:
                above = replace(gradients[output], variance=0.0, drift=0.0)
                pair = propagation.signals[step.inputs[0]], propagation.signals[output]
                fresh.append(_through(effect, slot, pair, above, arrival, recording, num_cotangents))
    merged = _merge(fresh, propagation.signals[index].features, recording.batch_size)
    return merged.variance + merged.drift**2


def _through(
    effect: Effect,
    slot: int,
    signals: tuple[Signal, Signal],
    gradient: Gradient,
    arrival: Arrival,
    recording: Recording,
    num_cotangents: int,
) -> Gradient:
    (signal, after), growth = signals, arrival.growth
    variance, narrowness, depth, shape = gradient.variance, gradient.narrowness, gradient.depth, gradient.shape
    parts = math.prod(factor for part, factor in effect.parts[slot].items() if part != "stride")
    if effect.transport is not None:
        shape += arrival.shape
    elif parts > 0:
        shape += math.log(growth / parts)
    if effect.fan is not None:
        positions = 1 / (gradient.even + (1 - gradient.even) / max(effect.positions, 1.0))
        directions = num_cotangents * recording.batch_size * positions
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
    drift = gradient.drift
    if after.log_variance == 0 < signal.log_variance:  # a norm: what is wrong below it is not what was wrong above
        variance, drift = variance + drift**2, 0.0
    drift += abs(effect.sensitivity) * math.sqrt(max(signal.log_variance, 0.0))
    drift += effect.drift
    drift += spread_of_powers(arrival.steps, effect.units) if effect.units else 0.0
    kept, own = _tilt(effect, signal, after, gradient)
    apart = min(kept * own, 2.0)
    energy, shape = gradient.energy * growth * math.exp(apart), shape + apart
    even, slanted = _evenness(effect, gradient)
    places = _places(effect, gradient)
    return Gradient(
        energy, variance, drift, narrowness, depth, shape, arrival.profile, kept + own, even, slanted, places
    )


def _places(effect: Effect, gradient: Gradient) -> tuple[Array, ...]:
    """Where along each axis the gradient is, behind this step; pooling and reshaping make it even again."""
    if effect.axes:
        above = gradient.places or tuple(np.ones(T.shape[1]) for T in effect.axes)
        below = [T @ at for T, at in zip(effect.axes, above, strict=True)]
        return tuple(at / at.mean() if at.mean() > 0 else np.ones_like(at) for at in below)
    keeps = effect.activation or effect.over_positions or "dropout" in effect.parts[0]
    return gradient.places if keeps else ()


def _tilt(effect: Effect, signal: Signal, after: Signal, gradient: Gradient) -> tuple[float, float]:
    """S of the layers above, as far as their ln q is that of this input, and this step's own s."""
    here, there = (min(x.sample_variance - x.log_variance, 1.0) for x in (signal, after))
    if here <= 0:
        return 0.0, 0.0
    return gradient.tilt * min(1.0, math.sqrt(max(there, 0.0) and here / there)), effect.sensitivity * math.sqrt(here)


def _taken_out(effect: Effect, gradient: Gradient) -> float:
    """The share of a gradient that a norm over positions projects out."""
    return min((gradient.even + gradient.slanted) * effect.over_positions, 0.99)


def _evenness(effect: Effect, gradient: Gradient) -> tuple[float, float]:
    if effect.pooled:
        return effect.pooled + (1 - effect.pooled) * gradient.even, 0.0
    if effect.activation and effect.function is not None:
        return gradient.even * effect.slopes[0], gradient.even * effect.slopes[1]
    if effect.over_positions:
        return gradient.even * (1 - effect.over_positions) / (1 - _taken_out(effect, gradient)), 0.0
    if effect.spread > 0:  # mixing over tokens makes the same of all that it mixes
        return 1 - math.exp(-effect.spread), 0.0
    if "dropout" in effect.parts[0]:
        return gradient.even / effect.parts[0]["dropout"], 0.0
    if effect.fan is not None:
        return gradient.even * min(effect.parts[0].get("stride", 1.0), 1.0), 0.0
    return gradient.even, 0.0


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
        sum(s * g.tilt for s, g in zip(shares, arrivals, strict=True)),
        sum(s * g.even for s, g in zip(shares, arrivals, strict=True)),
        sum(s * g.slanted for s, g in zip(shares, arrivals, strict=True)),
        _merged_places(shares, [g.places for g in arrivals]),
    )


def _merged_places(shares: list[float], places: list[tuple[Array, ...]]) -> tuple[Array, ...]:
    like = next((each for each in places if each), ())
    fitting = [each if [len(at) for at in each] == [len(at) for at in like] else None for each in places]
    return tuple(
        np.asarray(sum(s * (each[axis] if each else 1.0) for s, each in zip(shares, fitting, strict=True)))
        for axis in range(len(like))
    )


def _merged_profile(shares: list[float], profiles: list[Array | None]) -> Array | None:
    like = next((profile for profile in profiles if profile is not None), None)
    if like is None:
        return None
    even = band(len(like)) if like.ndim == 2 else np.ones_like(like)
    fitting = (p if p is not None and p.shape == like.shape else even for p in profiles)
    return np.asarray(sum(share * profile for share, profile in zip(shares, fitting, strict=True)))
