"""Is the loss far above the best constant's, or are the targets far from the output?"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from gradtrace.diagnosis.data_scale import is_far_off, large_inputs, scale_of, target_distance
from gradtrace.diagnosis.layer import is_layer, place
from gradtrace.diagnosis.naming import told_op
from gradtrace.diagnosis.step_cause import blamed_places, is_map_of, large_writers, reason
from gradtrace.diagnosis.thresholds import FOLLOWED_STEPS, INPUT_RMS, TARGET_RATIO
from gradtrace.diagnosis.wording import steps
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.diagnosis.scene import Scene, View
    from gradtrace.records.exhibit import OptimizerStats
    from gradtrace.records.trace import Op


def far_off(scene: Scene, where: str = " on a copy", num_steps: int | None = None) -> list[Finding]:
    """A loss far above the best constant's, by inputs or a last layer far too large, and steps do not bring it down.

    An adaptive step is as long for any gradient: outputs that are s times too large take s times as many to come down.
    Large inputs stay; a last layer is brought down in time, and what counts is whether a constant still does better.
    """
    view, followed = scene.views[0], scene.exhibit.followed
    inputs, head = large_inputs(view), _large_head(view)
    writer = next(iter(large_writers(view)), None) if head is None else None
    head = head or writer
    blamed = inputs[0] if inputs else head
    if followed is None or not followed.losses or blamed is None or not all(is_far_off(v) for v in scene.views):
        return []
    worst = max((op.objective for op in view.trace.ops if op.objective), key=lambda one: one.value - one.constant)
    tail = [loss for loss in followed.losses[-TAIL:] if math.isfinite(loss)]
    left = statistics.median(tail) / followed.losses[0] * worst.value if tail and followed.losses[0] else math.inf
    grave = left > TARGET_RATIO * worst.constant
    if not grave and (inputs or left <= worst.constant):
        return []
    cause = Cause.INPUT_SCALE if inputs else Cause.LARGE_WEIGHTS
    why = reason(cause, scene) if inputs else _writer_words(view) if writer is not None else _head_words(blamed, view)
    return [
        Finding(
            symptom=Symptom.EXPLODING,
            cause=cause,
            where=blamed_places(cause, scene, []) if inputs else (place(blamed, view.paths),),
            severity=Severity.CRITICAL if grave else Severity.WARNING,
            message=f"The loss is {worst.value:.3g}, where a constant output gets {worst.constant:.3g}, and after "
            f"{steps(num_steps or followed.num_steps)}{where} still {left:.3g}. {why}",
            evidence=(
                Evidence("loss over that of the best constant", worst.value / worst.constant),
                Evidence(f"the same after steps{where}", left / worst.constant),
            ),
            remedies=remedies_for(Symptom.EXPLODING, cause),
            source=blamed.site.source,
        )
    ]


def _large_head(view: View) -> Op | None:
    """The last layer, where it makes an output an order of magnitude above what comes in, and above unit scale."""
    head = next((op for op in view.trace.ops if is_layer(op)), None)
    scale = scale_of(head, view.paths) if head is not None else None
    large = scale is not None and scale.output_rms >= INPUT_RMS * max(scale.input_rms, 1.0)
    return head if large else None


def _writer_words(view: View) -> str:
    writer = large_writers(view)[0]
    maps = [op.forward for op in view.trace.ops if op.forward is not None and is_map_of(op, writer, view)]
    grown = max((m.output_rms / m.input_rms for m in maps if m.input_rms > 0.0), default=math.nan)
    return (
        f"{told_op(writer, view.trace, view.paths)} writes the weights of {len(maps)} maps, each of which makes its "
        f"signal up to {grown:.3g} times as large: what is written is too large to begin with."
    )


def _head_words(head: Op, view: View) -> str:
    scale = scale_of(head, view.paths)
    assert scale is not None
    return (
        f"The output starts at a root mean square of {scale.output_rms:.3g}, of which "
        f"{told_op(head, view.trace, view.paths)} makes {scale.output_rms / max(scale.input_rms, 1e-30):.3g}: its "
        "weights are too large to begin with."
    )


TAIL = 5
"""Last losses of a trial whose median counts."""


def targets(scene: Scene) -> list[Finding]:
    """Targets two orders of magnitude beyond the output's scale, where steps were not seen to cover the distance."""
    distances = [target_distance(view) for view in scene.views]
    if min(distances) <= TARGET_RATIO:
        return []
    training = scene.exhibit.training
    needed = steps_to_targets(training.losses, scene.exhibit.optimizers) if training is not None else math.inf
    covered = "" if needed > FOLLOWED_STEPS else f" At the pace of the steps on a copy {steps(needed)} get there."
    view = scene.views[0]
    layer = next(op for op in view.trace.ops if is_layer(op))
    return [
        Finding(
            symptom=Symptom.EXPLODING,
            cause=Cause.INPUT_SCALE,
            where=(place(layer, view.paths), "targets"),
            severity=Severity.INFO if covered else Severity.WARNING,
            message=f"The targets lie {distances[0]:.3g} times the output's own scale away: the gradient of the "
            f"squared error is that much larger than the network is initialised for. Normalise the targets.{covered}",
            evidence=(Evidence("distance to the target over the output's scale", distances[0]),),
            remedies=remedies_for(Symptom.EXPLODING, Cause.INPUT_SCALE),
        )
    ]


def steps_to_targets(losses: Sequence[float], optimizers: Sequence[OptimizerStats]) -> float:
    """How many adaptive steps the distance takes, each as long for any gradient; inf where none was seen to shorten it.

    The root of a squared error is the distance: K steps that leave sqrt(L_K / L_0) of it cover the rest at that pace.
    """
    losses = [loss for loss in losses if math.isfinite(loss)]
    adaptive = bool(optimizers) and all(optimizer.adaptive for optimizer in optimizers)
    if not adaptive or len(losses) < 2 or not losses[0] > 0.0:
        return math.inf
    left = math.sqrt(max(statistics.median(losses[-TAIL:]), 0.0) / losses[0])
    return (len(losses) - 1) / (1.0 - left) if left < 1.0 else math.inf
