"""`fix` for a script: a first run tells what is wrong, every trial is another run of it with a change in."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradtrace.errors import InputError
from gradtrace.records.change import OBJECTIVE
from gradtrace.records.repair import Repair, Role, Trial
from gradtrace.records.shown import counted
from gradtrace.repair.changes import objective
from gradtrace.repair.confirmation import confirmed
from gradtrace.repair.longer import constant_of, run_until_told
from gradtrace.repair.pace import FEWEST_STEPS, Pace, choose_pace
from gradtrace.repair.training import NUM_POINTS, OutOfTime
from gradtrace.repair.trend import trend_of
from gradtrace.repair.trials import ORIGINAL, cost_seen, run_all, tell_how_long
from gradtrace.repair.verdicts import judged
from gradtrace.runner.fixing.course import ScriptCourse, is_finite
from gradtrace.runner.fixing.exchange import Answer, Order
from gradtrace.runner.fixing.folder import Folder, look_through, warnings
from gradtrace.runner.fixing.patching import with_script_diffs
from gradtrace.runner.fixing.process import Processes
from gradtrace.runner.script import Script, check_exists

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gradtrace.runner.fixing.exchange import Probed

PROBE_STEPS = 64
"""Steps of the first run: as many as the watch measures one and all."""
PROBE_FRAC = 0.1
"""[of the time budget] They may take, or else they are fewer."""
MOST_PROBE_STEPS, MOST_PROBE_FRAC = 1024, 0.3
"""[steps, of the time budget] Of a second run, where the first looks well: much shows only in a loss that stays up."""
NOT_TRIED = (
    "not looked at in a script: whether a held-out loss gets worse; a factory, gradtrace fix net.py:build, can be asked"
)
FIRST_STEP_S = 600.0
"""[seconds] In which a script must have begun to train."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A script that is there, and the folder that it is run in."""

    script: Script
    """As it is named in a copy of the folder."""
    given: Script
    folder: Folder
    warnings: tuple[str, ...]
    """To be said before it is started."""


def prepare(script: Script) -> Prepared:
    """Look, and start nothing; raises `InputError`."""
    check_exists(script)
    folder = look_through(Path.cwd().resolve())
    return Prepared(folder.within(script), script, folder, tuple(warnings(script, folder)))


def fix_script(
    prepared: Prepared, *, steps: int | None, seeds: int, time_budget_s: float, progress: Callable[[str], None]
) -> Repair:
    """Diagnosis, shares and trials of a training script; `gradtrace.fix` says what the arguments are.

    Raises:
        InputError: the script fails, never steps, or makes fewer steps than a comparison needs.
    """
    deadline = time.perf_counter() + time_budget_s
    with Processes(prepared.folder) as processes:
        return _repaired(prepared, processes, steps, seeds, time_budget_s, deadline, progress)


def _repaired(
    prepared: Prepared, processes: Processes, steps: int | None, seeds: int, time_budget_s: float, deadline: float,
    progress: Callable[[str], None],
) -> Repair:  # fmt: skip
    progress(f"{prepared.given.name} up to its first {PROBE_STEPS} steps")
    probed, answer = _probed(prepared, processes, PROBE_STEPS, PROBE_FRAC * time_budget_s, time_budget_s)
    if probed.diagnosis.healthy and not answer.has_ended:
        progress(f"which look well; up to its first {MOST_PROBE_STEPS}")
        longer_s = MOST_PROBE_FRAC * time_budget_s
        probed, answer = _probed(prepared, processes, MOST_PROBE_STEPS, longer_s, time_budget_s)
    title = " ".join(prepared.given.command)
    repair = Repair(probed.diagnosis, probed.shares, (), seeds=seeds, optimizer=probed.optimizer, title=title)
    if probed.diagnosis.healthy:
        looked = f"well in its first {counted(len(answer.losses), 'step')}: there is nothing to prove"
        return replace(repair, notes=(f"the training looks {looked}", *probed.notes))
    if not probed.candidates:
        told = "no change that could be tried fits these findings"
        return replace(repair, notes=(*probed.notes, told))
    try:
        course, pace = _course(prepared, processes, probed, answer, seeds, steps, deadline, progress)
    except OutOfTime:
        return replace(repair, notes=(*probed.notes, "the time did not suffice to run the script a second time"))
    before_s = time_budget_s - (deadline - time.perf_counter())
    numbers = len(probed.candidates), len(probed.placebos), course.seeds

    def run(pace: Pace) -> Sequence[Trial]:
        return judged(_trained(course, probed, pace), course.ills_of, course.root)

    def costs_s(pace: Pace, seen: Sequence[Trial]) -> float:
        return pace.cost_s(numbers, cost_seen(seen, course.step_s), course.start_s)

    try:
        constant = constant_of(probed.diagnosis.traces) if not course.measured_by else math.inf
        ranked, pace = run_until_told(run, course, pace, costs_s, steps or _most(answer), constant)
        so_far_s = time_budget_s - (deadline - time.perf_counter())
        tell_how_long(course.notes, max(before_s + costs_s(pace, ranked), so_far_s))
    except OutOfTime:
        needed = time_budget_s + Pace(FEWEST_STEPS).cost_s(numbers, course.step_s, course.start_s)
        told = f"the time did not suffice for the unchanged script and the placebo; about {needed:.0f} s would"
        return replace(repair, steps=course.steps, notes=(*course.notes, told))
    ranked = confirmed(ranked, course, pace)
    notes = (*course.notes, *_notes(prepared, course, answer), *trend_of(ranked, course.steps))
    repair = replace(repair, trials=ranked, steps=course.steps, seeds=course.seeds, notes=notes)
    return with_script_diffs(repair, prepared.given.name, course, probed, processes)


def _most(probed: Answer) -> float:
    """Steps that the script makes, where the first run has seen its end, and losses that are finite up to it."""
    has_told = probed.has_ended and not probed.failure and is_finite(probed)
    return len(probed.losses) if has_told else math.inf


def _probed(
    prepared: Prepared, processes: Processes, steps: int, seconds: float, time_budget_s: float
) -> tuple[Probed, Answer]:
    order = Order(prepared.script, steps, is_probe=True, seconds=seconds)
    name = prepared.given.name
    try:
        answer = processes.ask(order, FIRST_STEP_S + time_budget_s)
    except OutOfTime as error:
        raise InputError(f"{name} had made no {steps} steps after {FIRST_STEP_S + time_budget_s:.0f} s") from error
    if answer.refused:
        raise InputError(answer.refused)
    if answer.probed is None:
        raise InputError(f"nothing was tried: {answer.failure}")
    if answer.failure and answer.probed.diagnosis.healthy:
        raise InputError(f"{name} failed after {counted(len(answer.losses), 'step')}: {answer.failure}")
    if answer.has_ended and not answer.failure and len(answer.losses) < FEWEST_STEPS:
        raise InputError(
            f"{name} ended after {counted(len(answer.losses), 'step')}, and fewer than {FEWEST_STEPS} do not tell "
            "anything about a change"
        )
    return answer.probed, answer


def _course(
    prepared: Prepared, processes: Processes, probed: Probed, answer: Answer, seeds: int, steps: int | None,
    deadline: float, progress: Callable[[str], None],
) -> tuple[ScriptCourse, Pace]:  # fmt: skip
    """With as many steps as the time has room for, once it is known what a run takes."""
    if answer.may_divide:
        progress("starting what the trials share")
        processes.divide()
    course = ScriptCourse(
        prepared.script,
        processes.ask,
        seeds,
        steps or FEWEST_STEPS,
        probed.first_layer,
        answer.start_s,
        answer.step_s,
        deadline,
        progress,
        probed.shares.deficit if probed.shares is not None else None,
        probed.diagnosis.findings,
        list(probed.notes),
    )
    course.measured_by = tuple(change for change in probed.candidates if change.kind == OBJECTIVE)
    course.notes += [objective.NOTE] * bool(course.measured_by)
    course.run(Trial(ORIGINAL, Role.ORIGINAL), seeds=[0], steps=course.steps)
    numbers = len(probed.candidates), len(probed.placebos), seeds
    left = deadline - time.perf_counter()
    pace = choose_pace(numbers, course.step_s, left, steps=steps, start_s=course.start_s)
    if _most(answer) < math.inf:
        pace = replace(pace, steps=_within(steps, pace.steps, len(answer.losses), prepared.given.name))
    course.steps = pace.steps
    course.notes += pace.left_out
    progress(f"{len(probed.candidates)} candidates, {pace.steps} steps, {seeds} seeds")
    return course, pace


def _within(asked: int | None, number: int, most: int, name: str) -> int:
    if asked is not None and asked > most:
        raise InputError(f"{name} ends after {counted(most, 'step')}: --steps can be {most} at most, but it is {asked}")
    return min(number, most)


def _trained(course: ScriptCourse, probed: Probed, pace: Pace) -> list[Trial]:
    """Every trial; raises `OutOfTime` where the unchanged script and the placebos took it all."""
    original = course.run(Trial(ORIGINAL, Role.ORIGINAL), seeds=pace.seeds(course.seeds), steps=course.steps)
    if original.refused:
        raise InputError(f"{course.script.name} failed when it was run again: {original.refused}")
    most = min(len(course.answers[ORIGINAL, outcome.seed].losses) for outcome in original.outcomes)
    if (
        most < course.steps
        and course.answers[ORIGINAL, original.outcomes[0].seed].has_ended
        and original.end != float("inf")
    ):
        course.steps = max(1, most)
        course.notes.append(f"the script ends after {counted(most, 'step')}: every trial is that long")
    if len(original.outcomes) == course.seeds and len({outcome.curve for outcome in original.outcomes}) == 1:
        course.seeds = 1
        course.notes.append(
            "the script's training is the same whatever the seed: there is one, and from one nothing is known about "
            "chance, so that nothing can be proven"
        )
    candidates = [Trial(change.title, Role.CANDIDATE, (change,)) for change in probed.candidates]
    placebos = [Trial(change.title, Role.PLACEBO, (change,)) for change in probed.placebos]
    return run_all(Trial(ORIGINAL, Role.ORIGINAL), candidates, placebos, course, pace)


def _notes(prepared: Prepared, course: ScriptCourse, answer: Answer) -> list[str]:
    window = max(1, course.steps // NUM_POINTS)
    how = (
        f"each training is the script from its start, in a process and a copy of {prepared.folder.path.name} of its "
        f"own; the loss is its own, averaged over {window} steps"
    )
    told = [how, NOT_TRIED]
    if answer.own_seeds and course.seeds > 1:
        last = course.seeds - 1
        seeds = " and ".join(map(str, answer.own_seeds[:2]))
        added = "1" if last == 1 else f"1 to {last}"
        told.append(f"the script sets its seeds itself ({seeds}): to begin its other trainings, {added} was added")
    if answer.writes:
        told.append(f"it writes outside of its folder, and so did every trial: {', '.join(answer.writes)}")
    return told
