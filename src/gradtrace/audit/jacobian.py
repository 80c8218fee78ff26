"""What are the singular values of the Jacobian J = df/dx at one input? Exactly when it is small, else a few numbers.

    mean squared singular value    E|J^T v|^2 / min(m, n),  v Rademacher: an unbiased estimate with a standard error
    largest                        power iteration on J J^T
    smallest                       power iteration on s^2 I - J J^T, where J J^T (or J^T J) has full rank
    condition                      largest / smallest

Of a square network the mean squared singular value is what E[g^2] grows by, from output to input.
J w is taken as the derivative of J^T v with respect to v (double vjp), so any op with a backward works.

Source: Hutchinson, A stochastic estimator of the trace (1990); Pennington et al., Resurrecting the sigmoid (2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from gradtrace.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

EXACT_ENTRIES = 1 << 22
"""Jacobians with at most so many entries are computed whole."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Singular values of a Jacobian, or what is known of them."""

    shape: tuple[int, int]
    """(outputs, inputs)."""
    mean_square: float
    """Mean of the squares of its min(outputs, inputs) singular values."""
    standard_error: float
    """Of `mean_square`; 0 when exact."""
    largest: float
    smallest: float
    """NaN where it was not asked for."""
    singular_values: tuple[float, ...] = ()
    """All of them, largest first, when exact."""

    @property
    def condition(self) -> float:
        """The largest over the smallest."""
        return (
            self.largest / self.smallest if self.smallest > 0 else (math.nan if math.isnan(self.smallest) else math.inf)
        )


def jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The whole matrix [outputs, inputs] at `x` (any shape, flattened), by one batched vjp.

    >>> W = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
    >>> jacobian(lambda x: W @ x, torch.ones(2))
    tensor([[1., 2.],
            [0., 3.]])
    """
    x, y = _run(function, x)
    basis = torch.eye(y.numel(), dtype=y.dtype, device=y.device).reshape(y.numel(), *y.shape)
    (rows,) = torch.autograd.grad(y, x, basis, is_grads_batched=True)
    return rows.reshape(y.numel(), x.numel())


def spectrum(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    num_probes: int = 32,
    num_steps: int = 50,
    smallest: bool = False,
    exact: bool | None = None,
    generator: torch.Generator | None = None,
) -> Spectrum:
    """Singular values of the Jacobian of `function` at `x`: a network at one sample, or any block of one.

    Args:
        function: from a tensor to a tensor; deterministic.
        x: where; any shape.
        num_probes: Rademacher probes for the mean square, when it is estimated.
        num_steps: of the power iterations.
        smallest: estimate the smallest one too (slow to converge where the values lie close).
        exact: compute the whole matrix; by default when it has at most 2^22 entries.
        generator: of the probes.

    >>> spectrum(lambda x: torch.tanh(x) * 2, torch.zeros(3)).singular_values
    (2.0, 2.0, 2.0)
    """
    at, y = _run(function, x)
    shape = (y.numel(), at.numel())
    if exact if exact is not None else shape[0] * shape[1] <= EXACT_ENTRIES:
        values = torch.linalg.svdvals(jacobian(function, x).double()).tolist()
        mean_square = sum(value**2 for value in values) / len(values)
        return Spectrum(shape, mean_square, 0.0, values[0], values[-1], tuple(values))
    products = _Products(at, y)
    squares = torch.stack(
        [products.transposed(_rademacher(y, generator)).double().square().sum() for _ in range(num_probes)]
    )
    rank = min(shape)
    error = float(squares.std() / math.sqrt(num_probes)) / rank if num_probes > 1 else math.nan
    top = products.largest(num_steps, generator)
    low = products.smallest(top, num_steps, generator) if smallest else math.nan
    return Spectrum(shape, float(squares.mean()) / rank, error, top, low)


def _run(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        y = function(x)
    if not y.requires_grad:
        raise InputError("the function's output must be a tensor that depends on its input")
    return x, y


def _rademacher(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randint(0, 2, like.shape, generator=generator).to(like) * 2 - 1


class _Products:
    """Products with J and its transpose."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self._x, self._y = x, y
        self._v = torch.zeros_like(y, requires_grad=True)
        (self._pulled,) = torch.autograd.grad(y, x, self._v, create_graph=True)

    def transposed(self, v: Tensor) -> Tensor:
        """J^T v."""
        return torch.autograd.grad(self._y, self._x, v, retain_graph=True)[0]

    def forward(self, w: Tensor) -> Tensor:
        """J w."""
        return torch.autograd.grad(self._pulled, self._v, w, retain_graph=True)[0]

    def gram(self, v: Tensor) -> Tensor:
        """J J^T v, or J^T J v where that is the smaller matrix."""
        return self.forward(self.transposed(v)) if self._wide else self.transposed(self.forward(v))

    @property
    def _wide(self) -> bool:
        return self._y.numel() <= self._x.numel()

    def _start(self, generator: torch.Generator | None) -> Tensor:
        like = self._y if self._wide else self._x
        v: Tensor = torch.randn(like.shape, generator=generator).to(like)
        return v.div_(torch.linalg.vector_norm(v))

    def largest(self, num_steps: int, generator: torch.Generator | None) -> float:
        """The largest singular value, from below."""
        v, value = self._start(generator), 0.0
        for _ in range(num_steps):
            v = self.gram(v)
            value = float(v.norm())
            if value == 0:
                return 0.0
            v = v / value
        return math.sqrt(value)

    def smallest(self, top: float, num_steps: int, generator: torch.Generator | None) -> float:
        """The smallest one, from above."""
        v, shift = self._start(generator), top**2 * 1.01
        for _ in range(num_steps):
            v = shift * v - self.gram(v)
            v = v / v.norm()
        return math.sqrt(max(float((v * self.gram(v)).sum()), 0.0))
