"""What does gradtrace.watch see while a setting's network learns digits? Losses, and |new W - W| / |W| by layer."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.data import digits
from gradtrace.lesson.measured import MeasuredTraining
from gradtrace.lesson.network import ACTIVATIONS, linear
from gradtrace.lesson.setting import DIGITS_A_STEP, NUM_DIGITS, TrainingSetting
from gradtrace.records.run import Scalar, Series
from gradtrace.theory.gaussian import Array

OPTIMIZERS = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam}


def batches() -> list[tuple[Array, NDArray[np.int64]]]:
    """Pixels in [-1, 1] and labels, DIGITS_A_STEP at a time."""
    pixels, labels = digits()
    x = 2 * pixels.astype(np.float64) - 1
    starts = range(0, NUM_DIGITS, DIGITS_A_STEP)
    return [(x[i : i + DIGITS_A_STEP], labels[i : i + DIGITS_A_STEP]) for i in starts]


def train(setting: TrainingSetting) -> MeasuredTraining:
    """Train the setting's network under watch."""
    model = nn.Sequential()
    weights = setting.weights()
    for l, W in enumerate(weights, 1):
        model.add_module(f"layer{l}", linear(torch.from_numpy(W)))
        if l < len(weights):
            model.add_module(f"activation{l}", ACTIVATIONS[setting.activation]())
    optimizer = OPTIMIZERS[setting.optimizer](model.parameters(), lr=setting.learning_rate)
    stream = itertools.cycle([(torch.from_numpy(x), torch.from_numpy(y)) for x, y in batches()])
    with gradtrace.watch(model, optimizer, every=2 * setting.num_steps) as watch:
        for pixels, labels in itertools.islice(stream, setting.num_steps):
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
        difference=_difference(model[:-1]),
        ratio_steps=measured_steps,
    )


def _difference(hidden: nn.Module) -> float:
    with torch.no_grad():
        h = hidden(torch.from_numpy(np.concatenate([pixels for pixels, _ in batches()])))
    return float((h - h.mean(dim=0)).norm() / h.norm())
