"""Which units of a training are copies of one another? Looked for where a weight is first traced, once.

The rows of most weights differ between the first and the last, and of the rest most gradients do, of heads and branches
that start at zero: both are told by two rows, all weights' together. Whatever is left has a finding to its name, and is
looked at again at each trace: rounding may part it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gradtrace.measure.copies import (
    MOST_ROUNDING,
    are_equal_but_for,
    are_equal_but_for_rounding,
    has_equal_rows,
    has_units,
)


class Copies:
    """Of one run. Nothing is written to, and no random number drawn."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._found: dict[str, Tensor] = {}

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
            still = {name: p for name, p in self._found.items() if are_equal_but_for(p.detach(), MOST_ROUNDING)}
            self._found = still | {name: p for name, p in _with_equal_ends(new) if _is_one_unit(p)}
            return tuple(name for name, p in self._found.items() if p.grad is not None and _gets_the_same(p.grad))


def _with_equal_ends(named: list[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """Those whose first row is like the last: one transfer a device, and two rows of each are read."""
    equal: list[tuple[str, Tensor]] = []
    for device in dict.fromkeys(parameter.device for _, parameter in named):
        here = [(name, parameter) for name, parameter in named if parameter.device == device]
        flags = torch.stack([(p.detach()[0] == p.detach()[-1]).all() for _, p in here]).tolist()
        equal += [each for each, flag in zip(here, flags, strict=True) if flag]
    return equal


def _is_one_unit(parameter: Tensor) -> bool:
    gradient = parameter.grad
    if gradient is None or not are_equal_but_for_rounding(gradient[:: max(1, len(gradient) - 1)]):
        return False
    return has_equal_rows(parameter) and are_equal_but_for_rounding(gradient)


def _gets_the_same(gradient: Tensor) -> bool:
    """And not nothing, which a step may change."""
    return bool(gradient.any()) and are_equal_but_for_rounding(gradient)
