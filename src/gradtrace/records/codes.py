"""What is a finding's code? GT, a digit for the symptom, two for the cause: GT317 is nonfinite by unsafe_op.

A code never changes and is never used again; what is new gets the next number.
"""

from __future__ import annotations

from gradtrace.records.vocabulary import Cause, Symptom

_SYMPTOMS = {
    Symptom.HEALTHY: 0,
    Symptom.VANISHING: 1,
    Symptom.EXPLODING: 2,
    Symptom.NONFINITE: 3,
    Symptom.DEAD_UNITS: 4,
    Symptom.SATURATED: 5,
    Symptom.DISCONNECTED: 6,
    Symptom.LOSS_SATURATED: 7,
    Symptom.UNDERFLOW: 8,
}
_CAUSES = {
    Cause.NONE: 0,
    Cause.ACTIVATION_DERIVATIVE: 1,
    Cause.SATURATED_PREACTIVATION: 2,
    Cause.SMALL_WEIGHTS: 3,
    Cause.LARGE_WEIGHTS: 4,
    Cause.DEPTH_WITHOUT_SKIP: 5,
    Cause.RECURRENT_CONTRACTION: 6,
    Cause.RECURRENT_EXPANSION: 7,
    Cause.BATCHNORM_EXPLOSION: 8,
    Cause.RESIDUAL_GROWTH: 9,
    Cause.ATTENTION_SATURATION: 10,
    Cause.POST_NORM: 11,
    Cause.LEARNING_RATE: 12,
    Cause.INPUT_SCALE: 13,
    Cause.NUMERIC_FORMAT: 14,
    Cause.DETACHED_GRAPH: 15,
    Cause.LOSS_FUNCTION: 16,
    Cause.UNSAFE_OP: 17,
    Cause.REDUCTION_SCALE: 18,
}
USUAL = (
    "GT101 GT102 GT103 GT104 GT105 GT106 GT110 GT111 GT112 GT201 GT203 GT204 GT205 GT207 GT208 GT209 GT212 GT213 "
    "GT214 GT216 GT218 GT304 GT309 GT312 GT313 GT314 GT317 GT318 GT402 GT403 GT412 GT413 GT502 GT510 GT512 GT513 GT615 "
    "GT702 GT716 GT812 GT814"
).split()
"""Those that have a page; others are made of the same words."""


def code_of(symptom: Symptom, cause: Cause) -> str:
    """``GT101``."""
    return f"GT{_SYMPTOMS[symptom]}{_CAUSES[cause]:02d}"


def meaning_of(code: str) -> tuple[Symptom, Cause] | None:
    """Symptom and cause of a code; None where it is none.

    >>> meaning_of("gt317")
    (<Symptom.NONFINITE: 'nonfinite'>, <Cause.UNSAFE_OP: 'unsafe_op'>)
    """
    known = {code_of(symptom, cause): (symptom, cause) for symptom in _SYMPTOMS for cause in _CAUSES}
    return known.get(code.upper())
