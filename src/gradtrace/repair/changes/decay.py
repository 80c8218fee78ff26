"""Weight decay, where steps follow it and not the loss: small enough for the loss to be heard at every weight.

Decay adds lambda w to the gradient g. Where lambda |w| = k |g| at the weight that it pulls at hardest, lambda / (10 k)
is a tenth of what the loss says there, and less at every other one (Krogh & Hertz 1992).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.wording import PULL
from gradtrace.records.change import Change
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.changes.rate import evidence_of, one_digit
from gradtrace.repair.twin import RefusalError, Twin

if TYPE_CHECKING:
    from gradtrace.repair.situation import Situation

PART = 0.1
"""Of what the loss says."""


def propose(situation: Situation) -> list[Change]:
    """By what was measured."""
    pull = evidence_of(situation, PULL)
    decays = [g["weight_decay"] for o in situation.optimizers for g in o.param_groups if g.get("weight_decay")]
    if pull is None or not decays or not 0.0 < pull < math.inf:
        return []
    value = one_digit(max(decays) * PART / pull)
    return [
        Change(
            kind="decay",
            title=f"Lower the weight decay from {max(decays):g} to {value:g}.",
            where=("optimizer",),
            reason="steps follow it, whatever the loss says, until no weights are left",
            numbers=(("value", value),),
            code="for group in optimizer.param_groups:\n"
            f"    group['weight_decay'] = min(group['weight_decay'], {value:g})",
            source="Krogh & Hertz 1992",
        )
    ]


def apply(change: Change, twin: Twin) -> None:
    """In every group that has more."""
    groups = [group for one in twin.optimizers for group in one.param_groups if group.get("weight_decay")]
    if not groups:
        raise RefusalError("no optimizer has a weight decay")
    for group in groups:
        group["weight_decay"] = min(group["weight_decay"], change.number("value"))


KIND = Kind(propose, apply)
