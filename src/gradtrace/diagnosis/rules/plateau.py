"""Does the loss pull an output off the flat side of its squashing function, too weakly, as the slope there is small?

A likelihood makes up for the slope and a classifier that is right is not pulled off, however flat it is
(`measure.plateau`). What is left is a loss that is flattest where it is to be lowered most: log(1 - D) of a generator
whose fakes the discriminator tells apart, or a squared error of confident and wrong probabilities.

The value of such a loss says nothing (log(1 - D) is near zero, its maximum), and where outputs are about right the
pull is noise, off the flat side as often as further in. So nearly all of what is flat must be pulled off it.

And the way through the slope must be the only one: the density of a squashed action, log(1 - tanh(u)^2) written in u,
moves u however flat tanh is there (Haarnoja et al. 2018, appendix C).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import layer_below, places
from gradtrace.diagnosis.naming import told_op
from gradtrace.diagnosis.objectives import has_learnt
from gradtrace.diagnosis.thresholds import (
    CLEAR_DECADES,
    DOMINANT_FRAC,
    HEALTHY_DECADES,
    MIN_SAMPLES,
    SATURATED_MAJORITY,
    TRAPPED_FRAC,
)
from gradtrace.diagnosis.wording import percent
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.of_losses import LIKELIHOOD

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene, View
    from gradtrace.measure.path import Paths
    from gradtrace.records.trace import Op, TensorStats


def uncompensated(scene: Scene) -> list[Finding]:
    """One finding: the output whose slope takes most."""
    found = [_worst(view) for view in scene.views]
    op = found[0]
    if op is None or op.plateau is None or not all(found) or any(map(has_learnt, scene.views)):
        return []
    view, stats = scene.views[0], op.plateau
    below, lost = layer_below(op, view.paths), _lost(op)
    adaptive = bool(scene.exhibit.optimizers) and all(optimizer.adaptive for optimizer in scene.exhibit.optimizers)
    grave = lost >= CLEAR_DECADES and not adaptive  # an adaptive step is as long, and led by the few that are not flat
    return [
        Finding(
            symptom=Symptom.LOSS_SATURATED,
            cause=Cause.LOSS_FUNCTION,
            where=places([op, *([below] if below is not None else [])], view.paths),
            severity=Severity.CRITICAL if grave else Severity.WARNING,
            message=f"{percent(stats.off_frac)} of {told_op(op, view.trace, view.paths)} is on the flat side and the "
            f"loss pulls it off, but the slope there takes {stats.lost_decades:.1f} decades of the gradient, and the "
            f"loss makes up for {percent(max(0.0, 1.0 - stats.left))} of them: it is flattest where it ought to fall "
            "most, as log(1 - D) is for a generator whose fakes are told apart.",
            evidence=(
                Evidence("on the flat side, and pulled off it", stats.off_frac, "fraction"),
                Evidence("decades that the slope takes", lost, "decades"),
                Evidence("of them left in the gradient", stats.left, "fraction"),
            ),
            remedies=(LIKELIHOOD,),
            source=op.site.source,
        )
    ]


def _worst(view: View) -> Op | None:
    found = [op for op in view.trace.ops if _is_uncompensated(op) and not _is_led_past(op, view.paths)]
    return max(found, key=_lost, default=None)


def _lost(op: Op) -> float:
    """Decades that the slope takes and the loss does not make up for."""
    return op.plateau.lost_decades * min(op.plateau.left, 1.0) if op.plateau is not None else 0.0


def _is_uncompensated(op: Op) -> bool:
    stats, passed = op.plateau, op.passed[0] if op.passed else None
    if stats is None or passed is None or stats.off_frac * passed.numel < MIN_SAMPLES:
        return False
    most = stats.off_frac > SATURATED_MAJORITY and stats.off_of_flat >= 1.0 - TRAPPED_FRAC
    return most and stats.left >= DOMINANT_FRAC and _lost(op) >= HEALTHY_DECADES


def _is_led_past(op: Op, paths: Paths) -> bool:
    """Whether the operand of the squashing function gets, on some way around it, more than the slope lets through.

    On the flat side that is the gradient that arrives times the slope there, 10^-lost of the steepest.
    """
    below = op.targets[0] if op.targets else None
    if below is None or op.plateau is None or op.received is None:
        return False
    let_through = op.received.rms * 10.0**-op.plateau.lost_decades
    others = [paths.ops[index].passed[slot] for index, slot in paths.arrivals[below[0]] if index != op.index]
    return any(other is not None and _nearly_all_above(other, let_through) for other in others)


def _nearly_all_above(gradient: TensorStats, level: float) -> bool:
    """Whether all but a few entries of a gradient are larger than `level`, by its histogram of powers of two."""
    counted = sum(count for _, count in gradient.log2_counts)
    above = sum(count for exponent, count in gradient.log2_counts if 2.0**exponent >= level)
    return counted > 0 and (1.0 - gradient.zero_frac) * above / counted >= 1.0 - TRAPPED_FRAC
