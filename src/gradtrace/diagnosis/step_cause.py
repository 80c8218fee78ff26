"""What makes a step too large: data scale, reduction, weights or rate? And how that is said."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.data_scale import input_rms, large_inputs, target_distance
from gradtrace.diagnosis.layer import is_layer, layer_below, owner, place, rms_to_fan_in
from gradtrace.diagnosis.thresholds import INPUT_RMS, LARGE_WEIGHT, SUM_FACTOR, TARGET_RATIO, UPDATE_REPLACES
from gradtrace.diagnosis.trial import fails, weights_moved
from gradtrace.records.vocabulary import Cause, Factor

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene, View
    from gradtrace.records.exhibit import Training
    from gradtrace.records.trace import Op


def cause_of_steps(scene: Scene, training: Training) -> Cause:
    """Data scale, reduction or learning rate: what would bring the largest step back below its weight."""
    view = scene.views[0]
    summed = scene.exhibit.summed_over
    worst = max((u.ratio for u in weights_moved(training)), default=0.0)
    adaptive = all(optimizer.adaptive for optimizer in scene.exhibit.optimizers)
    if not adaptive and (large_inputs(view) or target_distance(view) > TARGET_RATIO):
        return Cause.INPUT_SCALE
    if summed is not None and summed > SUM_FACTOR and not adaptive:
        batch = max(view.trace.batch_size or 1, 1)
        if worst / batch < UPDATE_REPLACES:
            return Cause.REDUCTION_SCALE
    if scene.exhibit.tenth is not None and fails(scene, scene.exhibit.tenth) and large_layers(view):
        return Cause.LARGE_WEIGHTS
    return Cause.LEARNING_RATE


def large_writers(view: View) -> list[Op]:
    """Of `large_layers`, those that write the weights of others."""
    maps = [op for op in view.trace.ops if op.forward is not None and _is_written(op, view)]
    writers = {id(_writer(op, view)) for op in maps if any(size >= LARGE_WEIGHT for size in _sizes(op, view))}
    return [op for op in large_layers(view) if id(op) in writers]


def large_layers(view: View) -> list[Op]:
    """Layers of weights twice as large as He's, where the last one's output is an order of magnitude above the data.

    Of weights that another network writes, it is the layer that writes them.
    """
    maps = [op for op in view.trace.ops if op.forward is not None and (_is_map(op) or _is_written(op, view))]
    if not maps:
        return []
    made, given = maps[0].forward, maps[-1].forward
    if made is None or given is None or made.output_rms < INPUT_RMS * max(given.input_rms, 1.0):
        return []
    large = [op for op in maps if any(size >= LARGE_WEIGHT for size in _sizes(op, view))]
    return list({id(one): one for op in large if (one := op if op.weights else _writer(op, view)) is not None}.values())


def _is_map(op: Op) -> bool:
    return is_layer(op) and "Embedding" not in op.name


def _is_written(op: Op, view: View) -> bool:
    """Whether an op is a linear map of torch's (``F.linear``) whose weights were computed by layers."""
    is_map = op.function == "linear" and op.factor is Factor.WEIGHT and not op.weights
    return is_map and op.received is not None and _writer(op, view) is not None


def is_map_of(op: Op, writer: Op, view: View) -> bool:
    """Whether `writer` made the weights of `op`."""
    return _is_written(op, view) and _writer(op, view) is writer


def _writer(op: Op, view: View) -> Op | None:
    """The layer that made the weights, the last operand of a product."""
    weight = op.targets[-1]
    below = layer_below(view.trace.ops[weight[0]], view.paths) if weight is not None else None
    return below if below is not None and below.weights else None


def _sizes(op: Op, view: View) -> list[float]:
    """rms(w) sqrt(fan_in) by the weights; of weights that were written, and not kept, by what they do to a signal."""
    if op.weights or op.forward is None:
        return rms_to_fan_in(op, view.trace)
    return [op.forward.output_rms / op.forward.input_rms] if op.forward.input_rms else []


def blamed_places(cause: Cause, scene: Scene, names: list[str]) -> tuple[str, ...]:
    """Where to look: the large layers, what takes large inputs, or the weights of `names`."""
    if cause is Cause.LARGE_WEIGHTS:
        names = [op.weights[-1] for op in reversed(large_layers(scene.views[0]))]
    if cause is Cause.INPUT_SCALE:
        first = [place(op, scene.views[0].paths) for op in large_inputs(scene.views[0])]
        return tuple(dict.fromkeys(first or [owner(name) for name in names] + ["targets"]))
    return tuple(dict.fromkeys(owner(name) for name in names))


def reason(cause: Cause, scene: Scene) -> str:
    """The cause in a sentence with its numbers."""
    view = scene.views[0]
    if cause is Cause.INPUT_SCALE:
        if inputs := large_inputs(view):
            return f"The input has a root mean square of {input_rms(inputs[0], view):.3g}, where about 1 is expected."
        return f"The targets lie {target_distance(view):.3g} times the output's own scale away."
    if cause is Cause.LARGE_WEIGHTS:
        return "At a tenth of the learning rate it is no better: the weights are too large, layer by layer."
    if cause is Cause.REDUCTION_SCALE:
        return (
            f"The loss is a sum over the batch ({view.trace.batch_size}): its gradient is that many times larger than "
            "a mean's, and the learning rate does not allow for it."
        )
    rate = max((optimizer.learning_rate for optimizer in scene.exhibit.optimizers), default=math.nan)
    tenth = scene.exhibit.tenth
    tried = "" if tenth is None else " a tenth fails too" if fails(scene, tenth) else " a tenth of it does not do this"
    return f"The steps are too large (learning rate {rate:g}{';' if tried else ''}{tried})."
