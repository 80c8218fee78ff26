"""Which op is meant? The module that it is, or its function and the layer that it follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import layer_below, place
from gradtrace.measure.names import Names
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from gradtrace.measure.path import Paths
    from gradtrace.records.trace import Op, Trace


def told_op(op: Op, trace: Trace, paths: Paths) -> str:
    """``model[1] (Sigmoid, net.py:9)``; ``relu (net.py:12) behind fc1 (Linear)`` of a function that is called."""
    names = Names(trace)
    below = layer_below(op, paths)
    module = op.site.module
    if op.weights or below is None or (module and place(op, paths) == module):
        return names.told(module, op.site.source) if module is not None else f"{_called(op)} in the loss"
    return f"{_called(op)} behind {names.told(place(below, paths))}"


def _called(op: Op) -> str:
    return function_of(op) + (f" ({op.site.source})" if op.site.source else "")


def function_of(op: Op) -> str:
    """``relu``: the activation function, the torch function, or the node's name."""
    return (op.activation.function if op.activation else "") or op.function or base_name(op.name).lower()
