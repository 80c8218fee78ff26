"""How findings speak: plain words for causes, decades and places."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.thresholds import SEQUENCE_ENDS
from gradtrace.records.vocabulary import Cause

if TYPE_CHECKING:
    from gradtrace.records.finding import Finding

EXTENT = "early against late (norm)"
EXTENT_PER_UNIT = "early against late (per unit)"
EXTENT_STEPS = "early against late steps"
"""Evidence of a path: decades between its ends."""

NUM_STEPS = "sequence length"
"""Evidence of a recurrence."""


def has_no_minimum(finding: Finding) -> bool:
    """Whether it is of a loss that falls for ever."""
    return any(e.name == LOWEST_LOSS and math.isinf(e.value) for e in finding.evidence)


def extent_of(finding: Finding) -> float:
    """[decades] Between the ends of the path, through layers or time, that a finding is about; 0: it is about none."""
    found = {e.name: e.value for e in finding.evidence}
    num_steps = found.get(NUM_STEPS, 1.0)
    return found.get(EXTENT, found.get(EXTENT_STEPS, 0.0) * num_steps / between_ends(num_steps))


def between_ends(num_steps: float) -> float:
    """[steps] Between the tenths at both ends of a sequence, each of which is as large as the largest state in it.

    >>> between_ends(5), between_ends(100)
    (5.0, 91.0)
    """
    return num_steps + 1.0 - max(1.0, (num_steps + 1.0) // SEQUENCE_ENDS)


OVER_EPS = "largest gradient (RMS) over eps"
"""Evidence of an optimizer."""
PULL = "decay over the gradient of the loss"
NORMALISED_ALONE = "entries that are normalised together"

ROWS_ALIKE = "rows that are one and the same"

STEP_RATIO = "update to weight ratio of the first step"
LARGEST_RATIO = "largest update to weight ratio"
OF_OUTPUTS_ALIKE = "loss of outputs that are alike"
LOWEST_LOSS = "lowest loss that there is"
"""Name of an evidence; minus infinity: the weights grow for ever."""
COPIES = "units that are copies of one another"
"""Evidence of a trial."""

SCALE = "scale times sqrt(d)"
"""Evidence of attention: one is usual."""

CAUSES: dict[Cause, str] = {
    Cause.ACTIVATION_DERIVATIVE: "The derivative of the activation is bounded well below one ({where}), and the "
    "weights do not make up for it.",
    Cause.SATURATED_PREACTIVATION: "The pre-activations sit on the flat part of the non-linearity ({where}).",
    Cause.SMALL_WEIGHTS: "The weights are too small for this activation ({where}).",
    Cause.LARGE_WEIGHTS: "The weights are too large ({where}).",
    Cause.DEPTH_WITHOUT_SKIP: "Each layer alone is close to one; there are too many of them in a row without a skip.",
    Cause.RECURRENT_CONTRACTION: "A map that contracts, applied again and again, leaves nothing of it.",
    Cause.RECURRENT_EXPANSION: "A map that expands, applied again and again, lets it run away.",
    Cause.BATCHNORM_EXPLOSION: "Batch norm without skips amplifies the gradient layer by layer ({where}).",
    Cause.RESIDUAL_GROWTH: "The residual sum grows block by block: its branches are neither normalised nor scaled.",
    Cause.ATTENTION_SATURATION: "The attention softmax is one-hot: its logits are too large ({where}).",
    Cause.REDUCTION_SCALE: "Sums over many entries make it grow ({where}): divide each by how many there are.",
    Cause.UNSAFE_OP: "It divides by numbers that come near zero ({where}), where the derivative of 1/x has no bound.",
    Cause.INPUT_SCALE: "It is that steep there because the inputs are far from unit scale ({where}).",
    Cause.POST_NORM: "Layer norm stands behind the residual sum and scales the skip path down in each block ({where}).",
}


def times(extent: float) -> str:
    """Decades as a factor in words.

    >>> times(1.0), times(8.2)
    ('10-fold', '1.6e+08-fold')
    """
    if math.isinf(extent):
        return "to nothing"
    return f"{10**extent:.3g}-fold" if extent < 4 else f"{10**extent:.1e}-fold"


def decades(value: float) -> str:
    """A number of decades.

    >>> decades(0.25)
    '0.25 decades'
    """
    return f"{value:.2f} decades"


def steps(count: float) -> str:
    """A number of time steps.

    >>> steps(1.0), steps(13.6), steps(float("inf"))
    ('1 step', '14 steps', 'any number of steps')
    """
    if math.isinf(count):
        return "any number of steps"
    return "1 step" if round(count) == 1 else f"{round(count)} steps"


def percent(fraction: float) -> str:
    """A share.

    >>> percent(0.993), percent(1.0), percent(0.9999)
    ('99 %', '100 %', '99.99 %')
    """
    text = f"{100 * fraction:.0f}"
    return f"{100 * fraction:.2f} %" if text == "100" and fraction < 1.0 else f"{text} %"
