"""Norms agree with float64 over the whole range of float32, whatever the tensors are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradtrace.monitor.statistics.gradients import row, total
from gradtrace.monitor.statistics.norms import norms
from gradtrace.monitor.statistics.transfer import Transfer
from gradtrace.monitor.statistics.updates import Updates
from gradtrace.monitor.watched import Watched
from gradtrace.records.run import Scalar, Series


@given(
    exponents=st.lists(st.integers(-37, 37), min_size=1, max_size=6),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_norms_are_those_of_float64_from_1e_37_to_1e_37(exponents, dtype, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = [(torch.randn(17, generator=generator) * 10.0**e).to(dtype) for e in exponents]
    expected = [float(torch.linalg.vector_norm(t.double())) for t in tensors]
    np.testing.assert_allclose(
        norms(tensors).double().numpy(), expected, rtol=2e-3 if dtype == torch.bfloat16 else 1e-5
    )


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
def test_each_kind_of_tensor_has_its_norm() -> None:
    sparse = torch.sparse_coo_tensor([[0, 2, 2]], [3.0, 1.0, 3.0], (4,), check_invariants=True)
    # not coalesced: 3 at 0, 4 at 2
    complex_ = torch.tensor([3.0 + 4.0j])
    half = torch.full((4,), 60000.0, dtype=torch.float16)  # overflows in its own format
    empty, zeros = torch.empty(0), torch.zeros(3)
    found = norms([sparse, None, complex_, half, empty, zeros, torch.tensor([1.0, math.inf]), torch.tensor([math.nan])])
    expected = [5.0, math.nan, 5.0, 120000.0, 0.0, 0.0, math.inf, math.inf]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
    assert norms([]).numel() == 0
    assert torch.isnan(norms([None, None])).all()


def test_total_is_the_norm_of_all_and_passes_over_what_is_missing() -> None:
    assert total(np.array([3e-30, np.nan, 4e-30], np.float32)) == pytest.approx(5e-30)
    assert math.isinf(total(np.array([1.0, np.inf], np.float32)))
    assert total(None) is None


def test_a_row_holds_what_arrived_in_its_order() -> None:
    ferry = Transfer()
    vectors = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4]), torch.tensor([2.0, 0.0]),
               torch.tensor([1.0, 0.0]), torch.tensor([1024.0])]  # fmt: skip
    ferry.send("a", vectors)
    ferry.send("b", [None] * 6)
    assert len(ferry) == 2
    (_, full), (_, empty) = ferry.arrived()
    scalars, series = row(full, 0.1, 2)
    named = dict(zip(Scalar, scalars, strict=True))
    assert named[Scalar.LOSS] == 3.0
    assert named[Scalar.GRADIENT_NORM] == pytest.approx(5.0)
    assert named[Scalar.CLIPPED_NORM] == pytest.approx(0.5)
    assert named[Scalar.LOSS_SCALE] == 1024.0
    ratio = series[list(Series).index(Series.UPDATE_RATIO)]
    assert ratio[0] == 0.5
    assert math.isnan(ratio[1])  # 0/0: a weight of zeros that did not move
    scalars, series = row(empty, 0.1, 2)
    assert np.isnan(series).all()
    assert scalars[0] is None


def test_updates_of_a_large_model_are_taken_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradtrace.monitor.statistics.updates.MIN_COPIED_BYTES", 4 * 4 * 10)
    monkeypatch.setattr("gradtrace.monitor.statistics.updates.MOST_COPIED_FRAC", 0.0)
    model = nn.ParameterList([nn.Parameter(torch.full((size,), 2.0)) for size in (10, 30, 100, 5)])
    updates, seen = Updates(Watched(model, ())), []
    for _ in range(4):
        weights = updates.before()
        with torch.no_grad():
            for parameter in model:
                parameter += 1.0
        moved = updates.after()
        assert not updates.is_holding
        known = ~torch.isnan(moved)
        assert torch.equal(known, ~torch.isnan(weights))
        seen.append(known.tolist())
        np.testing.assert_allclose(moved[known] ** 2, [p.numel() for p, k in zip(model, known, strict=True) if k])
    assert seen[0] == [True, True, False, False]
    assert seen[1] == [False, False, True, False]  # larger than all the room, alone
    assert all(any(at[i] for at in seen) for i in range(4))
