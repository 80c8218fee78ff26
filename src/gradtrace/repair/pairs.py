"""Which candidates are tried together, and in which order do they stand after the short round?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradtrace.records.change import Change
from gradtrace.records.repair import Role, Trial
from gradtrace.repair.changes.table import KINDS, OF_STEPS, OF_THE_ENDS


def standing(trial: Trial) -> tuple[float, float]:
    """The loss at the end; of those that broke, the loss before the first step."""
    return end_of(trial), _start(trial)


def pairs_of(ranked: Sequence[Trial]) -> list[Trial]:
    """The best candidate with the best of another kind, and with the best of a third; the best start with other steps.

    What mends the data, the output or the loss is seen where weights and layers suit what comes then: the best two of
    these kinds go together, and each with the best change of the network. The faults of one network may be several.
    Where a change begins well and its steps do not keep it, what it lacks is said by its two ends: the lowest loss
    before the first step goes with what changes the steps alone.
    """
    if not ranked or not ranked[0].changes:
        return []
    best, found, kinds = ranked[0], list[Trial](), {ranked[0].changes[0].kind}
    for other in ranked[1:]:
        kind = other.changes[0].kind
        if kind in kinds or _overlap(best.changes[0], other.changes[0]):
            continue
        kinds.add(kind)
        found.append(_pair(best, other))
        if len(found) == 2:
            break
    begun = [trial for trial in ranked if trial.changes[0].kind not in OF_STEPS and _has_lost_its_start(trial)]
    if begun:
        found += [_pair(min(begun, key=_start), one) for one in _of_steps(ranked)]
    found += _of_several_faults(ranked)
    return list({trial.title: trial for trial in found}.values())


def _of_steps(ranked: Sequence[Trial]) -> list[Trial]:
    """For a start that is mended: the best of two kinds; of lower rates those that lower it least.

    Which rate is best was found with the start as it came, and what that survives is for no other.
    """
    lower = [t for t in ranked if t.changes[0].kind == "rate" and t.changes[0].number("factor") < 1.0]
    lower.sort(key=lambda trial: -trial.changes[0].number("factor"))
    others = [t for t in ranked if t.changes[0].kind in OF_STEPS and t not in lower]
    best = {t.changes[0].kind: t for t in reversed(others)}.values()
    return [*sorted(best, key=standing)[: 1 if lower else 2], *lower[:2]]


def _of_several_faults(ranked: Sequence[Trial]) -> list[Trial]:
    first = {trial.changes[0].kind: trial for trial in reversed(ranked)}
    roots = sorted((first[kind] for kind in OF_THE_ENDS if kind in first), key=standing)[:2]
    inner = [trial for kind, trial in first.items() if kind not in (*OF_THE_ENDS, *OF_STEPS)]
    partners = [*roots[1:], *_elsewhere(roots[:1], ranked), *sorted(inner, key=standing)[:1]]
    pairs = [(root, partner) for root in roots for partner in partners if root is not partner]
    return [_pair(one, other) for one, other in pairs if not _overlap(one.changes[0], other.changes[0])]


def _elsewhere(roots: Sequence[Trial], ranked: Sequence[Trial]) -> list[Trial]:
    """The best of the same kind at another place: inputs and targets are both in the data's units."""
    changes = [(trial, trial.changes[0]) for trial in ranked]
    found = [[t for t, c in changes if c.kind == r.changes[0].kind and c.where != r.changes[0].where] for r in roots]
    return [each[0] for each in found if each]


def _has_lost_its_start(trial: Trial) -> bool:
    return _start(trial) < end_of(trial)


def _start(trial: Trial) -> float:
    return trial.start if trial.start is not None and not math.isnan(trial.start) else math.inf


def _pair(one: Trial, other: Trial) -> Trial:
    ordered = sorted((one.changes[0], other.changes[0]), key=_order)
    return Trial(" ".join(change.title for change in ordered), Role.CANDIDATE, tuple(ordered))


def _overlap(one: Change, other: Change) -> bool:
    """Both draw the same weights, or edit the same call: the second would undo the first."""
    calls = [{(edit.function, edit.source) for edit in change.edits if edit.source} for change in (one, other)]
    return bool({d.name for d in one.draws} & {d.name for d in other.draws} or calls[0] & calls[1])


def _order(change: Change) -> int:
    # what wraps layers comes last: draws name the layers as they were
    return list(KINDS).index(change.kind) + (100 if change.kind in ("norm", "skip") else 0)


def end_of(trial: Trial) -> float:
    """The median loss after the last step; inf where there is none."""
    end = trial.end
    return end if end is not None and not math.isnan(end) else math.inf
