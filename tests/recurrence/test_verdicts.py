"""Verdicts on recurrent networks of many kinds against the gradient of the input, step by step, by plain autograd."""

from __future__ import annotations

import math

import pytest
import torch
from tests.recurrence.networks import CONTRACTION, CUT, EXPANSION, HEALTHY, NETWORKS

import gradtrace


def made(name):
    build, loss_fn, length, truth = NETWORKS[name]
    torch.manual_seed(0)
    return build(), loss_fn, [torch.randn(16, length, 8) for _ in range(2)], truth


def input_decades(model, loss_fn, x):
    """log10 of the input gradient's RMS in the early tenth of the steps over the late tenth."""
    x = x.double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_fn(model.double(), x), x)
    norms, width = gradient.transpose(0, 1).flatten(1).norm(dim=1), max(1, x.shape[1] // 10)
    early, late = norms[:width].norm().item(), norms[-width:].norm().item()
    return math.log10(early / late) if early and late else -math.inf if late else math.inf


@pytest.mark.parametrize("name", NETWORKS)
def test_verdict(name):
    model, loss_fn, batches, truth = made(name)
    diagnosis = gradtrace.check(model, loss_fn, batches)
    worst = next((finding.cause for finding in diagnosis.findings if finding.severity != "info"), "none")
    assert worst == truth, diagnosis.findings
    assert not any("report" in refusal for refusal in diagnosis.refusals)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("neural_ode", "fixed_point")])
def test_truth_by_plain_autograd(name):
    model, loss_fn, batches, truth = made(name)
    decades = input_decades(model, loss_fn, batches[0])
    if truth == CONTRACTION:
        assert decades <= -2
    elif truth == EXPANSION:
        assert decades >= 2
    elif truth == HEALTHY:
        assert abs(decades) < 2
    elif name == "detached_before_the_end":
        assert truth == CUT
        assert decades == -math.inf
