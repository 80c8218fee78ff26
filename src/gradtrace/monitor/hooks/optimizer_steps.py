"""When does an optimizer step? Torch's global hooks tell of every optimizer of the process, whenever it was made."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradtrace.tape.private import unseen_by_dynamo

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from torch.utils.hooks import RemovableHandle

    from gradtrace.monitor.hooks.guard import Guard
    from gradtrace.monitor.hooks.listener import StepListener

    Before = Callable[[Optimizer, tuple[Any, ...], dict[str, Any]], None]
    After = Callable[[Optimizer], None]


_TOLD: dict[str, tuple[Any, ...]] = {"before": (), "after": ()}
"""Who is, of type `Before` and `After`: a step goes through who was there when it began to."""

_HANDLES: list[RemovableHandle] = []
_UNSEEN: list[Callable[..., Any]] = []
"""What tells before and after a step, as compiled code calls it."""


def listen(before: Before | None = None, after: After | None = None) -> Callable[[], None]:
    """Have them called at every step of every optimizer; returns what ends that, and may be called again and again.

    Torch's own hooks come with the first who listens and go with the last; not while torch goes through them: within a
    step they stay, and tell nobody, until the next that ends.
    """
    for when, one in (("before", before), ("after", after)):
        if one is not None:
            _TOLD[when] = (*_TOLD[when], one)
    _hook()

    def remove() -> None:
        for when, one in (("before", before), ("after", after)):
            _TOLD[when] = (*[other for other in _TOLD[when] if other is not one],)
        _hook()

    return remove


def _hook() -> None:
    """Torch's hooks are there as long as anybody listens.

    At a rest they stay: another thread may be going through torch's table of them, which must not change meanwhile.
    """
    if any(_TOLD.values()) and not _HANDLES:
        _UNSEEN[:] = unseen_by_dynamo(_tell_before), unseen_by_dynamo(_tell_after)
        _HANDLES.extend([register_optimizer_step_pre_hook(_before), register_optimizer_step_post_hook(_after)])
    elif not any(_TOLD.values()) and not is_stepping():
        while _HANDLES:
            _HANDLES.pop().remove()


def _before(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if torch.compiler.is_compiling():  # as a script may compile its optimizer's step: it would go through us
        _UNSEEN[0](optimizer, args, kwargs)
    elif _TOLD["before"]:  # nobody at a rest
        _tell_before(optimizer, args, kwargs)


def _after(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
    if torch.compiler.is_compiling():
        _UNSEEN[1](optimizer)
    else:  # and not by `_tell_after`: a call more at every step of a rest
        for tell in _TOLD["after"]:
            tell(optimizer)


def _tell_before(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    told = _TOLD["before"]
    for tell in told:
        tell(optimizer, args, kwargs)
    for tell in _TOLD["before"]:
        if tell not in told:  # it has come meanwhile, and this very step is its own
            tell(optimizer, args, kwargs)


def _tell_after(optimizer: Optimizer) -> None:
    for tell in _TOLD["after"]:
        tell(optimizer)


class OptimizerSteps:
    """Tells of every optimizer's steps until `remove`, which is idempotent."""

    def __init__(self, listener: StepListener, guard: Guard) -> None:
        self._listener: StepListener | None = listener
        self._guard = guard
        self._remove = listen(self._before, self._after)

    def remove(self) -> None:
        """Take the hooks away; while a step is under way torch's stay, deaf, until this is called again."""
        self._listener = None
        self._remove()

    def rest(self, note: After) -> None:
        """Until `wake`, call nobody but `note`, when a step is over."""
        self._instead(None, note)

    def wake(self) -> None:
        """Tell of every step again."""
        self._instead(self._before, self._after)

    def _instead(self, before: Before | None, after: After) -> None:
        remove, self._remove = self._remove, listen(before, after)
        remove()

    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._listener is not None:
            self._guard(self._tell, self._listener, optimizer, args, kwargs)

    @staticmethod
    def _tell(listener: StepListener, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        listener.before_step(optimizer, takes_closure(args, kwargs))

    def _after(self, optimizer: Optimizer) -> None:
        if self._listener is not None:
            self._guard(self._listener.after_step, optimizer)


def takes_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a step is given a function that makes its backward passes; `args` begin with the optimizer."""
    return any(map(callable, args[1:])) or callable(kwargs.get("closure"))


def is_stepping() -> bool:
    """Whether this is within an optimizer's step, where torch may be going through its hooks: none may go meanwhile."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") != Optimizer.__module__:
        frame = frame.f_back
    return frame is not None
