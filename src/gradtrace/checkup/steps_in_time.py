"""Recurrences, step by step: a second forward pass, unrolled, beside the trace of the ops."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from gradtrace.diagnosis.layer import parameters_behind
from gradtrace.diagnosis.scene import is_finite
from gradtrace.diagnosis.thresholds import RECURRENCE_CALLS
from gradtrace.errors import InputError
from gradtrace.recurrence.through_time import NUM_TARGETS, recurrences_through_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from gradtrace.records.trace import Op, Trace

NUM_EXPONENTS = 8
"""Largest Lyapunov exponents that a check measures; `gradtrace.lyapunov` gives the whole spectrum."""

_FUNCTIONS = set("lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell".split())


def is_recurrent(model: nn.Module, trace: Trace) -> bool:
    """Whether the model has a recurrent module or function, or a weight that is applied again and again."""
    if any(isinstance(module, nn.RNNBase | nn.RNNCellBase) for module in model.modules()):
        return True
    applied = Counter(op.weights for op in trace.ops if op.weights)
    used = Counter(name for op in trace.ops for name in _weights_used(op, trace))
    return any(op.function in _FUNCTIONS for op in trace.ops) or any(
        max(times.values(), default=0) >= RECURRENCE_CALLS for times in (applied, used)
    )


def _weights_used(op: Op, trace: Trace) -> set[str | int]:
    """Parameters that an op takes in, and what is computed from parameters alone, by its place."""
    used = [trace.ops[target[0]] for target in op.targets if target is not None]
    return {one.parameter or one.index for one in used if parameters_behind(one, trace.ops)}


def with_time(
    model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batch: Any, trace: Trace, *, first: bool
) -> tuple[Trace, tuple[str, ...]]:
    """The trace with its gradient through time; of the first batch with horizon and exponents too."""
    if not is_finite(trace):
        return trace, ()  # where it became so is told by the trace
    targets, exponents = (NUM_TARGETS, NUM_EXPONENTS) if first else (0, 0)
    try:
        record = recurrences_through_time(model, loss_fn, batch, num_targets=targets, k=exponents)
    except InputError as error:
        return trace, (f"no verdict through time: {error}",)
    except Exception as error:  # what we do to see more must not cost what was seen
        told = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return trace, (f"no verdict through time: measuring it failed ({told}); please report it",)
    return replace(trace, through_time=record), ()
