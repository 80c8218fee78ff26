"""A NaN that came while nobody looked, and of which this batch knows nothing: by which ops can it have come?

A step makes a NaN of finite numbers in two ways: by an op at the edge of what it is defined for, as a logarithm at
zero, or by numbers that overflow, because steps were too large. Where no op has such an edge, only the second is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.monitor.nonfinite.loss_tape import function_of
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.shown import loss_told
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.trace import Op

WITH_AN_EDGE = frozenset(
    "Log Log2 Log10 Log1P Sqrt Rsqrt Reciprocal Div Std Norm LinalgVectorNorm Acos Asin Atanh".split()
)
"""Ops that are, or whose derivative is, no number at the edge of what they are defined for.

Powers are left out, which are squares as a rule; so is a division by what no weight has made.
"""


def born_unseen(step: int, since: int, loss: float | None, ops: Sequence[Op]) -> Finding:
    """What to say at step `step`, of weights that were finite at step `since` and are no more.

    `loss`: of step `step`, whose batch is harmless with the weights of step `since`; None: it was the last one, and
    nobody saw its batch. `ops`: of the latest whole trace.
    """
    edges = [op for op in ops if _has_an_edge(op)]
    cause = Cause.UNSAFE_OP if edges or not ops else Cause.LEARNING_RATE
    head = "After the last step" if loss is None else f"At step {step} the loss is {loss_told(loss)}, and"
    harmless = "" if loss is None else f" With the weights of step {since} this batch gives finite numbers."
    return Finding(
        symptom=Symptom.NONFINITE,
        cause=cause,
        where=(edges[-1].site.module or "loss",) if edges else ("",),
        severity=Severity.CRITICAL,
        message=f"{head} the weights are not finite: they were spoilt in one of steps {since} to {step}, which were "
        f"not looked at one by one.{harmless} {_why(ops, edges)}",
        evidence=() if loss is None else (Evidence("loss", loss),),
        remedies=remedies_for(Symptom.NONFINITE, cause),
        source=edges[-1].site.source if edges else "",
        step=step,
    )


def _has_an_edge(op: Op) -> bool:
    name = base_name(op.name)
    return name in WITH_AN_EDGE and not (name == "Div" and None in op.targets)


def _why(ops: Sequence[Op], edges: Sequence[Op]) -> str:
    if edges:
        places = [f"{function_of(op.name)}{f' ({op.site.source})' if op.site.source else ''}" for op in edges]
        told = ", ".join([*dict.fromkeys(places)][:3])
        return f"Steps were too large, or one of these met the edge of what it is defined for: {told}."
    if ops:
        return (
            "No op of the latest whole trace makes a NaN of finite numbers except by overflow: the steps were too "
            "large, unless an op ran meanwhile that this trace has not seen."
        )
    return "Steps were too large, or a batch brought it."
