"""Which bounded non-linearities are gates or outputs, and not units of a layer?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import layer_below
from gradtrace.diagnosis.thresholds import CLOSED_GATE, DOMINANT_FRAC
from gradtrace.measure.path import Paths
from gradtrace.records.vocabulary import Factor
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gradtrace.diagnosis.scene import View
    from gradtrace.measure.path import Step
    from gradtrace.records.trace import Op, Trace

BOUNDED = {"sigmoid", "tanh", "hardtanh", "hardsigmoid", "softsign", "erf"}
"""Non-linearities that are flat on both sides."""

_PRODUCTS = ("Mul", "Bmm", "Mm")
"""Nodes that multiply two values, element by element or as matrices."""


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
    """Whether an activation's value multiplies another computed value, itself or as 1 - z, in whatever shape."""
    return multiplies(op, view.paths)


def multiplies(op: Op, paths: Paths) -> bool:
    """Whether what an op makes is a factor of a product with another value that the network computes.

    A parameter is none: in gamma f(x) it scales a layer's units, which are no gate for that. Nor is what the value
    itself becomes, as in h / rms(h). What an op with one input makes of the value, but for a layer or another
    non-linearity, is followed: a view, 1 - z, a constant times z.
    """
    ahead, seen = [op.index], {op.index}
    while ahead:
        for source, _ in paths.arrivals[ahead.pop()]:
            other = paths.ops[source]
            if other.weights or other.activation is not None or source in seen:
                continue
            seen.add(source)
            inputs = [target[0] for target in other.targets if target is not None]
            if len(inputs) > 1 and other.name.startswith(_PRODUCTS):
                if not all(_is_made_of(index, op, paths) for index in inputs):
                    return True
            elif len(inputs) == 1 and other.factor is not Factor.LOSS:
                ahead.append(source)
    return False


def divides_its_own(op: Op, paths: Paths) -> bool:
    """Whether a value divides what it was made from, as in z / max(|z|, 1): flat, it is a constant that z goes past."""
    below, index = layer_below(op, paths), op.index
    while below is not None and len(paths.arrivals[index]) == 1:
        source, slot = paths.arrivals[index][0]
        above = paths.ops[source]
        if base_name(above.name) == "Div" and slot == 1:
            whole = above.targets[0]
            return whole is not None and layer_below(paths.ops[whole[0]], paths) is below
        if above.factor is not Factor.RESHAPE:
            return False
        index = source
    return False


def traps(trace: Trace) -> list[Op]:
    """On whose flat side examples are stuck: nothing goes past it."""
    flat = [op for op in trace.ops if op.trapped_frac > 0.0]
    paths = Paths(trace) if flat else None
    return [op for op in flat if paths is not None and not divides_its_own(op, paths)]


def _is_made_of(index: int, op: Op, paths: Paths) -> bool:
    """Whether a value comes from that of `op` alone, or from a parameter."""
    while index != op.index and paths.ops[index].parameter is None:
        inputs = [target[0] for target in paths.ops[index].targets if target is not None]
        if len(inputs) != 1:
            return False
        index = inputs[0]
    return True


def gate_decades(trace: Trace, steps: Iterable[Step]) -> float:
    """Of a way through `trace`, what products with gates take, which the factor of weights has among its own.

    In f c the gradient goes on to c times f, a number below one that no weight's size says anything of.
    """
    return math.fsum(step.gain_log10 for step in steps if is_gated(trace.ops[step.op], trace))


def gates_take_most(trace: Trace, paths: Paths) -> bool:
    """Whether products with gates take most of what is lost on the way to the deepest layer."""
    reached = [op.index for op in trace.ops if op.weights and op.received is not None]
    steps = paths.path(max(reached, key=lambda index: (paths.depths[index], index))) if reached else []
    lost = math.fsum(step.gain_log10 for step in steps if trace.ops[step.op].factor is not Factor.LOSS)
    return lost < 0.0 and gate_decades(trace, steps) <= DOMINANT_FRAC * lost


def is_gated(op: Op, trace: Trace) -> bool:
    """Whether it multiplies a computed value by what a bounded non-linearity made."""
    if op.factor is not Factor.WEIGHT or op.weights or not op.name.startswith("Mul"):
        return False
    sides = [trace.ops[target[0]] for target in op.targets if target is not None]
    below = [behind_views(side, trace).activation for side in sides]
    return len(sides) > 1 and any(a is not None and a.function in BOUNDED for a in below)


def behind_views(op: Op, trace: Trace) -> Op:
    """What a value was before it was shaped anew."""
    for _ in range(4):
        ways = [target[0] for target in op.targets if target is not None]
        if op.activation is not None or op.factor is not Factor.RESHAPE or len(ways) != 1:
            break
        op = trace.ops[ways[0]]
    return op


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
