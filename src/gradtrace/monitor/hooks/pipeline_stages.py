"""When are the gradients of a pipeline's stage what its optimizer will see? After its schedule's last word on them.

``torch.distributed.pipelining`` runs one backward pass a microbatch, has FSDP reduce the gradients once all are over
(``perform_reduce_grad``), and divides them by the number of microbatches (``scale_grads``).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from gradtrace.monitor.hooks.patches import Interposition, interpose

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.monitor.hooks.guard import Guard
    from gradtrace.monitor.hooks.listener import PassListener

MODULE, CLASS = "torch.distributed.pipelining.stage", "_PipelineStageBase"
"""Not public; where a torch has no such class, gradients are measured a second time when the optimizer is called."""


class PipelineStages:
    """Tells of every stage until `remove`, which is idempotent."""

    def __init__(self, listener: PassListener, guard: Guard) -> None:
        self._listener: PassListener | None = listener
        self._guard = guard
        self._inside: Any = None
        """The stage whose gradients are being reduced, which divides them as well."""
        self._interposed: list[Interposition] = []
        self.look()

    def look(self) -> None:
        """A script may import pipelines after the watch has begun."""
        if not self._interposed and self._listener is not None and MODULE in sys.modules:
            kind = getattr(sys.modules[MODULE], CLASS, None)
            for name, handler in (("scale_grads", self._scale), ("perform_reduce_grad", self._reduce)):
                if name in vars(kind or object):
                    self._interposed.append(interpose(kind, name, handler))

    def remove(self) -> None:
        """Take the stand-ins away."""
        self._listener = None
        while self._interposed:
            self._interposed.pop().remove()

    def _reduce(self, own: Callable[..., Any], stage: Any, *args: Any, **kwargs: Any) -> Any:
        self._inside = stage
        try:
            result = own(stage, *args, **kwargs)
        finally:
            self._inside = None
        if self._listener is not None:
            self._guard(self._listener.gradients_settled, stage.submod)
        return result

    def _scale(self, own: Callable[..., Any], stage: Any, *args: Any, **kwargs: Any) -> Any:
        result = own(stage, *args, **kwargs)
        by = next(iter((*args, *kwargs.values())), 1)  # torch 2.8 names it
        if self._listener is not None:
            if getattr(stage, "is_last", False) and by != 1:
                self._guard(self._listener.loss_divided, float(by))
            if self._inside is not stage and by != 1:
                self._guard(self._listener.gradients_settled, stage.submod)
        return result
