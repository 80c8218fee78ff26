"""Rules over time on made-up runs: what is said, since when, and what is left in peace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradtrace.diagnosis.timeline.judge import judge_run
from gradtrace.diagnosis.timeline.losses import fallen_before
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
              "nonfinite": np.zeros(NUM_STEPS, np.int64), "rate": np.full(NUM_STEPS, np.nan)}  # fmt: skip
    change(arrays)
    scalars = np.full((NUM_STEPS, len(Scalar)), np.nan)
    scalars[:, 0] = arrays["loss"]
    scalars[:, list(Scalar).index(Scalar.LEARNING_RATE)] = arrays["rate"]
    scalars[:, 2] = scalars[:, 3] = np.sqrt(np.nansum(np.square(arrays["gradients"]), 1))
    series = np.stack([arrays["gradients"], arrays["weights"], arrays["updates"]], axis=1).astype(np.float32)
    assert len(Series) == series.shape[1]
    steps = RunSteps(t, np.ones(NUM_STEPS, np.int64), 0.1 * t, scalars, scalars, series, series, arrays["nonfinite"],
                     0 * arrays["nonfinite"])  # fmt: skip
    parameters = tuple(WatchedParameter(f"layers.{i}.weight", (8, 8), "float32", 0) for i in range(NUM_LAYERS))
    return Run(RunHeader("0" * 32, 0.0, parameters=parameters), steps)


def loud(run: Run) -> list[Finding]:
    return [finding for finding in judge_run(run) if finding.severity is not Severity.INFO]


def test_a_run_that_ended_in_infinities_is_judged_without_a_warning() -> None:
    def change(arrays: Arrays) -> None:
        arrays["gradients"][-100:] = np.inf
        arrays["nonfinite"][-100:] = 1

    assert {finding.symptom for finding in judge_run(made(change))} >= {Symptom.NONFINITE}


@given(st.integers(0, 10_000), st.sampled_from([1e-6, 1.0, 1e6]))
@settings(max_examples=60, deadline=None)
def test_a_healthy_run_raises_no_alarm_whatever_the_loss_s_scale(seed: int, scale: float) -> None:
    assert loud(made(seed=seed, scale=scale)) == []


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_loss_that_runs_away_is_told_with_its_onset(scale: float) -> None:
    def change(arrays: Arrays) -> None:
        arrays["loss"][250:] *= 1e4
        arrays["updates"][240:260:10] = 2.0

    (found,) = loud(made(change, scale=scale))
    assert (found.symptom, found.cause, found.step) == (Symptom.EXPLODING, Cause.LEARNING_RATE, 250)
    assert found.severity is Severity.CRITICAL
    assert "Updates of up to 2 times the weights" in found.message


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("fall", "is_told"), [
    (lambda t: 1.0 - 1e-6 * t**4, True),  # as a triplet without its margin: of squares of what grows
    (lambda t: 1.0 - 1e5 * np.log1p(t), False),  # ever more slowly, as a likelihood of ever smaller variances
    (lambda t: 1.0 - 1e5 * (1.0 - np.exp(-t / 100)), False),  # to a minimum, however far below zero
    (lambda t: 1.0 - 1e-1 * t, False),  # not far by what it began with
])  # fmt: skip
def test_a_loss_that_falls_faster_and_faster_has_no_minimum(fall, is_told: bool, scale: float) -> None:
    def change(arrays: Arrays) -> None:
        arrays["loss"] = scale * fall(np.arange(NUM_STEPS)) * (1.0 + 0.05 * np.sin(np.arange(NUM_STEPS)))

    run = made(change)
    told = [finding for finding in loud(run) if "without an end" in finding.message]
    assert len(told) == is_told
    assert all((one.symptom, one.cause) == (Symptom.EXPLODING, Cause.LOSS_FUNCTION) for one in told)
    half = NUM_LAYERS // 2
    parameters = tuple(replace(p, optimizer=int(i < half)) for i, p in enumerate(run.header.parameters))
    game = Run(replace(run.header, parameters=parameters), run.steps)
    assert not [finding for finding in loud(game) if "without an end" in finding.message]


@pytest.mark.parametrize(("joins", "num"), [(False, 0), (True, 1)])
def test_the_loss_of_a_second_network_is_not_held_against_the_first_ones(joins: bool, num: int) -> None:
    """One trained after the other, as in a search; one that joins another's training makes its loss run away."""

    def change(arrays: Arrays) -> None:
        arrays["loss"][200:] *= 1e4
        arrays["gradients"][:200, 3:] = np.nan
        if not joins:
            arrays["gradients"][200:, :3] = np.nan

    found = [one for one in judge_run(made(change)) if "more than 10 times what it was" in one.message]
    assert len(found) == num


def test_an_earlier_training_that_ran_away_is_told() -> None:
    def change(arrays: Arrays) -> None:
        arrays["loss"][100:300] *= 1e4
        arrays["updates"][100:110:10] = 2.0
        arrays["gradients"][:300, 3:] = np.nan
        arrays["gradients"][300:, :3] = np.nan

    assert [(one.symptom, one.step) for one in loud(made(change))][:1] == [(Symptom.EXPLODING, 100)]


def test_a_loss_that_grows_although_no_step_is_large_is_a_remark_until_it_is_clear() -> None:
    """A curriculum, bootstrapped targets; a thousandfold growth is none."""

    def grows(arrays: Arrays) -> None:
        arrays["loss"][250:] *= 1e3

    def runs_off(arrays: Arrays) -> None:
        arrays["loss"][250:] *= 1e6

    (found,) = judge_run(made(grows))
    assert (found.severity, found.cause, found.step) == (Severity.INFO, Cause.LOSS_FUNCTION, 250)
    (found,) = loud(made(runs_off))
    assert (found.severity, found.step) == (Severity.WARNING, 250)


@pytest.mark.parametrize("first", [1, 3])
def test_a_start_that_has_blown_up_already_is_no_measure(first: int) -> None:
    def change(arrays: Arrays) -> None:
        arrays["loss"][first:] = 1e5 * np.exp(-np.arange(NUM_STEPS - first) / 100)  # back to 1800 in the end
        arrays["updates"][0] = 12.0

    (found,) = loud(made(change))
    assert (found.cause, found.step) == (Cause.LEARNING_RATE, first)


def test_a_loss_that_swings_far_above_its_start_is_told_although_it_dips() -> None:
    def change(arrays: Arrays) -> None:
        arrays["loss"][1:] = 10 ** np.random.default_rng(1).uniform(0.6, 3.4, NUM_STEPS - 1)
        arrays["updates"][0] = 12.0

    (found,) = loud(made(change))
    assert (found.symptom, found.cause) == (Symptom.EXPLODING, Cause.LEARNING_RATE)
    assert found.step is not None
    assert found.step <= 3


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


def test_layers_that_fall_silent_are_told_and_one_alone_is_a_remark() -> None:
    def most(arrays: Arrays) -> None:
        arrays["gradients"][100:, :4] = 0.0

    def one(arrays: Arrays) -> None:
        arrays["gradients"][100:, 3] = 0.0

    (found,) = loud(made(most))
    assert (found.symptom, found.step) == (Symptom.DISCONNECTED, 100)
    assert loud(made(one)) == []


def test_what_was_zero_before_and_came_back_is_not_cut_off() -> None:
    """A critic whose clipped loss is flat where its output has moved far enough, until the next rollout."""

    def comes_and_goes(arrays: Arrays) -> None:
        arrays["gradients"][50:90, :4] = arrays["gradients"][100:, :4] = 0.0

    assert judge_run(made(comes_and_goes)) == []


@pytest.mark.parametrize(("last", "is_told"), [(220, False), (260, True)])
def test_what_was_zero_when_it_was_last_measured_may_have_come_back(last: int, is_told: bool) -> None:
    """Told where it was seen to be silent for as long as nothing was seen of it since."""

    def change(arrays: Arrays) -> None:
        arrays["gradients"][100:, :4] = 0.0
        for name in ("gradients", "weights", "updates"):
            arrays[name][last:] = np.nan

    assert any(one.symptom is Symptom.DISCONNECTED for one in judge_run(made(change))) == is_told


def with_biases(change: Callable[[Arrays], None]) -> Run:
    """Layers of a weight and a bias each, in turn."""
    run = made(change)
    names = [f"layers.{i // 2}.{'bias' if i % 2 else 'weight'}" for i in range(NUM_LAYERS)]
    shapes = [(8,) if i % 2 else (8, 8) for i in range(NUM_LAYERS)]
    parameters = tuple(WatchedParameter(name, shape, "float32", 0) for name, shape in zip(names, shapes, strict=True))
    return Run(RunHeader("0" * 32, 0.0, parameters=parameters), run.steps)


def test_dead_units_a_cut_and_saturation_are_told_apart() -> None:
    def dies(arrays: Arrays) -> None:
        arrays["gradients"][100:, [0, 1, 2]] = 0.0  # the bias of the second layer still learns: its input is zero

    def is_cut(arrays: Arrays) -> None:
        arrays["gradients"][100:, [0, 1, 2, 3]] = 0.0

    def saturates(arrays: Arrays) -> None:
        arrays["gradients"][60:100, [0, 1, 2, 3]] *= 10 ** np.linspace(0, -8, 40)[:, None]
        is_cut(arrays)

    def is_thrown(arrays: Arrays) -> None:
        arrays["updates"][90, :] = 30.0
        dies(arrays)

    wanted = [
        (dies, Symptom.DEAD_UNITS, Cause.SATURATED_PREACTIVATION),
        (is_cut, Symptom.DISCONNECTED, Cause.DETACHED_GRAPH),
        (saturates, Symptom.VANISHING, Cause.SATURATED_PREACTIVATION),
        (is_thrown, Symptom.DEAD_UNITS, Cause.LEARNING_RATE),
    ]
    for change, symptom, cause in wanted:
        (found,) = loud(with_biases(change))
        assert (found.symptom, found.cause, found.step) == (symptom, cause, 100)
    assert "steps moved weights by up to 30 times" in found.message


def test_a_satisfied_loss_is_healthy_and_a_flat_one_is_not() -> None:
    def satisfied(arrays: Arrays) -> None:
        arrays["gradients"][200:] = 0.0
        arrays["loss"][200:] = 0.0

    def flat(arrays: Arrays) -> None:
        arrays["gradients"][200:] = 0.0
        arrays["loss"][200:] = 0.9

    assert judge_run(made(satisfied)) == []
    assert {f.step for f in loud(made(flat))} == {200}
    assert Symptom.DEAD_UNITS in {f.symptom for f in loud(made(flat))}


def test_a_plateau_without_gradient_is_told_and_convergence_is_not() -> None:
    def stuck(arrays: Arrays) -> None:
        arrays["gradients"][220:] *= 1e-6
        arrays["gradients"][300] *= 1e6  # one batch that is not flat
        arrays["loss"][220:] = 1.7

    def converges(arrays: Arrays) -> None:
        arrays["gradients"] *= np.exp(-np.arange(NUM_STEPS) / 20)[:, None]
        arrays["loss"] = 2.0 * np.exp(-np.arange(NUM_STEPS) / 20) + 0.7

    (found,) = loud(made(stuck))
    assert (found.symptom, found.step) == (Symptom.LOSS_SATURATED, 220)
    assert judge_run(made(converges)) == []


def test_a_weight_that_its_optimizer_lost_is_told() -> None:
    def lost(arrays: Arrays) -> None:
        arrays["updates"][200::10, 2] = 0.0

    def schedule_ends(arrays: Arrays) -> None:
        arrays["updates"][200::10] = 0.0

    def frozen(arrays: Arrays) -> None:
        arrays["updates"][200::10, 2] = 0.0
        arrays["gradients"][200:, 2] = np.nan

    (found,) = loud(made(lost))
    assert (found.symptom, found.cause, found.where, found.step) == (
        Symptom.DISCONNECTED, Cause.DETACHED_GRAPH, ("layers.2",), 200,
    )  # fmt: skip
    assert judge_run(made(schedule_ends)) == []
    (found,) = judge_run(made(frozen))
    assert (found.severity, found.symptom, found.step) == (Severity.INFO, Symptom.DISCONNECTED, 200)


def test_a_rate_of_zero_at_every_step_is_told_and_one_that_ends_at_zero_is_not() -> None:
    def never(arrays: Arrays) -> None:
        arrays["loss"] = 2.3 + 0.01 * np.cos(np.arange(NUM_STEPS))
        arrays["updates"] *= 0.0

    def zero(arrays: Arrays) -> None:
        never(arrays)
        arrays["rate"] = np.zeros(NUM_STEPS)

    def ends(arrays: Arrays) -> None:
        arrays["updates"][200::10] = 0.0
        arrays["rate"] = np.where(np.arange(NUM_STEPS) < 200, 0.1, 0.0)

    (found,) = loud(made(zero))
    assert (found.symptom, found.cause) == (Symptom.UNDERFLOW, Cause.LEARNING_RATE)
    assert "zero at all 40 measured steps" in found.message
    assert loud(made(never)) == loud(made(ends)) == []


def test_weights_that_shrink_are_the_cause_of_what_vanishes() -> None:
    def shrinks(arrays: Arrays) -> None:
        arrays["weights"] *= 10 ** (-np.arange(NUM_STEPS) / 400)[:, None]
        arrays["gradients"][:, 0] *= 10 ** (-5.0 * np.arange(NUM_STEPS) / 400)

    (found,) = loud(made(shrinks))
    assert (found.symptom, found.cause, found.where) == (Symptom.VANISHING, Cause.SMALL_WEIGHTS, ("layers.0",))


def test_norms_that_overflow_are_judged_without_a_warning() -> None:
    def overflows(arrays: Arrays) -> None:
        arrays["gradients"][350:] = np.inf
        arrays["nonfinite"][350:] = 1

    assert [f.symptom for f in loud(made(overflows))] == [Symptom.NONFINITE]


def test_losses_that_were_read_seldom_tell_what_a_run_had_learnt() -> None:
    """Rows lie close at a run's beginning: the last five of those read may go back to what had learnt nothing."""

    def seldom(arrays: Arrays) -> None:
        read = [*range(17), 49, 82, 115, 148, 181, 278, 375]
        losses = [0.7] * 18 + [0.61, 0.48, 0.019, 0.0022, 0.0006, 0.0006]
        arrays["loss"][:] = np.nan
        arrays["loss"][read] = losses

    assert fallen_before(made(seldom), 375, 100.0)
    assert not fallen_before(made(seldom), 115, 100.0)


@pytest.mark.parametrize("num_before", [0, 40])
def test_the_first_step_of_another_optimizer_is_no_spike(num_before: int) -> None:
    """A policy takes eighty steps, then its critic does, whose gradients are of another size."""

    def change(arrays: Arrays) -> None:
        critic, policy = slice(3, None), slice(0, 3)
        arrays["gradients"][:, critic] *= 1e3
        arrays["gradients"][: 250 - num_before, critic] = np.nan
        arrays["gradients"][250:, policy] = np.nan
        arrays["gradients"][250 - num_before : 250, critic] *= 1e-3  # it was there before, and no larger
        arrays["gradients"][251:, critic] *= 1e-3

    assert any(one.cause is Cause.LEARNING_RATE for one in judge_run(made(change))) == bool(num_before)


def test_a_spike_below_what_training_began_with_is_no_remark() -> None:
    def change(arrays: Arrays) -> None:
        arrays["gradients"] *= np.exp(-np.arange(NUM_STEPS) / 30)[:, None]
        arrays["gradients"][300] *= 50

    assert judge_run(made(change)) == []


def test_what_lies_far_back_explains_no_nan() -> None:
    """Weights that start at zero are replaced by their first step; an outlier was got over long ago."""

    def change(arrays: Arrays) -> None:
        arrays["updates"][0] = 5.0
        arrays["loss"][20] *= 1e4
        arrays["loss"][300:] = np.nan
        arrays["nonfinite"][300:] = 1

    found = next(f for f in judge_run(made(change)) if f.symptom is Symptom.NONFINITE)
    assert (found.cause, found.step) == (Cause.UNSAFE_OP, 300)
    assert "been steady" in found.message


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


def test_the_first_steps_of_a_weight_that_starts_at_zero_blame_no_learning_rate() -> None:
    """Its steps are as large as itself, by design; a weight of usual size that is replaced does blame it."""

    def breaks(start: float) -> Callable[[Arrays], None]:
        def change(arrays: Arrays) -> None:
            arrays["weights"][:20, 0] = start
            arrays["updates"][:20:10, 0] = 5.0
            arrays["nonfinite"][15:] = 1

        return change

    causes = [next(f.cause for f in judge_run(made(breaks(start))) if f.symptom is Symptom.NONFINITE)
              for start in (1e-3, 1.0)]  # fmt: skip
    assert causes == [Cause.UNSAFE_OP, Cause.LEARNING_RATE]


@pytest.mark.parametrize(("ratio", "falls", "ill"), [(1e-9, False, True), (1e-7, False, False), (1e-9, True, False)])
def test_steps_below_the_precision_of_the_weights_move_nothing(ratio: float, falls: bool, ill: bool) -> None:
    def change(arrays: Arrays) -> None:
        arrays["updates"][::10] = ratio
        if not falls:
            arrays["loss"][:] = 2.3
            arrays["gradients"][:] = 0.1

    found = [f for f in loud(made(change)) if f.cause is Cause.NUMERIC_FORMAT]
    assert [f.symptom for f in found] == ([Symptom.UNDERFLOW] if ill else [])
    assert all("The steps are too small" in f.message for f in found)


@pytest.mark.parametrize("num_dead", [NUM_LAYERS, NUM_LAYERS - 1, NUM_LAYERS - 2])
def test_a_network_that_is_dead_as_a_whole_is_critical(num_dead: int) -> None:
    def change(arrays: Arrays) -> None:
        arrays["gradients"][200:, :num_dead] = 0.0
        arrays["updates"][190] = 3.0
        arrays["loss"][200:] = 5.0

    found = next(f for f in loud(made(change)) if f.symptom in (Symptom.DEAD_UNITS, Symptom.VANISHING))
    dead_whole = num_dead == NUM_LAYERS  # without biases, units that are dead in part are told apart by nothing
    assert (found.severity is Severity.CRITICAL) is dead_whole


def test_a_backward_pass_that_reaches_nothing_is_told() -> None:
    def cut(arrays: Arrays) -> None:
        arrays["gradients"][:] = np.nan
        arrays["loss"][:] = np.nan
        arrays["updates"][::10] = 0.0
        arrays["rate"][:] = 1e-3

    (finding,) = judge_run(made(cut))
    assert (finding.symptom, finding.cause) == (Symptom.DISCONNECTED, Cause.DETACHED_GRAPH)
    assert finding.severity is Severity.CRITICAL

    def by_hand(arrays: Arrays) -> None:  # gradients that nobody has seen, and that move weights
        cut(arrays)
        arrays["updates"][100] = 1e-6

    def still(arrays: Arrays) -> None:  # a rate of zero moves nothing either
        cut(arrays)
        arrays["rate"][:] = 0.0

    def seldom(arrays: Arrays) -> None:
        cut(arrays)
        arrays["updates"][:-2] = np.nan

    assert [judge_run(made(change)) for change in (by_hand, still, seldom)] == [[], [], []]


def two_phases(arrays: Arrays) -> None:
    """The first half trains the first layer, the second half all others."""
    half = NUM_STEPS // 2
    arrays["gradients"][half:, 0] = np.nan
    arrays["gradients"][:half, 1:] = np.nan
    arrays["loss"][half:] = 3.0
    arrays["updates"][:] = np.nan


def of_two_optimizers(run: Run) -> Run:
    parameters = tuple(replace(p, optimizer=min(i, 1)) for i, p in enumerate(run.header.parameters))
    return replace(run, header=replace(run.header, parameters=parameters))


def test_zeros_that_multiply_zeros_are_told_of_the_optimizer_that_holds_them() -> None:
    def zeros(arrays: Arrays) -> None:  # LoRA with both factors at zero
        two_phases(arrays)
        arrays["gradients"][NUM_STEPS // 2 :, 1:] = 0.0
        arrays["weights"][:, 1:] = 0.0

    (finding,) = (f for f in judge_run(of_two_optimizers(made(zeros))) if f.severity is not Severity.INFO)
    assert (finding.symptom, finding.cause) == (Symptom.VANISHING, Cause.SMALL_WEIGHTS)
    assert finding.step == NUM_STEPS // 2

    def one_factor(arrays: Arrays) -> None:  # the other one's gradient is zero at the first step alone
        zeros(arrays)
        arrays["gradients"][NUM_STEPS // 2 :, 2] = 0.1
        arrays["weights"][:, 1] = 1.0

    assert not [f for f in judge_run(of_two_optimizers(made(one_factor))) if f.cause is Cause.SMALL_WEIGHTS]
