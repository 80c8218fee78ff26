"""Units of a layer that is applied more than once: dead is what no application wakes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from gradtrace import check
from gradtrace.records.vocabulary import Symptom

if TYPE_CHECKING:
    from torch import Tensor

    from gradtrace.records.finding import Finding


class Pair(nn.Module):
    """One layer for both of a pair, whose second has the sign that silences each of its units."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tower, self.head = nn.Linear(8, 16), nn.Linear(32, 1)
        with torch.no_grad():
            self.tower.weight.abs_()
            self.tower.bias.fill_(bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([torch.relu(self.tower(x)), torch.relu(self.tower(-x))], 1))


class Halves(nn.Module):
    """One application whose output is cut in two: the second half's units are others."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.Linear(8, 32), nn.Linear(16, 1)
        with torch.no_grad():
            self.layer.bias[16:] = bias

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.layer(x).chunk(2, 1)
        return self.head(torch.relu(a) + torch.relu(b))


class Alternating(nn.Module):
    """An RNN of ReLUs whose input changes its sign at every step, and silences all units at every other."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = nn.RNN(8, 16, nonlinearity="relu", batch_first=True), nn.Linear(16, 1)
        with torch.no_grad():
            self.rnn.weight_ih_l0.abs_()
            self.rnn.weight_hh_l0.mul_(0.1)
            self.rnn.bias_ih_l0.fill_(bias)

    def forward(self, x: Tensor) -> Tensor:
        signs = torch.tensor([1.0, -1.0]).repeat(3)
        return self.head(self.rnn(x[:, None] * signs[:, None])[0].mean(1))


def _dead(model: nn.Module) -> list[Finding]:
    torch.manual_seed(1)
    x = torch.rand(64, 8) + 0.5

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    return [f for f in check(model, loss, [(x, x[:, :1])]).findings if f.symptom is Symptom.DEAD_UNITS]


@pytest.mark.parametrize(
    ("make", "place"), [(Pair, "tower"), (Alternating, "rnn"), (Halves, "layer")], ids=["pair", "time", "halves"]
)
def test_dead_is_what_no_application_wakes(make: type[nn.Module], place: str) -> None:
    assert _dead(make(0.0)) == []
    (finding,) = _dead(make(-100.0))
    assert finding.where == (place,)
    evidence = {one.name: one.value for one in finding.evidence}
    assert evidence["dead units"] == 1.0
    assert evidence["layers with dead units"] == 1
