"""What `fully_shard` spreads is whole within its module's call, and stands on the tape under its own name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.distributed.capability import skip_what_torch_cannot
from tests.distributed.processes import on_ranks, values
from torch import Tensor, nn

import gradtrace


class Tied(nn.Module):
    """A weight under two names, a layer that is not called, and one whose weight a parent's function applies."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out, self.idle = nn.Embedding(7, 6), nn.Linear(6, 7, bias=False), nn.Linear(6, 6)
        self.out.weight = self.into.weight
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.slope = nn.PReLU()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.into(tokens)
        logits: Tensor = self.out(self.slope(self.attention(x, x, x, need_weights=False)[0]))
        return logits


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())


def train(rank: int, size: int, spreads: bool, compiles: bool = False) -> Any:
    """The first trace of a watched training, and its notes."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model: Any = Tied()
    if spreads:
        fully_shard(model.attention)
        fully_shard(model.idle)
        fully_shard(model)
    called = torch.compile(model, backend="eager") if compiles else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradtrace.watch(called, optimizer, budget=10.0) as watch:
        for step in range(20):
            tokens = torch.randint(0, 7, (4, 5), generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            loss_of(called, tokens).backward()
            optimizer.step()
    return watch.traces[:1], watch.run.notes


@pytest.mark.parametrize("size", [1, 2])
def test_every_weight_is_told_under_its_name_with_the_norm_of_the_whole(size, tmp_path):
    skip_what_torch_cannot("fsdp")
    (traces, _), *_ = values(on_ranks(train, size, tmp_path, True))
    (trace,) = traces
    torch.manual_seed(0)
    model = Tied()
    tokens = torch.randint(0, 7, (4, 5), generator=torch.Generator().manual_seed(0))
    truth = gradtrace.trace(model, loss_of, tokens)
    known = {p.name: p for p in trace.parameters}
    assert set(known) == {p.name for p in truth.parameters if not p.name.startswith("idle")}
    for told in known.values():
        of_one = next(p for p in truth.parameters if p.name == told.name)
        assert told.norm == pytest.approx(of_one.norm, rel=1e-6)
        assert told.shape == of_one.shape
        assert told.gradient is not None
        assert told.gradient.norm == pytest.approx(of_one.gradient.norm, rel=1e-5)
    assert [note for note in trace.coverage.notes if "sharded" in note] == [
        "of 2 sharded parameters no rank had the whole in this pass: idle.bias"
    ]
    assert {op.site.module_type for op in trace.ops} == {op.site.module_type for op in truth.ops} | {"Tied"}
    assert not trace.coverage.unknown


def test_what_is_compiled_is_not_run_again_beside_other_ranks(tmp_path):
    skip_what_torch_cannot("fsdp")
    (traces, notes), *_ = values(on_ranks(train, 2, tmp_path, True, True))
    assert traces == ()
    assert "what fully_shard spreads is compiled, and not run again: norms are taken, whole traces are not" in notes
