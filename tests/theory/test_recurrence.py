"""Mean field of recurrences against torch's own modules in float64, through time and through their gates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradtrace.audit.rules.cells import cell_of
from gradtrace.theory.finite_width import spread_of_powers
from gradtrace.theory.recurrence import CLASSES, Cell, Inputs, Units, offsets, through_time
from gradtrace.theory.through_time import back_through_time, band, growth_per_step, last_only, reverse

T, WIDTH, INPUTS = 20, 256, 64


def module(kind: str, scale: float = 1.0) -> Any:
    if kind in ("tanh", "relu"):
        found: Any = nn.RNN(INPUTS, WIDTH, nonlinearity=kind, batch_first=True)
    else:
        found = getattr(nn, kind.upper())(INPUTS, WIDTH, batch_first=True)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            parameter.mul_(scale if "weight" in name else 1.0)
    return found.double()


def theory_of(recurrent: Any, kind: str, shared: float = 0.0) -> tuple[Cell, list]:
    weights = [recurrent.get_parameter(f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    cell = cell_of(kind, weights)
    return cell, through_time(cell, Inputs(1.0, shared), T, Units.of())


def measured(recurrent: Any, arriving: str, shared: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """E[g^2] of the input and E[h^2], per time step."""
    common, own = torch.randn(16, 1, INPUTS).double(), torch.randn(16, T, INPUTS).double()
    x = (math.sqrt(shared) * common + math.sqrt(1 - shared) * own).requires_grad_()
    h = recurrent(x)[0]
    cotangent = torch.randn_like(h)
    if arriving == "last":
        cotangent[:, :-1] = 0
    if arriving == "mean":
        cotangent = cotangent[:, :1].expand_as(h)
    (g,) = torch.autograd.grad(h, x, cotangent)
    return g.square().mean((0, 2)), h.detach().square().mean((0, 2))


@pytest.mark.parametrize("kind", ["tanh", "relu", "lstm", "gru"])
@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("arriving", ["last", "all", "mean"])
def test_signal_and_gradient_per_time_step(kind, scale, arriving) -> None:
    """Energies within 0.06 decades on average over the steps, E[h^2] within 15 %: 256 units, 16 samples.

    What ReLU's h has in common over time meets the same weights again: 16 % standard deviation between networks.
    """
    recurrent = module(kind, scale)
    cell, steps = theory_of(recurrent, kind)
    given = last_only(T) if arriving == "last" else band(T, float(arriving == "mean"))
    predicted = back_through_time(cell, [flow for _, flow in steps], given).inputs[:, 0]
    gradient, signal = measured(recurrent, arriving)
    assert 0.5 * math.log10(float(gradient.mean()) / predicted.mean()) == pytest.approx(0.0, abs=0.06)
    late = np.array([float(units.second.mean()) for units, _ in steps[-5:]]).mean()
    assert late == pytest.approx(float(signal[-5:].mean()), rel=0.35 if kind == "relu" else 0.15)


@pytest.mark.parametrize(("kind", "untied"), [("lstm", 0.29), ("gru", 0.30)])
def test_a_carried_state_makes_the_gradients_of_two_steps_alike(kind, untied) -> None:
    """20 steps back from the last output: within 0.25 decades. Independent weights would have lost a decade more."""
    recurrent = module(kind)
    cell, steps = theory_of(recurrent, kind)
    predicted = back_through_time(cell, [flow for _, flow in steps], last_only(T)).inputs[:, 0]
    gradient, _ = measured(recurrent, "last")
    assert 0.5 * math.log10(float(gradient[0]) / predicted[0]) == pytest.approx(0.0, abs=0.25)
    short = 0.5 * math.log10(untied ** (T - 1) / (float(gradient[0]) / float(gradient[-1])))
    assert short < -0.8


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_what_inputs_share_over_time(kind) -> None:
    """Four fifths of the input's energy are the same at all steps: the memory fills, and each unit keeps its slopes."""
    recurrent = module(kind)
    cell, steps = theory_of(recurrent, kind, 0.8)
    gradient, signal = measured(recurrent, "all", 0.8)
    late = float(steps[-1][0].second.mean())
    assert late == pytest.approx(float(signal[-1]), rel=0.15)
    assert late > 1.5 * float(theory_of(recurrent, kind)[1][-1][0].second.mean())
    predicted = back_through_time(cell, [flow for _, flow in steps], band(T)).inputs[:, 0]
    assert 0.5 * math.log10(float(gradient.mean()) / predicted.mean()) == pytest.approx(0.0, abs=0.06)


def test_plain_growth_per_step_is_chi() -> None:
    """chi = Var(w_hh) H E[a'^2], with E[a'^2] = 1/2 for ReLU at any variance."""
    cell = Cell("relu", *np.array([[1.0], [1.6], [1.0], [1.6]]), np.zeros((1, CLASSES)))
    flows = [flow for _, flow in through_time(cell, Inputs(1.0), 30, Units.of())]
    assert growth_per_step(cell, flows) == pytest.approx(0.8, rel=1e-6)


def test_an_lstm_that_sees_only_its_biases_keeps_what_its_forget_gate_keeps() -> None:
    """c -> c: f^2 per step with f = sigmoid(b), per unit: a mixture of memories is not the memory of the mixture."""
    bias = np.zeros((4, CLASSES))
    bias[1] = offsets(0, 1)[0] * 2 + 1
    zero = np.zeros(4)
    cell = Cell("lstm", zero, zero, zero, zero, bias)
    flows = [flow for _, flow in through_time(cell, Inputs(0.0), 10, Units.of())]
    kept = back_through_time(cell, flows, 0 * last_only(10), final_state=1.0).state
    f = 1 / (1 + np.exp(-bias[1]))
    assert kept == pytest.approx(np.mean(f**20), rel=1e-6)
    assert kept > 2 * np.mean(f) ** 20


def test_the_two_time_equations_on_a_linear_memory() -> None:
    """h(t) = f h(t-1) + W h(t-1): |(f + W)^t|^2 / n = sum of binom(t, k)^2 f^(2(t - k)) v^k, v = Var(w) n, exactly.

    As a GRU's backward recursion with gates fixed by hand: phi = f, gamma = 1.
    """
    from gradtrace.theory.recurrence import Flow

    f, v, steps = 0.5, 0.1, 8
    one, gate = np.ones((2, CLASSES)), np.ones((2, 1, CLASSES))
    flow = Flow(one, np.array([[f], [f * f]]) * one, gate, 0 * gate)
    cell = Cell("gru", np.ones(1), np.array([v]), np.ones(1), np.array([v]), np.zeros((1, CLASSES)))
    found = back_through_time(cell, [flow] * steps, last_only(steps))
    exact = [sum(math.comb(t, k) ** 2 * f ** (2 * (t - k)) * v**k for k in range(t + 1)) for t in range(steps + 1)]
    assert found.inputs[::-1, 0] == pytest.approx(exact[:-1], rel=1e-9)
    assert found.output == pytest.approx(exact[-1], rel=1e-9)
    assert exact[-1] > 3 * (f * f + v) ** steps  # independent weights


def test_reversal_is_an_involution() -> None:
    covariance = band(7, 0.3) * np.arange(1, 8)[:, None]
    assert reverse(reverse(covariance)) == pytest.approx(covariance)


def test_fewer_classes_stand_for_all_where_there_are_many_steps(monkeypatch) -> None:
    cell, steps = theory_of(module("gru"), "gru")
    flows = [flow for _, flow in steps]
    whole = back_through_time(cell, flows, band(T)).inputs[:, 0].mean()
    monkeypatch.setattr("gradtrace.theory.through_time.MOST_WORK", 1 << 12)
    assert back_through_time(cell, flows, band(T)).inputs[:, 0].mean() == pytest.approx(whole, rel=0.05)


@pytest.mark.parametrize(("width", "power"), [(50, 4), (50, 10), (100, 20), (32, 20)])
def test_powers_of_one_matrix_spread(width, power) -> None:
    rng = np.random.default_rng(0)
    logs = []
    for _ in range(150):
        W = np.linalg.matrix_power(rng.normal(size=(width, width)) / math.sqrt(width), power)
        logs.append(math.log(np.sum(W**2) / width))
    seen = math.sqrt(np.mean(np.square(logs)))
    assert 0.5 * spread_of_powers(power, width) < seen < 1.25 * spread_of_powers(power, width)
