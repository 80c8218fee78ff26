"""Units that no longer respond: ReLU-like ones at zero on every sample, and layers on the flat part of their curve.

ReLU's ordinary zeros (half of a centred pre-activation) are healthy, and so are gates, which multiply something and may
close (but not so far that nothing could open them), and the output's own squashing: the rule of the loss looks at it.
Saturation counts by what it takes: the product of the mean |a'| of the saturated layers behind one another, of their
maxima. While a tenth is left (of a wide first layer, say) it is a remark.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

from gradtrace.diagnosis.attribution import HALF_FLAT, RECURRENT_FUNCTIONS, ROWS
from gradtrace.diagnosis.besides import with_masks
from gradtrace.diagnosis.data_scale import idle_norm, is_first, scale_of_recurrence
from gradtrace.diagnosis.gate import BOUNDED, divides_its_own, gate_sites, is_closed, is_output, site_of
from gradtrace.diagnosis.layer import layer_below, places
from gradtrace.diagnosis.naming import told_op
from gradtrace.diagnosis.scales import starts_at_zero
from gradtrace.diagnosis.silence import DEADLY, Key, by_key, dead_layers, deadly_units, samples_alike
from gradtrace.diagnosis.thresholds import (
    ATTENTION_MIN_ROWS,
    DEAD_SIGMAS,
    HEALTHY_DECADES,
    INPUT_RMS,
    LETS_THROUGH,
    MIN_SAMPLES,
    SATURATED_MAJORITY,
    dead_frac,
)
from gradtrace.diagnosis.wording import percent
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene, View
    from gradtrace.records.trace import ActivationStats, ForwardStats, Op, Trace

LEFT = "mean |a'|, of its maximum"
"""Evidence of saturated layers: what is left of their derivatives, multiplied along the way."""


def judge(scene: Scene) -> list[Finding]:
    """Dead layers, saturated layers: one finding each."""
    if not scene.views:
        return []
    found = [_dead(scene), saturated(scene)]
    return [finding for finding in found if finding is not None]


def _dead(scene: Scene) -> Finding | None:
    view = scene.views[0]
    dead = dead_layers(scene.traces, least_frac=scene.limits.dead_frac)
    layers = [(op, frac) for op, frac in dead if not fed_with_nothing(op, view)]
    if not layers:
        return None
    layers.sort(key=lambda pair: (-pair[1], pair[0].sequence))
    op, frac = layers[0]
    assert op.activation is not None
    nothing = op.activation.preactivation_quantiles and not any(op.activation.preactivation_quantiles)
    # all exactly zero: so are the weights; and where next to nothing of the data arrives, the biases alone decide
    cause = Cause.SMALL_WEIGHTS if nothing or _has_faded(op, view) else Cause.SATURATED_PREACTIVATION
    severity, note = Severity.CRITICAL if frac == 1.0 else Severity.WARNING, ""
    if all(each == 1.0 and _is_closed_by_chance(one, view) for one, each in layers):
        severity = Severity.INFO
        note = " So few units fall silent together by chance, and the gradient goes past them."
    found = Finding(
        symptom=Symptom.DEAD_UNITS,
        cause=_input_or(cause, op, scene.views[0]),
        where=_where([op for op, _ in layers], scene.views[0]),
        severity=severity,
        message=f"{percent(frac)} of the {op.activation.num_units} units of {told_op(op, view.trace, view.paths)} are "
        f"zero on every sample and learn nothing; {_preactivations(op.activation)}.{note}",
        evidence=(
            Evidence("dead units", frac, "fraction"),
            Evidence("layers with dead units", len(layers), "layers"),
            Evidence("mean pre-activation", op.activation.preactivation_mean),
        ),
        remedies=remedies_for(Symptom.DEAD_UNITS, cause),
        source=op.site.source,
    )
    return with_masks(found, view.trace)


def _is_closed_by_chance(op: Op, view: View) -> bool:
    """A narrow side way, as a squeeze of 4 units: where samples look alike each is silent at every second start.

    One of k such layers is wholly silent with the odds of k 2^-units; and what lies in front of it learns.
    """
    if op.activation is None:
        return False
    odds = len(deadly_units(view.trace)) * 2.0**-op.activation.num_units
    if odds < NormalDist().cdf(-DEAD_SIGMAS):
        return False
    learning = {p.name for p in view.trace.parameters if p.gradient is not None and p.gradient.norm > 0.0}
    return bool(learning & _weights_in_front(op.index, view))


def _weights_in_front(index: int, view: View) -> set[str]:
    """Of all layers that what arrives at an op was made by."""
    found, stack, seen = set[str](), [index], set[int]()
    while stack:
        op = view.trace.ops[stack.pop()]
        if op.index not in seen:
            seen.add(op.index)
            found |= set(op.weights)
            stack += [target[0] for target in op.targets if target is not None]
    return found


def _has_faded(op: Op, view: View) -> bool:
    """Whether what feeds a unit has lost two decades of the data's scale on its way, of the way through the network."""
    below = layer_below(op, view.paths)
    given = [o.forward.input_rms for o in view.trace.ops if o.weights and o.forward and is_first(o, view)]
    if below is None or below.forward is None or not given or is_first(below, view):
        return False
    return below.forward.input_rms <= 10**-HEALTHY_DECADES * max(given)


def saturated(scene: Scene) -> Finding | None:
    """Layers on the flat part of their curve."""
    per_trace = [_saturated_ops(trace, scene.limits.saturated_frac) for trace in scene.traces]
    keys = set.intersection(*(set(ops) for ops in per_trace))
    view = scene.views[0]
    ops = sorted((op for key, op in per_trace[0].items() if key in keys), key=lambda op: op.sequence)
    gates = gate_sites(view)
    ops = [op for op in ops if (site_of(op) not in gates or is_closed(op)) and not is_output(op, view)]
    ops = [op for op in ops if not divides_its_own(op, view.paths)]
    if not ops:
        return None
    op = ops[0]
    assert op.activation is not None
    num_alike = sum(1 for other in view.trace.ops if other.activation and other.factor is Factor.ACTIVATION)
    cause = _input_or(Cause.SATURATED_PREACTIVATION, op, view)
    stats = {o.index: o.activation for o in ops if o.activation is not None}
    left = _left_behind({i: a.derivative_mean / a.derivative_max for i, a in stats.items()}, view)
    passed = _left_behind({i: a.derivative_rms / a.derivative_max for i, a in stats.items()}, view)
    severity, note = (
        Severity.INFO,
        f" {percent(left)} of its slope is left, and the width carries the gradient past it.",
    )
    if left < LETS_THROUGH or scene.limits.saturated_frac < SATURATED_MAJORITY:  # a project wants to hear of fewer
        grave = 2 * len(ops) >= num_alike and passed < LETS_THROUGH
        severity, note = (Severity.CRITICAL if grave else Severity.WARNING), ""
    return Finding(
        symptom=Symptom.SATURATED,
        cause=cause,
        where=_where(ops, view),
        severity=severity,
        message=f"{percent(op.activation.saturated_frac)} of {told_op(op, view.trace, view.paths)} is saturated "
        f"(its derivative under 5 % of {op.activation.derivative_max:g}); {_preactivations(op.activation)}."
        + (f" {_input_words(op, view)}" if cause is Cause.INPUT_SCALE else "")
        + note,
        evidence=(
            Evidence("saturated", op.activation.saturated_frac, "fraction"),
            Evidence(LEFT, left, "fraction"),
            Evidence("saturated layers", len(ops), "layers"),
            Evidence("std of the pre-activation", op.activation.preactivation_std),
        ),
        remedies=remedies_for(Symptom.SATURATED, cause),
        source=op.site.source,
    )


def _left_behind(slopes: dict[int, float], view: View) -> float:
    """Of a gradient, behind the last of these ops by the way that leaves most of it: they may lie side by side."""
    left = [1.0] * len(view.trace.ops)
    for op in view.trace.ops:  # from the loss on
        ways = [left[source] for source, _ in view.paths.arrivals[op.index]]
        left[op.index] = max(ways, default=1.0) * slopes.get(op.index, 1.0)
    return min(left[index] for index in slopes)


def fed_with_nothing(op: Op, view: View) -> bool:
    """Whether a unit is silent because what feeds it is multiplied by a parameter that starts at zero and leaves it."""
    below: Op | None = layer_below(op, view.paths)
    if below is None or below.forward is None or below.forward.input_rms > 0.0:
        return False
    stack, seen = [t[0] for t in below.targets if t is not None], set[int]()
    while stack:
        source = view.trace.ops[stack.pop()]
        if source.index in seen:
            continue
        seen.add(source.index)
        if starts_at_zero(source, view):
            return True
        if source.forward is None or source.forward.output_rms == 0.0:
            stack.extend(t[0] for t in source.targets if t is not None)
    return False


def _saturated_ops(trace: Trace, most_frac: float) -> dict[Key, Op]:
    ops = by_key(trace)
    one_sided = [op.activation for op in ops.values() if op.activation and op.activation.function in HALF_FLAT]
    num_alike = sum(samples_alike(a.saturated_units / max(a.num_units, 1), max(a.num_units, 1)) for a in one_sided)
    return {key: op for key, op in ops.items() if _is_saturated(op, num_alike, most_frac)}


def _is_saturated(op: Op, num_alike: int, most_frac: float) -> bool:
    """More than `most_frac` of it.

    `num_alike`: layers flat on one side by design whose samples look alike; this one must stand out of them.
    """
    a = op.activation
    if a is None or op.factor is not Factor.ACTIVATION or a.function in DEADLY:
        return False
    if a.function in ROWS:  # a router, or attention over something else than keys: it may choose, but must be movable
        return a.num_samples >= ATTENTION_MIN_ROWS and is_closed(op)
    if a.function in HALF_FLAT:  # flat on one side by design: judge whole units, as for ReLU
        least = dead_frac(a.num_units, num_alike) * a.num_units
        return a.num_samples >= MIN_SAMPLES and a.saturated_units >= least
    return a.saturated_frac > most_frac and a.function in BOUNDED


def _where(ops: list[Op], view: View) -> tuple[str, ...]:
    """The activations' own modules, and the layers that feed them."""
    names: dict[str, None] = {}
    for op in ops:
        below = layer_below(op, view.paths)
        names |= dict.fromkeys(places([op] + ([below] if below is not None else []), view.paths))
    return tuple(names)


def _input_or(cause: Cause, op: Op, view: View) -> Cause:
    """Whether the input made the pre-activations large: a first layer, fed with an order of magnitude too much."""
    scale = _fed_by_data(op, view)
    if scale is None:
        return cause
    gain = scale.output_rms / max(scale.input_rms, 1e-30)
    return Cause.INPUT_SCALE if scale.input_rms >= INPUT_RMS and gain < INPUT_RMS else cause


def _fed_by_data(op: Op, view: View) -> ForwardStats | None:
    """What the first layer that feeds an op saw and made; None: another layer feeds it."""
    if op.function in RECURRENT_FUNCTIONS:
        return scale_of_recurrence(op.site.module or "", view)
    below = layer_below(op, view.paths)
    return below.forward if below is not None and is_first(below, view) else None


def _input_words(op: Op, view: View) -> str:
    below, scale = layer_below(op, view.paths), _fed_by_data(op, view)
    assert below is not None
    assert scale is not None
    told = f"The input has a root mean square of {scale.input_rms:.3g}, where about 1 is expected."
    norm = idle_norm(below, view)
    if norm is None:
        return told
    name = told_op(norm, view.trace, view.paths)
    return f"{told} {name} lets it through: it is in evaluation mode, and its statistics are not these data's."


def _preactivations(a: ActivationStats) -> str:
    if not a.preactivation_quantiles:
        return "its pre-activations are on the flat part"
    q = a.preactivation_quantiles
    return f"nine in ten pre-activations lie between {q[1]:.3g} and {q[5]:.3g}"
