"""Is a verdict right? The first finding that matters, against the truth: symptom, cause, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.casebook.case import Case
from gradtrace.records.vocabulary import Cause, Severity, Symptom

if TYPE_CHECKING:
    from gradtrace.records.finding import Diagnosis


@dataclass(frozen=True, slots=True)
class Score:
    """One case: what was said, and what of it is right."""

    name: str
    symptom: Symptom
    cause: Cause
    where: tuple[str, ...]
    """Verdict: of the first finding of severity warning or above; healthy, none, () without one."""
    symptom_right: bool
    cause_right: bool
    """Among the causes accepted for that symptom."""
    where_right: bool
    """The first place lies in an accepted one (always, where the truth is 'anywhere')."""
    false_alarm: bool
    """A finding on a healthy network."""
    missed: bool
    """No finding on an ill one."""

    @property
    def right(self) -> bool:
        """All three."""
        return self.symptom_right and self.cause_right and self.where_right


@dataclass(frozen=True, slots=True)
class Totals:
    """Of many cases."""

    num_cases: int
    num_healthy: int
    symptoms_right: int
    causes_right: int
    where_right: int
    """Of the ill ones."""
    false_alarms: int
    misses: int


def score(case: Case, diagnosis: Diagnosis) -> Score:
    """Compare the first finding of severity warning or above with the truth."""
    finding = next((one for one in diagnosis.findings if one.severity is not Severity.INFO), None)
    symptom, cause = (finding.symptom, finding.cause) if finding else (Symptom.HEALTHY, Cause.NONE)
    where = finding.where if finding else ()
    well = case.symptom is Symptom.HEALTHY
    return Score(
        name=case.name,
        symptom=symptom,
        cause=cause,
        where=where,
        symptom_right=symptom in {accepted for accepted, _ in case.accepted},
        cause_right=(symptom, cause) in case.accepted or cause is case.cause,
        where_right=well or (finding is not None and lies_in(where, case.where)),
        false_alarm=well and finding is not None,
        missed=not well and finding is None,
    )


def lies_in(where: tuple[str, ...], accepted: tuple[str, ...]) -> bool:
    """Whether the first place of `where` is one of `accepted` or inside one; '' is the model itself, not its parts.

    >>> lies_in(("hidden.linear3", "head"), ("hidden",)), lies_in(("hidden2",), ("hidden",)), lies_in(("a",), ("",))
    (True, False, False)
    """
    if not accepted:
        return True
    if not where:
        return False
    return any(where[0] == place or (place != "" and where[0].startswith(f"{place}.")) for place in accepted)


def total(scores: Sequence[Score | None], cases: Sequence[Case]) -> Totals:
    """Count what is right; `scores` and `cases` in the same order, None for a case that could not be run."""
    ill = [case.symptom is not Symptom.HEALTHY for case in cases]
    given = [one for one in scores if one is not None]
    return Totals(
        num_cases=len(scores),
        num_healthy=len(ill) - sum(ill),
        symptoms_right=sum(one.symptom_right for one in given),
        causes_right=sum(one.cause_right for one in given),
        where_right=sum(one.where_right for one, is_ill in zip(scores, ill, strict=True) if one is not None and is_ill),
        false_alarms=sum(one.false_alarm for one in given),
        misses=sum(one.missed for one in given),
    )
