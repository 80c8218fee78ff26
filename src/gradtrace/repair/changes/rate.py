"""The learning rate: candidates from the size of the steps, each tried as it is recommended.

A step of |update| / |weight| near 1e-3 to 1e-2 is usual; what replaces the weights is too long by their ratio. Where
the rate is none of the user's, each network has its own best one already.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.thresholds import UPDATE_USUAL
from gradtrace.diagnosis.wording import LARGEST_RATIO, STEP_RATIO
from gradtrace.records.change import Change
from gradtrace.records.vocabulary import Cause, Symptom
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.twin import RefusalError, Twin

if TYPE_CHECKING:
    from gradtrace.repair.situation import Situation

_LOWER = {Cause.LEARNING_RATE, Cause.INPUT_SCALE, Cause.REDUCTION_SCALE, Cause.LARGE_WEIGHTS, Cause.RECURRENT_EXPANSION,
          Cause.RESIDUAL_GROWTH, Cause.POST_NORM, Cause.BATCHNORM_EXPLOSION}  # fmt: skip


def propose(situation: Situation) -> list[Change]:
    """Lower where steps are too long: by what the first step says, and by powers of ten."""
    found: list[Change] = []
    rate = rate_of(situation)
    if rate is None or situation.is_rate_ours:
        return found
    if {finding.cause for finding in situation.findings if finding.symptom is not Symptom.UNDERFLOW} & _LOWER:
        factors = [0.1, 0.01, 0.001]
        ratio = evidence_of(situation, STEP_RATIO)
        if ratio is not None and math.isfinite(ratio) and ratio > 0.0:
            factors.insert(0, UPDATE_USUAL / ratio)
        values = sorted({one_digit(rate * factor) for factor in factors if 0.0 < factor < 1.0}, reverse=True)
        too_long = "steps that replace the weights undo what was learnt"
        found += [_rate_change(rate, value, too_long) for value in values]
    if Cause.NUMERIC_FORMAT in situation.causes and situation.has(Symptom.UNDERFLOW):
        raised = [one_digit(rate * factor) for factor in (100.0, 1000.0)]
        found += [_rate_change(rate, value, "the steps are rounded away") for value in raised]
    small = evidence_of(situation, LARGEST_RATIO)
    if small is not None and small > 0.0:
        raised = [one_digit(rate * factor * UPDATE_USUAL / small) for factor in (1.0, 10.0)]
        found += [_rate_change(rate, value, "a hundred steps do less than a usual one") for value in raised]
    return found


def _rate_change(rate: float, value: float, reason: str) -> Change:
    way = "Lower" if value < rate else "Raise"
    return Change(
        kind="rate",
        title=f"{way} the learning rate from {rate:.3g} to {value:.3g}.",
        where=("optimizer",),
        reason=reason,
        numbers=(("factor", value / rate), ("value", value)),
        code=f"for group in optimizer.param_groups:\n    group['lr'] *= {value / rate:.6g}  # now {value:.3g}",
        source="Smith 2017",
    )


def rate_of(situation: Situation) -> float | None:
    """The largest of all groups; None without an optimizer."""
    rates = [g.get("lr") for o in situation.optimizers for g in o.param_groups]
    return max((float(rate) for rate in rates if rate), default=None)


def evidence_of(situation: Situation, name: str) -> float | None:
    """What a finding's number is, if one has it."""
    return next((e.value for f in situation.diagnosis.findings for e in f.evidence if e.name == name), None)


def one_digit(value: float) -> float:
    """As a person would write it.

    >>> one_digit(0.0123)
    0.01
    """
    return float(f"{value:.0e}") if value > 0.0 and math.isfinite(value) else value


def apply(change: Change, twin: Twin) -> None:
    """Every group's rate times the factor."""
    if not twin.optimizers:
        raise RefusalError("there is no optimizer whose learning rate could be changed")
    for optimizer in twin.optimizers:
        for group in optimizer.param_groups:
            if group.get("lr") is not None:
                group["lr"] = group["lr"] * change.number("factor")


KIND = Kind(propose, apply)
