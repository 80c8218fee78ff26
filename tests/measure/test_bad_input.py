"""What cannot be traced is told in one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradtrace
from gradtrace.errors import InputError

X = torch.randn(6, 4)


def mean(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().mean()


def linear() -> nn.Module:
    return nn.Linear(4, 2)


def backward_inside(model: nn.Module, x: Tensor) -> Tensor:
    loss = mean(model, x)
    loss.backward()
    return loss


def freed(model: nn.Module, x: Tensor) -> Tensor:
    loss = mean(model, x)
    torch.autograd.grad(loss, list(model.parameters()))
    return loss


LOSSES: dict[str, tuple[Callable[..., Any], str]] = {
    "not a scalar": (lambda model, x: model(x), r"must return a scalar.*shape \[6, 2\].*\.mean\(\)"),
    "a float": (lambda model, x: mean(model, x).item(), "must return a scalar tensor, but it returned float"),
    "nothing": (lambda model, x: None, "must return a scalar tensor, but it returned NoneType"),
    "a tuple": (lambda model, x: (mean(model, x), x), "but it returned tuple"),
    "detached": (lambda model, x: mean(model, x).detach(), "the loss has no gradient.*detached"),
    "constant": (lambda model, x: torch.tensor(1.0), "the loss has no gradient"),
    "under no_grad": (torch.no_grad()(mean), "the loss has no gradient: it was computed under no_grad"),
    "complex": (lambda model, x: mean(model, x) * 1j, r"complex.*\.abs\(\)"),
    "integer": (lambda model, x: mean(model, x).long(), "the loss has no gradient"),
    "raising": (lambda model, x: model(x) @ X, r"raised RuntimeError: .*\(at tests/measure/test_bad_input.py:\d+\)"),
    "wrong argument": (lambda model: mean(model, X), "raised TypeError"),
    "backward inside": (backward_inside, r"called backward\(\) itself; return the loss"),
    "freed": (freed, r"already freed by an earlier backward\(\)"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str) -> None:
    loss_fn, message = LOSSES[name]
    with pytest.raises(InputError, match=message) as caught:
        gradtrace.trace(linear(), loss_fn, X)
    assert "\n" not in str(caught.value)


def frozen() -> nn.Module:
    return linear().requires_grad_(False)


def quantized() -> nn.Module:
    model = linear()
    scale = torch.tensor(0.1)
    del model.weight
    model.register_buffer("weight", torch.quantize_per_tensor(torch.randn(2, 4), float(scale), 0, torch.qint8))
    del model.bias
    model.register_buffer("bias", torch.zeros(2))
    return model


def integer() -> nn.Module:
    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(2, 4, dtype=torch.int8), requires_grad=False)
    return model


MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "a function": (lambda: mean, "must be a torch.nn.Module, but it is function"),
    "a class": (lambda: nn.Linear, "must be a torch.nn.Module, but it is the class"),
    "no parameters": (nn.ReLU, "the model has no parameters"),
    "frozen": (frozen, "no parameter requires a gradient: the whole model is frozen"),
    "meta": (lambda: nn.Linear(4, 2, device="meta"), r"on the meta device.*to_empty\(\)"),
    "integer": (integer, "integer parameters only"),
    "quantized": (quantized, "has no parameters .a quantized one keeps"),
    "lazy": (lambda: nn.LazyLinear(3), "parameter 'weight' is not initialised yet; run one batch"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:.*quantize.*", "ignore:.*Lazy.*")
def test_models(name: str) -> None:
    make, message = MODELS[name]
    with pytest.raises(InputError, match=message) as caught:
        gradtrace.trace(make(), mean, X)
    assert "\n" not in str(caught.value)


def test_a_batch_on_another_device_is_named() -> None:
    with pytest.raises(InputError, match="the model is on cpu and the batch on meta"):
        gradtrace.trace(linear(), lambda model, x: model(x) @ X.tolist(), X.to("meta"))


def test_an_unknown_probe() -> None:
    with pytest.raises(InputError, match="probe must be 'loss' or 'random', but it is 'noise'"):
        gradtrace.trace(linear(), mean, X, probe="noise")


def test_the_users_error_is_the_cause() -> None:
    def loss_fn(model: nn.Module, x: Tensor) -> Tensor:
        raise KeyError("label")

    with pytest.raises(InputError, match="KeyError: 'label'") as caught:
        gradtrace.trace(linear(), loss_fn, X)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_traced(value: float) -> None:
    trace = gradtrace.trace(linear(), lambda model, x: mean(model, x) * value, X)
    assert not math.isfinite(trace.loss)
    assert trace.parameters[0].gradient is not None
    assert trace.parameters[0].gradient.nonfinite_frac > 0


def test_a_parameter_of_a_batch_of_one_and_a_loss_of_one_element() -> None:
    trace = gradtrace.trace(linear(), lambda model, x: model(x)[:1, :1], X[:1])
    assert trace.parameters[1].gradient is not None
    assert trace.parameters[1].gradient.norm == pytest.approx(1.0)


def test_an_empty_batch_is_traced_with_a_gradient_of_zero() -> None:
    trace = gradtrace.trace(linear(), lambda model, x: model(x).sum(), X[:0])
    assert trace.parameters[0].gradient is not None
    assert trace.parameters[0].gradient.norm == 0.0


def test_a_bare_parameter_as_the_loss() -> None:
    model = nn.Module()
    model.scale = nn.Parameter(torch.tensor(2.0))
    trace = gradtrace.trace(model, lambda model, _: model.scale, None)
    assert [op.parameter for op in trace.ops][-1] == "scale"
