"""Does the optimizer go on stepping a model that another one has taken the place of?

What is trained then stays as it is, whatever its gradients: each event was seen exactly (`monitor.astray`), and stands
until a gradient comes to what the optimizer holds again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import owner
from gradtrace.diagnosis.thresholds import UNCLEARED_STEPS
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import EventKind, Scalar
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.of_loops import KEEP_THE_MODEL

if TYPE_CHECKING:
    from gradtrace.records.run import Run


def judge(run: Run) -> list[Finding]:
    """One finding an optimizer. An event's message is the name of the first parameter that it holds."""
    by_name = {parameter.name: parameter.optimizer for parameter in run.header.parameters}
    seen: dict[int, list[int]] = {}
    for event in run.events:
        number = by_name.get(event.message)
        if event.kind is EventKind.ASTRAY and number is not None:
            seen.setdefault(number, []).append(event.step)
        elif event.kind is EventKind.RETURNED and number is not None:
            seen.pop(number, None)
    return [_finding(run, number, steps) for number, steps in seen.items() if len(steps) >= UNCLEARED_STEPS]


def _finding(run: Run, number: int, steps: list[int]) -> Finding:
    names = [parameter.name for parameter in run.header.parameters if parameter.optimizer == number]
    onset = min(steps)
    last = _last_gradient(run, onset)
    told = f" (the last one that was measured came at step {last})" if last is not None else ""
    return Finding(
        symptom=Symptom.DISCONNECTED,
        cause=Cause.DETACHED_GRAPH,
        where=tuple(dict.fromkeys(owner(name) for name in names)),
        severity=Severity.CRITICAL,
        message=f"By step {onset}{told} the {len(names)} parameters that the optimizer holds get no gradient any more: "
        "backward passes bring it to others of the same shapes, which no step moves. The model was replaced after the "
        "optimizer was made, by a copy (copy.deepcopy) or one made anew: what is trained now learns nothing.",
        evidence=(Evidence("looks at steps that moved another model", float(len(steps)), "steps"),),
        remedies=(KEEP_THE_MODEL,),
        step=onset,
    )


def _last_gradient(run: Run, before: int) -> int | None:
    """The latest measured step before `before` that had one."""
    norms = run.steps.scalar(Scalar.GRADIENT_NORM)[1]
    found = run.steps.first[(norms > 0.0) & (run.steps.first < before)]
    return int(found[-1]) if len(found) else None
