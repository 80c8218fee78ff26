"""What each assertion lets pass and what it does not, and what it says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradtrace.errors import InputError
from gradtrace.records.vocabulary import Symptom
from gradtrace.testing import GradientAssertionError, assert_finite, assert_gradients_flow, assert_trains


def stack(depth: int, activation: type[nn.Module], width: int = 16) -> nn.Sequential:
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), activation())]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def loss_fn(model, batch):
    return model(batch).square().mean()


def batches(count: int = 2):
    return [torch.randn(32, 16) for _ in range(count)]


def sgd(model, rate=0.05):
    return torch.optim.SGD(model.parameters(), lr=rate)


def test_a_gradient_that_flows_passes_and_leaves_the_model_as_it_was():
    model = stack(2, nn.Tanh)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert_gradients_flow(model, loss_fn, batches())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_one_that_vanishes_is_told_with_its_layers_and_bars():
    with pytest.raises(GradientAssertionError, match=r"the gradient vanishes: .*0.* gets \d.* decades less") as caught:
        assert_gradients_flow(stack(12, nn.Sigmoid), loss_fn, batches())
    told = str(caught.value)
    assert "allowed are 3 (batch 1)" in told
    assert "━━━" in told
    assert "GT101" in told
    assert caught.value.diagnosis.findings[0].symptom is Symptom.VANISHING


def test_one_that_explodes_is_told_as_more():
    model = stack(10, nn.ReLU)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10.0)
    with pytest.raises(GradientAssertionError, match=r"the gradient explodes: .* decades more than"):
        assert_gradients_flow(model, loss_fn, batches())


def test_how_much_is_allowed_is_the_caller_s():
    """On either side of what is measured: 12 sigmoids lose between 7 and 12 decades."""
    model = stack(12, nn.Sigmoid)
    assert_gradients_flow(model, loss_fn, batches(), max_decades=12)
    with pytest.raises(GradientAssertionError, match="allowed are 7 "):
        assert_gradients_flow(model, loss_fn, batches(), max_decades=7)


@pytest.mark.parametrize("max_decades", [0.0, -1.0, float("nan")])
def test_a_bound_that_is_none_is_refused(max_decades):
    with pytest.raises(InputError, match="max_decades must be a number of powers of ten above 0"):
        assert_gradients_flow(stack(2, nn.Tanh), loss_fn, batches(), max_decades=max_decades)


def test_a_gradient_that_is_cut_off_does_not_flow():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 1)

        def forward(self, x):
            return self.second(self.first(x).detach())

    with pytest.raises(GradientAssertionError, match=r"the gradient does not arrive: .*first"):
        assert_gradients_flow(Cut(), loss_fn, batches())


def test_what_is_not_finite_fails_each():
    def broken(model, batch):
        return (model(batch) - 1e3).sqrt().mean()

    model = stack(2, nn.Tanh)
    for claim in (assert_finite, assert_gradients_flow):
        with pytest.raises(GradientAssertionError, match="a number is not finite: "):
            claim(model, broken, batches())
    with pytest.raises(GradientAssertionError, match="it does not train: "):
        assert_trains(model, broken, batches(), sgd(model))


def test_what_vanishes_is_still_finite():
    assert_finite(stack(12, nn.Sigmoid), loss_fn, batches())


def test_training_is_seen_on_a_copy():
    model = stack(2, nn.Tanh)
    before = model[0].weight.clone()
    assert_trains(model, loss_fn, batches(), sgd(model), steps=10)
    assert torch.equal(model[0].weight, before)


def test_a_loss_that_does_not_fall_is_no_training():
    model = stack(1, nn.Tanh)
    with pytest.raises(GradientAssertionError, match=r"it does not train: the loss went from .* in 5 steps"):
        assert_trains(model, loss_fn, batches(1), sgd(model, 0.0), steps=5)


def test_a_symptom_can_be_allowed():
    model = stack(12, nn.Sigmoid)
    with pytest.raises(GradientAssertionError, match="it does not train"):
        assert_trains(model, loss_fn, batches(), sgd(model))
    assert_trains(model, loss_fn, batches(), sgd(model), allow={"vanishing"})
    with pytest.raises(InputError, match=r"'tired' is not a valid Symptom; allow takes some of vanishing"):
        assert_trains(model, loss_fn, batches(), sgd(model), allow={"tired"})


def test_no_step_is_no_training():
    model = stack(1, nn.Tanh)
    with pytest.raises(InputError, match="steps must be 1 or more"):
        assert_trains(model, loss_fn, batches(), sgd(model), steps=0)
