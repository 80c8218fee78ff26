"""Which numbers of a run under watch does a trial need? Losses, updates at the first layer, gradients by depth."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from gradtrace.diagnosis.profile import profiles
from gradtrace.measure.path import Paths
from gradtrace.records.run import Scalar, Series
from gradtrace.repair.before import levels_of

if TYPE_CHECKING:
    from gradtrace.monitor.watch import Watch
    from gradtrace.records.run import Run


def losses_of(run: Run) -> tuple[float, ...]:
    """By step; of one that is not known the one before is told again."""
    steps, found = run.steps, list[float]()
    high = steps.scalar(Scalar.LOSS)[1]
    for i, count in enumerate(steps.count):
        loss = math.inf if steps.nan_losses[i] else float(high[i])
        if math.isnan(loss):
            loss = found[-1] if found else math.nan
        found += [loss] * int(count)
    known = next((loss for loss in found if not math.isnan(loss)), None)
    if known is None:
        return ()
    found = [known if math.isnan(loss) else loss for loss in found]
    broken = next((i for i, loss in enumerate(found) if math.isinf(loss)), len(found))
    return tuple(found[: broken + 1])


def ratio_of(run: Run, name: str) -> float | None:
    """Median |update| / |weight| of a parameter, of the steps at which it was measured."""
    column = next((i for i, parameter in enumerate(run.header.parameters) if parameter.name == name), None)
    if column is None:
        return None
    known = [float(x) for x in run.steps.series(Series.UPDATE_RATIO)[1][:, column] if math.isfinite(x)]
    return statistics.median(known) if known else None


def along_the_depth(watch: Watch) -> tuple[tuple[tuple[str, float], ...], float | None]:
    """(layer, decades of its gradient) from the loss on, and those of the first against the late one; at step 0."""
    if not watch.traces:
        return (), None
    trace = watch.traces[0]
    try:
        paths = Paths(trace)
        profile = next(iter(profiles(trace, paths)), None)
        decades = profile.decades_norm if profile is not None else None
        return levels_of(trace, paths), decades if decades is not None and math.isfinite(decades) else None
    except (ArithmeticError, ValueError):
        return (), None  # of a trace that is not finite
