"""Does a network get gradients that no optimizer holds?

Many are meant to stay as they are, and nobody has told them so. But where two optimizers hold the very same parameters,
each step is made twice, and one of the two was meant for the network that has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import EventKind
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.of_loops import OWN_OPTIMIZER

if TYPE_CHECKING:
    from gradtrace.records.run import Run


def judge(run: Run) -> list[Finding]:
    """One finding: all that get a gradient and are held by none. An event's message is such a network's name."""
    told = dict.fromkeys(event.message for event in run.events if event.kind is EventKind.UNHELD)
    since = {parameter.name.partition(".")[0] for parameter in run.header.parameters}  # by an optimizer made later
    names = tuple(name for name in told if name not in since)
    if not names:
        return []
    twice = _held_twice(run)
    why = (
        f" Two optimizers hold the very same parameters instead ({', '.join(twice[:3])}{', ...' * (len(twice) > 3)}): "
        "one of them was meant for another network."
        if twice
        else " If that is meant, requires_grad_(False) says so, and saves their part of the backward pass."
    )
    return [
        Finding(
            symptom=Symptom.DISCONNECTED,
            cause=Cause.DETACHED_GRAPH,
            where=names,
            severity=Severity.CRITICAL if twice else Severity.INFO,
            message=f"Backward passes bring a gradient to {' and '.join(names)}, and no optimizer holds any of it: it "
            f"stays as it is.{why}",
            evidence=(Evidence("networks without optimizer", len(names), "networks"),),
            remedies=(OWN_OPTIMIZER,) if twice else (),
            step=int(run.steps.first[0]),
        )
    ]


def _held_twice(run: Run) -> tuple[str, ...]:
    """What two optimizers hold, each of them nothing else."""
    seen = set[tuple[str, ...]]()
    for optimizer in run.header.optimizers:
        held = tuple(sorted(optimizer.parameters))
        if held and held in seen:
            return optimizer.parameters
        seen.add(held)
    return ()
