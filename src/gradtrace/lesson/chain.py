"""The first network of the lesson: four layers of one unit, so that every factor is a number. Measured by gradtrace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.lesson.measured import MeasuredChain
from gradtrace.lesson.network import Layer
from gradtrace.lesson.setting import CHAIN_INPUT, CHAIN_TARGET, CHAIN_WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor


def measure_chain(activation: str = "sigmoid", weights: tuple[float, ...] = CHAIN_WEIGHTS) -> MeasuredChain:
    """L'(l) and dL/dW(l) of every layer; the loss is (y - t)^2."""
    layers = [Layer(torch.full((1, 1), w, dtype=torch.float64), activation, 0.0) for w in weights]
    x, target = (torch.full((1, 1), value, dtype=torch.float64) for value in (CHAIN_INPUT, CHAIN_TARGET))

    def loss_fn(model: Any, batch: Any) -> Tensor:
        return F.mse_loss(model(batch), target)

    trace = gradtrace.trace(nn.Sequential(*layers), loss_fn, x)
    activations = [
        next(op for op in trace.ops if op.activation is not None and op.site.module == f"{l}.activation")
        for l in range(len(weights))
    ]
    gradients = [op.received.norm if op.received is not None else 0.0 for op in activations]
    learns = [parameter.gradient.norm for parameter in trace.parameters if parameter.gradient is not None]
    slopes = [op.gain(0) for op in activations]
    return MeasuredChain(activation, weights, tuple(gradients), tuple(slopes), tuple(learns), trace.loss)
