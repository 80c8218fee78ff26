"""How do signal and gradient travel through the recorded network? Forward along the steps, backward against them.

Forward, each step's rule makes its outputs' signals from those of its inputs; backward, see `gradients`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.audit.gradients import Propagation, backward
from gradtrace.audit.probing import local_growth
from gradtrace.audit.rules.effect import Effect, Scene
from gradtrace.audit.rules.table import RULES
from gradtrace.audit.signals import Signal, steepness_of_largest

if TYPE_CHECKING:
    from gradtrace.audit.recording import Recording, Step


def propagate(recording: Recording, num_cotangents: int) -> Propagation:
    """Forward, then backward."""
    signals: list[Signal] = [value.measured for value in recording.values]
    effects: list[Effect] = []
    unruled: list[int] = []
    for step in recording.steps:
        effect = effect_of(recording, step, signals)
        if effect.note:
            unruled.append(step.index)
        effects.append(effect)
        for output, signal in zip(step.outputs, effect.signals, strict=False):
            if signal is not None:
                signals[output] = signal
    for step, effect in zip(recording.steps, effects, strict=True):
        if effect.largest_of > 1:
            _select(recording, effects, signals, step, effect.largest_of)
    return Propagation(signals, effects, backward(recording, signals, effects, num_cotangents), unruled)


def effect_of(recording: Recording, step: Step, signals: list[Signal]) -> Effect:
    """What the rule says of a step; without one, what was measured."""
    if not step.inputs and step.function != "embedding":  # made from data and weights: where the gradient ends
        return Effect([None] * len(step.outputs), [])
    scene = _scene(recording, step, signals)
    rule = RULES.get(step.function)
    effect = rule(scene) if rule is not None else None
    return effect if effect is not None else _measured(scene, step)


def _scene(recording: Recording, step: Step, signals: list[Signal]) -> Scene:
    producer = recording.values[step.inputs[0]].producer if step.inputs else None
    return Scene(
        step,
        [recording.values[i] for i in step.inputs],
        [recording.values[i] for i in step.outputs],
        [signals[i] for i in step.inputs],
        recording.batch_size,
        step.input_tensors,
        recording.steps[producer].function if producer is not None else "",
    )


def _select(recording: Recording, effects: list[Effect], signals: list[Signal], pool: Step, largest_of: int) -> None:
    """Max pooling hands gradient to the largest of its window: the activation before it is steeper there."""
    value = recording.values[pool.inputs[0]]
    if value.producer is None or len(value.consumers) != 1:
        return
    effect = effects[value.producer]
    if effect.function is not None:
        before = signals[recording.steps[value.producer].inputs[0]]
        effect.parts = [{"activation": steepness_of_largest(effect.function, before.variance, largest_of)}]


def _measured(scene: Scene, step: Step) -> Effect:
    """Without a rule: the growth that the step itself showed, or none of it where that could not be had either."""
    found, spread = step.local, step.local_spread
    if found is None and step.call is not None:  # it has a rule, which does not hold for these operands
        found, spread = local_growth(step.call, step.args, step.kwargs, step.input_tensors)
    known = found if found is not None else [1.0] * len(step.inputs)
    note = f"{step.function}: no rule, " + ("measured" if found is not None else "counted as 1")
    return Effect([None] * len(step.outputs), [{"other": growth} for growth in known], unit_variance=0.01,
                  drift=abs(spread) / 10, spread=spread, note=note)  # fmt: skip
