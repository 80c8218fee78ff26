"""How far back does a recurrence reach, in a plain sentence?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.records.shown import counted

if TYPE_CHECKING:
    from gradtrace.records.horizon import Horizon
    from gradtrace.records.time import Chain, ThroughTime


def sentences(record: ThroughTime) -> tuple[str, ...]:
    """One or more per chain, then what was cut."""
    told = []
    for chain in record.chains:
        if chain.reach is not None:
            told.append(f"{chain.name}: {reaches(chain.reach.horizon(), chain.num_steps)}")
        told += _cuts(chain)
    for reach in record.losses if record.positions else ():
        told.append(f"{record.positions}: {reaches(reach.horizon(), len(reach.curve()))}")
    return tuple(told)


def reaches(found: Horizon, num_steps: int) -> str:
    """How far a gradient goes.

    >>> from gradtrace.records.horizon import horizon
    >>> reaches(horizon(tuple(-0.25 * lag for lag in range(51))), 50)
    'the gradient falls by half in 1.2 steps and 1000-fold in 12 ...longer than 12 steps; the sequence has 50.'
    >>> reaches(horizon((0.0, float("-inf"), float("-inf"))), 2)
    'the gradient falls by half in 1 step and 1000-fold in 1 (to exactly zero): ...'
    """
    finite = math.isfinite(found.decades_per_step)
    rate = f"({found.decades_per_step:+.3f} decades a step)" if finite else "(to exactly zero)"
    if math.isnan(found.steps):
        return f"no horizon: the gradient is not finite, or {num_steps} steps are too few."
    if found.decades_per_step > 0 and found.steps > num_steps:
        growth = found.decades_per_step * num_steps
        return f"the gradient grows on its way back {rate}, {10 ** min(growth, 300):.2g}-fold over {num_steps} steps."
    if math.isinf(found.steps):
        return f"the gradient reaches back over all of the {num_steps} steps {rate}."
    half = f"{found.half_steps:.3g}" if found.half_steps < 100 else f"{found.half_steps:.0f}"
    if found.extrapolated:
        return (
            f"the gradient reaches back over all of the {num_steps} steps {rate}; at this rate it would fall 1000-fold "
            f"in {found.steps:.0f}."
        )
    return (
        f"the gradient falls by half in {half} step{'' if half == '1' else 's'} and 1000-fold in {found.steps:.0f} "
        f"{rate}: with its weights as they are this network cannot learn dependencies longer than "
        f"{counted(round(found.steps), 'step')}; the sequence has {num_steps}."
    )


def _cuts(chain: Chain) -> list[str]:
    told = []
    if chain.cuts:
        shown = ", ".join(map(str, chain.cuts[:4])) + (", ..." if len(chain.cuts) > 4 else "")
        told.append(f"{chain.name}: the state is detached behind step {shown}: no gradient passes there.")
    if chain.detached_start:
        told.append(
            f"{chain.name}: the state comes in detached (truncated back-propagation): the gradient ends with these "
            f"{chain.num_steps} steps."
        )
    return told
