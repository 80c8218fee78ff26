"""The exhibit as the rules see it: each trace with its paths and profiles worked out once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradtrace.diagnosis.moved import USUAL
from gradtrace.diagnosis.profile import Profile, profiles
from gradtrace.measure.path import Paths

if TYPE_CHECKING:
    from gradtrace.diagnosis.moved import Limits
    from gradtrace.records.exhibit import Exhibit
    from gradtrace.records.trace import Trace


@dataclass(frozen=True, slots=True)
class View:
    """One trace, its critical paths and its profiles by depth."""

    trace: Trace
    paths: Paths
    profiles: tuple[Profile, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """What every rule is given."""

    exhibit: Exhibit
    views: tuple[View, ...]
    """The finite traces of the loss gradient, one per batch."""
    probe: View | None = None
    """The trace of a random cotangent, if there is one and it is finite."""
    limits: Limits = USUAL
    """From where on the rules speak."""

    @property
    def traces(self) -> tuple[Trace, ...]:
        """The finite traces."""
        return tuple(view.trace for view in self.views)


def is_finite(trace: Trace) -> bool:
    """Whether loss, parameters and every gradient of a trace are finite."""
    if trace.probe == "loss" and not math.isfinite(trace.loss):
        return False
    if not all(parameter.finite for parameter in trace.parameters):
        return False
    gradients = (stats for op in trace.ops for stats in (op.received, *op.passed) if stats is not None)
    return all(stats.nonfinite_frac == 0.0 for stats in gradients)


def make_scene(exhibit: Exhibit, limits: Limits = USUAL) -> Scene:
    """Work out paths and profiles of the finite traces."""
    views = tuple(make_view(trace) for trace in exhibit.traces if is_finite(trace))
    probe = exhibit.probe
    return Scene(exhibit, views, make_view(probe) if probe is not None and is_finite(probe) else None, limits)


def make_view(trace: Trace, like: Trace | None = None) -> View:
    """Paths and profiles of a finite trace; `like` is a trace of the same network that knows its loops through time.

    Whether a loop takes in something new at each step is the graph's, and no step of an optimizer changes it.
    """
    paths = Paths(trace)
    return View(trace, paths, profiles(trace, paths, like.through_time if like is not None else None))
