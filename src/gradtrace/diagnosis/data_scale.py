"""How far are inputs and targets from the unit scale that networks are initialised for?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import is_layer, layer_below
from gradtrace.diagnosis.thresholds import INPUT_RMS, SWING, TARGET_RATIO
from gradtrace.records.vocabulary import Factor
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import View
    from gradtrace.measure.path import Paths
    from gradtrace.records.trace import ForwardStats, Op


def large_inputs(view: View) -> list[Op]:
    """First layers that see data an order of magnitude above unit scale; what a table is asked for has no scale."""
    layers = [op for op in view.trace.ops if is_layer(op) and "Embedding" not in op.name and is_first(op, view)]
    return [op for op in layers if input_rms(op, view) >= INPUT_RMS]


def input_rms(op: Op, view: View) -> float:
    """Root mean square of what comes into a layer; 0 where it was not seen."""
    scale = scale_of(op, view.paths)
    return scale.input_rms if scale is not None else 0.0


def scale_of(op: Op, paths: Paths) -> ForwardStats | None:
    """What a layer saw and made: kept with the last op of its call, which may be a view of what the layer made."""
    for _ in range(4):
        if op.forward is not None:
            return op.forward
        above = [paths.ops[source] for source, _ in paths.arrivals[op.index]]
        same = [o for o in above if o.factor is Factor.RESHAPE and o.site == op.site and o.function == op.function]
        if len(same) != 1:
            return None
        op = same[0]
    return None


def is_first(layer: Op, view: View) -> bool:
    """Whether a layer's operand is data: all that it passes gradient to are its own parameters.

    Data that a batch norm only shifts, by statistics of others, is still that; and so is data beside embeddings of
    unit scale: where no other part of a concatenation is large, and the whole is, the data are.
    """
    stack = [t[0] for t in layer.targets if t is not None]
    beside_data = False
    for _ in range(32):
        if not stack:
            return True
        op = view.trace.ops[stack.pop()]
        beside_data |= base_name(op.name) == "Cat" and None in op.targets
        if op.parameter is not None or not op.targets or (beside_data and _is_small_table(op, view)):
            continue
        if (op.weights or op.activation or op.factor is Factor.NORM) and not _is_idle_norm(op):
            return False
        stack.extend(t[0] for t in op.targets if t is not None)
    return False


def _is_small_table(op: Op, view: View) -> bool:
    scale = scale_of(op, view.paths) if base_name(op.name).startswith("Embedding") else None
    return scale is not None and scale.output_rms < INPUT_RMS


def scale_of_recurrence(module: str, view: View) -> ForwardStats | None:
    """The data that a recurrence of torch's was given and the states that it made of them; None: a layer feeds it."""
    whole = [op for op in view.trace.ops if op.site.module == module]
    seen = [op.forward for op in whole if op.forward is not None]
    is_fed = any("weight_ih" in name and is_first(op, view) for op in whole for name in op.weights)
    return seen[0] if seen and is_fed else None


def idle_norm(layer: Op, view: View) -> Op | None:
    """The batch norm right in front of a first layer that leaves the data as large as they are; None: there is none."""
    below = [view.trace.ops[t[0]] for t in layer.targets if t is not None]
    return next((op for op in below if _is_idle_norm(op)), None)


def _is_idle_norm(op: Op) -> bool:
    """By the batch's own statistics its output would be as large as its gain, about one; in evaluation it need not."""
    is_large = op.forward is not None and min(op.forward.input_rms, op.forward.output_rms) >= INPUT_RMS
    return is_large and op.factor is Factor.NORM and "BatchNorm" in op.name


def made_large_by(op: Op, view: View) -> float:
    """The inputs' RMS where it alone makes the operand of `op` large: of unit inputs it would be small; else 0.

    Layers in a row pass a scale on as it is, or less of it.
    """
    inputs, below = [input_rms(layer, view) for layer in large_inputs(view)], layer_below(op, view.paths)
    scale = scale_of(below, view.paths) if below is not None else None
    if not inputs or scale is None:
        return 0.0
    return max(inputs) if SWING < scale.output_rms <= SWING * max(inputs) else 0.0


def target_distance(view: View) -> float:
    """Squared errors only: rms(output - target) over rms(output), the largest of all."""
    return max((_distance(op, view) for op in view.trace.ops if _is_squared_error(op)), default=0.0)


def _is_squared_error(op: Op) -> bool:
    return base_name(op.name) == "MseLoss" or (op.objective is not None and op.objective.function == "mse_loss")


def _distance(op: Op, view: View) -> float:
    error, layer = _error(op, view), layer_below(op, view.paths)
    if layer is None or layer.forward is None or layer.forward.output_rms == 0.0:
        return 0.0  # an output layer that starts at zero has no scale yet
    return error / max(layer.forward.output_rms, 1.0)  # a last layer that starts small has no scale of its own


def _error(op: Op, view: View) -> float:
    """rms(output - target): the root of the squared error itself, which may be one of the loss's terms among others.

    Where its value was not seen and it is the whole loss: L = c sum(e^2) and dL/dy = 2 c e, so that
    2 L / (|dL/dy| sqrt(n)) = rms(e). Of two sides that both learn neither is a target.
    """
    if op.objective is not None:
        return math.sqrt(max(op.objective.value, 0.0))
    errors = [stats for stats in op.passed if stats is not None]
    if op.index > 0 or len(errors) != 1 or errors[0].norm == 0.0:
        return 0.0
    return 2.0 * abs(view.trace.loss) / (errors[0].norm * math.sqrt(errors[0].numel))


def is_far_off(view: View) -> bool:
    """Whether a known loss is two orders of magnitude above what the best constant gets."""
    objectives = [op.objective for op in view.trace.ops if op.objective is not None]
    return any(one.constant > 0.0 and one.value > TARGET_RATIO * one.constant for one in objectives)
