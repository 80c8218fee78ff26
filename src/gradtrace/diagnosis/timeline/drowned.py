"""Does a loss stay at a constant's because an embedding is drowned by what is added to it?

Of a sum x = e + p the layers behind see the mean square of both. Where e is a fraction f of the sum's root mean square,
a norm leaves f of it, and a step of gradient descent on those layers answers to e by f^2 of what it answers to p (the
kernel x . x' is e . e' + p . p'). Positions drawn at a standard deviation of 1, as `nn.Embedding` does, over tokens at
0.02, as a tied output wants them, are f = 0.02: three decades are clear-cut, f = 0.03, and while two are left by the
latest trace, f = 0.1, the steps have not mended it.

Said only of a run whose loss has come no further than the best constant's: what is small may not be needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gradtrace.diagnosis.layer import place
from gradtrace.diagnosis.naming import told_op
from gradtrace.diagnosis.sums import is_sum
from gradtrace.diagnosis.thresholds import CLEAR_DECADES, HEALTHY_DECADES
from gradtrace.diagnosis.timeline.constant import stays_at_constant
from gradtrace.diagnosis.timeline.losses import followed
from gradtrace.diagnosis.wording import percent
from gradtrace.measure.path import Paths
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom
from gradtrace.remedies.catalogue import ALIKE_IN_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.run import Run
    from gradtrace.records.trace import Op, Trace


class _Sum(NamedTuple):
    """An addition, the embedding that is one of its operands, and that one's part of the root mean square."""

    op: Op
    embedding: Op
    fraction: float


def drowned(run: Run, traces: Sequence[tuple[int, Trace]]) -> list[Finding]:
    """One finding; `traces` are the whole ones of one kind of pass, with their steps."""
    share = stays_at_constant(run, traces)
    if share is None:
        return []
    step, trace = traces[-1]
    worst = min(_sums(trace), key=lambda found: found.fraction, default=None)
    if worst is None or worst.fraction > 10.0 ** (-HEALTHY_DECADES / 2.0):
        return []
    least = min(found.fraction for _, one in traces for found in _sums(one))
    paths = Paths(trace)
    name, where = told_op(worst.embedding, trace, paths), place(worst.embedding, paths)
    return [
        Finding(
            symptom=Symptom.VANISHING,
            cause=Cause.SMALL_WEIGHTS,
            where=(where,),
            severity=Severity.WARNING if least <= 10.0 ** (-CLEAR_DECADES / 2.0) else Severity.INFO,
            message=f"After {followed(run)} steps the loss is {percent(share)} of what the best constant gets, and "
            f"what {name} looks up is drowned by what is added to it: at step {step} it is {100 * worst.fraction:.2g} "
            f"% of the sum's root mean square. A step of the layers behind answers to it by "
            f"{worst.fraction**2:.1g} of what it answers to the rest.",
            evidence=(
                Evidence("loss over that of the best constant", share),
                Evidence("embedding over the sum that it is part of", worst.fraction, "of the root mean square"),
            ),
            remedies=(ALIKE_IN_SIZE,),
            source=worst.op.site.source,
            step=step,
        )
    ]


def _sums(trace: Trace) -> list[_Sum]:
    """Additions to what an embedding looks up."""
    found = []
    for op in trace.ops:
        if is_sum(op) and op.forward is not None and op.forward.output_rms > 0.0:
            looked_up = (_looked_up(trace.ops[target[0]], trace) for target in op.targets if target is not None)
            for embedding in filter(None, looked_up):
                if embedding.forward is not None and embedding.forward.output_rms > 0.0:
                    found.append(_Sum(op, embedding, embedding.forward.output_rms / op.forward.output_rms))
    return found


def _looked_up(op: Op, trace: Trace) -> Op | None:
    """The embedding that an operand is, or is a view of; else None."""
    while op.factor is Factor.RESHAPE and len(op.targets) == 1 and op.targets[0] is not None and not op.weights:
        op = trace.ops[op.targets[0][0]]
    return op if op.function == "embedding" else None
