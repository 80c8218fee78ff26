"""Does the loss fit the output it is given, and can the output reach the targets?

A loss that squashes by itself wants logits, `nll_loss` log-probabilities; targets beyond the output's range, or all
held against each output, leave a floor under the loss that no weights lower. Found by structure, before any step.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import is_layer, place
from gradtrace.diagnosis.naming import told_op
from gradtrace.diagnosis.objectives import floor_words, unscaled, variance_words
from gradtrace.diagnosis.thresholds import DOMINANT_FRAC, EFFECT_FRAC
from gradtrace.diagnosis.wording import LOWEST_LOSS, OF_OUTPUTS_ALIKE
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for
from gradtrace.remedies.of_losses import (
    AS_LOGITS,
    FOR_CLASSES,
    FOR_MARGINS,
    OVER_CLASSES,
    OWN_SCALE,
    SAME_SHAPE,
    TEMPERATURE,
    WITHOUT_BOUND,
    log_probabilities,
)
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import View
    from gradtrace.records.finding import Remedy
    from gradtrace.records.trace import ObjectiveStats, Op

_EXPECTS_LOGITS = {"BinaryCrossEntropyWithLogits": "Sigmoid", "LogSoftmax": "Softmax"}
"""A loss that squashes by itself, and the squashing that must not come before it."""


def pairing(view: View) -> Finding | None:
    """A loss that is given something else than it expects."""
    for op in view.trace.ops:
        kind = base_name(op.name)
        if op.factor is not Factor.LOSS:
            continue
        if op.function == "kl_div":
            found = _given_no_logarithms("kl_div", _divergence_of(op, view), view)
        elif kind == "CtcLoss":
            found = _given_no_logarithms("ctc_loss", _through_views(op, view), view)
        elif kind.startswith("NllLoss"):
            below = _through_views(op, view)
            found = _given_no_logarithms("nll_loss", below, view) or _over_another_axis(op, below, view)
        else:
            found = _squashed_twice(kind, _through_views(op, view), view) if kind in _EXPECTS_LOGITS else None
        if found is not None:
            return found
    return None


def _squashed_twice(kind: str, below: Op | None, view: View) -> Finding | None:
    fed = base_name(below.name) if below is not None else ""
    if below is None or fed.removeprefix("Safe") != _EXPECTS_LOGITS[kind]:
        return None
    name = "cross_entropy" if kind == "LogSoftmax" else "binary_cross_entropy_with_logits"
    told = told_op(below, view.trace, view.paths)
    return _mismatch(
        view,
        below,
        f"{name} applies its own {fed.lower()}, but the output at {told} went through {fed.lower()} already: squashed "
        "twice, the loss cannot come near zero and its gradient is throttled.",
    )


def _given_no_logarithms(name: str, below: Op | None, view: View) -> Finding | None:
    """A loss of log-probabilities, -sum t x, that is given probabilities or raw numbers x."""
    if below is None:
        return None
    fed = base_name(below.name)
    given = (
        f"{name} expects log-probabilities, but it is given the output of {told_op(below, view.trace, view.paths)}: "
    )
    if fed.removeprefix("Safe") in ("Softmax", "Sigmoid"):
        flat = (
            "the loss is then minus the probability, and next to flat where that is small, which is where it matters."
        )
        return replace(_mismatch(view, below, given + flat), remedies=log_probabilities(name))
    if unscaled(below, view).weights or fed == "Relu":
        linear = "" if name == "ctc_loss" else "is then linear in it and "
        endless = f"the loss {linear}has no minimum: it falls for ever, whatever is learnt."
        evidence = (Evidence(LOWEST_LOSS, -math.inf),)
        found = replace(_mismatch(view, below, given + endless), severity=Severity.CRITICAL, evidence=evidence)
        return replace(found, remedies=log_probabilities(name))
    return None


def _over_another_axis(op: Op, below: Op | None, view: View) -> Finding | None:
    """Logarithms of a softmax that do not add up to one over the classes: it is one over samples or positions."""
    if below is None or op.objective is None or op.objective.held_against > 0.0 or _takes_a_part(op, below, view):
        return None
    under = [view.trace.ops[t[0]] for t in below.targets if t is not None]
    of_softmax = base_name(below.name) == "Log" and base_name(under[0].name).removeprefix("Safe") == "Softmax"
    if base_name(below.name) != "LogSoftmax" and not of_softmax:
        return None
    one = under[0] if of_softmax else below
    message = (
        f"{told_op(one, view.trace, view.paths)} is not taken over the classes: of each sample the probabilities that "
        "nll_loss is given do not add up to one. Samples (or positions) compete for each class, and the loss cannot "
        "come near zero."
    )
    alike = _of_outputs_alike(op, one)
    evidence = (Evidence(OF_OUTPUTS_ALIKE, alike),) if alike > 0.0 else ()
    return replace(_mismatch(view, one, message), evidence=evidence, remedies=(OVER_CLASSES,))


def _of_outputs_alike(op: Op, softmax: Op) -> float:
    """What the loss is where all n that compete have one output, log n; 0: not known. Of several axes the shortest."""
    shape = list(softmax.received.shape) if softmax.received is not None else []
    classes = next((stats.shape[1] for stats in op.passed if stats is not None and len(stats.shape) > 1), 0)
    if classes in shape:
        shape.remove(classes)
    return math.log(min(shape, default=1)) if 0 not in shape else 0.0


def _takes_a_part(op: Op, below: Op, view: View) -> bool:
    """Whether entries are dropped on the way, as of some of the classes: what is left need not add up to one."""
    sizes = [one.received.numel for one in (view.trace.ops[op.targets[0][0]] if op.targets[0] else below, below)
             if one.received is not None]  # fmt: skip
    return len(set(sizes)) > 1


def _divergence_of(op: Op, view: View) -> Op | None:
    """What `kl_div` is given beside its targets: the second operand of t x, or of log t - x."""
    if base_name(op.name) not in ("Mul", "Sub") or len(op.targets) < 2 or op.targets[1] is None:
        return None
    below = view.trace.ops[op.targets[1][0]]
    if below.function == "kl_div":
        return None
    return _through_views(below, view) if below.factor is Factor.RESHAPE or _moves_only(below) else below


def _mismatch(view: View, op: Op, message: str) -> Finding:
    return Finding(
        symptom=Symptom.LOSS_SATURATED,
        cause=Cause.LOSS_FUNCTION,
        where=(place(op, view.paths),),
        severity=Severity.WARNING,
        message=message,
        remedies=remedies_for(Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION),
        source=op.site.source,
    )


def _through_views(op: Op, view: View) -> Op | None:
    for _ in range(8):
        ways = [t[0] for t in op.targets if t is not None]
        if op.function == "linear" and base_name(op.name) == "Add":  # and the layer's own bias
            ways = [way for way in ways if view.trace.ops[way].targets]
        if len(ways) != 1:
            return None
        op = view.trace.ops[ways[0]]
        if op.factor is not Factor.RESHAPE and not (op.factor is Factor.LOSS and _moves_only(op)):
            return op
    return None


def _moves_only(op: Op) -> bool:
    from gradtrace.tape.kinds import factor_of

    return factor_of(op.name) is Factor.RESHAPE


def beyond(view: View) -> Finding | None:
    """Targets that the loss does not expect, or that the output's range does not reach."""
    found = [op for op in view.trace.ops if op.objective is not None]
    wrong = next((op for op in found if op.objective is not None and op.objective.beyond > 0.0), None)
    if wrong is not None and wrong.function == "soft_margin_loss":
        return _unreachable(
            view,
            wrong,
            Symptom.LOSS_SATURATED,
            FOR_MARGINS,
            "soft_margin_loss expects targets of -1 and 1, and is given some of 0 and none below: it multiplies the "
            "output by the target, so that these get no gradient whatever it is, and all others ask for one side.",
            Evidence("targets of -1", 0.0),
        )
    if wrong is not None and wrong.objective is not None:
        return _unreachable(
            view,
            wrong,
            Symptom.EXPLODING,
            FOR_CLASSES,
            f"The targets lie up to {wrong.objective.beyond:.3g} outside of [0, 1], where {wrong.function} expects "
            "probabilities: the loss has no minimum and falls for ever.",
            Evidence("targets outside of [0, 1] by", wrong.objective.beyond),
        )
    for op in found:
        objective = op.objective
        if objective is not None and objective.function not in _OF_LOGITS and out_of_reach(objective):
            return _unreachable(
                view,
                op,
                Symptom.LOSS_SATURATED,
                _for_the_range(op, view),
                floor_words(objective) if not _is_normalised(op, view) else variance_words(objective),
                *_of_floor(objective),
            )
    return None


def _for_the_range(op: Op, view: View) -> Remedy:
    if op.objective is not None and op.objective.held_against > 1.0:
        return SAME_SHAPE
    return OWN_SCALE if _is_normalised(op, view) else WITHOUT_BOUND


def _is_normalised(op: Op, view: View) -> bool:
    below = _through_views(op, view)
    return below is not None and below.factor is Factor.NORM


_OF_LOGITS = ("cross_entropy", "binary_cross_entropy_with_logits")


def bounded_logits(view: View) -> Finding | None:
    """Logits that are kept in bounds: no class becomes certain. A remark where little is lost by it.

    Bounds wide enough to lose next to nothing are meant (soft-capped logits).
    """
    for op in view.trace.ops:
        objective = op.objective
        if objective is None or objective.function not in _OF_LOGITS or objective.floor <= _least(objective):
            continue
        bound, what, remedy = _bound(op, view)
        message = (
            f"{objective.function} expects logits of any size, but {bound}: whatever the "
            f"weights are, the loss stays above {objective.floor:.4g}, and the best constant gets "
            f"{objective.constant:.4g}. {what}"
        )
        severity = Severity.WARNING if out_of_reach(objective) else Severity.INFO
        where = tuple(place(layer, view.paths) for layer in last_layers(view)[:1])
        found = _unreachable(view, op, Symptom.LOSS_SATURATED, remedy, message, *_of_floor(objective))
        return replace(found, severity=severity, where=where)
    return None


def _bound(op: Op, view: View) -> tuple[str, str, Remedy]:
    """What keeps logits in bounds, and what to do about it."""
    softmax = _through_views(op, view)
    below = _through_views(softmax, view) if softmax is not None else None
    if below is not None and base_name(below.name) in ("Mm", "Bmm", "Mul"):
        return "they are cosines, in [-1, 1]", "Divide them by a temperature.", TEMPERATURE
    return "an activation keeps them in bounds", "Take the activation away.", AS_LOGITS


def _least(objective: ObjectiveStats) -> float:
    return EFFECT_FRAC * objective.constant if objective.constant > 0.0 else math.inf


def _of_floor(objective: ObjectiveStats) -> tuple[Evidence, Evidence]:
    return (
        Evidence("loss that the range leaves at best", objective.floor),
        Evidence("loss of the best constant", objective.constant),
    )


def out_of_reach(objective: ObjectiveStats) -> bool:
    """Whether the least that the loss can reach is most of what a constant gets.

    Several targets for one output may be meant (samples of a noisy one); that all outputs share them is not.
    """
    if objective.held_against > 1.0:
        return objective.constant > 0.0 and math.isclose(objective.floor, objective.constant, rel_tol=1e-3)
    return objective.floor > DOMINANT_FRAC * objective.constant


def _unreachable(view: View, op: Op, symptom: Symptom, remedy: Remedy, message: str, *evidence: Evidence) -> Finding:
    below = last_layers(view)
    return Finding(
        symptom=symptom,
        cause=Cause.LOSS_FUNCTION,
        where=(*(place(layer, view.paths) for layer in below[:1]), "targets"),
        severity=Severity.CRITICAL,
        message=message,
        evidence=evidence,
        remedies=(remedy,),
        source=op.site.source,
    )


def last_layers(view: View) -> list[Op]:
    """Layers that no other layer lies above."""
    above = [False] * len(view.trace.ops)
    found = []
    for op in view.trace.ops:
        if is_layer(op) and not above[op.index]:
            found.append(op)
        reaches = above[op.index] or is_layer(op)
        for target in op.targets:
            if target is not None and reaches:
                above[target[0]] = True
    return found
