"""Which loss functions of a trace are known, and are they below what the best constant gets?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import View
    from gradtrace.records.trace import ObjectiveStats


def objectives(view: View) -> list[ObjectiveStats]:
    """Known loss functions of targets that differ."""
    found = [op.objective for op in view.trace.ops if op.objective is not None]
    return [one for one in found if one.constant > 0.0]


def has_learnt(view: View) -> bool:
    """Whether each known loss is below that of the best constant: what is flat then is flat because it is right."""
    found = objectives(view)
    return bool(found) and all(one.value < one.constant for one in found)
