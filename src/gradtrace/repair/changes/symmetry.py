"""Units that are copies of one another, drawn apart (`checkup/copies.py` says which are)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.checkup.copies import copies_and_axes
from gradtrace.records.change import Change, Draw
from gradtrace.repair.changes.draws import code_of, critical_draws, draw_all
from gradtrace.repair.changes.kind import Kind

if TYPE_CHECKING:
    from gradtrace.repair.situation import Situation
    from gradtrace.repair.twin import Twin


def propose(situation: Situation) -> list[Change]:
    """These layers alone, then all: a draw has no two units alike. At the critical gain, of what that knows to draw."""
    names = copies_and_axes(situation.model, situation.loss_fn, situation.batches[0])
    if not names:
        return []
    draws = critical_draws(situation.twin(), situation, "gaussian") if situation.example is not None else ()
    known = {draw.name for draw in draws}
    draws += tuple(Draw(name, "gaussian", 1.0, axis == 1) for name, (_, axis) in names.items() if name not in known)
    alone = tuple(draw for draw in draws if draw.name in names)
    wholes = [alone, draws] if len(alone) < len(draws) else [draws]
    return [
        Change(
            kind="symmetry",
            title=f"Draw {_told(chosen, draws)} anew: units are copies of one another.",
            where=tuple(draw.name for draw in chosen),
            reason="equal weights get equal gradients, and stay equal",
            draws=chosen,
            code=code_of(chosen),
            source="Goodfellow et al. 2016",
            loses_weights=True,
        )
        for chosen in wholes
        if chosen
    ]


def _told(chosen: tuple[Draw, ...], every: tuple[Draw, ...]) -> str:
    return "all weights" if chosen == every else f"{', '.join(draw.name for draw in chosen[:2])} alone"


def apply(change: Change, twin: Twin) -> None:
    """Draw what the change names."""
    draw_all(change.draws, twin)


KIND = Kind(propose, apply)
