"""The budget holds, whatever looking costs, and is spent where it tells most."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gradtrace.monitor.schedule.budget import CREDIT_S, Budget


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def simulate(num_steps: int, step_s: float, norms_s: float, trace_s: float, hooks_s: float = 0.0, frac: float = 0.02):
    clock = Clock()
    budget = Budget(frac, clock=clock)
    measured, traced = [], []
    for step in range(num_steps):
        if budget.may_trace(step):
            traced.append(step)
            clock.now += trace_s
            budget.spend("trace", trace_s, step)
        clock.now += step_s + hooks_s
        budget.spend("hooks", hooks_s, step)
        if budget.may_measure(step):
            measured.append(step)
            clock.now += norms_s
            budget.spend("norms", norms_s, step)
    return budget, measured, traced, clock.now


@pytest.mark.parametrize("norms_s", [1e-5, 1e-4, 1e-3, 5e-3])
@pytest.mark.parametrize("trace_s", [1e-3, 0.05, 0.5])
def test_a_long_run_keeps_to_its_budget(norms_s, trace_s) -> None:
    budget, _, _, total_s = simulate(40_000, 0.01, norms_s, trace_s)
    lent = 0.02 * CREDIT_S / (1 + total_s / (2 * CREDIT_S)) / total_s
    assert (
        budget.spent_frac <= 0.02 + lent + (10 * trace_s + norms_s) / total_s
    )  # ten traces are taken whatever they cost
    assert budget.spent_frac < 0.0235


def test_norms_that_fit_are_taken_at_every_step() -> None:
    _, measured, _, _ = simulate(5_000, 0.05, 0.0004, 0.1)
    assert measured == list(range(5_000))


def test_norms_that_do_not_fit_are_spread_and_not_starved_by_traces() -> None:
    _, measured, traced, _ = simulate(20_000, 0.003, 0.0006, 0.06)  # a fifth of the step
    assert measured[:150] == list(range(150))  # on credit
    late = [b - a for a, b in pairwise(measured) if a > 10_000]
    assert max(late) <= 40
    assert len(traced) < 40


def test_whole_traces_come_early_and_then_rarer() -> None:
    _, _, traced, _ = simulate(600, 0.003, 0.0002, 0.02)  # too dear for its budget
    assert traced == [0, 1, 2, 8, 32, 128, 512]
    _, _, traced, _ = simulate(600, 0.1, 0.0002, 0.01)  # cheap beside its step
    assert traced[:5] == [0, 1, 2, 4, 8]
    assert all(b - a <= 200 for a, b in pairwise(traced))


def test_every_so_many_steps_whatever_it_costs() -> None:
    clock = Clock()
    budget = Budget(1e-9, every=7, clock=clock)
    traced = []
    for step in range(30):
        if budget.may_trace(step):
            traced.append(step)
            budget.spend("trace", 10.0, step)
    assert traced == [0, 1, 2, 4, 11, 18, 25]


def test_however_dear_it_is_nobody_goes_blind() -> None:
    """Hooks alone cost more than the budget: rows are then a fixed number to each e-fold of steps."""
    _, measured, _, _ = simulate(5_000, 0.001, 0.001, 0.05, hooks_s=0.0003)
    assert all(b - a <= b / 32 + 1 for a, b in pairwise(measured))
    assert measured[-1] > 4_900
    assert len(measured) < 600
