"""Are the steps so small that a hundred of them do less than a usual one, although the loss would follow?

A step moves a weight by r = |update| / |weight|, about 1e-3 where training goes well (Karpathy 2015). To first order it
changes the loss by at most sum |g| |update| <= r sum |g| |w| = r e |loss|. Where e is one and more, a single usual step
could lower the loss by the thousandth that counts as a fall (`losses.fell`); at r = 1e-5 it takes a hundred. Converged
networks took larger steps before, a warm-up takes them later.

Clipping that leaves c of a gradient makes the steps c times as long as the rate would; Adam's are as long for any.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.thresholds import DOMINANT_FRAC, FOLLOWED_STEPS, UPDATE_USUAL
from gradtrace.diagnosis.timeline.before import matrices
from gradtrace.diagnosis.timeline.losses import fell, followed
from gradtrace.diagnosis.wording import LARGEST_RATIO, percent
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import Scalar, Series
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import HIGHER_RATE, clip_at
from gradtrace.remedies.of_loops import UNSCALE_FIRST

if TYPE_CHECKING:
    from gradtrace.records.finding import Remedy
    from gradtrace.records.run import Run

_SMALL = UPDATE_USUAL / FOLLOWED_STEPS


def creeps(run: Run) -> Finding | None:
    """No step of at least a hundred was large enough to matter, and the loss did not fall."""
    columns = [i for i in matrices(run) if run.header.parameters[i].optimizer is not None]
    ratios = run.steps.series(Series.UPDATE_RATIO)[1][:, columns]
    known = np.isfinite(ratios)
    usual = float(ratios[known].max()) if known.any() else 0.0
    # below half a unit in the last place of float32 the steps are rounded away besides: another rule's
    if not float(np.finfo(np.float32).eps) / 2 <= usual < _SMALL:
        return None
    if followed(run) < FOLLOWED_STEPS or fell(run) or warms_up(run) or not elasticity(run, columns) >= 1.0:
        return None
    why, remedy = why_short(run, usual)
    loss = float(run.steps.latest(Scalar.LOSS) or 0.0)
    return Finding(
        symptom=Symptom.UNDERFLOW,
        cause=Cause.LEARNING_RATE,
        where=("",),
        severity=Severity.WARNING,
        message=f"Next to nothing moves: no measured step changed a weight by more than {usual:.2g} of its size, where "
        f"about {UPDATE_USUAL:g} is usual, and in {followed(run)} steps the loss has not fallen ({loss:.4g}), although "
        f"it would follow. {why}",
        evidence=(Evidence(LARGEST_RATIO, usual), Evidence("loss", loss)),
        remedies=(remedy,),
        step=int(run.steps.first[0]),
    )


def warms_up(run: Run) -> bool:
    """Whether the learning rate is higher than it was at first."""
    rates = run.steps.scalar(Scalar.LEARNING_RATE)[1]
    rates = rates[np.isfinite(rates)]
    return bool(len(rates)) and bool(rates[-1] > rates[0])


def elasticity(run: Run, columns: list[int]) -> float:
    """Of the loss, sum |g| |w| / |loss|: the median of the rows in which all is known; 0 where none is."""
    gradients, weights = (run.steps.series(s)[0][:, columns] for s in (Series.GRADIENT_NORM, Series.WEIGHT_NORM))
    products = np.nansum(gradients.astype(np.float64) * weights, axis=1)
    losses = np.abs(run.steps.scalar(Scalar.LOSS)[1])
    known = np.isfinite(products) & (products > 0.0) & np.isfinite(losses) & (losses > 0.0)
    return float(np.median(products[known] / losses[known])) if known.any() else 0.0


def why_short(run: Run, usual: float) -> tuple[str, Remedy]:
    """Whether it is clipping that makes steps as short as `usual` [of a weight's size], or the rate, in words."""
    often, left = run.steps.clipping or (0.0, 1.0)
    adaptive = any(optimizer.adaptive for optimizer in run.header.optimizers)
    if adaptive or often < DOMINANT_FRAC or usual / left < _SMALL:
        rates = run.steps.scalar(Scalar.LEARNING_RATE)[1]
        told = f" (at most {np.nanmax(rates):.3g})" if np.isfinite(rates).any() else ""
        return f"The learning rate is too small{told}.", HIGHER_RATE
    norms = run.steps.scalar(Scalar.GRADIENT_NORM)[0]
    norm = float(np.median(norms[np.isfinite(norms)]))
    why = (
        f"Clipping is too tight: in {percent(often)} of the steps it leaves {left:.2g} of a gradient whose norm is "
        f"about {norm:.2g}; without it a step would move a weight by {usual / left:.2g} of its size."
    )
    scales = run.steps.scalar(Scalar.LOSS_SCALE)[1]
    scale = float(np.nanmedian(scales)) if np.isfinite(scales).any() else 1.0
    if scale > 1.0 and left * scale >= 1.0:  # of gradients without the scale on them it would leave all
        return f"{why} They are clipped with the loss scale of {scale:g} still on them.", UNSCALE_FIRST
    return why, replace(clip_at(norm), title="Clip at a norm that most gradients do not reach.")
