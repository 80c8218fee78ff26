"""Has a training learnt its data although a gradient vanishes in it, or has that left the loss where a constant's is?

Layers that get next to nothing are what they were drawn as: features at random, which may do, or a branch beside others
that carry the data. The loss tells, beside that of the best output that does not look at the input at all: at a tenth
of it the data is learnt so, and at a half what vanished by two to three decades was enough. A loss that has fallen to
that of the constant, from a start far above it, has learnt nothing of the input yet.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.diagnosis.thresholds import EFFECT_FRAC, FALLEN_FACTOR, LEARNT_FRAC
from gradtrace.diagnosis.timeline.losses import middle, moved
from gradtrace.diagnosis.timeline.recovery import is_of_depth
from gradtrace.diagnosis.wording import percent
from gradtrace.records.vocabulary import Severity

if TYPE_CHECKING:
    from gradtrace.records.finding import Finding
    from gradtrace.records.run import Run


def beside_constant(finding: Finding, run: Run, share: float) -> Finding:
    """What vanishes through layers, judged by `share`, the latest losses over that of the best constant (NaN: unknown).

    A loss that has come up again says nothing for what it once was.
    """
    is_told = finding.severity is not Severity.INFO and is_of_depth(finding) and share >= 0.0
    if not is_told or moved(run, middle(run)) == 1:
        return finding
    told = f"The loss is {percent(share)} of what the best constant gets"
    if share <= LEARNT_FRAC or (share <= 1.0 / FALLEN_FACTOR and finding.severity is Severity.WARNING):
        note = f"{told}: with what the early layers get, this data is learnt."
        return replace(finding, severity=Severity.INFO, message=f"{finding.message} {note}")
    if share <= 1.0 / FALLEN_FACTOR:
        note = f"{told}: what lies behind these layers learns without them."
        return replace(finding, severity=Severity.WARNING, message=f"{finding.message} {note}")
    if is_no_better(share):
        return replace(finding, message=f"{finding.message} {told}: nothing of the data is learnt yet.")
    return finding


def is_no_better(share: float) -> bool:
    """Whether it is known that the loss is not below the best constant's by as much as counts."""
    return share > 1.0 - EFFECT_FRAC
