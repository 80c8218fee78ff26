"""Huber's loss in place of a flat clip; and bfloat16 in place of float16 where it is autocast's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.casebook import CASES
from gradtrace.errors import InputError
from gradtrace.records.vocabulary import Severity
from gradtrace.repair.applying import apply_changes
from gradtrace.repair.autocast import autocast_in_bfloat16
from gradtrace.repair.changes import formats, loss
from gradtrace.repair.situation import Situation
from gradtrace.repair.training import Plan, train

ERRORS = torch.tensor([-7.0, -2.0, -1.5, -0.3, 0.0, 1e-25, 0.1, 1.4, 1.6, 30.0])
THRESHOLD = 1.5


def situation(model, loss_fn, batches):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return Situation(model, loss_fn, batches, [optimizer], gradtrace.check(model, loss_fn, batches))


def value_and_slope(loss_of, errors):
    errors = errors.clone().requires_grad_()
    value = loss_of(errors)
    (slope,) = torch.autograd.grad(value.sum(), errors)
    return value.detach(), slope


@pytest.mark.parametrize("clip", [
    lambda s: s.clamp(max=THRESHOLD**2), lambda s: torch.clamp_max(s, THRESHOLD**2),
    lambda s: torch.minimum(s, torch.tensor(THRESHOLD**2)), lambda s: torch.clip(s, 0.0, THRESHOLD**2),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_twice_hubers_loss_in_value_and_slope(clip, dtype):
    errors = ERRORS.to(dtype)
    expected = value_and_slope(
        lambda e: 2 * F.huber_loss(e, torch.zeros_like(e), reduction="none", delta=THRESHOLD), errors
    )
    found = value_and_slope(
        lambda e: loss.REPLACEMENTS["huber"](lambda x: clip(x).to(dtype), (e.square(),), {}), errors
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-12)


def test_the_patch_is_what_was_tried():
    case = CASES["clamped_loss"].build()
    here = situation(case.model, case.loss_fn, case.batches)
    change = loss.KIND.propose(here)[0]
    assert "(Huber)" in change.title
    (edit,) = change.edits
    text = edit.text.replace("{call}", "errors.square().clamp(max=2.25)").replace("{x}", "errors.square()")
    written = value_and_slope(lambda errors: eval(text, {"torch": torch, "errors": errors}), ERRORS)
    tried = value_and_slope(
        lambda e: loss.REPLACEMENTS["huber"](torch.clamp, (e.square(),), {"max": THRESHOLD**2}), ERRORS
    )
    for one, other in zip(written, tried, strict=True):
        torch.testing.assert_close(one, other)


def test_outliers_are_learnt_and_scored_by_the_unchanged_loss():
    case = CASES["clamped_loss"].build()
    here = situation(case.model, case.loss_fn, case.batches)
    change = loss.KIND.propose(here)[0]
    twin, plain = here.twin(), here.twin()
    apply_changes([change], twin)
    assert twin.score(case.batches[0]).item() == case.loss_fn(case.model, case.batches[0]).item()
    changed, unchanged = (train(one, Plan(case.batches, 60), 0) for one in (twin, plain))
    assert unchanged.end == unchanged.start == 1.0
    assert changed.end < 0.8


def test_only_an_upper_bound_of_a_square_is_one():
    case = CASES["clamped_probability"].build()
    here = situation(case.model, case.loss_fn, case.batches)
    assert [change.word("what") for change in loss.KIND.propose(here)] == ["through"]
    with pytest.raises(InputError, match="bounds the error from below"):
        loss.REPLACEMENTS["huber"](torch.clamp, (torch.ones(2),), {"min": 2.0})


class Autocast(nn.Module):
    """Weights in float32, layers in float16; the context is one object that lives on."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
        self.context = torch.autocast("cpu", dtype=torch.float16)
        self.seen = []

    def forward(self, x):
        with self.context:
            y = self.layers(x)
        self.seen.append(y.dtype)
        return y.float()


def too_large(model, batch):
    return F.cross_entropy(1e-2 * model(1e5 * batch[0]), batch[1])


def batches():
    generator = torch.Generator().manual_seed(1)
    return [(x, (x[:, 0] > 0).long()) for x in torch.randn(2, 32, 16, generator=generator)]


def test_what_overflows_in_float16_is_tried_in_bfloat16():
    model = Autocast()
    here = situation(model, too_large, batches())
    assert any(f.severity is Severity.CRITICAL for f in here.diagnosis.findings)
    (change,) = [change for change in formats.KIND.propose(here) if change.word("format") == "autocast"]
    twin, plain = here.twin(), here.twin()
    apply_changes([change], twin)
    twin.model.seen.clear()
    outcome, unchanged = (train(one, Plan(here.batches, 1), 0) for one in (twin, plain))
    assert unchanged.nonfinite_steps == 1
    assert outcome.nonfinite_steps == 0
    assert set(twin.model.seen) == {torch.bfloat16}
    assert twin.model.context.fast_dtype is torch.float16
    model.seen.clear()
    model(here.batches[0][0])
    assert model.seen == [torch.float16]


def test_the_class_is_as_it_was_also_after_an_error():
    own = torch.autocast.__enter__
    with pytest.raises(ZeroDivisionError), autocast_in_bfloat16():
        1 / (torch.autocast.__enter__ is own)
    assert torch.autocast.__enter__ is own
    with autocast_in_bfloat16(), torch.autocast("cpu", dtype=torch.float16):
        assert torch.get_autocast_dtype("cpu") is torch.bfloat16
    with autocast_in_bfloat16(), torch.autocast("cpu", enabled=False):
        assert not torch.is_autocast_enabled("cpu")


def test_without_float16_there_is_no_autocast_to_widen():
    model = nn.Sequential(nn.Linear(16, 2))
    here = situation(model, lambda m, b: 1e-30 * F.cross_entropy(m(b[0]), b[1]), batches())
    assert not any(change.word("format") == "autocast" for change in formats.KIND.propose(here))
