"""What does a `GradScaler` do to the losses, and which steps does it leave out, without a hook that fires?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.amp.grad_scaler import GradScaler

from gradtrace.monitor.hooks.patches import Interposition, interpose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.optim import Optimizer

    from gradtrace.monitor.hooks.guard import Guard
    from gradtrace.monitor.hooks.listener import StepListener


class Scalers:
    """Tells of every scaler until `remove`, which is idempotent."""

    def __init__(self, listener: StepListener, guard: Guard) -> None:
        self._listener: StepListener | None = listener
        self._guard = guard
        self._told: int | None = None
        """Of an optimizer that is within the step of a derived class's, which calls this one: told once."""
        self._interposed: list[Interposition] = []
        for kind in _kinds():
            for name, handler in (("scale", self._scale), ("step", self._step)):
                if name in vars(kind):
                    self._interposed.append(interpose(kind, name, handler))

    def remove(self) -> None:
        """Take the stand-ins away."""
        self._listener = None
        while self._interposed:
            self._interposed.pop().remove()

    def _scale(self, own: Callable[..., Any], scaler: GradScaler, *args: Any, **kwargs: Any) -> Any:
        result = own(scaler, *args, **kwargs)
        if self._listener is not None:
            num_losses = len(result) if isinstance(result, list | tuple) else 1
            self._guard(self._listener.scaled_by, scaler, num_losses)
        return result

    def _step(self, own: Callable[..., Any], scaler: GradScaler, optimizer: Optimizer, *args: Any, **kw: Any) -> Any:
        if self._listener is None or self._told == id(optimizer):
            return own(scaler, optimizer, *args, **kw)
        before = self._guard(self._listener.num_steps_of, optimizer)
        self._told = id(optimizer)
        try:
            result = own(scaler, optimizer, *args, **kw)
        finally:
            self._told = None
        self._guard(self._tell_if_left_out, scaler, optimizer, before)
        return result

    def _tell_if_left_out(self, scaler: GradScaler, optimizer: Optimizer, before: int) -> None:
        listener = self._listener
        if listener is None or before < 0 or not scaler.is_enabled():
            return
        if listener.num_steps_of(optimizer) == before:
            listener.step_left_out(optimizer)


def _kinds() -> Iterator[type[GradScaler]]:
    """The class and all that derive from it so far, as the one of sharded models does."""
    waiting = [GradScaler]
    while waiting:
        kind = waiting.pop()
        yield kind
        waiting += kind.__subclasses__()
