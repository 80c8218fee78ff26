"""A number format that holds the numbers: float32, or bfloat16 whose range is the same; or a scale of the loss.

Micikevicius et al., Mixed precision training (2018); Kalamkar et al., A study of bfloat16 (2019).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradtrace.diagnosis.number_formats import loss_scale
from gradtrace.records.change import Change
from gradtrace.records.vocabulary import Cause, Symptom
from gradtrace.repair.changes.kind import Kind
from gradtrace.repair.twin import RefusalError, Twin
from gradtrace.tape.private import step_hooks_of

if TYPE_CHECKING:
    from gradtrace.records.trace import Op, TensorStats
    from gradtrace.repair.situation import Situation

_FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def propose(situation: Situation) -> list[Change]:
    """For half-precision parameters, these; for float32 ones beside float16, the autocast and the loss."""
    halves = {p.dtype for p in situation.model.parameters()} & {torch.float16, torch.bfloat16}
    if Cause.NUMERIC_FORMAT not in situation.causes:
        return []
    if not halves:
        scaled = _loss_scale(situation) if situation.has(Symptom.UNDERFLOW) else []
        return [*scaled, *_wide_autocast(situation)]
    names = ["float32"] + (["bfloat16"] if torch.float16 in halves else [])
    return [
        Change(
            kind="formats",
            title=f"Keep the weights in {name}.",
            where=("model",),
            reason="numbers below 6e-8 are zero in float16, and steps below 1/256 of a weight are lost in bfloat16",
            words=(("format", name),),
            code=f"model.to(torch.{name})  # and its inputs: x.to(torch.{name})",
            source="Micikevicius et al. 2018",
        )
        for name in names
    ]


def _loss_scale(situation: Situation) -> list[Change]:
    """As large as the largest gradient in float16 leaves room for."""
    scale = loss_scale([stats for op in situation.trace.ops for stats in _in_float16(op)], "float16")
    if scale is None or scale.high_log2 - HEADROOM_BITS < 1:
        return []
    factor = 2.0 ** (scale.high_log2 - HEADROOM_BITS)
    return [
        Change(
            kind="formats",
            title=f"Scale the loss by 2^{scale.high_log2 - HEADROOM_BITS}, and its gradients back before the step.",
            where=("loss",),
            reason="numbers below 6e-8 are zero in float16: what is scaled on the way back stays above",
            words=(("format", "scaled"),),
            numbers=(("factor", factor),),
            code=(
                f"def scaled_loss(model, batch, unscaled=loss_fn):\n    return unscaled(model, batch) * {factor:g}\n"
                "loss_fn = scaled_loss\n"
                "def unscale(optimizer, args, kwargs):\n"
                "    for p in [p for group in optimizer.param_groups for p in group['params'] if p.grad is not None]:\n"
                f"        p.grad.div_({factor:g})\n"
                "optimizer.register_step_pre_hook(unscale)"
            ),
            source="Micikevicius et al. 2018",
        )
    ]


def _wide_autocast(situation: Situation) -> list[Change]:
    """Where anything is computed in float16 beside weights that are not."""
    if not any(_in_float16(op) for op in situation.trace.ops):
        return []
    return [
        Change(
            kind="formats",
            title="Autocast to bfloat16 in place of float16.",
            where=("model",),
            reason="its range is that of float32, from 1e-38 to 3e38; what it lacks is digits: 8 bits in place of 11",
            words=(("format", "autocast"),),
            code="# where autocast is entered: torch.autocast(device_type, dtype=torch.bfloat16)",
            source="Kalamkar et al. 2019",
        )
    ]


def _in_float16(op: Op) -> list[TensorStats]:
    """What an op that touches the format receives and passes on, before a cast as well as after it."""
    found = [stats for stats in (op.received, *op.passed) if stats is not None]
    return found if any(stats.dtype == "float16" for stats in found) else []


HEADROOM_BITS = 3
"""Between the largest gradient of the first batch and the largest number: later ones may be eight times as large."""


class Unscale:
    """A hook in front of every optimizer step, before any other."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """In place."""
        for parameter in [p for group in optimizer.param_groups for p in group["params"]]:
            if parameter.grad is not None:
                parameter.grad.div_(self.factor)


class Cast:
    """A pre-hook: floating arguments in the model's format."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, _module: nn.Module, args: Any, kwargs: Any) -> Any:
        """The arguments, cast."""
        return tuple(map(self._cast, args)), {name: self._cast(value) for name, value in kwargs.items()}

    def _cast(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.to(self.dtype)
        return type(value)(map(self._cast, value)) if type(value) in (tuple, list) else value


def apply(change: Change, twin: Twin) -> None:
    """Parameters and floating buffers keep their identity, so that the optimizer goes on with them."""
    if change.word("format") == "scaled":
        if not twin.optimizers:
            raise RefusalError("there is no optimizer in front of whose steps gradients could be scaled back")
        twin.divisor /= change.number("factor")
        for optimizer in twin.optimizers:
            before, _ = step_hooks_of(optimizer)
            others = dict(before)
            before.clear()
            optimizer.register_step_pre_hook(Unscale(change.number("factor")))
            before.update(others)
        return
    if change.word("format") == "autocast":
        twin.is_autocast_wide = True
        return
    dtype = _FORMATS[change.word("format")]
    parameters = list(twin.model.parameters())
    twin.forget(parameters)
    twin.model.to(dtype)
    twin.model.register_forward_pre_hook(Cast(dtype), with_kwargs=True)


KIND = Kind(propose, apply)
