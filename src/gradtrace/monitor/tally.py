"""The numbers of one step, gathered between its first backward pass and its last optimizer step.

A gradient is measured when its backward passes are over (as many as the step before had) and before anyone clips it. A
gradient whose version has changed until the optimizer is called was clipped or unscaled: it is measured again there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from gradtrace.monitor.norms import norms
from gradtrace.monitor.watched import MOST_ARRIVALS
from gradtrace.records.run import Scalar, Series

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from gradtrace.monitor.ferry import Cargo
    from gradtrace.monitor.updates import Updates
    from gradtrace.monitor.watched import Watched


class Tally:
    """All tensors stay on their device until `cargo` is sent; `scale` is a scaler's, or None."""

    def __init__(self, watched: Watched, updates: Updates) -> None:
        self._watched, self._updates = watched, updates
        self._loss: Tensor | float | None = None
        self._norms: Tensor | None = None
        self._clipped: Tensor | None = None
        self._weights: Tensor | None = None
        self._moved: Tensor | None = None
        self._scale: Tensor | None = None
        self._versions: dict[int, int] = {}
        self.num_backwards = 0

    @property
    def has_loss(self) -> bool:
        """Whether backward was called on a single number."""
        return self._loss is not None

    @property
    def is_measured(self) -> bool:
        """Whether any gradient's norm is known."""
        return self._norms is not None

    def add_loss(self, root: Tensor, value: float | None, scale: Tensor | None) -> None:
        """A backward pass from `root`, of `value` if that may be known, which a scaler multiplied by `scale`."""
        self.num_backwards += 1
        if scale is not None:
            self._scale = scale.detach().float().reshape(1).clone()  # which the scaler will change
        if root.numel() != 1:
            return
        loss: Tensor | float
        if value is not None:
            loss = value if scale is None else value / float(scale)
        else:
            loss = root.detach().float().reshape(1)
            loss = loss.clone() if scale is None else loss / scale.to(loss.device).reshape(1)
        self._loss = loss if self._loss is None else self._loss + loss

    def measure_gradients(self, scale: Tensor | None) -> Tensor:
        """Norms of all gradients that were not measured in this step yet; returns those of all."""
        gradients = [parameter.grad for parameter in self._watched.parameters]
        found = norms(gradients)
        if scale is not None:
            found = found / scale.to(found.device)
        self._norms = found if self._norms is None else torch.where(torch.isnan(self._norms), found, self._norms)
        self._versions |= {i: g._version for i, g in enumerate(gradients) if g is not None}
        return self._norms

    def before_step(self, columns: Sequence[int]) -> Tensor | None:
        """An optimizer is about to move the parameters of `columns`; returns norms that were taken now."""
        looked_at = columns[:: max(1, len(columns) // MOST_ARRIVALS)]
        gradients = [(i, self._watched.parameters[i].grad) for i in looked_at]
        if all(g is None or self._versions.get(i) == g._version for i, g in gradients):
            return None
        held = {i: self._watched.parameters[i].grad for i in columns}
        found = norms([held.get(i) for i in range(len(self._watched.parameters))])
        if self._norms is None:
            self._norms = found
        elif any(i in self._versions for i in columns):
            self._clipped = found if self._clipped is None else torch.where(torch.isnan(found), self._clipped, found)
            self._norms = torch.where(torch.isnan(self._norms), found, self._norms)
        return found

    def remember_weights(self) -> None:
        """Before the optimizer's step."""
        self._weights = self._updates.before()

    def compare_weights(self) -> None:
        """After it: by how much did it move them?"""
        self._moved = self._updates.after()

    def cargo(self) -> list[Tensor | None]:
        """The vectors that `row` takes: loss, gradients, clipped gradients, weights, updates, scale."""
        if self._updates.is_holding:  # an optimizer that began and never ended
            self.compare_weights()
        loss = torch.tensor([self._loss]) if isinstance(self._loss, float) else self._loss
        return [loss, self._norms, self._clipped, self._weights, self._moved, self._scale]


def row(cargo: Cargo, learning_rate: float, num_parameters: int) -> tuple[list[float], NDArray[np.float32]]:
    """What arrived as numbers in the order of `Scalar`, and a table [len(Series), parameters]; NaN: not measured."""
    losses, gradients, clipped, weights, moved, scale = cargo
    series = np.full((len(Series), num_parameters), np.nan, np.float32)
    if gradients is not None:
        series[0] = gradients
    if weights is not None:
        series[1] = weights
        with np.errstate(divide="ignore", invalid="ignore"):
            series[2] = math.nan if moved is None else moved / weights
    whole = total(gradients)
    scalars = {
        Scalar.LOSS: math.nan if losses is None else float(losses.sum(dtype=np.float64)),
        Scalar.LEARNING_RATE: learning_rate,
        Scalar.GRADIENT_NORM: whole,
        Scalar.CLIPPED_NORM: whole if clipped is None else total(clipped),
        Scalar.LOSS_SCALE: math.nan if scale is None else float(scale[0]),
    }
    return [scalars[name] for name in Scalar], series


def total(each: NDArray[np.float32] | None) -> float:
    """The norm of all together; parameters without a gradient (NaN) do not count.

    >>> total(np.array([3.0, np.nan, 4.0], np.float32))
    5.0
    """
    if each is None:
        return math.nan
    squares = np.square(each, dtype=np.float64)
    return math.sqrt(float(np.nansum(squares)))
