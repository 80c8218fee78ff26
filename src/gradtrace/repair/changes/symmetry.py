"""Units that are copies of one another: the same weights in, and the same gradient, so that no step ever parts them.

    w_i = w_j  and  dL/dw_i = dL/dw_j  for all units i, j of a layer:  it is one unit, as often as it is wide

Goodfellow, Bengio & Courville, Deep learning (2016), section 8.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gradtrace.errors import GradtraceError, InputError
from gradtrace.measure.untouched import fixed_random_state
from gradtrace.records.change import Change, Draw
from gradtrace.repair.changes.draws import code_of, critical_draws, draw_all
from gradtrace.repair.changes.kind import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from gradtrace.repair.situation import Situation
    from gradtrace.repair.twin import Twin

ROUNDING = 100.0
"""[times the format's eps] Rows of one matrix product differ by no more where they are equal in exact arithmetic."""


def symmetric_weights(situation: Situation) -> tuple[str, ...]:
    """Weights whose rows are all equal, and whose gradient's are; one backward pass of a copy."""
    try:
        twin = situation.twin()
    except InputError:
        return ()
    named = [(n, p) for n, p in twin.model.named_parameters() if p.dim() > 1 and len(p) > 1 and p.requires_grad]
    alike = [(name, parameter) for name, parameter in named if _has_equal_rows(parameter)]
    if not alike:
        return ()
    try:
        with fixed_random_state():
            twin.loss_fn(twin.model, situation.batches[0]).backward()
    except (GradtraceError, RuntimeError):
        return ()
    return tuple(n for n, p in alike if p.grad is not None and _has_equal_rows(p.grad))


def _has_equal_rows(value: Tensor) -> bool:
    value = value.detach()
    if value.is_sparse or not value.is_floating_point():
        return False
    most = value.abs().max() * ROUNDING * torch.finfo(value.dtype).eps
    return bool((value - value[:1]).abs().max() <= most)


def propose(situation: Situation) -> list[Change]:
    """These layers alone, then all: a draw at the critical gain has no two rows alike."""
    names = symmetric_weights(situation)
    if not names or situation.example is None:
        return []
    draws = critical_draws(situation.twin(), situation, "gaussian")
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
