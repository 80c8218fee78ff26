"""`judge`: from what was measured to a diagnosis; needs neither torch nor the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.diagnosis.attribution import RECURRENT_FUNCTIONS
from gradtrace.diagnosis.moved import USUAL
from gradtrace.diagnosis.ranking import rank
from gradtrace.diagnosis.rules import (
    attention,
    copies,
    creep,
    curvature,
    decay,
    depth,
    derivative,
    disconnected,
    formats,
    gates,
    loss,
    nonfinite,
    post_norm,
    sign,
    steps,
    swallowed,
    time,
    unfed,
    units,
)
from gradtrace.diagnosis.scene import is_finite, make_scene
from gradtrace.records.exhibit import Exhibit
from gradtrace.records.finding import Diagnosis

if TYPE_CHECKING:
    from gradtrace.diagnosis.moved import Limits
    from gradtrace.records.finding import Finding
    from gradtrace.records.trace import Trace

RULES = (
    nonfinite,
    disconnected,
    unfed,
    derivative,
    curvature,
    units,
    gates,
    attention,
    loss,
    sign,
    time,
    copies,
    depth,
    post_norm,
    decay,
    formats,
    swallowed,
    steps,
    creep,
)
"""Each has a function ``judge(scene) -> list[Finding]``; they do not know of each other, the ranking does."""


def judge(exhibit: Exhibit, title: str = "", limits: Limits = USUAL) -> Diagnosis:
    """Let every rule look at `exhibit` and rank what they find, the root cause first."""
    scene = make_scene(exhibit, limits)
    findings: list[Finding] = []
    faults: list[str] = []
    for rule in RULES:
        try:
            findings += rule.judge(scene)
        except Exception as error:  # one rule that stumbles must not cost the verdicts of the others
            name = rule.__name__.rpartition(".")[2]
            faults.append(f"the rule of {name} failed ({type(error).__name__}: {error}); please report it")
    traces = exhibit.traces + ((exhibit.probe,) if exhibit.probe is not None else ())
    losses = exhibit.training.losses if exhibit.training is not None and exhibit.training.asked else ()
    updates = exhibit.training.updates if exhibit.training is not None else ()
    refusals = (*exhibit.refusals, *_refusals(exhibit), *faults)
    return Diagnosis(rank(findings), traces, losses, refusals, title, updates)


def judge_trace(trace: Trace) -> Diagnosis:
    """Judge a single trace, as loaded from a file."""
    return judge(Exhibit((trace,)))


def _refusals(exhibit: Exhibit) -> tuple[str, ...]:
    """Verdicts that rest on something unseen."""
    refused = []
    for trace in exhibit.traces[:1]:
        opaque = [text for text in trace.coverage.opaque if "checkpoint" in text or "compiled" in text]
        if opaque:
            refused.append(f"what happens inside {', '.join(opaque)} was not seen: no verdict on its layers")
        fused = [op for op in trace.ops if op.function in RECURRENT_FUNCTIONS]
        told = any("through time" in refusal for refusal in exhibit.refusals)
        if fused and trace.through_time is None and is_finite(trace) and not told:
            where = fused[0].site.module or "a recurrence"
            refused.append(f"{where} was not looked at step by step (`gradtrace.check` does): no verdict through time")
        if trace.coverage.unreadable:
            names = ", ".join(trace.coverage.unreadable[:3])
            refused.append(f"the derivative of {names} could not be read: no verdict on saturation there")
    return tuple(refused)
