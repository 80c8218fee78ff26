"""Does any gradient come to what is trained, at any step of the run?

Three ways that it does not: the backward pass runs and brings zeros to all; it brings zeros to all that one optimizer
holds, as where each factor of a product starts at zero, d(AB) = dA B + A dB = 0; or it comes to none of them, because
what backward() is called on is cut off from the network, and every step leaves the weights as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.layer import owner
from gradtrace.diagnosis.timeline.losses import last_rows
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import Scalar, Series
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradtrace.records.run import Run


def judge(run: Run) -> list[Finding]:
    """At most one finding."""
    found = _starved(run) or _all_zero(run) or _cut_off(run)
    return [] if found is None else [found]


def _starved(run: Run) -> Finding | None:
    """Not one measured step of the whole run brought any parameter a gradient other than zero."""
    gradients = run.steps.series(Series.GRADIENT_NORM)[1]
    measured = _zeros_only(gradients)
    high = run.steps.scalar(Scalar.LOSS)[1]
    losses = high[np.isfinite(high)]
    if measured is None or not len(losses):
        return None
    return Finding(
        symptom=Symptom.LOSS_SATURATED,
        cause=Cause.LOSS_FUNCTION,
        where=("",),
        severity=Severity.CRITICAL if np.any(losses) else Severity.WARNING,
        message=f"In none of {len(measured)} measured steps did a parameter get any gradient: all are exactly zero, "
        f"and the loss stands at {float(losses[-1]):.4g}. Nothing can be learnt of it.",
        evidence=(Evidence("measured steps", len(measured), "steps"), Evidence("loss", float(losses[-1]))),
        remedies=remedies_for(Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION),
        step=int(run.steps.first[measured[0]]),
    )


def _all_zero(run: Run) -> Finding | None:
    """All that an optimizer holds is zero, and so is its gradient: zeros that multiply zeros never leave them.

    A branch that starts at zero has weights in front that do not, and gets a gradient at once.
    """
    gradients, weights = run.steps.series(Series.GRADIENT_NORM)[1], run.steps.series(Series.WEIGHT_NORM)[1]
    for number in dict.fromkeys(p.optimizer for p in run.header.parameters if p.optimizer is not None):
        columns = [i for i, p in enumerate(run.header.parameters) if p.optimizer == number]
        measured = _zeros_only(gradients[:, columns])
        sizes = weights[:, columns]
        if measured is None or len(columns) < 2 or np.isnan(sizes).all() or np.nanmax(sizes) > 0.0:
            continue
        names = [run.header.parameters[i].name for i in columns]
        return Finding(
            symptom=Symptom.VANISHING,
            cause=Cause.SMALL_WEIGHTS,
            where=tuple(dict.fromkeys(owner(name) for name in names)),
            severity=Severity.CRITICAL,
            message=f"All {len(names)} parameters of one optimizer ({names[0]}, ...) are exactly zero, and in none of "
            f"{len(measured)} measured steps did they get any gradient: each is multiplied by another's zeros. One "
            "factor of a product may start at zero, not both.",
            evidence=(Evidence("measured steps", len(measured), "steps"), Evidence("parameters", len(names))),
            remedies=remedies_for(Symptom.VANISHING, Cause.SMALL_WEIGHTS),
            step=int(run.steps.first[measured[0]]),
        )
    return None


def _zeros_only(gradients: NDArray[np.float32]) -> NDArray[np.int64] | None:
    """The rows in which a gradient is known, where there are enough of them and all are zero; else None."""
    measured = np.flatnonzero(np.isfinite(gradients).any(axis=1)) if gradients.size else np.empty(0, np.int64)
    if len(measured) < 2 * last_rows(len(measured)) or np.nanmax(gradients[measured]) > 0.0:
        return None
    return measured


def _cut_off(run: Run) -> Finding | None:
    """No parameter ever had a gradient (``grad`` is None), and where steps were compared none moved a weight.

    Gradients that someone else brings, by hand or shard by shard, are not known either; but then steps move weights.
    """
    gradients, ratios = run.steps.series(Series.GRADIENT_NORM)[1], run.steps.series(Series.UPDATE_RATIO)[1]
    measured = np.flatnonzero(~np.isnan(ratios).all(axis=1)) if ratios.size else np.empty(0, np.int64)
    if len(measured) < 2 * last_rows(len(measured)) or not np.isnan(gradients).all():
        return None
    rates = run.steps.scalar(Scalar.LEARNING_RATE)[1]
    if np.nanmax(ratios[measured]) > 0.0 or not np.any(rates > 0.0):
        return None
    held = [p.name for p in run.header.parameters if p.optimizer is not None]
    return Finding(
        symptom=Symptom.DISCONNECTED,
        cause=Cause.DETACHED_GRAPH,
        where=("",),
        severity=Severity.CRITICAL,
        message=f"Nothing is trained: of the {len(held)} parameters that optimizers hold none ever had a gradient, and "
        f"no step that was looked at ({len(measured)}) moved one. What backward() is called on is cut off from them: "
        "detach, .item() or torch.tensor(...) around the loss, no_grad around the forward pass, or another network.",
        evidence=(Evidence("parameters without gradient", len(held), "parameters"),),
        remedies=remedies_for(Symptom.DISCONNECTED, Cause.DETACHED_GRAPH),
        step=int(run.steps.first[measured[0]]),
    )
