"""Rules over time on made-up runs: what is said, since when, and what is left in peace."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradtrace.diagnosis.timeline.judge import judge_run
from gradtrace.records.finding import Finding
from gradtrace.records.run import EventKind, Run, RunEvent, RunHeader, RunSteps, Scalar, Series, WatchedParameter
from gradtrace.records.vocabulary import Cause, Severity, Symptom

NUM_STEPS, NUM_LAYERS = 400, 6
Arrays = dict[str, np.ndarray]


def made(change: Callable[[Arrays], None] = lambda _: None, seed: int = 0, scale: float = 1.0) -> Run:
    """A healthy run with noise, warm-up, decay and a falling loss, then changed."""
    generator = np.random.default_rng(seed)
    t = np.arange(NUM_STEPS)
    loss = scale * (2.0 * np.exp(-t / 100) + 0.1) * np.exp(generator.normal(0, 0.1, NUM_STEPS))
    gradients = scale * loss[:, None] / scale * np.exp(generator.normal(0, 0.4, (NUM_STEPS, NUM_LAYERS)))
    weights = np.ones((NUM_STEPS, NUM_LAYERS))
    updates = 1e-3 * np.minimum(t / 50, np.exp(-t / 200))[:, None] * np.ones(NUM_LAYERS)
    updates[t % 10 != 0] = np.nan
    arrays = {"loss": loss, "gradients": gradients, "weights": weights, "updates": updates,
              "nonfinite": np.zeros(NUM_STEPS, np.int64)}  # fmt: skip
    change(arrays)
    scalars = np.full((NUM_STEPS, len(Scalar)), np.nan)
    scalars[:, 0] = arrays["loss"]
    scalars[:, 2] = scalars[:, 3] = np.sqrt(np.square(arrays["gradients"]).sum(1))
    series = np.stack([arrays["gradients"], arrays["weights"], arrays["updates"]], axis=1).astype(np.float32)
    assert len(Series) == series.shape[1]
    steps = RunSteps(t, np.ones(NUM_STEPS, np.int64), 0.1 * t, scalars, scalars, series, series, arrays["nonfinite"])
    parameters = tuple(WatchedParameter(f"layers.{i}.weight", (8, 8), "float32", 0) for i in range(NUM_LAYERS))
    return Run(RunHeader("0" * 32, 0.0, parameters=parameters), steps)


def loud(run: Run) -> list[Finding]:
    return [finding for finding in judge_run(run) if finding.severity is not Severity.INFO]


@given(st.integers(0, 10_000), st.sampled_from([1e-6, 1.0, 1e6]))
@settings(max_examples=60, deadline=None)
def test_a_healthy_run_raises_no_alarm_whatever_the_loss_s_scale(seed: int, scale: float) -> None:
    assert loud(made(seed=seed, scale=scale)) == []


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_loss_that_runs_away_is_told_with_its_onset(scale: float) -> None:
    def change(arrays: Arrays) -> None:
        arrays["loss"][250:] *= 1e4

    (found,) = loud(made(change, scale=scale))
    assert (found.symptom, found.cause, found.step) == (Symptom.EXPLODING, Cause.LEARNING_RATE, 250)


def test_a_spike_that_comes_back_is_a_remark() -> None:
    def change(arrays: Arrays) -> None:
        arrays["loss"][250] *= 1e3
        arrays["gradients"][250] *= 1e3

    run = made(change)
    assert loud(run) == []
    (found,) = judge_run(run)
    assert (found.severity, found.step) == (Severity.INFO, 250)


def test_steps_that_replace_a_weight_are_told() -> None:
    def change(arrays: Arrays) -> None:
        arrays["updates"][200::10, 2] = 3.0

    (found,) = loud(made(change))
    assert (found.cause, found.where, found.step) == (Cause.LEARNING_RATE, ("layers.2",), 200)


def test_a_layer_that_falls_behind_is_told_and_one_that_all_follow_is_not() -> None:
    def one(arrays: Arrays) -> None:
        arrays["gradients"][150:, 1] *= 1e-5

    def all_alike(arrays: Arrays) -> None:
        arrays["gradients"][150:] *= 1e-5

    (found,) = loud(made(one))
    assert (found.symptom, found.where, found.step) == (Symptom.VANISHING, ("layers.1",), 150)
    assert loud(made(all_alike)) == []


def test_a_network_that_dies_is_told_and_one_frozen_layer_is_a_remark() -> None:
    def dies(arrays: Arrays) -> None:
        arrays["gradients"][100:, :4] = 0.0

    def one(arrays: Arrays) -> None:
        arrays["gradients"][100:, 3] = 0.0

    (found,) = loud(made(dies))
    assert (found.symptom, found.step) == (Symptom.DEAD_UNITS, 100)
    assert loud(made(one)) == []


def test_what_came_before_a_nan_names_its_cause() -> None:
    def grows(arrays: Arrays) -> None:
        arrays["loss"][200:300] *= 10 ** np.linspace(0, 6, 100)
        arrays["loss"][300:] = np.nan
        arrays["nonfinite"][300:] = 1

    def sudden(arrays: Arrays) -> None:
        arrays["loss"][300:] = np.nan
        arrays["nonfinite"][300:] = 1

    for change, cause in ((grows, Cause.LEARNING_RATE), (sudden, Cause.UNSAFE_OP)):
        found = next(f for f in judge_run(made(change)) if f.symptom is Symptom.NONFINITE)
        assert (found.cause, found.step) == (cause, 300)


def test_a_scaler_that_never_finds_its_scale_is_told() -> None:
    healthy = made()
    few = tuple(RunEvent(i, EventKind.SKIPPED) for i in range(15))
    most = tuple(RunEvent(i, EventKind.SKIPPED) for i in range(300))
    for events, told in ((few, False), (most, True)):
        run = Run(healthy.header, healthy.steps, events)
        assert any(f.cause is Cause.NUMERIC_FORMAT for f in judge_run(run)) is told
