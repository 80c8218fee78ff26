"""Which steps are reported is the same on all ranks, whoever is late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gradtrace.distributed.agreement import Agreement
from gradtrace.distributed.report.given import Decision


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 5)), max_size=8),
    st.lists(st.integers(0, 9), min_size=3, max_size=3),
)
def test_every_rank_gives_the_same_reports_in_the_same_order(gaps, delays):
    """However late it learns of a decision: what it has missed, it gives nothing for."""
    decisions, at = [], 4
    for gap, num in gaps:
        decisions.append(Decision(at + gap, num))
        at += gap + num
    given_by = []
    for delay in delays:
        agreement, num_given = Agreement(opening=4), 0
        given_steps: list[int | None] = []
        waiting: list[int] = []
        ends = [4 + sum(d.num for d in decisions[:i]) for i in range(len(decisions))]
        for step in range(at + 20):
            for _ in range(agreement.pass_over(step)):
                given_steps.append(None)
            while len(waiting) < len(decisions) and len(given_steps) >= ends[len(waiting)]:
                waiting.append(step + delay)
            while num_given < len(waiting) and waiting[num_given] <= step:
                agreement.learn(decisions[num_given])
                num_given += 1
            for _ in range(agreement.pass_over(step)):
                given_steps.append(None)
            if agreement.take(step):
                given_steps.append(step)
        given_by.append(given_steps)
    whole = [*range(4), *(step for one in decisions for step in range(one.first, one.first + one.num))]
    for steps in given_by:
        assert all(step in (None, wanted) for step, wanted in zip(steps, whole, strict=False))


def test_a_stretch_never_goes_back():
    agreement = Agreement(opening=8)
    agreement.learn(Decision(3, 2))
    assert agreement.last == 9
    assert [step for step in range(20) if agreement.take(step)] == list(range(10))


def test_updates_are_measured_where_rank_0_says_so():
    agreement = Agreement(opening=3)
    assert [agreement.wants_updates(step) for step in range(4)] == [True, True, True, False]
    agreement.learn(Decision(10, 2, updates=True))
    assert [agreement.wants_updates(step) for step in (9, 10, 11)] == [False, True, False]
