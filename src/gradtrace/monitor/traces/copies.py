"""Which units of a training are copies of one another? Looked for where a weight is first traced, once.

The first two rows of most weights differ, and of the rest those of most gradients do, of heads and branches that start
at zero: all weights' are compared together. Whatever is left has a finding to its name, and is looked at again at each
trace: rounding may part it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gradtrace.measure.copies import (
    MOST_ROUNDING,
    Arrangement,
    are_equal_but_for,
    arrangements,
    get_the_same,
    has_units,
)


class Copies:
    """Of one run. Nothing is written to, and no random number drawn."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._found: dict[str, tuple[Tensor, Arrangement]] = {}

    def look(self, named: Iterable[tuple[str, Tensor]]) -> tuple[str, ...]:
        """Weights whose units are copies now, of those that have a gradient; between a backward pass and its step.

        >>> weight = torch.full((3, 2), 0.1, requires_grad=True)
        >>> (torch.ones(4, 2) @ weight.T).sum().backward()
        >>> Copies().look([("weight", weight)])
        ('weight',)
        """
        with torch.no_grad():
            new = [
                (name, p) for name, p in named if id(p) not in self._known and type(p.grad) is Tensor and has_units(p)
            ]
            self._known.update(id(parameter) for _, parameter in new)
            self._found = {
                name: (p, one)
                for name, (p, one) in self._found.items()
                if are_equal_but_for(p.detach(), MOST_ROUNDING, one)
            }
            for name, parameter in _with_equal_starts(new):
                found = _copied_by(parameter)
                if found:
                    self._found[name] = parameter, found[0]
            return tuple(name for name, (p, one) in self._found.items() if p.grad is not None and _moves(p.grad, one))


def _with_equal_starts(named: list[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """Those whose first row is like the second: one transfer a device, and two rows of each are read."""
    equal: list[tuple[str, Tensor]] = []
    for device in dict.fromkeys(parameter.device for _, parameter in named):
        here = [(name, parameter) for name, parameter in named if parameter.device == device]
        flags = torch.stack([(p.detach()[0] == p.detach()[1]).all() for _, p in here]).tolist()
        equal += [each for each, flag in zip(here, flags, strict=True) if flag]
    return equal


def _copied_by(parameter: Tensor) -> list[Arrangement]:
    gradient = parameter.grad
    if gradient is None or gradient.layout is not torch.strided:  # a sparse one brings rows that were looked up alone
        return []
    if not get_the_same(gradient[:2]):
        return []
    return [one for one in arrangements(parameter) if get_the_same(gradient, one)]


def _moves(gradient: Tensor, arrangement: Arrangement) -> bool:
    """All get the same gradient, and not nothing, which a step may change."""
    return bool(gradient.any()) and get_the_same(gradient, arrangement)
