"""Where does a backward pass begin and end? ``Tensor.backward`` looks up ``torch.autograd.backward`` at every call.

Standing in for it shows the loss, and the gradients before anyone clips them. Passes within a pass (a reentrant
checkpoint's) and those of other threads are torch's business alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.graph import GradientEdge

from gradtrace.monitor.hooks.patches import interpose
from gradtrace.tape.callers import call_from

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.monitor.hooks.guard import Guard
    from gradtrace.monitor.hooks.listener import PassListener


class BackwardPasses:
    """Tells of every backward pass until `remove`, which is idempotent; `look` is called before it is told of any."""

    def __init__(self, listener: PassListener, guard: Guard, look: Callable[[], None]) -> None:
        self._listener: PassListener | None = listener
        self._look = look
        self._guard = guard
        self._note: Callable[[], None] | None = None
        self._of_tensor = interpose(torch.Tensor, "backward", self._tensor_backward)
        self._all = interpose(torch.autograd, "backward", self._backward)

    def remove(self) -> None:
        """Take the stand-ins away."""
        self._listener = None
        self._of_tensor.remove()
        self._all.remove()

    def rest(self, note: Callable[[], None] | None) -> None:
        """Until `wake`, call `note` at every pass, or nobody."""
        self._note = note
        self._of_tensor.pause()
        if note is None:
            self._all.pause()

    def wake(self) -> None:
        """Tell of every pass again."""
        self._note = None
        self._of_tensor.resume()
        self._all.resume()

    def _tensor_backward(self, own: Callable[..., Any], tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._listener is not None and self._listener.is_tracing:
            self._guard(self._listener.forward_is_over)
        return own(tensor, *args, **kwargs)

    def _backward(self, own: Callable[..., Any], tensors: Any, *args: Any, **kwargs: Any) -> Any:
        listener = self._listener
        if listener is None or self._note is not None:
            if self._note is not None:
                self._guard(self._note)
            return own(tensors, *args, **kwargs)
        if isinstance(tensors, Iterator):  # it can be read once
            tensors = tuple(tensors)
        roots = self._guard(self._roots, listener, tensors, args, kwargs)
        caller = sys._getframe(1)  # hooks of the script's modules warn of the line that called ``backward``
        if not roots:
            return call_from(caller, own, (tensors, *args), kwargs)
        try:
            result = call_from(caller, own, (tensors, *args), kwargs)
        except BaseException:
            self._guard(listener.backward_failed, roots)
            raise
        self._guard(listener.after_backward, roots)
        return result

    def _roots(self, listener: PassListener, tensors: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
        """Of a pass that is told of; empty for others."""
        self._look()
        roots = roots_of(tensors)
        if not roots:
            listener.begins_at_edges()
        create_graph = bool(kwargs.get("create_graph", args[2] if len(args) > 2 else False))
        return roots if roots and listener.before_backward(roots, create_graph) else []


def roots_of(tensors: Any) -> list[torch.Tensor]:
    """The tensors that ``backward`` is called with; an edge of the tape is none.

    >>> one = torch.ones(())
    >>> len(roots_of(one)), len(roots_of([one, one])), len(roots_of("no tensor"))
    (1, 2, 0)
    """
    if isinstance(tensors, torch.Tensor | GradientEdge) or not isinstance(tensors, Iterable):
        tensors = (tensors,)  # an edge is a tuple of something else
    return [root for root in tensors if isinstance(root, torch.Tensor)]
