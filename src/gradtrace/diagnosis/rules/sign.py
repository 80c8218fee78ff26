"""Is it the negative of a known error that is minimised? Each step then makes it larger, and there is no minimum.

Squared and absolute errors and cross entropies are bounded below by 0 and above by nothing: of a loss L = -c e, c > 0,
descent leads to minus infinity. Which players of a game raise an error on purpose is seen by what else there is:

    an adversary          its pass goes through weights that others hold, or that are frozen
    a policy              its likelihoods are multiplied by what was earned
    what is to be forgotten    was learnt: the error is well below that of the best constant

So the whole of the loss must be the error, turned round by a minus and at most averaged or divided; all weights on the
way must learn, held by one optimizer; no other pass may bring other parameters a gradient; and nothing is learnt yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import place
from gradtrace.diagnosis.rules.pairing import last_layers
from gradtrace.diagnosis.thresholds import FALLEN_FACTOR
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom
from gradtrace.remedies.catalogue import NO_MINUS
from gradtrace.tape.kinds import base_name, factor_of

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene, View
    from gradtrace.records.trace import Op

_KEEPS_SIGN = {"Mean", "Sum", "Div", "ToCopy"}
"""What may come between an error and its negative: no factor, which may be a reward or below zero itself."""


def judge(scene: Scene) -> list[Finding]:
    """One finding where all traces agree."""
    if not scene.views or not all(_is_alone(view, scene) for view in scene.views):
        return []
    ops = [_turned(view) for view in scene.views]
    view, op = scene.views[0], ops[0]
    if op is None or op.objective is None or None in ops or op.objective.value * FALLEN_FACTOR < op.objective.constant:
        return []
    return [
        Finding(
            symptom=Symptom.EXPLODING,
            cause=Cause.LOSS_FUNCTION,
            where=tuple(place(layer, view.paths) for layer in last_layers(view)[:1]),
            severity=Severity.CRITICAL,
            message=f"The loss that is minimised is the negative of {op.objective.function or op.function}, "
            f"{view.trace.loss:.4g}: each step makes the error larger, which has no upper bound, and the loss falls "
            "for ever.",
            evidence=(
                Evidence("loss", view.trace.loss),
                Evidence("the error itself", op.objective.value),
                Evidence("error of the best constant", op.objective.constant),
            ),
            remedies=(NO_MINUS,),
            source=op.site.source,
        )
    ]


def _turned(view: View) -> Op | None:
    """The known error of which the loss is the negative, and nothing else."""
    if not view.trace.loss < 0.0 or not view.trace.ops:
        return None
    op, num_turns = view.trace.ops[0], 0
    while op.objective is None or op.objective.value <= 0.0:
        kind = base_name(op.name)
        below = [target[0] for target in op.targets if target is not None]
        if len(below) != 1 or not (kind in _KEEPS_SIGN or kind == "Neg" or factor_of(op.name) is Factor.RESHAPE):
            return None
        num_turns += kind == "Neg"
        op = view.trace.ops[below[0]]
    return op if num_turns % 2 else None


def _is_alone(view: View, scene: Scene) -> bool:
    """Whether all weights on the way learn by this pass, held by one optimizer, and no others do by another pass."""
    on_the_way = {weight for op in view.trace.ops for weight in op.weights}
    on_the_way |= {p.name for p in view.trace.parameters if p.affects_loss or p.gradient is not None}
    learning = {p.name for p in view.trace.parameters if p.gradient is not None}
    optimizers = scene.exhibit.optimizers
    held = not optimizers or any(on_the_way <= set(one.parameters) for one in optimizers)
    return bool(on_the_way) and on_the_way <= learning and set(scene.exhibit.learning) <= learning and held
