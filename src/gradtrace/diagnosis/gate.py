"""Which bounded non-linearities are gates or outputs, and not units of a layer?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.diagnosis.thresholds import CLOSED_GATE
from gradtrace.records.vocabulary import Factor

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import View
    from gradtrace.records.trace import Op

BOUNDED = {"sigmoid", "tanh", "hardtanh", "hardsigmoid", "softsign", "erf"}
"""Non-linearities that are flat on both sides."""


def gate_sites(view: View) -> set[tuple[str, str | None, str]]:
    """Where activations are gates, on any call: at the first step of a recurrence one may multiply a mere zero."""
    return {
        site_of(op)
        for op in view.trace.ops
        if op.activation is not None and (is_gate(op, view) or _of_parameter(op, view))
    }


def site_of(op: Op) -> tuple[str, str | None, str]:
    """What the uses of a non-linearity at one line of a module have in common."""
    return op.name, op.site.module, op.site.source


def is_gate(op: Op, view: View) -> bool:
    """Whether an activation's value multiplies another computed value."""
    for source, _ in view.paths.arrivals[op.index]:
        other = view.trace.ops[source]
        if other.name.startswith("Mul") and sum(target is not None for target in other.targets) > 1:
            return True
    return False


def _of_parameter(op: Op, view: View) -> bool:
    """Whether an activation only keeps a parameter in bounds: softplus(rho) of a scale, sigmoid(a) of a mixture."""
    target = op.targets[0] if op.targets else None
    while target is not None:
        below = view.trace.ops[target[0]]
        if below.parameter is not None:
            return True
        target = below.targets[0] if below.factor is Factor.RESHAPE and len(below.targets) == 1 else None
    return False


def is_closed(op: Op) -> bool:
    """Whether a gate is stuck: what goes through it, and what would move it, is next to nothing on average."""
    a = op.activation
    return a is not None and a.derivative_mean < CLOSED_GATE * a.derivative_max


def is_output(op: Op, view: View) -> bool:
    """Whether an activation is the network's output: only the loss (behind views) uses it."""
    arrivals = view.paths.arrivals[op.index]
    while len(arrivals) == 1 and view.trace.ops[arrivals[0][0]].factor is Factor.RESHAPE:
        arrivals = view.paths.arrivals[arrivals[0][0]]
    return not arrivals or all(view.trace.ops[source].factor is Factor.LOSS for source, _ in arrivals)
