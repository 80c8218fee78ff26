"""Residual branches that start small, skips that are learnt from zero, units that are parted, a loss that is scaled."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.repair.applying import apply_changes
from gradtrace.repair.changes import formats, group_norm, residual, skip, symmetry
from gradtrace.repair.patch import shape_of
from gradtrace.repair.situation import Situation
from gradtrace.repair.training import Plan, train


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def situation(model, loss_fn=cross_entropy, optimizer=None):
    torch.manual_seed(1)
    batches = [(x, (x[:, 0] > 0).long()) for x in torch.randn(2, 32, 16)]
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.01)
    diagnosis = gradtrace.check(model, loss_fn, batches)
    return Situation(model, loss_fn, batches, [optimizer], diagnosis)


def written_out(change, here):
    """What the lines of the patch make of a copy."""
    twin = here.twin()
    space = {"torch": torch, "model": twin.model, "loss_fn": twin.loss_fn, "optimizer": twin.optimizers[0]}
    exec(change.code, space)
    return space["model"], space["optimizer"], space["loss_fn"]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        return x + self.two(torch.relu(self.one(x)))


@pytest.fixture(scope="module")
def growing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), *(Block() for _ in range(24)), nn.Linear(16, 2))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and name.count("."):
                parameter.normal_(0.0, 0.5)
    return situation(model)


def test_the_last_layers_of_residual_branches_are_scaled_by_their_number(growing):
    assert "residual_growth" in [finding.cause.value for finding in growing.findings]
    scaled, zero = residual.KIND.propose(growing)
    assert all(".two." in name for name in scaled.where)
    number = len(scaled.where) // 2
    assert scaled.number("scale") == pytest.approx(number**-0.5, rel=1e-2)
    for change in (scaled, zero):
        twin = growing.twin()
        apply_changes([change], twin)
        model, _, _ = written_out(change, growing)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.model.parameters(), strict=True))
    x = growing.batches[0][0]
    assert torch.equal(twin.model[1](x), growing.model[1](x) if "1.two.weight" not in zero.where else x)


def test_skips_learnt_from_zero_begin_as_the_identity():
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Linear(16, 16), nn.Sigmoid())]
    here = situation(nn.Sequential(*layers, nn.Linear(16, 2)))
    change = next(change for change in skip.KIND.propose(here) if not change.number("scale"))
    assert change.where == ("2", "4", "6", "8", "10")  # what the first one takes is data
    twin = here.twin()
    apply_changes([change], twin)
    x = here.batches[0][0]
    assert torch.equal(twin.model(x), here.model[-1](here.model[1](here.model[0](x))))
    train(twin, Plan(here.batches, 1), 0)
    assert twin.model[4].skip_scale.item() != 0.0
    model, optimizer, _ = written_out(change, here)
    fresh = here.twin()
    apply_changes([change], fresh)
    assert shape_of(model, optimizer) == shape_of(fresh.model, fresh.optimizers[0])
    assert torch.equal(model(x), fresh.model(x))


class Attributes(nn.Module):
    """Layers by name, functions between them."""

    def __init__(self, layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.names = list(layers)

    def forward(self, x):
        for name in self.names[:-1]:
            x = torch.sigmoid(getattr(self, name)(x))
        return getattr(self, self.names[-1])(x)


class Unit(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return torch.sigmoid(self.layer(x))


def in_a_row(layers):
    return nn.Sequential(*(part for layer in layers[:-1] for part in (layer, nn.Sigmoid())), layers[-1])


@pytest.mark.parametrize("written", [
    lambda layers: Attributes({f"fc{place}": layer for place, layer in enumerate(layers)}),
    lambda layers: nn.Sequential(*map(Unit, layers[:-1]), layers[-1]),
    in_a_row,
], ids=["attributes", "blocks", "sequential"])  # fmt: skip
def test_skips_are_the_same_however_the_network_is_written(written):
    torch.manual_seed(0)
    widths = [16, 12, 12, 12, 12, 12, 12, 2]
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    here = situation(written(layers))
    change = next(change for change in skip.KIND.propose(here) if change.number("scale"))
    twin = here.twin()
    apply_changes([change], twin)
    x = here.batches[0][0]
    with torch.no_grad():
        h = torch.sigmoid(layers[0](x))
        for layer in layers[1:-1]:
            h = h + torch.sigmoid(layer(h)) / 5**0.5
        torch.testing.assert_close(twin.model(x), layers[-1](h))
        torch.testing.assert_close(written_out(change, here)[0](x), layers[-1](h), rtol=1e-4, atol=1e-5)
    twin.model.load_state_dict(here.model.state_dict())
    copy.deepcopy(twin.model)(x)


def test_one_layer_in_many_places_is_skipped_at_each_of_its_calls():
    torch.manual_seed(0)
    shared, last = nn.Linear(12, 12), nn.Linear(12, 2)
    here = situation(nn.Sequential(nn.Linear(16, 12), nn.Sigmoid(), *[shared, nn.Sigmoid()] * 6, last))
    change = next(change for change in skip.KIND.propose(here) if change.number("scale"))
    assert change.title.startswith("Add skip connections around 6 calls of layers")
    twin = here.twin()
    apply_changes([change], twin)
    x = here.batches[0][0]
    with torch.no_grad():
        h = torch.sigmoid(here.model[0](x))
        for _ in range(6):
            h = h + torch.sigmoid(shared(h)) / 6**0.5
        with pytest.raises(RuntimeError):
            twin.model[:8](x).view(-1, 7, 11)  # a pass that ends half way
        for _ in range(2):
            torch.testing.assert_close(twin.model(x), last(h))
            torch.testing.assert_close(written_out(change, here)[0](x), last(h), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(copy.deepcopy(twin.model)(x), last(h))
    learnt = next(change for change in skip.KIND.propose(here) if not change.number("scale"))
    twin = here.twin()
    apply_changes([learnt], twin)
    assert torch.equal(twin.model(x), last(torch.sigmoid(here.model[0](x))))


def test_what_has_two_ways_is_not_skipped(growing):
    assert skip._chains(growing) == []


def test_a_norm_over_units_takes_the_growth_of_batch_norm_away():
    torch.manual_seed(0)
    blocks = [part for _ in range(50) for part in (nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())]
    here = situation(nn.Sequential(nn.Linear(16, 64), *blocks, nn.Linear(64, 2)))
    assert here.causes[0].value == "batchnorm_explosion"
    (change,) = group_norm.KIND.propose(here)
    twin = here.twin()
    apply_changes([change], twin)
    x, target = here.batches[0]

    def growth(model):
        """Per block, of the gradient at the layers' weights."""
        model.zero_grad()
        cross_entropy(model, (x, target)).backward()
        return (model[4].weight.grad.norm() / model[124].weight.grad.norm()).item() ** (1 / 40)

    assert growth(copy.deepcopy(here.model)) == pytest.approx((1 - 1 / math.pi) ** -0.5, rel=0.05)
    assert growth(twin.model) == pytest.approx(1.0, rel=0.05)
    held = {id(p) for group in twin.optimizers[0].param_groups for p in group["params"]}
    assert held == {id(p) for p in twin.model.parameters()}
    model, _, _ = written_out(change, here)
    assert torch.equal(model(x), twin.model(x))


def constant(model, value=0.05):
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
    return model


def test_units_that_are_copies_of_one_another_are_parted():
    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))

    zero_head = net()
    nn.init.zeros_(zero_head[4].weight)
    for healthy in (zero_head, net()):
        assert symmetry.KIND.propose(situation(healthy)) == []
    here = situation(constant(net()))
    alone, whole = symmetry.KIND.propose(here)
    assert alone.where == ("0.weight", "2.weight")
    assert len(whole.where) > len(alone.where)
    for change in (alone, whole):
        twin = here.twin()
        apply_changes([change], twin)
        train(twin, Plan(here.batches, 1), 0)
        assert (twin.model[0].weight - twin.model[0].weight[:1])[1:].abs().amax(1).min() > 0.0


class Halved(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.float16):
            return self.layers(x)


def test_under_autocast_the_loss_is_scaled_and_its_gradients_back():
    torch.manual_seed(0)

    def tiny(model, batch):
        return 1e-7 * F.cross_entropy(model(batch[0]).float(), batch[1])

    model = Halved()
    here = situation(model, tiny, torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-20))
    change, wide = formats.KIND.propose(here)
    assert wide.title == "Autocast to bfloat16 in place of float16."
    assert change.number("factor") >= 2.0
    twin, plain = here.twin(), here.twin()
    apply_changes([change], twin)
    for one in (twin, plain):
        train(one, Plan(here.batches, 1), 0)
    assert torch.equal(plain.model.layers[0].weight, model.layers[0].weight)
    assert not torch.equal(twin.model.layers[0].weight, model.layers[0].weight)
    gradient = twin.model.layers[2].weight.grad
    wide = here.twin().model.layers
    F.cross_entropy(wide(here.batches[0][0]), here.batches[0][1]).mul(1e-7).backward()
    torch.testing.assert_close(gradient, wide[2].weight.grad, rtol=0.05, atol=1e-11)
    _, optimizer, loss_fn = written_out(change, here)
    assert loss_fn(model, here.batches[0]).item() == pytest.approx(
        change.number("factor") * tiny(model, here.batches[0]).item(), rel=1e-4
    )
    assert len(optimizer._optimizer_step_pre_hooks) == 1
