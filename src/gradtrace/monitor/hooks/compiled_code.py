"""When is compiled code entered and left? Dynamo's entrance looks up functions of its module at every call.

What would make it compile again (a function mode of ours) can be taken away there in time; and a function that was
compiled around a model is seen, which nothing else shows.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from gradtrace.monitor.hooks.patches import Interposition, interpose
from gradtrace.tape.private import compiled_entrance, compiled_frame, compiled_switch

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from torch import nn

    from gradtrace.monitor.hooks.guard import Guard
    from gradtrace.monitor.hooks.listener import PassListener


def before_compiled_code(tell: Callable[[], None]) -> Interposition | None:
    """Have `tell` called whenever compiled code is about to run, until the interposition is removed.

    None: this torch does not show its entrance.
    """
    entrance = compiled_entrance()
    if entrance is None:
        return None

    def enter(own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with contextlib.suppress(Exception):  # it is the user's call that we are in
            tell()
        return own(*args, **kwargs)

    return interpose(*entrance, enter)


def shows_calls() -> bool:
    """Whether `CompiledCalls` tells of any."""
    return compiled_switch() is not None


class CompiledCalls:
    """Tells of the calls of compiled functions until `close`, which is idempotent.

    Where torch does not show them, of none.

    Args:
        whole: all that is watched, which such a function may call.
        listener: is told.
        guard: what it raises goes there.
    """

    def __init__(self, whole: Callable[[], nn.Module], listener: PassListener, guard: Guard) -> None:
        self._whole, self._listener, self._guard = whole, listener, guard
        self._open: dict[int, tuple[FrameType, Any]] = {}
        """Calls that have not returned, of any thread, by identity; and what the listener made of each."""
        switch = compiled_switch()
        self._interposition = interpose(*switch, self._switch) if switch is not None else None

    def close(self) -> None:
        """No longer."""
        if self._interposition is not None:
            self._interposition.remove()
        self._open.clear()

    def _switch(self, own: Callable[..., Any], callback: Any, *args: Any) -> Any:
        call = compiled_frame(sys._getframe(1))
        if call is not None:  # or else dynamo is at work, and must not see anything change
            if id(call) in self._open:
                self._guard(self._left, call)
            elif callable(callback):
                self._guard(self._entered, call)
        return own(callback, *args)  # the last call: from here on dynamo looks at frames

    def _entered(self, call: FrameType) -> None:
        seen = call.f_locals
        token = self._listener.entered("", self._whole(), seen["args"], seen["kwargs"], seen["fn"])
        if token is not None:
            self._open[id(call)] = call, token

    def _left(self, call: FrameType) -> None:
        _, token = self._open.pop(id(call))
        self._listener.left(token, call.f_locals.get("result"))
