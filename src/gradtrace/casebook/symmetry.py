"""Networks whose units are copies of one another: as wide as they may be, they learn as one unit a layer would."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradtrace.casebook.case import Case, Setup, seeded
from gradtrace.casebook.networks import layer, mlp
from gradtrace.casebook.tasks import cross_entropy, digit_batches, series_batches
from gradtrace.records.vocabulary import Cause, Symptom


@seeded
def constant_weights() -> Setup:
    """Hidden weights of 0.02, all of them: 64 units with one value and one gradient, whatever the steps."""
    model = mlp(2, nn.ReLU)
    for parameter in layer(model, "hidden").parameters():
        nn.init.constant_(parameter, 0.02)
    nn.init.constant_(layer(model, "head").weight, 0.02)
    return Setup(model, cross_entropy, digit_batches(), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))


class LastState(nn.Module):
    """An LSTM whose last state is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, 8] -> [batch, 4]."""
        states, _ = self.lstm(x)
        out: Tensor = self.head(states[:, -1])
        return out


@seeded
def constant_lstm() -> Setup:
    """An LSTM of constant weights: its gates differ, its 32 cells do not."""
    model = LastState()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    return Setup(model, cross_entropy, series_batches(4, 64), torch.optim.Adam(model.parameters(), lr=1e-2))


_V, _W = Symptom.VANISHING, Cause.SMALL_WEIGHTS
_SOURCE = "Goodfellow et al. 2016, section 8.4"
CASES = (
    Case("constant_weights", constant_weights, _V, _W, ("hidden",), f"{_SOURCE}; NeuraLint (Nikanjam et al. 2021)"),
    Case("constant_lstm", constant_lstm, _V, _W, ("lstm",), _SOURCE),
)
