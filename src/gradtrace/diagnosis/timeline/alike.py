"""Does a loss stay at a constant's because all examples look alike to the last layer?

A deep plain stack brings its inputs nearer to one another layer by layer, whatever the scale of its weights (their
correlation tends to one: Poole et al. 2016, Schoenholz et al. 2017). Let what differs between examples be a fraction e
of the root mean square of what the last layer takes in. A step of gradient descent on its weights moves an output by
the gradient's kernel h(x) . h(x'), of which the part that all examples share is 1 - e^2 and the part that tells them
apart e^2: it is learnt so many times more slowly than the constant. All that comes to the layers below comes by the
same way back. Held against the share by which the examples differ at the first layer, three decades are clear-cut,
and two a remark.

Said only of a run whose loss has come no further than the best constant's: what differs little may be all that matters.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import place
from gradtrace.diagnosis.naming import told_op
from gradtrace.diagnosis.profile import profiles
from gradtrace.diagnosis.sums import is_sum
from gradtrace.diagnosis.thresholds import CLEAR_DECADES, HEALTHY_DECADES, LAYERS_PER_BLOCK
from gradtrace.diagnosis.timeline.constant import stays_at_constant
from gradtrace.diagnosis.timeline.losses import followed
from gradtrace.diagnosis.wording import percent
from gradtrace.measure.path import Paths
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.diagnosis.profile import Profile
    from gradtrace.records.run import Run
    from gradtrace.records.trace import Op, Trace


def look_alike(run: Run, traces: Sequence[tuple[int, Trace]]) -> list[Finding]:
    """One finding, of a plain stack; `traces` are the whole ones of one kind of pass, with their steps."""
    share = stays_at_constant(run, traces)
    if share is None:
        return []
    step, trace = traces[-1]
    paths = Paths(trace)
    stacks = [profile for profile in profiles(trace, paths) if _is_plain(profile)]
    worst = max(stacks, key=_lost, default=None)
    if worst is None or 2.0 * _lost(worst) < HEALTHY_DECADES:
        return []
    last, first = worst.layers[0], worst.first
    here, there = _differing(last), _differing(first)
    num = len(worst.layers) - 1
    names = [told_op(op, trace, paths) for op in (last, first)]
    return [
        Finding(
            symptom=Symptom.VANISHING,
            cause=Cause.DEPTH_WITHOUT_SKIP,
            where=(place(last, paths),),
            severity=Severity.WARNING if 2.0 * _lost(worst) >= CLEAR_DECADES else Severity.INFO,
            message=f"After {followed(run)} steps the loss is {percent(share)} of what the best constant gets, and "
            f"examples look alike to the last layer: at step {step} what differs between them is {_told(here)} of the "
            f"input of {names[0]}, and {_told(there)} of that of {names[1]}, {num} layers before it without a skip. Of "
            f"a step there, what tells examples apart gets {here**2:.1g} of what they all share.",
            evidence=(
                Evidence("loss over that of the best constant", share),
                Evidence("what differs between examples, last layer", here, "fraction of the input"),
                Evidence("what differs between examples, first layer", there, "fraction of the input"),
                Evidence("layers without a skip", num, "layers"),
            ),
            remedies=remedies_for(Symptom.VANISHING, Cause.DEPTH_WITHOUT_SKIP),
            source=last.site.source,
            step=step,
        )
    ]


def _is_plain(profile: Profile) -> bool:
    """Whether more layers than a block has stand in a row, and nothing is added to what they make."""
    ops = profile.path_ops()
    return len(profile.layers) > LAYERS_PER_BLOCK and not any(is_sum(op) for op in ops)


def _lost(profile: Profile) -> float:
    """[decades] Of what differs between examples, from the first layer to the last; 0 where it is not known."""
    here, there = _differing(profile.layers[0]), _differing(profile.first)
    if not there > 0.0 or math.isnan(here):
        return 0.0
    return math.log10(there / here) if here > 0.0 else math.inf


def _differing(op: Op) -> float:
    return op.forward.differing if op.forward is not None else math.nan


def _told(fraction: float) -> str:
    return f"{100 * fraction:.2g} %"
