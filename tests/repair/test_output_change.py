"""An output without a bound where targets lie beyond it; log probabilities where nll_loss is given probabilities."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradtrace
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.repair.applying import apply_changes
from gradtrace.repair.changes import loss, output, scale
from gradtrace.repair.situation import Situation
from gradtrace.repair.training import Plan, train


def squared(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


def targets(mean=0.0, spread=1.0):
    torch.manual_seed(0)
    slope = torch.randn(8, 1) / 8**0.5
    return [(x, mean + spread * (x @ slope)) for x in torch.randn(2, 64, 8)]


class Functional(nn.Module):
    """Its output's bound is a call."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(8, 32), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.head(torch.relu(self.inner(x))))


def bounded(last):
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1), last)


def situation(model, batches, loss_fn=squared):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return Situation(model, loss_fn, batches, [optimizer], gradtrace.check(model, loss_fn, batches))


def accused(here):
    """Whatever was found, the loss function is to blame."""
    finding = Finding(Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION, (), Severity.CRITICAL, "")
    return replace(here, diagnosis=replace(here.diagnosis, findings=(finding,)))


def ends(here, changes):
    twin, plain = here.twin(), here.twin()
    apply_changes(changes, twin)
    return [train(one, Plan(here.batches, 100), 0).end for one in (twin, plain)]


@pytest.mark.parametrize("build", [lambda: bounded(nn.ReLU()), lambda: bounded(nn.Tanh()), Functional])
def test_targets_beyond_the_output_are_reached_without_its_bound(build):
    here = situation(build(), targets(-3.0))
    (change,) = output.KIND.propose(here)
    assert "away from the output" in change.title
    assert "the loss stays above" in change.reason
    changed, unchanged = ends(here, [change])
    assert changed < 0.3 * unchanged


@pytest.mark.parametrize("squash", [nn.Sigmoid, nn.Identity])
def test_classes_are_told_apart_without_a_bound_on_their_logits(squash):
    torch.manual_seed(0)
    batches = [(x, (x @ torch.randn(8, 6)).argmax(1)) for x in torch.randn(1, 64, 8)]
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 6), squash())
    here = situation(model, batches, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]))
    changes = output.KIND.propose(here)
    assert len(changes) == (squash is nn.Sigmoid)
    if changes:
        assert "the loss stays above" in changes[0].reason
        changed, unchanged = ends(here, changes)
        assert changed < 0.3 * unchanged


def test_the_patch_of_a_module_builds_what_was_tried():
    here = situation(bounded(nn.Tanh()), targets(-3.0))
    (change,) = output.KIND.propose(here)
    twin, written = here.twin(), here.twin().model
    apply_changes([change], twin)
    exec(change.code, {"torch": torch, "model": written})
    assert str(written) == str(twin.model)


def test_targets_far_beyond_are_reached_in_units_of_their_spread():
    here = situation(bounded(nn.Tanh()), targets(50.0, 20.0))
    (open_output,), (in_units,) = output.KIND.propose(here), scale.KIND.propose(here)
    changed, unchanged = ends(here, [open_output, in_units])
    assert changed < 0.1 * unchanged


@pytest.mark.parametrize("last", [nn.Identity(), nn.Tanh()])
def test_an_output_that_reaches_its_targets_is_left_alone(last):
    batches = [(x, y.clamp(-0.9, 0.9)) for x, y in targets()]
    assert output.KIND.propose(situation(bounded(last), batches)) == []


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_outputs_that_are_held_against_all_targets_are_no_matter_of_range():
    batches = [(x, y[:, 0]) for x, y in targets()]
    here = situation(bounded(nn.Identity()), batches)
    assert here.findings[0].remedies[0].title == "Give output and targets the same shape."
    assert output.KIND.propose(here) == []


def likelihood(model, batch):
    return F.nll_loss(model(batch[0]), batch[1])


class Probabilities(nn.Module):
    """Their softmax is a call."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.head(torch.relu(self.inner(x))), dim=1)


@pytest.mark.parametrize("build", [
    Probabilities, lambda: nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4), nn.Softmax(dim=1)),
])  # fmt: skip
def test_nll_loss_is_given_log_probabilities_and_scored_as_it_came(build):
    torch.manual_seed(0)
    batches = [(x, x[:, :4].argmax(1)) for x in torch.randn(2, 64, 8)]
    model = build()
    here = situation(model, batches, likelihood)
    change = next(one for one in loss.KIND.propose(here) if one.word("what") == "log")
    twin = here.twin()
    apply_changes([change], twin)
    assert twin.score(batches[0]).item() == pytest.approx(likelihood(model, batches[0]).item())
    logits = model.head(torch.relu(model.inner(batches[0][0]))) if build is Probabilities else model[:3](batches[0][0])
    trained = twin.training_loss_fn(twin.model, batches[0]).item()
    assert trained == pytest.approx(F.cross_entropy(logits, batches[0][1]).item(), rel=1e-5)


def shares(model, batch):
    p = model(batch[0])
    p = (p / (p.sum(1, keepdim=True) + 1e-7)).clamp(1e-7, 1 - 1e-7)
    return -p.log().gather(1, batch[1].unsqueeze(1)).mean()


class Positive(nn.Module):
    """Its ReLU at the output is a call."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.head(torch.tanh(self.inner(x))))


@pytest.mark.parametrize("build", [
    Positive, lambda: nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4), nn.ReLU()),
])  # fmt: skip
def test_an_output_that_is_to_be_positive_is_a_softplus(build):
    torch.manual_seed(0)
    batches = [(x, x[:, :4].argmax(1)) for x in torch.randn(2, 64, 8)]
    here = accused(situation(build(), batches, shares))
    (change,) = output.KIND.propose(here)
    assert change.title == "Use softplus in place of relu at the output."
    changed, unchanged = ends(here, [change])
    assert changed < 0.5 * unchanged


def of_one_hot(model, batch):
    return F.mse_loss(model(batch[0]), F.one_hot(batch[1], 4).float())


def test_a_softmax_under_squares_is_trained_on_cross_entropy():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4), nn.Softmax(dim=1))
    model[2].bias.data = torch.tensor([10.0, 0.0, 0.0, 0.0])  # sure of one class, whatever comes
    batches = [(x, x[:, :4].argmax(1)) for x in torch.randn(2, 64, 8)]
    here = accused(situation(model, batches, of_one_hot))
    change = next(one for one in loss.KIND.propose(here) if one.word("what") == "bce")
    assert change.title == "Train the softmax on binary cross-entropy instead of mse_loss."
    twin = here.twin()
    apply_changes([change], twin)
    assert twin.score(batches[0]).item() == pytest.approx(of_one_hot(model, batches[0]).item())
    slopes = [
        torch.autograd.grad(of(net, batches[0]), net[2].bias)[0].norm()
        for net, of in ((twin.model, twin.training_loss_fn), (model, of_one_hot))
    ]
    assert slopes[0] > 100.0 * slopes[1]
