"""The input of a recurrent module, marked: the gradient it receives, step by step, shows how far back it reaches.

The mark is a view in front of the module; an input that needs no gradient (raw data) is given one for the trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor
    from torch.autograd.graph import Node
    from torch.utils.hooks import RemovableHandle


class TimeMarks:
    """A context in which every nn.RNN, nn.LSTM and nn.GRU of `model` marks its input."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._handles: list[RemovableHandle] = []
        self.axes: list[tuple[Node, int]] = []
        self.inputs: set[int] = set()
        self._kept: list[Tensor] = []

    def __enter__(self) -> TimeMarks:
        for module in self._model.modules():
            if isinstance(module, nn.RNNBase):
                self._handles.append(module.register_forward_pre_hook(self._mark))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _mark(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        assert isinstance(module, nn.RNNBase)
        if not args or not isinstance(args[0], torch.Tensor) or not torch.is_grad_enabled():
            return None  # packed sequences have no time axis of their own
        data = args[0]
        if not data.requires_grad:
            data = data.detach().requires_grad_()
            self._kept.append(data)
            self.inputs.add(id(data))
        marked = data.view_as(data)
        assert marked.grad_fn is not None
        batched = data.dim() == 3
        self.axes.append((marked.grad_fn, 1 if module.batch_first and batched else 0))
        return (marked, *args[1:])
