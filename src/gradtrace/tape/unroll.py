"""A fused recurrence, run one time step at a time, so that every state is a tensor on the tape.

nn.RNN, nn.LSTM and nn.GRU prepare their arguments in Python (batch first, packed sequences, initial states) and then
call one fused torch function; the Cell classes call one for a single step. It is that function which is replaced here,
within a context and on the way: no module is touched, and all of their own Python stays in charge.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gradtrace.tape.callers import call_from
from gradtrace.tape.cells import State, Weights
from gradtrace.tape.segment import Segment, advance, layers_of, run_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle
    from typing_extensions import Self

_KINDS = ("rnn_tanh", "rnn_relu", "lstm", "gru")
FUSED: dict[Any, str] = {getattr(torch, kind, None): kind for kind in _KINDS}
"""Torch's function for a whole recurrence -> its kind."""

CELLS: dict[Any, str] = {getattr(torch, f"{kind}_cell", None): kind for kind in _KINDS}
"""Torch's function for a single step -> its kind."""


class Unrolled(TorchFunctionMode):
    """The context made by `unrolled`; `segments` lists what it ran."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._handles: list[RemovableHandle] = []
        self._open: list[tuple[str, str]] = []
        self._calls: Counter[str] = Counter()
        self.segments: list[Segment] = []

    def __enter__(self) -> Self:
        for path, module in self._model.named_modules():
            if isinstance(module, torch.nn.RNNBase | torch.nn.RNNCellBase):
                self._handles += (
                    module.register_forward_pre_hook(self._opener(path)),
                    module.register_forward_hook(self._close, always_call=True),
                )
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @contextmanager
    def within(self, path: str, module_type: str) -> Iterator[None]:
        """What runs meanwhile is a call of that module."""
        self._open.append((path, module_type))
        try:
            yield
        finally:
            self._open.pop()

    def _opener(self, path: str) -> Callable[[nn.Module, Any], None]:
        def opened(module: nn.Module, _args: Any) -> None:
            self._open.append((path, type(module).__name__))

        return opened

    def _close(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._open.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run fused recurrences step by step, and all else unchanged."""
        kwargs = kwargs or {}
        if func in FUSED and not kwargs:
            return self._sequence(FUSED[func], func, args)
        if func in CELLS and not kwargs:
            return self._cell(CELLS[func], *args)
        return call_from(sys._getframe(1), func, args, kwargs)

    # --------------------------------------------------------------------------------------------------- one call

    def _cell(
        self, kind: str, x: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None
    ) -> Any:
        given = State(*hx) if kind == "lstm" else State(hx)
        weights = Weights(w_ih, w_hh, b_ih, b_hh)
        segment = self._segment(kind, 0, False, weights, given, self._next_call())
        (state,) = advance(segment, [F.linear(x, w_ih, b_ih)], [x.shape[0]])
        return (state.h, state.c) if kind == "lstm" else state.h

    def _sequence(self, kind: str, func: Any, args: tuple[Any, ...]) -> Any:
        packed = (
            isinstance(args[3], bool) is False
        )  # (data, batch_sizes, hx, weights, ...) or (input, hx, weights, ...)
        data, hx = args[0], args[2] if packed else args[1]
        if not data.shape[0] or not data.numel():
            return func(*args)  # torch's own error (or its own empty result)
        if packed:
            flat, has_biases, num_layers, dropout, train, bidirectional = args[3:9]
            sizes = args[1].tolist()
        else:
            flat, has_biases, num_layers, dropout, train, bidirectional, batch_first = args[2:9]
            data = data.transpose(0, 1) if batch_first else data
            sizes = [data.shape[1]] * data.shape[0]
            data = data.flatten(0, 1)
        layers = layers_of(kind, flat, has_biases, 2 if bidirectional else 1, hx)
        call, finals = self._next_call(), []
        for layer, directions in enumerate(layers):
            made = []
            for reverse, (weights, given) in enumerate(directions):
                segment = self._segment(kind, layer, bool(reverse), weights, given, call)
                output, last = run_layer(segment, data, sizes)
                made.append(output)
                finals.append(last)
            data = torch.cat(made, dim=-1) if bidirectional else made[0]
            if dropout and train and layer < num_layers - 1:
                data = F.dropout(data if packed else data.unflatten(0, (len(sizes), -1)), dropout, train)
                data = data if packed else data.flatten(0, 1)
        if not packed:
            data = data.unflatten(0, (len(sizes), -1))
            data = data.transpose(0, 1) if args[8] else data
        h = torch.stack([state.h for state in finals])
        if kind == "lstm":
            return data, h, torch.stack([state.c for state in finals if state.c is not None])
        return data, h

    def _next_call(self) -> int:
        path = self._open[-1][0] if self._open else ""
        self._calls[path] += 1
        return self._calls[path] - 1

    def _segment(self, kind: str, layer: int, reverse: bool, weights: Weights, given: State, call: int) -> Segment:
        path, module_type = self._open[-1] if self._open else ("", "")
        segment = Segment(path, module_type, call, kind, layer, reverse, weights, given)
        self.segments.append(segment)
        return segment


def unrolled(model: nn.Module) -> Unrolled:
    """A context in which every recurrence of `model` runs one time step at a time, with its own weights.

    Outputs and gradients are those of the fused functions up to rounding (dropout between layers draws the same masks
    on the CPU). Each layer and direction of each call is recorded as a `Segment`.

    >>> rnn = torch.nn.LSTM(3, 4, num_layers=2, batch_first=True)
    >>> x = torch.randn(5, 7, 3)
    >>> with unrolled(rnn) as run:
    ...     output, _ = rnn(x)
    >>> [(segment.layer, len(segment.steps)) for segment in run.segments]
    [(0, 7), (1, 7)]
    >>> bool(torch.allclose(output, rnn(x)[0], atol=1e-6))
    True
    """
    return Unrolled(model)
