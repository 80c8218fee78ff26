"""What did a trial run do: how far the first step moved, whether the loss ran away, which layers died?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.scene import is_finite
from gradtrace.diagnosis.silence import dead_by_key, deadly_units
from gradtrace.diagnosis.thresholds import DIVERGED_FACTOR, SATURATED_MAJORITY, UPDATE_REPLACES

if TYPE_CHECKING:
    from gradtrace.diagnosis.scene import Scene
    from gradtrace.records.exhibit import Training, UpdateStats
    from gradtrace.records.trace import Op


def weights_moved(training: Training) -> list[UpdateStats]:
    """The first step's change of each weight matrix, the largest ratio first.

    Vectors (biases, gains) and weights that start at zero have no scale of their own to compare with.
    """
    found = [u for u in training.updates if u.weight_norm > 0.0 and len(u.shape) > 1]
    return sorted(found, key=lambda update: -update.ratio)


def large_updates(training: Training) -> list[UpdateStats]:
    """Weights that one step replaces."""
    return [u for u in weights_moved(training) if u.ratio > UPDATE_REPLACES]


def diverged(training: Training) -> bool:
    """Whether the loss of the trial grew tenfold and stayed there (one spike that comes back is none)."""
    losses = [loss for loss in training.losses if math.isfinite(loss)]
    if not losses or max(losses[-2:]) - losses[0] <= _tenfold(training):
        return False
    # at a minimum every step raises the loss, once; a step that overshoots does so again and again
    return max(losses[-2:]) >= max(losses) or bool(large_updates(training))


def spiked(training: Training) -> bool:
    """Whether the loss grew tenfold under steps that replace the weights, and came back."""
    losses = [loss for loss in training.losses if math.isfinite(loss)]
    grew = bool(losses) and max(losses) - losses[0] > _tenfold(training)
    return grew and bool(large_updates(training)) and not diverged(training)


def _tenfold(training: Training) -> float:
    """The increase that makes the loss ten times what it was at the start."""
    return (DIVERGED_FACTOR - 1.0) * max(abs(training.losses[0]), training.usual_loss)


def dead_now(scene: Scene, training: Training) -> list[tuple[Op, float]]:
    """Layers most of whose units were alive before the trial and are not after it, with the fraction that is dead."""
    if training.after is None or not is_finite(training.after):
        return []
    alive = {key: 1.0 - len(u.silent) / u.num_units for key, u in deadly_units(scene.traces[0]).items()}
    # most of what was alive, on a batch alone, is not any more
    found = dead_by_key((training.after,), rare=False, least_frac=scene.limits.dead_frac)
    now = [(u.op, frac) for key, (u, frac) in found.items() if 1.0 - frac < SATURATED_MAJORITY * alive.get(key, 1.0)]
    return sorted(now, key=lambda pair: (-pair[1], pair[0].sequence))


def fails(scene: Scene, training: Training) -> bool:
    """Whether the loss of a trial runs away, or layers die in it."""
    if training.broke_at is not None or diverged(training) or spiked(training):
        return True
    return bool(training.losses) and bool(dead_now(scene, training))
