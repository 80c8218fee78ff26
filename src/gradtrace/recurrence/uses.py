"""Which weight is applied to what, and when? Every application of a parameter in a forward pass, in order.

A weight is a parameter, a buffer (a reservoir's fixed matrix), or what is computed from these alone: ``W * mask``, a
weight-normalised matrix, the rotation made of a skew-symmetric one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradtrace.recurrence.origins import Origins
from gradtrace.tape.unroll import Unrolled

if TYPE_CHECKING:
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

    x: Tensor
    """What it was applied to."""
    fed: Tensor
    """The same as this weight alone meets it."""
    y: tuple[Node, int]
    """What came out: the op that made it, and which output of the op it is (an in-place function may follow)."""
    order: int
    """Place among all uses of the forward pass."""
    value: int
    """Number of `x` among the values of the forward pass."""


class Watched(Unrolled):
    """`unrolled`, and every application of a weight to something that carries gradient is noted."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        named = [*model.named_buffers(), *model.named_parameters()]
        self._names = {id(tensor): (name, tensor) for name, tensor in named if tensor.dim()}
        self._order = 0
        self.origins = Origins()
        self.uses: dict[str, list[Use]] = defaultdict(list)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the applications of weights; all else as `Unrolled` does it."""
        name = getattr(func, "__name__", "")
        result = self._use(name, func, args, kwargs or {})
        if result is None:
            result = super().__torch_function__(func, types, args, kwargs)
            if name not in _LINEAR or name in _ELEMENTWISE:
                self._derive(args, result)
        self.origins.record(name, (args, tuple((kwargs or {}).values())), result, lambda x: bool(self._name_of(x)))
        return result

    def _use(self, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
        """The result of applying a weight to data that carries gradient; None for anything else."""
        for data, weight in _LINEAR.get(name, ()):
            if max(data, weight) < len(args) and (found := self._applied(name, args[data], args[weight])):
                x = args[data]
                fed = x.view_as(x)
                y: Tensor = func(*args[:data], fed, *args[data + 1 :], **kwargs)
                if y.grad_fn is not None:
                    use = Use(x, fed, (y.grad_fn, y.output_nr), self._order, self.origins.number(x))
                    self.uses[found].append(use)
                    self._order += 1
                return y
        return None

    def _applied(self, function: str, data: Any, weight: Any) -> str:
        """Name of the weight, where a weight is applied to data that carries gradient."""
        if not (_is_plain(data) and data.requires_grad and torch.is_grad_enabled()):
            return ""
        name = self._name_of(weight)
        if function in _ELEMENTWISE:  # where any tensor may stand: a weight times a weight is a weight
            return "" if self._name_of(data) or data.dim() < weight.dim() else name
        return name if name and weight.dim() > 1 else ""

    def _derive(self, args: Any, result: Any) -> None:
        """What is computed from weights alone is a weight, under the name of its first parameter."""
        if not args or not isinstance(result, Tensor) or not result.dim():
            return
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        names = [self._name_of(tensor) for tensor in tensors]
        if names and all(names) and result.requires_grad:
            first = next((n for n, t in zip(names, tensors, strict=True) if t.requires_grad), names[0])
            self._names[id(result)] = (first, result)

    def _name_of(self, weight: Any) -> str:
        if not isinstance(weight, Tensor):
            return ""
        for tensor in (weight, weight._base):
            known = self._names.get(id(tensor)) if tensor is not None else None
            if known is not None and known[1] is tensor:
                return known[0]
        return ""


def _is_plain(x: Any) -> bool:
    return isinstance(x, Tensor) and x.layout is torch.strided and not x.is_nested
