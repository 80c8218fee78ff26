"""Inputs and targets at unit scale, and a loss that is a mean: what the steps feel of the data's units is taken out.

A layer in front standardises the input by numbers measured on the batches; a head's output and the loss are taken in
units of the targets' spread, so that the network still predicts in the user's units. LeCun et al. (1998), section 4.3.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from gradtrace.measure.session import batch_size_of
from gradtrace.records.change import Change
from gradtrace.records.vocabulary import Cause
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.changes.output import unreachable
from gradtrace.repair.twin import RefusalError, Twin
from gradtrace.tape.dataflow import tensors_in

if TYPE_CHECKING:
    from gradtrace.repair.situation import Situation

SPREAD = 3.0
"""Inputs or targets whose scale is off by less than this factor are left alone."""


def propose(situation: Situation) -> list[Change]:
    """Inputs where they are off scale; targets where the loss says so; a mean for a sum."""
    found: list[Change] = []
    about_data = {Cause.INPUT_SCALE, Cause.SATURATED_PREACTIVATION, Cause.LEARNING_RATE, Cause.LARGE_WEIGHTS,
                  Cause.REDUCTION_SCALE, Cause.UNSAFE_OP}  # fmt: skip
    if about_data & set(situation.causes):
        found += _inputs(situation) + _targets(situation)
    elif unreachable(situation) is not None:
        found += _targets(situation)
    if {Cause.REDUCTION_SCALE, Cause.LEARNING_RATE, Cause.INPUT_SCALE} & set(situation.causes):
        found += _mean(situation)
    return found


def _inputs(situation: Situation) -> list[Change]:
    """All by one mean and spread, which keeps what features say of each other."""
    example = situation.example
    first = (
        next((x for x in tensors_in((example.args, example.kwargs)) if x.is_floating_point()), None)
        if example
        else None
    )
    if first is None or first.numel() < 2:
        return []
    values = first.detach().double()
    mean, std = float(values.mean()), float(values.std())
    rms = math.hypot(mean, std)
    if not math.isfinite(rms) or not std or (1 / SPREAD <= rms <= SPREAD and abs(mean) <= std):
        return []
    return [
        Change(
            kind="scale",
            title=f"Standardise the input: (x - {mean:.4g}) / {std:.4g}.",
            where=("input",),
            reason=f"its root mean square is {rms:.3g}, and the first layer's weights are made for one",
            words=(("what", "inputs"),),
            numbers=(("mean", mean), ("std", std)),
            code=(
                f"model.register_forward_pre_hook(lambda module, args: ((args[0] - {mean:.6g}) / {std:.6g}, *args[1:]))"
            ),
            source="LeCun et al. 1998",
        ),
    ]


def _targets(situation: Situation) -> list[Change]:
    """For a loss whose value is off scale: a batch's last floating tensor that no input is."""
    if situation.called_with is not None:
        return _targets_of_the_trace(situation)
    batch = situation.batches[0]
    if not isinstance(batch, tuple | list) or len(batch) < 2 or not isinstance(batch[-1], Tensor):
        return []
    if not batch[-1].is_floating_point() or batch[-1].numel() < 2:
        return []
    values = batch[-1].detach().double()
    mean, std = float(values.mean()), float(values.std())
    rms = math.hypot(mean, std)
    if not math.isfinite(rms) or not std or rms <= SPREAD or not _is_squared(situation):
        return []
    return [_in_units(mean, std, rms)]


def _targets_of_the_trace(situation: Situation) -> list[Change]:
    """Of a script no more is known than how well a constant would do: Var(t), of a squared error.

    Its loss is computed by its own lines, so that the lines of the change divide the gradients.
    """
    known = [op.objective for op in situation.trace.ops if op.objective is not None]
    std = max((math.sqrt(one.constant) for one in known if one.function == "mse_loss"), default=0.0)
    if not SPREAD < std < math.inf:
        return []
    code = (
        f"model.register_forward_hook(lambda module, args, y: {std:.6g} * y)\n"
        "for parameter in model.parameters():  # as if the loss were divided by it\n"
        f"    parameter.register_hook(lambda gradient: gradient / {std:.6g} ** 2)"
    )
    return [replace(_in_units(0.0, std, std), code=code)]


def _in_units(mean: float, std: float, rms: float) -> Change:
    offset = f"{mean:.4g} + " if mean else ""
    return Change(
        kind="scale",
        title=f"Let the network predict in units of the targets' spread: y = {offset}{std:.4g} f(x).",
        where=("output",),
        reason=f"targets of {rms:.3g} make a gradient {rms:.3g} times as large as the weights are made for",
        words=(("what", "targets"),),
        numbers=(("mean", mean), ("std", std)),
        code=(
            f"model.register_forward_hook(lambda module, args, y: {mean:.6g} + {std:.6g} * y)\n"
            "def scaled_loss(model, batch, unscaled=loss_fn):\n"
            f"    return unscaled(model, batch) / {std:.6g} ** 2\n"
            "loss_fn = scaled_loss"
        ),
        source="LeCun et al. 1998",
    )


def _is_squared(situation: Situation) -> bool:
    return any(op.function in ("mse_loss", "pow", "square", "pow_", "__pow__") for op in situation.trace.ops)


def _mean(situation: Situation) -> list[Change]:
    """The examples (and positions) that the loss sums over."""
    if situation.summed_over is None or situation.summed_over < 1.5:
        return []
    size = batch_size_of(situation.batches[0])
    labels = situation.batches[0][-1] if isinstance(situation.batches[0], tuple | list) else None
    number = labels.numel() if isinstance(labels, Tensor) and not labels.is_floating_point() else size
    if not number or number < 2:
        return []
    return [
        Change(
            kind="scale",
            title=f"Average the loss instead of summing it over {number} examples.",
            where=("loss",),
            reason=f"a sum makes each step {number} times as long as a mean, and longer with a larger batch",
            words=(("what", "mean"),),
            numbers=(("number", float(number)),),
            code=(
                "def mean_loss(model, batch, summed=loss_fn):\n"
                f"    return summed(model, batch) / {number}\n"
                "loss_fn = mean_loss"
            ),
            source="Goyal et al. 2017",
        )
    ]


class Standardise:
    """A pre-hook: the first floating tensor of a call becomes (x - mean) / std."""

    def __init__(self, mean: float, std: float) -> None:
        self.mean, self.std = mean, std

    def __call__(self, _module: nn.Module, args: Any, kwargs: Any) -> Any:
        """The changed arguments."""
        done = False

        def change(value: Any) -> Any:
            nonlocal done
            if not done and isinstance(value, Tensor) and value.is_floating_point():
                done = True
                return (value - self.mean) / self.std
            return type(value)(map(change, value)) if type(value) in (tuple, list) else value

        return tuple(map(change, args)), {name: change(value) for name, value in kwargs.items()}


class Restore:
    """A hook: the output back in the user's units."""

    def __init__(self, mean: float, std: float) -> None:
        self.mean, self.std = mean, std

    def __call__(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        """Mean + std * output."""
        if not isinstance(output, Tensor):
            raise RefusalError("the model returns more than one tensor: which one is the prediction?")
        return self.mean + self.std * output


def apply(change: Change, twin: Twin) -> None:
    """Hooks on the model, or a divisor of the loss."""
    what = change.word("what")
    if what == "mean":
        twin.divisor *= change.number("number")
        return
    mean, std = change.number("mean"), change.number("std")
    if what == "inputs":
        twin.model.register_forward_pre_hook(Standardise(mean, std), with_kwargs=True)
    else:
        twin.model.register_forward_hook(Restore(mean, std))
        twin.divisor *= std**2


KIND = Kind(propose, apply)
