"""Where was the first NaN or Inf born?"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.measure.zoo import Net
from torch import Tensor, nn

import gradtrace
from gradtrace.records.trace import Birth, Trace

HERE = "tests/measure/test_origin.py"


def total(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).sum()


def traced(run: Callable[[Any, Any], Any], x: Tensor, **parts: Any) -> Trace:
    parts = parts or {"scale": nn.Parameter(torch.tensor(1.0))}
    return gradtrace.trace(Net(run, **parts), total, x, values=True)


def born(run: Callable[[Any, Any], Any], x: Tensor, **parts: Any) -> Birth:
    birth = traced(run, x, **parts).nonfinite
    assert birth is not None
    return birth


def line_of(run: Callable[[Any, Any], Any], words: str) -> str:
    lines, start = inspect.getsourcelines(run)
    return f"{HERE}:{start + next(i for i, line in enumerate(lines) if words in line)}"


def log_of_zero(net: Any, x: Tensor) -> Tensor:
    y = x * net.scale
    z = torch.log(y)
    return z * 2 + y


def zero_by_zero(net: Any, x: Tensor) -> Tensor:
    y = net.scale * x
    share = y / y
    return share.square()


def overflow(net: Any, x: Tensor) -> Tensor:
    h = torch.exp(net.scale * x)
    return h / h.sum()


def masked(net: Any, x: Tensor) -> Tensor:
    scores = net.scale * x
    scores = scores.masked_fill(torch.ones(4, 4).triu(1) > 0, -torch.inf)
    scores = scores.index_fill(0, torch.tensor([2]), -torch.inf)
    weights = torch.softmax(scores, -1)
    return weights @ x


@pytest.mark.parametrize(
    ("run", "x", "op", "words"),
    [
        (log_of_zero, torch.tensor([0.0, 1.0]), "log", "torch.log"),
        (zero_by_zero, torch.tensor([0.0, 1.0]), "__truediv__", "y / y"),
        (overflow, torch.tensor([100.0, 1.0]), "exp", "torch.exp"),
        (masked, torch.randn(4, 4), "softmax", "torch.softmax"),
    ],
)
def test_born_forward(run: Callable[[Any, Any], Any], x: Tensor, op: str, words: str) -> None:
    birth = born(run, x)
    assert birth.phase == "forward"
    assert birth.op in (op, "div")
    assert birth.site.source == line_of(run, words)
    assert birth.site.module == ""


def test_operands_are_told() -> None:
    birth = born(overflow, torch.tensor([100.0, 1.0]))
    assert birth.detail == "operands between 1 and 100"
    assert birth.largest == 100.0


def root(net: Any, x: Tensor) -> Tensor:
    y = x * net.scale
    return torch.sqrt(y)


def length(net: Any, x: Tensor) -> Tensor:
    y = x * net.scale
    return y.pow(2).sum(-1).sqrt()


def norm_of_zero(net: Any, x: Tensor) -> Tensor:
    y = x * net.scale
    return torch.acos(y)


def trap(net: Any, x: Tensor) -> Tensor:
    y = x * net.scale
    z = torch.log(y)
    return torch.where(y > 0, z, torch.zeros_like(y))


@pytest.mark.parametrize(
    ("run", "x", "node", "words"),
    [
        (root, torch.tensor([0.0, 1.0]), "SqrtBackward0", "torch.sqrt"),
        (length, torch.tensor([[0.0, 0.0], [1.0, 1.0]]), "SqrtBackward0", "sqrt"),
        (norm_of_zero, torch.tensor([1.0, 0.5]), "AcosBackward0", "torch.acos"),
        (trap, torch.tensor([0.0, 1.0]), "LogBackward0", "torch.log"),
    ],
)
def test_born_backward(run: Callable[[Any, Any], Any], x: Tensor, node: str, words: str) -> None:
    birth = born(run, x)
    assert (birth.phase, birth.op) == ("backward", node)
    assert birth.site.source == line_of(run, words)


def test_torch_knows_the_slope_of_its_own_norm_at_zero() -> None:
    assert traced(lambda net, x: torch.linalg.vector_norm(x * net.scale), torch.zeros(3)).nonfinite is None


def test_a_causal_mask_is_no_birth() -> None:
    def attend(net: Any, x: Tensor) -> Tensor:
        scores = net.scale * x @ x.mT + torch.full((4, 4), -torch.inf).triu(1)
        return F.softmax(scores, -1) @ x

    assert traced(attend, torch.randn(2, 4, 3)).nonfinite is None


@pytest.mark.parametrize("boolean", [True, False])
def test_a_masked_out_row_of_fused_attention_is_told(boolean: bool) -> None:
    mask = torch.zeros(4, 4).index_fill(0, torch.tensor([1]), -torch.inf)

    def attend(net: Any, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(net.scale * x, x, x, attn_mask=mask == 0 if boolean else mask)

    trace = traced(attend, torch.randn(1, 4, 3))
    if trace.loss == trace.loss:  # this torch gives such a row zeros
        assert trace.nonfinite is None
    else:
        assert trace.nonfinite is not None
        assert trace.nonfinite.op == "scaled_dot_product_attention"


def weight_of(model: Any, index: int) -> Tensor:
    return model[index].weight  # type: ignore[no-any-return]


def test_an_overflow_of_float16_in_a_layer() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8)).half()
    nn.init.constant_(weight_of(model, 1), 3e4)
    nn.init.constant_(weight_of(model, 0), 1.0)
    birth = gradtrace.trace(model, lambda m, x: m(x).float().sum(), torch.ones(2, 8).half(), values=True).nonfinite
    assert birth is not None
    assert (birth.phase, birth.op, birth.site.module) == ("forward", "linear", "1")


def test_a_number_of_the_batch() -> None:
    x = torch.randn(3, 4)
    x[1, 2] = torch.nan
    birth = gradtrace.trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), total, x, values=True).nonfinite
    assert birth is not None
    assert birth.phase == "input"


def test_an_infinity_of_the_batch() -> None:
    x = torch.randn(3, 4)
    x[1, 2] = torch.inf
    birth = gradtrace.trace(nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1)), total, x, values=True).nonfinite
    assert birth is not None
    assert birth.phase == "input"


def test_a_parameter() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        weight_of(model, 2)[0, 1] = torch.nan
    birth = gradtrace.trace(model, total, torch.randn(3, 4), values=True).nonfinite
    assert birth is not None
    assert (birth.phase, birth.op, birth.site.module) == ("parameter", "2.weight", "2")


def test_the_deepest_module_is_named() -> None:
    inner = Net(lambda net, x: torch.log(x - x))
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), inner))
    birth = gradtrace.trace(model, total, torch.randn(3, 4), values=True).nonfinite
    assert birth is not None
    assert (birth.op, birth.site.module, birth.site.module_type) == ("log", "1.1", "Net")


def test_a_mask_that_came_with_the_batch_is_not_to_blame() -> None:
    def attend(net: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, mask = batch
        return torch.softmax(net.scale * x + mask, -1)

    model = Net(attend, scale=nn.Parameter(torch.tensor(1.0)))
    mask = torch.zeros(3, 3).index_fill(0, torch.tensor([1]), -torch.inf)
    birth = gradtrace.trace(model, lambda m, b: m(b).sum(), (torch.randn(3, 3), mask), values=True).nonfinite
    assert birth is not None
    assert (birth.phase, birth.op) == ("forward", "softmax")


def test_in_place() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        y = x * net.scale
        y.log_()
        return y + 1

    birth = born(run, torch.tensor([-1.0, 1.0]))
    assert (birth.phase, birth.op) == ("forward", "log_")


def test_what_is_born_where_no_gradient_flows_does_not_count() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        torch.log(x - x)
        return x * net.scale

    assert traced(run, torch.ones(3)).nonfinite is None


def test_the_first_of_two_births_that_both_reach_the_loss() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        first = torch.log(net.scale * x)
        return first + torch.sqrt(net.scale * x)

    birth = born(run, torch.tensor([-1.0]))
    assert birth.op == "log"
