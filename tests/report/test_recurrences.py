"""The steps of a recurrence are one row of the picture by depth, for each layer and direction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradtrace
from gradtrace.measure.ledger import ledger
from gradtrace.report.tables import Picture, picture


class Reader(nn.Module):
    def __init__(self, rnn: nn.Module, width: int) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(20, 8), rnn, nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(x))[0].mean(1))


def pictured(rnn: nn.Module, width: int) -> tuple[Picture, int]:
    """The picture, and the number of rows that the ledger has."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 20, (8, 10))
    trace = gradtrace.trace(Reader(rnn, width), lambda m, x: F.cross_entropy(m(x), x[:, 0] % 4), tokens, unroll=True)
    return picture(trace), len(ledger(trace))


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_each_layer_of_a_bidirectional_recurrence_is_one_row(kind: type[nn.Module]) -> None:
    table, num_entries = pictured(kind(8, 8, num_layers=3, bidirectional=True, batch_first=True), 16)
    names = [row.labels[0] for row in table.rows if row.first == "rnn"]
    assert [name.split(",")[0] for name in names] == ["rnn layer 2", "rnn layer 1", "rnn"]
    assert len(table.rows) < num_entries
    for factor in table.factors:
        assert sum(row.gains.get(factor, 0.0) for row in table.rows) == pytest.approx(table.totals[factor])
    assert all(below.before == above.after for above, below in zip(table.rows, table.rows[1:], strict=False))


def test_the_only_layer_bears_the_name_of_its_module() -> None:
    table, _ = pictured(nn.GRU(8, 8, batch_first=True), 8)
    assert [(row.first, row.num_layers) for row in table.rows if row.first == "rnn"] == [("rnn", 1)]
