"""Without a recurrence, time is an axis of the input: |dL_t/dx_s| of causal transformers and temporal convolutions.

x_s is the input itself, or for tokens what their embedding makes of them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gradtrace.errors import InputError
from gradtrace.records.time import Reach, ThroughTime
from gradtrace.recurrence.sentences import sentences
from gradtrace.tape.dataflow import tensors_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.utils.hooks import RemovableHandle
    from typing_extensions import Self


class Inputs:
    """A context that puts the model's input (and what embeddings make of tokens) on the tape, and keeps its output."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._handles: list[RemovableHandle] = []
        self.found: list[tuple[str, Tensor]] = []
        self.output: Tensor | None = None

    def __enter__(self) -> Self:
        self._handles = [
            self._model.register_forward_pre_hook(self._before, with_kwargs=True),
            self._model.register_forward_hook(self._after),
        ]
        for path, module in self._model.named_modules():
            if isinstance(module, nn.Embedding):
                self._handles.append(module.register_forward_hook(self._embedded(path)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, _module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        if self.found or not torch.is_grad_enabled():
            return None
        return tuple(self._marked(x) for x in args), {name: self._marked(x) for name, x in kwargs.items()}

    def _marked(self, x: Any) -> Any:
        if self.found or not isinstance(x, torch.Tensor) or not x.is_floating_point() or x.dim() < 2:
            return x
        x = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
        self.found.append(("the input", x))
        return x

    def _embedded(self, path: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.requires_grad and output.dim() > 2:
                self.found.append((f"the tokens as embedded by {path or 'the model'}", output))

        return hook

    def _after(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if self.output is None:
            self.output = next((x for x in tensors_in(output) if x.requires_grad), None)


def measure_positions(
    title: str,
    loss: Tensor,
    losses: Tensor | None,
    inputs: Inputs,
    time_axis: int | None,
    num_targets: int,
    generator: torch.Generator,
    notes: list[str],
) -> ThroughTime:
    """|dL_t/dx_s| from the losses per step, or from random cotangents at the positions of the output."""
    name, x, axis = _position_axis(inputs, losses, time_axis)
    length = x.shape[axis]
    targets = sorted({max(0, round(length * (i + 1) / num_targets) - 1) for i in range(num_targets)})
    rows, later = [], 0.0
    for t in targets:
        gradient = _gradient(x, losses, inputs.output, axis, t, generator)
        others = [i for i in range(x.dim()) if i != axis % x.dim()]
        norms = torch.linalg.vector_norm(gradient, dim=others, dtype=torch.float64).cpu().tolist()
        rows.append(tuple(norms[: t + 1]))
        later = max([later, *norms[t + 1 :]])
    if later > 0:
        notes.append("the gradient also comes from later positions: this model is not causal")
    reach = Reach("random" if losses is None else "loss", tuple(targets), tuple(rows))
    record = ThroughTime(title, float(loss.detach()), math.nan, losses=(reach,), positions=name, notes=tuple(notes))
    return replace(record, sentences=sentences(record))


def _gradient(
    x: Tensor, losses: Tensor | None, output: Tensor | None, axis: int, t: int, generator: torch.Generator
) -> Tensor:
    if losses is not None:
        found: Sequence[Tensor | None] = torch.autograd.grad(losses[t], x, retain_graph=True, allow_unused=True)
    else:
        assert output is not None
        cotangent = torch.zeros_like(output)
        place = cotangent.select(axis, t)
        noise = torch.randn(tuple(place.shape), generator=generator, dtype=torch.float64)
        place.copy_(noise.to(dtype=place.dtype, device=place.device))
        found = torch.autograd.grad(output, x, cotangent, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if found[0] is None else found[0]


def _position_axis(inputs: Inputs, losses: Tensor | None, time_axis: int | None) -> tuple[str, Tensor, int]:
    """What is x, and which of its axes is time?"""
    output = inputs.output
    for name, x in inputs.found:
        if time_axis is not None and -x.dim() <= time_axis < x.dim():
            return name, x, time_axis
        if time_axis is not None:
            continue
        fits = [axis for axis in range(x.dim()) if x.shape[axis] > 1 and _is_time(x, axis, losses, output)]
        fits = fits if len(fits) == 1 else [axis for axis in fits if axis > 0]
        if len(fits) == 1:
            return name, x, fits[0]
        if len(fits) > 1:
            raise InputError(
                f"which axis of {name}, {list(x.shape)}, is time? Several would do: give time_axis, for example "
                f"time_axis={fits[0]}"
            )
    raise InputError(
        "there is no recurrence in this model, and no position of its input that its losses (or its output) share: "
        "return one loss per position from loss_fn, or give time_axis"
    )


def _is_time(x: Tensor, axis: int, losses: Tensor | None, output: Tensor | None) -> bool:
    """As long as the losses; without them, an axis of the output as well, at the same place and not the batch."""
    if losses is not None:
        return x.shape[axis] == len(losses)
    return output is not None and output.dim() > axis > 0 and output.shape[axis] == x.shape[axis]
