"""Which learned scales hold the gradient back at the start only?

A branch, head, adapter or norm that begins at zero (Goyal et al. 2017; Zhang et al., Fixup, 2019; Bachlechner et al.,
ReZero, 2021), and a layer scale that begins at 1e-6 (Touvron et al., CaiT, 2021), multiply the gradient of what lies
behind them by next to nothing, by design: the scale itself gets its whole gradient and is another one a step later.

    y = gamma * x,    dL/dx = gamma dL/dy,    dL/dgamma = sum(x dL/dy), however small gamma is

An output layer that starts small (0.01 in policies: Andrychowicz et al. 2021) does so too. It is near zero if its rms
is a tenth of 1 / sqrt(fan_in) or less, and that it leaves it must be seen on a copy.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.diagnosis.layer import gain_of, rms_to_fan_in
from gradtrace.diagnosis.thresholds import CLEAR_DECADES, GROWS, NEAR_ZERO, UPDATE_REPLACES, UPDATE_USUAL
from gradtrace.records.vocabulary import Factor
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from gradtrace.diagnosis.profile import Profile
    from gradtrace.diagnosis.scene import View
    from gradtrace.records.exhibit import Training
    from gradtrace.records.trace import Op, ParameterStats


def held_at_the_start(profile: Profile, view: View, training: Training | None) -> float:
    """Decades of what `profile` loses that it loses in scales which a step makes others (-inf: in zeros), or 0."""
    stop = next((link.op for link in profile.links if math.isinf(link.decades)), None)
    if stop is not None:
        return -math.inf if starts_at_zero(stop, view) and not _is_blind(profile) else 0.0
    late = max((_rate(p) for p in operands(profile.reference, view)), default=0.0)
    updates = {update.name: update.ratio for update in training.updates} if training is not None else {}
    held = sum(link.decades for link in profile.links if link.decades < 0.0 and _opens(link.op, view, updates, late))
    if -profile.lost < CLEAR_DECADES and _output_leaves_zero(profile, view, training):
        held += min(0.0, sum(link.decades for link in profile.links if link.op is profile.reference))
    return held


def _is_blind(profile: Profile) -> bool:
    """Whether all examples, which differ as they come in, are one and the same to the last layer.

    Zeros in a row do that, behind which nothing of the data goes on: leaving zero, the last layer follows a constant.
    """
    there, here = profile.first.forward, profile.layers[0].forward
    return there is not None and here is not None and there.differing > 0.0 and here.differing == 0.0


def _output_leaves_zero(profile: Profile, view: View, training: Training | None) -> bool:
    """Whether the last layer starts near zero, and its gain grew on a copy (without a trial it is believed)."""
    head = profile.reference
    if view.paths.depths[head.index] or not any(0.0 < size <= NEAR_ZERO for size in rms_to_fan_in(head, view.trace)):
        return False
    after = training.after if training is not None else None
    if after is None:
        return True
    now = max((gain_of(op, after) for op in after.ops if op.weights == head.weights), default=0.0)
    return now >= GROWS * gain_of(head, view.trace)


def _opens(op: Op, view: View, updates: dict[str, float], late: float) -> bool:
    """Whether the first step replaces the scale that `op` multiplies by.

    Without a trial step: at the learning rate that changes the late layer by the usual fraction.
    """
    if base_name(op.name) != "Mul":
        return False
    scales = [p for p in operands(op, view) if p.numel == max((*p.shape, 1))]
    guesses = {p.name: UPDATE_USUAL * _rate(p) / late if late else 0.0 for p in scales}
    return any(updates.get(name, guess) >= UPDATE_REPLACES for name, guess in guesses.items())


def starts_at_zero(op: Op, view: View) -> bool:
    """Whether an operand of `op` (of a layer: not its bias) is a parameter of zeros that gets a gradient."""
    if op.factor is Factor.NORM:  # its scale: its shift starts at zero in every network
        scale = op.targets[1] if len(op.targets) > 1 else None
        found = [p for p in operands(op, view) if scale is not None and p.name == view.trace.ops[scale[0]].parameter]
    else:
        found = [p for p in operands(op, view) if not op.weights or len(p.shape) > 1]
    return any(p.norm == 0.0 and p.gradient is not None and p.gradient.norm > 0.0 for p in found)


def operands(op: Op, view: View) -> list[ParameterStats]:
    """The parameters that `op` multiplies or adds, directly or through views."""
    names = set(op.weights) | {view.trace.ops[t[0]].parameter for t in op.targets if t is not None}
    return [p for p in view.trace.parameters if p.name in names]


def _rate(parameter: ParameterStats) -> float:
    """|g| / |w|: how much of itself a step of learning rate one changes; 0 without either."""
    if parameter.gradient is None or parameter.norm == 0.0:
        return 0.0
    return parameter.gradient.norm / parameter.norm
