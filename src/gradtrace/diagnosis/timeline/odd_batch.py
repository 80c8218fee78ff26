"""Was it the data of one batch that the loss jumped at, and not the steps?

Let a step move each weight by r of its size. A map W of fan-in n makes of an input x about |W| |x| / sqrt(n), and the
step is along the gradient, an outer product with x, so that it changes that by r |W| |x| at most: by 1 + r sqrt(n) as a
factor. Layers behind one another multiply, and a squared error is the output's square:

    loss of a batch after the step / loss of the same batch before it  <=  prod (1 + r sqrt(n))^2

(activations with |a'| <= 1 and norms add nothing to it; functions that grow faster, as exponentials, are not judged).
What a loss jumps by beyond that, and tenfold, it jumps by because the batch is another one: a row without its decimal
point, a target in another unit. What the step then does to the weights is the batch's, whatever the rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.attribution import RECURRENT_FUNCTIONS
from gradtrace.diagnosis.layer import is_layer
from gradtrace.diagnosis.sums import is_sum
from gradtrace.diagnosis.thresholds import DIVERGED_FACTOR, NEAR_ZERO, SPIKE_WINDOW, UPDATE_REPLACES
from gradtrace.diagnosis.timeline.before import matrices, ratios_of_matrices
from gradtrace.records.run import Scalar, Series
from gradtrace.records.vocabulary import Cause, Factor, Symptom
from gradtrace.remedies.catalogue import FIND_THE_ROW

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradtrace.records.finding import Finding
    from gradtrace.records.run import Run
    from gradtrace.records.trace import Op, Trace


@dataclass(frozen=True, slots=True)
class OddBatch:
    """The first one that the loss jumped at."""

    step: int
    loss: float
    usual: float
    """The largest loss before."""
    by_step: float
    """The factor that the step before can have to do with it, at most."""
    others: tuple[int, ...]
    """Later steps at which the loss came to such a level anew."""

    def explains(self, run: Run, finding: Finding) -> bool:
        """Whether steps that were too large, or units that died, came soon after such a batch."""
        dead = finding.symptom is Symptom.DEAD_UNITS and finding.cause is Cause.SATURATED_PREACTIVATION
        if finding.step is None or not (dead or finding.cause is Cause.LEARNING_RATE):
            return False
        row, *jumps = (int(np.searchsorted(run.steps.first, s)) for s in (finding.step, self.step, *self.others))
        return any(0 <= row - jump <= SPIKE_WINDOW for jump in jumps)

    def instead(self, finding: Finding) -> Finding:
        """`finding` with its root in place of the rate."""
        told = (
            f"At step {self.step} the loss jumped to {self.loss:.3g}, where {self.usual:.3g} was the most before, and "
            f"the step before can have to do with a factor of {self.by_step:.2g} of that at most: it is that batch. A "
            "row of its inputs or targets, or more, lies far from all others, and no rate allows for it."
        )
        return replace(
            finding,
            cause=Cause.INPUT_SCALE,
            where=tuple(dict.fromkeys(("batch", *finding.where))),
            message=f"{finding.message} {told}",
            remedies=(FIND_THE_ROW,),
        )


def odd_batch(run: Run, trace: Trace) -> OddBatch | None:
    """None: the loss never jumped by more than the step before it can have done; `trace` is that of the first step."""
    layers = [op for op in trace.ops if is_layer(op)]
    ratios, high = ratios_of_matrices(run), np.abs(run.steps.scalar(Scalar.LOSS)[1])
    if not layers or not all(map(_is_tame, trace.ops)) or _starts_near_zero(run) or len(high) < 2:
        return None
    with np.errstate(invalid="ignore"):
        before = np.fmax.accumulate(high)[:-1]
        jumped = np.flatnonzero(high[1:] > DIVERGED_FACTOR * before) + 1
    row = int(jumped[0]) if len(jumped) else 0
    earlier = ratios[:row]
    if not row or not np.isfinite(earlier).any() or not math.isfinite(high[row]):
        return None
    by_step = _by_step(run, layers, row, _ratio(run, earlier, row))
    usual = float(before[row - 1])
    if by_step is None or not high[row] > DIVERGED_FACTOR * by_step * usual:
        return None
    level = DIVERGED_FACTOR * by_step * usual
    entered = np.flatnonzero((high[1:] > level) & (high[:-1] <= level)) + 1
    steps = tuple(int(run.steps.first[i]) for i in entered)
    return OddBatch(int(run.steps.first[row]), float(high[row]), usual, by_step, steps[1:])


def _ratio(run: Run, earlier: NDArray[np.float32], row: int) -> float:
    """The largest |update| / |weight| before `row`; longer by as much as the gradient was longer since."""
    norms = run.steps.scalar(Scalar.GRADIENT_NORM)[1][:row]
    measured = norms[np.isfinite(earlier).any(axis=1)]
    longer = (
        float(norms[-1] / np.nanmax(measured)) if np.isfinite(measured).any() and np.nanmax(measured) > 0.0 else 1.0
    )
    return float(np.nanmax(earlier)) * max(1.0, longer if math.isfinite(longer) else math.inf)


def _by_step(run: Run, layers: list[Op], row: int, ratio: float) -> float | None:
    """The bound, over all uses of layers and the steps since the row before; None: steps were as large as weights."""
    if not ratio <= UPDATE_REPLACES:
        return None
    shapes = {parameter.name: parameter.shape for parameter in run.header.parameters}
    fans = [max(s[0], math.prod(s[1:])) for op in layers for name in op.weights if len(s := shapes.get(name, ())) > 1]
    num_steps = int(run.steps.first[row] - run.steps.first[row - 1])
    grown = 2.0 * num_steps * sum(math.log10(1.0 + ratio * math.sqrt(fan)) for fan in fans)
    return float(10.0**grown) if grown < math.log10(np.finfo(np.float32).max) else None


def _is_tame(op: Op) -> bool:
    """Whether an op makes of its operands no more than a few times their size."""
    if op.function in RECURRENT_FUNCTIONS or op.factor in (Factor.ATTENTION, Factor.OTHER):
        return False
    if op.factor is Factor.LOSS:
        return op.objective is not None or not op.passed or op.function in _OF_OBJECTIVES
    if op.parameter is not None or op.factor in (Factor.RESHAPE, Factor.NORM, Factor.MERGE):
        return True
    if op.factor is Factor.ACTIVATION:
        return op.activation is not None
    return is_layer(op) or is_sum(op)


_OF_OBJECTIVES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "cross_entropy", "mean")


def _starts_near_zero(run: Run) -> bool:
    """Whether a matrix is near zero at the first row: its first steps make the output as large as they like."""
    columns = matrices(run)
    shapes = [run.header.parameters[i].shape for i in columns]
    sizes = run.steps.series(Series.WEIGHT_NORM)[0][:1, columns] / np.sqrt([max(shape[0], 1) for shape in shapes])
    return not sizes.size or not bool((sizes > NEAR_ZERO).all())
