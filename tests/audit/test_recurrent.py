"""Recurrences in the audit: predicted beside measured, faults found, and initialised so that time is no obstacle."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import gradtrace


class Reader(nn.Module):
    """A recurrence and a head on its last step, on all of them, on their mean, or on its last state."""

    def __init__(self, recurrent: Any, what: str = "last") -> None:
        super().__init__()
        self.recurrent, self.what = recurrent, what
        size = getattr(recurrent, "proj_size", 0) or recurrent.hidden_size
        self.head = nn.Linear(size * (2 if recurrent.bidirectional and what != "state" else 1), 10)

    def forward(self, x):
        outputs, state = self.recurrent(x)
        state = state[0] if isinstance(state, tuple) else state
        taken = {"last": outputs[:, -1], "all": outputs, "mean": outputs.mean(1), "state": state[-1]}
        return self.head(taken[self.what])


class Loop(nn.Module):
    def __init__(self, cell: Any, what: str = "last") -> None:
        super().__init__()
        self.cell, self.head, self.what = cell, nn.Linear(cell.hidden_size, 10), what

    def forward(self, x):
        state, outputs = None, []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return self.head(torch.stack(outputs, 1)[:, -1] if self.what == "stack" else outputs[-1])


KINDS = {
    "tanh": lambda **options: nn.RNN(16, 96, batch_first=True, **options),
    "relu": lambda **options: nn.RNN(16, 96, batch_first=True, nonlinearity="relu", **options),
    "lstm": lambda **options: nn.LSTM(16, 96, batch_first=True, **options),
    "gru": lambda **options: nn.GRU(16, 96, batch_first=True, **options),
}
X = (16, 25, 16)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("what", ["last", "all", "mean", "state"])
def test_predicted_beside_measured(kind, options, what) -> None:
    audit = gradtrace.predict(Reader(KINDS[kind](**options), what), torch.randn(X))
    assert not audit.gaps
    assert not audit.disagreements
    assert audit.measured_decades == pytest.approx(audit.decades, abs=0.1)
    assert audit.layers[0].num_steps == 25


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("options", [{"proj_size": 24}, {"num_layers": 2, "dropout": 0.3}], ids=str)
def test_projections_and_dropout(options) -> None:
    audit = gradtrace.predict(Reader(KINDS["lstm"](**options)), torch.randn(X))
    assert not audit.gaps
    assert audit.measured_decades == pytest.approx(audit.decades, abs=0.1)


@pytest.mark.parametrize(
    "cell", [nn.RNNCell(16, 96), nn.LSTMCell(16, 96), nn.GRUCell(16, 96)], ids=lambda c: type(c).__name__
)
@pytest.mark.parametrize("what", ["last", "stack"])
def test_cells_in_a_loop(cell, what) -> None:
    audit = gradtrace.predict(Loop(cell, what), torch.randn(16, 12, 16))
    assert not audit.gaps
    assert not audit.disagreements
    assert audit.measured_decades == pytest.approx(audit.decades, abs=0.1)
    assert audit.sentences[0].startswith(f"cell ({type(cell).__name__} over 12 steps) loses")


def test_a_given_first_state_gets_its_gradient() -> None:
    class Seeded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(16, 96, batch_first=True)

        def forward(self, x, h):
            return self.gru(x, h[None])[0]

    model, x, h = Seeded(), torch.randn(16, 6, 16), torch.randn(16, 96)
    audit = gradtrace.predict(model, (x, h))
    assert not audit.disagreements


def test_the_sentence_says_how_far_back_it_reaches() -> None:
    audit = gradtrace.predict(Reader(KINDS["lstm"]()), torch.randn(X))
    told = audit.sentences[0]
    assert told.startswith("recurrent (LSTM over 25 steps) loses 2.")
    steps = float(told.split("within ")[1].split(" steps")[0])
    assert steps == pytest.approx(2 * math.log(1e3) / -math.log(audit.layers[0].time_growth), rel=0.01)


def test_packed_sequences_are_measured_and_named() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 2)

        def forward(self, x):
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 5, 4, 2]), batch_first=True)
            return self.head(self.lstm(packed)[1][0][-1])

    audit = gradtrace.predict(Packed(), torch.randn(4, 5, 8))
    assert any("lstm: no rule, measured" in gap for gap in audit.gaps)


def test_recurrent_weights_with_a_mean_are_localised() -> None:
    """Of one sign, they add up the states of all units instead of mixing them: a largest singular value of 96 / 2 w."""
    model = Reader(KINDS["relu"](), "all")
    with torch.no_grad():
        model.recurrent.weight_hh_l0.abs_().mul_(0.3)
    audit = gradtrace.predict(model, torch.randn(X))
    assert audit.disagreements
    assert audit.disagreements[0].where == "recurrent"
    assert "not independent with mean zero" in audit.disagreements[0].message
    assert audit.reference


def test_on_the_meta_device() -> None:
    torch.manual_seed(0)
    real = gradtrace.predict(Reader(KINDS["gru"](), "all"), torch.randn(X))
    with torch.device("meta"):
        model, x = Reader(KINDS["gru"](), "all"), torch.randn(X)
    audit = gradtrace.predict(model, x)
    assert audit.decades == pytest.approx(real.measured_decades, abs=0.15)
    assert math.isnan(audit.measured_decades)


# ----------------------------------------------------------------------------------------------------- initialisation


def reach(model: Any, x: torch.Tensor) -> float:
    """Decades from the gradient of the last input to that of the first, both of the last output."""
    x = x.clone().requires_grad_()
    h = model.recurrent(x)[0][:, -1]
    (g,) = torch.autograd.grad(h, x, torch.randn_like(h))
    return 0.5 * math.log10(float(g[:, 0].square().mean() / g[:, -1].square().mean()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_layers", [1, 2])
def test_initialised_recurrences_reach_back(kind, num_layers) -> None:
    """40 steps: 6 decades and more before; after, what gates forget by design (half of them in T steps), else flat."""
    model, x = Reader(KINDS[kind](num_layers=num_layers), "all"), 3 * torch.randn(16, 40, 16)
    assert reach(model, x) < -6
    gradtrace.init_critical_(model, x, generator=torch.Generator().manual_seed(0))
    audit = gradtrace.predict(model, x)
    assert abs(reach(model, x)) < 1.8
    assert audit.layers[0].time_growth == pytest.approx(1.0, abs=0.1)
    assert audit.measured_decades == pytest.approx(audit.decades, abs=max(0.1, (audit.high - audit.low) / 2))


def test_plain_recurrences_are_drawn_at_the_critical_point() -> None:
    """tanh at q = 1: sigma_w^2 = 2.153, and the input stands in for the bias, 1 - sigma_w^2 E[tanh^2] = 0.151."""
    model, x = Reader(KINDS["tanh"]()), 3 * torch.randn(X)
    done = gradtrace.init_critical_(model, x)
    W = model.recurrent.weight_hh_l0.detach()
    assert torch.allclose(W @ W.T, 2.1533 * torch.eye(96), atol=1e-3)
    z = x @ model.recurrent.weight_ih_l0.detach().T
    assert float(z.square().mean()) == pytest.approx(0.151, rel=0.15)
    assert {p.name: round(p.gain, 3) for p in done.parameters}["recurrent.weight_hh_l0"] == 1.467


def test_recurrent_orthogonal_and_chrono() -> None:
    lstm: Any = nn.LSTM(8, 32, batch_first=True)
    model = nn.Sequential(lstm)
    done = gradtrace.init_critical_(model, torch.randn(4, 50, 8))
    for gate in lstm.weight_hh_l0.detach().chunk(4):
        assert torch.allclose(gate @ gate.T, torch.eye(32), atol=1e-5)
    entry, forget = lstm.bias_ih_l0.detach().chunk(4)[:2]
    assert torch.equal(entry, -forget)
    assert float(forget.min()) >= 0
    assert float(forget.max()) <= math.log(49)
    assert not lstm.bias_hh_l0.any()
    assert any("chrono" in p.method for p in done.parameters)


def test_frozen_recurrent_weights_stay() -> None:
    model = Reader(KINDS["gru"]())
    before = model.recurrent.weight_hh_l0.requires_grad_(False).clone()
    done = gradtrace.init_critical_(model, torch.randn(X))
    assert torch.equal(model.recurrent.weight_hh_l0, before)
    assert "recurrent.weight_hh_l0" in done.untouched
