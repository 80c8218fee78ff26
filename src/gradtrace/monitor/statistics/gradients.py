"""The numbers of one step: of its backward passes, and of what its optimizers made of them.

A gradient is measured when the backward passes before an optimizer's step are over (as many as the last time), before
anyone clips it. One that has changed by the time the optimizer is called was clipped or unscaled: it is measured again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from gradtrace.monitor.statistics.norms import norms
from gradtrace.records.run import Scalar, Series

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from gradtrace.monitor.statistics.transfer import Cargo
    from gradtrace.monitor.statistics.updates import Updates
    from gradtrace.monitor.watched import Watched


class Passes:
    """The backward passes between two optimizer steps; tensors stay on their device, `scale` is a scaler's, or None."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self.loss: Tensor | float | None = None
        self.scale: Tensor | None = None
        self.norms: Tensor | None = None
        self._seen: dict[int, tuple[int, int]] = {}
        """What told the gradients apart from others when they were measured, by column."""
        self.num = 0
        self.is_taken = False
        """Whether an optimizer has stepped since: the next pass is one of others."""

    def add(self, roots: Sequence[Tensor], value: float | None, scale: Tensor | None) -> None:
        """A pass from `roots`, of `value` together if that may be known, which a scaler multiplied by `scale`."""
        self.num += 1
        if scale is not None:
            self.scale = scale.detach().float().reshape(1).clone()  # which the scaler will change
        if any(root.numel() != 1 for root in roots):
            return
        loss: Tensor | float
        if value is not None:
            loss = value if scale is None else value / float(scale)
        else:
            loss = (
                torch.stack([root.detach().float().reshape(()).to(roots[0].device) for root in roots]).sum().reshape(1)
            )
            loss = loss if scale is None else loss / scale.to(loss.device).reshape(1)
        self.loss = loss if self.loss is None else self.loss + loss

    def measure(self, scale: Tensor | None) -> Tensor:
        """Norms of all gradients as they are now."""
        gradients = [parameter.grad for parameter in self._watched.parameters]
        self.norms = found = _unscaled(norms(gradients), scale)
        self._seen = {i: (id(g), g._version) for i, g in enumerate(gradients) if g is not None}
        return found

    def measure_again(self, columns: Sequence[int], scale: Tensor | None) -> Tensor | None:
        """Norms of the gradients of `columns`, if any is another than it was; NaN for the other columns."""
        gradients = {i: self._watched.parameters[i].grad for i in columns}
        if all(g is None or self._seen.get(i) == (id(g), g._version) for i, g in gradients.items()):
            return None
        return _unscaled(norms([gradients.get(i) for i in range(len(self._watched.parameters))]), scale)


def _unscaled(found: Tensor, scale: Tensor | None) -> Tensor:
    return found if scale is None else found / scale.to(found.device)


class Tally:
    """A row of the run in the making."""

    def __init__(self, watched: Watched, updates: Updates) -> None:
        self._watched, self._updates = watched, updates
        self._loss: Tensor | float | None = None
        self._norms: Tensor | None = None
        self._clipped: Tensor | None = None
        self._weights: Tensor | None = None
        self._moved: Tensor | None = None
        self._scale: Tensor | None = None

    @property
    def has_loss(self) -> bool:
        """Whether backward was called on a single number."""
        return self._loss is not None

    @property
    def is_measured(self) -> bool:
        """Whether any gradient's norm is known."""
        return self._norms is not None

    def take(self, passes: Passes, columns: Sequence[int] | None = None, *, measured: bool = True) -> None:
        """What `passes` brought to the parameters of `columns` (None: to all); their loss counts once."""
        if not passes.is_taken:
            passes.is_taken = True
            self._scale = passes.scale if passes.scale is not None else self._scale
            if passes.loss is not None:
                self._loss = passes.loss if self._loss is None else self._loss + passes.loss
        if measured and passes.norms is not None:
            self._norms = self._merged(self._norms, passes.norms, columns)

    def take_norms(self, found: Tensor, columns: Sequence[int]) -> None:
        """Those of gradients that nobody measured before an optimizer was called."""
        self._norms = self._merged(self._norms, found, columns)

    def clip(self, found: Tensor, columns: Sequence[int]) -> None:
        """The norms of `columns` as their optimizer is given them."""
        self._clipped = self._merged(self._clipped, found, columns)

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
        loss = self._loss
        vector = torch.tensor([loss], dtype=torch.float32, device="cpu") if isinstance(loss, float) else loss
        clipped = self._clipped
        if clipped is not None and self._norms is not None:
            clipped = torch.where(torch.isnan(clipped), self._norms, clipped)
        return [vector, self._norms, clipped, self._weights, self._moved, self._scale]

    def _merged(self, known: Tensor | None, found: Tensor, columns: Sequence[int] | None) -> Tensor:
        num = len(self._watched.parameters)
        if columns is None or len(columns) == num:
            return found if known is None else torch.where(torch.isnan(found), known, found)
        merged = (
            torch.full((num,), math.nan, dtype=found.dtype, device=found.device) if known is None else known.clone()
        )
        places = torch.tensor(columns, device=found.device)
        merged[places] = found[places]
        return merged


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
