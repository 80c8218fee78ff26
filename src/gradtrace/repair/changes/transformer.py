"""Attention whose rows are not one-hot, and norms inside the branches.

Vaswani et al. (2017) for 1 / sqrt(d); Henry et al. (2020) for normalised queries and keys; Xiong et al. (2020).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import nn

from gradtrace.records.repair import Change, Draw, Edit, SourceEdit
from gradtrace.records.vocabulary import Cause, Factor
from gradtrace.repair.changes.initialisation import draw_all
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.rewriting import Rule
from gradtrace.repair.twin import RefusalError, Twin

if TYPE_CHECKING:
    from gradtrace.repair.situation import Situation

_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def propose(situation: Situation) -> list[Change]:
    """Pre-norm for torch's own layers; attention's logits at unit scale; its weights drawn anew."""
    found: list[Change] = []
    causes = set(situation.causes)
    if Cause.POST_NORM in causes:
        found += _pre_norm(situation)
    if Cause.ATTENTION_SATURATION in causes:
        found += _logits(situation) + _attention_weights(situation)
    return found


def _pre_norm(situation: Situation) -> list[Change]:
    paths = [p for p, m in situation.model.named_modules() if isinstance(m, _LAYERS) and not m.norm_first]
    if not paths:
        return []
    return [
        Change(
            kind="transformer",
            title=f"Put the norm inside the branch in {len(paths)} layers (norm_first=True).",
            where=tuple(paths),
            reason="behind the sum it scales the skip path down, in every block",
            words=(("what", "pre_norm"),),
            code=f"for path in {paths!r}:\n    model.get_submodule(path).norm_first = True",
            source="Xiong et al. 2020",
        )
    ]


def _logits(situation: Situation) -> list[Change]:
    """A factor that brings the measured spread of the logits to one, at each line that takes their softmax."""
    found: dict[str, float] = {}
    for op in situation.trace.ops:
        if (
            op.factor in (Factor.ATTENTION, Factor.ACTIVATION)
            and op.function == "softmax"
            and op.activation is not None
        ):
            spread = op.activation.preactivation_std
            if op.site.source and math.isfinite(spread) and spread > 1.0:
                found[op.site.source] = max(found.get(op.site.source, 0.0), spread)
    return [
        Change(
            kind="transformer",
            title=f"Divide the attention logits by {spread:.2g}, their spread.",
            where=(source,),
            reason="a softmax of logits far apart is one-hot, and its derivative next to nothing",
            words=(("what", "logits"), ("source", source)),
            numbers=(("factor", 1.0 / spread),),
            edits=(SourceEdit(Edit.ARGUMENT, "softmax", source, f"({{x}}) / {spread:.4g}"),),
            code=f"# {source}: softmax(logits / {spread:.4g}, dim=-1)",
            source="Vaswani et al. 2017",
        )
        for source, spread in found.items()
    ]


def _attention_weights(situation: Situation) -> list[Change]:
    """Queries and keys back to Xavier's scale: those to blame."""
    where = situation.where(Cause.ATTENTION_SATURATION)
    names = []
    for name, parameter in situation.model.named_parameters():
        owner = name.rpartition(".")[0]
        blamed = any(owner == w or owner.startswith(f"{w}.") or w.startswith(f"{owner}.") for w in where)
        if parameter.dim() == 2 and blamed and ("in_proj" in name or _is_query_or_key(name)):
            names.append(name)
    if not names:
        return []
    return [
        Change(
            kind="transformer",
            title=f"Draw queries and keys anew at unit gain ({names[0]}{' ...' if len(names) > 1 else ''}).",
            where=tuple(names),
            reason="their product is the spread of the logits",
            words=(("what", "draw"),),
            draws=tuple(Draw(name, "gaussian", 1.0) for name in names),
            code=(
                f"with torch.no_grad():\n    for name in {names!r}:\n        weight = model.get_parameter(name)\n"
                "        weight.normal_(0.0, weight.shape[1] ** -0.5)"
            ),
            source="Glorot & Bengio 2010",
            loses_weights=True,
        )
    ]


def _is_query_or_key(name: str) -> bool:
    part = name.rpartition(".")[0].rpartition(".")[2].lower()
    return part in ("q", "k", "query", "key", "qk", "qkv") or part.startswith(
        ("q_", "k_", "query_", "key_", "to_q", "to_k", "wq", "wk")
    )


def apply(change: Change, twin: Twin) -> None:
    """An attribute set, a call rewritten, weights drawn."""
    what = change.word("what")
    if what == "draw":
        draw_all(change.draws, twin)
    elif what == "logits":
        factor = change.number("factor")

        def scaled(function: Any, args: Any, kwargs: Any) -> Any:
            return function(args[0] * factor, *args[1:], **kwargs)

        twin.rules.append(Rule(frozenset({"softmax"}), change.word("source"), scaled))
    else:
        for path in change.where:
            layer = twin.model.get_submodule(path)
            if not isinstance(layer, _LAYERS):
                raise RefusalError(f"{path} is no layer of torch.nn with norm_first")
            layer.norm_first = True


KIND = Kind(propose, apply)
