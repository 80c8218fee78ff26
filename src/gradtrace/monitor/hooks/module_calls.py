"""When are the watched modules called? Seen at their classes, so that no hook of ours lies in a module.

What lies in a module (a forward hook does) is copied and saved with it: a checkpoint would need gradtrace to be loaded,
an average of weights would be watched. So ``__call__`` of the class is stood in for; other instances pass through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from gradtrace.monitor.hooks.patches import interpose
from gradtrace.tape.private import inside_functorch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn


class Visitor(Protocol):
    """What is told of the calls."""

    def entered(self, label: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A watched module is called."""

    def left(self, label: str, output: Any) -> None:
        """It returned; None where it raised."""


class Entrances:
    """Looks on until `close`, which is idempotent."""

    def __init__(self, modules: Mapping[str, nn.Module], visitor: Visitor) -> None:
        self._visitor = visitor
        self._labels = {id(module): label for label, module in modules.items()}
        self._kept = list(modules.values())  # so that no other object takes their identities
        self._removers: list[Callable[[], None]] = []
        try:
            for kind in dict.fromkeys(type(module) for module in modules.values()):
                self._removers.append(interpose(kind, "__call__", self._call))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give every class its own back."""
        self._labels.clear()
        self._kept.clear()
        while self._removers:
            self._removers.pop()()

    def _call(self, own: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        label = self._labels.get(id(module))
        if label is None or inside_functorch():
            return own(module, *args, **kwargs)
        self._visitor.entered(label, module, args, kwargs)
        output = None
        try:
            output = own(module, *args, **kwargs)
        finally:
            self._visitor.left(label, output)
        return output
