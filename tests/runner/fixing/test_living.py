"""Changes put into a living training: weights, activations, rates around every step, losses on the way back alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradtrace.records.change import Change, Edit, SourceEdit
from gradtrace.repair.changes.placebo import KIND as PLACEBO
from gradtrace.repair.twin import RefusalError
from gradtrace.runner.fixing.living import change_in_place

RATE = Change("rate", "Lower.", ("optimizer",), numbers=(("factor", 0.1), ("value", 0.01)))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 1))


def moved(optimizer, model):
    before = model[0].weight.detach().clone()
    model.zero_grad()
    model(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    return (model[0].weight.detach() - before).norm().item()


def test_a_rate_is_changed_around_each_step_whoever_sets_it():
    plain, model = network(), network()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (plain, model)]
    change_in_place([RATE], model, optimizers[1:], 0)
    for rate in (0.1, 0.3):  # the script sets it itself
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate
        plain.load_state_dict(model.state_dict())
        assert moved(optimizers[1], model) == pytest.approx(0.1 * moved(optimizers[0], plain), rel=1e-4)
        assert optimizers[1].param_groups[0]["lr"] == rate  # as the script has left it


def test_a_schedule_goes_on_as_for_the_new_rate():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    seen = []
    change_in_place([RATE], model, [optimizer], 0)
    optimizer.register_step_pre_hook(lambda one, *_: seen.append(one.param_groups[0]["lr"]))
    for _ in range(3):
        moved(optimizer, model)
        scheduler.step()
    assert seen == pytest.approx([0.04, 0.02, 0.01])


def test_a_warm_up_goes_around_each_step_beside_the_script_s_own_schedule():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    seen = []
    change_in_place(
        [Change("warmup", "", ("optimizer",), numbers=(("start", 0.5), ("steps", 2.0)))], model, [optimizer], 0
    )
    optimizer.register_step_pre_hook(lambda one, *_: seen.append(one.param_groups[0]["lr"]))
    for _ in range(4):
        moved(optimizer, model)
        scheduler.step()
    assert seen == pytest.approx([0.5 * 0.4, 0.75 * 0.2, 0.1, 0.05])


def test_weights_are_drawn_in_the_very_parameters_that_the_optimizer_holds():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    held, before = optimizer.param_groups[0]["params"][0], model[0].weight.detach().clone()
    from types import SimpleNamespace

    change, _ = PLACEBO.propose(SimpleNamespace(model=model))
    change_in_place([change], model, [optimizer], 1)
    assert model[0].weight is held
    assert not torch.equal(held, before)
    assert torch.equal(held.detach().flatten().sort().values, before.flatten().sort().values)


def test_an_activation_is_swapped_where_it_is_registered():
    model = network()
    change = Change("activation", "Replace.", ("1",), words=(("function", "sigmoid"), ("target", "ReLU")),
                    edits=(SourceEdit(Edit.RENAME, "Sigmoid", "", "ReLU"),))  # fmt: skip
    change_in_place([change], model, [torch.optim.SGD(model.parameters(), lr=0.1)], 0)
    assert type(model[1]) is nn.ReLU


def test_what_the_script_holds_itself_is_not_replaced():
    whole = nn.Module()
    whole._modules.update(G=nn.Linear(4, 4), D=nn.Linear(4, 1))
    change = Change("norm", "Insert.", ("G",), words=(("what", "layer"),))
    with pytest.raises(RefusalError, match="replaces a model that the script holds itself"):
        change_in_place([change], whole, [torch.optim.SGD(whole.parameters(), lr=0.1)], 0)
