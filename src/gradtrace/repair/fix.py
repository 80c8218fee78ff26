"""`fix`: diagnose, change copies, train them beside the unchanged network and a placebo, recommend what is proven."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from gradtrace.checkup.batches import summed_over, take
from gradtrace.checkup.check import check
from gradtrace.errors import InputError
from gradtrace.measure.trace import check_model
from gradtrace.measure.untouched import fixed_random_state, untouched
from gradtrace.records.repair import Repair, Role, Shares, Trial
from gradtrace.repair.before import first_layer_of, levels_of, measured
from gradtrace.repair.changes import objective, placebo
from gradtrace.repair.changes.table import OF_STEPS, OF_THE_NETWORK, propose_all
from gradtrace.repair.confirmation import confirmed
from gradtrace.repair.correction import with_shares
from gradtrace.repair.given import check_numbers, chosen_optimizers
from gradtrace.repair.learning_rate import RangeTest, at_rate, range_test
from gradtrace.repair.longer import constant_of, run_until_told
from gradtrace.repair.pace import ENOUGH_STEPS, USUAL_CANDIDATES, Pace, choose_pace
from gradtrace.repair.shares import shares_of
from gradtrace.repair.situation import Situation
from gradtrace.repair.training import OutOfTime
from gradtrace.repair.trend import trend_of
from gradtrace.repair.trials import ORIGINAL, Course, cost_of_a_step, cost_seen, run_all, tell_how_long
from gradtrace.repair.verdicts import ills_of, judged

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from gradtrace.records.change import Change
    from gradtrace.records.finding import Diagnosis

MOST_BATCHES = 64
"""Batches that are drawn and gone through in turn."""
USUAL_S, MOST_S = 60.0, 300.0
"""[seconds] What it may take unless told otherwise: the second where steps are too costly for the first."""
LOOK_STEPS = 20
"""Steps after which a network that looks well is judged once more."""


def fix(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    batches: Iterable[Any],
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    *,
    held_out: Iterable[Any] | None = None,
    steps: int | None = None,
    seeds: int = 3,
    time_budget_s: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> Repair:
    """Try what could remedy the findings, on copies, and recommend only what trained better. Nothing is changed.

    Args:
        model: any ``torch.nn.Module`` that can be deep-copied.
        loss_fn: takes (model, batch), returns a scalar tensor.
        batches: an iterable of batches; the first 64 are trained on, again and again.
        optimizer: one or several; without any, SGD with momentum 0.9, each network at the learning rate at which it
            does best in a short range test on copies: the unchanged one too.
        held_out: batches on which a change must not be worse.
        steps: optimizer steps of each training; by default as many as the time allows, 200 at most, and up to 800
            where nothing is proven after these and there is time.
        seeds: trainings of each trial; paired over trials. Two at least.
        time_budget_s: seconds for all of it, about; by default 60, and up to 300 where steps are costly.
        progress: called with a word before each part of the work.

    Returns:
        Diagnosis, shares of the causes, and trials: `Repair.best` is the first proven one, or None.

    Raises:
        InputError: as `gradtrace.check`; also for a model that cannot be copied, or a loss that does not hang on it.

    >>> import torch, gradtrace
    >>> _ = torch.manual_seed(0)
    >>> layers = [layer for _ in range(6) for layer in (torch.nn.Linear(16, 16), torch.nn.Sigmoid())]
    >>> model = torch.nn.Sequential(*layers, torch.nn.Linear(16, 2))
    >>> batches = [(x, (x[:, 0] > 0).long()) for x in torch.randn(2, 64, 16)]
    >>> def loss_fn(model, batch):
    ...     return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> repair = gradtrace.fix(model, loss_fn, batches, optimizer, steps=20, time_budget_s=3600)
    >>> repair.best.end < 0.7 * repair.original.end
    True
    >>> new_model, new_loss_fn, new_optimizer = repair.best.apply(model, loss_fn, optimizer)
    """
    began = time.perf_counter()
    check_numbers(steps, seeds, time_budget_s)
    say = progress or (lambda _: None)
    model = check_model(model, [])
    with fixed_random_state():
        taken = take(batches, MOST_BATCHES)
        kept_out = take(held_out, MOST_BATCHES) if held_out is not None else []
    optimizers, named = chosen_optimizers(optimizer, model)
    with fixed_random_state(), untouched(model):
        diagnosis = _diagnose(model, loss_fn, taken, optimizers, optimizer is None, say)
        repair = Repair(diagnosis, None, (), seeds=seeds, optimizer=named, title=diagnosis.title)
        situation = Situation(model, loss_fn, taken, optimizers, diagnosis)
        if diagnosis.healthy:
            return replace(repair, notes=("the network is well: there is nothing to prove",))
        situation = replace(situation, summed_over=summed_over(model, loss_fn, taken[0]))
        situation = replace(situation, is_rate_ours=optimizer is None)
        return _proven(situation, repair, kept_out, steps, (began, time_budget_s), say)


def _diagnose(
    model: nn.Module,
    loss_fn: Any,
    batches: Sequence[Any],
    optimizers: Sequence[Optimizer],
    is_default: bool,
    say: Callable[[str], None],
) -> Diagnosis:
    """As `check`; what looks well is looked at once more after a few steps. Of our own optimizer no step is judged."""
    given = None if is_default else list(optimizers)
    diagnosis = check(model, loss_fn, batches, optimizer=given, progress=say)
    if diagnosis.healthy and given is not None:
        diagnosis = check(model, loss_fn, batches, optimizer=given, steps=LOOK_STEPS, progress=say)
    return diagnosis


def _proven(
    situation: Situation, repair: Repair, held_out: Sequence[Any], steps: int | None,
    timing: tuple[float, float | None], say: Callable[[str], None],
) -> Repair:  # fmt: skip
    say("shares of the causes")
    shares = _shares(situation)
    repair = replace(repair, shares=shares, diagnosis=with_shares(situation.diagnosis, shares))
    say("changes that fit")
    cost = cost_of_a_step(situation)
    guess = choose_pace((USUAL_CANDIDATES, 1, repair.seeds), cost, _left(timing, math.inf), steps=steps)
    situation = replace(situation, steps=guess.steps)
    changes, notes = propose_all(situation, OF_THE_NETWORK)
    situation = replace(situation, measured_by=objective.measured_by(changes))
    candidates = _trials(changes, Role.CANDIDATE, situation, shares)
    rates: RangeTest | None = None
    if situation.is_rate_ours:
        needed = Pace(steps or ENOUGH_STEPS).cost_s((USUAL_CANDIDATES, 1, repair.seeds), cost)
        rates = range_test(situation, cost, _left(timing, needed), say)
        rates.test([trial for trial in candidates if not trial.refused])
        situation = at_rate(situation, rates.unchanged.rate)
        repair = replace(repair, optimizer=rates.optimizer)
        notes += rates.notes()
    of_steps, more = propose_all(situation, OF_STEPS)
    candidates, notes = [*candidates, *_that_move_nothing(of_steps, situation, shares)], [*notes, *more]
    if situation.measured_by:
        notes.append(objective.NOTE)
    if not candidates:
        return replace(repair, notes=(*notes, "no change that could be tried fits these findings"))
    usable = [trial for trial in candidates if not trial.refused]
    placebos = _trials(placebo.KIND.propose(situation), Role.PLACEBO, situation, shares)
    numbers = len(usable), len(placebos), repair.seeds
    left = _left(timing, Pace(steps or ENOUGH_STEPS).cost_s(numbers, cost))
    pace = choose_pace(numbers, cost, left - (rates.to_come * cost if rates is not None else 0.0), steps=steps)
    say(f"{len(usable)} candidates, {pace.steps} steps of about {cost:.2g} s, {repair.seeds} seeds")
    notes += pace.left_out
    before_s, deadline = _spent(timing), time.perf_counter() + left
    course = Course(situation, repair.seeds, pace.steps, held_out, first_layer_of(situation), deadline, say, notes)
    course.rates = rates
    levels = levels_of(situation.trace, situation.paths) if shares is not None else ()
    original = Trial(ORIGINAL, Role.ORIGINAL, levels=levels)
    refused = [trial for trial in candidates if trial.refused]

    def run(pace: Pace) -> Sequence[Trial]:
        trials, course.trained_findings = run_all(original, usable, placebos, course, pace), None
        return judged([*trials, *refused], lambda trial: ills_of(trial, course), course.root)

    def costs_s(pace: Pace, seen: Sequence[Trial]) -> float:
        return pace.cost_s(numbers, cost_seen(seen, cost))

    constant = constant_of(repair.diagnosis.traces) if not situation.measured_by else math.inf
    try:
        ranked, pace = run_until_told(run, course, pace, costs_s, steps or math.inf, constant)
    except OutOfTime:
        needed = _spent(timing) + pace.cost_s(numbers, cost)
        told = f"the time did not suffice for the unchanged network and the placebo; about {needed:.0f} s would"
        return replace(repair, trials=tuple(candidates), steps=pace.steps, notes=(*notes, told))
    tell_how_long(course.notes, max(before_s + costs_s(pace, ranked), _spent(timing)))
    ranked = confirmed(ranked, course, pace)
    return replace(repair, trials=ranked, steps=pace.steps, notes=(*course.notes, *trend_of(ranked, pace.steps)))


def _trials(changes: Sequence[Change], role: Role, situation: Situation, shares: Shares | None) -> list[Trial]:
    return [measured(Trial(change.title, role, (change,)), situation, shares) for change in changes]


def _that_move_nothing(changes: Sequence[Change], situation: Situation, shares: Shares | None) -> list[Trial]:
    """What leaves the network as it is: its first gradient is the unchanged one's, and not traced again."""
    trials = _trials(changes, Role.CANDIDATE, situation, None)
    if shares is None:
        return trials
    levels = levels_of(situation.trace, situation.paths)
    return [t if t.refused else replace(t, levels=levels, moved_decades=0.0) for t in trials]


def _left(timing: tuple[float, float | None], needed_s: float) -> float:
    """Seconds, of (when it began, what it may take); by default as many as are needed, within bounds."""
    spent, budget_s = _spent(timing), timing[1]
    return (min(max(USUAL_S, spent + needed_s), MOST_S) if budget_s is None else budget_s) - spent


def _spent(timing: tuple[float, float | None]) -> float:
    return time.perf_counter() - timing[0]


def _shares(situation: Situation) -> Shares | None:
    try:
        return shares_of(situation)
    except InputError:
        return None
