"""Is what a custom function hands back the derivative of what it computes?

For a cotangent v, the gradient g = J^T v that the backward returns, and any direction d,

    <g, d>  =  d/de <v, f(x + e d)>  at e = 0,        measured by the central difference, exact to O(e^2)

along g itself, which shows its sign, and along random directions, which show by how much it is off. A function is made
for its backward, and nothing can be held against that, where

    the forward is flat at an entry that gets a gradient, or its values are few    a straight-through estimator
    it returns a multiple of what it is given                                      a reversed, a clipped gradient
    the backward is not linear in v                                                a gradient that is altered on purpose

and the difference is no measure where that of half the step, or to the other side, is another one: at a kink (a ReLU
of zeros), or in a coarse number format.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import time
import warnings
from typing import TYPE_CHECKING, Any

import torch

from gradtrace.measure.untouched import random_state
from gradtrace.records.derivative import DerivativeStats
from gradtrace.tape.source import line_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor

    from gradtrace.tape.custom import Given

STEP = 1e-3
"""[of the operand's RMS] Central differences are off by its square; rounding of float32 by 6e-8 / 1e-3."""

NUM_DIRECTIONS, NUM_ENTRIES = 8, 8
"""Random directions, whose mean square is known to a third; entries that are moved alone."""

ALIKE = 0.1
"""[fraction] The two differences agree that far, or are no measure."""

MOST_NUMBERS, MOST_SECONDS = 2**18, 0.05
"""Of operands and results, and of one call: some fifty are made for each operand."""

NUM_TIMED = 3
"""[calls] The shortest counts: others may be at work beside."""


class Derivatives:
    """Of the custom functions that were met so far; each is looked at once."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[DerivativeStats, ...]] = {}

    def of(self, calls: Iterable[Given]) -> tuple[DerivativeStats, ...]:
        """Of the functions of these calls: one for each operand of which anything can be said."""
        found: tuple[DerivativeStats, ...] = ()
        for given in calls:
            if given.function not in self._known:
                self._known[given.function] = _looked_at(given)
            found += self._known[given.function]
        return found


def _looked_at(given: Given) -> tuple[DerivativeStats, ...]:
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    if not alone or not given.is_unchanged or sum(one.numel() for one in given.tensors.values()) > MOST_NUMBERS:
        return ()
    try:
        with _leaving_nothing() as again:
            return tuple(_verify(given, again))
    except Exception:  # it cannot be called on its own: nothing is said of it
        return ()


@contextlib.contextmanager
def _leaving_nothing() -> Iterator[Callable[[], None]]:
    """What it draws at random is as it was; yields what sets the random numbers back."""
    again = random_state()
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            yield again
    finally:
        again()


def _verify(given: Given, again: Callable[[], None]) -> Iterator[DerivativeStats]:
    function = _Call(given, again)
    values = function(given.arguments)
    if not values or sum(y.numel() for y in values) > MOST_NUMBERS:
        return
    if min(_seconds(function, given.arguments) for _ in range(NUM_TIMED)) > MOST_SECONDS:
        return
    cotangents = [torch.ones_like(y) if y.numel() == 1 else _noise(y, i) for i, y in enumerate(values)]
    gradients, turned = (function.gradients(cotangents, scale) for scale in (1.0, -2.0))
    for name, g in gradients.items():
        if not torch.allclose(turned[name], -2.0 * g) or not bool(torch.isfinite(g).all()):
            return
    if not _are_equal(values, function(given.arguments)) or any(map(_is_of_few, values)):
        return
    if any(_is_multiple(y, given.arguments[name]) for y in values for name in gradients):
        return
    moved = {name: _Moved(function, name, values, cotangents) for name in gradients}
    if any(moved[name].is_flat_where_passed(g) for name, g in gradients.items()):
        return
    for name, g in gradients.items():
        if (found := _compared(moved[name], g)) is not None:
            slope, cosine, off = found
            yield DerivativeStats(given.function.__name__, _line(given.function), name, slope, cosine, off)


def _seconds(function: _Call, arguments: dict[str, Any]) -> float:
    begun = time.perf_counter()
    function(arguments)
    return time.perf_counter() - begun


def _line(function: Any) -> str:
    return line_of(inspect.unwrap(function.backward).__code__)


class _Call:
    """The function, at other values of its operands."""

    def __init__(self, given: Given, again: Callable[[], None]) -> None:
        self._given, self._again = given, again

    def __call__(self, arguments: dict[str, Any]) -> list[Tensor]:
        """Its floating results; each call draws the same random numbers."""
        with torch.no_grad():
            return [y.detach() for y in self._results(arguments)]

    def gradients(self, cotangents: list[Tensor], scale: float) -> dict[str, Tensor]:
        """By operand: what the backward hands to it, those that are handed nothing left out."""
        arguments = self._given.arguments
        leaves = {n: x.clone().requires_grad_() for n, x in self._given.tensors.items() if _is_measured(x)}
        pairs = zip(self._results({**arguments, **leaves}), cotangents, strict=True)
        roots, given = zip(*[(y, scale * v) for y, v in pairs if y.requires_grad], strict=True)
        found: Sequence[Tensor | None] = torch.autograd.grad(roots, list(leaves.values()), given, allow_unused=True)
        return {n: g for n, g in zip(leaves, found, strict=True) if g is not None and bool(g.any())}

    def _results(self, arguments: dict[str, Any]) -> list[Tensor]:
        self._again()
        fresh = {n: x.clone() if isinstance(x, torch.Tensor) else x for n, x in arguments.items()}
        found = self._given.function.apply(*fresh.values())
        results = found if isinstance(found, tuple) else (found,)
        return [y for y in results if isinstance(y, torch.Tensor) and _is_measured(y)]


class _Moved:
    """How <v, f> changes where one operand moves."""

    def __init__(self, function: _Call, name: str, values: list[Tensor], cotangents: list[Tensor]) -> None:
        self._function, self._name, self._values, self._cotangents = function, name, values, cotangents
        self.x: Tensor = function._given.arguments[name]
        rms = float(self.x.double().square().mean().sqrt())
        self.step = STEP * (rms or 1.0)

    def slopes(self, direction: Tensor, fraction: float) -> tuple[float, float]:
        """To either side, by a difference of `fraction` of the step along a direction whose entries are of order 1."""
        up, down = (self._change(sign * fraction * self.step * direction) for sign in (1.0, -1.0))
        return up / (fraction * self.step), -down / (fraction * self.step)

    def _change(self, shift: Tensor) -> float:
        parts = zip(self._cotangents, self._at(shift), self._values, strict=True)
        return sum(float((v.double() * (a.double() - b.double())).sum()) for v, a, b in parts)

    def is_flat_where_passed(self, gradient: Tensor) -> bool:
        """Whether an entry that gets a gradient moves no result at all, although rounding would let it."""
        size = gradient.abs().flatten()
        draws = torch.Generator().manual_seed(0)
        passed = size.nonzero().flatten().cpu()
        chosen = passed[torch.randperm(len(passed), generator=draws)[:NUM_ENTRIES]].tolist()
        pairs = list(zip(self._cotangents, self._values, strict=True))
        rounding = sum(float((v.double() * y.double()).abs().sum()) * torch.finfo(y.dtype).eps for v, y in pairs)
        for entry in chosen:
            if float(size[entry]) * self.step <= rounding:
                continue
            one = torch.zeros_like(gradient).flatten()
            one[entry] = self.step
            if all(_are_equal(self._values, self._at(sign * one.view_as(gradient))) for sign in (1.0, -1.0)):
                return True
        return False

    def _at(self, shift: Tensor) -> list[Tensor]:
        return self._function({**self._function._given.arguments, self._name: self.x + shift})


def _compared(moved: _Moved, g: Tensor) -> tuple[float, float, float] | None:
    """Slope along g of what it says, cosine with the derivative, |g - derivative| / |derivative|; None: not known."""
    along = g / g.double().square().mean().sqrt().to(g.dtype)
    directions = [along, *(_noise(g, 1000 + i) for i in range(NUM_DIRECTIONS))]
    measured = torch.tensor([[moved.slopes(d, part) for d in directions] for part in (1.0, 0.5)], dtype=torch.float64)
    said = torch.tensor([float((g.double() * d.double()).sum()) for d in directions], dtype=torch.float64)
    whole, half = measured.mean(2)
    size = float(half[1:].square().mean().sqrt())
    if not bool(torch.isfinite(measured).all()) or size == 0.0:
        return None
    for apart in ((whole - half).abs(), (measured[1, :, 0] - measured[1, :, 1]).abs()):  # by the step; by the side
        if float(apart[1:].square().mean().sqrt()) > ALIKE * size:
            return None
        if float(apart[0]) > ALIKE * max(float(half[0].abs()), size):
            return None
    norm = float(g.double().square().sum().sqrt())
    slope = float(half[0] / said[0])
    across = float((half - slope * said)[1:].square().mean().sqrt())  # the derivative is slope g, and this
    whole_norm = math.hypot(slope * norm, across)
    return slope, slope * norm / whole_norm, math.hypot((1.0 - slope) * norm, across) / whole_norm


def _noise(like: Tensor, seed: int) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=draws, dtype=torch.float64).to(like.device, like.dtype)


def _is_measured(tensor: Tensor) -> bool:
    """Whether its format has the digits for a difference."""
    return tensor.dtype in (torch.float32, torch.float64) and tensor.numel() > 0


def _are_equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _is_of_few(values: Tensor) -> bool:
    """Whether it is rounded to few levels: the entries that are not zero have half as many values, or fewer."""
    found = values[values != 0]
    return found.numel() > 1 and 2 * len(torch.unique(found)) <= found.numel()


def _is_multiple(y: Tensor, x: Tensor) -> bool:
    """Whether y = c x for one number c, the shapes aside."""
    if y.numel() != x.numel() or y.device != x.device:
        return False
    a, b = y.double().flatten(), x.double().flatten()
    square = float(b.square().sum())
    factor = float((a * b).sum()) / square if square > 0.0 else 0.0
    return bool(torch.allclose(a, factor * b, rtol=1e-5, atol=1e-6 * float(b.abs().max())))
