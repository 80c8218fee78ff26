"""What does gradtrace measure on the lesson's networks? Built in torch from the lesson's weights, and traced."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.lesson.measured import Measured, MeasuredInTime
from gradtrace.lesson.setting import RecurrentSetting, Setting
from gradtrace.records.vocabulary import Factor

if TYPE_CHECKING:
    from torch import Tensor

    from gradtrace.records.trace import Op, Trace

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def linear(W: Tensor) -> nn.Linear:
    """The map y W^T of these very weights."""
    made = nn.Linear(W.shape[1], W.shape[0], bias=False, dtype=W.dtype)
    made.weight = nn.Parameter(W)
    return made


class Layer(nn.Module):
    """y(l) = a(W(l) y(l-1)), or with a skip connection y(l-1) + alpha W(l) a(y(l-1))."""

    def __init__(self, W: Tensor, activation: str, alpha: float) -> None:
        super().__init__()
        self.linear = linear(W)
        self.activation = ACTIVATIONS[activation]()
        self.alpha = alpha

    def forward(self, y: Tensor) -> Tensor:
        """From y(l-1) to y(l)."""
        if self.alpha:
            return torch.add(y, self.linear(self.activation(y)), alpha=self.alpha)
        after: Tensor = self.activation(self.linear(y))
        return after


def network(setting: Setting) -> nn.Sequential:
    """The network of a setting in float64; its layers are called layer1, layer2, ..."""
    model = nn.Sequential()
    for l, W in enumerate(setting.weights(), 1):
        model.add_module(f"layer{l}", Layer(torch.from_numpy(W), setting.activation, setting.alpha))
    return model


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean of t y(L)."""
    inputs, starts = batch
    outputs: Tensor = model(inputs)
    return (starts * outputs).mean()


def trace_of(setting: Setting) -> Trace:
    """The trace of a setting's network."""
    batch = tuple(map(torch.from_numpy, setting.batch()))
    return gradtrace.trace(network(setting), loss_of, batch)


def measure(setting: Setting) -> Measured:
    """|L'(l)| of every layer and what its activation did, as gradtrace's trace has it."""
    return read(trace_of(setting), setting)


def read(trace: Trace, setting: Setting) -> Measured:
    """The numbers of every layer, from a trace of the setting's network."""
    found: dict[str, list[Op]] = {f"layer{l}": [] for l in range(1, setting.depth + 1)}
    for op in trace.ops:
        name = (op.site.module or "").split(".")[0]
        if name in found and op.received is not None and op.parameter is None:
            found[name].append(op)
    norms = tuple(_received(ops[0]) for ops in found.values())  # ops come from the loss on: the first sees L'(l)
    activations = [next((op for op in ops if op.factor is Factor.ACTIVATION), None) for ops in found.values()]
    gains = tuple(0.0 if op is None else _log10(op.gain(0)) for op in activations)
    stats = [op.activation if op is not None else None for op in activations]
    saturated = tuple(0.0 if each is None else each.saturated_frac for each in stats)
    rms = tuple(1.0 if each is None else each.derivative_rms for each in stats)
    gradients = {p.name: p for p in trace.parameters}
    relative = tuple(_relative(gradients[f"layer{l}.linear.weight"]) for l in range(1, setting.depth + 1))
    return Measured(setting, norms, gains, saturated, rms, relative, trace.loss)


def cosines(setting: Setting) -> tuple[float, ...]:
    """Mean cosine between the outputs that two inputs of the batch have at layers 0 ... L."""
    y, _ = map(torch.from_numpy, setting.batch())
    outputs = [y]
    with torch.no_grad():
        for layer in network(setting):
            outputs.append(layer(outputs[-1]))
    pairs = torch.triu_indices(len(y), len(y), offset=1)
    normed = [F.normalize(each, dim=1) for each in outputs]
    return tuple(float((each @ each.T)[pairs[0], pairs[1]].mean()) for each in normed)


def measure_in_time(setting: RecurrentSetting) -> MeasuredInTime:
    """|L'(h_t)| of every step, as gradtrace's record through time has it."""
    x, starts = map(torch.from_numpy, setting.batch())
    cell = nn.RNN(setting.width, setting.width, bias=False, batch_first=True, dtype=x.dtype)
    cell.weight_hh_l0 = nn.Parameter(torch.from_numpy(setting.weights()))
    cell.weight_ih_l0 = nn.Parameter(torch.eye(setting.width, dtype=x.dtype))

    def loss_fn(cell: Any, batch: Any) -> Tensor:
        states: Tensor = cell(batch)[0]
        return (starts * states[:, -1]).mean()

    record = gradtrace.through_time(cell, loss_fn, x)
    (chain,) = record.chains
    horizon = chain.horizon.steps if chain.horizon is not None else math.nan
    return MeasuredInTime(setting, chain.states, horizon, chain.singular_value)


def _received(op: Op) -> float:
    assert op.received is not None
    return op.received.norm


def _relative(parameter: Any) -> float:
    return parameter.gradient.norm / parameter.norm if parameter.norm else math.nan


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else -math.inf if value == 0 else math.nan
