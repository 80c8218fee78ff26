"""Whole traces of compiled models: those of the uncompiled code, beside a training that nobody disturbs."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import gradtrace
from gradtrace.monitor.traces.parting import parting
from gradtrace.records.vocabulary import Factor

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),  # dynamo's own
]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(16), nn.MultiheadAttention(16, 2, dropout=0.1, batch_first=True)
        self.second, self.inner = nn.LayerNorm(16), nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.dropout(self.inner(self.second(x)))


class Tied(nn.Module):
    """A small language model that makes its own loss, with an embedding that is its head as well."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.block, self.head = nn.Embedding(11, 16), Block(), nn.Linear(16, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.head(self.block(self.embedding(tokens)))
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Convolutions(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Flatten(), nn.Linear(64, 3),
        )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))


def deep() -> nn.Module:
    layers = [layer for _ in range(14) for layer in (nn.Linear(16, 16), nn.Sigmoid())]
    return nn.Sequential(nn.Linear(8, 16), *layers, nn.Linear(16, 3))


def vectors(step: int) -> Any:
    return (torch.randn(12, 8),), torch.randint(0, 3, (12,))


def resized(step: int) -> Any:
    return (torch.randn(12 + step % 4, 8),), torch.randint(0, 3, (12 + step % 4,))


def sequences(step: int) -> Any:
    return (torch.randn(4, 5, 16),), torch.randint(0, 16, (4, 5))


def images(step: int) -> Any:
    return (torch.randn(6, 1, 8, 8),), torch.randint(0, 3, (6,))


def tokens(step: int) -> Any:
    both = torch.randint(0, 11, (4, 6))
    return (both[:, :-1], both[:, 1:]), None


def loss_of(output: Any, target: torch.Tensor | None) -> torch.Tensor:
    if target is None:
        return output[1]  # type: ignore[no-any-return]
    return F.cross_entropy(output.flatten(0, -2), target.flatten())


MODELS: dict[str, tuple[Any, Any]] = {
    "MLP": (mlp, vectors),
    "transformer with dropout": (Block, sequences),
    "convolutions with batch norm": (Convolutions, images),
    "language model": (Tied, tokens),
    "other sizes": (mlp, resized),
}


def whole(model: nn.Module, **options: Any) -> Any:
    return torch.compile(model, **options)


def in_place(model: nn.Module, **options: Any) -> Any:
    model.compile(**options)
    return model


def trained(
    model: str, compiler: Any = None, *, watched: bool = True, steps: int = 8, loss_fn: Any = loss_of, **options: Any
) -> tuple[Any, list[torch.Tensor], dict[str, Any]]:
    """Watch, parameters and buffers in the end, and dynamo's counters."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    make, batches = MODELS[model] if model in MODELS else (deep, vectors)
    own = make()
    run = own if compiler is None else compiler(own, **{"backend": "aot_eager", **options})
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1, momentum=0.9)
    watch = gradtrace.watch(run, optimizer, every=3, budget=10.0) if watched else None
    if watch is not None:
        watch.start()
    for step in range(steps):
        inputs, target = batches(step)
        optimizer.zero_grad()
        loss_fn(run(*inputs), target).backward()
        optimizer.step()
    if watch is not None:
        watch.receive()
    counted = {key: dict(found) for key, found in torch._dynamo.utils.counters.items()}
    if watch is not None:
        watch.close()
    return watch, [tensor.detach().clone() for tensor in own.state_dict().values()], counted


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def assert_alike(compiled: Any, eager: Any) -> None:
    """Op by op, whatever the order."""
    assert compiled.loss == pytest.approx(eager.loss, rel=1e-5)
    assert compiled.batch_size == eager.batch_size
    ops = [{(op.name, op.site, op.parameter, number(t, op)): op for op in t.ops} for t in (compiled, eager)]
    assert ops[0].keys() == ops[1].keys()
    for key, op in ops[0].items():
        other = ops[1][key]
        assert (op.factor, op.function, op.weights, op.opaque) == (
            other.factor, other.function, other.weights, other.opaque
        ), key  # fmt: skip
        assert (op.activation is None, op.objective is None) == (other.activation is None, other.objective is None)
        assert norm(op.received) == pytest.approx(norm(other.received), rel=1e-5, abs=1e-12), key
        assert list(map(norm, op.passed)) == pytest.approx(list(map(norm, other.passed)), rel=1e-5, abs=1e-12)
        assert list(map(known, op.shares)) == pytest.approx(list(map(known, other.shares)), rel=1e-4, abs=1e-5), key
    forward = [sorted(ops, key=lambda op: op.sequence) for ops in (compiled.ops, eager.ops)]
    made = [[(op.name, op.site) for op in one if op.parameter is None] for one in forward]
    assert made[0] == made[1]


def number(trace: Any, op: Any) -> int:
    """Of several ops on one line."""
    alike = [other for other in trace.ops if (other.name, other.site) == (op.name, op.site)]
    return sorted(other.sequence for other in alike).index(op.sequence)


def norm(stats: Any) -> float:
    return stats.norm if stats is not None else -1.0


def known(share: float | None) -> float:
    return -9.0 if share is None else share


@pytest.mark.parametrize("compiler", [whole, in_place])
@pytest.mark.parametrize("model", MODELS)
def test_a_compiled_model_has_the_trace_of_the_uncompiled_one(model: str, compiler: Any) -> None:
    options = {"dynamic": True} if model == "other sizes" else {"fullgraph": True}
    _, bare, counted = trained(model, compiler, watched=False, **options)
    watch, weights, counted_watched = trained(model, compiler, **options)
    eager, _, _ = trained(model)
    assert same(bare, weights)
    assert counted_watched == counted
    assert watch.run.notes == ()
    assert watch.run.samples == eager.run.samples != ()
    for one, other in zip(watch.traces, eager.traces, strict=True):
        assert_alike(one, other)
        assert any("through the uncompiled code" in note for note in one.coverage.notes)
        assert any("within" in note for note in one.coverage.notes)
