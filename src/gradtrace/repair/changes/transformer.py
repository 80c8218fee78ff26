"""Attention whose rows are not one-hot, and norms inside the branches.

Vaswani et al. (2017) for 1 / sqrt(d); Henry et al. (2020) for normalised queries and keys; Xiong et al. (2020).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.functional import rms_norm

from gradtrace.diagnosis.wording import SCALE
from gradtrace.records.change import Change, Draw, Edit, SourceEdit
from gradtrace.records.shown import counted
from gradtrace.records.vocabulary import Cause, Factor
from gradtrace.repair.changes.draws import draw_all
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.rewriting import Rule
from gradtrace.repair.twin import RefusalError, Twin

if TYPE_CHECKING:
    from gradtrace.repair.situation import Situation

_FUSED = "scaled_dot_product_attention"
_MISSING = 2.0
"""[times 1 / sqrt(d)] A scale larger than this is none for its number of dimensions."""
_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def propose(situation: Situation) -> list[Change]:
    """Pre-norm for torch's own layers; attention's logits at unit scale; its weights drawn anew."""
    found: list[Change] = []
    causes = set(situation.causes)
    if Cause.POST_NORM in causes:
        found += _pre_norm(situation)
    if Cause.ATTENTION_SATURATION in causes:
        found += _unscaled(situation) + _logits(situation) + _normalised(situation) + _attention_weights(situation)
    return found


def _pre_norm(situation: Situation) -> list[Change]:
    paths = [p for p, m in situation.model.named_modules() if isinstance(m, _LAYERS) and not m.norm_first]
    if not paths:
        return []
    return [
        Change(
            kind="transformer",
            title=f"Put the norm inside the branch in {counted(len(paths), 'layer')} (norm_first=True).",
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
        _divided(source, spread, f"Divide the attention logits by {spread:.2g}, their spread.")
        for source, spread in found.items()
    ]


def _divided(source: str, divisor: float, title: str) -> Change:
    divisor = float(f"{divisor:.4g}")
    return Change(
        kind="transformer",
        title=title,
        where=(source,),
        reason="a softmax of logits far apart is one-hot, and its derivative next to nothing",
        words=(("what", "logits"), ("source", source)),
        numbers=(("factor", 1.0 / divisor),),
        edits=(SourceEdit(Edit.ARGUMENT, "softmax", source, f"({{x}}) / {divisor:g}"),),
        code=f"# {source}: softmax(logits / {divisor:g}, dim=-1)",
        source="Vaswani et al. 2017",
    )


def _unscaled(situation: Situation) -> list[Change]:
    """1 / sqrt(d), where it was measured that it is missing, at the line that takes the softmax."""
    found: dict[str, float] = {}
    for finding in situation.findings:
        scale = next((e.value for e in finding.evidence if e.name == SCALE), None)
        if finding.cause is Cause.ATTENTION_SATURATION and finding.source and scale is not None and scale > _MISSING:
            found[finding.source] = scale
    written_out = {op.site.source for op in situation.trace.ops if op.function == "softmax"}
    return [
        _divided(source, scale, f"Divide the attention logits by {scale:.3g}: 1 / sqrt(d) is missing.")
        for source, scale in found.items()
        if source in written_out
    ]


def _normalised(situation: Situation) -> list[Change]:
    """Queries and keys to a root mean square of one, head by head, where the user's line calls the fused attention."""
    lines = [
        op.site.source
        for op in situation.trace.ops
        if op.function == _FUSED and op.site.source and not _is_within_torch(situation.model, op.site.module or "")
    ]
    return [
        Change(
            kind="transformer",
            title="Normalise queries and keys (QK-norm).",
            where=(source,),
            reason="whatever their weights grow to, no logit is larger than sqrt(d)",
            words=(("what", "qk_norm"), ("source", source)),
            edits=(SourceEdit(Edit.FIRST_TWO, _FUSED, source, "torch.nn.functional.rms_norm({x}, ({x}).shape[-1:])"),),
            code=f"# {source}: {_FUSED}(rms_norm(q, q.shape[-1:]), rms_norm(k, k.shape[-1:]), v, ...)",
            source="Henry et al. 2020; Dehghani et al. 2023",
        )
        for source in dict.fromkeys(lines)
    ]


def _is_within_torch(model: nn.Module, path: str) -> bool:
    """In nn.MultiheadAttention queries and keys are not to be reached from outside."""
    return type(model.get_submodule(path)).__module__.startswith("torch.nn")


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
    elif what == "qk_norm":
        twin.rules.append(Rule(frozenset({_FUSED}), change.word("source"), _with_unit_queries_and_keys))
    else:
        for path in change.where:
            layer = twin.model.get_submodule(path)
            if not isinstance(layer, _LAYERS):
                raise RefusalError(f"{path} is no layer of torch.nn with norm_first")
            layer.norm_first = True


def _with_unit_queries_and_keys(function: Any, args: Any, kwargs: Any) -> Any:
    if len(args) < 2:
        raise RefusalError("queries and keys are given by name: which call is meant is not clear")
    query, key = (rms_norm(each, each.shape[-1:]) for each in args[:2])
    return function(query, key, *args[2:], **kwargs)


KIND = Kind(propose, apply)
