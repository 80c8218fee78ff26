"""Which trials are proven? Better than the unchanged network and than every placebo, beyond chance, at no new ill."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.diagnosis.wording import extent_of
from gradtrace.errors import InputError
from gradtrace.records.repair import Difference, Role, Trial
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.repair.changes.table import mends
from gradtrace.repair.evidence import against, as_good, difference, fell, gained, has_learnt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gradtrace.records.finding import Finding
    from gradtrace.repair.trials import Course


NO_BETTER = "no better than the placebo"
NOT_BEYOND_CHANCE = "better than the unchanged network, but not beyond chance"


def judged(
    trials: Sequence[Trial], ills_of: Callable[[Trial], tuple[str, ...]], root: Cause | None = None
) -> tuple[Trial, ...]:
    """The trials with their verdicts; proven ones first, by what `_ranked` says; the others by loss.

    `ills_of` names what ails a trained copy and not the unchanged network; `root` is the cause that was found first.
    """
    original = next(trial for trial in trials if trial.role is Role.ORIGINAL)
    placebos = [trial for trial in trials if trial.role is Role.PLACEBO and trial.outcomes]
    told = [_judged(trial, original, placebos, ills_of) for trial in trials]
    told.sort(key=lambda trial: (bool(trial.refused), _loss(trial)))
    proven = [trial for trial in told if trial.proven]
    return (*_ranked(proven, original, root), *(trial for trial in told if not trial.proven))


def judged_one(trial: Trial, original: Trial, placebos: Sequence[Trial]) -> Trial:
    """One candidate by its losses alone."""
    return _judged(trial, original, placebos, lambda _: ())


def _ranked(proven: list[Trial], original: Trial, root: Cause | None) -> list[Trial]:
    """Again and again, of those that are as good as the best: what takes the root away, then the smallest change."""
    left, ranked = list(proven), list[Trial]()
    while left:
        best = left[0]
        level = [trial for trial in left if as_good(trial, best, original)]
        chosen = min(level, key=lambda trial: (not mends(trial.changes, root), *_size(trial)))
        ranked.append(chosen)
        left = [trial for trial in left if trial is not chosen]
    return ranked


def _size(trial: Trial) -> tuple[int, int, bool, int]:
    """Changes, those after which no state_dict loads, whether weights are lost, places."""
    return (
        len(trial.changes),
        sum(not change.state_dict_loads for change in trial.changes),
        any(change.loses_weights for change in trial.changes),
        sum(len(change.where) for change in trial.changes),
    )


def _loss(trial: Trial) -> float:
    return trial.end if trial.end is not None and not math.isnan(trial.end) else math.inf


def _judged(
    trial: Trial, original: Trial, placebos: Sequence[Trial], ills_of: Callable[[Trial], tuple[str, ...]]
) -> Trial:
    if trial.role is Role.ORIGINAL or not trial.outcomes:
        return replace(trial, verdict=f"could not be tried: {trial.refused}" if trial.refused else "")
    others = [placebo for placebo in placebos if placebo is not trial]
    trial = replace(trial, against_original=against(trial, original))
    trial = replace(trial, against_placebo=_worst([against(trial, placebo) for placebo in others]))
    reason = _why_not(trial, original, is_controlled=bool(others))
    if trial.role is Role.PLACEBO:
        return replace(trial, verdict=_of_a_placebo(reason, is_controlled=bool(others)))
    if reason:
        return replace(trial, verdict=reason)
    ills = () if has_learnt(trial, original) else ills_of(trial)
    if ills:
        return replace(trial, ills=ills, verdict=f"bought by another ill: {ills[0]}")
    return replace(trial, proven=True, verdict="proven: better than the unchanged network and the placebo")


def _worst(found: Sequence[Difference | None]) -> Difference | None:
    known = [one for one in found if one is not None]
    return max(known, key=lambda one: one.high, default=None)


def _of_a_placebo(reason: str, *, is_controlled: bool) -> str:
    """Held to the rules of a candidate, the other draw of the same law in the place of the placebo."""
    if reason == NO_BETTER or (not reason and not is_controlled):
        return "the network as it came is an unlucky draw: another one is better, and changes are held against it"
    return "helps no more than chance" if reason else "would have passed for a remedy"


def _why_not(trial: Trial, original: Trial, *, is_controlled: bool) -> str:
    """'' where nothing speaks against it."""
    if not trial.whole:
        return "left behind after the short round" if len(trial.outcomes) == 1 else "time was up"
    if any(outcome.nonfinite_steps for outcome in trial.outcomes):
        return "its steps met numbers that are not finite"
    found = trial.against_original
    if found is None or not gained(trial, original):
        return "no better than the unchanged network"
    if not found.better:
        return NOT_BEYOND_CHANCE
    if not fell(trial, original):
        return "its loss does not fall"
    placebo = trial.against_placebo
    if is_controlled and (placebo is None or not placebo.better):
        return NO_BETTER
    if _held_out_worse(trial, original):
        return "the held-out loss is worse"
    return ""


def _held_out_worse(trial: Trial, original: Trial) -> bool:
    own = [o.held_out for o in trial.outcomes if o.held_out is not None]
    other = [o.held_out for o in original.outcomes if o.held_out is not None]
    if len(own) != len(other) or not own:
        return False
    told = difference(other, own, max(other))
    return told is not None and told.better


def ills_of(trial: Trial, course: Course) -> tuple[str, ...]:
    """What the trained copy has to pay for its loss, as of `prices`."""
    from gradtrace.checkup.check import check

    twin = course.twins.get(trial.title)
    if twin is None:
        return ()
    batches = course.situation.batches[:1]
    try:
        found = check(twin.model, twin.training_loss_fn, batches).findings
        trained = course.findings_once_trained()
    except InputError:
        return ()
    return prices(found, course.situation.diagnosis.findings, trained)


def prices(found: Iterable[Finding], healed: Sequence[Finding], trained: Iterable[Finding]) -> tuple[str, ...]:
    """Critical findings after a change that the unchanged network does not have, before (`healed`) or after training.

    Of two ills that are both decades between the ends of a path, the smaller one is no price for the larger. Behind a
    gradient that is not finite from the start nothing could be seen: what comes to light may have been there.
    """
    if any(f.symptom is Symptom.NONFINITE and f.step is None and f.severity is Severity.CRITICAL for f in healed):
        return ()
    known = {finding.symptom for finding in (*healed, *trained)}
    most = max((abs(extent_of(finding)) for finding in healed), default=0.0)
    return tuple(
        f"{f.symptom.value}, because of {f.cause.value}"
        for f in found
        if f.severity is Severity.CRITICAL and f.symptom not in known and not 0.0 < abs(extent_of(f)) < most
    )
