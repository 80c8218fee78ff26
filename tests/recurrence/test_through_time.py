"""Gradients through time against autograd, the budget's identity, horizons, cuts, loops and positions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.errors import InputError
from gradtrace.records.horizon import horizon


def last_step(model, x):
    return model(x)[0][:, -1].square().mean()


def double(rnn):
    return rnn.double()


def norm(tensor):
    return float(tensor.norm())


# ------------------------------------------------------------------------------------------------- against autograd


def test_vanilla_rnn_against_autograd():
    rnn = nn.RNN(3, 6, batch_first=True).double()
    x = torch.randn(4, 12, 3, dtype=torch.float64)
    chain = gradtrace.through_time(rnn, last_step, x).chains[0]
    states = [torch.zeros(4, 6, dtype=torch.float64, requires_grad=True)]
    for t in range(12):
        a = F.linear(x[:, t], rnn.weight_ih_l0, rnn.bias_ih_l0) + F.linear(states[-1], rnn.weight_hh_l0, rnn.bias_hh_l0)
        states.append(torch.tanh(a))
    gradients = torch.autograd.grad(states[-1].square().mean(), states)
    assert chain.hidden == pytest.approx([norm(g) for g in gradients], rel=1e-10)


@pytest.mark.parametrize("layers", [1, 2])
def test_lstm_cells_against_autograd(layers):
    lstm = nn.LSTM(3, 5, layers).double()
    x = torch.randn(9, 2, 3, dtype=torch.float64)
    record = gradtrace.through_time(lstm, lambda m, x: m(x)[0].square().mean(), x)
    data = x
    for layer in range(layers):
        w_ih, w_hh, b_ih, b_hh = lstm.all_weights[layer]
        hs = [torch.zeros(2, 5, dtype=torch.float64, requires_grad=True)]
        cs = [torch.zeros(2, 5, dtype=torch.float64, requires_grad=True)]
        for row in data:
            i, f, g, o = (F.linear(row, w_ih, b_ih) + F.linear(hs[-1], w_hh, b_hh)).chunk(4, -1)
            cs.append(f.sigmoid() * cs[-1] + i.sigmoid() * g.tanh())
            hs.append(o.sigmoid() * cs[-1].tanh())
        data = torch.stack(hs[1:])
        if layer == layers - 1:
            gradients = torch.autograd.grad(data.square().mean(), hs + cs)
            assert record.chains[layer].hidden == pytest.approx([norm(g) for g in gradients[:10]], rel=1e-10)
            assert record.chains[layer].cell == pytest.approx([norm(g) for g in gradients[10:]], rel=1e-10)


def test_random_reach_is_the_product_of_jacobians():
    rnn = nn.RNN(3, 6).double()
    x = torch.randn(8, 1, 3, dtype=torch.float64)
    cotangent = torch.randn(6, dtype=torch.float64)
    record = gradtrace.through_time(rnn, lambda m, x: m(x)[0].sum(), x, cotangent=cotangent, num_targets=1)
    (row,) = record.chains[0].reach.rows
    states = rnn(x)[0][:, 0].detach()
    g, wanted = cotangent, [norm(cotangent)]
    for h in states.flip(0):
        g = rnn.weight_hh_l0.detach().T @ (g * (1 - h * h))
        wanted.append(norm(g))
    assert row[::-1] == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_the_budget_telescopes(kind, dtype):
    rnn = kind(3, 6, 2, bidirectional=True, batch_first=True).to(dtype)
    record = gradtrace.through_time(rnn, lambda m, x: m(x)[0].square().mean(), torch.randn(4, 9, 3, dtype=dtype))
    assert len(record.chains) == 4
    for chain in record.chains:
        total = math.log10(chain.hidden[0] / chain.hidden[-1])
        assert math.fsum(chain.budget().values()) == pytest.approx(total, abs=1e-10)


def test_shares_of_the_carry_add_up():
    lstm = nn.LSTM(3, 6).double()
    x = torch.randn(9, 4, 3, dtype=torch.float64)
    chain = gradtrace.through_time(lstm, lambda m, x: m(x)[0][-1].square().mean(), x).chains[0]
    # with forget gates shut nothing comes along the carry; as they are, something does
    assert all(0 < chain.carry_share(t) < 1.5 for t in range(2, 10))
    with torch.no_grad():
        lstm.bias_ih_l0[6:12] = -60.0
    shut = gradtrace.through_time(lstm, lambda m, x: m(x)[0][-1].square().mean(), x).chains[0]
    assert max(abs(shut.carry_share(t)) for t in range(2, 9)) < 1e-9


# -------------------------------------------------------------------------------------------- numbers of the issue


def test_the_default_rnn_loses_a_factor_of_057_a_step():
    rates = []
    for seed in range(4):
        torch.manual_seed(seed)
        rnn = nn.RNN(8, 512, batch_first=True)
        record = gradtrace.through_time(rnn, last_step, torch.randn(8, 30, 8), num_targets=1)
        rates.append(10**record.horizon.decades_per_step)
    assert sum(rates) / 4 == pytest.approx(0.57, abs=0.01)  # 1/sqrt(3) = 0.577, times E[a'^2]^(1/2) a little below one


@pytest.mark.parametrize(("bias", "wanted"), [(0.0, -21.0), (1.0, -7.3), ("chrono", -0.7)])
def test_forget_biases(bias, wanted):
    logs = []
    for seed in range(3):
        torch.manual_seed(seed)
        lstm = nn.LSTM(16, 128).double()
        with torch.no_grad():
            forget = torch.empty(128).uniform_(1, 99).log() if bias == "chrono" else torch.full((128,), bias)
            lstm.bias_ih_l0.zero_()
            lstm.bias_hh_l0.zero_()
            lstm.bias_ih_l0[128:256] = forget
            lstm.bias_ih_l0[:128] = -forget if bias == "chrono" else 0.0
        x = torch.randn(100, 4, 16, dtype=torch.float64)
        chain = gradtrace.through_time(lstm, _cell_loss, x, num_targets=1).chains[0]
        logs.append(math.log10(chain.cell[0] / chain.cell[-1]))
    assert sum(logs) / 3 == pytest.approx(wanted, abs=1.6 if bias == 0.0 else 0.8 if bias == 1.0 else 0.1)


def _cell_loss(lstm, x):
    c = lstm(x)[1][1]
    return (c * torch.randn(c.shape, generator=torch.Generator().manual_seed(7), dtype=c.dtype)).sum()


# ------------------------------------------------------------------------------------------------------- the horizon


def test_horizon_of_an_orthogonal_linear_recurrence():
    rnn = nn.RNN(2, 16, nonlinearity="relu").double()
    with torch.no_grad():  # positive states and a scaled rotation: linear, exactly
        rnn.weight_hh_l0.copy_(0.5 * torch.eye(16)[torch.randperm(16)])
        rnn.weight_ih_l0.abs_()
        rnn.bias_ih_l0.fill_(1.0)
        rnn.bias_hh_l0.fill_(1.0)
    record = gradtrace.through_time(rnn, lambda m, x: m(x)[0].sum(), torch.rand(30, 2, 2, dtype=torch.float64))
    assert record.horizon.steps == pytest.approx(math.log(1e-3) / math.log(0.5), abs=1e-9)
    assert record.horizon.half_steps == pytest.approx(1.0, abs=1e-9)
    assert "dependencies longer than 10 steps" in record.sentences[0]


def test_horizon_of_curves():
    assert horizon((0.0, -1.0, -4.0, -2.0, -5.0)).steps == pytest.approx(3 + 1 / 3)  # it must stay below
    assert horizon((0.0, 0.1, 0.2)).steps == math.inf
    assert math.isnan(horizon((0.0,)).steps)
    assert math.isnan(horizon((0.0, math.nan, -1.0)).steps)
    assert horizon((0.0, -math.inf, -math.inf)).steps == 1.0


def test_growth_is_told():
    rnn = nn.RNN(2, 8, nonlinearity="relu", batch_first=True)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(1.3 * torch.eye(8))
    record = gradtrace.through_time(rnn, last_step, torch.rand(4, 40, 2))
    assert record.horizon.steps == math.inf
    assert "grows" in record.sentences[0]


def test_losses_per_step_make_a_heat_map():
    rnn = nn.GRU(3, 6, batch_first=True).double()
    x = torch.randn(4, 7, 3, dtype=torch.float64)
    record = gradtrace.through_time(rnn, lambda m, x: m(x)[0].square().mean((0, 2)), x)
    (reach,) = record.losses
    assert reach.targets == tuple(range(1, 8))
    assert [len(row) for row in reach.rows] == list(range(2, 9))
    h0 = torch.zeros(1, 4, 6, dtype=torch.float64, requires_grad=True)
    losses = rnn(x, h0)[0].square().mean((0, 2))
    for t in range(7):
        (g,) = torch.autograd.grad(losses[t], h0, retain_graph=True)
        assert reach.rows[t][0] == pytest.approx(norm(g), rel=1e-10)


# --------------------------------------------------------------------------------------------------- loops and cells


class Loop(nn.Module):
    def __init__(self, detach_every=None):
        super().__init__()
        self.cell, self.head, self.detach_every = nn.LSTMCell(3, 8), nn.Linear(8, 2), detach_every

    def forward(self, x):
        state = None
        for t, row in enumerate(x.unbind(1)):
            if self.detach_every and t and t % self.detach_every == 0:
                state = tuple(part.detach() for part in state)
            state = h, _ = self.cell(row, state)
        return self.head(h)


def test_cells_in_a_loop_are_one_chain():
    record = gradtrace.through_time(Loop(), lambda m, x: m(x).square().mean(), torch.randn(4, 12, 3))
    (chain,) = record.chains
    assert (chain.module, chain.kind, chain.num_steps, chain.cuts) == ("cell", "lstm", 12, ())
    assert min(chain.hidden) > 0


def test_detached_states_are_cuts():
    record = gradtrace.through_time(Loop(5), lambda m, x: m(x).square().mean(), torch.randn(4, 12, 3))
    (chain,) = record.chains
    assert chain.cuts == (5, 10)
    assert chain.hidden[9] == 0.0
    assert chain.hidden[11] > 0
    assert any("detached behind step 5, 10" in told for told in record.sentences)


def test_a_state_that_comes_in_detached():
    rnn = nn.GRU(3, 4, batch_first=True)
    record = gradtrace.through_time(
        rnn, lambda m, x: m(x, torch.ones(1, 4, 4))[0].square().mean(), torch.randn(4, 12, 3)
    )
    assert record.chains[0].detached_start
    assert any("comes in detached" in told for told in record.sentences)


class Handmade(nn.Module):
    def __init__(self):
        super().__init__()
        self.read, self.hidden, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.W = nn.Parameter(torch.randn(8, 8) / 4)

    def forward(self, x):
        h, outputs = torch.zeros(len(x), 8, dtype=x.dtype), []
        for row in x.unbind(1):
            h = torch.tanh(self.read(row) + self.hidden(h) + h @ self.W)
            outputs.append(self.head(h))
        return torch.stack(outputs, 1)


def test_a_loop_of_the_users_own():
    model = Handmade().double()
    x = torch.randn(4, 12, 3, dtype=torch.float64)
    record = gradtrace.through_time(model, lambda m, x: m(x)[:, -1].square().mean(), x)
    (chain,) = record.chains
    assert (chain.module, chain.kind, chain.num_weights) == ("hidden", "loop", 2)
    assert chain.num_steps == 10  # the initial state is a constant, and the last one is not read
    for t in range(1, 11):  # nothing else reads the states: all of their gradient came through the two weights
        assert chain.gains(t)[2] == pytest.approx(0.0, abs=1e-12)


def test_packed_sequences():
    rnn = nn.LSTM(3, 6).double()
    x = torch.randn(9, 4, 3, dtype=torch.float64)

    def loss_fn(model, x):
        packed = nn.utils.rnn.pack_padded_sequence(x, [9, 7, 4, 1])
        return model(packed)[1][0].square().mean()

    chain = gradtrace.through_time(rnn, loss_fn, x).chains[0]
    assert chain.num_steps == 9
    assert all(map(math.isfinite, chain.hidden))


# -------------------------------------------------------------------------------------------------------- positions


class Causal(nn.Module):
    def __init__(self, layers=2):
        super().__init__()
        self.tokens = nn.Embedding(11, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(16, 11)

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.layers(self.tokens(tokens), mask=mask, is_causal=True))


def test_positions_of_a_causal_transformer():
    tokens = torch.randint(11, (4, 24))
    record = gradtrace.through_time(
        Causal(), lambda m, t: F.cross_entropy(m(t).mT, t, reduction="none").mean(0), tokens
    )
    assert record.positions == "the tokens as embedded by tokens"
    assert not record.notes
    (reach,) = record.losses
    assert all(min(row) > 0 for row in reach.rows)  # attention reaches back over all of it
    assert record.horizon.steps > 23


def test_positions_of_a_temporal_convolution():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv1d(6, 6, 2, dilation=2**i) for i in range(3))

        def forward(self, x):
            for i, layer in enumerate(self.layers):
                x = torch.relu(layer(F.pad(x, (2**i, 0))))
            return x

    record = gradtrace.through_time(Net(), lambda m, x: m(x).square().mean((0, 1)), torch.randn(4, 6, 32))
    assert record.horizon.steps == 8  # its receptive field
    whole = gradtrace.through_time(Net(), lambda m, x: m(x).square().mean(), torch.randn(4, 6, 32), time_axis=2)
    assert whole.horizon.steps == 8  # from random cotangents at the output


def test_positions_of_a_recurrence_on_demand():
    rnn = nn.RNN(3, 16, batch_first=True)
    record = gradtrace.through_time(rnn, lambda m, x: m(x)[0].square().mean((0, 2)), torch.randn(4, 40, 3), at="input")
    assert not record.chains
    assert 5 < record.horizon.steps < 20


def test_a_model_that_looks_ahead_is_told():
    rnn = nn.RNN(3, 16, batch_first=True, bidirectional=True)
    record = gradtrace.through_time(rnn, lambda m, x: m(x)[0].square().mean((0, 2)), torch.randn(4, 20, 3), at="input")
    assert "not causal" in record.notes[0]


# -------------------------------------------------------------------------------------------------- whatever comes


def test_the_model_comes_back_untouched():
    rnn = nn.LSTM(3, 6, 2, dropout=0.5, batch_first=True)
    rnn.weight_hh_l0.grad = torch.ones_like(rnn.weight_hh_l0)
    state, before = torch.get_rng_state(), {k: v.clone() for k, v in rnn.state_dict().items()}
    gradtrace.through_time(rnn, last_step, torch.randn(4, 9, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in rnn.state_dict().items())
    assert torch.equal(rnn.weight_hh_l0.grad, torch.ones_like(rnn.weight_hh_l0))
    assert not rnn._forward_hooks
    assert rnn.training


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_eval_mode_and_a_single_step(kind):
    rnn = kind(3, 6, batch_first=True).eval()
    chain = gradtrace.through_time(rnn, last_step, torch.randn(4, 1, 3)).chains[0]
    assert chain.num_steps == 1
    assert not rnn.training


def test_nan_in_the_sequence():
    x = torch.randn(4, 9, 3)
    x[1, 4] = math.nan
    record = gradtrace.through_time(nn.GRU(3, 6, batch_first=True), last_step, x)
    assert math.isnan(record.chains[0].hidden[0])
    assert math.isnan(record.horizon.steps)
    assert "not finite" in record.sentences[0]
    record.to_json()


@pytest.mark.parametrize(
    ("loss_fn", "x", "message"),
    [
        (last_step, torch.zeros(4, 0, 3), "larger than 0"),
        (last_step, torch.zeros(4, 5, 2), "raised RuntimeError"),
        (lambda m, x: m(x)[0], torch.zeros(4, 5, 3), "must return a scalar"),
        (lambda m, x: last_step(m, x).detach(), torch.zeros(4, 5, 3), "no gradient"),
        (lambda m, x: 1.0, torch.zeros(4, 5, 3), "scalar tensor"),
    ],
)
def test_bad_input_is_one_sentence(loss_fn, x, message):
    rnn = nn.GRU(3, 6, batch_first=True)
    with pytest.raises(InputError, match=message):
        gradtrace.through_time(rnn, loss_fn, x)
    assert not rnn._forward_hooks


def test_bad_options():
    rnn, x = nn.GRU(3, 6, batch_first=True), torch.randn(4, 5, 3)
    with pytest.raises(InputError, match="at must be"):
        gradtrace.through_time(rnn, last_step, x, at="state space")
    with pytest.raises(InputError, match="does not broadcast"):
        gradtrace.through_time(rnn, last_step, x, cotangent=torch.ones(5))
    with pytest.raises(InputError, match="no recurrence"):
        gradtrace.through_time(nn.Linear(3, 1), lambda m, x: m(x).mean(), torch.randn(4, 3))
    with pytest.raises(InputError, match="give time_axis"):
        gradtrace.through_time(nn.Linear(5, 5), lambda m, x: m(x).mean((0, 2)), torch.randn(4, 5, 5))


def test_it_is_kept_in_a_file(tmp_path):
    record = gradtrace.through_time(nn.LSTM(3, 6, batch_first=True), last_step, torch.randn(4, 9, 3))
    record.save(tmp_path / "time.json.gz")
    assert gradtrace.load(tmp_path / "time.json.gz") == record


# ----------------------------------------------------------------------------------------- where a format ends


def closing(model, x):
    """The loss of an LSTM whose gates forget more than half at every step."""
    return model(x)[0][:, -1].square().mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_rounding_keeps_alive_is_no_gradient(dtype):
    lstm, x = nn.LSTM(4, 16, batch_first=True), torch.randn(4, 500, 4)
    exact = gradtrace.through_time(lstm.double(), closing, x.double()).chains[0]
    chain = gradtrace.through_time(lstm.to(dtype), closing, x.to(dtype)).chains[0]
    assert 0.0 < exact.states[0] < 1e-60  # float32 ends long before, where a product with 0.6 is rounded up again
    first = next(t for t, size in enumerate(chain.states) if size)
    assert 200 < first < 450
    assert not any(chain.states[:first])
    assert chain.horizon.decades_per_step == pytest.approx(exact.horizon.decades_per_step, rel=0.1)
    steps, each = chain.counted, sum(chain.budget().values()) / len(chain.counted)
    assert steps[-1] == 500
    assert each == pytest.approx(sum(exact.budget().values()) / 500, rel=0.1)


def test_small_gradients_of_half_precision_are_told_as_they_are():
    rnn, x = nn.RNN(4, 16, batch_first=True).half(), torch.randn(4, 8, 4).half()
    chain = gradtrace.through_time(rnn, lambda m, x: closing(m, x).float() * 1e-4, x).chains[0]
    assert 0.0 < chain.states[-1] < 1e-5
