"""The first question: is it ill, and what of? One sentence, then a card per finding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.measure.names import Names
from gradtrace.records.shown import counted
from gradtrace.records.vocabulary import Cause, Severity
from gradtrace.report.html.order import proofs_of
from gradtrace.report.html.phrases import CAUSES, OF_BOTH, SEVERITIES, SYMPTOMS
from gradtrace.report.html.places import Place, Places
from gradtrace.report.summary import facts as run_facts
from gradtrace.report.tables import BARE, main_trace, picture, told_apart
from gradtrace.report.words import clean, clean_lines, decades, number, power, short

if TYPE_CHECKING:
    from gradtrace.records.finding import Diagnosis, Finding
    from gradtrace.records.trace import Trace
    from gradtrace.report.opened import Opened

MOST_PLACES = 6
"""Modules that a card names; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Change:
    """A remedy on a card."""

    title: str
    code: str
    source: str


@dataclass(frozen=True, slots=True)
class Card:
    """A finding as it is shown."""

    severity: str
    kind: str
    """'critical', 'warning' or 'info': the colour."""
    code: str
    """``GT101``: `gradtrace explain` says what it means."""
    title: str
    message: str
    places: tuple[Place, ...]
    num_more: int
    source: str
    since: str
    numbers: tuple[str, ...]
    changes: tuple[Change, ...]
    proofs: tuple[str, ...]
    """Keys of the sections whose numbers show it, the best first."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The top of the page."""

    kind: str
    """'healthy', or that of the worst finding."""
    sentence: str
    detail: str
    facts: tuple[tuple[str, str], ...]
    cards: tuple[Card, ...]


def verdict(opened: Opened) -> Verdict:
    """The sentence that answers the first question, what was looked at, and the findings."""
    diagnosis, run = opened.diagnosis, opened.run
    trace = main_trace(diagnosis)
    if opened.bare and diagnosis.healthy:
        kind, sentence, detail = "info", "Nothing wrong in this one trace.", BARE
    else:
        kind = "healthy" if diagnosis.healthy else _worst(diagnosis)
        sentence = _sentence(diagnosis, goes_on=run is not None and not run.finished)
        detail = _health(diagnosis, trace) if diagnosis.healthy else _advice(diagnosis)
        detail += f" {BARE}" if opened.bare else ""
    if not diagnosis.traces and not diagnosis.findings and run is None:
        kind, sentence, detail = "info", *_unjudged(opened)
    places = Places(trace)
    cards = tuple(card(finding, places) for finding in diagnosis.findings)
    return Verdict(kind, sentence, detail, _facts(opened, trace), cards)


def _worst(diagnosis: Diagnosis) -> str:
    return max((f.severity for f in diagnosis.findings), key=lambda s: s.rank, default=Severity.INFO).value


def _unjudged(opened: Opened) -> tuple[str, str]:
    """What a page says on top that shows numbers without a verdict."""
    if opened.prediction is not None:
        record = opened.prediction
        told = f"{decades(record.decades)} decades from the output to the input are predicted"
        seen = "" if math.isnan(record.measured_decades) else f", {decades(record.measured_decades)} measured"
        return f"Before training: the phase is {record.phase}.", f"{told}{seen}."
    if opened.through_time:
        horizon = opened.through_time[0].horizon
        far = "" if horizon is None or math.isnan(horizon.steps) else f"It reaches back {short(horizon.steps)} steps."
        return "The gradient through time.", far
    return "No finding.", ""


def _sentence(diagnosis: Diagnosis, *, goes_on: bool) -> str:
    if not diagnosis.healthy:
        return heading(diagnosis.findings[0]) + "."
    count, so_far = len(diagnosis.findings), " so far" if goes_on else ""
    return f"Healthy{so_far}." if not count else f"Healthy{so_far}, with {count} remark{'s' if count > 1 else ''}."


def heading(finding: Finding) -> str:
    """``The gradient vanishes: the derivative of the activation is small``."""
    if (finding.symptom, finding.cause) in OF_BOTH:
        return OF_BOTH[finding.symptom, finding.cause]
    cause = "" if finding.cause is Cause.NONE else f": {CAUSES[finding.cause]}"
    return SYMPTOMS[finding.symptom] + cause


def _advice(diagnosis: Diagnosis) -> str:
    """What to do first, and how much else there is."""
    first, others = diagnosis.findings[0], len(diagnosis.findings) - 1
    told = [clean(first.message)] if not first.remedies else [f"First change: {clean(first.remedies[0].title)}"]
    if others:
        told.append(f"{others} more finding{'s' if others > 1 else ''} below, ranked: the root cause comes first.")
    return " ".join(told)


def _health(diagnosis: Diagnosis, trace: Trace | None) -> str:
    apart = told_apart(table, trace) if trace is not None and (table := picture(trace)).rows else None
    if trace is None or apart is None:
        return "No finding is above a remark."
    told = f"{clean(table.ends[0].told_beside(table.ends[1], Names(trace)))}, the layer furthest from the loss, gets"
    return f"{told} {power(apart[1])} times {apart[0]} the layer nearest to it."


def _facts(opened: Opened, trace: Trace | None) -> tuple[tuple[str, str], ...]:
    diagnosis, run = opened.diagnosis, opened.run
    facts = run_facts(run) if run is not None else []
    if trace is not None and opened.sampled:
        facts.append((f"Trace of step {opened.sampled[-1][0]:,}", f"loss {short(trace.loss)}"))
    elif trace is not None:
        what = "Loss" if trace.probe == "loss" else "Gradient"
        facts.append((what, short(trace.loss) if trace.probe == "loss" else "random, at the output"))
    if trace is not None:
        if trace.batch_size is not None:
            facts.append(("Batch", str(trace.batch_size)))
        facts.append(("Ops measured", f"{len(trace.ops):,}"))
        weights = sum(parameter.numel for parameter in trace.parameters)
        facts.append(("Parameters", f"{weights:,} in {len(trace.parameters):,} tensors"))
    if diagnosis.losses:
        facts.append(
            ("Trained a copy", f"{counted(diagnosis.num_steps, 'step')}, loss to {short(diagnosis.losses[-1])}")
        )
    return tuple(facts)


def card(finding: Finding, known: Places) -> Card:
    """One finding, cleaned of control characters."""
    places = tuple(known.place(path) for path in finding.where)
    return Card(
        severity=SEVERITIES[finding.severity],
        kind=finding.severity.value,
        code=finding.code,
        title=heading(finding),
        message=clean(finding.message),
        places=places[:MOST_PLACES],
        num_more=max(0, len(places) - MOST_PLACES),
        source=clean(finding.source),
        since="from the start" if finding.step is None else f"from training step {finding.step:,} on",
        numbers=tuple(number(evidence) for evidence in finding.evidence),
        changes=tuple(
            Change(clean(remedy.title), "\n".join(clean_lines(remedy.code)), clean(remedy.source))
            for remedy in finding.remedies
        ),
        proofs=proofs_of(finding),
    )
