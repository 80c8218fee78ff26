"""The law holds, whatever a step and its parts take; what is lent comes early; rest is bounded; drift fools nobody."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradtrace.monitor.schedule.allowance import LENT_S, allowance_s, law_s
from gradtrace.monitor.schedule.cost import NOTED_S, Level
from gradtrace.monitor.schedule.schedule import IDLE_GROWTH, NOTING, OPENING, SHORTEST_REST, Schedule, is_early


class Training:
    """Simulated: what a step and each part of watching really take, and how much of it our own clock sees."""

    def __init__(
        self,
        step_s: float,
        hooks_s: float = 0.0,
        norms_s: float = 0.0,
        updates_s: float = 0.0,
        trace_s: float = 0.0,
        *,
        noted_s: float = NOTED_S,
        budget: float = 0.02,
        seen: float = 1.0,
        drift: float = 0.0,
        noise: float = 0.0,
        num_kinds: int = 1,
        walk_s: float = 0.0,
        **options,
    ) -> None:
        self.now = self.watching_s = self.training_s = 0.0
        self.schedule = Schedule(budget, clock=lambda: self.now, **options)
        self.levels: list[Level] = []
        self.traced: list[int] = []
        self.watched_at: list[tuple[float, float]] = []
        """(seconds of training, seconds of watching) after each step."""
        self.dearest = {"traces": 0.0, "updates": 0.0, "every step": 0.0}
        self._costs = {"hooks": hooks_s, "norms": norms_s, "updates": updates_s, "traces": trace_s, "walks": walk_s}
        self._noted_s = noted_s
        """Of a step at rest, which no clock sees."""
        self._step_s, self._seen, self._drift, self._noise = step_s, seen, drift, noise
        self.schedule.num_kinds = num_kinds
        self._random = random.Random(0)

    def run(self, num_steps: int) -> None:
        for step in range(num_steps):
            self._one(step)

    def _one(self, step: int) -> None:
        schedule, level = self.schedule, self.schedule.level
        self.levels.append(level)
        took = self._step_s * (1.0 + self._drift * step) * (1.0 + self._noise * self._random.random())
        self.now += took
        self.training_s += took
        if level is Level.REST:
            self.now += self._noted_s
            self.watching_s += self._noted_s
        else:
            self._spend("hooks")
            if is_early(step):
                self._spend("walks")
            if schedule.wants_trace(step):
                self.traced.append(step)
                self._spend("traces")
                schedule.done("traces", step)
        if level is Level.MEASURE:
            self._spend("norms")
            if schedule.wants_updates(step):
                self._spend("updates")
                schedule.done("updates", step)
        if level is not Level.REST:
            schedule.step_ended(step)
        elif schedule.rested([(1, self.now)]):
            schedule.end_rest(step + 1)
        self.watched_at.append((self.training_s, self.watching_s))

    def _spend(self, part: str) -> None:
        cost = self._costs[part]
        self.now += cost
        self.watching_s += cost
        self.schedule.spend(part, self._seen * cost)


costs = st.floats(1e-7, 10.0)


@settings(max_examples=150, deadline=None)
@given(
    step_s=st.floats(5e-5, 10.0), hooks=costs, norms=costs, updates=costs, trace=costs, seen=st.floats(0.75, 1.0),
    num_steps=st.integers(1, 1500),
)  # fmt: skip
def test_over_any_first_stretch_the_total_stays_within_the_law(
    step_s, hooks, norms, updates, trace, seen, num_steps
) -> None:
    training = Training(step_s, hooks, norms, updates, trace, seen=seen)
    training.run(num_steps)
    first = hooks + norms + updates + trace  # whose cost nobody can know before
    first += max(NOTED_S - NOTING * 0.02 * step_s, 0.0) * training.levels.count(Level.REST)  # of the shortest steps
    for training_s, watching_s in training.watched_at:
        assert watching_s <= law_s(training_s, 0.02) + first + hooks + norms + 1e-9


@pytest.mark.parametrize(("step_s", "num_steps"), [(0.0004, 150_000), (0.004, 15_000), (0.025, 4_000), (0.065, 2_000)])
def test_a_run_of_a_minute_and_more_keeps_to_two_percent(step_s: float, num_steps: int) -> None:
    training = Training(step_s, 3e-5, 2e-4 + 0.04 * step_s, 2e-4 + 0.05 * step_s, 0.002 + step_s, seen=0.7, noise=0.1)
    training.run(num_steps)
    assert training.training_s >= 60.0
    assert 0.005 * training.training_s < training.watching_s < 0.02 * training.training_s
    told = training.schedule.cost.record()
    assert told.watching_s == pytest.approx(training.watching_s, rel=0.25)
    assert told.num_compared > 20
    assert sum(seconds for _, seconds in told.parts_s) == pytest.approx(told.watching_s)


@pytest.mark.parametrize("noted_s", [3e-6, 4e-6])
def test_noting_short_steps_at_rest_counts_with_the_rest(noted_s: float) -> None:
    training = Training(0.0004, 2e-4, 4e-4, 2e-4, 0.003, seen=0.7, noise=0.1, noted_s=noted_s)
    training.run(150_000)
    assert 0.01 * training.training_s < training.watching_s < 0.02 * training.training_s
    assert training.schedule.cost.record().watching_s == pytest.approx(training.watching_s, rel=0.25)
    measured = [step for step, level in enumerate(training.levels) if level is Level.MEASURE]
    assert len(measured) > 200
    assert measured[-1] > 0.8 * 150_000


def test_steps_that_are_shorter_than_can_be_noted_for_the_budget_are_still_measured_now_and_then() -> None:
    training = Training(5e-5, 2e-5, 4e-5, 2e-5, 0.001, noted_s=4e-6)
    training.run(200_000)
    late = training.levels[100_000:]
    assert late.count(Level.MEASURE) > 50
    own_s = training.watching_s - 4e-6 * training.levels.count(Level.REST)
    assert own_s <= law_s(training.training_s, 0.02)


@pytest.mark.parametrize("drift", [0.0, 2e-4, -2e-4])
def test_whole_steps_are_compared_in_an_order_that_drift_cannot_fool(drift: float) -> None:
    training = Training(
        0.004, 2e-5, 4e-4, seen=0.5, drift=drift
    )  # half of it is displacement that no clock of ours sees
    training.run(3_000)
    assert training.schedule.cost.of_step(Level.MEASURE) == pytest.approx(4.2e-4, rel=0.1)


def test_the_opening_is_measured_step_by_step() -> None:
    training = Training(0.01, 2e-5, 5e-4, 5e-4, 0.01)
    training.run(200)
    assert set(training.levels[:OPENING]) == {Level.MEASURE}
    assert training.traced[:4] == [0, 1, 2, 4]
    assert Level.REST in training.levels


@pytest.mark.parametrize("num_steps", [300, 1_000, 4_000])
def test_a_run_that_is_over_at_any_time_has_a_late_trace_of_each_kind(num_steps: int) -> None:
    """Of a GAN's two, by turns. Steps are short: hooks and norms alone would take all that is lent."""
    training = Training(0.004, 1e-3, 1e-3, 5e-4, 0.015, num_kinds=2)
    training.run(num_steps)
    assert training.traced[:5] == [0, 1, 2, 4, 8]
    assert {i % 2 for i, step in enumerate(training.traced) if step >= num_steps / 4} == {0, 1}
    assert training.traced[-1] >= num_steps / 2


def test_the_next_trace_is_left_its_room() -> None:
    training = Training(0.004, 1e-3, 1e-3, 5e-4, 0.019)
    training.run(400)
    assert training.traced[-1] >= 200


def test_what_fits_is_measured_at_nearly_every_step() -> None:
    training = Training(0.2, 2e-5, 5e-4, 5e-4, 0.2)
    training.run(1_000)
    assert training.levels.count(Level.MEASURE) > 900
    assert training.levels.count(Level.REST) > 0  # or nobody would know what watching costs


def test_where_listening_is_cheap_beside_the_step_the_watch_does_not_rest_for_long() -> None:
    training = Training(0.025, 4e-5, 1.3e-3, 2e-3, 0.04)
    training.run(3_000)
    assert training.levels.count(Level.REST) < 0.05 * 3_000
    assert training.levels.count(Level.MEASURE) > 0.15 * 3_000


def test_the_shorter_the_step_the_more_the_watch_rests() -> None:
    training = Training(0.0004, 6e-5, 1e-4, 2e-4, 0.005)
    training.run(50_000)
    rests = [len(list(group)) for level, group in itertools.groupby(training.levels) if level is Level.REST]
    assert sum(rests) > 0.9 * 40_000
    assert max(rests) <= max(SHORTEST_REST, 50_000 * IDLE_GROWTH)
    assert len(rests) < 600  # classes are changed at each, and Python keeps count


def test_the_loss_is_heard_of_now_and_then_although_too_much_was_spent() -> None:
    training = Training(0.01, 3e-5, 2e-4, 2e-4, 0.01)
    training.run(100)
    training._costs["traces"], training.watching_s = 0.0, training.watching_s + 2.0
    training.schedule.cost.account["traces"] += 2.0  # which nobody could foresee
    for step in range(100, 1100):
        training._one(step)
    rests = [len(list(group)) for level, group in itertools.groupby(training.levels[120:]) if level is Level.REST]
    assert training.levels[120:].count(Level.MEASURE) == 0
    assert max(rests) <= 1100 * IDLE_GROWTH + SHORTEST_REST
    heard = training.levels[120:].count(Level.LISTEN)
    assert heard >= 10
    assert heard * 3e-5 <= 0.1 * 0.02 * 1000 * 0.01 * 1.5


def test_walks_through_a_long_tape_are_not_what_listening_costs() -> None:
    """At steps 0, 1, 2, 4, ..., which are most of the few that are measured first."""
    training = Training(0.03, 2e-3, 2e-4, 2e-4, 0.6, walk_s=0.1)
    training.run(300)
    assert training.schedule.cost.of_step(Level.LISTEN) < 0.01
    assert sum(level is not Level.REST for level in training.levels[100:]) >= 5


def test_a_rest_is_over_when_the_steps_become_far_longer() -> None:
    training = Training(0.0004, 6e-5, 1e-4, 2e-4, 0.005)
    training.run(20_000)
    while training.schedule.level is not Level.REST:
        training.run(1)
    training._step_s = 1.0
    begun = training.now
    while training.schedule.level is Level.REST and training.now - begun < 60.0:
        training._one(20_001)
    assert training.now - begun < 10.0


def test_what_is_noticed_at_rest_is_measured_at_once() -> None:
    training = Training(0.0004, 6e-5, 1e-4)
    training.run(20_000)
    while training.schedule.level is not Level.REST:
        training.run(1)
    training.schedule.end_rest(20_001, is_urgent=True)
    assert training.schedule.level.name == "MEASURE"


def test_every_so_many_steps_whatever_it_costs() -> None:
    training = Training(0.001, 1e-5, 1e-4, 0.0, 10.0, budget=1.0, every=7)
    training.run(30)
    assert training.traced == [0, 1, 2, 4, 11, 18, 25]


@pytest.mark.parametrize("every", [1, 7, 50])
def test_a_trace_that_was_asked_for_is_not_rested_through(every: int) -> None:
    training = Training(0.001, 1e-5, 1e-3, 0.0, 0.1, every=every)
    training.run(500)
    assert max(b - a for a, b in itertools.pairwise(training.traced)) == every
    assert training.traced[-1] >= 500 - every
    assert (Level.REST in training.levels) == (every > 1)


def test_who_gives_half_the_time_gets_every_step() -> None:
    training = Training(0.001, 1e-3, 1e-3, budget=0.5)
    training.run(2_000)
    assert set(training.levels) == {Level.MEASURE}


@given(st.floats(0.0, 1e7), st.floats(1e-6, 10.0))
def test_the_allowance_keeps_within_the_law(training_s: float, budget: float) -> None:
    assert allowance_s(training_s, budget) <= law_s(training_s, budget)
    assert law_s(training_s, budget) == max(budget * training_s, budget * LENT_S)


def test_a_rest_of_very_many_steps_is_an_account_like_any_other() -> None:
    """Of 1.02 to the power of so many no float knows."""
    schedule = Training(1e-4).schedule
    schedule.cost.step_ended(1e-4, Level.REST)
    schedule.cost.steps_at_rest([(16, 16 * 2e-4)] * 5000)
    assert schedule.cost.usual_s == pytest.approx(2e-4)
    assert schedule.cost.training_s == pytest.approx(1e-4 + 80_000 * 2e-4)


def test_a_pause_among_steps_that_are_not_timed_one_by_one_is_a_pause() -> None:
    cost = Training(1e-3).schedule.cost
    cost.step_ended(1e-3, Level.REST)
    cost.steps_at_rest([*[(10, 10e-3)] * 5, (10, 60.0)])
    assert cost.usual_s == pytest.approx(1e-3)
    assert cost.training_s == pytest.approx(61e-3, rel=0.2)
