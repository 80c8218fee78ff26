"""Features in units of their own are standardised one by one, by numbers that are written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.audit.arguments import Arguments
from gradtrace.repair.applying import apply_changes
from gradtrace.repair.changes import features, scale
from gradtrace.repair.situation import Situation
from gradtrace.runner.fixing.living import no_loss

UNITS = torch.tensor([100.0, 3.0, 20000.0, 0.0])
"""Square metres, rooms, metres to the station, and a column that never changes."""


def loss_fn(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


def situation(units, *, offset=1.0, shape=()):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(len(units), 32), nn.ReLU(), nn.Linear(32, 1))
    inputs = [torch.randn(64, *shape, len(units)) for _ in range(3)]
    batches = [(units * x + offset, x[..., :1]) for x in inputs]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return Situation(
        model, loss_fn, batches, [optimizer], gradtrace.check(model, loss_fn, batches, optimizer=optimizer)
    )


def each(here):
    return features.KIND.propose(here)


def test_each_feature_has_mean_zero_and_variance_one_over_all_batches():
    here = situation(UNITS)
    (change,) = each(here)
    assert change.title == "Standardise each of the 4 features of the input."
    twin, seen = here.twin(), []
    apply_changes([change], twin)
    twin.model[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    for batch in here.batches:
        twin.training_loss_fn(twin.model, batch)
    seen = torch.cat(seen)
    torch.testing.assert_close(seen.mean(0), torch.zeros(4), rtol=0, atol=2e-3)
    torch.testing.assert_close(seen.std(0), torch.tensor([1.0, 1.0, 1.0, 0.0]), rtol=0, atol=2e-3)


def test_the_lines_do_what_was_tried():
    here = situation(UNITS)
    (change,) = each(here)
    twin, written = here.twin(), here.twin().model
    apply_changes([change], twin)
    exec(change.code, {"torch": torch, "model": written})
    x = here.batches[0][0]
    torch.testing.assert_close(written(x), twin.model(x))


def test_it_trains_where_one_scale_for_all_does_not():
    here = situation(UNITS)
    repair = gradtrace.fix(here.model, loss_fn, here.batches, here.optimizers[0], steps=40, time_budget_s=3600)
    assert repair.best is not None
    assert "each of the 4 features" in repair.best.title


class Timed(nn.Module):
    """A position and a time, put together inside."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, position, time):
        return self.layers(torch.cat([position, time], 1))


class Heard(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrent = nn.GRU(3, 16, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.recurrent(x)[0][:, -1])


def timed_loss(model, batch):
    return F.mse_loss(model(*batch[:-1]), batch[-1])


@pytest.mark.parametrize(("make", "layer", "batch"), [
    (Timed, "layers.0", lambda: (torch.randn(64, 2), 1000 * torch.rand(64, 1), torch.randn(64, 2))),
    (Heard, "recurrent", lambda: (torch.tensor([1.0, 300.0, 12000.0]) * torch.randn(64, 7, 3), torch.randn(64, 2))),
])  # fmt: skip
def test_what_a_first_layer_takes_is_standardised_where_the_model_takes_no_table(make, layer, batch):
    torch.manual_seed(0)
    model, batches = make(), [batch() for _ in range(3)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    here = Situation(model, timed_loss, batches, [optimizer], gradtrace.check(model, timed_loss, batches))
    (change,) = each(here)
    assert change.title == f"Standardise each of the 3 features that {layer} takes."
    twin, written, seen = here.twin(), here.twin().model, []
    apply_changes([change], twin)
    exec(change.code, {"torch": torch, "model": written})
    torch.testing.assert_close(written(*batches[0][:-1]), twin.model(*batches[0][:-1]))
    twin.model.get_submodule(layer).register_forward_pre_hook(lambda _, args: seen.append(args[0].reshape(-1, 3)))
    for batch in here.batches:
        twin.training_loss_fn(twin.model, batch)
    torch.testing.assert_close(torch.cat(seen).std(0), torch.ones(3), rtol=0, atol=2e-3)


def test_of_a_script_targets_are_taken_in_units_of_what_a_constant_misses_them_by():
    here = situation(UNITS)
    called = Arguments((here.batches[0][0],), {})
    batches = [(x, 5e4 * y) for x, y in here.batches]
    diagnosis = gradtrace.check(here.model, loss_fn, batches, optimizer=here.optimizers)
    here = replace(here, diagnosis=diagnosis, batches=[called.args], loss_fn=no_loss, called_with=called)
    assert len(each(here)) == 1
    change = next(change for change in scale.KIND.propose(here) if "targets" in change.title)
    std = batches[0][1].std(correction=0).item()
    assert change.number("std") == pytest.approx(std, rel=1e-3)
    assert change.number("mean") == 0.0
    twin, written = here.twin(), here.twin().model
    apply_changes([change], twin)
    exec(change.code, {"torch": torch, "model": written})
    (loss_fn(twin.model, batches[0]) / twin.divisor).backward()
    loss_fn(written, batches[0]).backward()
    for tried, told in zip(twin.model.parameters(), written.parameters(), strict=True):
        torch.testing.assert_close(told.grad, tried.grad, rtol=1e-4, atol=0.1)


@pytest.mark.parametrize(
    "here",
    [situation(torch.full((4,), 300.0)), situation(torch.logspace(-2, 3, 65))],
    ids=["of one scale", "too many to be written out"],
)
def test_others_are_standardised_by_one_mean(here):
    assert each(here) == []
    assert any("Standardise the input" in change.title for change in scale.KIND.propose(here))
