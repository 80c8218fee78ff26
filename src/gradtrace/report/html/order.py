"""In which order does a reader want the sections? The one that proves the first finding comes first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.records.vocabulary import Cause, Symptom

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gradtrace.records.finding import Diagnosis, Finding
    from gradtrace.report.html.section import Section

PROOF_OF_CAUSE: dict[Cause, str] = {
    Cause.RECURRENT_CONTRACTION: "time",
    Cause.RECURRENT_EXPANSION: "time",
    Cause.NUMERIC_FORMAT: "formats",
    Cause.LEARNING_RATE: "run",
    Cause.RESIDUAL_GROWTH: "flow",
    Cause.POST_NORM: "flow",
    Cause.SATURATED_PREACTIVATION: "activations",
}
"""The key of the section whose numbers show it; a cause says more than a symptom."""
PROOF_OF_SYMPTOM: dict[Symptom, str] = {
    Symptom.NONFINITE: "run",
    Symptom.UNDERFLOW: "formats",
    Symptom.DEAD_UNITS: "activations",
    Symptom.SATURATED: "activations",
}


def proofs_of(finding: Finding) -> tuple[str, ...]:
    """Keys of the sections that show it, the best first: not every page has every section."""
    by_cause, by_symptom = PROOF_OF_CAUSE.get(finding.cause), PROOF_OF_SYMPTOM.get(finding.symptom)
    both = (by_symptom, by_cause) if finding.symptom is Symptom.NONFINITE else (by_cause, by_symptom)
    return (*(key for key in both if key is not None), "waterfall")


def ordered(sections: Iterable[Section], diagnosis: Diagnosis, *, live: bool = False) -> tuple[Section, ...]:
    """The proof of the first finding first, behind what was tried against it; of a page that goes on, the run first."""
    found = tuple(sections)
    proofs = proofs_of(diagnosis.findings[0]) if diagnosis.findings else ()
    first = next((key for key in proofs if any(each.key == key for each in found)), "")
    wanted = ["run"] * live + ["repair", first]
    return tuple(sorted(found, key=lambda each: wanted.index(each.key) if each.key in wanted else len(wanted)))
