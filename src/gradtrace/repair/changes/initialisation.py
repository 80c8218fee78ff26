"""Weights drawn anew: the critical gain of each layer's own activation, gaussian or orthogonal, all or the guilty.

    Var(w) = sigma_w^2 / fan_in,    1 / sigma_w^2 = E[a'^2]

He et al. (2015); Glorot & Bengio (2010); Saxe et al. (2014); Schoenholz et al. (2017); Mishkin & Matas (2016) for LSUV.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.errors import InputError
from gradtrace.records.change import Change, Draw
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes.draws import NEAR, code_of, critical_draws, draw_all, guilty_draws
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.changes.recurrent_draws import CHRONO, GATES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.repair.situation import Situation
    from gradtrace.repair.twin import Twin

_ANEW = (
    Cause.SMALL_WEIGHTS,
    Cause.LARGE_WEIGHTS,
    Cause.DEPTH_WITHOUT_SKIP,
    Cause.SATURATED_PREACTIVATION,
    Cause.ACTIVATION_DERIVATIVE,
    Cause.RESIDUAL_GROWTH,
    Cause.ATTENTION_SATURATION,
    Cause.RECURRENT_CONTRACTION,
    Cause.RECURRENT_EXPANSION,
    Cause.UNSAFE_OP,
    Cause.LOSS_FUNCTION,
    Cause.NUMERIC_FORMAT,
)


def propose(situation: Situation) -> list[Change]:
    """The guilty weights alone where they are few, then all: gaussian, then orthogonal."""
    if not set(situation.causes) & set(_ANEW):
        return []
    found: list[Change] = []
    for method in ("gaussian", "orthogonal", "lsuv"):
        try:
            draws = critical_draws(situation.twin(), situation, method)
        except InputError:
            continue
        guilty = guilty_draws(draws, situation.where(*_ANEW))
        if method == "gaussian" and guilty and len(guilty) * 2 < len(draws):
            found.append(_change(guilty, method, situation, alone=True))
        if draws and not (method == "lsuv" and any(_is_alike(draws, change.draws) for change in found)):
            found.append(_change(draws, method, situation, alone=False))
    return found


def _change(draws: Sequence[Draw], method: str, situation: Situation, *, alone: bool) -> Change:
    weights = [draw.name for draw in draws if draw.how in ("gaussian", "orthogonal", GATES)]
    what = f"{', '.join(weights[:2])} alone" if alone else "all weights"
    lost = situation.deficit
    how = "at the scale that gives unit variance on the batch (LSUV)" if method == "lsuv" else ""
    how = how or f"at the critical gain of the activation ({method})"
    memory = next((draw.value for draw in draws if draw.how == CHRONO), None)
    if memory is not None:
        how += f", and let gates stay open for up to {memory:.0f} steps (chrono)"
    return Change(
        kind="initialisation",
        title=f"Draw {what} anew {how}.",
        where=tuple(weights),
        reason="each layer then passes its gradient on at the size at which it came",
        predicted_decades=-lost if lost is not None and math.isfinite(lost) else None,
        words=(("method", method),),
        draws=tuple(draws),
        code=code_of(draws),
        source=_SOURCES[method],
        loses_weights=True,
    )


_SOURCES = {"gaussian": "He et al. 2015", "orthogonal": "Saxe et al. 2014", "lsuv": "Mishkin & Matas 2016"}


def _is_alike(draws: Sequence[Draw], others: Sequence[Draw]) -> bool:
    """The same maps, all at gains that no training can tell apart."""
    gains = {d.name: d.value for d in others if d.how == "orthogonal"}
    own = {d.name: d.value for d in draws if d.how == "orthogonal"}
    return own.keys() == gains.keys() and all(1 / NEAR <= own[n] / gains[n] <= NEAR for n in own)


def apply(change: Change, twin: Twin) -> None:
    """Draw what the change names."""
    draw_all(change.draws, twin)


KIND = Kind(propose, apply)
