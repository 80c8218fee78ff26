"""The logarithm of a probability is taken in one: what underflows has a gradient, and the patch does what was tried."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.records.change import Edit
from gradtrace.repair.applying import apply_changes
from gradtrace.repair.changes import log_space
from gradtrace.repair.situation import Situation
from gradtrace.repair.training import Plan, train

FAR = 400.0
"""Logits: their softmax is one-hot in float32, and their sigmoid 0 or 1."""


class Network(nn.Module):
    def __init__(self, outputs=3, last=None):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(6, outputs)
        self.last = last or nn.Identity()
        nn.init.normal_(self.body.weight, 0.0, FAR)

    def forward(self, x):
        return self.last(self.body(x))


def batches(outputs):
    torch.manual_seed(1)
    inputs = [torch.randn(32, 6) for _ in range(2)]
    return [(x, x[:, :3].argmax(1) if outputs > 1 else (x[:, :1] > 0).float()) for x in inputs]


def picked(model, batch):
    p = torch.softmax(model(batch[0]), dim=1)
    return -torch.log(p[torch.arange(len(p)), batch[1]]).mean()


def floored(model, batch):
    p = model(batch[0]).softmax(1)
    return F.nll_loss((p + 1e-8).log(), batch[1])


def of_module(model, batch):
    p = model(batch[0])
    return -torch.log(p.gather(1, batch[1][:, None])).mean()


def both_sides(model, batch):
    p, y = torch.sigmoid(model(batch[0])), batch[1]
    return -(y * torch.log(p) + (1 - y) * torch.log(1 - p)).mean()


def both_sides_clamped(model, batch):
    p, y = model(batch[0]).clamp(1e-7, 1 - 1e-7), batch[1]
    return -(y * torch.log(p) + (1 - y) * torch.log(1 - p)).mean()


def entropy_too(model, batch):
    p = torch.softmax(model(batch[0]), dim=1)
    return -torch.log(p[torch.arange(len(p)), batch[1]]).mean() - (p * p).mean()


CASES = {
    "picked": (picked, Network),
    "floored": (floored, Network),
    "of a module": (of_module, lambda: Network(last=nn.Softmax(dim=1))),
    "of a sigmoid": (both_sides, lambda: Network(1)),
    "of a module, clamped": (both_sides_clamped, lambda: Network(1, nn.Sigmoid())),
}


def situation(loss_fn, model):
    data = batches(model.body.out_features)
    optimizer = torch.optim.SGD(model.parameters(), lr=50.0)
    return Situation(model, loss_fn, data, [optimizer], gradtrace.check(model, loss_fn, data))


@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_the_cross_entropy_of_the_logits(name):
    loss_fn, build = CASES[name]
    here = situation(loss_fn, build())
    (change,) = log_space.KIND.propose(here)
    twin = here.twin()
    apply_changes([change], twin)
    x, y = here.batches[0]
    logits = twin.model.body(x)
    of_classes = logits.shape[1] > 1
    expected = F.cross_entropy(logits, y) if of_classes else F.binary_cross_entropy_with_logits(logits, y)
    found = twin.training_loss_fn(twin.model, here.batches[0])
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss, twin.model.body.weight)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", ["picked", "of a module, clamped"])
def test_it_learns_and_is_measured_as_it_came(name):
    loss_fn, build = CASES[name]
    here = situation(loss_fn, build())
    changes = log_space.KIND.propose(here)
    twin, plain = here.twin(), here.twin()
    apply_changes(changes, twin)
    if "clamped" in name:
        torch.testing.assert_close(twin.score(here.batches[0]), loss_fn(here.model, here.batches[0]).detach())
    changed, unchanged = (train(one, Plan(here.batches, 60), 0) for one in (twin, plain))
    assert math.isfinite(changed.start)
    assert changed.end < 0.5 * min(changed.start, unchanged.end)


def test_where_probabilities_are_used_otherwise_nothing_is_proposed():
    assert log_space.KIND.propose(situation(entropy_too, Network())) == []


def written(loss_fn, change, source):
    """The loss function as the patch writes it."""
    cst = pytest.importorskip("libcst")
    from gradtrace.repair.edits import edit_calls

    first = loss_fn.__code__.co_firstlineno
    at_lines = [(int(edit.source.rpartition(":")[2]), edit) for edit in change.edits]
    lines = {line for line, _ in at_lines}
    assert lines <= set(range(first, first + 4))
    return edit_calls(cst.parse_module(source), at_lines, {}).code


@pytest.mark.parametrize("name", ["picked", "floored", "of a module"])
def test_the_patch_is_what_was_tried(name):
    loss_fn, build = CASES[name]
    here = situation(loss_fn, build())
    (change,) = log_space.KIND.propose(here)
    assert all(edit.edit is Edit.CALL for edit in change.edits)
    text = written(loss_fn, change, Path(__file__).read_text(encoding="utf-8"))
    names = {"__file__": __file__, "__name__": "edited"}
    exec(compile(text, __file__, "exec", dont_inherit=True), names)
    twin, model = here.twin(), here.twin().model
    apply_changes([change], twin)
    if not change.code.startswith("#"):
        exec(change.code, {"torch": torch, "model": model})
        assert str(model) == str(twin.model)
    tried = twin.training_loss_fn(twin.model, here.batches[0])
    torch.testing.assert_close(names[loss_fn.__name__](model, here.batches[0]), tried)


def test_the_complement_is_left_to_the_author():
    (change,) = log_space.KIND.propose(situation(both_sides, Network(1)))
    assert change.edits == ()
    assert "binary_cross_entropy_with_logits" in change.code
