"""What plain autograd says, by a way of its own: node hooks that copy, walked depth first, norms in float64."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LEAF = "torch::autograd::AccumulateGrad"


def norm64(gradient: Tensor) -> float:
    """Frobenius norm in float64 of a gradient of any layout."""
    dense = gradient.to_dense() if gradient.layout is not torch.strided else gradient
    return float(torch.linalg.vector_norm(dense.to(torch.complex128 if dense.is_complex() else torch.float64)))


class Backward:
    """The norms of one backward pass, ops in the order of the forward pass."""

    def __init__(self, model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batch: Any) -> None:
        self.received: list[float | None] = []
        self.passed: list[list[float | None]] = []
        loss = loss_fn(model, batch)
        nodes, stack = dict[Any, None](), [loss.grad_fn]
        while stack:
            node = stack.pop()
            if node is not None and node not in nodes:
                nodes[node] = None
                stack.extend(child for child, _ in node.next_functions)
        inner = sorted((n for n in nodes if n.name() != LEAF), key=lambda n: n._sequence_nr())
        self.names = [node.name() for node in inner]
        self.received = [None] * len(inner)
        self.passed = [[] for _ in inner]
        for index, node in enumerate(inner):
            node.register_hook(self._hook(index))
        loss.backward()
        self.loss = float(loss)
        self.parameters = {
            name: None if p.grad is None else norm64(p.grad) for name, p in model.named_parameters()
        }  # fmt: skip

    def _hook(self, index: int) -> Callable[[Any, Any], None]:
        def see(grad_inputs: Any, grad_outputs: Any) -> None:
            arrived = [norm64(g) for g in grad_outputs if g is not None]
            self.received[index] = sum(norm**2 for norm in arrived) ** 0.5 if arrived else None
            self.passed[index] = [None if g is None else norm64(g) for g in grad_inputs]

        return see


class Snapshot:
    """Everything of a model and of the process that a trace must leave alone."""

    def __init__(self, model: nn.Module) -> None:
        self.tensors = {
            name: (id(tensor), tensor.detach().clone(), id(tensor.grad), tensor.requires_grad, tensor._version)
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
        }
        self.gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        self.modules = {name: (id(m), m.training, sorted(vars(m))) for name, m in model.named_modules()}
        self.hooks = hooks_of(model)
        self.random = (torch.get_rng_state(), random.getstate(), copy.deepcopy(np.random.get_state()))
        self.modes = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled())

    def assert_same(self, model: nn.Module) -> None:
        now = Snapshot(model)
        assert now.tensors.keys() == self.tensors.keys()
        for name, (identity, value, gradient, requires_grad, _) in self.tensors.items():
            other = now.tensors[name]
            assert other[0] == identity, name
            assert torch.equal(other[1], value), name
            assert other[2:4] == (gradient, requires_grad), name
        for name, kept in self.gradients.items():
            assert torch.equal(now.gradients[name].to_dense(), kept.to_dense()), name
        assert now.modules == self.modules
        assert now.hooks == self.hooks
        assert now.modes == self.modes
        assert torch.equal(now.random[0], self.random[0])
        assert now.random[1] == self.random[1]
        assert all(np.array_equal(a, b) for a, b in zip(now.random[2], self.random[2], strict=True))


def hooks_of(model: nn.Module) -> list[tuple[str, str, int]]:
    """(module, kind, number) of every hook that is registered, those for all modules and on parameters included."""
    found = [
        ("", name, len(value))
        for name, value in vars(nn.modules.module).items()
        if name.startswith("_global") and isinstance(value, dict)
    ]
    for path, module in model.named_modules():
        found += [
            (path, name, len(value))
            for name, value in vars(module).items()
            if "hooks" in name and isinstance(value, dict)
        ]
    for path, parameter in model.named_parameters():
        found.append((path, "backward", len(parameter._backward_hooks or ())))
        found.append((path, "post", len(getattr(parameter, "_post_accumulate_grad_hooks", None) or ())))
    return found
