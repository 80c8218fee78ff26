"""How does a setting's network learn digits, and how far does a step move each layer? Trained in torch, and traced.

Gradient descent moves W by the learning rate times dL/dW, so that |new W - W| / |W| is the learning rate times the
relative gradient |dL/dW| / |W| of gradtrace's trace, taken of every RATIO_EVERY-th step.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import gradtrace
from gradtrace.data import digits
from gradtrace.lesson.measured import MeasuredTraining
from gradtrace.lesson.network import ACTIVATIONS, linear
from gradtrace.lesson.setting import NUM_DIGITS, RATIO_EVERY, TrainingSetting
from gradtrace.theory.gaussian import Array

Batch = tuple[Tensor, Tensor]


def examples() -> tuple[Array, NDArray[np.int64]]:
    """Pixels in [-1, 1] and labels."""
    pixels, labels = digits()
    return 2 * pixels[:NUM_DIGITS].astype(np.float64) - 1, labels[:NUM_DIGITS]


def learner(setting: TrainingSetting) -> nn.Sequential:
    """The network of a setting in float64: layer1, activation1, ..., and the readout as the last layer."""
    model, weights = nn.Sequential(), setting.weights()
    for l, W in enumerate(weights, 1):
        model.add_module(f"layer{l}", linear(torch.from_numpy(W)))
        if l < len(weights):
            model.add_module(f"activation{l}", ACTIVATIONS[setting.activation]())
    return model


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy."""
    pixels, labels = batch
    return F.cross_entropy(model(pixels), labels)


def train(setting: TrainingSetting) -> MeasuredTraining:
    """Train the setting's network by gradient descent, and trace it."""
    assert setting.optimizer == "SGD", "of other optimizers the trace does not say how far a step moves"
    model, (pixels, labels) = learner(setting), map(torch.from_numpy, examples())
    optimizer = torch.optim.SGD(model.parameters(), lr=setting.learning_rate)
    losses, ratios = [], []
    for step in range(setting.num_steps):
        if step % RATIO_EVERY == 0:
            ratios.append(_update_ratios(model, (pixels, labels), setting.learning_rate))
        loss = loss_of(model, (pixels, labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    average = tuple(np.mean(ratios, axis=0).tolist())
    return MeasuredTraining(setting, tuple(losses), average, _difference(model[:-1], pixels))


def _update_ratios(model: nn.Module, batch: Batch, learning_rate: float) -> list[float]:
    parameters = gradtrace.trace(model, loss_of, batch).parameters
    return [learning_rate * p.gradient.norm / p.norm for p in parameters if p.gradient is not None]


def _difference(hidden: nn.Module, pixels: Tensor) -> float:
    with torch.no_grad():
        h = hidden(pixels)
    return float((h - h.mean(dim=0)).norm() / h.norm())
