"""Post-norm transformers before their first step: even at any depth; of deep ones a remark, which is no alarm."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradtrace
from gradtrace.casebook.tasks import token_batches, token_cross_entropy
from gradtrace.diagnosis.rules.post_norm import behind_sums
from gradtrace.diagnosis.scene import make_view
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity


class Encoder(nn.Module):
    """The usual one: embedding, learnt positions, layers, head."""

    def __init__(self, num_layers: int, *, norm_first: bool = False, dropout: float = 0.1) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 128, dropout, batch_first=True, norm_first=norm_first)
        self.embedding, self.head = nn.Embedding(32, 32), nn.Linear(32, 32)
        self.positions = nn.Parameter(0.02 * torch.randn(8, 32))
        self.layers = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        for parameter in self.layers.parameters():  # copies of one layer otherwise
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """[batch, length] -> [batch, length, vocabulary]."""
        return self.head(self.layers(self.embedding(tokens) + self.positions))


def built(num_layers: int, **options: Any) -> tuple[nn.Module, list[Any]]:
    torch.manual_seed(0)
    return Encoder(num_layers, **options), token_batches(8, 8)


def of_norms(num_layers: int, **options: Any) -> tuple[Finding, ...]:
    model, data = built(num_layers, **options)
    return gradtrace.check(model, token_cross_entropy, data).findings


@pytest.mark.parametrize(("num_layers", "options"), [(6, {}), (12, {"dropout": 0.0}), (24, {"norm_first": True})])
def test_nothing_is_said_of_the_usual_ones(num_layers: int, options: dict[str, Any]) -> None:
    assert of_norms(num_layers, **options) == ()


def test_of_a_deep_one_a_remark_and_no_alarm() -> None:
    (found,) = of_norms(24)
    assert (found.cause, found.severity) == (Cause.POST_NORM, Severity.INFO)
    assert "47 layer norms" in found.message
    assert "Warm the rate up" in found.message


@pytest.mark.parametrize("scheduled", [True, False])
def test_a_warm_up_is_what_is_asked_for(scheduled: bool) -> None:
    model, data = built(24)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    if scheduled:
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 1000))
    found = gradtrace.check(model, token_cross_entropy, data, optimizer=optimizer).findings
    assert [f.cause for f in found] == ([] if scheduled else [Cause.POST_NORM])


def test_the_skip_path_alone_loses_the_product_of_the_norms() -> None:
    """Each norm divides by the scale of its sum, which is measured; that in front of the first sum is none."""
    torch.manual_seed(0)

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.branches = nn.Linear(16, 64), nn.ModuleList(nn.Linear(64, 64) for _ in range(5))
            self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(6))

        def forward(self, x: Tensor) -> Tensor:
            x = self.norms[5](self.first(x))
            for branch, norm in zip(self.branches, self.norms, strict=False):
                x = norm(x + 2.0 * branch(x))
            return x

    model = Chain()
    trace = gradtrace.trace(model, lambda m, x: (m(x) ** 3).mean(), torch.randn(8, 16))
    norms = behind_sums(make_view(trace))
    assert [op.site.module for op in norms] == [f"norms.{i}" for i in range(5)]
    sizes = []
    x = model.norms[5](model.first(torch.randn(8, 16)))
    for branch, norm in zip(model.branches, model.norms, strict=False):
        x = x + 2.0 * branch(x)
        sizes.append(math.log10(float(x.detach().square().mean().sqrt())))
        x = norm(x)
    told = [math.log10(op.forward.input_rms) for op in norms if op.forward is not None]
    assert told == pytest.approx(sizes, abs=0.05)
