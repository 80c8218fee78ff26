"""Where does the measurement leave the theory? Value by value, each from the measured gradients of its users."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradtrace.audit.gradients import arrival_of, local_variance
from gradtrace.records.prediction import Disagreement

if TYPE_CHECKING:
    from gradtrace.audit.gradients import Propagation
    from gradtrace.audit.recording import Recording, Step, Value

SIGMAS = 4.0
"""Beyond these many standard deviations a local growth disagrees: 6e-5 by chance, times a hundred places."""
LEAST = math.log(1.5)
"""And by at least this in ln E[g^2] (a fifth of the RMS gradient), whatever the interval."""
SUMS = ("add", "radd", "iadd", "sub", "rsub", "isub", "cat", "stack")
"""What adds gradient to gradient: beyond them nothing is said of a value."""
FORMATS = ("to", "type", "type_as", "float", "double", "half", "bfloat16")
"""Functions that change the number format."""
SLACK = 0.08
"""Standard deviation of ln growth that every step is granted beyond the theory's."""


def disagreements(
    recording: Recording, propagation: Propagation, measured: list[float], num_cotangents: int
) -> tuple[Disagreement, ...]:
    """One per place whose measured growth lies outside; the first to blame is the farthest out."""
    found: list[Disagreement] = []
    for value in recording.values:
        if not value.consumers or propagation.gradients[value.index].energy <= 0:
            continue
        terms = _terms(recording, propagation, value, measured) + [1.0] * (value.index in recording.outputs)
        expected = sum(terms)
        step = recording.steps[value.consumers[0][0]]
        if not expected > 0 or _measured_below(recording, propagation, value):
            continue
        seen = measured[value.index]
        variance = local_variance(recording, propagation, value.index, num_cotangents) + SLACK**2
        variance += max(propagation.effects[index].scatter for index, _ in value.consumers) ** 2
        tied = propagation.effects[step.index].transport is not None or _meet_again(recording, propagation, value)
        lowest, highest = _reach(terms) if tied else (expected, expected)
        ratio = math.log(seen / min(max(seen, lowest), highest)) if seen > 0 else -math.inf
        sigmas = ratio / math.sqrt(variance)
        if abs(sigmas) > SIGMAS and abs(ratio) > LEAST:
            above = max((measured[o] for o in step.outputs if math.isfinite(measured[o])), default=math.nan)
            found.append(_say(step, propagation, expected / above, seen / above, sigmas))
    return tuple(sorted(found, key=lambda d: -abs(d.num_sigmas)))


def _terms(recording: Recording, propagation: Propagation, value: Value, measured: list[float]) -> list[float]:
    """What each output of each user of a value should hand to it, of what was measured there."""
    return [
        arrival_of(recording, propagation.effects[index], step, slot, output, propagation.gradients[output]).growth
        * measured[output]
        for index, slot in value.consumers
        for step in [recording.steps[index]]
        for output in step.outputs
        if math.isfinite(measured[output])
    ]


def _measured_below(recording: Recording, propagation: Propagation, value: Value) -> bool:
    """Whether a user is a step without a rule, or leads, without weights, to one that multiplies what it is given."""
    stack, seen = [index for index, _ in value.consumers], set[int]()
    first = set(stack)
    while stack:
        index = stack.pop()
        effect, step = propagation.effects[index], recording.steps[index]
        if effect.note and (index in first or len(step.inputs) > 1):
            return True
        if index not in seen and effect.fan is None and step.function not in SUMS:
            seen.add(index)
            stack += [i for output in step.outputs for i, _ in recording.values[output].consumers]
    return False


def _meet_again(recording: Recording, propagation: Propagation, value: Value) -> bool:
    """Whether two users' results meet before weights have made them independent, as in x * sigmoid(x)."""
    seen: set[int] = set()
    for user in dict.fromkeys(index for index, _ in value.consumers):
        own, stack = set[int](), [user]
        while stack:
            index = stack.pop()
            if index not in own and propagation.effects[index].fan is None:
                own.add(index)
                stack += [i for output in recording.steps[index].outputs for i, _ in recording.values[output].consumers]
        if own & seen:
            return True
        seen |= own
    return False


def _reach(terms: list[float]) -> tuple[float, float]:
    """Least and most that gradients of these energies sum to: a cell's weights serve all steps, so they are dependent.

    >>> _reach([1.0, 4.0])
    (1.0, 9.0)
    """
    sizes = [math.sqrt(term) for term in terms]
    return max(2 * max(sizes) - sum(sizes), 0.0) ** 2, sum(sizes) ** 2


def _say(step: Step, propagation: Propagation, expected: float, seen: float, sigmas: float) -> Disagreement:
    where = step.module or "the model"
    beside = f" ({step.source})" if step.source else ""
    effect, signal = propagation.effects[step.index], propagation.signals[step.inputs[0]]
    if seen == 0 and step.function in FORMATS:
        why = "the number format rounds it to zero: scale the loss, or keep this part in float32"
    elif seen == 0 or math.isnan(seen):
        why = "no gradient comes through: cut (detach, no_grad), or every unit is dead"
    elif effect.transport is not None:
        why = "the weights are not independent with mean zero, or the input is not what the layers below predict"
    elif effect.activation:
        why = (f"the pre-activations are not what zero-mean weights make of the input (predicted E[z^2] = "
               f"{signal.second:.3g}): look at the biases and the input's scale")  # fmt: skip
    elif effect.fan is not None:
        why = "the weights are not independent with mean zero: trained, tied, low rank, or wrongly initialised"
    elif step.function.endswith("norm"):
        why = f"the variance that it divides by is not the predicted {signal.variance:.3g}: look at what feeds it"
    else:
        why = "the branches that meet here are not independent"
    seen_text = "none" if math.isnan(seen) else f"{seen:.3g}"
    message = f"{where}{beside}: {step.function} multiplies E[g^2] by {seen_text}, predicted {expected:.3g}: {why}"
    return Disagreement(where, expected, seen, sigmas, message)
