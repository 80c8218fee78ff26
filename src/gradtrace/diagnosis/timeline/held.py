"""Does weight decay pull at the weights about as hard as a loss that has learnt little? As `decay`, and a remark.

A decay of lambda adds lambda w to the gradient g. Where the weights are at rest the two balance, g = -lambda w in each
weight: in a training that learns nothing for its decay's sake, and in one that is regularised well. No number of a run
tells one from the other where noise may be all that is left. But where in each weight matrix lambda |w| is half of |g|
or more at the median step, and the loss is more than half of what the best constant output gets, a smaller decay is
what tells them apart. Of a decay that goes past the optimizer's scaling (AdamW's) no such comparison holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.layer import owner
from gradtrace.diagnosis.thresholds import DOMINANT_FRAC, FALLEN_FACTOR, FOLLOWED_STEPS, SUSTAINED_ROWS
from gradtrace.diagnosis.timeline.before import matrices
from gradtrace.diagnosis.timeline.constant import of_best_constant
from gradtrace.diagnosis.timeline.losses import followed
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import Series
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import less_decay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.run import Run
    from gradtrace.records.trace import Trace


def held(run: Run, traces: Sequence[tuple[int, Trace]]) -> list[Finding]:
    """A remark on a run that is over and whose losses are known over half of it; `traces` are of one kind of pass."""
    seen, columns = followed(run), matrices(run)
    holders = {name: one for one in run.header.optimizers for name in one.parameters}
    names = [run.header.parameters[i].name for i in columns]
    is_over = run.finished and seen >= max(FOLLOWED_STEPS, DOMINANT_FRAC * run.steps.num_steps)
    if not is_over or not names or not all(name in holders and holders[name].weight_decay > 0.0 for name in names):
        return []
    weights = run.steps.series(Series.WEIGHT_NORM)[0][:, columns].astype(np.float64)
    gradients = run.steps.series(Series.GRADIENT_NORM)[1][:, columns]
    measured = np.flatnonzero(((weights > 0.0) & (gradients > 0.0) & np.isfinite(gradients)).all(axis=1))
    if len(measured) < SUSTAINED_ROWS:
        return []
    decays = np.array([holders[name].weight_decay for name in names])
    pulls = np.median(decays * weights[measured] / gradients[measured], axis=0)
    of_constant = of_best_constant(run, traces)
    if pulls.min() < DOMINANT_FRAC or not of_constant * FALLEN_FACTOR > 1.0:
        return []
    return [
        Finding(
            symptom=Symptom.VANISHING,
            cause=Cause.SMALL_WEIGHTS,
            where=tuple(dict.fromkeys(map(owner, names))),
            severity=Severity.INFO,
            message=f"Weight decay of {decays.max():g} pulls at each weight at least {pulls.min():.2g} times as hard "
            f"as the loss, at the median of the steps that were measured; and the loss of step "
            f"{seen - 1 + int(run.steps.first[0])}, the latest that was read, is {100 * of_constant:.3g} % of what the "
            "best constant output gets. Whether it is the decay that keeps it there or noise, a tenth of the decay "
            "tells.",
            evidence=(
                Evidence("decay over the gradient of the loss", float(pulls.min())),
                Evidence("loss over that of the best constant", of_constant),
            ),
            remedies=less_decay(adaptive=holders[names[0]].adaptive),
            step=int(run.steps.first[measured[0]]),
        )
    ]
