"""What a whole trace showed, placed in its run: since when, what led up to it, and whether it does harm.

A trace is a look now and then; the numbers of every step know more. Layers that were alive at the first trace and are
dead or saturated after steps that replaced the weights are so by these steps. And a layer part of whose units are dead,
or whose slope is partly left, is a narrower layer: while the loss keeps falling it is a remark.

What came with steps that were far from healthy to a network that has learnt next to nothing is theirs as well: Adam
moves each weight by its rate, in step with the others, and a few tenths of the weights give another layer's output.

What a recurrence forgets does harm where the data asks for it, which the loss tells beside that of the best constant:
at a half this data is learnt without; between them, and falling, it is being learnt; and in the first steps, or where
steps are so small that a hundred of them are none, nobody knows. Of these all are remarks, and so is one-hot attention
of a network that is at a half. Where samples compete for each class, the best outputs are log p(x | y) / p(x) and a
constant for each y (van den Oord et al. 2018, eq. 5): the right class still has the largest. And a loss that is flat in
the output does not come down; where it does, it is none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.rules.loss import ELASTICITY, OF_CONSTANT
from gradtrace.diagnosis.rules.units import LEFT
from gradtrace.diagnosis.thresholds import (
    FALLEN_FACTOR,
    FOLLOWED_STEPS,
    HEALTHY_DECADES,
    LETS_THROUGH,
    UPDATE_HEALTHY,
)
from gradtrace.diagnosis.timeline.before import before
from gradtrace.diagnosis.timeline.growth import growth_of
from gradtrace.diagnosis.timeline.losses import (
    came_before,
    fallen_before,
    falls_since,
    followed,
    is_on_its_way,
    latest,
    middle,
    moved,
    stays_below,
    trained,
)
from gradtrace.diagnosis.wording import LARGEST_RATIO, OF_OUTPUTS_ALIKE
from gradtrace.records.run import Scalar
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for
from gradtrace.remedies.unsafe import LOSS_ITSELF
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.finding import Finding
    from gradtrace.records.run import Run
    from gradtrace.records.trace import Op, Trace

_OF_LOSS = OF_CONSTANT, OF_OUTPUTS_ALIKE
_FLAT = {Cause.SATURATED_PREACTIVATION, Cause.ATTENTION_SATURATION}


def in_time(
    finding: Finding, run: Run, traced: Sequence[int], over_time: Sequence[Finding], *, is_no_better: bool = False
) -> Finding:
    """A finding of a trace; `traced` are the steps of those that were judged, `over_time` is what the numbers say.

    `is_no_better`: the loss is known not to be below the best constant's, however far it has fallen to come there.
    """
    earlier = [step for step in traced if finding.step is not None and step < finding.step]
    end = followed(run) + (int(run.steps.first[0]) if len(run.steps.first) else 0)
    if earlier:
        events = [f.step for f in over_time if f.step is not None and growth_of(f) is None]
        between = [step for step in events if earlier[-1] < step < (finding.step or 0)]
        finding = replace(finding, step=min(between, default=finding.step))
        finding = _by_the_steps(finding, run)
    if earlier and (note := _by_then_learnt(finding, run)):
        finding = replace(finding, severity=Severity.INFO, message=f"{finding.message} {note}")
    elif finding.step is not None and _leaves_room(finding) and falls_since(run, finding.step):
        note = "The loss has kept falling since."
        finding = replace(finding, severity=Severity.INFO, message=f"{finding.message} {note}")
    elif _is_mild_vanishing(finding) and not is_no_better and fallen_before(run, end):
        note = "The loss has halved all the same, at least: with what the early layers get, this data is learnt."
        finding = replace(finding, severity=Severity.INFO, message=f"{finding.message} {note}")
    elif _is_saturation(finding) and fallen_before(run, end, 10**HEALTHY_DECADES):
        note = "The loss has fallen by two decades all the same: the training does not feel it."
        finding = replace(finding, severity=Severity.INFO, message=f"{finding.message} {note}")
    elif _is_grave_saturation(finding) and falls_since(run, finding.step or 0):
        note = "The loss has kept falling since: what lies behind it learns."
        finding = replace(finding, severity=Severity.WARNING, message=f"{finding.message} {note}")
    elif _is_attention(finding) and _is_learnt_so(run, _constant(finding)):
        note = f"The loss is below half of the {_constant(finding):.3g} that a constant gets: this data is learnt so."
        finding = replace(finding, severity=Severity.INFO, message=f"{finding.message} {note}")
    elif (alike := _evidence(finding, OF_OUTPUTS_ALIKE)) > 0.0 and trained(run, alike):
        note = (
            f"The loss has come down all the same, to {latest(run):.3g}, where outputs that are alike get {alike:.3g}: "
            "what tells the samples of a class from others tells classes apart, if they are about as frequent."
        )
        finding = replace(finding, severity=Severity.INFO, message=f"{finding.message} {note}")
    elif _is_grave_attention(finding) and trained(run, _constant(finding)) and moved(run, finding.step or 0) != 1:
        note = "The loss has come down all the same: what learns is the values, and the rows that are not one-hot."
        finding = replace(finding, severity=Severity.WARNING, message=f"{finding.message} {note}")
    elif _is_flat_loss(finding) and is_on_its_way(run, finding.step or 0):
        note = "The loss has come down in the steps since: they lead out of what is flat."
        finding = replace(finding, severity=Severity.INFO, message=f"{finding.message} {note}")
    if (
        finding.step is not None
        and finding.severity is not Severity.INFO
        and (told := _unasked(finding, run, moves=not any(map(_of_steps_too_small, over_time))))
    ):
        finding = replace(finding, severity=Severity.INFO, message=f"{finding.message} {told}")
    return finding


def in_units_of(run: Run, finding: Finding, trace: Trace, step: int) -> Finding:
    """`finding`, what a constant gets in it as large as the run's losses are.

    A trace is of one backward pass: its loss may be multiplied by a scaler, or be a part of the step's.
    """
    row = int(np.searchsorted(run.steps.first, step, side="right")) - 1
    low, high = (series[row] if row >= 0 else np.nan for series in run.steps.scalar(Scalar.LOSS))
    ratio = (low + high) / 2.0 / trace.loss if trace.loss else np.nan
    if not np.isfinite(ratio) or ratio <= 0.0:
        return finding
    evidence = (replace(e, value=float(e.value * ratio)) if e.name in _OF_LOSS else e for e in finding.evidence)
    return replace(finding, evidence=tuple(evidence))


def birth_in_time(
    birth: Finding, run: Run, *, ran_away: bool, in_parameter: bool, first: Trace | None = None
) -> Finding:
    """The first NaN; where loss or steps ran away in front of it, an overflow, or a spoilt weight, is theirs.

    Unless it is the exponential of the loss itself, as the trace of the `first` step has it: d exp(L) = exp(L) dL makes
    each step as many times as long as the loss is high, and then the steps are the exponential's.
    """
    if birth.cause is Cause.UNSAFE_OP and first is not None and _is_exponential_of_loss(birth.source, first):
        last = came_before(run, birth.step)[1] if birth.step is not None else ""
        told = f"It is the exponential of the loss itself, and multiplies every gradient by its own value. {last}"
        return replace(birth, message=f"{birth.message} {told}".rstrip(), remedies=(LOSS_ITSELF,))
    theirs = birth.cause in (Cause.LARGE_WEIGHTS, Cause.RESIDUAL_GROWTH, Cause.UNSAFE_OP) or in_parameter
    if ran_away and theirs:
        birth = replace(birth, cause=Cause.LEARNING_RATE)
    came = came_before(run, birth.step)[1] if birth.step is not None else ""
    return replace(birth, message=f"{birth.message} {came}".rstrip())


def _is_exponential_of_loss(source: str, trace: Trace) -> bool:
    """Whether an exponential of a single number that the loss is made of stands at `source`."""
    exponentials = (op for op in trace.ops if op.factor is Factor.LOSS and base_name(op.name).startswith("Exp"))
    return bool(source) and any(
        op.site.source == source and op.received is not None and op.received.shape == () and _all_single(op)
        for op in exponentials
    )


def _all_single(op: Op) -> bool:
    return all(stats.shape == () for stats in op.passed if stats is not None)


def _of_steps_too_small(finding: Finding) -> bool:
    return any(e.name == LARGEST_RATIO for e in finding.evidence)


def _unasked(finding: Finding, run: Run, *, moves: bool) -> str:
    """Why nothing says that the data asks for what a recurrence forgets; '' where the loss says so, or nothing can.

    `moves`: whether the steps are long enough to move a weight at all.
    """
    constant = _constant(finding)
    if constant <= 0.0 or finding.symptom is Symptom.SATURATED:
        return ""
    now, beside = latest(run), f"where a constant gets {constant:.3g}"
    if 0.0 <= now * FALLEN_FACTOR <= constant:
        return f"This data is learnt without it: the loss is {now:.3g} by now, {beside}."
    if now < constant and moved(run, middle(run)) == -1:
        return f"The loss is {now:.3g} by now, {beside}, and still falls: what is learnt so far needs none of it."
    if followed(run) < FOLLOWED_STEPS or not moves:
        return f"Whether this data asks for it, the loss will tell: a constant gets {constant:.3g}."
    return ""


def _constant(finding: Finding) -> float:
    """What the best constant gets; 0: not known."""
    return _evidence(finding, OF_CONSTANT)


def _evidence(finding: Finding, name: str) -> float:
    return next((e.value for e in finding.evidence if e.name == name), 0.0)


def _by_the_steps(finding: Finding, run: Run) -> Finding:
    """What no trace showed before: whether steps as large as the weights led up to it, or large ones to no good."""
    flat = finding.symptom in (Symptom.SATURATED, Symptom.DEAD_UNITS) and finding.cause in _FLAT
    led_up = before(run, finding.step) if flat and finding.step is not None else None
    if led_up is None or not (led_up.replaced or _to_no_good(finding, run, led_up.update_ratio)):
        return finding
    told = led_up.sentence if led_up.replaced else (
        f" Steps of up to {led_up.update_ratio:.2g} of a weight led up to it, where {UPDATE_HEALTHY:g} is a lot."
    )  # fmt: skip
    return replace(
        finding,
        cause=Cause.LEARNING_RATE,
        message=f"{finding.message} At the first trace it was not so.{told}",
        remedies=remedies_for(finding.symptom, Cause.LEARNING_RATE),
    )


def _to_no_good(finding: Finding, run: Run, ratio: float) -> bool:
    """Whether steps were beyond what is healthy, and nothing has been learnt with them that counts."""
    return ratio > UPDATE_HEALTHY and followed(run) >= FOLLOWED_STEPS and not trained(run, _constant(finding))


def _is_mild_vanishing(finding: Finding) -> bool:
    """Of two to three decades, which weights that have learnt a little make up for; critical is what they do not."""
    return finding.symptom is Symptom.VANISHING and finding.severity is Severity.WARNING and finding.step is not None


def _is_saturation(finding: Finding) -> bool:
    """Of hidden units: fixed features that others can learn from, where a network that is dead passes nothing on."""
    is_one = finding.symptom is Symptom.SATURATED and finding.cause is not Cause.ATTENTION_SATURATION
    return is_one and finding.step is not None and finding.severity is not Severity.INFO


def _is_grave_saturation(finding: Finding) -> bool:
    return _is_saturation(finding) and finding.severity is Severity.CRITICAL


def _is_flat_loss(finding: Finding) -> bool:
    """Whether the slope at the output is too small for the loss; a step may be longer than the slope is true."""
    return finding.step is not None and any(e.name == ELASTICITY for e in finding.evidence)


def _is_grave_attention(finding: Finding) -> bool:
    """Of attention: a one-hot row takes the gradient from its query and its keys, and from nothing else."""
    return _is_attention(finding) and finding.severity is Severity.CRITICAL


def _is_attention(finding: Finding) -> bool:
    return finding.symptom is Symptom.SATURATED and finding.cause is Cause.ATTENTION_SATURATION


def _is_learnt_so(run: Run, constant: float) -> bool:
    """By the values, and by the rows that are not one-hot."""
    return constant > 0.0 and stays_below(run, constant / FALLEN_FACTOR)


def _by_then_learnt(finding: Finding, run: Run) -> str:
    """Why what came to pass at a step did no harm, in words; '' where it may have.

    It came to a network that had learnt, and did not set it back. A layer that has more units than it needs loses some
    on the way; attention that has learnt where to look looks there alone: its softmax is as flat as any that is
    right; and units whose output must be certain saturate, once the loss is a hundredth of what it was.
    """
    step = finding.step or 0
    if not fallen_before(run, step) or moved(run, step) == 1 or not falls_since(run, 0):
        return ""
    if finding.symptom is Symptom.DEAD_UNITS and _leaves_room(finding):
        return "The loss had halved by then, and is no higher since: what is left of the layer does."
    if finding.symptom is Symptom.SATURATED and finding.cause is Cause.ATTENTION_SATURATION:
        return "The loss had halved by then, and is no higher since: it has learnt where to look."
    if finding.symptom is Symptom.SATURATED and fallen_before(run, step, 10**HEALTHY_DECADES):
        return "The loss had fallen by two decades by then, and is no higher since: it has learnt."
    return ""


def _leaves_room(finding: Finding) -> bool:
    """Whether units, or slope, are left to learn with."""
    if finding.symptom is Symptom.DEAD_UNITS:
        return next((e.value for e in finding.evidence if e.name == "dead units"), 1.0) < 1.0
    return next((e.value for e in finding.evidence if e.name == LEFT), 0.0) >= LETS_THROUGH
