"""Is it the negative of a known error that is minimised? Each step then makes it larger, and there is no minimum.

Squared and absolute errors and cross entropies are bounded below by 0 and above by nothing: of a loss L = -c e, c > 0,
descent leads to minus infinity. Which players of a game raise an error on purpose is seen by what else there is:

    an adversary          its pass goes through weights that others hold, or that are frozen
    a policy              its likelihoods are multiplied by what was earned
    what is to be forgotten    was learnt: the error is well below that of the best constant

So the whole of the loss must be the error, turned round by a minus and at most averaged or divided, or the mean of log
probabilities that are picked, without the minus; all weights on the way must learn, held by one optimizer; no other
pass may bring other parameters a gradient; and nothing is learnt yet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import place
from gradtrace.diagnosis.rules.pairing import last_layers
from gradtrace.diagnosis.thresholds import FALLEN_FACTOR
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom
from gradtrace.remedies.of_losses import NO_MINUS
from gradtrace.tape.kinds import base_name, factor_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gradtrace.diagnosis.scene import Scene, View
    from gradtrace.records.trace import Op

_KEEPS_SIGN = {"Mean", "Sum", "Div", "ToCopy"}
"""What may come between an error and its negative: no factor, which may be a reward or below zero itself."""

_PICKS = {"Index", "Gather"}

_NO_LIKELIHOODS = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"}
"""Errors that are not what a policy multiplies by what was earned, of which -1 may be one."""


def judge(scene: Scene) -> list[Finding]:
    """One finding where all traces agree."""
    if not scene.views or not all(_is_alone(view, scene) for view in scene.views):
        return []
    found = [_turned(view) or _likelihood(view) for view in scene.views]
    view, turned = scene.views[0], found[0]
    if turned is None or None in found or turned.value * FALLEN_FACTOR < turned.constant:
        return []
    return [
        Finding(
            symptom=Symptom.EXPLODING,
            cause=Cause.LOSS_FUNCTION,
            where=tuple(place(layer, view.paths) for layer in last_layers(view)[:1]),
            severity=Severity.CRITICAL,
            message=f"The loss that is minimised is the negative of {turned.function}, "
            f"{view.trace.loss:.4g}: each step makes the error larger, which has no upper bound, and the loss falls "
            "for ever.",
            evidence=(
                Evidence("loss", view.trace.loss),
                Evidence("the error itself", turned.value),
                Evidence("error of a constant", turned.constant),
            ),
            remedies=(NO_MINUS,),
            source=turned.source,
        )
    ]


@dataclass(frozen=True, slots=True)
class _Turned:
    """The known error of which a loss is the negative."""

    function: str
    value: float
    constant: float
    """What a constant gets, whatever the input."""
    source: str


def _turned(view: View) -> _Turned | None:
    """A loss function of torch's, called, and then a minus."""
    *above, op = _way(view, lambda op: op.objective is not None and op.objective.value > 0.0)
    if op is None or op.objective is None:
        return None
    times_one = any(one is not None and _is_times_one(one) for one in above)  # (by -1, as L < 0)
    if not (_num_turns(above) % 2 or (times_one and (op.objective.function or op.function) in _NO_LIKELIHOODS)):
        return None
    known = op.objective
    return _Turned(known.function or op.function, known.value, known.constant, op.site.source)


def _likelihood(view: View) -> _Turned | None:
    """The mean of log probabilities, one picked of each row, and no minus; of C classes a constant gets log C or so."""
    *above, op = _way(view, lambda op: base_name(op.name) == "LogSoftmax")
    kinds = [base_name(one.name) for one in above if one is not None]
    if op is None or op.received is None or _num_turns(above) % 2:
        return None
    if not _PICKS & {*kinds} or {*kinds} & _KEEPS_SIGN != {"Mean"} or len(op.received.shape) < 2:
        return None
    source = next((one.site.source for one in above if one is not None), "")
    return _Turned("the negative log likelihood", -view.trace.loss, math.log(max(op.received.shape[1:])), source)


def _way(view: View, is_found: Callable[[Op], bool]) -> list[Op | None]:
    """From a loss below 0 to what is looked for, through what has one operand; the last is None: it is not found."""
    way: list[Op | None] = []
    op = view.trace.ops[0] if view.trace.loss < 0.0 and view.trace.ops else None
    while op is not None:
        way.append(op)
        below = [target[0] for target in op.targets if target is not None]
        if is_found(op):
            return way
        kind = base_name(op.name)
        keeps = kind in _KEEPS_SIGN | _PICKS | {"Neg"} or factor_of(op.name) is Factor.RESHAPE or _is_times_one(op)
        op = view.trace.ops[below[0]] if len(below) == 1 and keeps else None
    return [*way, None]


def _num_turns(way: Sequence[Op | None]) -> int:
    return sum(op is not None and base_name(op.name) == "Neg" for op in way)


def _is_times_one(op: Op) -> bool:
    """Whether it multiplies the whole loss, a single number, by 1 or by -1."""
    passed = [stats for stats in op.passed if stats is not None]
    whole = op.received is not None and op.received.shape == () and len(passed) == 1 == op.received.numel
    return base_name(op.name) == "Mul" and whole and op.received is not None and passed[0].norm == op.received.norm


def _is_alone(view: View, scene: Scene) -> bool:
    """Whether all weights on the way learn by this pass, held by one optimizer, and no others do by another pass."""
    on_the_way = {weight for op in view.trace.ops for weight in op.weights}
    on_the_way |= {p.name for p in view.trace.parameters if p.affects_loss or p.gradient is not None}
    learning = {p.name for p in view.trace.parameters if p.gradient is not None}
    optimizers = scene.exhibit.optimizers
    held = not optimizers or any(on_the_way <= set(one.parameters) for one in optimizers)
    return bool(on_the_way) and on_the_way <= learning and set(scene.exhibit.learning) <= learning and held
