"""Activations, dropout and normalisation: unit by unit, or over the units of a layer."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from torch import Tensor

from gradtrace.audit.rules.effect import Effect, mean_square, pass_on
from gradtrace.audit.signals import Signal, activate, sharing
from gradtrace.theory import growth
from gradtrace.theory.nonlinearities import TABLE, nonlinearity

if TYPE_CHECKING:
    from typing import Any

    from gradtrace.audit.recording import Step
    from gradtrace.audit.rules.effect import Scene
    from gradtrace.theory.nonlinearities import Nonlinearity

ACTIVATIONS = set(TABLE) - {"identity", "square", "gelu_tanh"}


@cache
def _parameters_of(name: str) -> tuple[str, ...]:
    return tuple(inspect.signature(TABLE[name]).parameters)


def nonlinearity_of(step: Step) -> Nonlinearity:
    """The activation function of a step with the parameters of its call."""
    name = step.function
    if name == "gelu" and step.argument(1, "approximate", "none") == "tanh":
        return nonlinearity("gelu_tanh")
    given: dict[str, float] = {}
    for position, parameter in enumerate(_parameters_of(name), start=1):
        value: Any = step.argument(position, parameter)
        if isinstance(value, Tensor):
            value = math.sqrt(mean_square(value, 0.0625))
        if isinstance(value, int | float) and not isinstance(value, bool):
            given[parameter] = float(value)
    return nonlinearity(name, **given)


def activation(scene: Scene) -> Effect | None:
    """E[a'^2] at the predicted pre-activation."""
    signal = scene.signals[0]
    num_samples = scene.outputs[0].numel / max(signal.features, 1)
    try:
        function = nonlinearity_of(scene.step)
        passage = activate(function, signal, num_samples)
    except (ValueError, TypeError):  # not finite under this Gaussian
        return None
    return Effect(
        [passage.signal],
        [{"activation": passage.growth}],
        unit_variance=passage.relative_variance,
        sensitivity=passage.sensitivity,
        activation=function.name,
        function=function,
        slopes=passage.slopes,
    )


def dropout(scene: Scene) -> Effect | None:
    """1 / (1 - p) on gradient and signal alike; two samples drop different units."""
    p, training = scene.step.argument(1, "p", 0.5), scene.step.argument(2, "training", True)
    if not training or p == 0:
        return pass_on(scene, "dropout")
    if p >= 1:
        return None
    signal = scene.signals[0]
    factor = growth.dropout(p)
    after = replace(signal, second=signal.second * factor, units=None)
    return Effect([after], [{"dropout": factor}], unit_variance=p / (1 - p) / max(signal.features, 1))


def _normalised(
    scene: Scene, divisor: float, factor: float, weight: Any, bias: Any, removed: float, averaged: float = 1.0
) -> Effect | None:
    """`removed`: what the norm subtracts of E[x^2]; `averaged`: the share of a sample's scatter in its divisor."""
    if not divisor > 0:
        return None
    signal = scene.signals[0]
    gamma, beta = mean_square(weight, 1.0), mean_square(bias, 0.0)
    after = Signal(
        second=gamma * max(signal.second - removed, 0.0) / divisor + beta,
        mean=0.0 if removed else math.sqrt(gamma / divisor) * signal.mean,
        overlap=gamma * (signal.overlap - removed) / divisor + beta,
        features=signal.features,
        places=signal.places,
    )
    return Effect([after], [{"norm": factor * signal.inverse_bias**averaged}], sensitivity=-1.0)


def _projection(scene: Scene, size: int, num_directions: int) -> float:
    """The share that a norm projects out, where it does not: behind a sum, these directions are gone already."""
    return 1 - num_directions / size if scene.feeder in ("add", "iadd", "dropout") and size > num_directions else 1.0


def layer_norm(scene: Scene) -> Effect | None:
    """E[gamma^2] / Var over the normalised axes (1 - 2 / n)."""
    step, signal = scene.step, scene.signals[0]
    size = math.prod(step.argument(1, "normalized_shape"))
    weight, bias, eps = step.argument(2, "weight"), step.argument(3, "bias"), step.argument(4, "eps", 1e-5)
    factor = growth.normalisation(signal.variance, size, mean_square(weight, 1.0), eps)
    return _normalised(scene, signal.variance + eps, factor / _projection(scene, size, 2), weight, bias, signal.mean**2)


def rms_norm(scene: Scene) -> Effect | None:
    """E[gamma^2] / E[z^2] (1 - 1 / n)."""
    step, signal = scene.step, scene.signals[0]
    size = math.prod(step.argument(1, "normalized_shape"))
    weight, eps = step.argument(2, "weight"), step.argument(3, "eps") or 1e-7
    factor = growth.rms_normalisation(signal.second, size, mean_square(weight, 1.0), eps)
    return _normalised(scene, signal.second + eps, factor / _projection(scene, size, 1), weight, None, 0.0)


def group_norm(scene: Scene) -> Effect | None:
    """A layer norm over each group of channels and all positions."""
    step, signal = scene.step, scene.signals[0]
    is_instance = step.function == "instance_norm"
    num_groups = signal.features if is_instance else step.argument(1, "num_groups")
    names = (3, 4, 7) if is_instance else (2, 3, 4)
    weight, bias = step.argument(names[0], "weight"), step.argument(names[1], "bias")
    eps = step.argument(names[2], "eps", 1e-5)
    size = scene.inputs[0].numel / scene.batch_size / num_groups
    per_group = max(signal.features / num_groups, 1.0)  # positions of one channel share what two samples share
    removed = signal.mean**2 + max(signal.overlap - signal.mean**2, 0.0) / per_group
    variance = max(signal.second - removed, 0.0)
    factor = growth.normalisation(variance, int(size), mean_square(weight, 1.0), eps)
    averaged = sharing(signal.correlation, size / per_group)
    effect = _normalised(scene, variance + eps, factor, weight, bias, removed, averaged)
    return effect and replace(effect, over_positions=1 / per_group)


def batch_norm(scene: Scene) -> Effect | None:
    """Per unit over samples and positions: what two of them share is taken out, so second - overlap is left."""
    step, signal = scene.step, scene.signals[0]
    weight, bias = step.argument(3, "weight"), step.argument(4, "bias")
    training, eps = step.argument(5, "training", False), step.argument(7, "eps", 1e-5)
    running = step.argument(2, "running_var")
    gamma, beta = mean_square(weight, 1.0), mean_square(bias, 0.0)
    if not training:
        variance = 1.0 if running is None or running.is_meta else float(running.double().mean())
        factor = gamma / (variance + eps)
        after = replace(signal.scaled(math.sqrt(factor)), log_variance=signal.log_variance)
        return Effect([after], [{"norm": factor}])
    size = scene.inputs[0].numel / max(signal.features, 1)
    variance = signal.second - signal.overlap
    if size <= 3 or variance <= 0:
        return None  # no finite mean square
    factor = (
        gamma / (variance + eps) * size * (size - 2) / ((size - 1) * (size - 3)) if size < 1e6 else gamma / variance
    )
    after = Signal(gamma + beta, 0.0, beta - gamma / (size - 1), signal.features, places=signal.places)
    scatter = _channel_scatter(scene.tensors[0])
    return Effect([after], [{"norm": factor}], sensitivity=-1.0, scatter=scatter, over_positions=1 / scene.batch_size)


def _channel_scatter(x: Tensor) -> float:
    """Over the channels' variances v, ln E[v] E[1 / v]: what a channel gets more, its weights below take back."""
    if x.is_meta or x.dim() < 2:
        return 0.0
    v = x.detach().double().transpose(0, 1).flatten(1).var(1)
    v = v[v > 0]
    return float((v.mean() * (1 / v).mean()).log()) if v.numel() else 0.0
