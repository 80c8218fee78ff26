"""Is a training over before its steps have got it anywhere, because all of them together were too short?

The best constant output is within reach of any network, whatever its data: a bias is all that it takes. A loss that is
still above it at the end, by as much as counts, has not even learnt that. Each step moves a weight by r = |update| /
|weight|, so that N steps move it by the sum of r at the most, wherever they lead: while that is below one, no weight
has become another one, and the network is about what it was at the start.

A loss that is at a constant's may be all that the data allow. But where the loss would follow the weights, and all
steps together have gone less far than a hundred usual ones (Karpathy 2015: r is about 1e-3), each a tenth of one at
the most, the network has not been tried.

What a constant gets is known by the batch: of n targets the mean square about their own mean is (n - 1) / n of the
variance on average. Of a likelihood it is not known so: a batch holds a few of many classes, and its entropy is low.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.objectives import objectives
from gradtrace.diagnosis.rules.loss import of_constant
from gradtrace.diagnosis.scene import is_finite, make_scene
from gradtrace.diagnosis.thresholds import (
    EFFECT_FRAC,
    FALLEN_FACTOR,
    FOLLOWED_STEPS,
    SUSTAINED_FRAC,
    SUSTAINED_ROWS,
    UPDATE_REPLACES,
    UPDATE_USUAL,
)
from gradtrace.diagnosis.timeline.before import matrices
from gradtrace.diagnosis.timeline.constant import of_best_constant
from gradtrace.diagnosis.timeline.creep import elasticity, warms_up, why_short
from gradtrace.diagnosis.timeline.losses import by_chance, finite_losses, followed, last_rows, latest, trained
from gradtrace.diagnosis.wording import steps
from gradtrace.records.exhibit import Exhibit
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import Scalar, Series
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import FASTER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.finding import Remedy
    from gradtrace.records.run import Run
    from gradtrace.records.trace import Trace


def too_slow(run: Run, traces: Sequence[tuple[int, Trace]]) -> list[Finding]:
    """One finding, of a run that is over; `traces` are of one kind of pass."""
    if not run.finished or followed(run) < max(FOLLOWED_STEPS, run.steps.num_steps / 2) or warms_up(run):
        return []
    now, paths = latest(run), _paths(run)
    if not paths:
        return []
    constant, longest = _constant(run, traces), max(paths.values())
    is_known = followed(run) >= (1.0 - SUSTAINED_FRAC) * run.steps.num_steps
    if is_known and constant > 0.0 and now >= (1.0 + EFFECT_FRAC) * constant and 0.0 < longest < UPDATE_REPLACES:
        told = f"its loss is {now:.3g}, and a constant output gets {constant:.3g}"
        return [_finding(run, told, paths, "The steps are too short, or too few.", FASTER)]
    if not now > 0.0 or not _is_untried(run, longest):
        return []
    share = of_best_constant(run, traces)
    if not share >= max((1.0 - EFFECT_FRAC) / (1.0 + _by_chance(run) / now), 1.0 / FALLEN_FACTOR):
        return []
    told = f"its loss is {now:.4g}, {100 * share:.3g} % of what a constant output gets, and would follow the weights"
    return [_finding(run, told, paths, *why_short(run, longest / run.steps.num_steps))]


def _by_chance(run: Run) -> float:
    """By how much the latest losses may lie below the first ones by chance alone."""
    losses = finite_losses(run)[2]
    return by_chance(losses, last_rows(len(losses)), last_rows(len(losses)))


def _is_untried(run: Run, longest: float) -> bool:
    """Whether all steps are as good as none, those of no known loss too: it has not come down, and would follow."""
    short = 0.0 < longest < UPDATE_USUAL * min(FOLLOWED_STEPS, 0.1 * run.steps.num_steps)
    held = [i for i in matrices(run) if run.header.parameters[i].optimizer is not None]
    return short and not trained(run) and elasticity(run, held) >= 1.0


def _finding(run: Run, told: str, paths: dict[str, float], why: str, remedy: Remedy) -> Finding:
    longest, shortest = (by(paths, key=paths.__getitem__) for by in (max, min))
    other = f", and {shortest} by {100 * paths[shortest]:.2g} %" if shortest != longest else ""
    return Finding(
        symptom=Symptom.UNDERFLOW,
        cause=Cause.LEARNING_RATE,
        where=("",),
        severity=Severity.WARNING,
        message=f"The training is over before it has learnt anything: {told}. All {steps(run.steps.num_steps)} "
        f"together moved {longest} by {100 * paths[longest]:.2g} % of its size{other}. {why}",
        evidence=(Evidence("size of a weight that all steps together moved", paths[longest], "fraction"),),
        remedies=(remedy,),
        step=int(run.steps.first[0]),
    )


def _constant(run: Run, traces: Sequence[tuple[int, Trace]]) -> float:
    """What a constant gets by its errors, in units of the run's losses: the median over `traces`; 0: not known."""
    found = []
    for step, trace in traces:
        if not is_finite(trace) or not trace.loss > 0.0:
            continue
        view, n = make_scene(Exhibit((trace,), optimizers=run.header.optimizers)).views[0], trace.batch_size or 1
        errors = {one.function for one in objectives(view)} <= {"mse_loss", "l1_loss"}
        of_trace = of_constant(view) if errors and n > 1 else ()
        row = int(np.searchsorted(run.steps.first, step, side="right")) - 1
        low, high = (series[row] for series in run.steps.scalar(Scalar.LOSS))
        if not of_trace or not np.isfinite(low + high):
            return 0.0
        found.append(of_trace[0].value * n / (n - 1) * (low + high) / 2.0 / trace.loss)
    return float(np.median(found)) if found else 0.0


def _paths(run: Run) -> dict[str, float]:
    """By weight, the sum of |update| / |weight| over all steps: of those between two measured ones as they were."""
    ratios = run.steps.series(Series.UPDATE_RATIO)[1].astype(np.float64)
    found = {}
    for i in matrices(run):
        parameter, known = run.header.parameters[i], np.isfinite(ratios[:, i])
        if parameter.optimizer is not None and known.sum() >= SUSTAINED_ROWS:
            at, ratio = run.steps.first[known], ratios[known, i]
            usual = float(np.average((ratio[1:] + ratio[:-1]) / 2.0, weights=np.diff(at)))
            found[parameter.name] = usual * run.steps.num_steps
    return found
