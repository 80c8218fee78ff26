"""Shares in the finding; and where they contradict the first cause, the finding is corrected and says so."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.diagnosis.thresholds import DOMINANT_FRAC
from gradtrace.diagnosis.wording import COPIES
from gradtrace.records.finding import Evidence
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom

if TYPE_CHECKING:
    from gradtrace.records.finding import Diagnosis, Finding
    from gradtrace.records.repair import Shares

_OF_FACTOR: dict[Factor, frozenset[Cause]] = {
    Factor.ACTIVATION: frozenset({Cause.ACTIVATION_DERIVATIVE, Cause.SATURATED_PREACTIVATION, Cause.INPUT_SCALE}),
    Factor.WEIGHT: frozenset({Cause.SMALL_WEIGHTS, Cause.LARGE_WEIGHTS, Cause.DEPTH_WITHOUT_SKIP}),
    Factor.NORM: frozenset({Cause.POST_NORM, Cause.BATCHNORM_EXPLOSION, Cause.LARGE_WEIGHTS}),
    Factor.ATTENTION: frozenset({Cause.ATTENTION_SATURATION}),
}
"""Causes that a factor's share speaks for."""
_INSTEAD: dict[tuple[Factor, Symptom], Cause] = {
    (Factor.ACTIVATION, Symptom.VANISHING): Cause.ACTIVATION_DERIVATIVE,
    (Factor.WEIGHT, Symptom.VANISHING): Cause.SMALL_WEIGHTS,
    (Factor.WEIGHT, Symptom.EXPLODING): Cause.LARGE_WEIGHTS,
    (Factor.NORM, Symptom.VANISHING): Cause.POST_NORM,
    (Factor.ATTENTION, Symptom.VANISHING): Cause.ATTENTION_SATURATION,
}
"""What is said instead, where shares and cause disagree."""
_SEPARABLE = frozenset({Cause.ACTIVATION_DERIVATIVE, Cause.SMALL_WEIGHTS, Cause.LARGE_WEIGHTS,
                        Cause.ATTENTION_SATURATION, Cause.POST_NORM})  # fmt: skip
"""Causes that are one factor's; the others (a recurrence, a residual sum) are about how factors are arranged."""


def with_shares(diagnosis: Diagnosis, shares: Shares | None) -> Diagnosis:
    """The first finding about the way through depth told with its shares."""
    if shares is None:
        return diagnosis
    findings = list(diagnosis.findings)
    for place, finding in enumerate(findings):
        about_depth = finding.symptom in (Symptom.VANISHING, Symptom.EXPLODING)
        about_depth &= all(evidence.name != COPIES for evidence in finding.evidence)
        if about_depth and finding.severity is not Severity.INFO and finding.step is None:
            findings[place] = _told(finding, shares)
            break
    return replace(diagnosis, findings=tuple(findings))


def _told(finding: Finding, shares: Shares) -> Finding:
    evidence = tuple(Evidence(f"share of the {s.factor.value}", s.decades, "decades") for s in shares.shares)
    evidence += (Evidence("left without them", shares.remaining, "decades"),)
    finding = replace(finding, evidence=(*finding.evidence, *evidence))
    leading = shares.leading
    if leading is None or finding.cause not in _SEPARABLE or finding.cause in _OF_FACTOR.get(leading.factor, ()):
        return finding
    instead = _INSTEAD.get((leading.factor, finding.symptom))
    if instead is None or leading.decades / shares.deficit < DOMINANT_FRAC:
        return finding
    what, explained = leading.factor.value, f"{leading.decades:.1f} of {shares.deficit:.1f} decades"
    told = f"taken away on a copy, the {what} explains {explained}: it is {instead.value} and not {finding.cause.value}"
    told = f"{finding.message} Corrected: {told}."
    return replace(finding, cause=instead, message=told)
