"""Changes of recurrences: what is tried is what the code does, and what takes a module's place fits its callers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.errors import InputError
from gradtrace.records.finding import Diagnosis, Finding
from gradtrace.records.repair import Role, Trial
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.repair.changes import initialisation, recurrence
from gradtrace.repair.changes.recurrent_draws import recurrent_draws
from gradtrace.repair.situation import Situation

STEPS = 40


class LastState(nn.Module):
    """Takes the outputs and the last state, as a caller of nn.RNN does."""

    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn
        self.head = nn.Linear(rnn.hidden_size * (2 if rnn.bidirectional else 1), 2)

    def forward(self, x):
        out, h = self.rnn(x)
        last = torch.cat(list(h[-2:] if self.rnn.bidirectional else h[-1:]), -1)
        return self.head(out.mean(1 if self.rnn.batch_first else 0) + last)


class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.RNNCell(4, 8, bias=False), nn.Linear(8, 2)

    def forward(self, x):
        h = torch.zeros(x.shape[0], 8)
        for step in x.unbind(1):
            h = self.cell(step, h)
        return self.head(h)


def loss_fn(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def situation(model, where="rnn"):
    torch.manual_seed(1)
    batches = [(torch.randn(16, STEPS, 4), torch.randint(2, (16,)))]
    if not getattr(getattr(model, where), "batch_first", True):
        batches = [(batches[0][0].transpose(0, 1).contiguous(), batches[0][1])]
    traces = gradtrace.check(model, loss_fn, batches).traces
    finding = Finding(Symptom.VANISHING, Cause.RECURRENT_CONTRACTION, (where,), Severity.CRITICAL, "told", ())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Situation(model, loss_fn, batches, [optimizer], Diagnosis((finding,), traces))


def proposed(here, word):
    return next(change for change in recurrence.KIND.propose(here) if word in change.title)


def applied(change, here):
    return Trial(change.title, Role.CANDIDATE, (change,)).apply(here.model, here.loss_fn, here.optimizers[0])


@pytest.mark.parametrize(
    ("options", "made"),
    [
        ({"batch_first": True}, "a GRU:"),
        ({"num_layers": 2, "dropout": 0.1}, "a GRU whose gates stay open"),
        ({"batch_first": True, "bidirectional": True, "bias": False, "nonlinearity": "relu"}, "a GRU:"),
    ],
)
def test_an_rnn_becomes_a_gru_that_fits_its_callers(options, made):
    torch.manual_seed(0)
    here = situation(LastState(nn.RNN(4, 8, **options)).eval())
    change = proposed(here, made)
    model, _, optimizer = applied(change, here)
    kept = [name for name in options if name != "nonlinearity"]
    assert {name: getattr(model.rnn, name) for name in kept} == {name: options[name] for name in kept}
    assert not model.rnn.training
    assert math.isfinite(loss_fn(model, here.batches[0]).item())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    coded, _, other = applied(replace(change, words=(("what", "draw"),), draws=()), here)  # a copy as it was
    exec(change.code, {"torch": torch, "model": coded, "optimizer": other})
    told = {name: p.shape for name, p in model.named_parameters()}
    assert {name: p.shape for name, p in coded.named_parameters()} == told
    held = {id(p) for group in other.param_groups for p in group["params"]}
    assert {id(p) for p in coded.parameters()} <= held
    assert not coded.rnn.training
    assert type(here.model.rnn) is nn.RNN


@pytest.mark.parametrize(("made", "kept"), [("a GRU whose gates", slice(8, 16)), ("an LSTM whose gates", slice(8, 16))])
def test_what_takes_the_place_of_an_rnn_may_keep_as_long_as_the_sequence(made, kept):
    torch.manual_seed(0)
    here = situation(LastGated(nn.RNN(4, 8, batch_first=True)))
    change = proposed(here, made)
    assert f"up to {STEPS} steps" in change.title
    model, _, _ = applied(change, here)
    coded, _, other = applied(replace(change, words=(("what", "draw"),), draws=()), here)
    exec(change.code, {"torch": torch, "model": coded, "optimizer": other})
    for rnn in (model.rnn, coded.rnn):
        bias = rnn.bias_ih_l0.detach() + rnn.bias_hh_l0.detach()
        memory = 1.0 + bias[kept].exp()  # steps: 1 / (1 - sigmoid(b))
        assert (memory >= 2.0 - 1e-4).all()
        assert (memory <= STEPS + 1e-3).all()
        for gate in rnn.weight_hh_l0.detach().chunk(rnn.weight_hh_l0.shape[0] // 8):
            assert torch.allclose(gate @ gate.T, torch.eye(8), atol=1e-4)


def test_a_cell_becomes_a_gru_cell():
    torch.manual_seed(0)
    here = situation(Cells(), "cell")
    model, _, _ = applied(proposed(here, "a GRUCell"), here)
    assert type(model.cell) is nn.GRUCell
    assert not model.cell.bias
    assert math.isfinite(loss_fn(model, here.batches[0]).item())


def test_what_is_gated_already_is_not_replaced():
    torch.manual_seed(0)
    here = situation(LastState(nn.GRU(4, 8, batch_first=True)))
    assert not any("a GRU" in change.title for change in recurrence.KIND.propose(here))
    change = proposed(situation(LastState(nn.RNN(4, 8, batch_first=True))), "a GRU")
    with pytest.raises(InputError, match=r"rnn is no nn.RNN or nn.RNNCell"):
        applied(change, here)


@pytest.mark.parametrize("gated", [nn.LSTM, nn.GRU])
def test_the_smallest_change_of_gates_is_their_biases_alone(gated):
    torch.manual_seed(0)
    here = situation(LastGated(gated(4, 8, batch_first=True)))
    change = recurrence.KIND.propose(here)[0]
    assert "chrono biases" in change.title
    model, _, _ = applied(change, here)
    for name, before in here.model.named_parameters():
        assert torch.equal(before, model.get_parameter(name)) == ("bias" not in name or "head" in name)
    bias = model.rnn.bias_ih_l0.detach() + model.rnn.bias_hh_l0.detach()
    memory = 1.0 + bias[8:16].exp()  # steps: 1 / (1 - sigmoid(b))
    assert (memory >= 2.0 - 1e-4).all()
    assert (memory <= STEPS + 1e-3).all()
    if gated is nn.LSTM:
        assert torch.equal(bias[:8], -bias[8:16])


def test_a_draw_of_all_weights_says_that_gates_stay_open():
    torch.manual_seed(0)
    titles = [
        change.title for change in initialisation.KIND.propose(situation(LastGated(nn.LSTM(4, 8, batch_first=True))))
    ]
    assert titles[0].endswith(f"let gates stay open for up to {STEPS:.0f} steps (chrono).")
    plain = initialisation.KIND.propose(situation(LastState(nn.RNN(4, 8, batch_first=True))))
    assert not any("gates" in change.title for change in plain)


class LastGated(nn.Module):
    def __init__(self, rnn):
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


@pytest.mark.parametrize(
    "rnn", [nn.RNN(4, 8), nn.LSTM(4, 8, proj_size=3), nn.GRU(4, 8, num_layers=2), nn.LSTMCell(4, 8)]
)
def test_the_lines_draw_what_the_trial_draws(rnn):
    model = nn.Sequential()
    model.add_module("rnn", rnn)
    draws = recurrent_draws("rnn", rnn, STEPS)
    assert [draw.name for draw in draws] == [name for name, _ in model.named_parameters()]
    from gradtrace.repair.changes.draws import code_of, draw_all
    from gradtrace.repair.twin import make_twin

    told = []
    for how in ("trial", "lines"):
        twin = make_twin(model, loss_fn, [])
        torch.manual_seed(2)
        if how == "trial":
            draw_all(draws, twin)
        else:
            exec(code_of(draws), {"torch": torch, "model": twin.model})
        told.append({name: p.detach() for name, p in twin.model.named_parameters()})
    for name, tried in told[0].items():
        lines = told[1][name]
        if "weight_hh" in name and "proj_size" not in repr(rnn):
            for one in (tried, lines):
                for gate in one.chunk(one.shape[0] // 8):
                    gain = float(gate.square().mean().sqrt()) * math.sqrt(8)
                    assert torch.allclose(gate @ gate.T, gain**2 * torch.eye(8), atol=1e-4)
        if "weight" in name:
            assert float(tried.norm()) == pytest.approx(float(lines.norm()), rel=0.5)
        assert (tried.abs() > 0).tolist() == (lines.abs() > 0).tolist()
