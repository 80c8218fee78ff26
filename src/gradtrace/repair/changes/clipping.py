"""Gradients that are too large, clipped before the step: by the norm of all, or unit by unit against the weights.

Pascanu et al. (2013) for the norm. Adaptive clipping: |g_i| <= most |w_i| for each unit i (Brock et al.,
High-performance large-scale image recognition without normalization, 2021, equation 3).
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

import torch

from gradtrace.diagnosis.thresholds import UPDATE_USUAL
from gradtrace.diagnosis.wording import extent_of
from gradtrace.errors import GradtraceError
from gradtrace.measure.untouched import fixed_random_state
from gradtrace.records.change import Change
from gradtrace.records.vocabulary import Symptom
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.changes.rate import one_digit, rate_of
from gradtrace.repair.twin import RefusalError, Twin

if TYPE_CHECKING:
    from gradtrace.repair.situation import Situation

MEASURED = 8
"""Batches whose gradients are measured for the threshold."""
LEAST_WEIGHT = 1e-3
"""Norm below which a unit's weights count as this: zero must be able to move (Brock et al., section 4.1)."""


def propose(situation: Situation) -> list[Change]:
    """Where gradients explode: at the norm that they would have without it, and adaptively for plain SGD."""
    rate = rate_of(situation)
    if rate is None or not situation.has(Symptom.EXPLODING):
        return []
    found = [_by_norm(situation)]
    if all(isinstance(optimizer, torch.optim.SGD) for optimizer in situation.optimizers):
        found.append(_adaptive(rate))  # of what an adaptive optimizer does the size of a gradient is no part
    return found


def _by_norm(situation: Situation) -> Change:
    """At the usual norm of the batches, without the growth along the depth."""
    norms = norms_of(situation)
    usual = statistics.median(norms) if norms else 1.0
    grown = [extent_of(finding) for finding in situation.diagnosis.findings if finding.symptom is Symptom.EXPLODING]
    extent = max(grown, default=0.0)
    threshold = one_digit(min(usual / 10 ** max(extent if math.isfinite(extent) else 0.0, 0.0), 1.0))
    spread = f"; here its norm is {usual:.2g}, {min(norms):.2g} to {max(norms):.2g} over the batches" if norms else ""
    return Change(
        kind="clipping",
        title=f"Clip the gradient norm at {threshold:.2g} before the step.",
        where=("optimizer",),
        reason=f"a gradient that has grown on its way then makes no longer step than one that has not{spread}",
        words=(("what", "norm"),),
        numbers=(("most", threshold),),
        code=(
            "def clip(optimizer, args, kwargs):\n"
            f"    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm={threshold:.2g})\n"
            "optimizer.register_step_pre_hook(clip)"
        ),
        source="Pascanu et al. 2013",
    )


def norms_of(situation: Situation) -> list[float]:
    """Of the whole gradient, batch by batch; only the first one's where `loss_fn` cannot be asked."""
    try:
        with fixed_random_state():
            twin = situation.twin()
            found = [_norm_of(twin, batch) for batch in situation.batches[:MEASURED]]
    except (GradtraceError, RuntimeError):
        known = [p.gradient.norm for p in situation.trace.parameters if p.gradient is not None]
        found = [math.hypot(*known)] if known else []
    return [norm for norm in found if math.isfinite(norm) and norm > 0.0]


def _norm_of(twin: Twin, batch: Any) -> float:
    twin.model.zero_grad(set_to_none=True)
    twin.loss_fn(twin.model, batch).backward()
    squares = [p.grad.detach().double().square().sum() for p in twin.model.parameters() if p.grad is not None]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def _adaptive(rate: float) -> Change:
    """So that one step of this rate moves no unit by more than ten times the usual ratio."""
    most = one_digit(min(10.0 * UPDATE_USUAL / rate, 1.0))
    return Change(
        kind="clipping",
        title=f"Clip each unit's gradient at {most:g} of its weights' norm (AGC).",
        where=("optimizer",),
        reason=f"one step then changes no unit by more than {most * rate:.2g} of itself",
        words=(("what", "adaptive"),),
        numbers=(("most", most),),
        code=(
            f"def clip(optimizer, args, kwargs, most={most:g}):\n"
            "    for p in [p for group in optimizer.param_groups for p in group['params']]:\n"
            "        if p.grad is not None and p.dim() > 0:\n"
            "            units = (p.shape[0], -1) if p.dim() > 1 else (1, -1)\n"
            f"            weight = p.detach().reshape(units).norm(dim=1).clamp_min({LEAST_WEIGHT:g})\n"
            "            gradient = p.grad.reshape(units).norm(dim=1)\n"
            "            scale = torch.where(gradient > most * weight, most * weight / gradient, 1.0)\n"
            "            p.grad.mul_(scale.reshape(-1, *[1] * (p.dim() - 1)))\n"
            "optimizer.register_step_pre_hook(clip)"
        ),
        source="Brock et al. 2021",
    )


class ClipNorm:
    """A hook in front of every optimizer step: what the optimizer holds, all groups together."""

    def __init__(self, most: float) -> None:
        self.most = most

    def __call__(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Clip in place."""
        held = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch.nn.utils.clip_grad_norm_(held, self.most)


class ClipUnits(ClipNorm):
    """The same, unit by unit against the norm of its weights; vectors are one unit."""

    def __call__(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Clip in place."""
        for parameter in [p for group in optimizer.param_groups for p in group["params"]]:
            if parameter.grad is None or not parameter.dim() or parameter.grad.is_sparse:
                continue
            units = (parameter.shape[0], -1) if parameter.dim() > 1 else (1, -1)
            weight = parameter.detach().reshape(units).norm(dim=1).clamp_min(LEAST_WEIGHT)
            gradient = parameter.grad.reshape(units).norm(dim=1)
            scale = torch.where(gradient > self.most * weight, self.most * weight / gradient, 1.0)
            parameter.grad.mul_(scale.reshape(-1, *[1] * (parameter.dim() - 1)).to(parameter.grad.dtype))


_HOOKS = {"norm": ClipNorm, "adaptive": ClipUnits}


def apply(change: Change, twin: Twin) -> None:
    """A hook on every optimizer."""
    if not twin.optimizers:
        raise RefusalError("there is no optimizer in front of whose steps gradients could be clipped")
    for optimizer in twin.optimizers:
        optimizer.register_step_pre_hook(_HOOKS[change.word("what")](change.number("most")))


KIND = Kind(propose, apply)
