"""Do the benchmarks compare what they say they compare: a bare twin that is bare, and each twin by its own clock?"""

import contextlib
import time

import numpy as np
import pytest
import torch
from benchmarks import loops, twins, ways
from benchmarks.readings import calm_rounds, ratio, read
from benchmarks.run_file import Spike, spikes
from torch.optim import optimizer

from gradtrace.monitor.hooks import optimizer_steps
from gradtrace.records.run import RunSteps

PLAIN_BACKWARD = torch.autograd.backward


def is_plain() -> bool:
    """Whether nobody stands in for what a step calls."""
    return torch.autograd.backward is PLAIN_BACKWARD and "__call__" not in vars(torch.nn.Sequential)


@pytest.fixture
def tiny(monkeypatch):
    """The smallest loop, under its own name."""
    monkeypatch.setitem(loops.LOOPS, "tiny", loops.tiny)
    return "tiny"


@pytest.fixture
def seen_at_steps(monkeypatch):
    """What a function returns before the steps of each of these ways."""

    def spy_on(all_ways, look):
        seen: dict[str, set[object]] = {way: set() for way in all_ways}

        def spying(way, plain):
            @contextlib.contextmanager
            def spied(*args):
                with plain(*args) as watcher:
                    step = watcher.step

                    def seeing():
                        seen[way].add(look())
                        return step()

                    watcher.step = seeing
                    yield watcher

            return spied

        for way in seen:
            monkeypatch.setitem(ways.WAYS, way, spying(way, ways.WAYS[way]))
        return seen

    return spy_on


def test_the_bare_twin_is_bare_while_another_is_watched_and_all_end_with_the_same_weights(tiny, seen_at_steps):
    seen = seen_at_steps(["bare", "watch, in memory"], is_plain)
    turns = twins.race(tiny, list(seen), 2.0, 0.5)
    assert seen["bare"] == {True}
    assert False in seen["watch, in memory"]  # at rest nobody stands in for anything
    assert is_plain()
    assert turns["watch, in memory"].same_weights
    assert len(turns["bare"].wall_s) == 4


def test_hooks_of_optimizers_are_there_in_their_twins_turn_alone(tiny, seen_at_steps):
    told, hooks = optimizer_steps._TOLD, optimizer._global_optimizer_post_hooks
    ways = ["bare", "watch, in memory", "watch, into a file"]
    seen = seen_at_steps(ways, lambda: (len(told["before"]), len(told["after"]), len(hooks)))
    twins.race(tiny, list(seen), 2.0, 0.5)
    assert seen["bare"] == {(0, 0, 0)}
    for way in ("watch, in memory", "watch, into a file"):
        assert seen[way] <= {(1, 1, 1), (0, 1, 1)}  # its own; at rest none before a step
    assert not any(told.values())
    assert not hooks


def test_every_step_is_measured_by_the_tier(tiny):
    turns = twins.race(tiny, ["bare", "norms at every step"], 2.0, 0.5)
    assert turns["norms at every step"].measured_frac == 1.0
    assert turns["norms at every step"].spent_frac > 0.0
    assert turns["bare"].spent_frac is None


def test_a_clock_stands_while_others_have_their_turn(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = ways.Clock()
    now[0] += 5.0
    assert clock() == 0.0
    clock.start()
    now[0] += 2.0
    assert clock() == 2.0
    assert clock.stop() == 2.0
    now[0] += 50.0
    assert clock() == 2.0


def test_a_ratio_is_found_within_its_interval_and_disturbed_rounds_do_not_count():
    draw = np.random.default_rng(0)
    bare = draw.normal(1.0, 0.02, 200)
    watched = 1.01 * draw.normal(1.0, 0.02, 200)
    found = ratio(watched, bare)
    assert found.low < 1.01 < found.high
    assert found.high - found.low < 0.01  # one per cent can be told from none
    disturbed = np.arange(200) % 20 == 0
    watched[disturbed] *= 3.0
    interruptions = [int(100 * one) for one in disturbed]
    turns = [twins.Turns(list(times), list(times), list(interruptions)) for times in (watched, bare)]
    reading = read(*turns, calm_rounds(turns))
    assert reading.wall.low < 1.01 < reading.wall.high
    assert reading.cpu.value == pytest.approx(1.01 + 0.05 * 2.02, abs=0.02)  # leaves out nothing
    assert reading.typical == pytest.approx(1.01, abs=0.01)


def test_a_twin_that_sits_out_is_compared_where_it_took_part():
    bare = twins.Turns([1.0, 9.0, 1.0, 9.0], [1.0] * 4, [0] * 4)
    seldom = twins.Turns([2.0, None, 2.0, None], [1.0, None, 1.0, None], [0, None, 0, None])
    reading = read(seldom, bare, calm_rounds([bare, seldom]))
    assert (reading.wall.value, reading.typical) == (2.0, 2.0)


def test_a_spike_that_a_row_does_not_show_is_missed():
    assert len(spikes(50, 2)) == 2
    low, high = np.zeros((1, 3, 2), np.float32), np.full((1, 3, 2), 7.0, np.float32)
    steps = RunSteps(
        np.array([0]),
        np.array([8]),
        np.zeros(1),
        np.zeros((1, 5)),
        np.zeros((1, 5)),
        low,
        high,
        *[np.zeros(1, np.int64)] * 2,
    )
    assert Spike(3, 1, 7.0).is_in(steps)
    assert not Spike(3, 1, 8.0).is_in(steps)
