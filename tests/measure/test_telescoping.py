"""The identity: decades along the critical path sum to the whole, on any graph, against gradients taken apart.

log10 |L'(target)| = log10 |L'(loss)| + sum over the path (log10 gain of each op + log10 gain of each merge)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.measure.oracle import norm64
from torch import Tensor, nn

import gradtrace
from gradtrace.measure.path import Paths, budget, critical_path, log10
from gradtrace.records.trace import Trace

WIDTH = 5
UNARY: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.sigmoid,
    F.relu,
    lambda x: (x * 1.5).tanh_().add(0.1),
    lambda x: F.layer_norm(x, (WIDTH,)),
    lambda x: torch.softmax(x @ x.t() / 4, -1) @ x,
    lambda x: F.elu((x + 0.1).mul_(2.0), inplace=True),
    lambda x: torch.cat([x[:, 2:], x[:, :2].exp().clamp(max=3.0)], 1),
    lambda x: x.unsqueeze(1).expand(-1, 3, -1).mean(1) * 0.3,
)
Plan = list[tuple[str, int, list[int]]]


class Random(nn.Module):
    """Every step makes a value from earlier ones; the last values are summed, so that none is lost."""

    def __init__(self, plan: Plan, num_layers: int) -> None:
        super().__init__()
        self.plan = plan
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        values = [self.layers[0](x)]
        for kind, which, picks in self.plan:
            picked = [values[pick % len(values)] for pick in picks]
            values.append(self.step(kind, which, picked))
        return torch.stack(values[-3:]).sum(0)

    def step(self, kind: str, which: int, picked: list[Tensor]) -> Tensor:
        layer = self.layers[which % len(self.layers)]
        match kind:
            case "layer":
                return layer(picked[0])  # type: ignore[no-any-return]
            case "function":
                return UNARY[which % len(UNARY)](picked[0])
            case "residual":
                return picked[0] + 0.5 * torch.tanh(layer(picked[0]))
            case "product":
                return picked[0] * torch.sigmoid(picked[-1])
            case "in place":
                y = picked[0].clone()
                y += picked[-1]
                y[:, 0] = picked[0][:, 1]
                return y
            case _:  # branches of three and more
                return torch.stack([torch.tanh(layer(value)) * 0.7 for value in picked]).sum(0) + picked[0]


plans = st.lists(
    st.tuples(
        st.sampled_from(["layer", "function", "residual", "product", "in place", "branches"]),
        st.integers(0, 63),
        st.lists(st.integers(0, 30), min_size=1, max_size=5),
    ),
    max_size=12,
)


def check(trace: Trace, expected: dict[str, float], decades: float) -> None:
    paths = Paths(trace)
    for op in trace.ops:
        if op.parameter is None or op.received is None:
            continue
        norm = expected[op.parameter]
        whole = budget(trace, op.index)
        assert whole.end_log10 == pytest.approx(log10(norm), abs=decades)
        steps = critical_path(trace, op.index)
        assert steps == paths.path(op.index)
        total = sum(step.gain_log10 + step.merge_log10 for step in steps)
        if norm > 0.0:
            assert log10(norm) == pytest.approx(whole.start_log10 + total, abs=decades)
            assert whole.residual == pytest.approx(0.0, abs=decades)
            assert sum(part for _, part in whole.decades) == pytest.approx(total, abs=1e-9)
        for before, after in itertools.pairwise(steps):
            assert trace.ops[before.op].targets[before.slot] is not None
            assert trace.ops[before.op].targets[before.slot][0] == after.op  # type: ignore[index]


def shares_sum_to_one(trace: Trace, tolerance: float) -> None:
    sums: dict[int, list[float]] = {}
    for op in trace.ops:
        for target, share in zip(op.targets, op.shares, strict=True):
            if target is not None and share is not None:
                sums.setdefault(target[0], []).append(share)
    for shares in sums.values():
        assert math.fsum(shares) == pytest.approx(1.0, abs=tolerance * math.fsum(map(abs, shares)))


@pytest.mark.parametrize(("dtype", "decades", "rounding"), [(torch.float32, 1e-4, 1e-5), (torch.float64, 1e-10, 1e-12)])
@settings(max_examples=150)
@given(plan=plans, num_layers=st.integers(1, 4), seed=st.integers(0, 2**16), scale=st.sampled_from([1e-6, 1.0, 1e4]))
def test_any_graph_telescopes(
    dtype: torch.dtype, decades: float, rounding: float, plan: Plan, num_layers: int, seed: int, scale: float
) -> None:
    torch.manual_seed(seed)
    model, x = Random(plan, num_layers).to(dtype), torch.randn(4, WIDTH, dtype=dtype)

    def loss_fn(model: nn.Module, x: Tensor) -> Tensor:
        return model(x).square().mean() * scale  # type: ignore[no-any-return]

    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss_fn(model, x), list(parameters.values()), allow_unused=True)
    expected = {n: norm64(g) if isinstance(g, Tensor) else 0.0 for n, g in zip(parameters, gradients, strict=True)}
    trace = gradtrace.trace(model, loss_fn, x)
    assert trace.coverage.notes == ()
    check(trace, expected, decades)
    shares_sum_to_one(trace, rounding)


@pytest.mark.parametrize("num_steps", [1, 4, 20])
def test_a_weight_used_many_times(num_steps: int) -> None:
    cell = nn.RNNCell(3, WIDTH).double()
    x = torch.randn(2, num_steps, 3, dtype=torch.float64)

    def loss_fn(model: nn.Module, x: Tensor) -> Tensor:
        h = None
        for step in x.unbind(1):
            h = model(step, h)
        assert h is not None
        return h.square().mean()

    trace = gradtrace.trace(cell, loss_fn, x)
    gradients = torch.autograd.grad(loss_fn(cell, x), list(cell.parameters()))
    names = [name for name, _ in cell.named_parameters()]
    check(trace, {name: norm64(gradient) for name, gradient in zip(names, gradients, strict=True)}, 1e-10)
    shares_sum_to_one(trace, 1e-10)


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_norms_beyond_the_squares_that_float32_can_hold(scale: float) -> None:
    model, x = nn.Sequential(*[nn.Linear(64, 64) for _ in range(3)]), torch.randn(8, 64)

    def loss_fn(model: nn.Module, x: Tensor) -> Tensor:
        return model(x).sum() * scale  # type: ignore[no-any-return]

    gradients = torch.autograd.grad(loss_fn(model, x), list(model.parameters()))
    expected = {n: norm64(g) for (n, _), g in zip(model.named_parameters(), gradients, strict=True)}
    assert all(0.0 < norm < math.inf for norm in expected.values())
    check(gradtrace.trace(model, loss_fn, x), expected, 1e-4)
