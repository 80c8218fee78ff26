"""Residual branches that are already there, started small: the last layer of each times 1 / sqrt(L), or at zero.

    x_L = x_0 + sum over L branches of s f_l,    s = 1 / sqrt(L): their variances sum to that of one

Radford et al. (2019), section 2.3; De & Smith (2020); Zhang et al. (2019), Fixup, for the last layer at zero.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from gradtrace.diagnosis.sums import is_sum
from gradtrace.records.change import Change
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes.draws import listed
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.twin import RefusalError, Twin

if TYPE_CHECKING:
    from gradtrace.measure.path import Paths
    from gradtrace.records.trace import Op
    from gradtrace.repair.situation import Situation

_HELPS = {Cause.RESIDUAL_GROWTH, Cause.POST_NORM}
_FEWEST = 4
"""Branches: the sum of fewer does not grow far."""


def propose(situation: Situation) -> list[Change]:
    """Scaled by their number, which keeps what the weights have learnt; then zero."""
    if not _HELPS & set(situation.causes):
        return []
    names = last_of_branches(situation)
    number = len({name.rpartition(".")[0] for name in names})
    if number < _FEWEST:
        return []
    scale = float(f"{1.0 / math.sqrt(number):.3g}")
    return [
        _change(f"Multiply the last layer of each of {number} residual branches by {scale:g}.", names, scale),
        _change(f"Start each of {number} residual branches at zero: its last layer.", names, 0.0),
    ]


def _change(title: str, names: list[str], scale: float) -> Change:
    return Change(
        kind="residual",
        title=title,
        where=tuple(names),
        reason="what the branches add up to is then as large as one of them, forward and backward",
        numbers=(("scale", scale),),
        code=(
            f"with torch.no_grad():\n    for name in {listed(names)}:\n"
            f"        model.get_parameter(name).mul_({scale:g})"
        ),
        source="Zhang et al. 2019" if not scale else "Radford et al. 2019; De & Smith 2020",
        loses_weights=not scale,
    )


def last_of_branches(situation: Situation) -> list[str]:
    """Parameters of the last layer of each branch that is added to another sum, the first branch first."""
    found: dict[str, None] = {}
    for op in situation.trace.ops:
        if not is_sum(op):
            continue
        operands = [situation.trace.ops[target[0]] for target in op.targets if target is not None]
        if len(operands) != 2 or sum(_is_skip(one, situation.paths) for one in operands) != 1:
            continue
        branch = next(one for one in operands if not _is_skip(one, situation.paths))
        layer = _last_layer(branch, situation.trace.ops)
        if layer is not None and layer.site.module:
            owner = situation.model.get_submodule(layer.site.module)
            names = [f"{layer.site.module}.{name}" for name, _ in owner.named_parameters(recurse=False)]
            found |= dict.fromkeys(names if set(layer.weights) <= set(names) else layer.weights)
    return list(reversed(found))


def _is_skip(op: Op, paths: Paths) -> bool:
    """What more than one op reads: the branch, and the sum behind it."""
    return len(paths.arrivals[op.index]) > 1


def _last_layer(op: Op, ops: tuple[Op, ...]) -> Op | None:
    """Down the only way, without a fork."""
    while not op.weights:
        below = [target[0] for target in op.targets if target is not None and ops[target[0]].parameter is None]
        if len(below) != 1:
            return None
        op = ops[below[0]]
    return op


def apply(change: Change, twin: Twin) -> None:
    """In place; what the optimizer remembers of them is still about them, unless they are zero now."""
    parameters = [twin.model.get_parameter(name) for name in change.where]
    if not parameters:
        raise RefusalError("no branch has a layer of its own")
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(change.number("scale"))
    if change.loses_weights:
        twin.forget(parameters)


KIND = Kind(propose, apply)
