"""A loss that comes down and goes back up under steps that are too large; and losses that may rise again."""

from __future__ import annotations

import numpy as np
import pytest

from gradtrace.diagnosis.timeline.judge import judge_run
from gradtrace.records.exhibit import OptimizerStats
from gradtrace.records.finding import Finding
from gradtrace.records.run import Run, RunHeader, RunSteps, Scalar, Series, WatchedParameter
from gradtrace.records.vocabulary import Cause, Severity, Symptom

NUM = 300
T = np.arange(NUM)
NOISE = np.exp(0.1 * np.random.default_rng(0).standard_normal(NUM))
FALLS = 0.2 + 2.1 * np.exp(-T / 10.0)
UNDONE = np.where(T < 80, FALLS, 1.8) * NOISE


def told(loss: np.ndarray, ratio: float, *, num_optimizers: int = 1) -> list[Finding]:
    scalars = np.full((NUM, len(Scalar)), np.nan)
    scalars[:, list(Scalar).index(Scalar.LOSS)] = loss
    scalars[:, list(Scalar).index(Scalar.GRADIENT_NORM)] = NOISE
    series = np.ones((NUM, len(Series), 1), np.float32)
    series[:, list(Series).index(Series.UPDATE_RATIO)] = ratio
    none = np.zeros(NUM, np.int64)
    weight = (WatchedParameter("0.weight", (1, 1), "float32", 0),)
    optimizers = tuple(OptimizerStats("SGD", False, 0.0, 0.1, ("0.weight",)) for _ in range(num_optimizers))
    header = RunHeader("0" * 32, 0.0, parameters=weight, optimizers=optimizers)
    run = Run(header, RunSteps(T, none + 1, 0.1 * T, scalars, scalars, series, series, none, none))
    return [finding for finding in judge_run(run) if "undone" in finding.message]


def test_what_was_learnt_is_undone() -> None:
    (found,) = told(UNDONE, 0.13)
    assert (found.symptom, found.cause, found.severity) == (
        Symptom.EXPLODING,
        Cause.LEARNING_RATE,
        Severity.WARNING,
    )


@pytest.mark.parametrize(
    ("loss", "ratio", "num_optimizers"),
    [
        (UNDONE, 0.02, 1),  # the task may have become harder
        (UNDONE, 0.13, 2),  # each player's loss rises where the other's falls
        (FALLS * NOISE, 0.13, 1),
        (np.where((T > 60) & (T < 120), 1.8, FALLS) * NOISE, 0.13, 1),  # a rate that was high for some time
        (np.where(T < 80, FALLS, 0.6) * NOISE, 0.13, 1),  # less than half of it
        (1.8 * NOISE, 0.13, 1),
    ],
    ids=["small steps", "two optimizers", "falls", "recovers", "a part", "stands"],
)
def test_losses_that_are_not_undone(loss: np.ndarray, ratio: float, num_optimizers: int) -> None:
    assert told(loss, ratio, num_optimizers=num_optimizers) == []
