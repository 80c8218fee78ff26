"""Have the steps followed weight decay instead of the loss? As `rules.decay`, of the numbers of every measured step.

With lambda |w| above |g| in every weight, at most of the measured steps, all weights shrink whatever the loss says. It
counts if all have halved, the gradient has vanished with them (a product of small weights passes on little), and the
loss has not halved: what is left is a constant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.layer import owner
from gradtrace.diagnosis.rules.decay import of_decay
from gradtrace.diagnosis.thresholds import DROWNED, HEALTHY_DECADES, SUSTAINED_ROWS
from gradtrace.diagnosis.timeline.before import matrices
from gradtrace.diagnosis.timeline.losses import falls_since, last_rows
from gradtrace.diagnosis.wording import PULL
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import Series
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import less_decay

if TYPE_CHECKING:
    from gradtrace.records.run import Run


def judge(run: Run) -> list[Finding]:
    """One finding, for all weights together."""
    optimizers = {name: one for one in run.header.optimizers for name in one.parameters}
    names = [parameter.name for parameter in run.header.parameters]
    columns = [i for i in matrices(run) if names[i] in optimizers and optimizers[names[i]].weight_decay > 0.0]
    if not columns or columns != matrices(run):
        return []
    decays = np.array([optimizers[names[i]].weight_decay for i in columns])
    weights = run.steps.series(Series.WEIGHT_NORM)[0][:, columns]
    gradients = run.steps.series(Series.GRADIENT_NORM)[1][:, columns]
    measured = np.flatnonzero(((weights > 0.0) & np.isfinite(gradients)).all(axis=1))  # until they are rounded to 0
    if len(measured) < SUSTAINED_ROWS or falls_since(run, int(run.steps.first[0])):
        return []
    pulls = decays * weights[measured] / np.maximum(gradients[measured], np.finfo(np.float32).tiny)
    pull = float(np.median(pulls.min(axis=1)))
    left = float((weights[measured[-1]] / np.maximum(weights[measured[0]], np.finfo(np.float32).tiny)).max())
    norms = np.linalg.norm(gradients[np.isfinite(gradients).all(axis=1)], axis=1)
    width = last_rows(len(norms))
    faded = float(np.median(norms[-width:])) < 10**-HEALTHY_DECADES * float(np.median(norms[:width]))
    if pull < DROWNED or left > 0.5 or not faded:
        return []
    return [
        Finding(
            symptom=Symptom.VANISHING,
            cause=Cause.SMALL_WEIGHTS,
            where=tuple(dict.fromkeys(owner(names[i]) for i in columns)),
            severity=Severity.CRITICAL,
            message=f"{of_decay(decays.max(), adaptive=optimizers[names[columns[0]]].adaptive)}: at the median step it "
            f"pulls at each weight {pull:.3g} times as hard as the loss or harder, so that steps follow it alone. No "
            f"weight is more than {left:.2g} times as large as at the start, the gradient has gone with them, and the "
            "loss has not halved.",
            evidence=(
                Evidence(PULL, pull),
                Evidence("weights now, of before", left, "fraction"),
            ),
            remedies=less_decay(adaptive=optimizers[names[columns[0]]].adaptive),
            step=int(run.steps.first[measured[0]]),
        )
    ]
