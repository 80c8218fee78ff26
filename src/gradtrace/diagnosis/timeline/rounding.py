"""Are the steps rounded away in the weights' format?

An entry that moves at all moves by a unit in the last place, in bfloat16 by u = 2^-8 of itself at least. So of a step
that changes a weight by r = |update| / |weight|, the entries that moved hold no more of |weight|^2 than (r / u)^2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.layer import owner
from gradtrace.diagnosis.thresholds import DIVERGED_FACTOR, EPSILON, HALF_FORMATS, LETS_THROUGH, UPDATE_REPLACES
from gradtrace.diagnosis.timeline.before import matrices
from gradtrace.diagnosis.timeline.losses import falls_since, last_rows
from gradtrace.diagnosis.wording import percent
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import Scalar, Series
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from gradtrace.records.run import Run


def overshot(run: Run) -> Finding | None:
    """The first step of Adam moved a half-precision weight by more than its arithmetic allows.

    With both moments corrected for their start it is lr g / (|g| + eps), at most the rate for each entry whatever the
    betas (Kingma & Ba 2015, sec. 2.1): |update| <= lr sqrt(n). It is larger where g^2 underflows and g does not, and
    does harm where it replaces the weight: a large eps keeps it small.
    """
    kinds = [one if one.kind in ("Adam", "AdamW") else None for one in run.header.optimizers]
    norms = run.steps.series(Series.WEIGHT_NORM)[1]
    ratios = run.steps.series(Series.UPDATE_RATIO)[0]
    if not len(ratios) or run.steps.first[0] != 0 or run.steps.count[0] != 1:
        return None
    rate = float(np.nan_to_num(run.steps.scalar(Scalar.LEARNING_RATE)[1][0]))
    found: dict[str, float] = {}
    for i, parameter in enumerate(run.header.parameters):
        optimizer = kinds[parameter.optimizer] if parameter.optimizer is not None and kinds else None
        if optimizer is None or parameter.dtype not in HALF_FORMATS or not optimizer.learning_rate > 0.0:
            continue
        allowed = max(optimizer.learning_rate, rate) * math.sqrt(max(math.prod(parameter.shape), 1))
        excess = float(ratios[0, i]) * float(norms[0, i]) / allowed
        if math.isfinite(excess) and excess > DIVERGED_FACTOR and ratios[0, i] > UPDATE_REPLACES:
            found[parameter.name] = excess
    if not found:
        return None
    worst = max(found, key=lambda name: found[name])
    return Finding(
        symptom=Symptom.UNDERFLOW,
        cause=Cause.NUMERIC_FORMAT,
        where=tuple(dict.fromkeys(owner(name) for name in found)),
        severity=Severity.CRITICAL,
        message=f"The first step moved {worst} {found[worst]:.3g} times as far as Adam's arithmetic allows (at most "
        "the learning rate for each entry): squares of the gradient underflow in half precision, and the step is "
        "divided by eps or by next to nothing.",
        evidence=(Evidence("first step over Adam's largest", found[worst]),),
        remedies=remedies_for(Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT),
        step=0,
    )


def rounded_away(run: Run) -> Finding | None:
    """No measured step moved more than a tenth of any weight, most are half-precision, and the loss has not halved."""
    columns = matrices(run)
    dtypes = [run.header.parameters[i].dtype for i in columns]
    if not columns or not all(dtype in HALF_FORMATS and dtype in EPSILON for dtype in dtypes):
        return None
    ratios = run.steps.series(Series.UPDATE_RATIO)[1][:, columns]
    measured = np.flatnonzero(np.isfinite(ratios).any(axis=1))
    first = int(run.steps.first[0])
    if len(measured) < 2 * last_rows(len(measured)) or falls_since(run, first):
        return None
    largest = np.nanmax(np.where(np.isfinite(ratios), ratios, 0.0), axis=0)
    moved = np.square(largest / (np.array([EPSILON[dtype] for dtype in dtypes]) / 2))
    gradients = run.steps.series(Series.GRADIENT_NORM)[0][measured][:, columns]
    if not (largest > 0.0).any() or not np.any(gradients > 0.0) or float(moved.max()) > LETS_THROUGH:
        return None
    worst = float(moved.max())
    return Finding(
        symptom=Symptom.UNDERFLOW,
        cause=Cause.NUMERIC_FORMAT,
        where=tuple(dict.fromkeys(owner(run.header.parameters[i].name) for i in columns)),
        severity=Severity.WARNING,
        message=f"Updates are rounded away: no measured step changed a weight by more than {largest.max():.2g} of its "
        f"size, where the smallest change of an entry in {dtypes[0]} is {EPSILON[dtypes[0]] / 2:.2g} of it. At most "
        f"{percent(worst)} of the weights' square moved at any, and the loss has not halved.",
        evidence=(Evidence("of |weight|^2, what moved at the most", worst, "fraction"),),
        remedies=remedies_for(Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT),
        step=first,
    )
