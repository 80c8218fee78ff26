"""Which thresholds may a project move? Four are a matter of taste: each either way, with a reason.

    vanishing-decades = { value = 3.5, reason = "forty layers by design; it trains" }

Raised, the rules see what they saw, and what lies below is told as worth knowing and no longer as a fault. Lowered,
they see more, and what they would not have told is told with the reason. What chance does (units that fall silent
together, Schoenholz et al. 2017) stays where arithmetic puts it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gradtrace.diagnosis.thresholds import DEAD_FRAC, HEALTHY_DECADES, SATURATED_MAJORITY
from gradtrace.diagnosis.wording import EXTENT, EXTENT_PER_UNIT, EXTENT_STEPS
from gradtrace.errors import InputError
from gradtrace.records.vocabulary import Severity, Symptom

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gradtrace.records.finding import Diagnosis, Finding


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on the rules speak."""

    vanishing_decades: float = HEALTHY_DECADES
    exploding_decades: float = HEALTHY_DECADES
    saturated_frac: float = SATURATED_MAJORITY
    dead_frac: float = DEAD_FRAC


@dataclass(frozen=True, slots=True)
class Movable:
    """A threshold that may be moved."""

    symptom: Symptom
    limit: str
    """Its name in `Limits`."""
    unit: str
    evidence: tuple[str, ...]
    """Names of the numbers that are held against it; of several the smallest, as the rules have it."""
    below: float = math.inf
    """It must stay above 0 and below that."""

    @property
    def usual(self) -> float:
        """Where it is unless it is moved."""
        return float(getattr(USUAL, self.limit))


USUAL = Limits()
_EXTENTS = EXTENT, EXTENT_PER_UNIT, EXTENT_STEPS
_UNITS = "of the units"
MOVABLE = {
    "vanishing-decades": Movable(Symptom.VANISHING, "vanishing_decades", "decades", _EXTENTS),
    "exploding-decades": Movable(Symptom.EXPLODING, "exploding_decades", "decades", _EXTENTS),
    "saturated-fraction": Movable(Symptom.SATURATED, "saturated_frac", _UNITS, ("saturated", "one-hot rows"), 1.0),
    "dead-fraction": Movable(Symptom.DEAD_UNITS, "dead_frac", _UNITS, ("dead units",), 1.0),
}


@dataclass(frozen=True, slots=True)
class Moved:
    """One of `MOVABLE`, moved."""

    name: str
    value: float
    reason: str

    def __post_init__(self) -> None:
        """Raise `InputError`, in half a sentence, for what cannot be."""
        if self.name not in MOVABLE:
            raise InputError(f"there is no threshold {self.name!r} that may be moved; there are {', '.join(MOVABLE)}")
        below = MOVABLE[self.name].below
        if not 0.0 < self.value < below or math.isinf(self.value):
            most = " and finite" if math.isinf(below) else f" and below {below:g}"
            raise InputError(f"{self.name} must be above 0{most}, but it is {self.value:g}")
        if not self.reason.strip():
            raise InputError(f"{self.name} is moved without a reason: add reason = '...'")

    def __str__(self) -> str:
        movable = MOVABLE[self.name]
        return f"{self.name} is {self.value:g} {movable.unit} here, and {movable.usual:g} elsewhere: {self.reason}"

    def size_of(self, finding: Finding) -> float:
        """Of what speaks for a finding of its symptom the smallest; NaN where nothing that it is about does."""
        movable = MOVABLE[self.name]
        sizes = [abs(one.value) for one in finding.evidence if one.name in movable.evidence]
        return min(sizes) if finding.symptom is movable.symptom and sizes else math.nan

    def covers(self, finding: Finding) -> bool:
        """Whether all that speaks for a fault lies below what is usual, or was raised to."""
        return self.size_of(finding) < self.value and finding.severity is not Severity.INFO

    def adds(self, finding: Finding) -> bool:
        """Whether a fault is told only because it was lowered."""
        usual = MOVABLE[self.name].usual
        return self.value <= self.size_of(finding) < usual and finding.severity is not Severity.INFO


def as_moved(thresholds: Mapping[str, Any] | Iterable[Moved]) -> tuple[Moved, ...]:
    """Of ``{"vanishing-decades": {"value": 3.5, "reason": "..."}}``, as in a project's file.

    >>> [str(moved) for moved in as_moved({"dead-fraction": {"value": 0.9, "reason": "sparse by design"}})]
    ['dead-fraction is 0.9 of the units here, and 0.75 elsewhere: sparse by design']

    Raises:
        InputError: a threshold that does not exist or cannot be there, or one without a reason.
    """
    if not hasattr(thresholds, "items"):
        return tuple(thresholds)
    return tuple(_one(name, entry) for name, entry in thresholds.items())


def _one(name: str, entry: Any) -> Moved:
    known = isinstance(entry, dict) and not set(entry) - {"value", "reason"}
    if not known or type(entry.get("value")) not in (int, float) or not isinstance(entry.get("reason", ""), str):
        raise InputError(f"threshold {name} cannot be {entry!r}; it is a table of a value (a number) and a reason")
    return Moved(name, float(entry["value"]), entry.get("reason", ""))


def limits_of(moved: Sequence[Moved]) -> Limits:
    """What the rules go by: what is raised they see all the same."""
    lowered = {MOVABLE[one.name].limit: min(one.value, MOVABLE[one.name].usual) for one in moved}
    return replace(USUAL, **lowered)


def weighed(diagnosis: Diagnosis, moved: Sequence[Moved]) -> Diagnosis:
    """As the project has it: the diagnosis says what was moved, and why."""
    if not moved:
        return diagnosis
    return replace(diagnosis, findings=weigh(diagnosis.findings, moved), moved=tuple(map(str, moved)))


def weigh(findings: Iterable[Finding], moved: Sequence[Moved]) -> tuple[Finding, ...]:
    """What is below becomes worth knowing, and stands last; what is told because of a threshold says so."""
    kept: list[Finding] = []
    mild: list[Finding] = []
    for finding in findings:
        cover = next((one for one in moved if one.covers(finding)), None)
        added = next((one for one in moved if one.adds(finding)), None)
        if cover is not None:
            message = f"{finding.message} Tolerated here: {cover}"
            mild.append(replace(finding, severity=Severity.INFO, message=message))
        elif added is not None:
            kept.append(replace(finding, message=f"{finding.message} Told here: {added}"))
        else:
            kept.append(finding)
    return (*kept, *mild)
