"""One map applied again and again, in time or in depth: what it does once, it does to the power of the steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gradtrace.casebook.case import Case, Setup, seeded
from gradtrace.casebook.networks import HE
from gradtrace.casebook.tasks import cross_entropy, digit_batches, image_batches, series_batches
from gradtrace.records.vocabulary import Cause, Symptom


class LastStep(nn.Module):
    """A fused recurrence and a head on its last step."""

    def __init__(self, rnn: nn.RNNBase, classes: int = 4) -> None:
        super().__init__()
        self.rnn = rnn
        self.head = nn.Linear(rnn.hidden_size, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, features] -> [batch, classes]."""
        states, _ = self.rnn(x)
        out: Tensor = self.head(states[:, -1])
        return out


class Loop(nn.Module):
    """A recurrence written out: h = act(cell(h) + read(x_t)), and a head on the last step."""

    def __init__(self, act: Callable[[Tensor], Tensor], gain: float, width: int = 32) -> None:
        super().__init__()
        self.read, self.cell, self.head = nn.Linear(8, width), nn.Linear(width, width, bias=False), nn.Linear(width, 4)
        nn.init.orthogonal_(self.cell.weight, gain)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, features] -> [batch, classes]."""
        h = torch.zeros(x.shape[0], self.cell.in_features)
        for step in x.unbind(1):
            h = self.act(self.cell(h) + self.read(step))
        out: Tensor = self.head(h)
        return out


@seeded
def rnn_last_step() -> Setup:
    """``nn.RNN`` over 200 steps, loss at the last: tanh and default weights contract by 0.5 per step."""
    return Setup(LastStep(nn.RNN(8, 32, batch_first=True)), cross_entropy, series_batches(200))


@seeded
def gru_last_step() -> Setup:
    """``nn.GRU`` over 200 steps, loss at the last: an update gate of one half forgets in a few steps."""
    return Setup(LastStep(nn.GRU(8, 32, batch_first=True)), cross_entropy, series_batches(200))


@seeded
def lstm_forgets() -> Setup:
    """``nn.LSTM`` over 60 steps with forget gates biased by -2: each step keeps 12 % of the cell."""
    rnn = nn.LSTM(8, 32, batch_first=True)
    nn.init.constant_(rnn.get_parameter("bias_ih_l0")[32:64], -2.0)
    return Setup(LastStep(rnn), cross_entropy, series_batches(60))


@seeded
def contracting_loop() -> Setup:
    """A tanh recurrence written as a loop over 80 steps, orthogonal times 0.85: below 0.85^80 = 2e-6."""
    return Setup(Loop(torch.tanh, 0.85), cross_entropy, series_batches(80))


@seeded
def expanding_loop() -> Setup:
    """A linear recurrence over 40 steps, orthogonal times 1.5: 1.5^39 = 7e6 exactly."""
    return Setup(Loop(_same, 1.5), cross_entropy, series_batches(40))


def _same(x: Tensor) -> Tensor:
    return x


@seeded
def expanding_relu_rnn() -> Setup:
    """``nn.RNN`` with ReLU and W = 1.3 I, an IRNN gone too far: 1.3^60 = 7e6 from the last step to the first."""
    rnn = nn.RNN(8, 32, nonlinearity="relu", batch_first=True)
    with torch.no_grad():
        rnn.get_parameter("weight_hh_l0").copy_(1.3 * torch.eye(32))
    return Setup(LastStep(rnn), cross_entropy, series_batches(60))


class SharedDepth(nn.Module):
    """The same block applied `depth` times."""

    def __init__(self, stem: nn.Module, block: nn.Module, head: nn.Module, depth: int) -> None:
        super().__init__()
        self.stem, self.block, self.head, self.depth = stem, block, head, depth

    def forward(self, x: Tensor) -> Any:
        """[batch, *] -> [batch, 10]."""
        x = self.stem(x)
        for _ in range(self.depth):
            x = self.block(x)
        return self.head(x)


@seeded
def shared_contracting() -> Setup:
    """One tanh block applied 60 times, orthogonal times 0.8: below 0.8^60 = 2e-6."""
    linear = nn.Linear(32, 32, bias=False)
    nn.init.orthogonal_(linear.weight, 0.8)
    model = SharedDepth(nn.Linear(64, 32), nn.Sequential(linear, nn.Tanh()), nn.Linear(32, 10), 60)
    return Setup(model, cross_entropy, digit_batches())


@seeded
def shared_expanding() -> Setup:
    """One convolution with ReLU applied 40 times, 1.7 times He's gain."""
    conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)
    nn.init.normal_(conv.weight, std=1.7 * HE / math.sqrt(144))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    model = SharedDepth(nn.Conv2d(1, 16, 3, padding=1), nn.Sequential(conv, nn.ReLU()), head, 40)
    return Setup(model, cross_entropy, image_batches(16))


_V, _E = Symptom.VANISHING, Symptom.EXPLODING
_IN, _OUT = Cause.RECURRENT_CONTRACTION, Cause.RECURRENT_EXPANSION
CASES = (
    Case("rnn_last_step", rnn_last_step, _V, _IN, ("rnn",), "Bengio et al. 1994; Pascanu et al. 2013"),
    Case("gru_last_step", gru_last_step, _V, _IN, ("rnn",), "Tallec and Ollivier 2018"),
    Case("lstm_forgets", lstm_forgets, _V, _IN, ("rnn",), "Gers et al. 2000; Jozefowicz et al. 2015"),
    Case("contracting_loop", contracting_loop, _V, _IN, ("cell",), "Pascanu et al. 2013, section 2.1"),
    Case("expanding_loop", expanding_loop, _E, _OUT, ("cell",), "Pascanu et al. 2013, section 2.1"),
    Case("expanding_relu_rnn", expanding_relu_rnn, _E, _OUT, ("rnn",), "Le, Jaitly and Hinton 2015"),
    Case("shared_contracting", shared_contracting, _V, _IN, ("block",), "Dehghani et al. 2019; Bai et al. 2019"),
    Case("shared_expanding", shared_expanding, _E, _OUT, ("block",), "Liang and Hu 2015"),
)
