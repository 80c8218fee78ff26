"""An optimizer that is made and never stepped: what it alone holds stays as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom


def told(stepped: str, *, held: str = "own", frozen: bool = False, num_steps: int = 20) -> list[Finding]:
    """Of a training of two networks by two optimizers, of which those named in `stepped` step."""
    torch.manual_seed(0)
    first, second = nn.Linear(8, 16), nn.Linear(16, 8)
    model = nn.Sequential(first, nn.Tanh(), second).requires_grad_()
    first.requires_grad_(not frozen)
    encoder = torch.optim.Adam(first.parameters(), lr=1e-3)
    decoder = torch.optim.Adam((model if held == "both" else second).parameters(), lr=1e-3)
    with gradtrace.watch(model, [encoder, decoder], every=4, budget=10.0) as watch:
        for _ in range(num_steps):
            x = torch.randn(32, 8)
            model.zero_grad()
            (model(x) - x).square().mean().backward()
            if "encoder" in stepped:
                encoder.step()
            if "by hand" in stepped:
                with torch.no_grad():
                    first.weight -= 1e-2 * first.weight.grad
            decoder.step()
    return [f for f in watch.diagnosis.findings if "never stepped" in f.message]


def test_an_optimizer_that_is_never_stepped_is_told() -> None:
    (found,) = told("decoder")
    assert (found.symptom, found.cause, found.severity) == (
        Symptom.DISCONNECTED,
        Cause.DETACHED_GRAPH,
        Severity.WARNING,
    )
    assert found.where == ("0",)
    assert "0.weight" in found.message


def test_both_are_stepped() -> None:
    assert told("encoder decoder") == []


def test_what_it_holds_is_held_by_one_that_steps_too() -> None:
    assert told("decoder", held="both") == []


def test_what_it_holds_is_frozen() -> None:
    assert told("decoder", frozen=True) == []


def test_what_it_holds_is_moved_by_hand() -> None:
    assert told("by hand, decoder") == []


@pytest.mark.parametrize("num_steps", [3])
def test_a_training_that_has_hardly_begun_says_nothing(num_steps: int) -> None:
    assert told("decoder", num_steps=num_steps) == []
