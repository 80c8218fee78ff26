"""Which blocks of the user's switch the tape off around what the loss is computed from?

``with torch.no_grad():`` calls torch's switch on its way in and out, with the line of the ``with``: of an ordinary run
it is known which lines lie within.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from gradtrace.errors import GradtraceError
from gradtrace.measure.untouched import fixed_random_state
from gradtrace.repair.rewriting import name_of
from gradtrace.tape.source import source_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.repair.situation import Situation

SWITCH = "set_grad_enabled"


class _Lines(TorchFunctionMode):
    """Block -> lines of the calls within."""

    def __init__(self) -> None:
        super().__init__()
        self.within: defaultdict[str, set[str]] = defaultdict(set)
        self._block = ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The call itself."""
        if name_of(func) != SWITCH:
            if self._block:
                self.within[self._block].add(source_of(sys._getframe(1)))
        elif args and not args[0] and torch.is_grad_enabled():
            self._block = source_of(sys._getframe(1))
        elif args and args[0]:
            self._block = ""
        return func(*args, **(kwargs or {}))


def blocks_around(lines: set[str], situation: Situation) -> list[str]:
    """Lines of the ``with`` (or of the call of what is decorated) within which any of these are."""
    seen = _Lines()
    try:
        with fixed_random_state():
            twin = situation.twin()
            with torch.enable_grad(), seen:
                twin.loss_fn(twin.model, situation.batches[0])
    except (GradtraceError, RuntimeError):
        return []
    return [block for block, within in seen.within.items() if block and within & lines]


def stay_on(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The switch is left as it is on the way in, and does on the way out what it would."""
    return function(*args, **kwargs) if args and args[0] else None
