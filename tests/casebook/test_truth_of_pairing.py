"""Do outputs that do not fit their loss keep it from learning, and do the twins that fit learn? Plain PyTorch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gradtrace.casebook import CASES
from gradtrace.casebook.case import Setup
from gradtrace.casebook.healthy_objectives import smoothed


def trained(name: str, num_steps: int = 200) -> tuple[Setup, list[float]]:
    """By Adam, on one batch; with the losses."""
    setup = CASES[name].build()
    optimizer = torch.optim.Adam(setup.model.parameters(), lr=3e-3)
    losses = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = setup.loss_fn(setup.model, setup.batches[0])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return setup, losses


@pytest.mark.parametrize(
    ("name", "floor"),
    [("batch_softmax", math.log(64 / 10)), ("bounded_logits", math.log1p(9 * math.exp(-1.0)))],
)
def test_no_weights_go_below_the_floor_that_the_output_leaves(name: str, floor: float) -> None:
    _, losses = trained(name)
    assert min(losses) > floor > 1.0
    assert losses[-1] < losses[0]


def test_examples_that_are_all_the_same_get_what_a_constant_gets() -> None:
    """The entropy of the labels, whatever the weights are; the levels themselves are learnt."""
    cut, losses = trained("levels_cut_to_zero")
    labels = cut.batches[0][1]
    shares = torch.bincount(labels, minlength=4) / len(labels)
    entropy = -torch.xlogy(shares, shares).sum().item()
    assert not cut.batches[0][0].any()
    assert entropy - 1e-4 < losses[-1] < 1.01 * entropy
    _, those = trained("levels")
    assert those[-1] < 0.05 * entropy


def test_bounds_that_are_meant_leave_next_to_nothing() -> None:
    _, losses = trained("cosine_logits")
    assert math.log1p(9 * math.exp(-32.0)) < losses[-1] < 0.05


def divergence(setup: Setup) -> Tensor:
    """From the smoothed labels, of what the model predicts."""
    pixels, labels = setup.batches[0]
    return F.kl_div(F.log_softmax(setup.model(pixels), dim=1), smoothed(labels), reduction="batchmean").detach()


def test_probabilities_in_place_of_logarithms_end_elsewhere() -> None:
    """Minus the probability is least where all of it is on one class, and not where it is the target's."""
    raw, _ = trained("divergence_of_probabilities", 400)
    fitting, _ = trained("distilled", 400)
    assert divergence(fitting) < 0.01
    assert divergence(raw) > 10 * divergence(fitting)


def second_derivative(setup: Setup) -> Tensor:
    times: Any = setup.batches[0].clone().requires_grad_()
    (first,) = torch.autograd.grad(setup.model(times).sum(), times, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), times, allow_unused=True)
    return torch.zeros_like(times) if second is None else second


def test_straight_lines_do_not_solve_an_equation_of_second_order() -> None:
    """u'' + u = 0 with u(0) = 1: without u'' there is no u but zero, and that is not 1 at 0."""
    straight, losses = trained("straight_residual", 800)
    assert not second_derivative(straight).any()
    bent, those = trained("physics_informed", 800)
    assert second_derivative(bent).any()
    assert losses[-1] > 20 * those[-1]
