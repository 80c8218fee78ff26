"""Nothing of the user's is left changed, whatever happens in between."""

from __future__ import annotations

import random
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.measure.oracle import Snapshot
from tests.measure.zoo import Net
from torch import Tensor, nn

import gradtrace
from gradtrace.errors import InputError
from gradtrace.measure.deferred import Deferred
from gradtrace.measure.forward import ForwardObserver
from gradtrace.tape.recorder import Recorder


def mean(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().mean()


def stop(*_: Any) -> Any:
    raise RuntimeError("stop here")


class Stops(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        raise RuntimeError("stop in backward")


def noisy(net: Any, x: Tensor) -> Tensor:
    """Draws random numbers, counts its calls, changes buffers, swaps one, leaves a tensor on the module."""
    net.calls += 1
    net.seen.append(net.calls)
    net.running.add_(random.random() + np.random.rand())
    net.swapped = torch.rand(2)
    net.last = net.norm(half_dropped(net.layer(x)))
    return net.last


def half_dropped(x: Tensor) -> Tensor:
    return nn.functional.dropout(x, 0.5)


def model_with(run: Callable[[Any, Any], Any]) -> Any:
    model: Any = Net(run, layer=nn.Linear(4, 4), norm=nn.BatchNorm1d(4), rnn=nn.LSTM(4, 4))
    model.calls, model.seen = 0, []
    model.register_buffer("running", torch.zeros(2))
    model.register_buffer("swapped", torch.zeros(2))
    model.layer.register_forward_hook(lambda *_: None)
    model.layer.weight.register_hook(lambda gradient: None)
    return model


FATES: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    "success": (noisy, mean),
    "random probe": (noisy, mean),
    "values": (noisy, mean),
    "failing module": (lambda net, x: net.rnn(stop(noisy(net, x))), mean),
    "failing loss_fn": (noisy, lambda model, x: stop(model(x))),
    "failing backward": (lambda net, x: Stops.apply(noisy(net, x)), mean),
    "backward called": (noisy, lambda model, x: mean(model, x).backward()),
    "not a scalar": (noisy, lambda model, x: model(x)),
    "detached": (noisy, lambda model, x: mean(model, x).detach()),
    "mode changed": (noisy, lambda model, x: mean(model.eval(), x)),
}


@pytest.mark.parametrize("fate", FATES)
def test_no_hooks_remain_and_nothing_is_changed(fate: str) -> None:
    run, loss_fn = FATES[fate]
    model = model_with(run)
    x = torch.randn(6, 4)
    mean(model_with(noisy), x)
    mean(model.layer, x).backward()
    before, calls, threads = Snapshot(model), model.calls, threading.active_count()
    try:
        options = {"random probe": {"probe": "random"}, "values": {"values": True}}.get(fate, {})
        gradtrace.trace(model, loss_fn, x, **options)  # type: ignore[arg-type]
    except InputError:
        assert fate not in ("success", "random probe", "values", "mode changed")
    before.assert_same(model)
    assert (model.calls, threading.active_count()) == (calls, threads)
    assert not hasattr(model, "last")


def test_an_input_that_requires_a_gradient_gets_none() -> None:
    x = torch.randn(6, 4, requires_grad=True)
    gradtrace.trace(nn.Linear(4, 2), mean, x)
    assert x.grad is None
    assert not x._backward_hooks


@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_that_were_there_stay_the_same_objects(sparse: bool) -> None:
    model = nn.Sequential(nn.Embedding(5, 3, sparse=sparse), nn.Linear(3, 1))
    x = torch.randint(0, 5, (4, 2))
    mean(model, x).backward()
    before = [(p.grad, p.grad.to_dense().clone()) for p in model.parameters() if p.grad is not None]
    gradtrace.trace(model, mean, x)
    for parameter, (gradient, content) in zip(model.parameters(), before, strict=True):
        assert parameter.grad is gradient
        assert torch.equal(gradient.to_dense(), content)


def test_a_second_model_outside_gets_no_gradient() -> None:
    critic = nn.Linear(2, 1)
    gradtrace.trace(nn.Linear(4, 2), lambda model, x: critic(model(x)).mean(), torch.randn(6, 4))
    assert [p.grad for p in critic.parameters()] == [None, None]


def test_a_surrounding_no_grad_is_no_obstacle_and_stays() -> None:
    with torch.no_grad():
        trace = gradtrace.trace(nn.Linear(4, 2), mean, torch.randn(6, 4))
        assert not torch.is_grad_enabled()
    assert trace.coverage.no_gradient == ()


def test_two_traces_of_the_same_are_equal() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2)), torch.randn(6, 4)
    first, second = (gradtrace.trace(model, mean, x) for _ in range(2))
    assert [op.received for op in first.ops] == [op.received for op in second.ops]


class Noted(nn.Linear):
    """Keeps a log, counts, and draws from generators of its own."""

    def __init__(self) -> None:
        super().__init__(4, 2)
        self.log: list[float] = [1.0]
        self.latest: deque[float] = deque([1.0], maxlen=1)
        self.seen, self.by_size, self.counts = {1}, {1: torch.ones(2)}, Counter({1: 7})
        self.noise = torch.Generator().manual_seed(3)
        self.numpy, self.legacy, self.python = np.random.default_rng(3), np.random.RandomState(3), random.Random(3)

    def draws(self) -> list[float]:
        drawn = [self.numpy.random(), self.legacy.rand(), self.python.random()]
        return [torch.rand(1, generator=self.noise).item(), *drawn]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.log.append(2.0)
        self.latest.append(2.0)
        self.seen.add(len(x))
        self.by_size[len(x)] = x
        self.counts[1] += 1
        return super().forward(x * self.draws()[0])


def test_logs_and_generators_of_the_model_s_own_go_back_as_they_came() -> None:
    model, twin = Noted(), Noted()
    gradtrace.trace(model, lambda model, x: model(x).square().mean(), torch.randn(3, 4))
    assert (model.log, list(model.latest), model.seen, model.counts) == ([1.0], [1.0], {1}, Counter({1: 7}))
    assert list(model.by_size) == [1]
    assert model.draws() == twin.draws()


class TakesNoHooks(nn.Linear):
    """Its second hook fails: one is on already."""

    def register_forward_hook(self, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        raise RuntimeError("no hooks here")


def test_where_the_recorder_cannot_enter_nothing_of_it_stays() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), TakesNoHooks(4, 1))
    with pytest.raises(Exception, match="no hooks here"):
        gradtrace.trace(model, mean, torch.randn(3, 4))
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == [0, 0, 0, 0]
    recorder = Recorder(model, ForwardObserver(Deferred()))
    with pytest.raises(RuntimeError, match="no hooks here"):
        recorder.__enter__()
    assert not recorder.entered
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == [0, 0, 0, 0]
    assert torch._C._len_torch_function_stack() == 0


def test_where_a_later_part_of_entering_fails_the_mode_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(4, 1)
    monkeypatch.setattr("gradtrace.tape.recorder.keep_unseen", stop)
    with pytest.raises(RuntimeError, match="stop here"):
        Recorder(model, ForwardObserver(Deferred())).__enter__()
    assert torch._C._len_torch_function_stack() == 0
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_a_sparse_tensor_of_the_batch_is_put_back_too(layout: torch.layout) -> None:
    graph = torch.eye(4).to_sparse(layout=layout)

    def spoil(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        batch[1].mul_(2.0)
        return torch.mm(batch[1], model(batch[0])).mean()

    trace = gradtrace.trace(nn.Linear(4, 2), spoil, (torch.randn(4, 4), graph))
    assert torch.equal(graph.to_dense(), torch.eye(4))
    assert not [text for text in trace.coverage.notes if "not kept" in text]
