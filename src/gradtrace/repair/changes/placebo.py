"""A change that should not help: the same numbers shuffled within each weight, a fresh draw of the same initialisation.

Whatever a candidate gains by a new draw alone, this gains too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.records.repair import Change, Draw
from gradtrace.repair.changes.initialisation import draw_all
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.twin import Twin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.repair.situation import Situation


def propose(situation: Situation) -> list[Change]:
    """One: every weight matrix."""
    names = [n for n, p in situation.model.named_parameters() if p.dim() > 1 and p.requires_grad]
    return [
        Change(
            kind="placebo",
            title="Placebo: shuffle the numbers within each weight, a fresh draw of the same initialisation.",
            where=tuple(names),
            reason="what a new draw alone brings",
            draws=tuple(Draw(name, "permuted", 0.0) for name in names),
            loses_weights=True,
        )
    ]


def elsewhere(changes: Sequence[Change]) -> list[Change]:
    """The same kind at the places that are not to blame: weights of a whole draw that the smaller one leaves."""
    drawn = [change for change in changes if change.kind == "initialisation"]
    pairs = [(small, whole) for small in drawn for whole in drawn if set(small.draws) < set(whole.draws)]
    return [
        replace(
            whole,
            title="Placebo: draw the weights anew that are not to blame.",
            where=tuple(name for name in whole.where if name not in small.where),
            draws=tuple(draw for draw in whole.draws if draw not in small.draws),
        )
        for small, whole in pairs[:1]
    ]


def apply(change: Change, twin: Twin) -> None:
    """Permute."""
    draw_all(change.draws, twin)


KIND = Kind(propose, apply)
