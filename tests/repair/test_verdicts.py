"""The order of what is proven: the better one, and of two that cannot be told apart the smaller change."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gradtrace.diagnosis.wording import EXTENT
from gradtrace.records.change import Change
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.repair import Outcome, Role, Trial
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.repair.verdicts import judged, prices


def trial(title, ends, *changes, role=Role.CANDIDATE):
    outcomes = tuple(Outcome(i, ((0, 2.3), (9, end))) for i, end in enumerate(ends))
    return Trial(title, role, changes, outcomes, whole=True)


SMALL = Change("activation", "Replace.", ("a", "b"))
LARGE = Change("norm", "Insert.", ("a", "b"), state_dict_loads=False)
ORIGINAL = trial("as it came", [2.3, 2.31, 2.29], role=Role.ORIGINAL)
PLACEBO = trial("placebo", [2.3, 2.28, 2.31], role=Role.PLACEBO)


def ranked(*trials, root=None):
    return [one.title for one in judged([*trials, ORIGINAL, PLACEBO], lambda _: (), root)]


def test_of_two_that_cannot_be_told_apart_the_smaller_comes_first():
    small, large = trial("small", [0.5, 0.4, 0.6], SMALL), trial("large", [0.4, 0.5, 0.45], LARGE)
    assert ranked(large, small)[:2] == ["small", "large"]


def test_what_is_better_beyond_chance_comes_first_however_large():
    small, large = trial("small", [0.5, 0.52, 0.51], SMALL), trial("large", [0.1, 0.11, 0.1], SMALL, LARGE)
    assert ranked(small, large)[:2] == ["large", "small"]


def test_one_change_comes_before_two_and_few_places_before_many():
    ends = [0.5, 0.4, 0.6]
    one, two = trial("one", ends, SMALL), trial("two", ends, SMALL, SMALL)
    fewer = trial("fewer", ends, Change("activation", "Replace.", ("a",)))
    assert ranked(two, one, fewer)[:3] == ["fewer", "one", "two"]


def test_nine_tenths_of_the_gain_by_a_smaller_change_are_as_good_and_eight_are_not():
    small, large = trial("small", [0.02, 0.021, 0.02], SMALL), trial("large", [0.001, 0.0011, 0.001], SMALL, LARGE)
    assert ranked(small, large)[:2] == ["small", "large"]
    barely = trial("barely", [0.45, 0.46, 0.45], SMALL)
    assert ranked(barely, large)[:2] == ["large", "barely"]


def test_what_scatters_is_not_as_good_for_not_being_told_apart():
    lottery, large = trial("lottery", [0.1, 2.1, 2.1], SMALL), trial("large", [0.4, 0.41, 0.4], SMALL, LARGE)
    assert ranked(lottery, large)[0] == "large"


def test_of_what_is_as_good_the_change_that_takes_the_cause_away_comes_first():
    clip = trial("clip", [0.01, 0.011, 0.01], Change("clipping", "Clip.", ("optimizer",)))
    draw = trial("draw", [0.02, 0.021, 0.02], Change("initialisation", "Draw.", ("a", "b"), loses_weights=True))
    assert ranked(draw, clip)[:2] == ["clip", "draw"]
    assert ranked(draw, clip, root=Cause.LARGE_WEIGHTS)[:2] == ["draw", "clip"]
    both = trial("both", [0.01, 0.011, 0.01], *clip.changes, *draw.changes)
    assert ranked(both, clip, root=Cause.LARGE_WEIGHTS)[:2] == ["clip", "both"]


def test_of_a_network_that_breaks_the_gain_is_counted_from_where_the_changed_ones_begin():
    broken = replace(ORIGINAL, outcomes=tuple(Outcome(i, ((0, 1e6), (9, math.inf))) for i in range(3)))
    barely, much = trial("barely", [1.1, 1.2, 1.1], SMALL), trial("much", [0.01, 0.011, 0.01], SMALL, LARGE)
    told = judged([barely, much, broken], lambda _: ())
    assert [one.title for one in told if one.proven] == ["much", "barely"]


def test_what_is_bought_by_another_ill_is_not_proven():
    told = judged([trial("small", [0.5, 0.4, 0.6], SMALL), ORIGINAL, PLACEBO], lambda _: ("exploding",))
    assert not any(one.proven for one in told)
    assert told[0].verdict == "bought by another ill: exploding"


def test_what_has_learnt_all_has_paid_nothing():
    told = judged([trial("small", [0.2, 0.21, 0.2], SMALL), ORIGINAL, PLACEBO], lambda _: ("saturated",))
    assert [one.title for one in told if one.proven] == ["small"]
    told = judged([trial("small", [0.3, 0.31, 0.3], SMALL), ORIGINAL, PLACEBO], lambda _: ("saturated",))
    assert not any(one.proven for one in told)


def ill(symptom, decades=None, severity=Severity.CRITICAL):
    evidence = (Evidence(EXTENT, decades, "decades"),) if decades is not None else ()
    return Finding(symptom, Cause.LARGE_WEIGHTS, ("a",), severity, "ill", evidence)


EXPLODING = ill(Symptom.EXPLODING, 6.0)


@pytest.mark.parametrize(
    ("found", "paid"),
    [
        (ill(Symptom.VANISHING, -4.0), False),
        (ill(Symptom.VANISHING, -6.5), True),
        (ill(Symptom.VANISHING, -6.5, Severity.WARNING), False),
        (ill(Symptom.EXPLODING, 6.5), False),
        (ill(Symptom.DEAD_UNITS), True),
    ],
)
def test_a_price_is_an_ill_that_was_not_there_and_is_no_smaller_than_what_was_healed(found, paid):
    assert bool(prices([found], [EXPLODING], [])) is paid
    assert not prices([found], [EXPLODING], [found])


def test_what_a_gradient_that_is_not_finite_has_hidden_is_no_price_of_its_mend():
    found = ill(Symptom.DEAD_UNITS)
    hides = ill(Symptom.NONFINITE)
    assert not prices([found], [hides], [])
    assert prices([found], [replace(hides, step=30)], [])
    assert prices([found], [], [hides])
