"""When are the watched modules called? Seen at their classes, so that no hook of ours lies in a module.

What lies in a module (a forward hook does) is copied and saved with it: a checkpoint would need gradtrace to be loaded,
an average of weights would be watched. So ``__call__`` of the class is stood in for; other instances pass through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradtrace.monitor.hooks.patches import Interposition, interpose
from gradtrace.tape.private import inside_functorch, inside_tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from gradtrace.monitor.hooks.guard import Guard
    from gradtrace.monitor.hooks.listener import PassListener


class ModuleCalls:
    """Tells of the calls of `modules` (label to module) until `close`, which is idempotent."""

    def __init__(self, modules: Mapping[str, nn.Module], listener: PassListener, guard: Guard) -> None:
        self._listener, self._guard = listener, guard
        self._labels = {id(module): label for label, module in modules.items()}
        self._kept = list(modules.values())  # so that no other object takes their identities
        self._interposed: list[Interposition] = []
        try:
            for kind in dict.fromkeys(type(module) for module in modules.values()):
                self._interposed.append(interpose(kind, "__call__", self._call))
        except BaseException:
            self.close()
            raise

    def pause(self) -> None:
        """Tell of no call for now; the stand-ins stay, for code that dynamo has compiled with them."""
        for interposition in self._interposed:
            interposition.pause()

    def resume(self) -> None:
        """Tell of calls again."""
        for interposition in self._interposed:
            interposition.resume()

    def close(self) -> None:
        """Give every class its own back."""
        self._labels.clear()
        self._kept.clear()
        while self._interposed:
            self._interposed.pop().remove()

    def _call(self, own: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        label = self._labels.get(id(module))
        if label is None:
            return own(module, *args, **kwargs)
        call = self._guard(self._entered, label, module, args, kwargs)
        output = None
        try:
            output = own(module, *args, **kwargs)
        finally:
            if call is not None:
                self._guard(self._listener.left, call, output)
        return output

    def _entered(self, label: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        is_another_s = inside_functorch() or inside_tracing()
        return None if is_another_s else self._listener.entered(label, module, args, kwargs)
