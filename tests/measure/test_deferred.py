"""Numbers kept for later: on the host and from a device they are the same, and nobody else's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradtrace
from gradtrace.measure import deferred as module
from gradtrace.measure.deferred import BLOCK_SIZE, PACKED_TOGETHER, Deferred

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.bool]


@pytest.fixture(params=["host", "device"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where tensors are taken to lie."""
    if request.param == "device":
        monkeypatch.setattr(module, "is_host", lambda tensor: False)
    return str(request.param)


def tensors(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 2, (i % 4, 3), generator=generator).to(DTYPES[i % len(DTYPES)]) * (i % 3 + 1)
        for i in range(count)
    ]


@pytest.mark.usefixtures("place")
def test_what_is_fetched_is_what_was_put() -> None:
    deferred, kept = Deferred(), tensors(2 * PACKED_TOGETHER + 3)
    handles = [deferred.put(tensor, borrowed=True) for tensor in kept]
    rows = torch.arange(12.0).view(4, 3)
    many = deferred.put_rows(rows)
    arrays = deferred.fetch()
    for handle, tensor in zip([*handles, *many], [*kept, *rows], strict=True):
        assert arrays[handle].tolist() == tensor.double().reshape(-1).tolist()


@pytest.mark.usefixtures("place")
def test_what_is_borrowed_may_be_overwritten() -> None:
    deferred, tensor, rows = Deferred(), torch.ones(5), torch.ones(2, 3)
    handle, many = deferred.put(tensor[::2], borrowed=True), deferred.put_rows(rows[:])
    tensor.zero_(), rows.zero_()
    arrays = deferred.fetch()
    assert [arrays[i].tolist() for i in (handle, *many)] == [[1.0] * 3] * 3


def test_more_numbers_than_a_block_holds() -> None:
    deferred = Deferred()
    large = torch.arange(float(BLOCK_SIZE + 1))
    handles = [deferred.put(part) for part in (torch.ones(2), large, torch.ones(3), large[: BLOCK_SIZE - 1])]
    arrays = deferred.fetch()
    assert [len(arrays[handle]) for handle in handles] == [2, BLOCK_SIZE + 1, 3, BLOCK_SIZE - 1]
    np.testing.assert_array_equal(arrays[handles[1]], large.numpy())


def test_negated_and_conjugated_views_are_resolved() -> None:
    value = torch.tensor([1.0 + 2.0j]).conj().imag
    assert value.is_neg()
    deferred = Deferred()
    handle = deferred.put(value)
    assert deferred.fetch()[handle].tolist() == [-2.0]


def test_a_trace_is_the_same_wherever_its_numbers_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 60), nn.Tanh(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 1))
    batch = torch.randn(32, 40)
    traces = []
    for is_host in (True, False):
        monkeypatch.setattr(module, "is_host", lambda tensor, is_host=is_host: is_host)
        traces.append(gradtrace.trace(model, lambda model, x: model(x).square().mean(), batch))
    here, there = ([replace(op, sequence=0) for op in trace.ops] for trace in traces)
    assert here == there
    assert traces[0].parameters == traces[1].parameters
