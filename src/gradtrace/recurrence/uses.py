"""Which weight is applied to what, and when? Every application of a parameter in a forward pass, in order.

A weight is a parameter, a buffer (a reservoir's fixed matrix), or what is computed from these alone: ``W * mask``, a
weight-normalised matrix, the rotation made of a skew-symmetric one.
"""

from __future__ import annotations

import sys
import weakref
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

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


class Weight(NamedTuple):
    """Which one: two that are made of one parameter are two, and one that each turn makes anew is the same."""

    name: str
    """Of the parameter, or of the first that it is computed from."""
    made: int = 0
    """By what it is computed from parameters; 0: it is one, or a view of one."""


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
        self._weights = {id(tensor): (Weight(name), weakref.ref(tensor)) for name, tensor in named}
        self._recipes: dict[tuple[Any, ...], int] = {}
        self._holds = holds
        self._order = 0
        self.origins = Origins()
        self.found: dict[Weight, list[Use]] = defaultdict(list)

    def place(self, function: str, args: Any) -> tuple[int, Weight] | None:
        """Where the data stands, and the weight, where one is applied to data that carries gradient."""
        for place, other in _LINEAR.get(function, ()):
            if max(place, other) >= len(args) or not torch.is_grad_enabled():
                continue
            data, weight = args[place], args[other]
            known = self._weight(weight)
            if known is None or not _is_plain(data) or not data.requires_grad:
                continue
            if function in _ELEMENTWISE:  # where any tensor may stand: a weight times a weight is a weight
                if self._weight(data) is None and data.dim() >= weight.dim():
                    return place, known
            elif weight.dim() > 1:
                return place, known
        return None

    def made(
        self,
        function: str,
        args: Any,
        kwargs: Any,
        result: Any,
        place: tuple[int, Weight] | None,
        fed: Tensor | None = None,
    ) -> None:
        """`function` made `result`; `fed` is the data as the weight alone meets it, if that is a tensor of its own."""
        if place is not None:
            self._note(place[1], args[place[0]], fed, result)
        elif function not in _LINEAR or function in _ELEMENTWISE:
            self._derive(function, args, result)
        operands = (args, tuple((kwargs or {}).values()))
        self.origins.record(function, operands, result, lambda x: self._weight(x) is not None)

    def _note(self, weight: Weight, x: Tensor, fed: Tensor | None, y: Any) -> None:
        if isinstance(y, Tensor) and y.grad_fn is not None:
            value, began = self.origins.number(x), self.origins.count
            made = (self._op(x.grad_fn), x.output_nr) if x.grad_fn is not None else None
            held, result = x if self._holds else None, (self._op(y.grad_fn), y.output_nr)
            self.found[weight].append(Use(held, fed, made, result, self._order, value, began))
            self._order += 1

    def _op(self, node: Node) -> Any:
        return node if self._holds else node_sequence_nr(node)

    def _derive(self, function: str, args: Any, result: Any) -> None:
        """What is computed from weights alone is a weight, under the name of its first parameter; a view is itself."""
        if not args or not isinstance(result, Tensor) or self._weight(base_of(result)) is not None:
            return
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        weights = [weight for tensor in tensors if (weight := self._weight(tensor)) is not None]
        if weights and len(weights) == len(tensors) and result.requires_grad:
            learnt = [weight for weight, tensor in zip(weights, tensors, strict=True) if tensor.requires_grad]
            made = self._recipes.setdefault((function, *weights), len(self._recipes) + 1)
            self._weights[id(result)] = (Weight((learnt or weights)[0].name, made), weakref.ref(result))

    def _weight(self, tensor: Any) -> Weight | None:
        if not isinstance(tensor, Tensor):
            return None
        for one in (tensor, base_of(tensor)):
            known = self._weights.get(id(one)) if one is not None else None
            if known is not None and known[1]() is one:
                return known[0]
        return None


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
