"""Token embeddings that positions drown are told of where the loss stays at a constant's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradtrace
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom

LENGTH, VOCABULARY, WIDTH = 8, 12, 16


class Tied(nn.Module):
    """Tells each token's successor, by the tokens' own table."""

    def __init__(self, tokens: float, positions: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        nn.init.normal_(self.tokens.weight, std=tokens)
        nn.init.normal_(self.positions.weight, std=positions)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x) + self.positions(torch.arange(LENGTH))
        h = h + self.mlp(self.norms[0](h))
        return F.linear(self.norms[1](h), self.tokens.weight).transpose(1, 2)


def told(tokens: float, positions: float, *, noise: bool = False, rate: float = 1e-2) -> list[Finding]:
    model = Tied(tokens, positions)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    with gradtrace.watch(model, optimizer, budget=10.0, every=40) as watch:
        for _ in range(160):
            x = torch.randint(0, VOCABULARY, (32, LENGTH))
            y = torch.randint(0, VOCABULARY, x.shape) if noise else (x + 1) % VOCABULARY
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return [f for f in watch.diagnosis.findings if "drowned" in f.message]


def test_positions_fifty_times_as_large() -> None:
    (found,) = told(0.02, 1.0)
    assert (found.symptom, found.cause, found.severity) == (
        Symptom.VANISHING,
        Cause.SMALL_WEIGHTS,
        Severity.WARNING,
    )
    assert found.where == ("tokens",)
    assert 0.02 < found.evidence[1].value < 0.1


@pytest.mark.parametrize("noise", [True, False])
def test_of_one_scale(noise: bool) -> None:
    assert told(0.02, 0.02, noise=noise) == []


def test_tokens_that_are_drowned_and_learnt_all_the_same() -> None:
    assert told(0.02, 1.0, rate=0.5) == []
