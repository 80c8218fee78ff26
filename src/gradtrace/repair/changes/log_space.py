"""The logarithm of a probability in one: where the probability is rounded to 0 (or to 1), its logarithm is not.

    log softmax(z)_i = z_i - max z - log sum exp(z - max z),    log sigmoid(z) = -softplus(-z) = log(1 - sigmoid(-z))

Their gradients, y - p, are largest where the network is surest of what is wrong; that of log(clamp(p)) is zero there,
and that of log(p) is 0 / 0. Blanchard, Higham & Higham, Accurately computing the log-sum-exp (2021), equation 1.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradtrace.records.change import Change, Edit, SourceEdit
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.changes.output import is_of_torch
from gradtrace.repair.rewriting import Rule, name_of
from gradtrace.repair.twin import Twin, replace_module, take_over

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.records.trace import Op
    from gradtrace.repair.situation import Situation

_PICKS = {"getitem", "gather", "select", "index_select", "masked_select", "take_along_dim", "squeeze", "unsqueeze",
          "view", "reshape", "flatten", "permute", "transpose", "double", "float", "to"}  # fmt: skip
"""What hands entries on as they are: of a logarithm as of a probability."""
_FLOORS = {"clamp", "clip", "clamp_min", "add"}
"""What keeps a probability from zero, which its logarithm needs no more."""
_COMPLEMENT = "rsub"


def propose(situation: Situation) -> list[Change]:
    """For each squashing function behind the last layer of which nothing is taken but logarithms."""
    if not {Cause.UNSAFE_OP, Cause.LOSS_FUNCTION} & set(situation.causes):
        return []
    behind = [op for op in situation.trace.ops if situation.paths.depths[op.index] == 0 and not op.weights]
    found = []
    for op in behind:
        links = _links(op, situation) if op.function in ("softmax", "sigmoid") else None
        if links is not None and (op.site.source or op.site.module):
            found.append(_change(op, links, situation))
    return found


def _links(squash: Op, situation: Situation) -> list[Op] | None:
    """The ops from there to the logarithms, these with them; None where something else is taken of it as well."""
    users: dict[int, list[Op]] = {}
    for op in situation.trace.ops:
        for target in op.targets:
            if target is not None:
                users.setdefault(target[0], []).append(op)
    links: dict[int, Op] = {}
    left, logs = list(users.get(squash.index, [])), 0
    while left:
        op = left.pop()
        if op.index in links:
            continue
        links[op.index] = op
        name = _name(op)
        if name == "log":
            logs += 1
            continue
        is_known = name in _PICKS or name in _FLOORS or (name == _COMPLEMENT and squash.function == "sigmoid")
        if not is_known or not op.site.source or sum(target is not None for target in op.targets) != 1:
            return None
        left += users.get(op.index, [])
    return list(links.values()) if logs else None


def _name(op: Op) -> str:
    return op.function.strip("_")


def _change(squash: Op, links: list[Op], situation: Situation) -> Change:
    path, source = squash.site.module or "", squash.site.source
    own = path if path and is_of_torch(situation.model, path) else ""
    whole = {"softmax": "log_softmax", "sigmoid": "logsigmoid"}[squash.function]
    lines = dict.fromkeys((_name(op), op.site.source) for op in links)
    rewritten = [(name, line) for name, line in lines if name not in _PICKS]
    has_complement = any(name == _COMPLEMENT for name, _ in rewritten)
    edits = [SourceEdit(Edit.CALL, name, line, "{x}") for name, line in rewritten]
    if not own:
        edits.append(SourceEdit(Edit.CALL, squash.function, source, f"torch.nn.functional.{whole}({{x}}{{rest}})"))
    is_plain = not has_complement and not _others(links, situation)
    told = f"binary_cross_entropy_with_logits, without the {squash.function}" if has_complement else f"{whole}(logits)"
    module = f"LogSoftmax(dim={getattr(situation.model.get_submodule(own), 'dim', None)})" if own else ""
    code = f"# {links[0].site.source or source}: {told}"
    if own and is_plain:
        code = f"model.set_submodule({own!r}, torch.nn.{module if squash.function == 'softmax' else 'LogSigmoid()'})"
    return Change(
        kind="log_space",
        title=f"Take the logarithm of the {squash.function} in one, from the logits: {told}.",
        where=tuple(dict.fromkeys([own or source, *(line for _, line in rewritten)])),
        reason="a probability that is rounded to zero has no logarithm, and one that is clamped no gradient",
        words=(
            ("function", squash.function),
            ("module", own),
            ("source", source),
            ("links", "\n".join(f"{name} {line}" for name, line in lines)),
        ),
        edits=tuple(edits) if is_plain else (),
        code=code,
        source="Blanchard et al. 2021",
    )


def _others(links: list[Op], situation: Situation) -> bool:
    """Whether a call of the same name stands in the same line, which the edit of the source would not tell apart."""
    lines = {(_name(op), op.site.source) for op in links if _name(op) == "log"}
    known = {op.index for op in links}
    return any((_name(op), op.site.source) in lines and op.index not in known for op in situation.trace.ops)


def apply(change: Change, twin: Twin) -> None:
    """The function gives its logarithm, and what stood between does nothing; what is measured keeps its floors."""
    links = [link.split(" ", 1) for link in change.word("links").splitlines()]
    in_training = any(name in _FLOORS for name, _ in links)
    function, source = change.word("function"), change.word("source")
    if path := change.word("module"):
        old = twin.model.get_submodule(path)
        whole = nn.LogSoftmax(getattr(old, "dim", None)) if function == "softmax" else nn.LogSigmoid()
        new = take_over(whole, old)
        replace_module(twin.model, old, new)
        if in_training:
            twin.scored_with.append((new, old))
        twin.rules.append(Rule(frozenset({"log_softmax", "logsigmoid", "log_sigmoid"}), source, _marking, in_training))
    else:
        twin.rules.append(Rule(frozenset({function}), source, _in_log_space, in_training))
    for name, line in links:
        twin.rules.append(Rule(frozenset({name}), line, _link, in_training))


def _marking(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _marked(function(*args, **kwargs), args[0])


def _in_log_space(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    is_softmax = name_of(function) == "softmax"
    return _marked(torch.log_softmax(*args, **kwargs) if is_softmax else F.logsigmoid(args[0]), args[0])


_MARK = "_gradtrace_logits"
"""Of a tensor that is the logarithm of what the user's code takes it for."""


def _marked(value: Tensor, logits: Tensor) -> Tensor:
    setattr(value, _MARK, logits)
    return value


def _link(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a call between the function and its logarithm becomes; of other values it is the call itself."""
    value = next((arg for arg in args if hasattr(arg, _MARK)), None)
    if value is None:
        return function(*args, **kwargs)
    name, logits = name_of(function), getattr(value, _MARK)
    if name == _COMPLEMENT:
        return _marked(F.logsigmoid(-logits), -logits)
    if name in _PICKS:
        picked = [function(*(each if arg is value else arg for arg in args), **kwargs) for each in (value, logits)]
        return _marked(*picked)
    return value


KIND = Kind(propose, apply)
