"""What does a project tolerate? A few thresholds are a matter of taste, and may be raised, with a reason.

    vanishing-decades = { value = 3.5, reason = "forty layers by design; it trains" }

What lies below a raised threshold is told as before, as worth knowing and no longer as a fault, and why. Nothing can be
lowered: what the rules hold to be healthy is not measured against anything further.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gradtrace.diagnosis.thresholds import DEAD_FRAC, HEALTHY_DECADES, SATURATED_MAJORITY
from gradtrace.diagnosis.wording import EXTENT, EXTENT_PER_UNIT, EXTENT_STEPS
from gradtrace.records.vocabulary import Severity, Symptom

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.finding import Diagnosis, Finding


@dataclass(frozen=True, slots=True)
class Movable:
    """A threshold that may be raised."""

    symptom: Symptom
    usual: float
    unit: str
    evidence: tuple[str, ...]
    """Names of the numbers that are held against it; of several the smallest, as the rules have it."""
    below: float = math.inf
    """It must stay below that."""


_EXTENTS = EXTENT, EXTENT_PER_UNIT, EXTENT_STEPS
MOVABLE = {
    "vanishing-decades": Movable(Symptom.VANISHING, HEALTHY_DECADES, "decades", _EXTENTS),
    "exploding-decades": Movable(Symptom.EXPLODING, HEALTHY_DECADES, "decades", _EXTENTS),
    "saturated-fraction": Movable(
        Symptom.SATURATED, SATURATED_MAJORITY, "of the units", ("saturated", "one-hot rows"), 1.0
    ),
    "dead-fraction": Movable(Symptom.DEAD_UNITS, DEAD_FRAC, "of the units", ("dead units",), 1.0),
}


@dataclass(frozen=True, slots=True)
class Tolerance:
    """One of `MOVABLE`, moved."""

    name: str
    value: float
    reason: str

    def __post_init__(self) -> None:
        """Raise `ValueError`, in half a sentence, for what cannot be."""
        if self.name not in MOVABLE:
            raise ValueError(f"there is no threshold {self.name!r} that may be moved; there are {', '.join(MOVABLE)}")
        movable = MOVABLE[self.name]
        if not movable.usual < self.value < movable.below:
            most = "" if math.isinf(movable.below) else f" and below {movable.below:g}"
            raise ValueError(f"{self.name} must be above {movable.usual:g}{most}, but it is {self.value:g}")
        if not self.reason.strip():
            raise ValueError(f"{self.name} is moved without a reason: add reason = '...'")

    def __str__(self) -> str:
        movable = MOVABLE[self.name]
        return f"{self.name} is {self.value:g} {movable.unit} here, and {movable.usual:g} elsewhere: {self.reason}"

    def covers(self, finding: Finding) -> bool:
        """Whether all that speaks for the finding lies below."""
        movable = MOVABLE[self.name]
        sizes = [abs(one.value) for one in finding.evidence if one.name in movable.evidence]
        return finding.symptom is movable.symptom and bool(sizes) and min(sizes) < self.value


def tolerated(diagnosis: Diagnosis, tolerances: Sequence[Tolerance]) -> Diagnosis:
    """What they cover becomes worth knowing, and stands last; the diagnosis says what was moved, and why."""
    if not tolerances:
        return diagnosis
    kept: list[Finding] = []
    mild: list[Finding] = []
    for finding in diagnosis.findings:
        cover = next((one for one in tolerances if one.covers(finding)), None)
        if cover is None or finding.severity is Severity.INFO:
            kept.append(finding)
        else:
            message = f"{finding.message} Tolerated here: {cover}"
            mild.append(replace(finding, severity=Severity.INFO, message=message))
    return replace(diagnosis, findings=(*kept, *mild), moved=tuple(map(str, tolerances)))
