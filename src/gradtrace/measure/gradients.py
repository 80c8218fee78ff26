"""A hook on every node of the tape: each gradient is reduced the moment it exists, and none is kept.

The gradient that an op passes on and the one its target receives are the same tensor unless paths meet there; it is
measured once. Where paths meet the sum is measured anew. The share of each arriving gradient, <g_i, g>/|g|^2, follows
for two branches from three norms; for three to eight the branches are held (by reference) until the sum arrives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from gradtrace.measure.reduction import Handle, reduce
from gradtrace.measure.trapped import ends, trapped_frac

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from torch.utils.hooks import RemovableHandle

    from gradtrace.measure.deferred import Deferred
    from gradtrace.tape.graph import Edge, Graph

MAX_HELD = 8
"""Where more paths meet (a weight used at every time step) branches are not held: shares follow from norms alone."""


@dataclass(slots=True)
class _Pending:
    handle: Handle
    address: int
    held: Tensor | None


class GradientTap:
    """Collects the gradients of one backward pass over `graph`."""

    def __init__(self, graph: Graph, deferred: Deferred, batch_size: int | None) -> None:
        self._graph = graph
        self._deferred = deferred
        self._batch_size = batch_size
        self._pending: dict[Edge, _Pending] = {}
        self._handles: list[RemovableHandle] = []
        self.received: dict[Edge, Handle] = {}
        self.passed: dict[Edge, Handle] = {}
        self.dots: dict[Edge, int] = {}
        self.trapped: dict[int, int] = {}
        """Op at the output or in the loss -> the fraction of the examples that are stuck on its flat side."""
        self._ends: set[int] = set()
        self.faults: list[str] = []

    def __enter__(self) -> GradientTap:
        self._ends = ends(self._graph)
        for index, node in enumerate(self._graph.nodes):
            self._handles.append(node.register_hook(self._hook(index)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._pending.clear()

    def _hook(self, index: int) -> Callable[[Sequence[Tensor | None], Sequence[Tensor | None]], None]:
        def see(grad_inputs: Sequence[Tensor | None], grad_outputs: Sequence[Tensor | None]) -> None:
            try:
                self.see(index, grad_inputs, grad_outputs)
            except Exception as error:  # a fault of ours must not break the backward pass
                self.faults.append(f"{type(error).__name__}: {error}")

        return see

    @torch.no_grad()
    def see(self, index: int, grad_inputs: Sequence[Tensor | None], grad_outputs: Sequence[Tensor | None]) -> None:
        """Measure what op `index` received and what it passes on."""
        for port, gradient in enumerate(grad_outputs):
            if gradient is not None:
                self._receive((index, port), gradient)
        targets = self._graph.targets[index]
        known = [(gradient, self.received[index, port]) for port, gradient in enumerate(grad_outputs)
                 if gradient is not None]  # fmt: skip
        if index in self._ends and grad_inputs[0] is not None and grad_outputs[0] is not None:
            stuck = trapped_frac(self._graph.nodes[index], grad_inputs[0], grad_outputs[0], self._batch_size)
            if stuck is not None:
                self.trapped[index] = self._deferred.put(stuck)
        for slot, gradient in enumerate(grad_inputs):
            if gradient is None or slot >= len(targets) or targets[slot] is None:
                continue
            handle = _same_numbers(gradient, known) or reduce(gradient, self._deferred, self._batch_size)
            known.append((gradient, handle))
            self.passed[index, slot] = handle
            num_arrivals = len(self._graph.arrivals[targets[slot]])  # type: ignore[index]
            held = gradient if 2 < num_arrivals <= MAX_HELD else None
            self._pending[index, slot] = _Pending(handle, _address(gradient), held)

    def receive_leaf(self, index: int, gradient: Tensor) -> None:
        """Measure what reached a leaf, which has no hook of its own to fire."""
        with torch.no_grad():
            self._receive((index, 0), gradient)

    def _receive(self, target: Edge, gradient: Tensor) -> None:
        edges = self._graph.arrivals.get(target, ())
        arrived = [(edge, pending) for edge in edges if (pending := self._pending.pop(edge, None)) is not None]
        handle = None
        if len(arrived) == 1 and gradient.layout is torch.strided and arrived[0][1].address == _address(gradient):
            handle = arrived[0][1].handle
            handle = handle if handle.shape == tuple(gradient.shape) else None
        self.received[target] = handle or reduce(gradient, self._deferred, self._batch_size)
        for edge, pending in arrived:
            if pending.held is not None and len(arrived) > 2:
                self.dots[edge] = self._deferred.put(_dot(pending.held, gradient))


def _address(gradient: Tensor) -> int:
    return gradient.data_ptr() if gradient.layout is torch.strided else 0


def _dot(a: Tensor, b: Tensor) -> Tensor:
    a, b = (x.to_dense() if x.is_sparse else x for x in (a, b))
    product = (a.conj() * b).real if a.is_complex() else a.double() * b.double()
    return product.sum()


def _same_numbers(gradient: Tensor, known: list[tuple[Tensor, Handle]]) -> Handle | None:
    """The numbers of an earlier tensor of which `gradient` is a mere view: same memory, same elements."""
    if gradient.layout is not torch.strided or 0 in gradient.stride():
        return None
    for other, handle in known:
        if (
            other.layout is torch.strided
            and other.data_ptr() == gradient.data_ptr()
            and other.numel() == gradient.numel()
            and other.dtype == gradient.dtype
            and 0 not in other.stride()
        ):
            shape = tuple(gradient.shape)
            if shape == handle.shape:
                return handle
            if handle.norms is None:
                return None  # a small tensor is copied in the order of its elements: the copy is cheap
            same_batch = handle.example_axes and shape[:1] == handle.shape[:1]
            return replace(handle, shape=shape, example_axes=tuple(range(1, len(shape))) if same_batch else None)
    return None
