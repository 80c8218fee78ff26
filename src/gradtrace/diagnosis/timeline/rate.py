"""Are the steps long enough to move any weight at all, from the start or by now, and if not, why?

An update below half a unit in the last place, 2^-24 of a float32 weight, is rounded away in most entries. A step of SGD
is lr |g| long and one of an adaptive optimizer lr sqrt(n), n entries of about lr each: where that is a number beside
|W| and yet nothing moves, the step was given another gradient than the backward pass brought.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.thresholds import CLEAR_DECADES, HEALTHY_DECADES
from gradtrace.diagnosis.timeline.before import matrices
from gradtrace.diagnosis.timeline.losses import falls_since, fell, last_rows
from gradtrace.diagnosis.wording import LARGEST_RATIO
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import Scalar, Series
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import HIGHER_RATE
from gradtrace.remedies.of_loops import KEEP_GRADIENTS, STEP_BY_EPOCH

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradtrace.records.finding import Remedy
    from gradtrace.records.run import Run

RESOLVES = float(np.finfo(np.float32).eps) / 2
"""[of a weight] What an update must be to change it."""


def standing_still(run: Run) -> Finding | None:
    """No step of the whole run moved a weight by what its format resolves, and the loss did not fall.

    Converged networks took larger steps before, and a warm-up takes them later. A rate of exactly zero is a schedule's,
    which may stand at it for some steps, but not for all.
    """
    columns, measured = _measured(run)
    losses = _losses(run)
    width = last_rows(len(measured))
    if len(measured) < 2 * width or len(losses) < 2 * width:
        return None
    ratios = run.steps.series(Series.UPDATE_RATIO)[1][measured][:, columns]
    usual, now = float(np.nanmax(ratios)), float(np.median(losses[-width:]))
    rates = run.steps.scalar(Scalar.LEARNING_RATE)[1]
    rate = float(np.nanmax(rates)) if np.isfinite(rates).any() else math.nan
    if fell(run) or not usual < RESOLVES or (usual == 0.0 and math.isnan(rate)):
        return None
    step = int(run.steps.first[measured[0]])
    if rate == 0.0:
        return _finding(
            Cause.LEARNING_RATE,
            f"Nothing moves: the learning rate was zero at all {len(measured)} measured steps, and the loss stands at "
            f"{now:.4g}. Look at the schedule: a warm-up that divides whole numbers (step // warmup) stays at zero.",
            (Evidence(LARGEST_RATIO, usual), Evidence("loss", now)),
            step,
        )
    due = _due(run, columns, rate)
    if usual == 0.0 and due >= RESOLVES * 10.0**HEALTHY_DECADES:
        return _given_nothing(len(measured), due, rate, now, step)
    told = "" if math.isnan(rate) else f" (learning rate {rate:g})"
    return _finding(
        Cause.NUMERIC_FORMAT,
        f"Nothing moves: no measured step changed a weight by more than {usual:.2g} of its size{told}, where "
        f"about 1e-3 is usual and float32 resolves 6e-8, and the loss stands at {now:.4g}. The steps are too small.",
        (Evidence(LARGEST_RATIO, usual), Evidence("loss", now)),
        step,
    )


def comes_to_rest(run: Run) -> Finding | None:
    """For half of the run and more its rate has been too small to move anything, and the loss has hardly fallen.

    A schedule that has done its work ends in a low loss, or ends when it comes to nothing.
    """
    columns, measured = _measured(run)
    width = last_rows(len(measured))
    if len(measured) < 2 * width:
        return None
    longest = np.nanmax(run.steps.series(Series.UPDATE_RATIO)[1][measured][:, columns], axis=1)
    moving = np.flatnonzero(longest >= RESOLVES)
    first = int(moving[-1]) + 1 if len(moving) else 0
    if not first or len(measured) - first < width:
        return None
    step, last = int(run.steps.first[measured[first]]), int(run.steps.first[-1])
    rates = run.steps.scalar(Scalar.LEARNING_RATE)[1]
    highest, now = float(np.nanmax(rates, initial=0.0)), float(np.nanmax(rates[measured[first] :], initial=0.0))
    losses = _losses(run)
    is_early, is_gone = 2 * step <= last, now <= highest / 10.0**CLEAR_DECADES
    if not is_early or not is_gone or not len(losses) or losses.min() <= 0.0 or falls_since(run, 0):
        return None
    loss = float(np.median(losses[-width:]))
    return _finding(
        Cause.LEARNING_RATE,
        f"Nothing moves since step {step}: the learning rate has fallen from {highest:.3g} to {now:.3g} and less, too "
        f"little to change a float32 weight, and the loss stands at {loss:.4g}. The schedule goes faster than the "
        "training: is it stepped at every batch and meant for epochs, or does it wait for a loss to rise (mode='max')?",
        (Evidence("highest learning rate", highest), Evidence("learning rate since", now), Evidence("loss", loss)),
        step,
        STEP_BY_EPOCH,
    )


def _measured(run: Run) -> tuple[list[int], NDArray[np.int64]]:
    """Matrices that an optimizer holds and that got a gradient, and the rows whose updates of them are known."""
    ratios, gradients = run.steps.series(Series.UPDATE_RATIO)[1], run.steps.series(Series.GRADIENT_NORM)[1]
    held = [i for i in matrices(run) if run.header.parameters[i].optimizer is not None]
    columns = [i for i in held if np.any(gradients[:, i] > 0.0)]
    if not columns:
        return [], np.empty(0, np.int64)
    return columns, np.flatnonzero(np.isfinite(ratios[:, columns]).any(axis=1))


def _losses(run: Run) -> NDArray[np.float64]:
    high = run.steps.scalar(Scalar.LOSS)[1]
    return high[np.isfinite(high)]


def _due(run: Run, columns: list[int], rate: float) -> float:
    """By how much of its size a step should move the weight that it moves most, going by its rate; 0: not known."""
    if not math.isfinite(rate):
        return 0.0
    gradients, weights = run.steps.series(Series.GRADIENT_NORM)[1], run.steps.series(Series.WEIGHT_NORM)[1]
    due = 0.0
    for i in columns:
        parameter = run.header.parameters[i]
        optimizers = run.header.optimizers
        known = parameter.optimizer is not None and parameter.optimizer < len(optimizers)
        adaptive = known and optimizers[parameter.optimizer or 0].adaptive
        length = math.sqrt(math.prod(parameter.shape)) if adaptive else float(np.nanmedian(gradients[:, i]))
        size = float(np.nanmedian(weights[:, i])) if np.isfinite(weights[:, i]).any() else 0.0
        due = max(due, rate * length / size) if size > 0.0 else due
    return due


def _given_nothing(num_measured: int, due: float, rate: float, loss: float, step: int) -> Finding:
    return Finding(
        symptom=Symptom.DISCONNECTED,
        cause=Cause.DETACHED_GRAPH,
        where=("",),
        severity=Severity.CRITICAL,
        message=f"Nothing moves: backward() brings gradients, but at none of {num_measured} measured steps did a "
        f"weight change by anything, where the learning rate of {rate:g} is good for {due:.2g} of its size. "
        "The gradients are gone when the optimizer steps: are they cleared between backward() and step()? The "
        f"loss stands at {loss:.4g}.",
        evidence=(Evidence("steps that moved nothing", num_measured, "steps"), Evidence("loss", loss)),
        remedies=(KEEP_GRADIENTS,),
        step=step,
    )


def _finding(
    cause: Cause, message: str, evidence: tuple[Evidence, ...], step: int, remedy: Remedy = HIGHER_RATE
) -> Finding:
    return Finding(
        symptom=Symptom.UNDERFLOW,
        cause=cause,
        where=("",),
        severity=Severity.WARNING,
        message=message,
        evidence=evidence,
        remedies=(remedy,),
        step=step,
    )
