"""A loss that asks for the wrong thing is mended, and all networks are measured by the mended one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.records.change import OBJECTIVE
from gradtrace.repair.changes import objective
from gradtrace.repair.situation import Situation

cst = pytest.importorskip("libcst")

from gradtrace.repair.edits import edit_calls  # noqa: E402
from gradtrace.repair.no_patch import NoPatchError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Using a target size")
CRITERION = nn.BCEWithLogitsLoss()


def onehot(batch):
    return F.one_hot(batch[1], 4).float()


def upper(batch):
    return (batch[1] > 1).float()


def first(model, batch):
    return model(batch[0])[:, 0]


LOSSES = {
    "nll": (lambda m, b: F.nll_loss(m(b[0]), b[1]), lambda m, b: F.cross_entropy(m(b[0]), b[1])),
    "kl": (
        lambda m, b: F.kl_div(m(b[0]), onehot(b), reduction="batchmean"),
        lambda m, b: F.cross_entropy(m(b[0]), b[1]),
    ),
    "minus": (lambda m, b: -F.cross_entropy(m(b[0]), b[1]), lambda m, b: F.cross_entropy(m(b[0]), b[1])),
    "minus_mse": (lambda m, b: -F.mse_loss(m(b[0]), onehot(b)), lambda m, b: F.mse_loss(m(b[0]), onehot(b))),
    "no_minus": (
        lambda m, b: F.log_softmax(m(b[0]), 1)[torch.arange(len(b[1])), b[1]].mean(),
        lambda m, b: F.cross_entropy(m(b[0]), b[1]),
    ),
    "signs": (
        lambda m, b: CRITERION(first(m, b), 2 * upper(b) - 1),
        lambda m, b: F.binary_cross_entropy_with_logits(first(m, b), upper(b)),
    ),
    "bytes": (
        lambda m, b: F.binary_cross_entropy_with_logits(first(m, b), 51.0 * b[1] + 102.0),
        lambda m, b: F.binary_cross_entropy_with_logits(first(m, b), (51.0 * b[1] + 102.0) / 255.0),
    ),
    "counts": (
        lambda m, b: F.binary_cross_entropy_with_logits(first(m, b), b[1].float()),
        lambda m, b: F.poisson_nll_loss(first(m, b), b[1].float()),
    ),
    "reals": (
        lambda m, b: F.binary_cross_entropy_with_logits(first(m, b), b[0].sum(1)),
        lambda m, b: F.mse_loss(first(m, b), b[0].sum(1)),
    ),
    "batch": (
        lambda m, b: F.nll_loss(F.log_softmax(m(b[0]), dim=0), b[1]),
        lambda m, b: F.cross_entropy(m(b[0]), b[1]),
    ),
    "columns": (
        lambda m, b: F.smooth_l1_loss(m(b[0])[:, :1], b[0].sum(1)),
        lambda m, b: F.smooth_l1_loss(first(m, b), b[0].sum(1)),
    ),
    "columns_by_hand": (
        lambda m, b: ((m(b[0])[:, :1] - b[0].sum(1)) ** 2).mean(),
        lambda m, b: F.mse_loss(first(m, b), b[0].sum(1)),
    ),
    "one_output": (
        lambda m, b: nn.CrossEntropyLoss()(m(b[0])[:, :1], upper(b)[:, None]),
        lambda m, b: F.binary_cross_entropy_with_logits(first(m, b), upper(b)),
    ),
    "margins": (
        lambda m, b: F.soft_margin_loss(first(m, b), upper(b)),
        lambda m, b: F.soft_margin_loss(first(m, b), 2 * upper(b) - 1),
    ),
}


def network():
    torch.manual_seed(0)
    centres = torch.randn(4, 12) * 1.5
    batches = []
    for _ in range(4):
        y = torch.randint(0, 4, (64,))
        batches.append((centres[y] + torch.randn(64, 12), y))
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))
    return model, batches, torch.optim.Adam(model.parameters(), lr=1e-3)


def situation_of(loss_fn):
    model, batches, optimizer = network()
    diagnosis = gradtrace.check(model, loss_fn, batches, optimizer=optimizer)
    return Situation(model, loss_fn, batches, [optimizer], diagnosis)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_and_measure_are_those_of_what_was_meant(name):
    wrong, meant = LOSSES[name]
    situation = situation_of(wrong)
    (change,) = objective.propose(situation)
    assert change.kind == OBJECTIVE
    twin = situation.twin()
    objective.KIND.apply(change, twin)
    twin.measured_by = objective.measured_by([change])  # the change itself must not come in twice
    twin.training_loss_fn(twin.model, situation.batches[0]).backward()
    meant(situation.model, situation.batches[0]).backward()
    for tried, wanted in zip(twin.model.parameters(), situation.model.parameters(), strict=True):
        torch.testing.assert_close(tried.grad, wanted.grad, rtol=1e-4, atol=1e-6)
    as_it_came = situation.twin()
    as_it_came.measured_by = objective.measured_by([change])
    for one in (twin, as_it_came):
        with torch.no_grad():
            torch.testing.assert_close(one.score(situation.batches[1]), meant(one.model, situation.batches[1]))
    as_it_came.training_loss_fn(as_it_came.model, situation.batches[0]).backward()
    situation.model.zero_grad()
    wrong(situation.model, situation.batches[0]).backward()
    for trained, own in zip(as_it_came.model.parameters(), situation.model.parameters(), strict=True):
        torch.testing.assert_close(trained.grad, own.grad, rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    "loss_fn",
    [
        lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        lambda m, b: F.nll_loss(F.log_softmax(m(b[0]), 1), b[1]),
        lambda m, b: F.binary_cross_entropy_with_logits(first(m, b), upper(b)),
        lambda m, b: F.soft_margin_loss(first(m, b), 2 * upper(b) - 1),
    ],
)
def test_a_loss_that_is_a_measure_stays(loss_fn):
    assert objective.propose(situation_of(loss_fn)) == []


def test_the_unchanged_network_is_measured_by_what_was_meant_and_the_change_is_proven():
    model, batches, optimizer = network()
    repair = gradtrace.fix(model, LOSSES["minus"][0], batches, optimizer, steps=100, time_budget_s=3600)
    assert repair.best.changes[0].kind == OBJECTIVE
    assert repair.best.end < 0.7 * repair.original.end
    assert repair.original.end > repair.original.start > 0.0
    assert repair.measure == "the mended loss function"
    assert objective.NOTE in repair.notes
    new, loss_fn, _ = repair.best.apply(model, LOSSES["minus"][0], optimizer)
    assert loss_fn(new, batches[0]).item() == pytest.approx(F.cross_entropy(model(batches[0][0]), batches[0][1]).item())


CODE = """import torch
import torch.nn.functional as F
ask = torch.nn.BCEWithLogitsLoss()
class Step:
    def __init__(self):
        self.margin = torch.nn.SoftMarginLoss()
        self.over = torch.nn.Softmax(0)
    def loss(self, x, y):
        a = -F.mse_loss(x, y)
        b = (-F.mse_loss(x, y, reduction='none').sum(1)).mean()
        c = self.margin(x, y)
        d = ask(x, target=y)
        e = F.kl_div(x, y)
        f = (x * y).mean()
        g = self.over(x).log()
        h = F.log_softmax(x, dim=0)
        i = ((x - y) ** 2).mean() + F.smooth_l1_loss(x, y.float())
        return F.binary_cross_entropy_with_logits(x, y)
"""


def edited(name, line):
    wrong, _ = LOSSES[name]
    (change,) = objective.propose(situation_of(wrong))
    (edit,) = change.edits
    tree = cst.parse_module(CODE)
    new = edit_calls(tree, [(line, edit)], {}).code.splitlines()
    changed = [after for before, after in zip(CODE.splitlines(), new, strict=True) if before != after]
    return [line.strip() for line in changed]


@pytest.mark.parametrize(
    ("name", "line", "after"),
    [
        ("minus_mse", 9, "a = F.mse_loss(x, y)"),
        ("minus_mse", 10, "b = F.mse_loss(x, y, reduction='none').sum(1).mean()"),
        ("margins", 11, "c = self.margin(x, 2.0 * y - 1.0)"),
        ("signs", 12, "d = ask(x, target=(y + 1) / 2)"),
        ("kl", 13, "e = F.kl_div(torch.nn.functional.log_softmax(x, dim=-1), y)"),
        ("no_minus", 14, "f = -(x * y).mean()"),
        ("batch", 16, "h = torch.nn.functional.log_softmax(x, dim=1)"),
        ("columns_by_hand", 17, "i = ((x - y.view_as(x)) ** 2).mean() + F.smooth_l1_loss(x, y.float())"),
        ("columns", 17, "i = ((x - y) ** 2).mean() + F.smooth_l1_loss(x, y.float().view_as(x))"),
        ("bytes", 18, "return F.binary_cross_entropy_with_logits(x, y / 255)"),
        ("counts", 18, "return torch.nn.functional.poisson_nll_loss(x, y)"),
        ("counts", 12, "ask = torch.nn.PoissonNLLLoss()"),
    ],
)
def test_the_patch_is_what_was_tried(name, line, after):
    assert edited(name, line) == [after]


def test_a_minus_that_is_elsewhere_is_said():
    with pytest.raises(NoPatchError, match="no minus before a call of mse_loss was found at line 13"):
        edited("minus_mse", 13)
