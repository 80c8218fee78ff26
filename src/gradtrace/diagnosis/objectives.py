"""Which loss functions of a trace are known, are they below what the best constant gets, and what is left of them?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import View
    from gradtrace.records.trace import ObjectiveStats, Op


def objectives(view: View) -> list[ObjectiveStats]:
    """Known loss functions of targets that differ."""
    found = [op.objective for op in view.trace.ops if op.objective is not None]
    return [one for one in found if one.constant > 0.0]


_OF_CLASSES = ("cross_entropy", "nll_loss")


def num_terms(view: View, numel: int) -> int:
    """Of how many terms a known loss is the mean, where the output has `numel` entries; else, how many examples.

    An entry of an image has a term of its own, and of the scores of classes each place has one.
    """
    known = [op for op in view.trace.ops if op.objective is not None and op.objective.constant > 0.0]
    if len(known) != 1 or known[0].objective is None:
        return max(view.trace.batch_size or 1, 1)
    shape = next((stats.shape for stats in known[0].passed if stats is not None), ())
    if (known[0].objective.function or known[0].function) in _OF_CLASSES:
        is_plain = known[0].function in _OF_CLASSES and len(shape) > 1
        return math.prod(shape) // max(shape[1], 1) if is_plain else max(view.trace.batch_size or 1, 1)
    return max(numel, 1)


def has_learnt(view: View) -> bool:
    """Whether each known loss is below that of the best constant: what is flat then is flat because it is right."""
    found = objectives(view)
    return bool(found) and all(one.value < one.constant for one in found)


def floor_words(objective: ObjectiveStats) -> str:
    """What an output leaves that does not reach its targets, or is held against several of them."""
    if objective.held_against > 1.0:
        return (
            f"The shapes of output and targets broadcast: each output is held against {objective.held_against:.0f} "
            f"targets, and the best that it can give is their mean. The loss stays above {objective.floor:.4g} "
            "whatever the weights are. Give both the same shape."
        )
    return (
        f"The targets lie outside of the output's range: whatever the weights are, the loss stays above "
        f"{objective.floor:.4g}, and the best constant without a range gets {objective.constant:.4g}. Scale the "
        "targets into the range, or take the last non-linearity away."
    )


def variance_words(objective: ObjectiveStats) -> str:
    """What an output leaves whose mean and variance a norm has fixed."""
    return (
        "The output is a batch norm's without a scale and a shift of its own: over each batch it has mean 0 and a "
        f"variance of 1 at most, and the targets have not. Whatever the weights are, the loss stays above "
        f"{objective.floor:.4g}, and the best constant gets {objective.constant:.4g}."
    )


def unscaled(op: Op, view: View) -> Op:
    """What it is a multiple of, by numbers: a temperature makes no log-probabilities of raw outputs."""
    while base_name(op.name) in ("Div", "Mul", "Neg"):
        below = [target[0] for target in op.targets if target is not None]
        if len(below) != 1:
            break
        op = view.trace.ops[below[0]]
    return op
