"""Operands kept away from where an op is singular: found late in a training, in the loss's own code, by its line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.records.finding import Diagnosis, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.repair.applying import apply_changes
from gradtrace.repair.changes import unsafe
from gradtrace.repair.situation import Situation


def squashed(model, batch):
    """An action, and what its density loses by tanh."""
    action = torch.tanh(model(batch[0]))
    loss = (action - batch[1]).square().mean()
    return loss - 0.01 * torch.log(1 - action.square()).mean()


def found_late(source):
    return Finding(
        Symptom.NONFINITE, Cause.UNSAFE_OP, ("loss",), Severity.CRITICAL, "At step 35 the loss is Inf.", (), (), source
    )


@pytest.fixture(scope="module")
def first_step():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    batch = torch.randn(16, 3), torch.ones(16, 2)
    return model, batch, gradtrace.trace(model, squashed, batch)


def situation(first_step, source):
    model, batch, trace = first_step
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Situation(model, squashed, [batch], [optimizer], Diagnosis((found_late(source),), (trace,)))


def test_the_op_is_the_one_that_the_first_steps_did_at_that_line(first_step):
    _, batch, trace = first_step
    (log,) = [op for op in trace.ops if op.function == "log"]
    here = situation(first_step, log.site.source)
    (change,) = unsafe.KIND.propose(here)
    assert (change.word("function"), change.where) == ("log", (log.site.source,))
    twin = here.twin()
    with torch.no_grad():
        twin.model.weight.mul_(1e4)  # every action is at +-1
    assert not torch.isfinite(twin.training_loss_fn(twin.model, batch))
    apply_changes([change], twin)
    loss = twin.training_loss_fn(twin.model, batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(twin.model.weight.grad).all()


@pytest.mark.parametrize("source", ["", "elsewhere.py:3"])
def test_a_line_that_no_op_is_at_tells_nothing(first_step, source):
    assert unsafe.KIND.propose(situation(first_step, source)) == []
