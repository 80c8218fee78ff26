"""Plain PyTorch, apart from gradtrace's own trace: what do layers, units and training do in a case?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gradtrace.casebook.case import Setup

MAPS = {F.linear, F.conv1d, F.conv2d, F.embedding, F.multi_head_attention_forward}
PRODUCTS = {torch.matmul, Tensor.matmul, Tensor.__matmul__}
RECURRENCES = {"lstm", "gru", "rnn_tanh", "rnn_relu"}

SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda x: 1 - torch.tanh(x) ** 2,
    "sigmoid": lambda x: 4 * torch.sigmoid(x) * (1 - torch.sigmoid(x)),
    "hardtanh": lambda x: (x.abs() < 1).float(),
    "relu": lambda x: (x > 0).float(),
}
"""Derivative over its maximum."""

SOFTMAX_SLOPE_MAX = 0.25
FLAT = 0.05


def rms(x: Tensor) -> float:
    return float(x.detach().double().square().mean().sqrt())


@dataclass
class Unit:
    """One call of a non-linearity: which, the flat fraction, the fraction of units dead on every sample."""

    name: str
    flat_frac: float
    dead_frac: float = 0.0


@dataclass
class Watch(TorchFunctionMode):
    """Hooks the output of every layer (a map with weights, or a product with a Parameter), looks at activations."""

    outputs: list[Tensor] = field(default_factory=list)
    gradients: dict[int, Tensor] = field(default_factory=dict)
    units: list[Unit] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in SLOPES:
            self.units.append(activation(name, args[0].detach()))
        out = func(*args, **(kwargs or {}))
        if name == "softmax":
            self.units.append(Unit("softmax", float(one_hot(out.detach()).float().mean())))
        product = func in PRODUCTS and any(isinstance(argument, nn.Parameter) for argument in args)
        if func in MAPS or product or name in RECURRENCES:
            self._hook(out[0] if isinstance(out, tuple) else out)
        return out

    def _hook(self, out: Tensor) -> None:
        if out.requires_grad:  # a frozen layer on data has no gradient to speak of
            index = len(self.outputs)
            self.outputs.append(out)
            out.register_hook(lambda gradient: self.gradients.__setitem__(index, gradient.detach().clone()))


def activation(name: str, x: Tensor) -> Unit:
    slope = SLOPES[name](x)
    by_unit = slope.transpose(0, 1).flatten(1) if slope.dim() == 4 else slope.reshape(-1, slope.shape[-1]).T
    return Unit(name, float((slope < FLAT).float().mean()), float((by_unit == 0).all(1).float().mean()))


def one_hot(p: Tensor) -> Tensor:
    """Rows of a softmax whose largest derivative p (1 - p) is under 5 % of its maximum."""
    return (p * (1 - p)).amax(-1) < FLAT * SOFTMAX_SLOPE_MAX


@dataclass
class Observed:
    loss: float
    outputs: list[Tensor]
    gradients: list[Tensor | None]
    """At each layer's output, in the order of the forward pass; None where nothing arrives."""
    units: list[Unit]
    parameters: dict[str, Tensor | None]


def observe(setup: Setup, batch: Any = None) -> Observed:
    """One forward and one backward pass."""
    watch = Watch()
    setup.model.zero_grad()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with watch:
            loss = setup.loss_fn(setup.model, setup.batches[0] if batch is None else batch)
        loss.backward()
    parameters = {name: p.grad for name, p in setup.model.named_parameters()}
    setup.model.zero_grad()
    gradients = [watch.gradients.get(index) for index in range(len(watch.outputs))]
    return Observed(float(loss.detach()), watch.outputs, gradients, watch.units, parameters)


def early_over_late(setup: Setup) -> tuple[float, float]:
    """Per-element RMS of the gradient at the first layer's output over that at the last's, and the second last's."""
    found = [math.nan if gradient is None else rms(gradient) for gradient in observe(setup).gradients]
    return found[0] / found[-1], found[0] / found[-2] if len(found) > 2 and found[-2] else found[0] / found[-1]


def first_over_last_step(setup: Setup) -> float:
    """Per-element RMS of the gradient at the first time step's input over that at the last's."""
    series, labels = setup.batches[0]
    series = series.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(setup.loss_fn(setup.model, (series, labels)), series)
    return rms(gradient[:, 0]) / rms(gradient[:, -1])


def optimizers_of(setup: Setup) -> list[torch.optim.Optimizer]:
    given = setup.optimizer
    return [] if given is None else [given] if isinstance(given, torch.optim.Optimizer) else list(given)


def train(setup: Setup, num_steps: int, accumulate: int = 1, rate: float = 1.0) -> list[float]:
    """Losses before each step, in place; `rate` multiplies the learning rate. Without optimizer: Adam at 1e-3."""
    optimizers = optimizers_of(setup) or [
        torch.optim.Adam([p for p in setup.model.parameters() if p.requires_grad], lr=1e-3)
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] *= rate
    losses = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for step in range(num_steps):
            setup.model.zero_grad()
            total = 0.0
            for index in range(accumulate):
                batch = setup.batches[(step * accumulate + index) % len(setup.batches)]
                loss = setup.loss_fn(setup.model, batch) / accumulate
                loss.backward()
                total += float(loss.detach())
            losses.append(total)
            for optimizer in optimizers:
                optimizer.step()
    return losses
