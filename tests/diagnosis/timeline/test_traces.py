"""Units that died and attention that became one-hot on the way: remarks where they did no harm to what had learnt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gradtrace.diagnosis.rules.loss import ELASTICITY, OF_CONSTANT
from gradtrace.diagnosis.timeline.traces import in_time
from gradtrace.diagnosis.wording import LARGEST_RATIO, OF_OUTPUTS_ALIKE
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import Run, RunHeader, RunSteps, Scalar, Series
from gradtrace.records.vocabulary import Cause, Severity, Symptom

NUM, AT = 400, 200


def run_with(loss: np.ndarray, rows: np.ndarray | None = None) -> Run:
    """`loss` by step, known in `rows` alone."""
    t = np.arange(NUM) if rows is None else rows
    scalars = np.full((len(t), len(Scalar)), np.nan)
    scalars[:, 0] = loss[t]
    series = np.ones((len(t), len(Series), 0), np.float32)
    none = np.zeros(len(t), np.int64)
    return Run(RunHeader("0" * 32, 0.0), RunSteps(t, none + 1, 0.1 * t, scalars, scalars, series, series, none, none))


def one_hot() -> Finding:
    return Finding(
        symptom=Symptom.SATURATED,
        cause=Cause.ATTENTION_SATURATION,
        where=("encoder",),
        severity=Severity.CRITICAL,
        message="Rows are one-hot.",
        step=AT,
    )


def lost(dead: float) -> Finding:
    return Finding(
        symptom=Symptom.DEAD_UNITS,
        cause=Cause.SATURATED_PREACTIVATION,
        where=("encoder",),
        severity=Severity.WARNING,
        message="Units are zero on every sample.",
        evidence=(Evidence("dead units", dead, "fraction"),),
        step=AT,
    )


LEARNT = 2.0 * np.exp(-np.arange(NUM) / 40.0) + 0.2
STANDS = np.full(NUM, 2.0)
RISES = np.where(np.arange(NUM) < AT, LEARNT, 0.6)


@pytest.mark.parametrize(
    ("loss", "dead", "severity"),
    [
        (LEARNT, 0.77, Severity.INFO),
        (LEARNT, 1.0, Severity.WARNING),
        (STANDS, 0.77, Severity.WARNING),
        (RISES, 0.77, Severity.WARNING),
    ],
)
def test_by_what_the_loss_did(loss: np.ndarray, dead: float, severity: Severity) -> None:
    assert in_time(lost(dead), run_with(loss), [0, AT], []).severity is severity


@pytest.mark.parametrize(
    ("loss", "traced", "severity"),
    [
        (LEARNT, [0, AT], Severity.INFO),
        (LEARNT, [AT], Severity.WARNING),  # it was there at the first trace, and has not kept the loss from falling
        (STANDS, [0, AT], Severity.CRITICAL),
        (RISES, [0, AT], Severity.CRITICAL),
    ],
)
def test_attention_that_has_learnt_where_to_look(loss: np.ndarray, traced: list[int], severity: Severity) -> None:
    assert in_time(one_hot(), run_with(loss), traced, []).severity is severity


SOLVED = 2.0 * np.exp(-np.arange(NUM) / 20.0)


@pytest.mark.parametrize("rows", [None, np.array([0, 1, 2, 3, 20, 250, 399])])
@pytest.mark.parametrize(
    ("loss", "constant", "severity"),
    [
        (SOLVED, 2.0, Severity.INFO),
        (np.full(NUM, 1.01), 2.0, Severity.CRITICAL),  # not at a half
        (SOLVED, 0.0, Severity.WARNING),  # whether that is much nobody knows
        (-SOLVED[::-1], 2.0, Severity.WARNING),  # losses below zero have no half
    ],
)
def test_one_hot_attention_that_the_data_is_learnt_with(
    loss: np.ndarray, constant: float, severity: Severity, rows: np.ndarray | None
) -> None:
    """From the first step on; the values learn, and the rows that are not one-hot. Few rows are enough for a half."""
    found = replace(one_hot(), step=0, evidence=(Evidence(OF_CONSTANT, constant),))
    told = in_time(found, run_with(loss, rows), [0], [])
    if rows is None or severity is Severity.INFO:
        assert told.severity is severity
    assert ("is learnt so" in told.message) == (severity is Severity.INFO)


@pytest.mark.parametrize(
    ("loss", "severity"), [(SOLVED, Severity.INFO), (LEARNT, Severity.WARNING), (STANDS, Severity.WARNING)]
)
def test_units_that_saturate_once_all_is_learnt(loss: np.ndarray, severity: Severity) -> None:
    """A loss at a hundredth asks for outputs that are certain; one at a half may stand there for their flat curve."""
    found = Finding(Symptom.SATURATED, Cause.SATURATED_PREACTIVATION, ("rnn",), Severity.WARNING, "Flat.", step=AT)
    assert in_time(found, run_with(loss), [0, AT], []).severity is severity


def forgets(constant: float) -> Finding:
    """Told of the first step of a run whose best constant gets such a loss."""
    symptom, cause, evidence = Symptom.VANISHING, Cause.RECURRENT_CONTRACTION, (Evidence(OF_CONSTANT, constant),)
    return Finding(symptom, cause, ("lstm",), Severity.CRITICAL, "Forgets.", evidence=evidence, step=0)


@pytest.mark.parametrize(
    ("end", "severity"),
    [(2.6, Severity.INFO), (1.2, Severity.INFO), (3.3, Severity.CRITICAL)],
)
def test_what_a_recurrence_forgets_beside_a_loss_that_is_seldom_read(end: float, severity: Severity) -> None:
    """Rows lie close at the beginning, and then apart: the latest five are not all of the run's end."""
    loss = np.linspace(3.3, end, NUM)
    found = forgets(constant=3.26)
    rows = np.array([*range(34), 309])
    assert in_time(found, run_with(loss, rows), [0], []).severity is severity


@pytest.mark.parametrize(("largest", "severity"), [(None, Severity.CRITICAL), (1e-6, Severity.INFO)])
def test_what_a_recurrence_forgets_in_a_run_whose_steps_move_nothing(largest: float | None, severity: Severity) -> None:
    """Four hundred steps that are too small to do anything tell as little about the data as the first one does."""
    found = forgets(constant=1.9)
    small = Finding(Symptom.UNDERFLOW, Cause.LEARNING_RATE, ("",), Severity.WARNING, "Next to nothing moves.")
    beside = [replace(small, evidence=(Evidence(LARGEST_RATIO, largest),))] if largest is not None else [small]
    judged = in_time(found, run_with(STANDS), [0], beside)
    assert judged.severity is severity
    assert ("the loss will tell" in judged.message) is (severity is Severity.INFO)


@pytest.mark.parametrize(
    ("loss", "severity"),
    [
        (np.linspace(0.7, 0.5, 12), Severity.INFO),  # of a short run
        (np.linspace(0.7, 0.2, NUM), Severity.INFO),
        (np.linspace(0.7, 0.62, NUM), Severity.CRITICAL),  # in four hundred steps
        (np.maximum(np.linspace(0.7, -0.7, NUM), 0.5), Severity.CRITICAL),  # and no further
        (np.full(NUM, 0.7), Severity.CRITICAL),
    ],
)
def test_a_loss_that_is_flat_in_the_output_and_comes_down_all_the_same(loss: np.ndarray, severity: Severity) -> None:
    found = Finding(
        Symptom.LOSS_SATURATED,
        Cause.LOSS_FUNCTION,
        ("head",),
        Severity.CRITICAL,
        "Flat.",
        evidence=(Evidence(ELASTICITY, 1e-3),),
        step=1,
    )
    noise = 1e-3 * np.random.default_rng(0).normal(size=len(loss))
    assert in_time(found, run_with(loss + noise, np.arange(len(loss))), [0, 1], []).severity is severity


@pytest.mark.parametrize(("end", "severity"), [(1e-4, Severity.INFO), (0.5, Severity.WARNING)])
def test_units_that_are_saturated_from_the_start_in_a_run_that_memorises_its_data(
    end: float, severity: Severity
) -> None:
    found = replace(one_hot(), cause=Cause.SATURATED_PREACTIVATION, step=0)
    assert in_time(found, run_with(np.geomspace(2.0, end, NUM)), [0], []).severity is severity


@pytest.mark.parametrize(("end", "severity"), [(0.7, Severity.INFO), (1.38, Severity.WARNING)])
def test_samples_that_compete_for_each_class_and_are_told_apart(end: float, severity: Severity) -> None:
    evidence = (Evidence(OF_OUTPUTS_ALIKE, float(np.log(4))),)
    found = replace(lost(1.0), symptom=Symptom.LOSS_SATURATED, cause=Cause.LOSS_FUNCTION, evidence=evidence, step=0)
    assert in_time(found, run_with(np.linspace(1.4, end, NUM)), [0], []).severity is severity


@pytest.mark.parametrize(
    ("loss", "before", "after"),
    [
        (LEARNT, Severity.WARNING, Severity.INFO),
        (STANDS, Severity.WARNING, Severity.WARNING),
        (RISES, Severity.WARNING, Severity.INFO),
        (LEARNT[::-1], Severity.WARNING, Severity.WARNING),
        (LEARNT, Severity.CRITICAL, Severity.CRITICAL),
    ],
)
def test_a_few_decades_that_the_training_makes_up_for(loss: np.ndarray, before: Severity, after: Severity) -> None:
    found = Finding(Symptom.VANISHING, Cause.SMALL_WEIGHTS, ("0",), before, "The loss gradient shrinks 168-fold.")
    assert in_time(replace(found, step=0), run_with(loss), [0], []).severity is after
