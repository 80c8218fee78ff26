"""When does an optimizer step? Torch's global hooks tell of every optimizer of the process, whenever it was made."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

if TYPE_CHECKING:
    from types import FrameType

    from torch.utils.hooks import RemovableHandle

    from gradtrace.monitor.hooks.guard import Guard
    from gradtrace.monitor.hooks.listener import Listener


class OptimizerSteps:
    """Tells of every optimizer's steps until `remove`, which is idempotent."""

    def __init__(self, listener: Listener, guard: Guard) -> None:
        self._listener: Listener | None = listener
        self._guard = guard
        self._handles: list[RemovableHandle] = [register_optimizer_step_pre_hook(self._before)]
        self._handles.append(register_optimizer_step_post_hook(self._after))

    def remove(self) -> None:
        """Take the hooks away; while a step is under way they stay, deaf, until this is called again."""
        self._listener = None
        if self._handles and not is_stepping():
            while self._handles:
                self._handles.pop().remove()

    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        listener = self._listener
        if listener is not None and not listener.is_resting:
            self._guard(self._tell, listener, optimizer, args, kwargs)

    @staticmethod
    def _tell(listener: Listener, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        listener.before_step(optimizer, any(map(callable, args[1:])) or callable(kwargs.get("closure")))

    def _after(self, optimizer: Optimizer, *_: Any) -> None:
        listener = self._listener
        if listener is not None:
            self._guard(listener.after_step, optimizer)


def is_stepping() -> bool:
    """Whether this is within an optimizer's step, where torch may be going through its hooks: none may go meanwhile."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") != Optimizer.__module__:
        frame = frame.f_back
    return frame is not None
