"""Does a known loss get no further than a constant's, although all gradients are well? Then they do not tell why.

No output that does not depend on the input gets below the best constant of its batch. What lies above it, on average
over the late traces, depends on the input in no way that helps. But that constant is fitted to the batch: of n samples
the variance is short by 1 / n (Bessel), and an entropy of K classes by (K - 1) / (2 n) (Miller 1955): whoever learns
a thousand classes stays above it for long. Where it is short by much, it is no measure. With these terms added it is
one for a run's latest losses, of which there are more than traces. And however few the samples are, an entropy has a
bound from above: it is short by log(1 + (K - 1) / n) at most (Paninski 2003, prop. 1), and no more than log K.

Nor is it where the targets are a network's own (a bootstrapped value: they reach the loss past the tape), or come of
one that is not watched: then their spread moves with it, and a value that follows well may stay above each constant.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.besides import besides
from gradtrace.diagnosis.thresholds import DEAD_SIGMAS, EFFECT_FRAC, FALLEN_FACTOR, FITTED_FRAC, FOLLOWED_STEPS
from gradtrace.diagnosis.timeline.losses import followed, latest
from gradtrace.measure.path import Paths
from gradtrace.records.run import Scalar

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
                f"{op.objective.constant:.3g}. {_why(late[-1][1])}"
            )
    return ""


def no_better(run: Run, traces: Sequence[tuple[int, Trace]]) -> str:
    """The same by the latest losses of a run, where they are no better by as much as counts; '' where they are."""
    share = stays_at_constant(run, traces)
    if share is None:
        return ""
    step = followed(run) - 1 + int(run.steps.first[0])
    is_bound = not any(_is_measure(op, trace) for _, trace in traces for op in trace.ops if op.objective is not None)
    return (
        f"whether the data is learnt: the loss of step {step}, the latest that was read, is "
        f"{'at least ' * is_bound}{100 * share:.3g} % of what the best constant gets. {_why(traces[-1][1])}"
    )


def stays_at_constant(run: Run, traces: Sequence[tuple[int, Trace]]) -> float | None:
    """The latest losses over what the best constant gets, of a run whose single, known loss is hardly below it."""
    known = [[op for op in trace.ops if op.objective is not None] for _, trace in traces]
    if len(known) < 2 or followed(run) < FOLLOWED_STEPS or any(len(ops) != 1 for ops in known):
        return None
    if any(trace.severed for _, trace in traces) or _moves([ops[0] for ops in known]):
        return None
    share = of_best_constant(run, traces)
    return share if share >= 1.0 - EFFECT_FRAC else None


def _why(trace: Trace) -> str:
    seen = besides(trace, Paths(trace))
    return f"This may be why: {'; '.join(seen)}. {_WHY}" if seen else _WHY


_WHY = (
    "Gradients do not tell why: it may be labels that are not those of their inputs, axes that were reshaped and not "
    "permuted, a term of the loss that outweighs this one, a derivative of your own, or noise"
)


def of_best_constant(run: Run, traces: Sequence[tuple[int, Trace]], *, at_least: bool = True) -> float:
    """The latest losses over what the best constant gets; NaN where that is not known of a single, known loss.

    Over what it gets at most, where each batch is too small to tell more: `at_least` so much it is then.
    """
    constants, bounds = [], []
    for step, trace in traces if len(run.steps.first) else ():
        known = [op for op in trace.ops if op.objective is not None]
        found = known[0].objective if len(known) == 1 else None
        if found is None or not found.constant > 0.0 or not found.value > 0.0:
            return math.nan
        unit = trace.loss / _scale(run, step) / found.value  # in units of the run's losses
        if _is_measure(known[0], trace):
            constants.append((found.constant + _short_by(known[0], trace)) * unit)
        of_batch, largest = _at_most(known[0], trace)
        bounds.append((unit * of_batch, unit * largest))
    now = latest(run)
    if constants:
        return now / float(np.median(constants))
    is_bound = at_least and len(bounds) > 1 and bool(np.isfinite(bounds).all())
    return now / _bound(bounds) if is_bound else math.nan


def measured_share(run: Run, traces: Sequence[tuple[int, Trace]]) -> float:
    """The latest losses over what the best constant gets, where that is a measure of one data set; else NaN."""
    known = [[op for op in trace.ops if op.objective is not None] for _, trace in traces]
    if not known or any(len(ops) != 1 for ops in known) or any(trace.severed for _, trace in traces):
        return math.nan
    return math.nan if _moves([ops[0] for ops in known]) else of_best_constant(run, traces, at_least=False)


def _scale(run: Run, step: int) -> float:
    """What a GradScaler has multiplied the loss of a trace with; those of the run are without."""
    row = max(int(np.searchsorted(run.steps.first, step, side="right")) - 1, 0)
    scale = float(run.steps.scalar(Scalar.LOSS_SCALE)[1][row])
    return scale if scale > 0.0 else 1.0


def _bound(bounds: Sequence[tuple[float, float]]) -> float:
    """What the best constant of all data gets at most, by (this bound of one batch, what no batch exceeds) of several.

    Batches are not alike: their mean lies below that of all by `DEAD_SIGMAS` of its standard errors at the most.
    """
    of_batches, largest = np.array(bounds).T
    error = float(np.std(of_batches, ddof=1)) / math.sqrt(len(bounds))
    return min(float(of_batches.mean()) + DEAD_SIGMAS * error, float(np.median(largest)))


def _moves(ops: Sequence[Op]) -> bool:
    """Whether what a constant gets is another by a factor of two at one late trace than at another: no one data set's.

    The variance of twenty samples has a standard error of a third of itself.
    """
    constants = [op.objective.constant for op in ops if op.objective is not None]
    return max(constants) > FALLEN_FACTOR * min(constants)


def _of_constant(op: Op, trace: Trace) -> float:
    """The loss over that of the best constant; minus infinity where that is no measure."""
    found = op.objective
    if found is None or not found.constant > 0.0 or not _is_measure(op, trace):
        return -math.inf
    return found.value / found.constant


def _is_measure(op: Op, trace: Trace) -> bool:
    """Whether the best constant of the batch is nearly as good a one as that of all data."""
    return op.objective is not None and _short_by(op, trace) <= FITTED_FRAC * op.objective.constant


def _short_by(op: Op, trace: Trace) -> float:
    """By how much the best constant of the batch is better than that of all data; infinite where that is not known."""
    num, of_classes = _num_samples(op, trace), _num_classes(op)
    if op.objective is None or not num:
        return math.inf
    return (of_classes - 1) / (2.0 * num) if of_classes else op.objective.constant / num


def _at_most(op: Op, trace: Trace) -> tuple[float, float]:
    """What the best constant of all data gets at most, on average over such batches, and what it cannot exceed."""
    num, of_classes = _num_samples(op, trace), _num_classes(op)
    if op.objective is None or not num or of_classes < 2:
        return math.inf, math.inf
    return op.objective.constant + math.log1p((of_classes - 1) / num), math.log(of_classes)


def _num_classes(op: Op) -> int:
    """Whose entropy the best constant gets; 0: it gets none."""
    name = _name(op)
    return 2 if name.startswith("binary") else _shape(op)[1] if name in _OF_CLASSES and len(_shape(op)) > 1 else 0


def _num_samples(op: Op, trace: Trace) -> int:
    """That the best constant is fitted to; 0: not known."""
    if _name(op) not in _OF_CLASSES:
        return trace.batch_size or 0
    is_plain = _name(op) == op.function and len(_shape(op)) > 1  # written out: of how many classes is not known
    return math.prod(_shape(op)) // max(_shape(op)[1], 1) if is_plain and trace.batch_size else 0


_OF_CLASSES = "cross_entropy", "nll_loss"


def _name(op: Op) -> str:
    return (op.objective.function if op.objective is not None else "") or op.function


def _shape(op: Op) -> tuple[int, ...]:
    return next((stats.shape for stats in op.passed if stats is not None), ())
