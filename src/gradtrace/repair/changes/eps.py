"""The optimizer's eps, where the whole gradient lies below it: small enough for the largest gradient to count.

Adam's step is rate * m / (sqrt(v) + eps): of gradients a decade above eps it is 9 % short (Kingma & Ba 2015, alg. 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.diagnosis.thresholds import EPS_MARGIN
from gradtrace.diagnosis.wording import OVER_EPS
from gradtrace.records.change import Change
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.changes.rate import evidence_of, one_digit
from gradtrace.repair.twin import RefusalError, Twin

if TYPE_CHECKING:
    from gradtrace.repair.situation import Situation


def propose(situation: Situation) -> list[Change]:
    """A tenth of the largest gradient."""
    decades = evidence_of(situation, OVER_EPS)
    known = [g["eps"] for o in situation.optimizers for g in o.param_groups if isinstance(g.get("eps"), float)]
    if decades is None or not known or not max(known) > 0.0:
        return []
    value = one_digit(max(known) * 10.0**decades / EPS_MARGIN)
    return [
        Change(
            kind="eps",
            title=f"Lower the optimizer's eps from {max(known):g} to {value:g}.",
            where=("optimizer",),
            reason="steps of gradients below eps are shorter than the rate by as much as they lie below it",
            numbers=(("value", value),),
            code=f"for group in optimizer.param_groups:\n    group['eps'] = {value:g}",
            source="Kingma & Ba 2015",
        )
    ]


def apply(change: Change, twin: Twin) -> None:
    """In every group that has one."""
    groups = [group for one in twin.optimizers for group in one.param_groups if isinstance(group.get("eps"), float)]
    if not groups:
        raise RefusalError("no optimizer has an eps")
    for group in groups:
        group["eps"] = change.number("value")


KIND = Kind(propose, apply)
