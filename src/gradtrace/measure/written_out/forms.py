"""What can be known of a value on its way from the output to the loss?"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradtrace.measure.written_out.weighted import Terms

if TYPE_CHECKING:
    from gradtrace.measure.seen import Seen

Scale = float | Tensor


@dataclass(frozen=True, slots=True)
class Difference:
    """scale factor (o - t)."""

    target: Tensor
    output: torch.Size
    bounds: tuple[float, float]
    scale: Scale = 1.0
    factor: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Logs:
    """scale log p, of probabilities perhaps; `axis`: along it they surely add up to one."""

    axis: int | None = None
    scale: Scale = 1.0


@dataclass(frozen=True, slots=True)
class Product:
    """g z of a value z, which lives elsewhere, and of a number g that is given for each element."""

    given: Tensor
    value: weakref.ref[Tensor]


@dataclass(frozen=True, slots=True)
class SumOfExp:
    """log sum exp: subtracted from its operand, it leaves logarithms of probabilities."""


@dataclass(frozen=True, slots=True)
class Picked:
    """Of each row of probabilities, `rows`, that of its label."""

    labels: Tensor
    rows: Tensor
    axis: int
    in_order: Tensor | None


@dataclass(frozen=True, slots=True)
class Written:
    """scale weight e of each element, or sums of it."""

    function: str
    """The loss function that it is equal to, but for the reduction."""
    terms: Callable[[Tensor | None], Terms | None]
    """What it is held against, given the weights."""
    shape: tuple[int, ...]
    """Of the elements: 1 along axes that were summed."""
    axes: tuple[int, ...] | None
    """Which of them each axis is now; None: that is no longer known."""
    scale: Scale = 1.0
    weight: Tensor | None = None
    pair: tuple[Tensor, Tensor] | None = None
    """(y, log p) where it is y log p, neither weighed nor summed."""
    total: Tensor | None = None
    """Its sum, once other terms came to it, over its scale."""
    in_order: bool = True
    """Whether what there is now are the elements one by one, and none left out."""
    origin: list[Seen] = field(default_factory=list)
    """The call that made the elements."""
    holders: list[Seen] = field(default_factory=list)
    """The call that it is kept with, once it is one number: shared by all that comes of that."""

    def judged(self, result: Tensor) -> tuple[Tensor, Tensor] | None:
        """On the device: what `objective.reach` says, [4], and the mean error."""
        found = self.terms(self.weight)
        if found is None:
            return None
        total = self.total if self.total is not None else result.detach().float().sum() / self.scale
        valid = found.valid & (self.scale > 0.0)
        return torch.where(valid, found.held_against, 0.0), total / found.total_weight


@dataclass(frozen=True, slots=True)
class Mixed:
    """A sum of known terms, and others perhaps."""

    parts: tuple[Written, ...]


Form = Difference | Logs | Product | SumOfExp | Picked | Written | Mixed

Forms = list[Form | None]


def is_given(value: Any) -> bool:
    """Whether it is a number, or a tensor that nothing is learnt by."""
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and not value.requires_grad)


def new(function: str, terms: Callable[[Tensor | None], Terms | None], shape: torch.Size, scale: Scale) -> Written:
    """Elements as they are made."""
    return Written(function, terms, tuple(shape), tuple(range(len(shape))), scale)
