"""Sums, products with constants, and what only moves, drops, repeats or averages elements."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from gradtrace.audit.rules.effect import Effect, mean_square, pass_on
from gradtrace.audit.signals import Signal

if TYPE_CHECKING:
    from typing import Any

    from gradtrace.audit.rules.effect import Scene


def _constant(operand: Any) -> Signal:
    """The signal of a number, a parameter or a tensor without gradient: the same for all samples."""
    if isinstance(operand, int | float):
        return Signal(second=float(operand) ** 2, mean=float(operand), overlap=float(operand) ** 2)
    if isinstance(operand, Tensor) and not operand.is_meta and operand.numel() and operand.is_floating_point():
        second = mean_square(operand, 1.0)
        return Signal(second=second, mean=float(operand.detach().double().mean()), overlap=second)
    return Signal(second=0.0)


def _joint(weight: float, one: float, other: float) -> float:
    """Variance of the logarithm of a sum whose terms rise and fall together (a branch follows its stream)."""
    return ((1 - weight) * math.sqrt(one) + weight * math.sqrt(other)) ** 2


def add(scene: Scene) -> Effect | None:
    """A sum x + alpha y (subtraction: alpha = -1): independent terms add their squares, shared means add as well."""
    step = scene.step
    operands = [step.argument(0, "input"), step.argument(1, "other")]
    alpha = step.kwargs.get("alpha", 1)
    signs = {"sub": (1.0, -1.0), "rsub": (-1.0, 1.0)}.get(step.function, (1.0, 1.0))
    total, factors = Signal(second=0.0, features=scene.signals[0].features), [{"stride": 0.0} for _ in scene.inputs]
    for place, operand in enumerate(operands):
        scale = signs[place] * (alpha if place == 1 else 1)
        slot = scene.slot_of(operand)
        term = (scene.signals[slot] if slot is not None else _constant(operand)).scaled(scale)
        cross = 2 * total.mean * term.mean
        if place == 1 and slot is not None and scene.slot_of(operands[0]) == slot:  # the same tensor twice
            total = scene.signals[slot].scaled(signs[0] + scale)
            factors[slot]["stride"] = (signs[0] + scale) ** 2
            break
        weight = term.second / (total.second + term.second) if term.second > 0 else 0.0
        total = replace(
            total,
            second=total.second + term.second + cross,
            mean=total.mean + term.mean,
            overlap=total.overlap + term.overlap + cross,
            log_variance=_joint(weight, total.log_variance, term.log_variance),
            sample_variance=_joint(weight, total.sample_variance, term.sample_variance),
        )
        if slot is not None:
            repeated = scene.outputs[0].numel / scene.inputs[slot].numel
            factors[slot]["stride"] = scale**2 * repeated
    return Effect([total], factors)


def multiply(scene: Scene) -> Effect | None:
    """Product of x with a number or a parameter; the product of two values has no rule."""
    step = scene.step
    operands = [step.argument(0, "input"), step.argument(1, "other")]
    if len(scene.inputs) != 1 or scene.outputs[0].numel != scene.inputs[0].numel:
        return None
    if scene.slot_of(operands[0]) is not None and scene.slot_of(operands[1]) is not None:
        return None
    other = operands[1] if scene.slot_of(operands[0]) is not None else operands[0]
    if step.function in ("div", "truediv"):
        if other is operands[0] or (isinstance(other, int | float) and other == 0):
            return None
        other = 1 / other
    if isinstance(other, Tensor) and other.is_meta:
        return None
    constant = _constant(other)
    after = scene.signals[0].scaled(math.sqrt(constant.second))
    after = replace(after, mean=scene.signals[0].mean * constant.mean)
    return Effect([after], [{"weights": constant.second}])


def move(scene: Scene) -> Effect | None:
    """Views, slices, repetition: elements stay what they are, and the sum of the squared gradients too."""
    last = [int(value.shape[-1]) if value.shape else 1 for value in scene.outputs]
    keeps = scene.step.function in ("contiguous", "clone", "view_as", "dropout", "to", "float", "requires_grad")
    signals: list[Signal | None] = [
        scene.signals[0] if keeps or len(value.shape) == 4 else replace(scene.signals[0], features=size)
        for value, size in zip(scene.outputs, last, strict=True)
    ]
    return Effect(signals, [{} for _ in scene.inputs], conserved=True)


def cat(scene: Scene) -> Effect | None:
    """Each input is found again in the output."""
    sizes = [value.numel for value in scene.inputs]
    total = sum(sizes)

    def mean(name: str) -> float:
        return float(sum(getattr(s, name) * n for s, n in zip(scene.signals, sizes, strict=True))) / total

    dim = scene.outputs[0].shape
    features = int(dim[1] if len(dim) == 4 else dim[-1]) if dim else 1
    after = Signal(mean("second"), mean("mean"), mean("overlap"), features, max(s.log_variance for s in scene.signals))
    return Effect([after], [{} for _ in scene.inputs])


def negate(scene: Scene) -> Effect | None:
    """-x."""
    return Effect([scene.signals[0].scaled(-1.0)], [{}])


def average(scene: Scene) -> Effect | None:
    """A mean over K elements hands 1 / K of the gradient to each; the signal is as observed (neighbours are alike)."""
    ratio = scene.outputs[0].numel / scene.inputs[0].numel
    return Effect([None], [{"stride": ratio**2}], pooled=_pooled(scene))


def _pooled(scene: Scene) -> float:
    """1 / the number of positions (tokens) that an average leaves; 0 where it does not average over them."""
    before, after = scene.inputs[0].shape, scene.outputs[0].shape
    if len(before) < 3 or scene.inputs[0].numel <= scene.outputs[0].numel:
        return 0.0
    if scene.step.function == "mean":
        axes = scene.step.argument(1, "dim")
        axes = range(len(before)) if axes is None else (axes,) if isinstance(axes, int) else axes
        positions = {1} if len(before) == 3 else set(range(2, len(before)))
        return float(positions <= {axis % len(before) for axis in axes})
    return math.prod(after[:2]) / scene.outputs[0].numel


def total(scene: Scene) -> Effect | None:
    """A sum hands all of it to each."""
    return Effect([None], [{"stride": 1.0}])


def average_pool(scene: Scene) -> Effect | None:
    """Windows of K elements; those that overlap add up."""
    axes = int(scene.step.function[-2])
    kernel = scene.step.argument(1, "kernel_size")
    size = kernel**axes if isinstance(kernel, int) else math.prod(kernel) ** (axes if len(kernel) == 1 else 1)
    ratio = scene.outputs[0].numel / scene.inputs[0].numel
    return Effect([None], [{"stride": ratio / size}])


def max_pool(scene: Scene) -> Effect | None:
    """Each output's gradient goes to one input; the signal is as observed."""
    ratio = scene.outputs[0].numel / scene.inputs[0].numel
    return Effect([None] * len(scene.outputs), [{"stride": ratio}], largest_of=max(1, round(1 / ratio)))


def pad(scene: Scene) -> Effect | None:
    """Constant padding dilutes the signal; circular, reflected and replicated padding repeats it."""
    mode = scene.step.argument(2, "mode", "constant")
    if mode == "constant":
        ratio = scene.inputs[0].numel / scene.outputs[0].numel
        return Effect([scene.signals[0].scaled(math.sqrt(ratio))], [{}])
    return Effect([scene.signals[0]], [{}], conserved=True)


def identity(scene: Scene) -> Effect | None:
    """Nothing happens."""
    return pass_on(scene)
