"""Where a step begins and ends, seen from outside: backward passes, optimizer steps and gradient scalers.

``Tensor.backward`` looks up ``torch.autograd.backward`` anew at every call: standing in for it shows the loss, and the
gradients before anyone clips them. An optimizer's hooks show what it is given and what it did. A `GradScaler` shows its
scale, and that a step was left out by the optimizer's hooks that do not fire.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.amp.grad_scaler import GradScaler
from torch.autograd.graph import GradientEdge
from torch.optim import Optimizer

from gradtrace.monitor.hooks.patches import interpose

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from torch.utils.hooks import RemovableHandle


class Listener(Protocol):
    """What is told of a training loop."""

    def forward_is_over(self) -> None:
        """``loss.backward`` was called: what looks at functions of torch would see itself from here on."""

    def before_backward(self, roots: Sequence[torch.Tensor], create_graph: bool) -> None:
        """A backward pass begins."""

    def backward_failed(self, roots: Sequence[torch.Tensor]) -> None:
        """It raised."""

    def after_backward(self, roots: Sequence[torch.Tensor]) -> None:
        """It ended, and gradients have arrived."""

    def before_step(self, optimizer: Optimizer, has_closure: bool) -> None:
        """An optimizer is about to step; with a closure its backward passes are still to come."""

    def after_step(self, optimizer: Optimizer) -> None:
        """It has stepped."""

    def scaled_by(self, scaler: GradScaler, num_losses: int) -> None:
        """A scaler has multiplied so many losses."""

    def step_left_out(self, optimizer: Optimizer) -> None:
        """A scaler found the gradients not finite and did not let the optimizer step."""


class Boundaries:
    """All hooks of one watch; `remove` is idempotent, and what others installed since then stays."""

    def __init__(self, listener: Listener, optimizers: Sequence[Optimizer]) -> None:
        self._listener: Listener | None = listener
        self._handles: list[RemovableHandle] = []
        self._stepped: set[int] = set()
        self._depth = 0
        self._watched = {id(optimizer) for optimizer in optimizers}
        self._removers: list[Callable[[], None]] = []
        try:
            self._install(optimizers)
        except BaseException:
            self.remove()
            raise

    def _install(self, optimizers: Sequence[Optimizer]) -> None:
        for optimizer in optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._before_step))
            self._handles.append(optimizer.register_step_post_hook(self._after_step))
        self._removers.append(interpose(torch.Tensor, "backward", self._tensor_backward))
        self._removers.append(interpose(torch.autograd, "backward", self._backward))
        for kind in _scalers():
            for name, handler in (("scale", self._scale), ("step", self._scaler_step)):
                if name in vars(kind):
                    self._removers.append(interpose(kind, name, handler))

    def remove(self) -> None:
        """Take every hook away; where a step is under way an optimizer's stay, deaf, until this is called again."""
        self._listener = None
        while self._removers:
            self._removers.pop()()
        if self._handles and not _is_stepping():
            while self._handles:
                self._handles.pop().remove()

    def _tensor_backward(self, own: Callable[..., Any], tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._listener is not None and not self._depth:
            self._listener.forward_is_over()
        return own(tensor, *args, **kwargs)

    def _backward(self, own: Callable[..., Any], tensors: Any, *args: Any, **kwargs: Any) -> Any:
        tensors, roots = read_roots(tensors)
        roots = [root for root in roots if isinstance(root, torch.Tensor)]
        if self._listener is None or self._depth or not roots:  # one inside of another: a reentrant checkpoint's
            return own(tensors, *args, **kwargs)
        create_graph = bool(kwargs.get("create_graph", args[2] if len(args) > 2 else False))
        self._listener.before_backward(roots, create_graph)
        self._depth += 1
        try:
            result = own(tensors, *args, **kwargs)
        except BaseException:
            if self._listener is not None:
                self._listener.backward_failed(roots)
            raise
        finally:
            self._depth -= 1
        if self._listener is not None:
            self._listener.after_backward(roots)
        return result

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._listener is not None:
            has_closure = any(map(callable, args[1:])) or callable(kwargs.get("closure"))
            self._listener.before_step(optimizer, has_closure)

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        self._stepped.add(id(optimizer))
        if self._listener is not None:
            self._listener.after_step(optimizer)

    def _scale(self, own: Callable[..., Any], scaler: GradScaler, *args: Any, **kwargs: Any) -> Any:
        result = own(scaler, *args, **kwargs)
        if self._listener is not None:
            self._listener.scaled_by(scaler, len(result) if isinstance(result, list | tuple) else 1)
        return result

    def _scaler_step(
        self, own: Callable[..., Any], scaler: GradScaler, optimizer: Optimizer, *args: Any, **kw: Any
    ) -> Any:
        self._stepped.discard(id(optimizer))
        result = own(scaler, optimizer, *args, **kw)
        if self._listener is not None and id(optimizer) in self._watched - self._stepped and scaler.is_enabled():
            self._stepped.add(id(optimizer))  # told once, where the method of a derived class calls this one
            self._listener.step_left_out(optimizer)
        return result


def read_roots(tensors: Any) -> tuple[Any, list[Any]]:
    """What ``backward`` was called with, to hand on (a generator can be read once), and the roots that are in it.

    >>> read_roots(root for root in "ab")
    (('a', 'b'), ['a', 'b'])
    """
    if isinstance(tensors, Iterator):
        tensors = tuple(tensors)
    if isinstance(tensors, torch.Tensor | GradientEdge):  # an edge is a tuple of something else
        return tensors, [tensors]
    return tensors, list(tensors) if isinstance(tensors, Iterable) else []


def _is_stepping() -> bool:
    """Whether this is within an optimizer's step, where torch may be going through its hooks: none may go meanwhile."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") != Optimizer.__module__:
        frame = frame.f_back
    return frame is not None


def _scalers() -> Iterator[type[GradScaler]]:
    """The class and all that derive from it so far, as the one of sharded models does."""
    waiting = [GradScaler]
    while waiting:
        kind = waiting.pop()
        yield kind
        waiting += kind.__subclasses__()
