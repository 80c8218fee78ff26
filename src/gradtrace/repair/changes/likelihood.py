"""Against a loss that is flattest where it ought to fall most: the likelihood's loss of what is wanted.

log(1 - D) of a generator whose fakes the discriminator tells apart has the gradient D with respect to the logit, which
is next to nothing; -log D has 1 - D, and is lowered by the same fakes (Goodfellow et al., Generative adversarial nets,
2014, section 3). Trained is on the second; what is measured stays the first, as far down as it is known: where 1 - D is
rounded to nought, its logarithm is log(eps / 2) at most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradtrace.records.change import Change, Edit, SourceEdit
from gradtrace.records.vocabulary import Factor
from gradtrace.remedies.of_losses import LIKELIHOOD
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.rewriting import Rule

if TYPE_CHECKING:
    from gradtrace.records.trace import Op
    from gradtrace.repair.situation import Situation
    from gradtrace.repair.twin import Twin

_LEAST = 1e-7
"""Of a probability in float32, 1 - (1 - D) knows no more."""
_ROUNDED = torch.finfo(torch.float32).eps / 2
"""Where 1 - D is nought, it is no more than this: half the way from 1 to the float32 below it."""
_ONE_MINUS = {"log": (["RsubBackward0"], ["RsubBackward1"], ["SubBackward0"]), "log1p": (["NegBackward0"],)}
"""Of a logarithm: what it is taken of."""
_TEXTS = {
    "log": f"(-(1 - ({{x}})).clamp_min({_LEAST:g}).log())",
    "log1p": f"(-(-({{x}})).clamp_min({_LEAST:g}).log())",
}
"""Of log(1 - D) and of log1p(-D)."""
_CROSS_ENTROPIES = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
"""Which make up for the slope, unless it is minus their value that is lowered."""


def propose(situation: Situation) -> list[Change]:
    """For the logarithm behind an output on whose flat side it is flat, too."""
    if not any(LIKELIHOOD in finding.remedies for finding in situation.findings):
        return []
    behind = [op for op in situation.trace.ops if situation.paths.depths[op.index] == 0 and op.site.source]
    return [_change(op) for op in behind if _is_of_the_other(op, situation)][:1]


def _is_of_the_other(op: Op, situation: Situation) -> bool:
    """Whether it is the logarithm of one minus something, or minus the cross-entropy of what is not wanted."""
    below = [situation.trace.ops[target[0]].name for target in op.targets if target is not None]
    if op.function in _CROSS_ENTROPIES:
        return op.factor is Factor.LOSS
    return below[:1] in _ONE_MINUS.get(op.function, ())


def _change(op: Op) -> Change:
    text = _TEXTS.get(op.function, "")
    return Change(
        kind="likelihood",
        title="Lower -log D in place of log(1 - D): the loss of what is wanted (non-saturating).",
        where=(op.site.source,),
        reason="its slope is steepest where the output is surest of what is not wanted",
        words=(("function", op.function), ("source", op.site.source)),
        edits=(SourceEdit(Edit.CALL, op.function, op.site.source, text),) if text else (),
        code=f"# {op.site.source}: -torch.log(D)",
        source=LIKELIHOOD.source,
    )


def _of_ones(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Minus the cross-entropy of the other targets: minus that again is lowered."""
    return -function(args[0], 1 - args[1], *args[2:], **kwargs)


def _minus_log(x: Tensor) -> Tensor:
    return -x.clamp_min(_LEAST).log()


_TRAINED: dict[str, Callable[..., Any]] = {
    "log": lambda _f, args, _kwargs: _minus_log(1 - args[0]),
    "log1p": lambda _f, args, _kwargs: _minus_log(-args[0]),
    **dict.fromkeys(_CROSS_ENTROPIES, _of_ones),
}
_SCORED: dict[str, Callable[..., Any]] = {
    "log": lambda _f, args, _kwargs: args[0].clamp_min(_ROUNDED).log(),
    "log1p": lambda _f, args, _kwargs: (1 + args[0]).clamp_min(_ROUNDED).log(),
}


def apply(change: Change, twin: Twin) -> None:
    """The call rewritten, in training; and measured without an end."""
    function, source = change.word("function"), change.word("source")
    twin.rules.append(Rule(frozenset({function}), source, _TRAINED[function], training_only=True))
    if function in _SCORED:
        twin.rules.append(Rule(frozenset({function}), source, _SCORED[function]))


KIND = Kind(propose, apply)
