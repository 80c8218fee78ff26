"""Which factor of a weight's gradient has grown between two whole traces?

    log10 |dL/dW| = sum over the critical path of the gains of each factor + log10 (|dL/dW| / |L'(l)|)

holds in each trace (`measure.path`), so that the differences of the terms add up to the growth: the loss's own gradient
at the output, f' of the weights on the way, a', norms, merges; and, last, what came into the layer with it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import is_layer, owner
from gradtrace.diagnosis.thresholds import DOMINANT_FRAC
from gradtrace.diagnosis.timeline.growth import growth_of
from gradtrace.measure.path import Paths, norm_of
from gradtrace.records.vocabulary import Factor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.finding import Finding
    from gradtrace.records.trace import Trace

_WORDS = {
    Factor.LOSS: "the loss's own gradient at the output",
    Factor.WEIGHT: "the weights on the way (f')",
    Factor.ACTIVATION: "the activations' slope (a')",
    Factor.NORM: "norms",
    Factor.ATTENTION: "attention",
    Factor.MERGE: "sums of paths",
    Factor.RESHAPE: "reshaping",
    Factor.OTHER: "other ops",
    None: "what comes into the layer",
}
_TOLD = 0.1
"""[decades] Less is not worth a word."""


def with_factors(finding: Finding, traces: Sequence[tuple[int, Trace]]) -> Finding:
    """A growing gradient with the factors that grew, from the first trace since its onset to the latest.

    Where the two show less than half of the growth, they miss it, and nothing is added.
    """
    since = [(step, trace) for step, trace in traces if step >= (finding.step or 0)]
    decades = growth_of(finding)
    if len(since) < 2 or decades is None:
        return finding
    (first, early), (last, late) = since[0], since[-1]
    grew = growth_by_factor(early, late, finding.where[0])
    total = sum(grew.values())
    if not total >= DOMINANT_FRAC * decades:
        return finding
    parts = [f"{value:+.1f} by {_WORDS[factor]}" for factor, value in grew.items() if abs(value) >= _TOLD]
    told = f" From step {first} to {last} it grew by {total:.1f} decades: {', '.join(parts)}."
    return replace(finding, message=finding.message + told)


def growth_by_factor(early: Trace, late: Trace, where: str) -> dict[Factor | None, float]:
    """[decades] The gradient of the weight that `where` owns, the largest part first; {} where a trace lacks it.

    None stands for what comes into the layer: the weight's gradient over that at its output.
    """
    before, now = _terms(early, where), _terms(late, where)
    grew = {key: now.get(key, 0.0) - before.get(key, 0.0) for key in {**before, **now}} if before and now else {}
    if not all(math.isfinite(value) for value in grew.values()):
        return {}
    return dict(sorted(grew.items(), key=lambda item: -item[1]))


def _terms(trace: Trace, where: str) -> dict[Factor | None, float]:
    """Of the use of the weight that got most of its gradient."""
    uses = [op for op in trace.ops if is_layer(op) and any(owner(name) == where for name in op.weights)]
    use = max(uses, key=norm_of, default=None)
    gradients = [p.gradient.norm for p in trace.parameters if owner(p.name) == where and p.gradient is not None]
    if use is None or not norm_of(use) > 0.0 or not max(gradients, default=0.0) > 0.0:
        return {}
    budget = Paths(trace).budget(use.index)
    terms: dict[Factor | None, float] = {**dict(budget.decades)}
    terms[Factor.LOSS] = terms.get(Factor.LOSS, 0.0) + budget.start_log10
    terms[None] = math.log10(max(gradients)) - budget.end_log10
    return terms
