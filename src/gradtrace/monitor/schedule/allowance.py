"""How much may watching take of a training's time? The law, which nothing below may break.

Over any first stretch of a run, t seconds of training long, all that watching took stays within

    max(budget t, 50 s budget)        at the default budget of 2 %: max(2 %, 1 s / t) of the time,

the first whole trace, the first norms and the first copy of the weights aside, whose cost nobody can know before. The
beginning, where most faults lie, is lent what a minute earns; not all at once:

    allowance(t) = (1 - RESERVE) max(budget t, 50 s budget (AT_ONCE + (1 - AT_ONCE) (1 - exp(-t / LENT_OVER_S))))

Time is that of steps. A pause between them (an evaluation, a cell that nobody runs) earns nothing.
"""

from __future__ import annotations

import math

LENT_S = 50.0
"""[seconds of training] Whose budget may be spent in advance."""

AT_ONCE = 0.4
"""[fraction of what is lent] For the very first steps."""

LENT_OVER_S = 10.0
"""[seconds of training] The rest is lent over so long."""

RESERVE = 0.15
"""[fraction of the allowance] Kept back for what is noticed only when whole steps have been compared."""


def law_s(training_s: float, budget: float) -> float:
    """What watching may have taken at most after `training_s` seconds of training.

    >>> law_s(10.0, 0.02), law_s(100.0, 0.02)
    (1.0, 2.0)
    """
    return budget * max(training_s, LENT_S)


def allowance_s(training_s: float, budget: float) -> float:
    """What it may plan to have taken by then.

    >>> allowance_s(0.0, 0.02) <= 0.4 * law_s(0.0, 0.02), allowance_s(1e6, 0.02) <= 0.85 * law_s(1e6, 0.02)
    (True, True)
    """
    lent = LENT_S * (AT_ONCE + (1.0 - AT_ONCE) * -math.expm1(-training_s / LENT_OVER_S))
    return (1.0 - RESERVE) * budget * max(training_s, lent)
