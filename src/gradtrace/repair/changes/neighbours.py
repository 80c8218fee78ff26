"""Sums over neighbours as means: what grows with the degree, layer by layer, grows no more.

    sum_{j -> i} m_j  becomes  sum_{j -> i} m_j / d_i,    A h  becomes  D^-1 A h,    d_i = sum_j A_ij, one at the least

Kipf & Welling, Semi-supervised classification with graph convolutional networks (2017); Hamilton et al. (2017). What is
divided is each message and not the sum, so that whatever the sum is added to stays as it is, in place too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradtrace.errors import InputError
from gradtrace.records.change import Change, Edit, SourceEdit
from gradtrace.records.vocabulary import Cause, Symptom
from gradtrace.repair.changes.draws import code_of, critical_draws, draw_all
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.rewriting import Rule, name_of
from gradtrace.repair.twin import RefusalError, Twin

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.records.trace import Op
    from gradtrace.repair.situation import Situation

_BACK = {"index_add": "index_select", "scatter_add": "gather"}
"""Sums at an index, and what brings the count of each place back to what was added there."""
_PRODUCTS = ("matmul", "mm", "bmm", "spmm")
"""With a matrix on the left that no gradient reaches."""


def propose(situation: Situation) -> list[Change]:
    """All such lines together, where the gradient grows along the depth."""
    about = {Cause.REDUCTION_SCALE, Cause.LARGE_WEIGHTS}
    if not situation.has(Symptom.EXPLODING) or not about & set(situation.causes):
        return []
    edits = tuple(dict.fromkeys(_edit_of(op) for op in situation.trace.ops if _is_sum(op)))
    if not edits:
        return []
    lines = tuple(dict.fromkeys(edit.source for edit in edits))
    change = Change(
        kind="neighbours",
        title=f"Take means over neighbours instead of sums, at {', '.join(lines)}.",
        where=lines,
        reason="a sum makes the gradient as many times larger as it has members, in every layer",
        edits=edits,
        code=f"# {lines[0]}: divide by how many there are, as total / count.clamp_min(1).unsqueeze(-1)",
        source="Kipf & Welling 2017",
    )
    return [change, *_with_draws(change, situation)]


def _with_draws(change: Change, situation: Situation) -> list[Change]:
    """What the sums made up for: weights that pass too little on are drawn for the means."""
    twin = situation.twin()
    _rewrite(change, twin)
    try:
        draws = critical_draws(twin, situation, "gaussian")
    except InputError:
        return []
    title = f"{change.title.removesuffix('.')}, and draw the weights for them."
    code = f"{code_of(draws)}\n{change.code}"
    return [replace(change, title=title, draws=draws, code=code, loses_weights=True)] if draws else []


def _is_sum(op: Op) -> bool:
    if not op.site.source or op.weights:
        return False
    name = op.function.rstrip("_")
    is_product = name in _PRODUCTS and len(op.targets) > 1 and op.targets[0] is None and op.targets[1] is not None
    return name in _BACK or is_product


def _edit_of(op: Op) -> SourceEdit:
    name = op.function.rstrip("_")
    if name not in _BACK:
        text = "({call}) / ({x} @ torch.ones_like(({1})[..., :1])).clamp_min(1)"
        return SourceEdit(Edit.CALL, name, op.site.source, text)
    if name == "index_add" and (num_axes := _axes_of_rows(op)):
        text = f"({{3}}) / torch.bincount({{2}})[{{2}}][{', '.join([':', *['None'] * (num_axes - 1)])}]"
    else:
        count = f"torch.zeros_like({{x}}).{name}({{1}}, {{2}}, torch.ones_like({{3}}))"
        text = f"({{3}}) / {count}.{_BACK[name]}({{1}}, {{2}})"
    return SourceEdit(Edit.LAST, name, op.site.source, text)


def _axes_of_rows(op: Op) -> int:
    """How many axes there are, where it is seen that rows are added; else 0."""
    shapes = [stats.shape for stats in (op.received, *op.passed) if stats is not None]
    return len(shapes[0]) if len({shape[:1] for shape in shapes}) > 1 else 0


def apply(change: Change, twin: Twin) -> None:
    """The calls of these lines rewritten, and weights drawn."""
    _rewrite(change, twin)
    draw_all(change.draws, twin)


def _rewrite(change: Change, twin: Twin) -> None:
    for edit in change.edits:
        replacement = _of_messages if edit.function in _BACK else _of_product
        twin.rules.append(Rule(frozenset({edit.function}), edit.source, replacement))


def _of_messages(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Each divided by how many are added where it goes."""
    if kwargs or len(args) != 4:
        raise RefusalError(f"the arguments of {name_of(function)} are not given in their places")
    total, dim, index, source = args
    name = name_of(function)
    count = getattr(torch.zeros_like(total), name)(dim, index, torch.ones_like(source))
    return function(total, dim, index, source / getattr(count, _BACK[name])(dim, index))


def _of_product(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """By the sum of its row, where the matrix is one of weights between neighbours: square, and nothing below zero."""
    left, right = args[:2]
    if not isinstance(left, Tensor) or left.requires_grad or right.dim() < 2:
        return function(*args, **kwargs)
    entries = left.coalesce().values() if left.layout is torch.sparse_coo else left
    if left.shape[-1] != left.shape[-2] or bool((entries < 0).any()):
        raise RefusalError("the matrix is not one of weights between neighbours: square, and nowhere negative")
    return function(*args, **kwargs) / function(left, torch.ones_like(right[..., :1])).clamp_min(1)


KIND = Kind(propose, apply)
