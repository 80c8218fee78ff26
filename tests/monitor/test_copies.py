"""Units that are copies of one another are told of a training, too; it stays bit for bit what it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradtrace
from gradtrace.diagnosis.wording import COPIES
from gradtrace.monitor.traces import copies as copies_module
from gradtrace.monitor.traces.copies import Copies
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Severity


def network(*, constant: bool) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    if constant:
        for layer in (model[0], model[2]):
            nn.init.constant_(layer.weight, 0.1)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(model[4].weight, 0.1)
        with torch.no_grad():
            model.get_parameter("4.weight")[1] *= 2.0  # or the classes would cancel
    return model


def train(model: nn.Module, num_steps: int = 12, rate: float = 1e-2) -> None:
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(num_steps):
        x, y = torch.randn(32, 16), torch.randint(0, 3, (32,))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def told(model: nn.Module, training: Callable[[nn.Module], None] = train, every: int = 4) -> list[Finding]:
    with gradtrace.watch(model, every=every, budget=10.0) as watch:
        training(model)
    assert watch.run.notes == ()
    return [f for f in watch.diagnosis.findings if any(evidence.name == COPIES for evidence in f.evidence)]


def test_a_constant_network_is_told_of_and_its_twin_is_not() -> None:
    (found,) = told(network(constant=True))
    assert found.severity is Severity.CRITICAL
    assert found.where[:2] == ("0", "2")
    assert "8 units" in found.message
    assert told(network(constant=False)) == []


@pytest.mark.parametrize("constant", [True, False])
def test_the_training_is_what_it_would_be(constant: bool) -> None:
    one, other = network(constant=constant), network(constant=constant)
    told(one)
    train(other)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


class Adapted(nn.Module):
    """A frozen layer with LoRA beside it, and a head of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.down, self.up = nn.Linear(16, 16), nn.Linear(16, 4, bias=False), nn.Linear(4, 16, bias=False)
        self.head = nn.Linear(16, 3)
        self.base.requires_grad_(False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 16] -> [batch, 3]."""
        return self.head(torch.tanh(self.base(x) + self.up(self.down(x))))


def test_zeros_that_part_by_themselves_are_none() -> None:
    torch.manual_seed(0)
    zero_head = network(constant=False)
    nn.init.zeros_(zero_head[4].weight)  # type: ignore[arg-type]
    for model in (Adapted(), zero_head):
        assert told(model) == []


def test_what_its_first_gradient_parts_is_not_told_later() -> None:
    """A layer of zeros behind dropout: rows of its gradient are alike at no step."""
    model = network(constant=True)
    model.insert(1, nn.Dropout(0.5))
    model.insert(4, nn.Dropout(0.5))
    assert told(model) == []


def test_the_cells_of_an_lstm_whose_gates_differ() -> None:
    rnn = nn.LSTM(3, 8)
    for parameter in rnn.parameters():
        nn.init.constant_(parameter, 0.1)
    rnn(torch.randn(5, 2, 3))[0].square().sum().backward()
    assert Copies().look(rnn.named_parameters()) == ("weight_ih_l0", "weight_hh_l0")


def test_a_weight_that_is_large_is_read_by_two_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Tensor] = []
    monkeypatch.setattr(copies_module, "arrangements", read.append)
    drawn, zeros = nn.Linear(64, 512), nn.Linear(64, 512)
    nn.init.zeros_(zeros.weight)
    (torch.randn(4, 512) * (drawn(torch.randn(4, 64)) + zeros(torch.randn(4, 64)))).sum().backward()
    named = [("drawn", drawn.weight), ("zeros", zeros.weight)]
    copies = Copies()
    assert copies.look(named) == ()
    assert copies.look(named) == ()
    assert read == []


def test_a_sparse_table_that_starts_at_zero_is_watched_to_the_end() -> None:
    """As word2vec's output vectors are; the rows of a sparse gradient that were not looked up are not there at all."""
    torch.manual_seed(0)
    words, contexts = nn.Embedding(40, 8, sparse=True), nn.Embedding(40, 8, sparse=True)
    nn.init.zeros_(contexts.weight)
    model = nn.ModuleList([words, contexts])
    optimizer = torch.optim.SparseAdam(model.parameters(), lr=1e-2)
    with gradtrace.watch(model, every=4, budget=10.0) as watch:
        for _ in range(12):
            word = torch.randint(0, 40, (64,))
            optimizer.zero_grad()
            (-F.logsigmoid((words(word) * contexts(word // 4)).sum(1)).mean()).backward()
            optimizer.step()
    assert watch.run.notes == ()
