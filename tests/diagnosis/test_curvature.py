"""Second derivatives in the loss: activations of straight lines have none."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradtrace.records.vocabulary import Cause, Symptom

from .test_learning import findings, loud


def _network(activation: type[nn.Module], depth: int = 2, last: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(2, 16), activation()]
    for _ in range(depth - 1):
        layers += [nn.Linear(16, 16), activation()]
    return nn.Sequential(*layers, nn.Linear(16, 1), *([] if last is None else [last]))


def _by(values: Tensor, inputs: Tensor) -> Tensor:
    return torch.autograd.grad(values.sum(), inputs, create_graph=True)[0]


def _poisson(model: nn.Module, batch: Tensor) -> Tensor:
    """The residual of u_xx + u_yy = -2 pi^2 sin(pi x) sin(pi y), and u = 0 on one side."""
    x = batch.clone().requires_grad_()
    slopes = _by(model(x), x)
    laplacian = _by(slopes[:, 0], x)[:, 0] + _by(slopes[:, 1], x)[:, 1]
    source = 2 * math.pi**2 * torch.sin(math.pi * batch).prod(1)
    return (laplacian + source).square().mean() + model(batch * torch.tensor([1.0, 0.0])).square().mean()


def _helmholtz(model: nn.Module, batch: Tensor) -> Tensor:
    """The same with u in it, which reaches the weights by itself."""
    x = batch.clone().requires_grad_()
    values = model(x)
    slopes = _by(values, x)
    laplacian = _by(slopes[:, 0], x)[:, 0] + _by(slopes[:, 1], x)[:, 1]
    return (laplacian + values[:, 0] + 1.0).square().mean()


def _eikonal(model: nn.Module, batch: Tensor) -> Tensor:
    """|grad u| = 1: a first derivative."""
    x = batch.clone().requires_grad_()
    return (_by(model(x), x).norm(dim=1) - 1.0).square().mean()


def _data() -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(64, 2, generator=generator) for _ in range(2)]


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.SiLU])
@pytest.mark.parametrize("residual", [_poisson, _helmholtz])
def test_a_second_derivative_wants_activations_that_bend(
    residual: Any, activation: type[nn.Module], depth: int
) -> None:
    ill = activation is nn.ReLU
    found = findings(_network(activation, depth), residual, _data())
    assert loud(found) == ([(Symptom.VANISHING, Cause.ACTIVATION_DERIVATIVE)] if ill else [])
    if ill:
        assert found[0].where == tuple(str(2 * i + 1) for i in range(depth))
        assert "second derivative" in found[0].message
        assert "Tanh" in found[0].remedies[0].code


@pytest.mark.parametrize("last", [None, nn.ReLU()])
def test_a_first_derivative_does_with_straight_lines(last: nn.Module | None) -> None:
    model = _network(nn.ReLU, last=last)
    nn.init.constant_(model[4].bias, 1.0)  # type: ignore[arg-type]
    assert loud(findings(model, _eikonal, _data())) == []
