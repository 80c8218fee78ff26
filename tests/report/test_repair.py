"""Both losses step by step: the median of the seeds, a dash where none is known."""

from __future__ import annotations

from gradtrace.records.finding import Diagnosis
from gradtrace.records.repair import Outcome, Repair, Role, Trial
from gradtrace.report.repair import curves, to_text


def trial(role, curves, *, proven=False):
    return Trial(role.value, role, outcomes=tuple(Outcome(i, c) for i, c in enumerate(curves)), proven=proven)


ORIGINAL = trial(Role.ORIGINAL, [((0, 2.0), (10, 1.9)), ((0, 2.0), (10, 1.7)), ((0, 2.0), (10, 1.8))])


def test_the_median_over_the_seeds_at_each_step():
    best = trial(Role.CANDIDATE, [((0, 1.0), (10, 0.1)), ((0, 3.0), (10, 0.3)), ((0, 2.5), (10, 0.2))], proven=True)
    header, unchanged, changed = curves(Repair(Diagnosis(()), None, (best, ORIGINAL))).splitlines()
    assert header.split() == ["step", "0", "10"]
    assert unchanged.split() == ["unchanged", "2", "1.8"]
    assert changed.split() == ["changed", "2.5", "0.2"]
    assert len({len(header), len(unchanged), len(changed)}) == 1


def test_a_step_that_no_seed_reached_is_a_dash():
    best = trial(Role.CANDIDATE, [((0, 2.0),)], proven=True)
    *_, changed = curves(Repair(Diagnosis(()), None, (best, ORIGINAL))).splitlines()
    assert changed.split() == ["changed", "2", "-"]


def test_nothing_where_nothing_is_recommended_or_nothing_was_trained():
    assert curves(Repair(Diagnosis(()), None, (ORIGINAL,))) == ""
    assert curves(Repair(Diagnosis(()), None, (trial(Role.CANDIDATE, [], proven=True), ORIGINAL))) == ""


def test_thresholds_that_the_project_moved_are_told():
    told = "vanishing-decades is 12 decades here, and 2 elsewhere: deep by design"
    repair = Repair(Diagnosis((), moved=(told,)), None, ())
    assert f"Moved: {told}" in to_text(repair, 100)
