"""Copies of optimizers and parameters have their hooks, and these act on the copy alone."""

from __future__ import annotations

import copy

import torch
from torch import nn

from gradtrace.measure.copying import rebound, take_functions
from gradtrace.repair.training import Plan, train
from gradtrace.repair.twin import make_twin


def squared(model, batch):
    return model(batch).square().mean()


def test_a_hook_of_the_optimizer_acts_on_the_copy_and_not_on_the_original():
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    def clip(*_):
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)

    optimizer.register_step_pre_hook(clip)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    twin = make_twin(model, squared, [optimizer])
    before = twin.model.weight.detach().clone()
    train(twin, Plan([torch.ones(8, 4)], 1), 0)
    moved = (twin.model.weight - before).norm()
    assert 0.0 < moved <= 1.001e-3
    assert all((p.grad == 1.0).all() for p in model.parameters())


def test_hooks_of_parameters_are_kept():
    model = nn.Linear(4, 1, bias=False)
    model.weight.register_hook(lambda gradient: gradient * 0.0)
    seen: list[torch.Tensor] = []
    model.weight.register_post_accumulate_grad_hook(seen.append)
    twin = make_twin(model, squared, [])
    twin.loss_fn(twin.model, torch.ones(2, 4)).backward()
    assert not twin.model.weight.grad.any()
    assert seen == []  # its list was copied too
    bare = make_twin(model, squared, [], hooks=False)
    bare.loss_fn(bare.model, torch.ones(2, 4)).backward()
    assert bare.model.weight.grad.any()


def test_attributes_beside_the_state_are_kept():
    model = nn.Linear(2, 2)
    lbfgs, sgd = torch.optim.LBFGS(model.parameters()), torch.optim.SGD(model.parameters(), lr=0.1)
    sgd.base = sgd
    torch.optim.lr_scheduler.StepLR(sgd, 1)  # wraps the step of the original
    twin = make_twin(model, squared, [lbfgs, sgd])
    assert twin.optimizers[0]._params[0] is twin.model.weight
    assert twin.optimizers[1].base is twin.optimizers[1]
    assert "step" not in vars(twin.optimizers[1])
    train(twin, Plan([torch.ones(8, 2)], 2), 0)
    assert torch.equal(model.weight, make_twin(model, squared, []).model.weight)


LIMITS = {"most": 1.0}


def named_limit():
    return LIMITS["most"]


def test_what_a_function_names_is_bound_anew_and_the_rest_is_shared():
    assert rebound(named_limit, {}) is named_limit
    assert rebound(named_limit, {id(LIMITS): {"most": 2.0}})() == 2.0

    def empty():
        return later

    assert rebound(empty, {}).__closure__ == empty.__closure__
    later = 3
    assert rebound(empty, {})() == 3


def test_a_function_of_a_module_is_about_the_copy_and_shares_what_is_not_the_models():
    gathered: list[torch.Tensor] = []
    model = nn.Sequential(nn.Linear(2, 2))

    def call(x, again=True):
        gathered.append(x)
        return call(x, again=False) if again else model[0](x)

    model.call, model.other, model.calls = call, len, (call, len)
    memo: dict[int, object] = {}
    twin = copy.deepcopy(model, memo)
    take_functions(model, memo)
    assert twin.call is not call
    assert twin.other is len
    own, other = twin.calls  # type: ignore[misc]
    assert other is len
    own(torch.ones(1, 2)).sum().backward()
    assert len(gathered) == 2
    assert model.call is call
