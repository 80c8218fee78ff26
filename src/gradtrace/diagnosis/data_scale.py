"""How far are inputs and targets from the unit scale that networks are initialised for?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.profile import is_layer
from gradtrace.diagnosis.thresholds import INPUT_RMS, TARGET_RATIO
from gradtrace.records.vocabulary import Factor
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import View
    from gradtrace.records.trace import Op


def large_inputs(view: View) -> list[Op]:
    """First layers that see data an order of magnitude above unit scale."""
    layers = [op for op in view.trace.ops if is_layer(op) and op.forward is not None and is_first(op, view)]
    return [op for op in layers if op.forward is not None and op.forward.input_rms >= INPUT_RMS]


def is_first(layer: Op, view: View) -> bool:
    """Whether a layer's operand is data: all that it passes gradient to are its own parameters."""
    stack = [t[0] for t in layer.targets if t is not None]
    for _ in range(32):
        if not stack:
            return True
        op = view.trace.ops[stack.pop()]
        if op.parameter is not None or not op.targets:
            continue
        if op.weights or op.activation or op.factor is Factor.NORM:
            return False
        stack.extend(t[0] for t in op.targets if t is not None)
    return False


def target_distance(view: View) -> float:
    """Squared error only: rms(output - target) over rms(output), from loss over gradient, whatever scales the loss.

    L = c sum(e^2) and dL/dy = 2 c e, so that 2 L / (|dL/dy| sqrt(n)) = rms(e).
    """
    for op in view.trace.ops:
        if base_name(op.name) != "MseLoss":
            continue
        error = next((stats for stats in op.passed if stats is not None), None)
        layer = next((o for o in view.trace.ops if is_layer(o) and o.forward is not None), None)
        if error is None or error.norm == 0.0 or layer is None or layer.forward is None:
            return 0.0
        if layer.forward.output_rms == 0.0:
            return 0.0  # an output layer that starts at zero has no scale yet
        distance = 2.0 * abs(view.trace.loss) / (error.norm * math.sqrt(error.numel))
        return distance / max(layer.forward.output_rms, 1.0)  # a last layer that starts small has no scale of its own
    return 0.0


def is_far_off(view: View) -> bool:
    """Whether a known loss is two orders of magnitude above what the best constant gets."""
    objectives = [op.objective for op in view.trace.ops if op.objective is not None]
    return any(one.constant > 0.0 and one.value > TARGET_RATIO * one.constant for one in objectives)
