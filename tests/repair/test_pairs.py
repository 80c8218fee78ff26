"""Which two changes are tried together, and whether the unchanged network's own course is known."""

from __future__ import annotations

import math
from dataclasses import replace

from gradtrace.records.change import Change, Draw, Edit, SourceEdit
from gradtrace.records.repair import Outcome, Role, Trial
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes.table import mends
from gradtrace.repair.pace import Pace
from gradtrace.repair.pairs import pairs_of, standing
from gradtrace.repair.trend import trend_of
from gradtrace.repair.trials import ORIGINAL, _finals, _with_the_root


def trial(kind, start, *ends, draws=(), role=Role.CANDIDATE, factor=0.1):
    outcomes = tuple(Outcome(i, ((0, start), (9, end))) for i, end in enumerate(ends))
    change = Change(kind, f"{kind}.", ("a",), draws=draws, numbers=(("factor", factor),))
    return Trial(f"{kind}.", role, (change,), outcomes)


def titles(*trials):
    return [pair.title for pair in pairs_of(trials)]


def test_the_best_goes_with_the_best_of_two_other_kinds():
    found = titles(trial("norm", 2.3, 1.0), trial("rate", 2.3, 1.1), trial("rate", 2.3, 1.2), trial("skip", 2.3, 1.3))
    assert found == ["rate. norm.", "norm. skip."]


def test_two_draws_of_the_same_weights_are_no_pair():
    draws = (Draw("a", "gaussian", 1.0),)
    assert titles(trial("activation", 2.3, 1.0, draws=draws), trial("initialisation", 2.3, 1.1, draws=draws)) == []


def test_two_edits_of_one_call_are_no_pair():
    """The logarithm that is gone has no operand to be guarded."""
    guarded, gone, beside = (
        replace(one, changes=(replace(one.changes[0], edits=(SourceEdit(edit, "log", line, "{x}"),)),))
        for one, edit, line in (
            (trial("unsafe", 2.3, 1.1), Edit.ARGUMENT, "net.py:3"),
            (trial("log_space", 2.3, 1.0), Edit.CALL, "net.py:3"),
            (trial("log_space", 2.3, 1.0), Edit.CALL, "net.py:9"),
        )
    )
    assert titles(gone, guarded) == []
    assert titles(beside, guarded) == ["unsafe. log_space."]


def test_who_draws_all_weights_draws_those_of_a_recurrence_too():
    time, root = (Draw("rnn.bias", "chrono", 60.0), Draw("head.weight", "gaussian", 1.0)), Cause.RECURRENT_CONTRACTION
    drawn = [trial("initialisation", 2.3, 1.0, draws=draws).changes for draws in (time, time[1:])]
    assert [mends(changes, root) for changes in drawn] == [True, False]
    assert not mends(drawn[0], Cause.INPUT_SCALE)


def test_the_best_start_goes_with_the_best_of_the_steps():
    """The draw begins where it should, and its steps are too long; clipping alone goes nowhere."""
    clipping, rate = trial("clipping", 7e5, 2.28), trial("rate", 7e5, 480.0)
    draw, norm = trial("initialisation", 2.7, math.inf), trial("norm", 900.0, math.inf)
    assert titles(clipping, rate, draw, norm)[-2:] == ["initialisation. clipping.", "initialisation. rate."]
    kept = trial("initialisation", 2.7, 1.0)
    assert titles(clipping, rate, kept, norm)[-2:] == ["clipping. norm.", "rate. norm."]


def test_a_start_that_is_mended_goes_with_the_rates_that_are_lowered_least():
    """As it came the network survives a rate of 1e-9 alone."""
    rates = [replace(trial("rate", 7e5, end, factor=factor), title=f"{factor:g}.") for factor, end in
             ((1e-9, 7e4), (0.1, math.inf), (0.001, math.inf), (0.01, math.inf))]  # fmt: skip
    rates = [replace(t, changes=(replace(t.changes[0], title=t.title),)) for t in rates]
    found = titles(trial("clipping", 7e5, 80.0), *rates, trial("initialisation", 2.2, math.inf))
    assert found[-3:] == ["initialisation. clipping.", "initialisation. 0.1.", "initialisation. 0.01."]


def test_what_mends_the_ends_goes_with_its_like_and_with_the_best_change_of_the_network():
    """Standardised inputs are of no use to weights that grew for raw ones, nor is a loss to units that are flat."""
    ranked = trial("norm", 2.3, 1.0), trial("clipping", 2.3, 1.1), trial("scale", 2.3, 1.6), trial("loss", 2.3, 1.7)
    found = titles(*ranked, trial("output", 2.3, 1.8))
    assert found == ["clipping. norm.", "scale. norm.", "loss. scale.", "loss. norm."]


def test_inputs_and_targets_are_tried_together():
    """Targets in units of their spread are of no use to an output that raw inputs have made large."""
    inputs, targets = trial("scale", 2.3, 1.0), trial("scale", 2.3, math.inf)
    targets = replace(targets, changes=(replace(targets.changes[0], title="targets.", where=("output",)),))
    assert titles(inputs, trial("norm", 2.3, 1.1), targets) == ["scale. norm.", "scale. targets."]


def test_what_takes_the_cause_away_has_a_place_among_the_finalists():
    ranked = [trial("clipping", 2.3, 0.1), trial("norm", 2.3, 0.2), trial("skip", 2.3, 0.3), trial("rate", 2.3, 0.4)]

    def order(root, places):
        return [one.title for one in _with_the_root(ranked, root, places)]

    assert order(Cause.LEARNING_RATE, 2) == ["clipping.", "rate.", "norm.", "skip."]
    for root, places in ((Cause.LEARNING_RATE, 1), (Cause.LEARNING_RATE, 4), (Cause.UNSAFE_OP, 2), (None, 2)):
        assert order(root, places) == ["clipping.", "norm.", "skip.", "rate."]
    broken = [*ranked[:3], trial("rate", 2.3, math.inf)]
    assert _with_the_root(broken, Cause.LEARNING_RATE, 2) == broken


def test_of_those_that_broke_the_better_start_stands_first():
    broken, begun, sound = (
        trial("formats", 1e11, math.inf),
        trial("initialisation", 1.9, math.inf),
        trial("norm", 900.0, 5.0),
    )
    ranked = sorted([broken, begun, sound], key=standing)
    assert [one.title for one in ranked] == ["norm.", "initialisation.", "formats."]
    assert titles(begun, broken) == ["formats. initialisation."]


class Breaks:
    """Trainings of which those of `titles` break."""

    def __init__(self, *titles):
        self.seeds, self.steps, self.notes, self.titles, self.whole = 2, 20, [], titles, []

    def run(self, one, *, seeds, steps):
        self.whole.append(one.title)
        bad = int(one.title in self.titles)
        return replace(one, outcomes=tuple(Outcome(s, ((0, 2.3), (20, 1.0)), nonfinite_steps=bad) for s in seeds))


def test_who_breaks_in_full_makes_room_for_the_next():
    ranked = [trial(kind, 2.3, 1.0) for kind in "abcdefg"]
    sound, broken, all_broken = Breaks(), Breaks("a.", "c."), Breaks(*(f"{kind}." for kind in "abcdefg"))
    for course, expected in ((sound, "ab"), (broken, "abcd"), (all_broken, "abcd")):
        assert len(_finals(ranked, course, Pace(20, finalists=2))) == 7
        assert course.whole == [f"{kind}." for kind in expected]


def original(start, *ends):
    return trend_of([Trial(ORIGINAL, Role.ORIGINAL, outcomes=trial("", start, *ends).outcomes)], 20)


def test_a_course_that_is_known_is_not_remarked_upon():
    assert original(2.3, 1.0, 1.1) == ()
    assert original(2.3, 1e9, 1e12) == ()  # it has diverged, and how far is chance
    assert "moved by less than its noise" in original(2.3, 2.2, 2.4)[0]
    assert "the seeds change nothing" in original(2.3, 1.0, 1.0)[0]
