"""What is reduced many at a time is what it would be one by one."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradtrace
from gradtrace.measure.deferred import Deferred
from gradtrace.measure.reduction import SAMPLE_SIZE, reduce, whole_norm, whole_norms
from gradtrace.measure.statistics import Statistics, log2_histograms

SHAPES = [(), (0,), (5,), (8, 3), (3, 8, 2), (8, 200), (8, 8, 40), (2, 1200), (1, 4097)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_statistics_of_many_tensors_are_those_of_each(dtype: torch.dtype, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [(torch.randn(shape, generator=generator) * scale).to(dtype) for shape in SHAPES]
    deferred = Deferred()
    handles = [reduce(tensor, deferred, 8) for tensor in tensors]
    statistics = Statistics(deferred.fetch(), handles)
    for tensor, handle in zip(tensors, handles, strict=True):
        found, wide = statistics.of(handle), tensor.double()
        if wide.isfinite().all():
            assert found.norm == pytest.approx(float(wide.norm()), rel=1e-6)
        else:
            assert not math.isfinite(found.max_abs)
            assert found.nonfinite_frac > 0.0
        if wide.numel():
            assert found.max_abs == float(wide.abs().max())
        if tensor.numel() <= SAMPLE_SIZE and tensor.numel():
            assert found.zero_frac == pytest.approx(float((tensor == 0).double().mean()))
            assert sum(count for _, count in found.log2_counts) == int(((tensor != 0) & tensor.isfinite()).sum())
        axis = next((i for i in (0, 1) if tensor.dim() > 2 * i and tensor.shape[i : i + 1] == (8,)), None)
        if axis is not None and math.isfinite(found.norm):
            norms = wide.movedim(axis, 0).flatten(1).norm(dim=1)
            expected = np.quantile(norms.numpy(), (0.0, 0.25, 0.5, 0.75, 1.0))
            assert found.example_norms == pytest.approx(expected, rel=1e-6)
        else:
            assert found.example_norms == ()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_exponents_are_those_of_frexp(kind: type) -> None:
    random = np.random.default_rng(0)
    arrays = []
    for _ in range(600):
        with np.errstate(under="ignore", over="ignore"):
            array: np.ndarray = (
                random.standard_normal(random.integers(1, 20)) * 10.0 ** random.integers(-44, 30)
            ).astype(kind)
        array[random.integers(array.size)] = random.choice([0.0, -0.0, np.nan, np.inf, float(np.finfo(kind).tiny) / 8])
        arrays.append(array)
    for array, found in zip(arrays, log2_histograms(arrays), strict=True):
        finite = array[np.isfinite(array) & (array != 0.0)]
        exponents, counts = np.unique(np.frexp(finite)[1] - 1, return_counts=True)
        assert found == tuple(zip(exponents.tolist(), counts.tolist(), strict=True))


def test_a_large_tensor_that_is_zero_where_it_is_sampled_is_not_called_zero() -> None:
    sparse, zero = torch.zeros(100, 100), torch.zeros(100, 100)
    sparse.view(-1)[1] = 1.0  # samples are taken at 0, 21, ...
    deferred = Deferred()
    handles = [reduce(sparse, deferred), reduce(zero, deferred)]
    statistics = Statistics(deferred.fetch(), handles)
    assert statistics.of(handles[0]).norm == 1.0
    assert statistics.of(handles[0]).zero_frac == 1.0 - 1e-4
    assert statistics.of(handles[1]).zero_frac == 1.0


def test_norms_taken_together_are_those_of_each() -> None:
    tensors = [torch.randn(n, dtype=d) * s for n in (0, 1, 50, 5000) for d in (torch.float32, torch.float64, torch.half)
               for s in (1.0, 1e-30)]  # fmt: skip
    for tensor, norm in zip(tensors, whole_norms(tensors), strict=True):
        assert float(norm) == pytest.approx(float(whole_norm(tensor)), rel=1e-6)


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(3, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        assert state is not None
        return self.head(state[0])


def test_activations_read_together_are_those_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    job = (Loop(), lambda model, x: model(x).square().mean(), torch.randn(5, 20, 3))
    together = gradtrace.trace(*job)
    monkeypatch.setattr("gradtrace.measure.alike._LEAST", 10**9)
    one_by_one = gradtrace.trace(*job)
    seen = [(op.activation, other.activation) for op, other in zip(together.ops, one_by_one.ops, strict=True)]
    assert sum(one is not None for one, _ in seen) >= 100
    for one, other in seen:
        assert (one is None) == (other is None)
        for value, expected in zip(astuple(one), astuple(other), strict=True) if one and other else ():
            same = value == expected if isinstance(value, str) else value == pytest.approx(expected, rel=1e-5)
            assert same
