"""Is there an optimizer that is never stepped, while the passes bring what it alone holds a gradient?

That its steps are counted is not enough: someone may move its parameters in another way, and then a measured step did.
What is frozen gets no gradient, and there is no such event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.layer import owner
from gradtrace.diagnosis.thresholds import SUSTAINED_ROWS
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import EventKind, Series
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.of_loops import STEP_EACH

if TYPE_CHECKING:
    from gradtrace.records.run import Run


def judge(run: Run) -> list[Finding]:
    """One finding an optimizer. An event's message is the name of a parameter of its own."""
    if run.steps.num_steps < 2 * SUSTAINED_ROWS:
        return []
    by_name = {parameter.name: parameter.optimizer for parameter in run.header.parameters}
    told = [by_name.get(event.message) for event in run.events if event.kind is EventKind.IDLE]
    found = [_finding(run, number) for number in dict.fromkeys(told) if number is not None]
    return [finding for finding in found if finding is not None]


def _finding(run: Run, number: int) -> Finding | None:
    columns = [i for i, parameter in enumerate(run.header.parameters) if parameter.optimizer == number]
    if np.any(run.steps.series(Series.UPDATE_RATIO)[1][:, columns] > 0.0):
        return None
    names = [run.header.parameters[i].name for i in columns]
    return Finding(
        symptom=Symptom.DISCONNECTED,
        cause=Cause.DETACHED_GRAPH,
        where=tuple(dict.fromkeys(owner(name) for name in names)),
        severity=Severity.WARNING,
        message=f"In {run.steps.num_steps} steps of training the optimizer that holds {names[0]} was never stepped, "
        f"although backward passes bring it a gradient: its {len(names)} parameters are what they were at the start.",
        evidence=(Evidence("parameters that no step moves", float(len(names)), "parameters"),),
        remedies=(STEP_EACH,),
        step=int(run.steps.first[0]),
    )
