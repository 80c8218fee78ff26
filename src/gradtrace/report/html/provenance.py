"""The last question: what could not be seen, with which versions was it measured, and how is it measured again?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.report.tables import main_trace, unseen
from gradtrace.report.words import clean

if TYPE_CHECKING:
    from gradtrace.records.finding import Diagnosis
    from gradtrace.records.run import Run

MOST_NAMES = 40


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that was not seen."""

    what: str
    names: tuple[str, ...]
    num_more: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """The end of the page."""

    gaps: tuple[Gap, ...]
    notes: tuple[str, ...]
    """What a reader must know of the run."""
    refusals: tuple[str, ...]
    moved: tuple[str, ...]
    birth: str
    """Where the first number that is not finite was born, or ''."""
    versions: tuple[tuple[str, str], ...]
    commands: tuple[str, ...]


def provenance(diagnosis: Diagnosis, run: Run | None) -> Provenance:
    """Gaps, versions and commands."""
    trace = main_trace(diagnosis)
    gaps = [Gap(clean(what), tuple(clean(n) for n in names[:MOST_NAMES]), max(0, len(names) - MOST_NAMES))
            for what, names in (unseen(trace) if trace is not None else ())]  # fmt: skip
    versions = dict(trace.environment if trace is not None else ())
    if run is not None:
        versions |= dict(run.header.environment)
    birth = ""
    if trace is not None and (born := trace.nonfinite) is not None:
        detail = f" ({clean(born.detail)})" if born.detail else ""
        birth = f"{clean(born.op)} at {clean(str(born.site))}, {born.phase}{detail}"
    return Provenance(
        tuple(gaps),
        tuple(clean(note) for note in (run.notes if run is not None else ()) if note not in diagnosis.moved),
        tuple(clean(refusal) for refusal in diagnosis.refusals),
        tuple(clean(sentence) for sentence in diagnosis.moved),
        birth,
        tuple((clean(name), clean(value)) for name, value in versions.items()),
        _commands(diagnosis, run),
    )


def _commands(diagnosis: Diagnosis, run: Run | None) -> tuple[str, ...]:
    """What to type: the watched script, or the check of a target; () where neither is known."""
    if run is not None and run.header.command:
        return ("gradtrace run " + " ".join(clean(word) for word in run.header.command),)
    title = clean(diagnosis.title)
    if ":" not in title or " " in title:
        return ()
    steps = f" --steps {diagnosis.num_steps}" if diagnosis.losses else ""
    return (f"gradtrace check {title}{steps}",)
