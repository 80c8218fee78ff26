"""Is the whole gradient below the optimizer's eps? And is there a layer whose output nothing can change?

Adam's step is rate * m / (sqrt(v) + eps) (Kingma & Ba 2015, alg. 1), of gradients far above eps as long as the rate, of
those far below it shorter by |g| / eps: a loss that was divided once too often is not evened out any more. A gradient
as small is right at a minimum, so it is a fault where a known loss is no better than a constant's, and else a remark.

Layer norm over one entry, and group norm with a group of its own for each channel of a single pixel, return their bias,
(x - mean(x)) = 0, whatever comes in. So does dropout with p = 1, which is the fraction that is dropped.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.besides import dropped_frac
from gradtrace.diagnosis.layer import place
from gradtrace.diagnosis.naming import told_op
from gradtrace.diagnosis.objectives import has_learnt, objectives
from gradtrace.diagnosis.scales import operands
from gradtrace.diagnosis.thresholds import ALL_DROPPED_CHANCE, CLEAR_DECADES, HEALTHY_DECADES, MOST_NOISE
from gradtrace.diagnosis.wording import NORMALISED_ALONE, OVER_EPS, decades
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom
from gradtrace.remedies.catalogue import LESS_DROPOUT, SEVERAL_FEATURES
from gradtrace.remedies.of_loops import SMALLER_EPS
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene, View
    from gradtrace.records.trace import Op

_LAYER_NORMS = {"NativeLayerNorm", "FusedLayerNorm"}


def judge(scene: Scene) -> list[Finding]:
    """At most one finding each."""
    if not scene.views:
        return []
    found = [_below_eps(scene), _constant(scene.views[0]), _all_dropped(scene.views)]
    return [finding for finding in found if finding is not None]


def _below_eps(scene: Scene) -> Finding | None:
    optimizers = scene.exhibit.optimizers
    if not optimizers or not all(one.adaptive and one.eps > 0.0 for one in optimizers):
        return None
    below = min(decades_below_eps(view, scene) for view in scene.views)
    if not HEALTHY_DECADES <= below < math.inf or any(map(has_learnt, scene.views)):
        return None
    known = [objectives(view) for view in scene.views]
    severity = Severity.INFO
    told = "At a minimum that is as it should be; anywhere else nothing moves."
    if all(known):
        severity = Severity.CRITICAL if below >= CLEAR_DECADES else Severity.WARNING
        told = (
            f"And the loss function gives {known[0][0].value:.4g}, where a constant gets {known[0][0].constant:.4g}. "
            "Take the factor off the loss, or lower eps."
        )
    one = optimizers[0]
    return Finding(
        symptom=Symptom.UNDERFLOW,
        cause=Cause.NUMERIC_FORMAT,
        where=("loss",),
        severity=severity,
        message=f"The gradient of every parameter is {decades(below)} or more below {one.kind}'s eps ({one.eps:g}): "
        f"its steps are that much shorter than the rate. {told}",
        evidence=(Evidence(OVER_EPS, -below, "decades"),),
        remedies=(SMALLER_EPS,),
    )


def decades_below_eps(view: View, scene: Scene) -> float:
    """[decades] by which the largest gradient that an optimizer is given is below its eps; inf: all are zero."""
    eps = {name: one.eps for one in scene.exhibit.optimizers for name in one.parameters}
    ratios = [p.gradient.rms / eps[p.name] for p in view.trace.parameters if p.gradient is not None and p.name in eps]
    largest = max(ratios, default=math.inf)
    return -math.log10(largest) if largest > 0.0 else math.inf


def _constant(view: View) -> Finding | None:
    """Layer norm or group norm over a single entry."""
    op = next((op for op in view.trace.ops if _normalises_one(op, view)), None)
    if op is None:
        return None
    return Finding(
        symptom=Symptom.DISCONNECTED,
        cause=Cause.DETACHED_GRAPH,
        where=(place(op, view.paths),),
        severity=Severity.CRITICAL,
        message=f"{told_op(op, view.trace, view.paths)} normalises over a single entry: what is left is its bias, "
        "whatever comes in, and no gradient but rounding goes past it. Normalise over several features, or "
        "remove it.",
        evidence=(Evidence(NORMALISED_ALONE, 1.0),),
        remedies=(SEVERAL_FEATURES,),
        source=op.site.source,
    )


def _all_dropped(views: tuple[View, ...]) -> Finding | None:
    """A dropout that drops all that there is, on each batch."""
    dropped = [[op for op in view.trace.ops if dropped_frac(op) == 1.0 and _not_by_chance(op)] for view in views]
    if not all(dropped):
        return None
    view, op = views[0], dropped[0][0]
    return Finding(
        symptom=Symptom.DISCONNECTED,
        cause=Cause.DETACHED_GRAPH,
        where=(place(op, view.paths),),
        severity=Severity.CRITICAL,
        message=f"{told_op(op, view.trace, view.paths)} drops every entry: nothing goes past it, forward or backward.",
        evidence=(Evidence("entries that are dropped", 1.0, "fraction"),),
        remedies=(LESS_DROPOUT,),
        source=op.site.source,
    )


def _not_by_chance(op: Op) -> bool:
    """Whether p < 1 as high as is of any use, MOST_NOISE = p / (1 - p), would leave some of so many channels."""
    channels = math.prod(op.received.shape[:2]) if op.received is not None else 0
    return (MOST_NOISE / (1.0 + MOST_NOISE)) ** channels < ALL_DROPPED_CHANCE


def _normalises_one(op: Op, view: View) -> bool:
    if op.factor is not Factor.NORM or op.received is None:
        return False
    if base_name(op.name) == "NativeGroupNorm":
        return math.prod(op.received.shape[2:]) == 1 and _makes_nothing(op)
    if base_name(op.name) not in _LAYER_NORMS:
        return False
    own = [parameter.numel for parameter in operands(op, view)]
    if own:
        return max(own) == 1
    return bool(op.received.shape) and op.received.shape[-1] == 1 and _swallows(op)


def _swallows(op: Op) -> bool:
    """Without weights the extent is not known: over several axes, gradient would go past it."""
    passed = [stats.norm for stats in op.passed if stats is not None]
    return op.received is not None and bool(passed) and max(passed) <= 10**-CLEAR_DECADES * op.received.norm


def _makes_nothing(op: Op) -> bool:
    """Whether what a norm multiplies by its gain is zero: so is then the gain's gradient, and not the shift's."""
    gain, shift = op.passed[1:3] if len(op.passed) > 2 else (None, None)
    if gain is not None and shift is not None:
        return gain.norm <= 10**-CLEAR_DECADES * shift.norm
    return _swallows(op)
