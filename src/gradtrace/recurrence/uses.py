"""Which weight is applied to what, and when? Every application of a parameter in a forward pass, in order.

A weight is a parameter, a buffer (a reservoir's fixed matrix), or what is computed from these alone: ``W * mask``, a
weight-normalised matrix, the rotation made of a skew-symmetric one.
"""

from __future__ import annotations

import sys
import weakref
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradtrace.recurrence.origins import Origins
from gradtrace.tape.callers import call_from
from gradtrace.tape.private import base_of, node_sequence_nr
from gradtrace.tape.unroll import Unrolled

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from torch.autograd.graph import Node

_LINEAR: dict[str, tuple[tuple[int, int], ...]] = {  # name -> places of (data, weight), the likelier first
    "linear": ((0, 1),),
    "matmul": ((0, 1), (1, 0)),
    "__matmul__": ((0, 1), (1, 0)),
    "__rmatmul__": ((0, 1), (1, 0)),
    "mm": ((0, 1), (1, 0)),
    "bmm": ((0, 1), (1, 0)),
    "mv": ((1, 0),),
    "addmm": ((1, 2), (2, 1)),
    "einsum": ((1, 2), (2, 1)),
    "conv1d": ((0, 1),),
    "conv2d": ((0, 1),),
    "conv3d": ((0, 1),),
    "mul": ((0, 1), (1, 0)),
    "__mul__": ((0, 1), (1, 0)),
    "__rmul__": ((0, 1), (1, 0)),
}
_ELEMENTWISE = {"mul", "__mul__", "__rmul__"}


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """One application of a weight."""

    x: Tensor | None
    """What it was applied to; None in a training, whose backward pass may let go of it."""
    fed: Tensor | None
    """The same as this weight alone meets it, where that is a tensor of its own."""
    made: tuple[Any, int] | None
    """What `x` came out of: the op (in a training its number, until the tape is walked), and which of its outputs."""
    y: tuple[Any, int]
    """What came out: the op that made it (likewise), and which of its outputs; an in-place function may follow."""
    order: int
    """Place among all uses of the forward pass."""
    value: int
    """Number of `x` among the values of the forward pass."""
    began: int
    """How many values there were before it."""


class Uses:
    """The applications of a model's weights, told by who sees its torch functions.

    With ``holds=False`` neither tensors nor ops are held, which would hold all that the ops have saved.
    """

    def __init__(self, model: nn.Module, *, holds: bool = True) -> None:
        named = [*model.named_buffers(), *model.named_parameters()]
        self._names = {id(tensor): (name, weakref.ref(tensor)) for name, tensor in named}
        self._holds = holds
        self._order = 0
        self.origins = Origins()
        self.found: dict[str, list[Use]] = defaultdict(list)

    def place(self, function: str, args: Any) -> tuple[int, str] | None:
        """Where the data stands, and the weight's name, where a weight is applied to data that carries gradient."""
        for place, other in _LINEAR.get(function, ()):
            if max(place, other) >= len(args) or not torch.is_grad_enabled():
                continue
            data, weight = args[place], args[other]
            name = self._name_of(weight)
            if not (name and _is_plain(data) and data.requires_grad):
                continue
            if function in _ELEMENTWISE:  # where any tensor may stand: a weight times a weight is a weight
                if not self._name_of(data) and data.dim() >= weight.dim():
                    return place, name
            elif weight.dim() > 1:
                return place, name
        return None

    def made(
        self,
        function: str,
        args: Any,
        kwargs: Any,
        result: Any,
        place: tuple[int, str] | None,
        fed: Tensor | None = None,
    ) -> None:
        """`function` made `result`; `fed` is the data as the weight alone meets it, if that is a tensor of its own."""
        if place is not None:
            self._note(place[1], args[place[0]], fed, result)
        elif function not in _LINEAR or function in _ELEMENTWISE:
            self._derive(args, result)
        self.origins.record(function, (args, tuple((kwargs or {}).values())), result, lambda x: bool(self._name_of(x)))

    def _note(self, name: str, x: Tensor, fed: Tensor | None, y: Any) -> None:
        if isinstance(y, Tensor) and y.grad_fn is not None:
            value, began = self.origins.number(x), self.origins.count
            made = (self._op(x.grad_fn), x.output_nr) if x.grad_fn is not None else None
            held, result = x if self._holds else None, (self._op(y.grad_fn), y.output_nr)
            self.found[name].append(Use(held, fed, made, result, self._order, value, began))
            self._order += 1

    def _op(self, node: Node) -> Any:
        return node if self._holds else node_sequence_nr(node)

    def _derive(self, args: Any, result: Any) -> None:
        """What is computed from weights alone is a weight, under the name of its first parameter."""
        if not args or not isinstance(result, Tensor):
            return
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        names = [self._name_of(tensor) for tensor in tensors]
        if names and all(names) and result.requires_grad:
            first = next((n for n, t in zip(names, tensors, strict=True) if t.requires_grad), names[0])
            self._names[id(result)] = (first, weakref.ref(result))

    def _name_of(self, weight: Any) -> str:
        if not isinstance(weight, Tensor):
            return ""
        for tensor in (weight, base_of(weight)):
            known = self._names.get(id(tensor)) if tensor is not None else None
            if known is not None and known[1]() is tensor:
                return known[0]
        return ""


class Watched(Unrolled):
    """`unrolled`, and every application of a weight to something that carries gradient is noted."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.uses = Uses(model)
        self.faults: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the applications of weights; all else as `Unrolled` does it."""
        name = getattr(func, "__name__", "")
        place, fed = self._guard(self.uses.place, name, args), None
        if place is not None:
            at, fed = place[0], args[place[0]].view_as(args[place[0]])
            result = call_from(sys._getframe(1), func, (*args[:at], fed, *args[at + 1 :]), kwargs or {})
        else:
            result = super().__torch_function__(func, types, args, kwargs)
        self._guard(self.uses.made, name, args, kwargs, result, place, fed)
        return result

    def _guard(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:  # a fault of ours must not become the model's
            self.faults.append(f"{type(error).__name__}: {error}")
            return None


def _is_plain(x: Any) -> bool:
    return isinstance(x, Tensor) and x.layout is torch.strided and not x.is_nested
