"""How is it told that a gradient vanishes or explodes on its way through the layers, and with which numbers?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import owner
from gradtrace.diagnosis.wording import CAUSES, EXTENT, EXTENT_PER_UNIT, decades, times
from gradtrace.records.finding import Evidence
from gradtrace.records.vocabulary import Cause, Factor, Symptom
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from gradtrace.diagnosis.attribution import Blame
    from gradtrace.diagnosis.profile import Profile
    from gradtrace.measure.names import Names


def message(symptom: Symptom, profile: Profile, blame: Blame, extent: float, names: Names) -> str:
    """From where to where, by how much, and why."""
    first = names.told(owner(profile.first.weights[-1]))
    of_late = profile.reference.weights
    late = names.told(owner(of_late[-1])) if of_late else f"the last residual sum ({profile.reference.site.source})"
    verb = "shrinks" if symptom is Symptom.VANISHING else "grows"
    if blame.num_calls:
        per_call = decades(extent / blame.num_calls)
        head = f"The loss gradient {verb} {times(extent)} through {names.told(blame.where[0])}, applied "
        head += f"{blame.num_calls} times in a row ({per_call} each)."
    elif math.isinf(extent):
        head = f"No gradient at all reaches {first}: it is exactly zero."
    else:
        head = f"The loss gradient {verb} {times(extent)} from {late} to {first}"
        if blame.decades_here is not None:
            head += f", {decades(abs(blame.decades_here))} of it at {names.told(blame.at or blame.where[0])} alone."
        else:
            head += f"{_pace(profile, blame, extent)}."
    told = f"{head} {CAUSES[blame.cause].format(where=_op_told(blame) + names.listed(blame.where))}"
    if blame.one_branch:
        told += f" All {blame.num_sums} of them add what one and the same map makes."
    return told


def _op_told(blame: Blame) -> str:
    """Where it is one op that does it and not the layers: which, at which line, and by what it divides."""
    op = blame.op
    if blame.cause is not Cause.UNSAFE_OP:
        return ""
    by = f" by {op.divisor[0]:.2g} to {op.divisor[1]:.2g}" if op.divisor is not None else ""
    at = f" at {op.site.source}" if op.site.source else ""
    return f"{op.function or base_name(op.name).lower()}{by}{at}, behind "


def _pace(profile: Profile, blame: Blame, extent: float) -> str:
    """How fast that is; '' between neighbours."""
    count, of, over = profile.num_spans, "layer", "layers"
    if blame.num_sums > count:
        count, of, over = blame.num_sums, "sum", "residual sums"
    return f" ({decades(extent / count)} per {of} over {count} {over})" if count > 1 else ""


def commonest_activation(profile: Profile) -> str:
    """The commonest on the way; '' where there is none."""
    functions = [link.op.activation.function for link in profile.links if link.op.activation is not None]
    return max(functions, key=functions.count, default="")


def evidence(profile: Profile) -> tuple[Evidence, ...]:
    """What each factor has of it."""
    per_factor = [
        Evidence(f"{factor.value} gain", round(profile.total(factor), 4), "decades")
        for factor in Factor
        if any(link.factor is factor for link in profile.links)
    ]
    slopes = [op.activation.derivative_mean for link in profile.links if (op := link.op).activation]
    mean = [Evidence("mean |a'|", sum(slopes) / len(slopes), "")] if slopes else []
    return (
        Evidence(EXTENT, profile.decades_norm, "decades"),
        Evidence(EXTENT_PER_UNIT, profile.decades_rms, "decades"),
        Evidence("layers between", profile.num_spans, "layers"),
        *per_factor,
        *mean,
    )
