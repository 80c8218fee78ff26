"""log(cosh x) and the like, taken in one: the same numbers where both are finite, and finite everywhere."""

from __future__ import annotations

import inspect

import libcst as cst
import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.repair.applying import apply_changes
from gradtrace.repair.changes import stable, unsafe
from gradtrace.repair.edits import edit_calls
from gradtrace.repair.situation import Situation


def log_cosh(model, batch):
    return torch.log(torch.cosh(model(batch[0]) - batch[1])).mean()


def log_sum_exp(model, batch):
    logits = model(batch[0])
    return (torch.log(torch.exp(logits).sum(1)) - logits[:, 0]).mean()


def in_lines_of_their_own(model, batch):
    raised = model(batch[0]).exp()
    total = raised.sum(dim=1)
    return total.log().mean()


def softplus(model, batch):
    return torch.log(1 + torch.exp(-model(batch[0]))).mean()


def softplus_by_log1p(model, batch):
    return torch.log1p(model(batch[0]).exp()).mean()


def read_twice(model, batch):
    raised = model(batch[0]).exp()
    return (raised / raised.sum(1, keepdim=True)).mean() + torch.log(raised.sum(1)).mean()


def of_scale(loss_fn, scale):
    torch.manual_seed(0)
    model = nn.Linear(3, 4)
    with torch.no_grad():
        model.weight.mul_(scale)
    batch = torch.randn(32, 3), torch.randn(32, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    diagnosis = gradtrace.check(model, loss_fn, [batch])
    return Situation(model, loss_fn, [batch], [optimizer], diagnosis)


WHOLE = [log_cosh, log_sum_exp, in_lines_of_their_own, softplus, softplus_by_log1p]


@pytest.mark.parametrize("loss_fn", WHOLE)
def test_what_overflows_is_finite_and_the_same_elsewhere(loss_fn):
    here = of_scale(loss_fn, 1000.0)
    (change,) = stable.KIND.propose(here)
    lines = set(change.word("lines").splitlines())
    assert not any(lines & set(other.word("lines").splitlines()) for other in unsafe.KIND.propose(here))
    twin = here.twin()
    apply_changes([change], twin)
    assert not torch.isfinite(loss_fn(here.model, here.batches[0]))
    loss = twin.training_loss_fn(twin.model, here.batches[0])
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(twin.model.weight.grad).all()

    model = twin.model.double()
    batch = tuple(part.double() for part in here.batches[0])
    with torch.no_grad():
        model.weight.div_(1000.0)
    grads = [
        torch.autograd.grad(made(model, batch), [*model.parameters()]) for made in (twin.training_loss_fn, loss_fn)
    ]
    for ours, own in zip(*grads, strict=True):
        torch.testing.assert_close(ours, own)
    torch.testing.assert_close(twin.training_loss_fn(model, batch), loss_fn(model, batch))


def test_what_is_read_by_others_stays():
    assert stable.KIND.propose(of_scale(read_twice, 1000.0)) == []


def test_a_loss_that_is_finite_stays():
    assert stable.KIND.propose(of_scale(log_cosh, 1.0)) == []


@pytest.mark.parametrize("loss_fn", WHOLE)
def test_the_patch_is_what_was_tried(loss_fn):
    here = of_scale(loss_fn, 1000.0)
    (change,) = stable.KIND.propose(here)
    lines, first = inspect.getsourcelines(loss_fn)
    edits = [(int(edit.source.rpartition(":")[2]) - first + 1, edit) for edit in change.edits]
    namespace = {"torch": torch}
    exec(edit_calls(cst.parse_module("".join(lines)), edits, {}).code, namespace)
    twin = here.twin()
    apply_changes([change], twin)
    written = namespace[loss_fn.__name__](here.model, here.batches[0])
    torch.testing.assert_close(written, twin.training_loss_fn(twin.model, here.batches[0]))
