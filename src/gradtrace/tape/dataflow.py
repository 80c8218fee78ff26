"""Which values is the loss computed from, whether the tape knows it or not?

Autograd forgets a dependency at ``detach``, ``.data``, ``no_grad``, ``argmax`` or a round trip through NumPy. The
numbers still flow. A parameter that the loss depends on by value but not by gradient is cut off; one that the loss does
not depend on at all (a head unused in this batch, an expert that got no token) is merely idle.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradtrace.tape.private import base_of

if TYPE_CHECKING:
    from collections.abc import Iterable

_ESCAPES = {"item", "tolist", "numpy", "__array__", "__float__", "__int__", "__bool__"}
WRITES = {"__setitem__", "copy_"}
"""What they make is their first operand."""
_SHAPES = {
    *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like"),
    *("new_zeros", "new_ones", "new_empty", "new_full"),
}
"""What they make has the shape of their first operand and none of its numbers."""
_ENTRANCES = {"tensor", "as_tensor", "from_numpy", "asarray", "FloatTensor"}


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists, dicts and attribute objects, in order; of what holds itself, once."""
    if isinstance(value, Tensor):
        return [value]
    found: list[Tensor] = []
    seen: dict[int, Any] = {}
    for item in value if type(value) is tuple else (value,):  # the operands of nearly every function
        if isinstance(item, Tensor):
            found.append(item)
        elif type(item) not in _PLAIN:
            _gather(item, found, seen)
    return found


_PLAIN = {int, float, bool, str, type(None), torch.Size}


def _gather(value: Any, found: list[Tensor], seen: dict[int, Any]) -> None:
    if isinstance(value, Tensor):
        found.append(value)
        return
    if isinstance(value, dict):
        items: Iterable[Any] = value.values()
    elif isinstance(value, tuple | list):
        items = value
    else:
        fields = getattr(value, "__dataclass_fields__", None)
        if fields is None or isinstance(value, type):
            return
        items = (getattr(value, name, None) for name in fields)
    if id(value) in seen:
        return
    seen[id(value)] = value
    for item in items:
        _gather(item, found, seen)


def floats_in(value: Any) -> list[float]:
    """All Python floats in nested tuples and lists, in order."""
    if isinstance(value, float):
        return [value]
    return [number for item in value for number in floats_in(item)] if isinstance(value, tuple | list) else []


class Dataflow:
    """A graph over values, built call by call: value -> the values it was computed from."""

    def __init__(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        self._parents: list[tuple[int, ...]] = []
        self._index: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._severed: dict[int, str] = {}
        self._escaped: list[tuple[int, int]] = []  # (value, numel) that left for Python and may come back
        self._left: dict[int, str] = {}  # value that left for Python -> where
        self.numbers: dict[float, int] = {}  # single numbers that left, by their value
        self._parameters = {name: self._add(parameter, ()) for name, parameter in parameters}

    def _add(self, tensor: Tensor, parents: tuple[int, ...]) -> int:
        index = len(self._parents)
        self._parents.append(parents)
        self._index[id(tensor)] = (weakref.ref(tensor), index)
        return index

    def stands_for(self, name: str, tensor: Tensor) -> None:
        """`tensor` has the numbers of the parameter `name`."""
        self._index[id(tensor)] = (weakref.ref(tensor), self._parameters[name])

    def _find(self, tensor: Tensor) -> int | None:
        known = self._index.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else None

    def _reenter(self, tensor: Tensor, function: str, where: str) -> int | None:
        """A tensor of unknown origin that is as long as values which left for NumPy: they came back."""
        if not self._escaped or tensor.requires_grad:
            return None
        parents = tuple(index for index, numel in self._escaped if numel == tensor.numel() > 1)
        if not parents:
            return None
        index = self._add(tensor, parents)
        self._severed[index] = f"a round trip through NumPy or Python, back at {function} ({where})"
        return index

    def record(
        self, function: str, inputs: list[Tensor], result: Any, where: str, numbers: Iterable[float] = ()
    ) -> tuple[int, ...]:
        """Note that `function` made `result` from `inputs` and `numbers` at `where`; returns the new values."""
        made = []
        inputs = inputs[1:] if function in _SHAPES else inputs
        parents = tuple(index for tensor in inputs if (index := self._find(tensor)) is not None or
                        (index := self._reenter(tensor, function, where)) is not None)  # fmt: skip
        if function in _ESCAPES and parents:
            self._escaped.append((parents[0], inputs[0].numel()))
            self._left.setdefault(parents[0], f"{function} ({where})" if where else function)
            if isinstance(result, float) and result not in (0.0, 1.0):
                self.numbers[result] = parents[0]
        came_back = tuple(self.numbers[number] for number in numbers if number in self.numbers)
        outputs = tensors_in(result)
        if function in WRITES and inputs:
            outputs = inputs[:1]
        for output in outputs:
            on_tape = any(tensor.requires_grad for tensor in inputs)
            if came_back:
                parents += came_back
                self._severed[len(self._parents)] = f"a number taken out by .item() and put back ({where})"
            if function in _ENTRANCES:
                parents += tuple(index for index, numel in self._escaped if numel == output.numel() > 1)
                on_tape = bool(parents)
            index = self._add(output, parents)
            made.append(index)
            base = base_of(output)
            if (
                base is not None
                and any(output is tensor for tensor in inputs)
                and (old := self._find(base)) is not None
            ):
                made.append(self._add(base, (old, index)))  # written to through a view
            if on_tape and not output.requires_grad:
                self._severed[index] = f"{function} ({where})" if where else function

        return tuple(made)

    def ancestors(self, loss: Tensor) -> dict[int, tuple[int, ...]]:
        """Every value that `loss` is computed from, with its parents."""
        start = self._find(loss)
        found: dict[int, tuple[int, ...]] = {}
        stack = [] if start is None else [start]
        while stack:
            index = stack.pop()
            if index not in found:
                found[index] = self._parents[index]
                stack.extend(self._parents[index])
        return found

    def reach(self, loss: Tensor) -> tuple[set[str], tuple[str, ...]]:
        """Names of the parameters that `loss` is computed from, and where values went on without the tape."""
        seen = self.ancestors(loss)
        names = {name for name, index in self._parameters.items() if index in seen}
        texts = [text for index, text in self._severed.items() if index in seen]
        for value, text in self._left.items():
            lost = self._only_escaped(value, seen)
            names |= lost
            texts += [text] if lost else []
        return names, tuple(dict.fromkeys(texts))

    def _only_escaped(self, value: int, seen: dict[int, tuple[int, ...]]) -> set[str]:
        """Parameters that `value`, which left for Python, was computed from alone: nothing else of them is used.

        Python's numbers cannot be followed, but a parameter is read out for the sake of what is computed from it.
        """
        if value in seen:
            return set()
        stack, found = [value], set[int]()
        while stack:
            index = stack.pop()
            if index not in found:
                found.add(index)
                stack.extend(self._parents[index])
        sources = {index for index in found if not self._parents[index]}
        parameters = {index: name for name, index in self._parameters.items()}
        if not sources or not sources <= parameters.keys() or sources & seen.keys():
            return set()
        return {parameters[index] for index in sources}
