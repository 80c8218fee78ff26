"""Do the units of a layer start as copies of one another?

Equal rows have one singular value other than zero: of n directions the layer passes one on, and its gradient one back.
With equal gradients besides they stay equal (`checkup.symmetry`), and the layer is one unit, however wide it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import owner
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import UNEQUAL_UNITS

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene


def judge(scene: Scene) -> list[Finding]:
    """One finding, if there is any."""
    copied = [p for trace in scene.traces[:1] for p in trace.parameters if p.name in scene.exhibit.copied]
    if not copied:
        return []
    worst = max(copied, key=lambda parameter: parameter.shape[0])
    more = "" if len(copied) == 1 else f" ({len(copied)} layers alike)"
    return [
        Finding(
            symptom=Symptom.VANISHING,
            cause=Cause.SMALL_WEIGHTS,
            where=tuple(dict.fromkeys(owner(parameter.name) for parameter in copied)),
            severity=Severity.WARNING,
            message=f"The {worst.shape[0]} units of {owner(worst.name) or 'the model'} are copies of one another"
            f"{more}: equal weights, which get equal gradients. No step ever parts them, so that all are one unit, and "
            "of the gradient of all others nothing goes past. Draw the weights at random.",
            evidence=(Evidence("layers whose units are copies", float(len(copied)), "layers"),),
            remedies=(UNEQUAL_UNITS,),
        )
    ]
