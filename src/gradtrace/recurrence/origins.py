"""What does each turn of a loop take in from outside: something new (time), the same again, or nothing (depth)?

Every value of the forward pass is numbered in the order in which it is made, and knows what it was made of. What a turn
takes in is found by going back from its end to values that were there before the loop began. A slice of such a value
(`x[:, t]`) is told from another slice of it.
"""

from __future__ import annotations

import itertools
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any

from gradtrace.tape.dataflow import tensors_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

_SLICES = set("__getitem__ select narrow index_select take unbind split chunk gather".split())

Root = tuple[int, str]
"""Number of a value, and which slice of it; '' for the whole."""


class Origins:
    """The values of one forward pass."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._parents: list[tuple[int, ...]] = []
        self._slices: dict[int, str] = {}
        self._weights: set[int] = set()
        self._given: set[int] = set()

    def number(self, tensor: Tensor, parents: tuple[int, ...] | None = None) -> int:
        """The number of a value; a new one for a value that was not met before, or is made anew."""
        known = self._known.get(id(tensor))
        if parents is None and known is not None and known[0]() is tensor:
            return known[1]
        found = len(self._parents)
        self._parents.append(parents or ())
        self._known[id(tensor)] = (weakref.ref(tensor), found)
        if parents is None and tensor.dim():  # a lone number is no input
            self._given.add(found)
        return found

    def record(self, function: str, args: Any, result: Any, is_weight: Callable[[Tensor], bool]) -> None:
        """Note that `function` made `result` of `args`."""
        outputs = tensors_in(result)
        if not outputs:
            return
        operands = tensors_in(args)
        parents = tuple(self.number(operand) for operand in operands)
        self._weights.update(p for p, operand in zip(parents, operands, strict=True) if is_weight(operand))
        for place, output in enumerate(outputs):
            if any(output is operand for operand in operands):
                continue
            made = self.number(output, parents)
            if function in _SLICES and output.dim():
                self._slices[made] = f"{place} {_numbers(args)}"

    @property
    def count(self) -> int:
        """Values met so far."""
        return len(self._parents)

    def inputs(self, states: Sequence[int], began: int) -> str:
        """'varying', 'same' or 'none': what the turns between these states take in.

        `began` is how many values there were when the first turn began.

        >>> import torch
        >>> x, h, origins = torch.randn(4, 3), torch.zeros(3), Origins()
        >>> states, began = [origins.number(h)], origins.count
        >>> for t in range(4):
        ...     x_t = x[t]
        ...     origins.record("__getitem__", (x, t), x_t, lambda _: False)
        ...     h, before = h + x_t, h
        ...     origins.record("add", (before, x_t), h, lambda _: False)
        ...     states.append(origins.number(h))
        >>> origins.inputs(states, began)
        'varying'
        """
        turns = [self._roots(began, a, b) for a, b in itertools.pairwise(states)]
        counts = Counter(root for roots in turns for root in roots)
        common = {root for root, count in counts.items() if 2 * count > len(turns)}
        if 2 * sum(bool(roots - common) for roots in turns) > len(turns):
            return "varying"
        return "same" if common else "none"

    def _roots(self, began: int, before: int, after: int) -> set[Root]:
        """What the value `after` is made of, from before the loop (or given within it), not counting `before`."""
        found: set[Root] = set()
        todo, seen = [after], {before}
        while todo:
            value = todo.pop()
            if value in seen or value in self._weights:
                continue
            seen.add(value)
            if value < began or value in self._given:
                found.add((value, ""))
            elif value > before or value == after:
                piece = self._slices.get(value)
                for parent in self._parents[value]:
                    if piece is not None and (parent < began or parent in self._given):
                        found.add((parent, piece))
                    else:
                        todo.append(parent)
        return found


def _numbers(args: Any) -> str:
    """The arguments of an indexing function that are no tensors: which slice it is."""
    if isinstance(args, tuple | list):
        return "(" + " ".join(_numbers(arg) for arg in args) + ")"
    return "" if tensors_in(args) else repr(args)
