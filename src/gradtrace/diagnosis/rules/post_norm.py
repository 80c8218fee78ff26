"""Is the gradient of a deep post-norm transformer even only because its branches carry it, before its first step?

In x = norm(x + f(x)) the norm divides the skip path, too: by sqrt(1 + Var f) where x has variance one. Of many such
sums the skip path alone keeps the product of that, where a pre-norm block keeps all. At initialisation the branches
make up for it, and gradients are even; once large steps have put the branches out, nothing does (Xiong et al. 2020,
section 3; Liu et al. 2020, section 4). A rate that is warmed up keeps it so, and then nothing is wrong: it is a remark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import places
from gradtrace.diagnosis.profile import log10_ratio
from gradtrace.diagnosis.thresholds import HEALTHY_DECADES
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene, View
    from gradtrace.records.trace import Op


def judge(scene: Scene) -> list[Finding]:
    """Of a network that was checked before training; steps that were made tell more, and so does a run."""
    training = scene.exhibit.training
    if not scene.views or scene.probe is None or (training is not None and training.asked):
        return []
    if any(optimizer.held_back > 1.0 for optimizer in scene.exhibit.optimizers):
        return []
    view = scene.views[0]
    norms = behind_sums(view)
    kept = sum(min(0.0, decades) for decades in map(_decades, norms))
    if kept > -HEALTHY_DECADES or any(profile.lost <= -HEALTHY_DECADES for profile in view.profiles):
        return []
    return [
        Finding(
            symptom=Symptom.VANISHING,
            cause=Cause.POST_NORM,
            where=places(norms, view.paths),
            severity=Severity.INFO,
            message=f"Gradients are even now, but {len(norms)} layer norms in a row stand behind a residual sum, and "
            f"through them the skip path alone keeps {10**kept:.2g} of the gradient: the branches carry it, until "
            "large first steps put them out. Warm the rate up, or let steps tell (steps=24, with the optimizer).",
            evidence=(
                Evidence("decades that the skip path alone loses", kept, "decades"),
                Evidence("norms behind a sum, in a row", len(norms), "norms"),
            ),
            remedies=remedies_for(Symptom.VANISHING, Cause.POST_NORM),
            source=norms[0].site.source,
        )
    ]


def behind_sums(view: View) -> list[Op]:
    """The longest row of norms each of which takes a sum of what the one below made, and of what a branch added."""
    above: dict[int, int] = {}
    for op in view.trace.ops:  # from the loss on
        below = _below(op, view)
        if below is not None:
            above[below.index] = op.index
    ends = [op for op in view.trace.ops if op.index in above and _below(op, view) is None]
    rows = []
    for end in ends:
        row = [end.index]
        while row[-1] in above:
            row.append(above[row[-1]])
        rows.append([view.trace.ops[index] for index in row[1:]])
    return max(rows, key=len, default=[])


def _below(op: Op, view: View) -> Op | None:
    """The norm whose output, on the skip path, is added to a branch and normalised here."""
    if not _is_norm(op):
        return None
    target = op.targets[0] if op.targets else None
    added = _through_views(target[0], view) if target is not None else None
    if added is None or not added.name.startswith("Add") or sum(each is not None for each in added.targets) < 2:
        return None
    sides = (_through_views(each[0], view) for each in added.targets if each is not None)
    return next((side for side in sides if side is not None and _is_norm(side)), None)


def _is_norm(op: Op) -> bool:
    return op.factor is Factor.NORM and "BatchNorm" not in op.name and op.forward is not None


def _through_views(index: int, view: View) -> Op | None:
    """The op at `index`, or below what only moves elements (dropout's product with its mask, too)."""
    op = view.trace.ops[index]
    for _ in range(8):
        ways = [target[0] for target in op.targets if target is not None]
        if op.factor is not Factor.RESHAPE or len(ways) != 1:
            return op
        op = view.trace.ops[ways[0]]
    return None


def _decades(norm: Op) -> float:
    """What the norm does to the skip path: it divides by the scale of the sum."""
    return log10_ratio(norm.forward.output_rms, norm.forward.input_rms) if norm.forward is not None else 0.0
