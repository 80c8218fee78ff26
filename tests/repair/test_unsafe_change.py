"""Operands kept away from where an op is singular: found late in a training, in the loss's own code, by its line."""

from __future__ import annotations

import libcst as cst
import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.records.change import Change, Edit, SourceEdit
from gradtrace.records.finding import Diagnosis, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.repair.applying import apply_changes
from gradtrace.repair.changes import unsafe
from gradtrace.repair.edits import edit_calls
from gradtrace.repair.no_patch import NoPatchError
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
    assert (change.word("lines"), change.where) == (f"log {log.site.source}", (log.site.source,))
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


SINGULAR = {
    "log": (0.0, 0.5), "sqrt": (0.0, 0.5), "rsqrt": (0.0, 0.5), "reciprocal": (0.0, 0.5), "log1p": (-1.0, -0.5),
    "acosh": (1.0, 2.0), "atanh": (1.0, 0.5), "erfinv": (-1.0, 0.5), "logit": (1.0, 0.5), "expm1": (1000.0, 2.0),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SINGULAR))
def test_a_guarded_operand_is_finite_at_the_singularity_and_itself_elsewhere(name):
    guard, (singular, tame) = unsafe.GUARDS[name], SINGULAR[name]
    function = getattr(torch, name)
    at = torch.tensor(singular, requires_grad=True)
    out = function(guard.safe(at))
    out.backward()
    assert torch.isfinite(out)
    assert torch.isfinite(at.grad)
    assert guard.safe(torch.tensor(tame)) == tame


def generalised_mean(x):
    return x.clamp(min=0).pow(3.0).mean(1) ** (1 / 3.0)


def inverse(x):
    return 1 / x.clamp(min=0).sum(1)


def shares(x):
    return (x.clamp(min=0) / x.clamp(min=0).sum(1, keepdim=True)).square().sum(1)


@pytest.mark.parametrize(("function", "op"), [(generalised_mean, "pow"), (inverse, "div"), (shares, "div")])
def test_powers_and_divisors_are_guarded_where_they_are_born(function, op):
    torch.manual_seed(0)
    model = nn.Linear(3, 4)
    batch = torch.randn(16, 3)
    batch[0] = 0
    with torch.no_grad():
        model.bias.fill_(-0.1)  # the first sample is silent
    diagnosis = gradtrace.check(model, lambda m, b: function(m(b)).mean(), [batch])
    here = Situation(
        model,
        lambda m, b: function(m(b)).mean(),
        [batch],
        [torch.optim.SGD(model.parameters(), lr=0.1)],
        diagnosis,
    )
    change = unsafe.KIND.propose(here)[0]
    assert change.word("lines").split()[0] == op
    twin = here.twin()
    apply_changes([change], twin)
    loss = twin.training_loss_fn(twin.model, batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(twin.model.weight.grad).all()


def test_whole_powers_stay():
    change = Change("unsafe", "", (), "", words=(("lines", "pow "),), edits=(), code="", source="")
    model = nn.Linear(3, 2)
    batch = torch.randn(4, 3)

    def loss_fn(model, batch):
        return (model(batch) ** 2).sum() + model(batch).pow(4).sum()

    twin = Situation(model, loss_fn, [batch], [torch.optim.SGD(model.parameters(), lr=0.1)], Diagnosis((), ())).twin()
    before = twin.training_loss_fn(twin.model, batch)
    apply_changes([change], twin)
    assert twin.training_loss_fn(twin.model, batch) == before


@pytest.mark.parametrize(
    ("edit", "name", "text", "line", "edited"),
    [
        ("last", "div", "({1}).where(({1}).abs() > 1e-06, 1e-06)", "y = a / (b - 1)\n",
         "y = a / (b - 1).where((b - 1).abs() > 1e-06, 1e-06)\n"),
        ("last", "div", "({1}).where(({1}).abs() > 1e-06, 1e-06)", "y = 1 / b.sum()\n",
         "y = 1 / b.sum().where(b.sum().abs() > 1e-06, 1e-06)\n"),
        ("last", "div", "({1}).clamp_min(1)", "y = torch.div(a, b)\n", "y = torch.div(a, b.clamp_min(1))\n"),
        ("argument", "pow", "({x}).clamp_min(1e-06)", "y = x ** 2 + (x - 1) ** p\n",
         "y = x ** 2 + (x - 1).clamp_min(1e-06) ** p\n"),
        ("argument", "pow", "({x}).clamp_min(1e-06)", "y = x.mean(1).pow(p)\n",
         "y = x.mean(1).clamp_min(1e-06).pow(p)\n"),
    ],
)  # fmt: skip
def test_operators_are_edited_as_their_functions(edit, name, text, line, edited):
    assert edit_calls(cst.parse_module(line), [(1, SourceEdit(Edit(edit), name, "", text))], {}).code == edited


def test_two_divisions_at_a_line_are_left_to_the_user():
    edit = SourceEdit(Edit.LAST, "div", "", "({1}).clamp_min(1)")
    with pytest.raises(NoPatchError, match="several divisions at line 1"):
        edit_calls(cst.parse_module("y = (1 / n) / (k @ v)\n"), [(1, edit)], {})
