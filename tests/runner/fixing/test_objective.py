"""A changed loss in a script: the derivative of the new one, the value of the script's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.repair.applying import apply_changes
from gradtrace.repair.changes import loss, objective
from gradtrace.repair.rewriting import Rewriting
from gradtrace.repair.situation import Situation
from gradtrace.repair.twin import make_twin
from gradtrace.runner.fixing.objective import for_a_script, keep_the_measure, measuring

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
X = torch.linspace(-2.0, 3.0, 8 * 5).reshape(8, 5)


class Ended(nn.Module):
    """Ends with a function, as a script's own class does."""

    def __init__(self, end, outputs=3):
        super().__init__()
        self.hidden, self.head, self.end = nn.Linear(5, 16), nn.Linear(16, outputs), end
        nn.init.constant_(self.head.bias[:1], 30.0)

    def forward(self, x):
        return self.end(self.head(torch.tanh(self.hidden(x))))


class Named(Ended):
    """Ends with a module."""

    def __init__(self, module, outputs=3):
        super().__init__(None, outputs)
        self.end = module


def one_hot(model, batch):
    return F.mse_loss(model(batch[0]), F.one_hot(batch[1], 3).float())


def absolute(model, batch):
    return 3.0 * F.l1_loss(model(batch[0]), F.one_hot(batch[1], 3).float())


def root(model, batch):
    return F.mse_loss(model(batch[0]), F.one_hot(batch[1], 3).float()).sqrt()


def of_logits(model, batch):
    return 0.5 * F.cross_entropy(model(batch[0]), batch[1]) + 0.5


def of_logarithms(model, batch):
    return F.nll_loss(model(batch[0]), batch[1])


SOFTMAX = {"function": lambda: Ended(lambda z: torch.softmax(z, dim=1)), "module": lambda: Named(nn.Softmax(dim=1))}


def proposed(model, loss_fn, what):
    """The change as a script's probe would hand it on."""
    here = situation_of(model, loss_fn)
    found = [change for change in loss.KIND.propose(here) if change.word("what") == what]
    return [kept for change in found if (kept := for_a_script(change, here)) is not None], found


def situation_of(model, loss_fn):
    return Situation(model, loss_fn, [(X, LABELS)], [], gradtrace.check(model, loss_fn, [(X, LABELS)]))


def value_and_slope(model, loss_fn, change=None, *, is_kept=True):
    """As in a script: the rules are there whoever calls."""
    twin = make_twin(model, None, [])
    if change is not None:
        apply_changes([change], twin)
        if is_kept:
            keep_the_measure(change, twin, 0)
    with Rewriting(tuple(twin.rules)):
        value = loss_fn(twin.model, (X, LABELS))
        value.backward()
    return value.detach(), twin.model.hidden.weight.grad, twin


def logits(model):
    return model.head(torch.tanh(model.hidden(X)))


def entropy(z):
    return F.binary_cross_entropy(z.softmax(1), F.one_hot(LABELS, 3).float())


WANTED = {
    "bce": (one_hot, entropy),
    "bce of several ops": (absolute, lambda z: 3.0 * entropy(z)),
    "drop": (of_logits, lambda z: 0.5 * F.cross_entropy(z, LABELS) + 0.5),
    "log": (of_logarithms, lambda z: F.cross_entropy(z, LABELS)),
}


@pytest.mark.parametrize("ending", SOFTMAX)
@pytest.mark.parametrize("what", WANTED)
def test_the_value_is_the_script_s_and_the_derivative_the_new_one_s(what, ending):
    torch.manual_seed(0)
    model, (loss_fn, wanted) = SOFTMAX[ending](), WANTED[what]
    (change,), _ = proposed(model, loss_fn, what.split()[0])
    own, slope, _ = value_and_slope(model, loss_fn)
    value, changed, twin = value_and_slope(model, loss_fn, change)
    torch.testing.assert_close(value, own, rtol=1e-5, atol=1e-7)
    model.zero_grad()
    wanted(logits(model)).backward()
    torch.testing.assert_close(changed, model.hidden.weight.grad, rtol=1e-2, atol=1e-4)
    assert changed.norm() > 2 * slope.norm()
    assert not twin.scored_with
    assert not any(rule.training_only for rule in twin.rules)


def test_behind_a_root_the_edited_script_would_train_otherwise():
    kept, found = proposed(SOFTMAX["function"](), root, "bce")
    assert found
    assert not kept


def test_another_loss_in_another_line_is_the_script_s():
    torch.manual_seed(0)
    model = SOFTMAX["function"]()
    (change,), _ = proposed(model, of_logits, "drop")
    twin = make_twin(model, None, [])
    apply_changes([change], twin)
    keep_the_measure(change, twin, 0)
    with Rewriting(tuple(twin.rules)), torch.no_grad():
        model(X)
        elsewhere = F.cross_entropy(X, LABELS)
    torch.testing.assert_close(elsewhere, F.cross_entropy(X, LABELS))


def halved_and_turned(model, batch):
    return -F.cross_entropy(model(batch[0]), batch[1]) / 2


def rooted_and_turned(model, batch):
    return 4.0 - F.cross_entropy(model(batch[0]), batch[1]).sqrt()


def test_where_the_script_s_loss_is_no_measure_its_value_is_the_mended_one_s_and_its_derivative_stays():
    torch.manual_seed(0)
    model = Ended(lambda z: z)
    here = situation_of(model, halved_and_turned)
    (change,) = objective.propose(here)
    assert for_a_script(change, here) is change
    own, slope, _ = value_and_slope(model, halved_and_turned)
    with Rewriting(tuple(measuring([change]))):
        model.zero_grad()
        value = halved_and_turned(model, (X, LABELS))
        value.backward()
    torch.testing.assert_close(value.detach(), -own)
    torch.testing.assert_close(model.hidden.weight.grad, slope, rtol=0.0, atol=0.0)
    model.zero_grad()
    mended, changed, _ = value_and_slope(model, halved_and_turned, change, is_kept=False)
    torch.testing.assert_close(mended, -own)
    torch.testing.assert_close(changed, -slope)


def test_behind_a_root_the_mended_value_would_bend_the_script_s_own_derivative():
    torch.manual_seed(0)
    model = Ended(lambda z: z)
    (change,) = objective.propose(situation_of(model, halved_and_turned))
    rooted = situation_of(model, rooted_and_turned)
    line = next(op.site.source for op in rooted.trace.ops if op.function == "cross_entropy")
    there = replace(change, words=(("how", "turned"), ("function", "cross_entropy"), ("source", line)))
    assert for_a_script(there, rooted) is None
