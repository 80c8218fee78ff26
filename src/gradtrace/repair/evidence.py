"""Is a trial better than another, seed by seed, beyond chance? The interval of paired differences decides.

    d_s = f(loss of the candidate, seed s) - f(loss of the other, seed s),    mean(d) +- t(n-1, 0.975) s_d / sqrt(n)

f is log where no loss is negative, so that the difference is a ratio. A run that ends above ten times the unchanged
network's first loss has diverged (as in the rule of diverging steps), and how far is chance: it counts as ten times. So
does a ratio beyond ten, and where losses are negative a difference beyond ten of what the smaller of two usually is,
either way: what is cut symmetrically stays symmetric where neither is better, and a pair that is far apart says no more
than that (Huber, Robust estimation of a location parameter, 1964).
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from gradtrace.diagnosis.thresholds import DIVERGED_FACTOR, DOMINANT_FRAC, EFFECT_FRAC, EFFECT_RATIO
from gradtrace.records.repair import Difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.repair import Trial

T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 1.960)
"""Student's t at 97.5 % for 1 to 10 degrees of freedom, and for more than these (Fisher 1925, table IV)."""


def difference(candidate: Sequence[float], other: Sequence[float], scale: float) -> Difference | None:
    """Paired by position; None without a pair. `scale` is the unchanged network's first loss.

    >>> told = difference([0.5, 0.6, 0.55], [2.3, 2.3, 2.31], 2.3)
    >>> told.better, round(told.mean, 2)
    (True, -1.43)
    >>> difference([0.5, 4.0, 0.6], [2.3, 2.3, 2.31], 2.3).better
    False
    """
    limit = DIVERGED_FACTOR * max(abs(scale), 1e-12) if math.isfinite(scale) else math.inf
    pairs = [(min(c, limit), min(o, limit)) for c, o in zip(candidate, other, strict=False)]
    pairs = [(c, o) for c, o in pairs if not (math.isinf(c) and math.isinf(o))]
    if not pairs:
        return None
    if all(math.isinf(o) and math.isfinite(c) for c, o in pairs):
        return Difference(-math.inf, -math.inf, -math.inf)  # the other has no finite loss at all
    if any(math.isinf(x) for pair in pairs for x in pair):
        return Difference(math.inf, math.inf, math.inf)
    logs = all(x >= 0.0 for pair in pairs for x in pair)
    usual = max(limit, DIVERGED_FACTOR * statistics.median(min(abs(c), abs(o)) for c, o in pairs))
    found = [_log_ratio(c, o) if logs else max(-usual, min(usual, c - o)) for c, o in pairs]
    mean = statistics.fmean(found)
    if len(found) == 1:
        return Difference(mean, -math.inf, math.inf, logs)  # of one pair nothing is known about chance
    half = T_975[min(len(found) - 2, len(T_975) - 1)]
    half *= statistics.stdev(found) / math.sqrt(len(found))
    return Difference(mean, mean - half, mean + half, logs)


FURTHEST = math.log(DIVERGED_FACTOR)
"""[nats] A ratio that is larger counts as this."""


def _log_ratio(candidate: float, other: float) -> float:
    if candidate == other:
        return 0.0
    if not candidate or not other:
        return -FURTHEST if not candidate else FURTHEST
    return max(-FURTHEST, min(FURTHEST, math.log(candidate / other)))


def against(trial: Trial, other: Trial) -> Difference | None:
    """Of two trials, paired by seed; None without a pair."""
    scale = other.start if other.start is not None and math.isfinite(other.start) else math.inf
    by_seed = {outcome.seed: outcome.end for outcome in other.outcomes}
    pairs = [(o.end, by_seed[o.seed]) for o in trial.outcomes if o.seed in by_seed]
    return difference([c for c, _ in pairs], [o for _, o in pairs], scale)


def told_apart(trial: Trial, other: Trial) -> bool:
    """Whether `trial` is better than `other` beyond chance, and by what is worth an edit."""
    found = against(trial, other)
    return found is not None and found.better and gained(trial, other)


def gained(trial: Trial, other: Trial) -> bool:
    """Whether the median end is lower than the other's by the least that is worth an edit: in loss, or in ratio."""
    assert other.start is not None
    assert trial.end is not None
    assert other.end is not None
    ratio = EFFECT_RATIO * other.end if trial.end >= 0.0 else -math.inf  # of a loss that is all gone, none is left
    return trial.end < max(other.end - EFFECT_FRAC * _scale(trial, other), ratio)


def as_good(trial: Trial, best: Trial, original: Trial) -> bool:
    """Whether `trial` gains nearly what `best` does over the unchanged network; or half of it, within chance.

    Where trainings scatter, few seeds tell nothing apart: that alone makes no change as good as another.
    """
    part = _part_of_gain(trial, best, original)
    return part >= 1.0 - EFFECT_FRAC or (part >= DOMINANT_FRAC and not told_apart(best, trial))


def _part_of_gain(trial: Trial, best: Trial, original: Trial) -> float:
    """Counted from the unchanged network's end; of one that grows worse, from the lowest loss that one begins with."""
    known = [one for one in (original.start, original.end, trial.start, best.start) if one is not None]
    assert trial.end is not None
    assert best.end is not None
    begun = min((one for one in known if math.isfinite(one)), default=math.inf)
    if math.isinf(begun) or begun <= best.end:
        return float(trial.end <= best.end)
    return (begun - trial.end) / (begun - best.end)


def has_learnt(trial: Trial, original: Trial) -> bool:
    """Whether less is left of its loss than is worth an edit: what ails it now has kept it from nothing.

    Units that are sure of every example are flat, and pass little on.
    """
    starts = [one for one in (trial.start, original.start) if one is not None and math.isfinite(one)]
    return trial.end is not None and bool(starts) and trial.end <= EFFECT_FRAC * min(starts)


def fell(trial: Trial, original: Trial) -> bool:
    """Whether its own loss fell, from where the unchanged network's began (or its own, where that is not finite).

    Beside a network that breaks, every fall counts, with every seed: there is no other loss to hold it against.
    """
    assert trial.start is not None
    assert trial.end is not None
    assert original.start is not None
    if original.end is not None and math.isinf(original.end):
        return all(outcome.end < outcome.start for outcome in trial.outcomes)
    start = original.start if math.isfinite(original.start) else trial.start
    return trial.end < start - EFFECT_FRAC * _scale(trial, original)


def _scale(trial: Trial, original: Trial) -> float:
    for start in (original.start, trial.start):
        if start is not None and math.isfinite(start):
            return abs(start)
    return 0.0
