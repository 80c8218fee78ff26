"""What lies around a layer's weights: the activation below and above, dropout and norms on the way, the border."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from gradtrace.audit.propagate import effect_of
from gradtrace.audit.rules.table import RULES
from gradtrace.audit.rules.units import ACTIVATIONS, nonlinearity_of

if TYPE_CHECKING:
    from gradtrace.audit.recording import Recording, Step
    from gradtrace.audit.signals import Signal
    from gradtrace.theory.nonlinearities import Nonlinearity

NORMS = ("layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm")
_WEIGHTED = (RULES["linear"], RULES["conv2d"])


def weight_of(step: Step) -> Tensor | None:
    """The weights of a linear map or convolution, of x @ W those that are a parameter; None for anything else."""
    rule = RULES.get(step.function)
    if rule in _WEIGHTED:
        weight = step.argument(1, "weight")
    elif rule is RULES["matmul"]:
        weight = step.argument(1, "other", step.kwargs.get("mat2"))
        if not isinstance(weight, nn.Parameter) or weight.dim() != 2:
            return None
    else:
        return None
    return weight if isinstance(weight, Tensor) else None


def rows_are_inputs(step: Step) -> bool:
    """As of x @ W, and of transposed convolutions: the units are the weights' second axis."""
    return "transpose" in step.function or RULES.get(step.function) is RULES["matmul"]


def groups_of(step: Step) -> int:
    """Blocks that an orthogonal kernel is drawn in."""
    return (
        int(step.argument(6, "groups", 1)) if step.function.startswith("conv") and "trans" not in step.function else 1
    )


def border(recording: Recording, step: Step) -> float:
    """The share of the taps that meets data; 1 for a linear layer."""
    if step.function == "linear" or RULES.get(step.function) is RULES["matmul"]:
        return 1.0
    parts = effect_of(recording, step, [value.measured for value in recording.values]).parts[0]
    stride = recording.values[step.outputs[0]].numel / recording.values[step.inputs[0]].numel
    weight = step.argument(1, "weight")
    channels = weight.shape[0] / (weight.shape[1] * groups_of(step))
    return parts.get("stride", 1.0) / (stride / channels) if "transpose" not in step.function else 1.0


def below(recording: Recording, step: Step, signals: list[Signal]) -> tuple[Nonlinearity | None, float]:
    """The activation between the weights (or sum) before and these, and E[a'^2] times dropout on the way."""
    found, loss = None, 1.0
    producer = recording.values[step.inputs[0]].producer
    while producer is not None:
        before = recording.steps[producer]
        if len(before.inputs) != 1 or weight_of(before) is not None:
            break
        parts = effect_of(recording, before, signals).parts[0]
        loss *= parts.get("activation", 1.0) * parts.get("dropout", 1.0)
        if before.function in ACTIVATIONS:
            found = nonlinearity_of(before)
        producer = recording.values[before.inputs[0]].producer
    return found, loss


def above(recording: Recording, step: Step) -> tuple[Nonlinearity | None, bool]:
    """The activation that follows, and whether a norm comes first."""
    value, normed = recording.values[step.outputs[0]], False
    while len(value.consumers) == 1:
        user = recording.steps[value.consumers[0][0]]
        if user.function in ACTIVATIONS:
            return nonlinearity_of(user), normed
        normed = normed or user.function in NORMS
        if len(user.inputs) != 1 or weight_of(user) is not None:
            return None, normed
        value = recording.values[user.outputs[0]]
    return None, normed
