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
from gradtrace.monitor.statistics.transfer import sent
from gradtrace.records.run import Scalar, Series
from gradtrace.tape.private import version_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from gradtrace.monitor.statistics.transfer import Arrived
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
        self._before: tuple[int, Tensor | float | None] = 0, None
        self.is_taken = False
        self.is_bad = False
        """Whether anything of them is known not to be finite."""
        """Whether an optimizer has stepped since: the next pass is one of others."""

    def add(self, roots: Sequence[Tensor], value: float | None, scale: Tensor | None) -> None:
        """A pass from `roots`, of `value` together if that may be known, which a scaler multiplied by `scale`."""
        self._before = self.num, self.loss
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

    def take_back(self) -> None:
        """The pass that was added last has failed."""
        self.num, self.loss = self._before

    def measure(self, scale: Tensor | None) -> Tensor:
        """Norms of all gradients as they are now."""
        gradients = [parameter.grad for parameter in self._watched.parameters]
        self.norms = found = _unscaled(norms(gradients), scale)
        self._seen = {i: (id(g), version_of(g)) for i, g in enumerate(gradients) if g is not None}
        return found

    def measure_part(self, columns: Sequence[int], scale: Tensor | None) -> None:
        """Once more those of `columns`, which are not clipped and yet others than they were."""
        if self.norms is not None:
            gradients = {i: self._watched.parameters[i].grad for i in columns}
            found = _unscaled(norms([gradients.get(i) for i in range(len(self.norms))]), scale)
            self.norms = torch.where(torch.isnan(found), self.norms.to(found.device), found)
            self._seen |= {i: (id(g), version_of(g)) for i, g in gradients.items() if g is not None}

    def divide_loss(self, by: float) -> None:
        """It was the sum of so many."""
        self.loss = None if self.loss is None else self.loss / by

    def measure_again(self, columns: Sequence[int], scale: Tensor | None) -> Tensor | None:
        """Norms of the gradients of `columns`, if any is another than it was; NaN for the other columns."""
        gradients = {i: self._watched.parameters[i].grad for i in columns}
        if all(g is None or self._seen.get(i) == (id(g), version_of(g)) for i, g in gradients.items()):
            return None
        return _unscaled(norms([gradients.get(i) for i in range(len(self._watched.parameters))]), scale)


def _unscaled(found: Tensor, scale: Tensor | None) -> Tensor:
    return found if scale is None else found / scale.to(found.device)


class Numbers:
    """Those of one block of a row in the making: backward passes, and the optimizer steps that follow them."""

    def __init__(self, watched: Watched, updates: Updates) -> None:
        self._watched, self._updates = watched, updates
        self._loss: Tensor | float | None = None
        self._norms: Tensor | None = None
        self._clipped: Tensor | None = None
        self._weights: Tensor | None = None
        self._moved: Tensor | None = None
        self._scale: Tensor | None = None
        self.learning_rate = math.nan
        self.is_bad = self.is_partial = False
        """Whether anything is not finite; whether a pass was not seen, whose loss belongs to the row's."""
        self.sums: Tensor | None = None
        """Of the bits of weights and buffers, before the optimizer's step, where other ranks should have the same."""
        self.entries: Tensor | None = None
        """Of gradients, as the optimizer sees them, where several ranks ask for them."""
        self.local: Tensor | None = None
        """Norms of this rank's own gradient, all of it and then some parameters', where it was averaged with other
        ranks' within the backward pass."""

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
            self.is_bad |= passes.is_bad
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
        self._weights, self._moved = self._updates.before(), None

    def compare_weights(self) -> None:
        """After it: by how much did it move them?"""
        self._moved = self._updates.after()

    @property
    def holds_weights(self) -> bool:
        """Whether copies of them wait for an optimizer."""
        return self._weights is not None and self._moved is None and self._updates.is_holding

    def absorb(self, other: Numbers) -> None:
        """The numbers of another block of the same row."""
        self.is_bad |= other.is_bad
        self.is_partial |= other.is_partial
        if other._loss is not None:
            self._loss = other._loss if self._loss is None else self._loss + other._loss
        for name in ("_norms", "_clipped"):
            known, found = getattr(self, name), getattr(other, name)
            setattr(self, name, known if found is None else self._merged(known, found, None))
        if other._weights is not None:
            self._weights, self._moved = other._weights, other._moved
        self._scale = self._scale if other._scale is None else other._scale
        self.sums = self.sums if other.sums is None else other.sums
        self.local = self.local if other.local is None else other.local
        self.entries = self.entries if other.entries is None else other.entries

    def vectors(self) -> list[Tensor | float | None]:
        """What `row` takes: loss, gradients, clipped gradients, weights, updates, scale; None: not known.

        And, behind them, what other ranks are asked about.
        """
        clipped = self._clipped
        if clipped is not None and self._norms is not None:
            clipped = self._merged(self._norms, clipped, None)
        asked = [self.sums, self.local, self.entries]
        loss = None if self.is_partial else self._loss
        return [loss, self._norms, clipped, self._weights, self._moved, self._scale, *asked]

    def _merged(self, known: Tensor | None, found: Tensor, columns: Sequence[int] | None) -> Tensor:
        num = len(self._watched.parameters)
        if len(found) < num:  # a parameter has joined since
            found = torch.nn.functional.pad(found, (0, num - len(found)), value=math.nan)
        if known is not None and len(known) < num:
            known = torch.nn.functional.pad(known, (0, num - len(known)), value=math.nan)
        if columns is None or len(columns) == num:
            return found if known is None else torch.where(torch.isnan(found), known, found)
        merged = (
            torch.full((num,), math.nan, dtype=found.dtype, device=found.device) if known is None else known.clone()
        )
        places = sent(list(columns), found.device)
        merged[places] = found[places]
        return merged


def row(arrived: Arrived, learning_rate: float, num_parameters: int) -> tuple[list[float | None], NDArray[np.float32]]:
    """What arrived as numbers in the order of `Scalar` (None: not known), and a table [len(Series), parameters].

    In the table NaN says that a number is not known; where none is, it has no column.
    """
    loss, scale = arrived[0], arrived[5]
    gradients, clipped, weights, moved = (v if isinstance(v, np.ndarray) else None for v in arrived[1:5])
    known = gradients is not None or weights is not None
    series = np.full((len(Series), num_parameters if known else 0), np.nan, np.float32)
    if gradients is not None:
        series[0, : len(gradients)] = gradients
    if weights is not None:
        series[1, : len(weights)] = weights
        if moved is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                series[2, : len(weights)] = moved[: len(weights)] / weights
    whole = total(gradients)
    scalars: dict[Scalar, float | None] = {
        Scalar.LOSS: loss if loss is None or isinstance(loss, float) else float(loss.sum(dtype=np.float64)),
        Scalar.LEARNING_RATE: None if math.isnan(learning_rate) else learning_rate,
        Scalar.GRADIENT_NORM: whole,
        Scalar.CLIPPED_NORM: whole if clipped is None else total(clipped),
        Scalar.LOSS_SCALE: float(scale[0]) if isinstance(scale, np.ndarray) else None,
    }
    return [scalars[name] for name in Scalar], series


def total(each: NDArray[np.float32] | None) -> float | None:
    """The norm of all together; parameters without a gradient (NaN) do not count. None: no norm is known.

    >>> total(np.array([3.0, np.nan, 4.0], np.float32)), total(np.array([np.nan], np.float32))
    (5.0, None)
    """
    if each is None or np.isnan(each).all():
        return None
    squares = np.square(each, dtype=np.float64)
    return math.sqrt(float(np.nansum(squares)))
