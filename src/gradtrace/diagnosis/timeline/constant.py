"""Does a known loss get no further than a constant's, although all gradients are well? Then they do not tell why.

No output that does not depend on the input gets below the best constant of its batch. What lies above it, on average
over the late traces, depends on the input in no way that helps. But that constant is fitted to the batch: of n samples
the variance is short by 1 / n (Bessel), and an entropy of K classes by (K - 1) / (2 n) (Miller 1955): whoever learns
a thousand classes stays above it for long. Where it is short by much, it is no measure. With these terms added it is
one for a run's latest losses, of which there are more than traces.

Nor is it where the targets are a network's own (a bootstrapped value: they reach the loss past the tape), or come of
one that is not watched: then their spread moves with it, and a value that follows well may stay above each constant.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.thresholds import EFFECT_FRAC, FALLEN_FACTOR, FITTED_FRAC, FOLLOWED_STEPS
from gradtrace.diagnosis.timeline.losses import followed, latest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.run import Run
    from gradtrace.records.trace import Op, Trace


def no_further(traces: Sequence[tuple[int, Trace]]) -> str:
    """What is said of the whole traces of one kind of pass, each with its step of the run; '' where one got further."""
    late = [(step, trace) for step, trace in traces if step >= FOLLOWED_STEPS]
    if any(trace.severed for _, trace in late):
        return ""
    known = [[op for op in trace.ops if op.objective is not None] for _, trace in late]
    if not late or len({tuple(op.function for op in ops) for ops in known}) != 1:
        return ""
    for place, op in enumerate(known[-1]):
        if _moves([ops[place] for ops in known]):
            continue
        shares = [_of_constant(ops[place], trace) for ops, (_, trace) in zip(known, late, strict=True)]
        if op.objective is not None and min(shares[-1], sum(shares) / len(shares)) >= 1.0:
            return (
                f"whether the data is learnt: at step {late[-1][0]}, the latest that was traced, "
                f"{op.objective.function or op.function} is {op.objective.value:.3g}, and the best constant gets "
                f"{op.objective.constant:.3g}. {_WHY}"
            )
    return ""


def no_better(run: Run, traces: Sequence[tuple[int, Trace]]) -> str:
    """The same by the latest losses of a run, where they are no better by as much as counts; '' where they are."""
    known = [[op for op in trace.ops if op.objective is not None] for _, trace in traces]
    if len(known) < 2 or followed(run) < FOLLOWED_STEPS or any(len(ops) != 1 for ops in known):
        return ""
    if any(trace.severed for _, trace in traces) or _moves([ops[0] for ops in known]):
        return ""
    share = of_best_constant(run, [trace for _, trace in traces])
    if not share >= 1.0 - EFFECT_FRAC:
        return ""
    step = followed(run) - 1 + int(run.steps.first[0])
    return (
        f"whether the data is learnt: the loss of step {step}, the latest that was read, is {100 * share:.3g} % of "
        f"what the best constant gets. {_WHY}"
    )


_WHY = (
    "Gradients do not tell why: it may be labels that are not those of their inputs, axes that were reshaped and not "
    "permuted, a term of the loss that outweighs this one, a derivative of your own, or noise"
)


def of_best_constant(run: Run, traces: Sequence[Trace]) -> float:
    """The latest losses over what the best constant gets; NaN where that is not known of a single, known loss."""
    constants = []
    for trace in traces:
        known = [op for op in trace.ops if op.objective is not None]
        found = known[0].objective if len(known) == 1 else None
        if found is None or not found.constant > 0.0 or not found.value > 0.0:
            return math.nan
        short = _short_by(known[0], trace)
        if short <= FITTED_FRAC * found.constant:
            constants.append((found.constant + short) * trace.loss / found.value)  # in units of the run's losses
    return latest(run) / float(np.median(constants)) if constants else math.nan


def _moves(ops: Sequence[Op]) -> bool:
    """Whether what a constant gets is another by a factor of two at one late trace than at another: no one data set's.

    The variance of twenty samples has a standard error of a third of itself.
    """
    constants = [op.objective.constant for op in ops if op.objective is not None]
    return max(constants) > FALLEN_FACTOR * min(constants)


def _of_constant(op: Op, trace: Trace) -> float:
    """The loss over that of the best constant; minus infinity where that is no measure."""
    found = op.objective
    if found is None or not found.constant > 0.0 or _short_by(op, trace) > FITTED_FRAC * found.constant:
        return -math.inf
    return found.value / found.constant


def _short_by(op: Op, trace: Trace) -> float:
    """By how much the best constant of the batch is better than that of all data; infinite where that is not known."""
    found = op.objective
    passed = next((stats.shape for stats in op.passed if stats is not None), ())
    num = trace.batch_size or 0
    if found is None or not num:
        return math.inf
    name = found.function or op.function
    if name in ("cross_entropy", "nll_loss"):
        if len(passed) < 2 or name != op.function:  # written out: of how many classes is not known
            return math.inf
        return (passed[1] - 1) * passed[1] / (2.0 * math.prod(passed))
    return 1.0 / (2.0 * num) if name.startswith("binary") else found.constant / num
