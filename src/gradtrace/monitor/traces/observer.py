"""What is seen of each torch function of a traced step: its values, and whether it is a step of a recurrence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from gradtrace.measure.forward import ForwardObserver
    from gradtrace.recurrence.in_step import Recurrences
    from gradtrace.tape.recorder import Call


class StepObserver:
    """Tells `values` and `recurrences` of every function."""

    def __init__(self, values: ForwardObserver, recurrences: Recurrences) -> None:
        self._values, self._recurrences = values, recurrences

    def before(self, call: Call, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """See the operands."""
        seen = self._values.before(call, function, args, kwargs)
        return seen, args, kwargs, self._recurrences.before(call.name, function, args, kwargs, call.site)

    def after(self, call: Call, seen: Any, operands: list[Tensor], result: Any) -> None:
        """See the result; `seen` is what `before` returned."""
        if seen is None:
            return
        values, args, kwargs, held = seen
        self._recurrences.after(call.name, args, kwargs, result, held)
        self._values.after(call, values, operands, result)
