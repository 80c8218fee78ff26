"""Exponents against closed forms, mean field, determinants and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.errors import InputError
from gradtrace.tape.cells import State, Weights, push, step


def run(model, x):
    return model(x)


@pytest.mark.parametrize("gain", [0.5, 1.0, 1.7])
def test_orthogonal_and_linear(gain):
    rnn = nn.RNN(2, 12, nonlinearity="relu").double()
    with torch.no_grad():  # all states positive: the ReLU is the identity
        rnn.weight_hh_l0.copy_(gain * torch.eye(12)[torch.randperm(12)])
        rnn.weight_ih_l0.abs_()
        rnn.bias_ih_l0.fill_(1.0)
        rnn.bias_hh_l0.fill_(1.0)
    (spectrum,) = gradtrace.lyapunov(rnn, run, torch.rand(60, 3, 2, dtype=torch.float64))
    assert spectrum.exponents == pytest.approx([math.log(gain)] * 12, abs=1e-6)
    if gain < 1:
        assert "contracts" in spectrum.sentence()
        assert "proves that gradients vanish" in spectrum.certificate()
    if gain > 1:
        assert "expands" in spectrum.sentence()


def mean_field_exponent(gain):
    """Half of ln(g^2 E[a'^2]) at the fixed point q = g^2 E[tanh^2(sqrt(q) z)]."""
    z = np.linspace(-10, 10, 20001)
    density = np.exp(-z * z / 2)
    density /= density.sum()
    q = 1.0
    for _ in range(500):
        q = gain**2 * float(density @ np.tanh(math.sqrt(q) * z) ** 2)
    return 0.5 * math.log(gain**2 * float(density @ (1 - np.tanh(math.sqrt(q) * z) ** 2) ** 2))


def test_mean_field_value():
    assert mean_field_exponent(2.0) == pytest.approx(0.1545, abs=3e-4)


@pytest.mark.long
def test_gaussian_tanh_without_input_is_chaotic_as_mean_field_says():
    rnn = nn.RNN(1, 800, bias=False).double()
    nn.init.normal_(rnn.weight_hh_l0, std=2.0 / math.sqrt(800))
    h0 = torch.randn(1, 2, 800, dtype=torch.float64)
    (spectrum,) = gradtrace.lyapunov(
        rnn, lambda m, x: m(x, h0), torch.zeros(1000, 2, 1, dtype=torch.float64), k=1, warmup_frac=0.1
    )
    assert spectrum.largest == pytest.approx(0.1543, abs=0.008)
    assert spectrum.errors[0] < 0.003
    assert "chaos" in spectrum.sentence()
    assert "proves nothing" in spectrum.certificate()  # the bound would allow ln 4 a step


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_the_sum_is_the_mean_log_determinant(kind):
    rnn = kind(2, 5).double()
    x = torch.randn(40, 1, 2, dtype=torch.float64)
    (spectrum,) = gradtrace.lyapunov(rnn, run, x)
    logs = [torch.linalg.slogdet(jacobian)[1] for jacobian in jacobians(rnn, x)]
    assert spectrum.mean_log_det == pytest.approx(float(sum(logs)) / 40, abs=1e-10)
    assert spectrum.dim == (10 if kind is nn.LSTM else 5)


def jacobians(rnn, x):
    """By autograd, one step at a time."""
    kind = {"RNN_TANH": "rnn_tanh", "LSTM": "lstm", "GRU": "gru"}[rnn.mode]
    weights = Weights(rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.bias_ih_l0, rnn.bias_hh_l0)
    width, has_cell = rnn.hidden_size, kind == "lstm"
    vector = torch.zeros(width * (2 if has_cell else 1), dtype=torch.float64)
    for row in x[:, 0]:
        gates = nn.functional.linear(row, rnn.weight_ih_l0, rnn.bias_ih_l0)

        def advance(v, gates=gates):
            state = State(v[:width], v[width:] if has_cell else None)
            after, _ = step(kind, gates, state, weights)
            return torch.cat((after.h, after.c)) if has_cell else after.h

        yield torch.autograd.functional.jacobian(advance, vector)
        vector = advance(vector).detach()


@pytest.mark.parametrize(("kind", "hidden"), [(nn.RNN, 16), (nn.LSTM, 8), (nn.GRU, 16)])
def test_the_product_of_jacobians_by_brute_force(kind, hidden):
    rnn = kind(2, hidden).double()
    x = torch.randn(20, 1, 2, dtype=torch.float64)
    brute = torch.eye(16, dtype=torch.float64)
    for jacobian in jacobians(rnn, x):
        brute = jacobian @ brute
    from gradtrace.tape.unroll import unrolled

    with unrolled(rnn) as stepped, torch.no_grad():
        rnn(x)
    (segment,) = stepped.segments
    ours = torch.eye(16, dtype=torch.float64).unsqueeze(0)
    with torch.no_grad():
        for t, one in enumerate(segment.steps):
            ours = push(segment.kind, one.gates, one.linear, segment.states[t], segment.weights, ours)
    scale = float(brute.abs().max())
    torch.testing.assert_close(ours[0] / scale, brute / scale, rtol=0, atol=1e-10)


def test_projection_of_an_lstm():
    lstm = nn.LSTM(2, 5, proj_size=3).double()
    (spectrum,) = gradtrace.lyapunov(lstm, run, torch.randn(30, 2, 2, dtype=torch.float64))
    assert spectrum.dim == 8
    assert all(map(math.isfinite, spectrum.exponents))


def test_k_largest_agree_with_the_whole_spectrum():
    rnn = nn.GRU(2, 12).double()
    x = torch.randn(400, 2, 2, dtype=torch.float64)
    whole = gradtrace.lyapunov(rnn, run, x, warmup_frac=0.2)[0]
    few = gradtrace.lyapunov(rnn, run, x, k=3, warmup_frac=0.2)[0]
    assert few.exponents == pytest.approx(whole.exponents[:3], abs=0.01)
    assert math.isnan(few.mean_log_det)


def test_predicted_growth_beside_the_measured():
    rnn = nn.RNN(2, 32).double()
    x = torch.randn(120, 4, 2, dtype=torch.float64)
    (spectrum,) = gradtrace.lyapunov(rnn, run, x, k=1, warmup_frac=0.2)
    record = gradtrace.through_time(rnn, lambda m, x: m(x)[0][-1].sum(), x, num_targets=1)
    assert record.chains[0].reach.curve()[100] == pytest.approx(spectrum.growth_decades(100), rel=0.1)


def test_layers_directions_and_progress():
    seen: list[float] = []
    rnn = nn.LSTM(2, 4, 2, bidirectional=True)
    spectra = gradtrace.lyapunov(rnn, run, torch.randn(10, 3, 2), k=1, progress=seen.append)
    assert [(s.layer, s.direction) for s in spectra] == [
        (layer, direction) for layer in (0, 1) for direction in ("forward", "backward")
    ]
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_bad_input():
    rnn = nn.GRU(2, 4)
    with pytest.raises(InputError, match="k must be"):
        gradtrace.lyapunov(rnn, run, torch.randn(5, 1, 2), k=0)
    with pytest.raises(InputError, match=r"no nn\.RNN"):
        gradtrace.lyapunov(nn.Linear(2, 2), run, torch.randn(5, 2))
    with pytest.raises(InputError, match="not finite"):
        gradtrace.lyapunov(rnn, run, torch.full((5, 1, 2), math.nan))
    with pytest.raises(InputError, match="larger than 0"):
        gradtrace.lyapunov(rnn, run, torch.zeros(0, 1, 2))
