"""Warm-up: the learning rate grows to its own value over the first steps, where only those are too long.

    rate(t) = rate (s + (1 - s) min(t, N) / N),    s = min(1 / N, usual ratio / measured ratio of the first step)

Adam's first steps are all as long as the rate, however little is known of the gradients, and behind a norm after the
sum those of the last layers are the largest. N is a quarter of a trial, so that three quarters of what is judged are
steps at the full rate. Goyal et al. (2017), section 2.2; Xiong et al. (2020); Ma & Yarats (2021) for its length.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import LinearLR

from gradtrace.diagnosis.thresholds import UPDATE_USUAL
from gradtrace.diagnosis.wording import STEP_RATIO
from gradtrace.records.change import Change
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.changes.rate import evidence_of, one_digit, rate_of
from gradtrace.repair.twin import RefusalError, Twin

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.repair.situation import Situation

_CAUSES = {Cause.LEARNING_RATE, Cause.POST_NORM, Cause.ATTENTION_SATURATION, Cause.RESIDUAL_GROWTH}
PART = 4
"""The warm-up is this part of a trial."""
FEWEST = 2
"""Steps of a warm-up."""


def propose(situation: Situation) -> list[Change]:
    """One schedule, whose length the trial can judge."""
    rate = rate_of(situation)
    if rate is None or not _CAUSES & set(situation.causes):
        return []
    steps = max(situation.steps // PART, FEWEST)
    ratio = evidence_of(situation, STEP_RATIO)
    start = 1.0 / steps
    if ratio is not None and math.isfinite(ratio) and ratio > 0.0:
        start = min(start, UPDATE_USUAL / ratio)
    start = one_digit(start)
    return [
        Change(
            kind="warmup",
            title=f"Warm the learning rate up over {steps} steps, from {one_digit(rate * start):g} to {rate:.3g}.",
            where=("optimizer",),
            reason="the first steps are the longest, taken when least is known of the gradients",
            numbers=(("start", start), ("steps", float(steps))),
            code=(
                f"warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor={start:g}, total_iters={steps})\n"
                "optimizer.register_step_post_hook(lambda *_: warm_up.step())"
            ),
            source="Goyal et al. 2017; Xiong et al. 2020",
        )
    ]


def factor_at(change: Change) -> Callable[[int], float]:
    """What the rate is multiplied by at each step, counted from 0: that of torch's LinearLR.

    >>> change = Change("warmup", "", (), numbers=(("start", 0.2), ("steps", 4.0)))
    >>> [round(factor_at(change)(step), 2) for step in range(6)]
    [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    """
    start, steps = change.number("start"), change.number("steps")
    return lambda step: start + (1.0 - start) * min(step, steps) / steps


def apply(change: Change, twin: Twin) -> None:
    """The schedule that is recommended, on every optimizer."""
    if not twin.optimizers:
        raise RefusalError("there is no optimizer whose learning rate could be warmed up")
    for optimizer in twin.optimizers:
        if any(group.get("lr") is None for group in optimizer.param_groups):
            raise RefusalError(f"{type(optimizer).__name__} has no learning rate")
    for optimizer in twin.optimizers:
        schedule = LinearLR(optimizer, start_factor=change.number("start"), total_iters=int(change.number("steps")))
        optimizer.register_step_post_hook(_stepping(schedule))


def _stepping(schedule: LinearLR) -> Callable[[Any, Any, Any], None]:
    def step(_optimizer: Any, _args: Any, _kwargs: Any) -> None:
        schedule.step()

    return step


KIND = Kind(propose, apply)
