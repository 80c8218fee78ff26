"""When are the watched modules called? Seen at their classes, so that no hook of ours lies in a module.

What lies in a module (a forward hook does) is copied and saved with it: a checkpoint would need gradtrace to be loaded,
an average of weights would be watched. So ``__call__`` of the class is stood in for; other instances pass through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from gradtrace.tape.private import inside_functorch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Visitor(Protocol):
    """What is told of the calls."""

    def entered(self, label: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A watched module is called."""

    def left(self, label: str, output: Any) -> None:
        """It returned; None where it raised."""


class Entrances:
    """Stands in until `close`, which is idempotent."""

    def __init__(self, modules: Mapping[str, nn.Module], visitor: Visitor) -> None:
        self._visitor = visitor
        self._labels = {id(module): label for label, module in modules.items()}
        self._kept = list(modules.values())  # so that no other object takes their identities
        self._own: list[tuple[type[nn.Module], Any, Any]] = []
        for kind in dict.fromkeys(type(module) for module in modules.values()):
            self._stand_in(kind)

    def close(self) -> None:
        """Give every class its own back."""
        self._labels.clear()
        self._kept.clear()
        while self._own:
            kind, own, ours = self._own.pop()
            if vars(kind).get("__call__") is not ours:
                continue  # somebody else stands in by now: ours hands everything on
            if own is None:
                del kind.__call__
            else:
                kind.__call__ = own  # type: ignore[method-assign]

    def _stand_in(self, kind: type[nn.Module]) -> None:
        own = vars(kind).get("__call__")
        labels, visitor = self._labels, self._visitor

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            # looked up anew at every call: torch.fx stands in for nn.Module's
            inner: Callable[..., Any] = own.__get__(module) if own is not None else super(kind, module).__call__  # type: ignore[misc]
            label = labels.get(id(module))
            if label is None or torch.compiler.is_compiling() or inside_functorch():
                return inner(*args, **kwargs)
            visitor.entered(label, module, args, kwargs)
            output = None
            try:
                output = inner(*args, **kwargs)
            finally:
                visitor.left(label, output)
            return output

        kind.__call__ = call  # type: ignore[method-assign]
        self._own.append((kind, own, call))
