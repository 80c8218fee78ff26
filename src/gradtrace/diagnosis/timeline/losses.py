"""Does the loss run away, or stop being a number?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradtrace.diagnosis.thresholds import (
    CLEAR_DECADES,
    DEAD_SIGMAS,
    DIVERGED_FACTOR,
    EFFECT_FRAC,
    FALLEN_FACTOR,
    FOLLOWED_STEPS,
    SPIKE_WINDOW,
    SUSTAINED_FRAC,
    SUSTAINED_ROWS,
    UPDATE_HEALTHY,
    UPDATE_REPLACES,
    UPDATE_USUAL,
)
from gradtrace.diagnosis.timeline.before import before, matrices, ratios_of_matrices
from gradtrace.diagnosis.timeline.trainings import trainings
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.run import Scalar, Series
from gradtrace.records.shown import counted
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradtrace.records.run import Run


def judge(run: Run) -> list[Finding]:
    """Divergence, and the first step that was not finite."""
    found = [*(_diverged(run, *each) for each in trainings(run)), _not_finite(run)]
    return [finding for finding in found if finding is not None]


def last_rows(num_rows: int) -> int:
    """How many of the latest rows must agree before anything is said of them."""
    return max(SUSTAINED_ROWS, int(SUSTAINED_FRAC * num_rows))


def finite_losses(run: Run) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Steps, and the smallest and largest loss, of the rows that have one."""
    low, high = run.steps.scalar(Scalar.LOSS)
    known = np.isfinite(low) & np.isfinite(high)
    return run.steps.first[known], low[known], high[known]


def _diverged(run: Run, begin: float, end: float) -> Finding | None:
    """The loss is far above its start in most of the latest rows of these steps, and nearly never as low.

    A loss may also grow because the task gets harder (a curriculum, targets that are bootstrapped): then no step is
    large. How grave it is, the steps tell.
    """
    steps, low, high = finite_losses(run)
    within = (steps >= begin) & (steps < end)
    steps, low, high = steps[within], low[within], high[within]
    width = last_rows(len(steps))
    if len(steps) < 2 * width:
        return None
    start = high[: _num_start_rows(run, steps, high)]
    limit = float(np.median(start) + (DIVERGED_FACTOR - 1.0) * np.abs(start).max())
    late = low[-width:]
    if not (np.median(late) > limit and np.quantile(late, SUSTAINED_FRAC) > np.median(start)):
        return None
    first = _first_above(low > limit, width)
    onset = int(steps[first])
    earlier, now = float(np.median(low[: max(first, 1)])), float(np.median(late))
    at_once = onset <= int(steps[_num_start_rows(run, steps, high)])
    ratio = largest_update(run, onset, small_too=at_once)
    cause = Cause.LEARNING_RATE if ratio > UPDATE_HEALTHY else Cause.LOSS_FUNCTION
    severity, told = _how_grave(ratio, growth=abs(now) / float(np.abs(start).max()))
    return Finding(
        symptom=Symptom.EXPLODING,
        cause=cause,
        where=("",),
        severity=severity,
        message=f"Since step {onset} the loss is mostly more than {DIVERGED_FACTOR:g} times what it was at the "
        f"start: {earlier:.4g} before, {now:.4g} now. {told}",
        evidence=(
            Evidence("loss before", earlier),
            Evidence("loss now", now),
            Evidence("update to weight ratio", ratio),
        ),
        remedies=remedies_for(Symptom.EXPLODING, cause),
        step=onset,
    )


def falls_since(run: Run, step: int) -> bool:
    """Whether the loss has halved at least since `step`, and is about as low as it ever was."""
    steps, low, high = finite_losses(run)
    width = last_rows(len(steps))
    before, after = high[steps <= step][-width:], low[steps > step]
    if not len(before) or len(after) < 2 * width or low.min() < 0.0:
        return False
    smooth = _smooth(after, width)
    return bool(smooth[-1] <= np.median(before) / FALLEN_FACTOR and smooth[-1] <= FALLEN_FACTOR * smooth.min())


def fallen_before(run: Run, step: int, factor: float = FALLEN_FACTOR) -> bool:
    """Whether the losses that led up to `step` were below the first ones by `factor` at least."""
    steps, _, high = finite_losses(run)
    steps, led_up = steps[steps < step], high[steps < step]
    width = last_rows(len(led_up))
    if len(led_up) < 2 * width:
        return False
    return bool(np.median(_late(steps, led_up, width)) <= np.median(led_up[:width]) / factor)


def halved_since(run: Run, step: int) -> bool:
    """Whether each of the latest losses, two at least, is half of what they were at `step`, however few were read."""
    steps, low, high = finite_losses(run)
    before, after = high[steps <= step], steps > step
    width = last_rows(len(before))
    if len(before) < width or low.min(initial=0.0) < 0.0 or after.sum() < 2:
        return False
    late = _late(steps[after], high[after], width)
    return bool(len(late) > 1 and late.max() <= np.median(before[-width:]) / FALLEN_FACTOR)


def is_on_its_way(run: Run, step: int) -> bool:
    """Whether the loss has come down within `FOLLOWED_STEPS` of `step`, by as much as counts, and goes on to."""
    steps, _, high = finite_losses(run)
    soon = (steps >= step) & (steps <= step + FOLLOWED_STEPS)
    steps, high = steps[soon], high[soon]
    width = min(last_rows(len(high)), len(high))
    if len(high) <= width:
        return False
    late, start = _late(steps, high, width), float(np.median(high[:width]))
    came_down = np.median(late) <= start - max(EFFECT_FRAC * abs(start), by_chance(high, width, len(late)))
    is_young = run.steps.first[0] + followed(run) < step + FOLLOWED_STEPS
    return bool(came_down) and (is_young or moved(run, middle(run)) == -1)


def latest(run: Run) -> float:
    """The median of the latest losses (the larger one of each row); NaN where too few are known."""
    steps, _, high = finite_losses(run)
    width = last_rows(len(high))
    return float(np.median(_late(steps, high, width))) if len(high) >= 2 * width else math.nan


def stays_below(run: Run, level: float) -> bool:
    """Whether the latest losses, of the later half of the steps and two at least, are all at `level` or below."""
    steps, low, high = finite_losses(run)
    late = _late(steps, high, last_rows(len(high))) if len(high) else high
    return len(late) > 1 and bool(late.max() <= level) and bool(low.min() >= 0.0)


def _late(steps: NDArray[np.int64], values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """The last `width` at most, of the later half of the steps: rows lie close at a run's beginning, and then apart."""
    late: NDArray[np.float64] = values[-width:][steps[-width:] >= (steps[0] + steps[-1]) / 2.0]
    return late


def middle(run: Run) -> int:
    """The step from which on the later half of the known losses lies."""
    steps = finite_losses(run)[0]
    return int(steps[len(steps) // 2]) if len(steps) else 0


def followed(run: Run) -> int:
    """Steps from the run's first to the last whose loss is known: none is while the watch rests."""
    steps = finite_losses(run)[0]
    return int(steps[-1] - run.steps.first[0]) + 1 if len(steps) else 0


def fell(run: Run) -> bool:
    """Whether the latest losses lie below the first by a thousandth, and by more than chance."""
    return moved(run, int(run.steps.first[0])) == -1


def trained(run: Run, constant: float = 0.0) -> bool:
    """Whether the loss has come down by so much that it counts, and stayed there, below `constant` (0: not known)."""
    steps, _, high = finite_losses(run)
    width = last_rows(len(high))
    if len(high) < 2 * width:
        return False
    late = _late(steps, high, width)
    start, now = float(np.median(high[:SUSTAINED_ROWS])), float(np.median(late))
    least = start - max(EFFECT_FRAC * abs(start), by_chance(high, SUSTAINED_ROWS, len(late)))
    if high.min() > 0.0 and now > FALLEN_FACTOR * _smooth(high, width).min():
        return False
    return now <= (min(least, constant) if constant > 0.0 else least)


def _smooth(losses: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(losses, width), axis=1))


def moved(run: Run, since: int) -> int | None:
    """1 where the latest losses lie above those from step `since` on by a thousandth and more than chance, -1 below.

    0 where they lie neither above nor below; None: no loss is known.
    """
    steps, _, high = finite_losses(run)
    steps, high = steps[steps >= since], high[steps >= since]
    width = min(last_rows(len(high)), len(high))
    if not width:
        return None
    late = _late(steps, high, width)
    start, now = float(np.median(high[:width])), float(np.median(late))
    margin = max(UPDATE_USUAL * abs(start), by_chance(high, width, len(late)))
    return (now > start + margin) - (now < start - margin)


def by_chance(losses: NDArray[np.float64], *widths: int) -> float:
    """By how much the medians of two stretches of so many losses differ by chance alone: batches are not alike.

    A median's standard error is 1.25 sigma / sqrt(width); sigma is taken from row to row, which no trend adds to.
    """
    sigma = float(np.std(np.diff(losses))) / math.sqrt(2.0) if len(losses) > 1 else 0.0
    return DEAD_SIGMAS * 1.25 * sigma * math.sqrt(sum(1.0 / width for width in widths))


def _first_above(above: NDArray[np.bool_], width: int) -> int:
    """The first row from which on most of any `width` rows lie above: an oscillation dips below now and then."""
    mostly = np.lib.stride_tricks.sliding_window_view(above, width).mean(axis=1) > 0.5
    not_yet = np.flatnonzero(~mostly)
    start = int(not_yet[-1]) + 1 if len(not_yet) else 0
    return start + int(np.flatnonzero(above[start:])[0])


def _num_start_rows(run: Run, steps: NDArray[np.int64], high: NDArray[np.float64]) -> int:
    """The first rows, as several as one small loss by chance is no measure; none that steps had blown up already.

    Weights that start near zero may be replaced by design, but not with a loss that jumps.
    """
    size = np.abs(high)
    for row in range(1, SUSTAINED_ROWS):
        jumped = size[row] > DIVERGED_FACTOR * size[:row].max()
        if jumped and largest_update(run, int(steps[row]), small_too=True) > UPDATE_REPLACES:
            return row
    return SUSTAINED_ROWS


def _how_grave(ratio: float, growth: float) -> tuple[Severity, str]:
    """By the largest update-to-weight ratio from before the onset until now (0: not known), and the loss's growth."""
    if ratio > UPDATE_REPLACES:
        return Severity.CRITICAL, f"Updates of up to {ratio:.2g} times the weights go with it."
    if ratio > UPDATE_HEALTHY:
        return Severity.WARNING, f"The largest update was {ratio:.2g} of its weight, which is a lot."
    told = (
        f"No step was large (at most {ratio:.2g} of its weight)"
        if ratio
        else "By how much the steps moved is not known"
    )
    clear = growth >= 10**CLEAR_DECADES or not ratio
    return (Severity.WARNING if clear else Severity.INFO), f"{told}: the targets may have grown, or its sign is wrong."


def largest_update(run: Run, onset: int, *, small_too: bool = False) -> float:
    """The largest update-to-weight ratio of a matrix from just before step `onset` on; 0 where none was measured.

    `small_too`: also of those near zero, but not of zeros.
    """
    row = int(np.searchsorted(run.steps.first, onset, side="right"))
    whole = run.steps.series(Series.UPDATE_RATIO)[1][:, matrices(run)]
    seen = (whole if small_too else ratios_of_matrices(run))[max(0, row - SPIKE_WINDOW) :]
    seen = seen[np.isfinite(seen)]
    return float(seen.max()) if seen.size else 0.0


def came_before(run: Run, onset: int) -> tuple[bool, str]:
    """Whether the loss or the steps ran away in front of step `onset`, and what the rows before it say, in words."""
    steps, low, high = finite_losses(run)
    earlier = np.abs(high[steps < onset])
    led_up = before(run, onset)
    if not len(earlier):
        return led_up.replaced, f"Nothing came before it.{led_up.sentence if led_up.replaced else ''}"
    grew = bool(len(earlier) > 1 and earlier[-SUSTAINED_ROWS:].max() > DIVERGED_FACTOR * np.median(earlier))
    last = f"{low[steps < onset][-1]:.4g}"
    how = f"The loss had {'grown' if grew else 'been steady'} (last {last})."
    if len(earlier) == 1:
        how = f"The loss before it was {last}."
    return grew or led_up.replaced, how + led_up.sentence


def _not_finite(run: Run) -> Finding | None:
    bad = np.flatnonzero(run.steps.nonfinite)
    if not len(bad):
        return None
    onset = int(run.steps.first[bad[0]])
    ran_away, came = came_before(run, onset)
    cause = Cause.LEARNING_RATE if ran_away else Cause.UNSAFE_OP
    return Finding(
        symptom=Symptom.NONFINITE,
        cause=cause,
        where=("",),
        severity=Severity.CRITICAL,
        message=f"Since step {onset} the loss or a gradient is not finite, in "
        f"{counted(int(run.steps.nonfinite.sum()), 'step')}. {came}",
        evidence=(Evidence("steps that are not finite", float(run.steps.nonfinite.sum()), "steps"),),
        remedies=remedies_for(Symptom.NONFINITE, cause),
        step=onset,
    )
