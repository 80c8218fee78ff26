"""A changed loss in a script: its gradient is that of the new loss, its value that of the script's own.

There is no second loss function to measure by, and what the script hands to the backward pass is told as its loss. So
where the old value is v and the new one w, the call returns

    sg(v) + (w - sg(w)),        sg without gradient:  the value is v, exactly, and the derivative is that of w

and what is trained is the edited script as long as all that is computed of the value is proportional to it: a mean, a
sum, a factor. Where another function stands behind, the change is not tried.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from gradtrace.records.change import OBJECTIVE
from gradtrace.repair.changes.objective import measured_by
from gradtrace.repair.rewriting import Rule
from gradtrace.repair.twin import RefusalError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from gradtrace.records.change import Change
    from gradtrace.records.trace import Op
    from gradtrace.repair.situation import Situation
    from gradtrace.repair.twin import Twin

OF_THE_LOSS = ("loss", "likelihood")
"""Kinds of change that are about what the loss measures."""
_OF_LOGITS = {"cross_entropy", "cross_entropy_loss", "binary_cross_entropy_with_logits", "nll_loss"}
"""Losses before which a squashing function is dropped, or made its logarithm."""
_PROPORTIONAL = {"mean", "sum", "neg", "mul", "div", "truediv", "true_divide", "add", "sub", "rsub", "iadd", "imul",
                 "idiv", "itruediv", "view", "reshape", "flatten", "squeeze", "unsqueeze", "getitem", "stack", "cat",
                 "to", "float", "double", "clone"}  # fmt: skip
LOSS_LINE = "loss_line"
"""Of a change: the line of the loss whose input it changes."""


def for_a_script(change: Change, situation: Situation) -> Change | None:
    """The change, with the line of the loss where that is asked for; None where the script's loss cannot be kept."""
    if change.kind == OBJECTIVE:
        return change if _is_proportional_behind(change, situation) else None
    if change.kind not in OF_THE_LOSS:
        return change
    what = dict(change.words).get("what", "bce")
    ops = situation.trace.ops
    bent = _bent(ops)
    if what in ("drop", "log"):
        ends = [op for op in ops if op.function in _OF_LOGITS and op.site.source and op.index not in bent]
        lines = {op.site.source for op in ends}
        return replace(change, words=(*change.words, (LOSS_LINE, lines.pop()))) if len(lines) == 1 else None
    if what in ("bce", "huber"):
        return change if _is_proportional_behind(change, situation) else None
    return change


def _is_proportional_behind(change: Change, situation: Situation) -> bool:
    """Whether no more than sums and factors stand between the call that is changed and the loss."""
    ops = situation.trace.ops
    call = [op for op in ops if (op.function, op.site.source) == (change.word("function"), change.word("source"))]
    within = {target[0] for op in call for target in op.targets if target is not None}
    ends = [op for op in call if op.index not in within]
    return bool(ends) and not _bent(ops).intersection(op.index for op in ends)


def _bent(ops: Sequence[Op]) -> set[int]:
    """Ops between which and the loss there is more than sums and factors; a product of two values is more."""
    left = [index for op in ops if not _is_proportional(op) for index in _targets(op)]
    bent: set[int] = set()
    while left:
        index = left.pop()
        if index not in bent:
            bent.add(index)
            left += _targets(ops[index])
    return bent


def _is_proportional(op: Op) -> bool:
    name = op.function.strip("_")
    return name in _PROPORTIONAL and not (len(_targets(op)) > 1 and ("mul" in name or "div" in name))


def _targets(op: Op) -> list[int]:
    return [target[0] for target in op.targets if target is not None]


def keep_the_measure(change: Change, twin: Twin, known: int) -> None:
    """The rules that the change has added behind the first `known` ones, with the script's own values."""
    added, twin.rules[known:] = twin.rules[known:], []
    line = dict(change.words).get(LOSS_LINE)
    if line is None:
        measured = {one.functions: one.replacement for one in added if not one.training_only}
        twin.rules += [_with_old_value(one, measured.get(one.functions)) for one in added if one.training_only] or added
        return
    squash = _Squash(change.word("what") == "log")
    for _, old in twin.scored_with:
        squash.again = old
    twin.scored_with.clear()
    twin.rules += [replace(one, replacement=squash.remembering(one.replacement), training_only=False) for one in added]
    twin.rules.append(Rule(frozenset(_OF_LOGITS), line, squash.loss))


def measuring(changes: Sequence[Change]) -> list[Rule]:
    """The loss as it came, with the value of the mended one: by it the networks are held against each other."""
    return [_with_value_of(rule) for rule in measured_by(changes)]


def _with_value_of(rule: Rule) -> Rule:
    def both(function: Any, args: Any, kwargs: Any) -> Any:
        with torch.no_grad():
            mended = rule.replacement(function, args, kwargs)
        return _valued(function(*args, **kwargs), mended)

    return replace(rule, replacement=both)


def _with_old_value(rule: Rule, measure: Callable[..., Any] | None) -> Rule:
    def both(function: Any, args: Any, kwargs: Any) -> Any:
        new = rule.replacement(function, args, kwargs)
        with torch.no_grad():
            old = measure(function, args, kwargs) if measure is not None else function(*args, **kwargs)
        return _valued(new, old)

    return replace(rule, replacement=both, training_only=False)


def _valued(new: Tensor, old: Tensor) -> Tensor:
    """The value of `old` and the derivative of `new`."""
    if new.shape != old.shape:
        raise RefusalError("the new loss has another shape than the script's")
    return old.detach() + (new - new.detach())


class _Squash:
    """What stood before the loss, once more: for its value alone."""

    def __init__(self, is_log: bool) -> None:
        self.again: Callable[[Tensor], Tensor] | None = None
        self._is_log = is_log

    def remembering(self, replacement: Callable[..., Any]) -> Callable[..., Any]:
        """In place of the call, which is kept with all but its first argument."""

        def instead(function: Any, args: Any, kwargs: Any) -> Any:
            others = {name: value for name, value in kwargs.items() if name != "input"}
            self.again = lambda x: function(x, *args[1:], **others)
            return replacement(function, args, kwargs)

        return instead

    def loss(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Of what is there now, with the value of what was there."""
        x = args[0] if args else kwargs["input"]
        others = {name: value for name, value in kwargs.items() if name != "input"}
        new = function(x, *args[1:], **others)
        if self.again is None:
            return new
        with torch.no_grad():
            old = function(x.exp() if self._is_log else self.again(x), *args[1:], **others)
        return _valued(new, old)
