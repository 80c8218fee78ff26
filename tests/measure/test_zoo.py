"""Whatever the network does, the trace has the gradients that plain autograd has, and leaves no mark."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.measure.oracle import LEAF, Backward, Snapshot
from tests.measure.zoo import Animal
from tests.measure.zoo_table import ZOO
from torch import Tensor, nn

import gradtrace
from gradtrace.records.trace import Op, Trace

pytestmark = pytest.mark.filterwarnings("ignore:.*")

TOLERANCE = {torch.float64: 1e-12, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(params=ZOO)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def born(name: str) -> Animal:
    torch.manual_seed(0)
    animal = ZOO[name]()
    torch.manual_seed(1)
    return animal


def original(model: nn.Module) -> nn.Module:
    return getattr(model, "_orig_mod", model)  # type: ignore[return-value]


def in_order(trace: Trace) -> list[Op]:
    """The ops of the forward pass in its order."""
    ops = [op for op in trace.ops if op.name != LEAF]
    return sorted(ops, key=lambda op: op.sequence)


def close(measured: float | None, expected: float | None) -> bool:
    if measured is None or expected is None:
        return measured is None and expected is None
    return math.isclose(measured, expected, rel_tol=2e-6, abs_tol=1e-30)


def test_every_gradient_is_the_one_of_plain_autograd(name: str) -> None:
    model, loss_fn, batch = born(name)
    trace = gradtrace.trace(model, loss_fn, batch)
    model, loss_fn, batch = born(name)
    with torch.compiler.set_stance("force_eager"):
        oracle = Backward(original(model), loss_fn, batch)
    ops = in_order(trace)
    assert [op.name for op in ops] == oracle.names
    for op, received, passed in zip(ops, oracle.received, oracle.passed, strict=True):
        assert close(op.received.norm if op.received else None, received), op
        for slot, norm in enumerate(passed):
            if norm is not None and op.targets[slot] is not None:
                stats = op.passed[slot]
                assert close(stats.norm if stats else None, norm), (op, slot)
    for parameter in trace.parameters:
        if parameter.in_model:
            expected = oracle.parameters[parameter.name]
            assert close(parameter.gradient.norm if parameter.gradient else None, expected), parameter.name
    assert math.isclose(trace.loss, oracle.loss, rel_tol=1e-6)


def test_every_kind_is_known_and_nothing_failed(name: str) -> None:
    trace = gradtrace.trace(*born(name))
    custom = {"Cube", "Both", "Blocked", "CheckpointFunction"}
    assert set(trace.coverage.unknown) <= custom
    assert trace.coverage.unreadable == ()
    assert [note for note in trace.coverage.notes if "compiled" not in note] == []


def test_shares_of_what_arrives_at_an_op_sum_to_one(name: str) -> None:
    trace = gradtrace.trace(*born(name))
    sums: dict[int, list[float]] = {}
    for op in trace.ops:
        for slot, target in enumerate(op.targets):
            share = op.shares[slot]
            if target is not None and share is not None:
                sums.setdefault(target[0], []).append(share)
    low = {"float16", "bfloat16", "autocast"}
    for index, shares in sums.items():
        rounding = 0.02 if name in low else 1e-5  # of each branch: where they cancel, of many times the sum
        assert sum(shares) == pytest.approx(1.0, abs=rounding * sum(map(abs, shares))), trace.ops[index]


def test_the_source_is_the_line_that_called(name: str) -> None:
    trace = gradtrace.trace(*born(name))
    for op in trace.ops:
        if op.name != LEAF and not (name == "vmap" and op.name == "PermuteBackward0"):  # recorded as vmap unwraps
            assert op.site.source.partition(":")[0] in ("tests/measure/zoo.py", "tests/measure/zoo_table.py"), op


def prepare(model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batch: Any) -> None:
    """One earlier backward pass, so that there are gradients to lose."""
    with torch.compiler.set_stance("force_eager"):
        loss_fn(original(model), batch).backward()


@pytest.mark.parametrize("how", ["loss", "random", "values"])
def test_the_model_comes_back_as_it_was(name: str, how: str) -> None:
    model, loss_fn, batch = born(name)
    prepare(model, loss_fn, batch)
    before = Snapshot(model)
    gradtrace.trace(model, loss_fn, batch, probe="random" if how == "random" else "loss", values=how == "values")
    before.assert_same(model)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_training_goes_on_bit_for_bit(name: str, optimizer: type[torch.optim.Optimizer]) -> None:
    trained = []
    for traced in (False, True):
        model, loss_fn, batch = born(name)
        prepare(model, loss_fn, batch)
        if traced:
            gradtrace.trace(model, loss_fn, batch)
        model = original(model)
        sparse = "sparse" in name and optimizer is torch.optim.Adam
        kind: Any = torch.optim.SparseAdam if sparse else optimizer
        steps = kind(list(model.parameters())[: 1 if sparse else None], lr=1e-2)
        for _ in range(3):
            with torch.compiler.set_stance("force_eager"):
                loss_fn(model, batch).backward()
            steps.step()
            steps.zero_grad()
        trained.append([*model.parameters(), *model.buffers()])
    for traced, untraced in zip(*trained, strict=True):
        torch.testing.assert_close(traced, untraced, rtol=0.0, atol=0.0, equal_nan=True)
