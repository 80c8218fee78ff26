"""The flight recorder: where was the first NaN or Inf born, in the step that has just brought it?

Of the last step are kept: what the watched module was called with, the random state before, and the gradient that
reached its output. With the weights still as they were, forward and backward run again under the microscope
(`gradtrace.trace` with ``values=True``), without the user's loss. Where the module's output is finite and the gradient
that came to it is not, the loss is to blame.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradtrace.diagnosis.rules.nonfinite import finding_of
from gradtrace.measure.trace import trace
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import remedies_for
from gradtrace.tape.dataflow import tensors_in
from gradtrace.tape.graph import walk
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from torch import nn

    from gradtrace.records.trace import Trace

MAX_BYTES = 256 * 2**20
"""Inputs larger than that are not held on to for the sake of a replay."""


@dataclass(slots=True)
class Kept:
    """What a replay of one forward call needs; inputs by reference, with their versions."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    versions: tuple[int, ...]
    random_state: Tensor
    output: Any = None
    gradients: dict[int, Tensor] = field(default_factory=dict)


class FlightRecorder:
    """Keeps the last call of one module."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._kept: Kept | None = None
        self._handles = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after),
        ]

    def close(self) -> None:
        """Take the hooks away and let go of what is kept."""
        while self._handles:
            self._handles.pop().remove()
        self._kept = None

    def forget(self) -> None:
        """The weights have changed: no replay from before."""
        self._kept = None

    def _before(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        if not torch.is_grad_enabled():
            return
        tensors = tensors_in((args, kwargs))
        if sum(t.nbytes for t in tensors if t.layout is torch.strided) > MAX_BYTES:
            self._kept = None
            return
        self._kept = Kept(args, kwargs, tuple(t._version for t in tensors), torch.get_rng_state())

    def _after(self, _module: nn.Module, _args: Any, output: Any) -> None:
        kept = self._kept
        if kept is None or not torch.is_grad_enabled():
            return
        kept.output = output
        gradients = kept.gradients
        for index, tensor in enumerate(tensors_in(output)):
            if tensor.requires_grad and tensor.is_floating_point():
                tensor.register_hook(lambda gradient, index=index: gradients.__setitem__(index, gradient.detach()))

    def explain(self, loss: Tensor, step: int) -> tuple[Finding, Trace | None]:
        """The finding for a loss or gradient that is not finite, and the trace of the replay."""
        kept = self._kept
        if kept is None:
            return _unexplained(loss, step, "the module's inputs were not kept"), None
        if tuple(t._version for t in tensors_in((kept.args, kept.kwargs))) != kept.versions:
            return _unexplained(loss, step, "its inputs were changed in place since"), None
        outputs = [t for t in tensors_in(kept.output) if t.is_floating_point()]
        born_inside = not all(bool(torch.isfinite(t).all()) for t in outputs)
        arrived = [bool(torch.isfinite(g).all()) for g in kept.gradients.values()]
        if not born_inside and (not arrived or not all(arrived)):
            return _of_the_loss(loss, step), None
        found = self._replay(kept, seeds=not born_inside)
        return replace(finding_of(found, step), message=f"At step {step}: {finding_of(found, step).message}"), found

    def _replay(self, kept: Kept, *, seeds: bool) -> Trace:
        def total(model: nn.Module, batch: tuple[Any, Any]) -> Tensor:
            torch.set_rng_state(kept.random_state)
            output = tensors_in(model(*batch[0], **batch[1]))
            parts = [
                (t * (kept.gradients[i] if seeds and i in kept.gradients else 1.0)).sum()
                for i, t in enumerate(output)
                if t.requires_grad and t.is_floating_point() and (not seeds or i in kept.gradients)
            ]
            return torch.stack([part.float() for part in parts]).sum()

        return trace(self._model, total, (kept.args, kept.kwargs), values=True)


def _of_the_loss(loss: Tensor, step: int) -> Finding:
    """The module's output is finite: an op between it and the loss is evaluated where it must not be."""
    op = _singular_op(loss)
    where = f" {op[0].upper()}{op[1:]}." if op else ""
    value = float(loss.detach())
    what = f"the loss is {value}" if not math.isfinite(value) else "the gradient that the loss sends back is not finite"
    return Finding(
        symptom=Symptom.NONFINITE,
        cause=Cause.UNSAFE_OP,
        where=("loss",),
        severity=Severity.CRITICAL,
        message=f"At step {step} {what}, although the model's output is finite: it was born in the loss.{where}",
        evidence=(Evidence("loss", value),),
        remedies=remedies_for(Symptom.NONFINITE, Cause.UNSAFE_OP),
        source="",
        step=step,
    )


_SINGULAR: dict[str, tuple[str, Callable[[Tensor], Tensor], str]] = {
    "Log": ("_saved_self", lambda x: x <= 0, "the logarithm of a number that is not positive"),
    "Log2": ("_saved_self", lambda x: x <= 0, "the logarithm of a number that is not positive"),
    "Log10": ("_saved_self", lambda x: x <= 0, "the logarithm of a number that is not positive"),
    "Log1P": ("_saved_self", lambda x: x <= -1, "log1p of -1 or less"),
    "Sqrt": ("_saved_result", lambda y: ~(y > 0), "the square root of zero, whose derivative is infinite, or of less"),
    "Rsqrt": ("_saved_result", lambda y: ~torch.isfinite(y), "the reciprocal square root of zero or of less"),
    "Reciprocal": ("_saved_result", lambda y: ~torch.isfinite(y), "a division by zero"),
    "Div": ("_saved_other", lambda x: x == 0, "a division by zero"),
    "Exp": ("_saved_result", lambda y: ~torch.isfinite(y), "an exponential that overflows"),
    "LinalgVectorNorm": ("_saved_result", lambda y: y == 0, "the norm of a vector of zeros"),
    "Acos": ("_saved_self", lambda x: x.abs() >= 1, "acos at 1 or beyond"),
    "Asin": ("_saved_self", lambda x: x.abs() >= 1, "asin at 1 or beyond"),
    "Pow": ("_saved_self", lambda x: x == 0, "a power of zero"),
}
"""Ops with a singularity: what the tape saved of them, where it is singular, and in words."""


def _singular_op(loss: Tensor) -> str:
    """Of the ops behind the loss, the first (in the order of the forward pass) that stands at its singularity."""
    if loss.grad_fn is None:
        return ""
    for node in reversed(walk([loss.grad_fn]).nodes):
        saved, is_singular, words = _SINGULAR.get(base_name(node.name()), ("", None, ""))
        with contextlib.suppress(AttributeError, RuntimeError):
            value = getattr(node, saved) if saved else None
            if is_singular is not None and isinstance(value, torch.Tensor) and bool(is_singular(value.detach()).any()):
                return words
    return ""


def _unexplained(loss: Tensor, step: int, why: str) -> Finding:
    return Finding(
        symptom=Symptom.NONFINITE,
        cause=Cause.UNSAFE_OP,
        where=("",),
        severity=Severity.CRITICAL,
        message=f"At step {step} the loss or a gradient is not finite; where it was born cannot be told: {why}.",
        evidence=(Evidence("loss", float(loss.detach())),),
        remedies=remedies_for(Symptom.NONFINITE, Cause.UNSAFE_OP),
        step=step,
    )
