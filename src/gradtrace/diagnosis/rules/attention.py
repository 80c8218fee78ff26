"""Where is attention one-hot, in which heads, and what made its logits large: queries, keys, or a missing 1 / sqrt(d)?

Logits have a root mean square of s sqrt(d) rms(q) rms(k): of its decades above one each of the three has its part.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import places
from gradtrace.diagnosis.rules.loss import of_constant
from gradtrace.diagnosis.thresholds import ATTENTION_MIN_ROWS, DOMINANT_FRAC, SATURATED_MAJORITY
from gradtrace.diagnosis.wording import SCALE, percent
from gradtrace.measure.names import Names
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene, View
    from gradtrace.records.trace import AttentionStats, Op

MOST_HEADS = 6
"""Heads that are told one by one."""

_PRODUCTS = {"Bmm", "Mm", "Baddbmm"}


def judge(scene: Scene) -> list[Finding]:
    """One finding: the attentions most of whose rows are one-hot."""
    if not scene.views:
        return []
    view = scene.views[0]
    all_ops = [op for op in view.trace.ops if op.factor is Factor.ATTENTION and op.activation]
    ops = sorted((op for op in all_ops if _is_one_hot(op, scene.limits.saturated_frac)), key=lambda op: op.sequence)
    if not ops:
        return []
    op = ops[0]
    assert op.activation is not None
    at = Names(view.trace).told(op.site.module or "", op.site.source)
    scales, num_dims = _scales(op, view)
    return [
        Finding(
            symptom=Symptom.SATURATED,
            cause=Cause.ATTENTION_SATURATION,
            where=places(ops, view.paths),
            severity=Severity.CRITICAL if 2 * len(ops) >= len(all_ops) else Severity.WARNING,
            message=f"{percent(op.activation.saturated_frac)} of the attention rows at {at} are one-hot: through "
            f"them queries and keys get next to no gradient.{_of_heads(op.attention)}{_of_logits(scales, num_dims)}",
            evidence=(
                Evidence("one-hot rows", op.activation.saturated_frac, "fraction"),
                *([Evidence("entropy left", _mean(op.attention.entropies_bits), "bits")] if op.attention else []),
                *(Evidence(f"RMS of the {name}" if name != SCALE else name, size) for name, size in scales.items()),
                *of_constant(view),
            ),
            remedies=remedies_for(Symptom.SATURATED, Cause.ATTENTION_SATURATION),
            source=op.site.source,
        )
    ]


def _is_one_hot(op: Op, most_frac: float) -> bool:
    a = op.activation
    return a is not None and a.saturated_frac > most_frac and a.num_samples >= ATTENTION_MIN_ROWS


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / max(len(values), 1)


def _of_heads(stats: AttentionStats | None) -> str:
    if stats is None or not stats.one_hot_fracs:
        return ""
    bits = f" {_mean(stats.entropies_bits):.2g} of {math.log2(max(stats.num_keys, 1)):.2g} bits of entropy are left"
    total = len(stats.one_hot_fracs)
    flat = [i for i, frac in enumerate(stats.one_hot_fracs) if frac > SATURATED_MAJORITY]
    if total == 1:
        return f"{bits}."
    if len(flat) == total:
        return f"{bits}, in all {total} heads alike."
    worst = sorted(flat, key=lambda i: -stats.one_hot_fracs[i])[:MOST_HEADS]
    listed = ", ".join(str(i) for i in sorted(worst))
    return f"{bits}; it is head {listed} of {total} (from 0)." if flat else f"{bits}."


def _scales(op: Op, view: View) -> tuple[dict[str, float], int]:
    """Root mean squares of queries and keys, and the scale as a multiple of 1 / sqrt(d), and d; {}: not known.

    Written out, keys are known by what they make of the queries: the angle between the two is counted as theirs.
    """
    stats = op.attention
    if stats is not None and math.isfinite(stats.temperature):
        shape = next((passed.shape for passed in op.passed if passed is not None), (0,))
        return {"queries": stats.query_rms, "keys": stats.key_rms, SCALE: stats.temperature}, shape[-1]
    a, found = op.activation, _product_below(op, view)
    if a is None or found is None or not math.isfinite(a.preactivation_std):
        return {}, 0
    made, num_dims = found
    assert made.forward is not None
    query, product = made.forward.input_rms, made.forward.output_rms
    if not query > 0.0 or not product > 0.0:
        return {}, 0
    logits = math.hypot(a.preactivation_mean, a.preactivation_std)
    root = math.sqrt(num_dims)
    return {"queries": query, "keys": product / (query * root), SCALE: logits / product * root}, num_dims


def _product_below(op: Op, view: View) -> tuple[Op, int] | None:
    """The product of queries and keys whose result an op is applied to, with its measured scales, and d."""
    measured, index = None, op.targets[0] if op.targets else None
    for _ in range(8):
        if index is None:
            return None
        here = view.trace.ops[index[0]]
        measured = here if here.forward is not None else measured
        if base_name(here.name) in _PRODUCTS:
            shape = next((stats.shape for stats in here.passed if stats is not None), ())
            return (measured, shape[-1]) if measured is not None and here.passed[0] is not None and shape else None
        index = next((target for target in here.targets if target is not None), None)
    return None


def _of_logits(scales: dict[str, float], num_dims: int) -> str:
    """Which of the three makes the logits large: those with at least half as many decades as the one with most."""
    size = math.prod(scales.values()) if scales else math.nan
    if not size > 1.0:
        return ""
    parts = {name: math.log10(value) for name, value in scales.items() if value > 1.0}
    guilty = [name for name, part in parts.items() if part >= DOMINANT_FRAC * max(parts.values())]
    logits = (
        f" Its logits have a root mean square of about {size:.2g}, where 1 is usual: queries of "
        f"{scales['queries']:.2g} times keys of {scales['keys']:.2g} times {scales[SCALE]:.2g} / sqrt(d)."
    )
    if guilty == [SCALE]:
        missing = abs(math.log2(scales[SCALE] / math.sqrt(num_dims))) < 1.0 if num_dims else False
        return f"{logits} The scale makes it: {'1 / sqrt(d) is missing' if missing else '1 / sqrt(d) is usual'}."
    return f"{logits} The {' and the '.join(name.partition(' times')[0] for name in guilty)} make it."
