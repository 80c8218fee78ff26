"""What makes a step too large: data scale, reduction, weights or rate? And how that is said."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.data_scale import input_rms, large_inputs, target_distance
from gradtrace.diagnosis.layer import is_layer, owner, place, rms_to_fan_in
from gradtrace.diagnosis.thresholds import INPUT_RMS, LARGE_WEIGHT, SUM_FACTOR, TARGET_RATIO, UPDATE_REPLACES
from gradtrace.diagnosis.trial import fails, weights_moved
from gradtrace.records.vocabulary import Cause

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


def large_layers(view: View) -> list[Op]:
    """Layers of weights twice as large as He's, where the last one's output is an order of magnitude above the data."""
    layers = [op for op in view.trace.ops if is_layer(op) and op.forward is not None and "Embedding" not in op.name]
    if not layers:
        return []
    made, given = layers[0].forward, layers[-1].forward
    if made is None or given is None or made.output_rms < INPUT_RMS * max(given.input_rms, 1.0):
        return []
    return [op for op in layers if any(size >= LARGE_WEIGHT for size in rms_to_fan_in(op, view.trace))]


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
