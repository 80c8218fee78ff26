"""A hook on every node of the tape: each gradient is reduced the moment it exists, and none is kept.

The gradient that an op passes on and the one its target receives are the same tensor unless paths meet there; it is
measured once. Where paths meet the sum is measured anew. The share of each arriving gradient, <g_i, g>/|g|^2, follows
for two branches from three norms; for three to eight the branches are held (by reference) until the sum arrives.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from gradtrace.measure.plateau import plateau
from gradtrace.measure.reduction import Handle, reduce
from gradtrace.measure.trapped import ends, trapped_frac
from gradtrace.tape.kinds import SQUASHING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from torch.utils.hooks import RemovableHandle

    from gradtrace.measure.deferred import Deferred
    from gradtrace.tape.graph import Edge, Graph

MAX_HELD = 8
"""Where more paths meet (a weight used at every time step) branches are not held: shares follow from norms alone."""


_Pending = tuple[Handle, int, "Tensor | None"]
"""What was passed on and has not arrived yet: its numbers, its address, and itself where it is held."""


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
        self.plateaus: dict[int, int] = {}
        """Squashing op at the output or in the loss -> what `plateau` says of it."""
        self._ends: set[int] = set()
        self._squashing: set[int] = set()
        self.faults: list[str] = []

    def __enter__(self) -> GradientTap:
        self._ends, self._squashing = ends(self._graph), ends(self._graph, SQUASHING)
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
                if torch.is_grad_enabled():  # a backward pass that is on the tape itself
                    with torch.no_grad():
                        self.see(index, grad_inputs, grad_outputs)
                else:
                    self.see(index, grad_inputs, grad_outputs)
            except Exception as error:  # a fault of ours must not break the backward pass
                self.faults.append(f"{type(error).__name__}: {error}")

        return see

    def see(self, index: int, grad_inputs: Sequence[Tensor | None], grad_outputs: Sequence[Tensor | None]) -> None:
        """Measure what op `index` received and what it passes on."""
        known: list[tuple[Tensor, int, Handle]] = []
        for port, gradient in enumerate(grad_outputs):
            if gradient is not None:
                address = _address(gradient)
                known.append((gradient, address, self._receive((index, port), gradient, address)))
        if index in self._ends and grad_inputs[0] is not None and grad_outputs[0] is not None:
            stuck = trapped_frac(self._graph.nodes[index], grad_inputs[0], grad_outputs[0], self._batch_size)
            if stuck is not None:
                self.trapped[index] = self._deferred.put(stuck)
        if index in self._squashing and grad_inputs[0] is not None and grad_outputs[0] is not None:
            found = plateau(self._graph.nodes[index], grad_inputs[0], grad_outputs[0])
            if found is not None:
                self.plateaus[index] = self._deferred.put(found)
        for slot, (gradient, target) in enumerate(zip(grad_inputs, self._graph.targets[index], strict=False)):
            if gradient is None or target is None:
                continue
            address = _address(gradient)
            handle = _same_numbers(gradient, address, known) or reduce(gradient, self._deferred, self._batch_size)
            known.append((gradient, address, handle))
            edge = (index, slot)
            self.passed[edge] = handle
            held = gradient if 2 < len(self._graph.arrivals[target]) <= MAX_HELD else None
            self._pending[edge] = (handle, address, held)

    def receive_leaf(self, index: int, gradient: Tensor) -> None:
        """Measure what reached a leaf, which has no hook of its own to fire."""
        with torch.no_grad():
            self._receive((index, 0), gradient, _address(gradient))

    def _receive(self, target: Edge, gradient: Tensor, address: int) -> Handle:
        edges = self._graph.arrivals.get(target, ())
        arrived = [(edge, pending) for edge in edges if (pending := self._pending.pop(edge, None)) is not None]
        handle = None
        if len(arrived) == 1:
            ((_, (earlier, place, _)),) = arrived
            if address and place == address and earlier.shape == gradient.shape:
                handle = earlier
        if handle is None:
            handle = reduce(gradient, self._deferred, self._batch_size)
        self.received[target] = handle
        if len(arrived) > 2:
            for edge, (_, _, held) in arrived:
                if held is not None:
                    self.dots[edge] = self._deferred.put(_dot(held, gradient))
        return handle


def _address(gradient: Tensor) -> int:
    """0 where it has none, or one that says nothing: of a tensor without elements too."""
    return gradient.data_ptr() if gradient.layout is torch.strided else 0


def _dot(a: Tensor, b: Tensor) -> Tensor:
    a, b = (x.to_dense() if x.is_sparse else x for x in (a, b))
    product = (a.conj() * b).real if a.is_complex() else a.double() * b.double()
    return product.sum()


def _same_numbers(gradient: Tensor, address: int, known: list[tuple[Tensor, int, Handle]]) -> Handle | None:
    """The numbers of an earlier tensor of which `gradient` is a mere view: same memory, same elements."""
    if not address:
        return None
    for other, place, handle in known:
        if place != address or other.numel() != gradient.numel() or other.dtype != gradient.dtype:
            continue
        if 0 in gradient.stride() or 0 in other.stride():
            continue
        shape = tuple(gradient.shape)
        if shape == handle.shape:
            return handle
        if handle.norms is None:
            return None  # a small tensor is copied in the order of its elements: the copy is cheap
        same_batch = handle.example_axes and shape[:1] == handle.shape[:1]
        return replace(handle, shape=shape, example_axes=tuple(range(1, len(shape))) if same_batch else None)
    return None
