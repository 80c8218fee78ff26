"""What does gradtrace.watch see while a setting's network learns digits? Losses, and |new W - W| / |W| by layer."""

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
from gradtrace.lesson.setting import NUM_DIGITS, TrainingSetting
from gradtrace.records.run import Scalar, Series
from gradtrace.theory.gaussian import Array

OPTIMIZERS = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam}


def examples() -> tuple[Array, NDArray[np.int64]]:
    """Pixels in [-1, 1] and labels."""
    pixels, labels = digits()
    return 2 * pixels[:NUM_DIGITS].astype(np.float64) - 1, labels[:NUM_DIGITS]


def train(setting: TrainingSetting) -> MeasuredTraining:
    """Train the setting's network under watch."""
    model = nn.Sequential()
    weights = setting.weights()
    for l, W in enumerate(weights, 1):
        model.add_module(f"layer{l}", linear(torch.from_numpy(W)))
        if l < len(weights):
            model.add_module(f"activation{l}", ACTIVATIONS[setting.activation]())
    optimizer = OPTIMIZERS[setting.optimizer](model.parameters(), lr=setting.learning_rate)
    pixels, labels = map(torch.from_numpy, examples())
    with gradtrace.watch(model, optimizer, every=2 * setting.num_steps) as watch:
        for _ in range(setting.num_steps):
            optimizer.zero_grad()
            F.cross_entropy(model(pixels), labels).backward()
            optimizer.step()
    steps = watch.run.steps
    losses = steps.scalars_high[:, list(Scalar).index(Scalar.LOSS)]
    ratios = steps.series_high[:, list(Series).index(Series.UPDATE_RATIO)]
    known = np.isfinite(ratios).any(axis=1)
    measured_steps = tuple(np.flatnonzero(known).tolist())
    return MeasuredTraining(
        setting=setting,
        losses=tuple(losses.tolist()),
        update_ratios=tuple(ratios[known].mean(axis=0).tolist()),
        difference=_difference(model[:-1], pixels),
        ratio_steps=measured_steps,
    )


def _difference(hidden: nn.Module, pixels: Tensor) -> float:
    with torch.no_grad():
        h = hidden(pixels)
    return float((h - h.mean(dim=0)).norm() / h.norm())
