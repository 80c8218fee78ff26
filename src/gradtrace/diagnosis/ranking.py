"""The root cause first, not its loudest consequence.

Severity first. Among equals the order in which one thing brings about the next: a number that is not finite spoils all
that follows; what is cut off cannot be judged by size; dead units make the gradient in front of them zero; a flat loss
comes before all layers; then the way through depth and time, units, formats, and the steps.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.diagnosis.thresholds import UPDATE_REPLACES
from gradtrace.diagnosis.wording import NORMALISED_ALONE, ROWS_ALIKE, STEP_RATIO, extent_of, has_no_minimum
from gradtrace.records.vocabulary import Cause, Severity, Symptom

if TYPE_CHECKING:
    from gradtrace.records.finding import Finding

_ORDER = [
    Symptom.NONFINITE,
    Symptom.DISCONNECTED,
    Symptom.DEAD_UNITS,
    Symptom.LOSS_SATURATED,
    Symptom.UNDERFLOW,
    Symptom.VANISHING,
    Symptom.EXPLODING,
    Symptom.SATURATED,
    Symptom.HEALTHY,
]


def rank(findings: list[Finding]) -> tuple[Finding, ...]:
    """Sort, and set aside what another finding explains."""
    findings = [f for i, f in enumerate(findings) if not any(_same(f, earlier) for earlier in findings[:i])]
    findings = _flat_before_vanishing(_growth_before_rate(_placed(findings)))
    explained = [_explain(finding, findings) for finding in findings]
    return tuple(sorted(explained, key=lambda f: (-f.severity.rank, _in_trial(f), _ORDER.index(f.symptom))))


def _placed(findings: list[Finding]) -> list[Finding]:
    """A flat loss is told once, with its place where one is known, and as grave as anybody found it."""
    flat = [f for f in findings if f.symptom is Symptom.LOSS_SATURATED]
    vague = [f for f in flat if f.where == ("",)]
    placed = next((f for f in flat if f not in vague and f.severity is not Severity.INFO), None)
    if placed is None or not vague:
        return findings
    worst = max((f.severity for f in (placed, *vague)), key=lambda severity: severity.rank)
    return [replace(f, severity=worst) if f is placed else f for f in findings if f not in vague]


def _in_trial(finding: Finding) -> int:
    """What was there before the first step, then how the steps ran away, and last what that left behind."""
    if _was_there(finding):
        return 0
    return 1 if finding.symptom is Symptom.EXPLODING else 2


def _was_there(finding: Finding) -> bool:
    """Before the first step: seen without any, or in the first one of a run before it moved the weights."""
    return finding.step is None or (finding.step == 0 and finding.cause is not Cause.LEARNING_RATE)


def _because(finding: Finding, why: str) -> Finding:
    """A remark with its reason, told once."""
    message = finding.message if why in finding.message else f"{finding.message} ({why})"
    return replace(finding, severity=Severity.INFO, message=message)


GROWTH = {Cause.LARGE_WEIGHTS, Cause.RESIDUAL_GROWTH, Cause.BATCHNORM_EXPLOSION, Cause.RECURRENT_EXPANSION,
          Cause.REDUCTION_SCALE, Cause.UNSAFE_OP}  # fmt: skip
"""Why a gradient grows on its way."""


def _growth_before_rate(findings: list[Finding]) -> list[Finding]:
    """Steps that run away because the gradient grows on its way: without that growth they would be small enough.

    The growth is then clear-cut whatever its extent, for training diverges of it; the rate is its consequence.
    """
    ran = [f for f in findings if f.step is not None and f.cause is Cause.LEARNING_RATE]
    ratios = [e.value for f in ran for e in f.evidence if e.name == STEP_RATIO]
    for i, growth in enumerate(findings):
        structural = growth.symptom is Symptom.EXPLODING and _was_there(growth) and growth.cause in GROWTH
        is_grave = structural and growth.severity is not Severity.INFO
        if is_grave and ratios and ratios[0] / 10 ** extent_of(growth) < UPDATE_REPLACES:
            why = "this follows from the growing gradient above: without it the steps would be small enough"
            for j, f in enumerate(findings):
                if f in ran:
                    findings[j] = _because(f, why)
            findings[i] = replace(growth, severity=Severity.CRITICAL)
            break
    return findings


def _flat_before_vanishing(findings: list[Finding]) -> list[Finding]:
    """What vanishes at one saturated or dead place vanishes because of it, and makes it as grave.

    So does what a recurrence loses to units that data saturate.
    """
    for i, lost in enumerate(findings):
        if lost.symptom is not Symptom.VANISHING:
            continue
        for j, flat in enumerate(findings):
            by_data = flat.cause is Cause.INPUT_SCALE and lost.cause in (flat.cause, Cause.RECURRENT_CONTRACTION)
            if not by_data and lost.cause is not Cause.SATURATED_PREACTIVATION:
                continue
            if flat.symptom in (Symptom.SATURATED, Symptom.DEAD_UNITS) and set(lost.where) <= set(flat.where):
                why = f"this follows from the {flat.symptom.value.removesuffix('_units')} units above"
                worse = max(flat.severity, lost.severity, key=lambda severity: severity.rank)
                findings[j] = replace(flat, severity=worse)
                findings[i] = _because(lost, why)
                break
    return findings


def _same(finding: Finding, earlier: Finding) -> bool:
    """Two rules that see one fault from two sides: it is told once."""
    return (
        finding.symptom is earlier.symptom
        and finding.cause is earlier.cause
        and finding.step == earlier.step
        and bool(set(finding.where) & set(earlier.where))
    )


def _explain(finding: Finding, findings: list[Finding]) -> Finding:
    """A consequence of another finding becomes a remark, with the reason."""
    for other in findings:
        if other is not finding and other.severity is Severity.CRITICAL and (why := _follows(finding, other)):
            return _because(finding, why)
    return finding


_OF_ONE_EXAMPLE = {Symptom.DEAD_UNITS, Symptom.VANISHING, Symptom.EXPLODING, Symptom.SATURATED}
"""What a batch shows that is one example again and again."""


def _follows(finding: Finding, other: Finding) -> str:
    zero = finding.symptom is Symptom.VANISHING and any(math.isinf(e.value) for e in finding.evidence)
    if zero and other.symptom in (Symptom.DEAD_UNITS, Symptom.DISCONNECTED, Symptom.UNDERFLOW):
        return f"this follows from the {other.symptom.value.replace('_', ' ')} above"
    if any(e.name == ROWS_ALIKE for e in other.evidence):  # silent on one is silent on all; their variance is rounding
        return "this follows from the rows above, which are all the same" if finding.symptom in _OF_ONE_EXAMPLE else ""
    if finding.symptom is Symptom.VANISHING and other.symptom is Symptom.DISCONNECTED:
        # (lost at one place, and there nothing goes through)
        lost = set(finding.where) <= set(other.where) or any(e.name == NORMALISED_ALONE for e in other.evidence)
        return "this follows from what is cut off above" if lost else ""
    if finding.symptom is Symptom.LOSS_SATURATED and other.symptom is Symptom.DISCONNECTED:
        nothing = any(e.name in ("gradient", "measured steps") for e in finding.evidence)
        here = finding.where == ("",) or bool(set(finding.where) & set(other.where))
        return "this follows from what is cut off above" if nothing and here else ""
    if finding.symptom is Symptom.DEAD_UNITS and other.symptom is Symptom.NONFINITE:
        return "this follows from the non-finite numbers above"
    grows = finding.symptom is Symptom.EXPLODING and not has_no_minimum(finding)
    if grows and finding.step and has_no_minimum(other):
        return "this follows from the loss above: it has no minimum, and the weights grow for ever"
    if finding.cause is Cause.LOSS_FUNCTION and other.symptom is Symptom.UNDERFLOW:
        return "this follows from the underflow above"
    if finding.cause is Cause.LEARNING_RATE and (other.symptom, other.cause) == (
        Symptom.EXPLODING,
        Cause.LOSS_FUNCTION,
    ):
        return "this follows from the loss above, which has no minimum" if _was_there(other) else ""
    return ""
