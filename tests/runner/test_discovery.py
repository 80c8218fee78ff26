"""Is what a script trains found from outside: models, labels, optimizers, and no hook left?"""

from __future__ import annotations

import copy
import functools
import gc
import itertools
import threading
import time

import pytest
import torch
from torch import nn
from torch.optim import optimizer as optimizer_hooks
from torch.optim.optimizer import register_optimizer_step_pre_hook

import gradtrace
from gradtrace.monitor.hooks.patches import interpose
from gradtrace.runner.discovery import Discovery, Found, Newcomers, find, find_all
from gradtrace.runner.names import contents
from gradtrace.tape.graph import reached_leaves


def fail(error: Exception) -> None:
    raise error


pytestmark = pytest.mark.usefixtures("nobody_else_s")


@pytest.fixture
def discovered():
    """Run a function under discovery; its models and optimizers."""
    made = []

    def discover(train):
        found: list[Found] = []
        discovery = Discovery(found.append, fail)
        made.append(discovery)
        try:
            train()
        finally:
            discovery.remove()
        assert len(found) <= 1
        return found[0] if found else None

    gc.collect()
    before = torch.autograd.backward, torch.compile, nn.Module.__call__, torch.optim.Optimizer.__init__
    yield discover
    assert (torch.autograd.backward, torch.compile, nn.Module.__call__, torch.optim.Optimizer.__init__) == before
    assert not optimizer_hooks._global_optimizer_pre_hooks


def mlp(*widths: int) -> nn.Sequential:
    return nn.Sequential(*[nn.Linear(a, b) for a, b in itertools.pairwise(widths)])


def sgd(*modules: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for module in modules for p in module.parameters()], lr=0.1)


def test_a_model_built_in_a_function(discovered):
    kept = []

    def main():
        model = mlp(2, 3, 1)
        optimizer = sgd(model)
        kept.extend([model, optimizer])
        nn.MSELoss()(model(torch.ones(4, 2)), torch.zeros(4, 1)).backward()
        optimizer.step()

    found = discovered(main)
    assert found.models == {"": kept[0]}
    assert found.optimizers == (kept[1],)


def test_two_models_are_labelled_by_their_variables(discovered):
    generator, D = mlp(2, 2), mlp(2, 1)
    g_optimizer, d_optimizer = sgd(generator), sgd(D)

    def train():
        D(generator(torch.ones(3, 2)).detach()).mean().backward()  # reaches D alone
        d_optimizer.step()

    found = discovered(train)
    assert found.models == {"generator": generator}  # it was called first
    assert found.optimizers == (g_optimizer,)
    assert found.others == (d_optimizer,)
    assert Newcomers().find(d_optimizer) == {"D": D}


class Lit(nn.Module):
    """Its parts are called, itself never."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = mlp(2, 2), mlp(2, 2)
        self.scale = nn.Parameter(torch.ones(()))

    def training_step(self, batch):
        return (self.scale * self.decoder(self.encoder(batch))).mean()


def test_parts_called_apart_are_parts_of_their_whole(discovered):
    lit = Lit()
    optimizer = sgd(lit)

    def train():
        lit.training_step(torch.ones(3, 2)).backward()
        optimizer.step()

    assert discovered(train).models == {"": lit}


def test_frozen_teachers_losses_and_averages_are_not_models(discovered):
    teacher, model = mlp(2, 2), mlp(2, 2)
    average = copy.deepcopy(model)
    optimizer = sgd(model)

    def train():
        with torch.no_grad():
            target = teacher(torch.ones(3, 2)) + average(torch.ones(3, 2))
        nn.MSELoss()(model(torch.ones(3, 2)), target).backward()
        optimizer.step()

    assert discovered(train).models == {"": model}


def test_gradients_of_something_else_come_first(discovered):
    model, x = mlp(2, 1), torch.ones(3, 2, requires_grad=True)
    optimizer = sgd(model)

    def train():
        for p in model.parameters():
            p.requires_grad_(False)
        model(x).sum().backward()  # a saliency map
        for p in model.parameters():
            p.requires_grad_(True)
        model(x).sum().backward()
        optimizer.step()

    assert discovered(train).models == {"": model}


def test_an_optimizer_made_after_backward(discovered):
    model = mlp(2, 1)

    def train():
        model(torch.ones(3, 2)).sum().backward()
        optimizer = sgd(model)
        optimizer.step()

    found = discovered(train)
    assert found.models == {"": model}
    assert len(found.optimizers) == 1


def test_an_optimizer_that_was_replaced_is_left_out(discovered):
    model = mlp(2, 1)

    def train():
        old = sgd(model)
        torch.optim.lr_scheduler.StepLR(old, 1)  # ties it into a cycle
        optimizer = torch.optim.Adam(model.parameters())
        del old
        model(torch.ones(3, 2)).sum().backward()
        optimizer.step()

    assert [type(one) for one in discovered(train).optimizers] == [torch.optim.Adam]


def test_lbfgs_calls_backward_within_its_step(discovered):
    model = mlp(2, 1)
    optimizer = torch.optim.LBFGS(model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(3, 2)).square().sum()
        loss.backward()
        return loss

    found = discovered(lambda: optimizer.step(closure))
    assert found.optimizers == (optimizer,)
    assert found.stepping is optimizer


def test_a_step_whose_closure_raised_is_under_way_no_more(discovered):
    model = mlp(2, 1)
    optimizer = sgd(model)

    def train():
        with pytest.raises(ZeroDivisionError):
            optimizer.step(lambda: 1 / 0)
        model(torch.ones(3, 2)).sum().backward()

    assert discovered(train).stepping is None


def test_a_pass_from_an_edge_of_the_tape(discovered):
    model = mlp(2, 1)
    optimizer = sgd(model)

    def train():
        edge = torch.autograd.graph.get_gradient_edge(model(torch.ones(3, 2)).sum())
        torch.autograd.backward([edge], torch.ones(()))  # a sequence: torch 2.6 takes no edge alone
        assert model[0].weight.grad is not None

    found = discovered(train)
    assert found.models == {"": model}
    assert found.optimizers == (optimizer,)


def test_methods_of_the_script_s_own_classes_are_not_asked(discovered):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = nn.Linear(2, 3), nn.Linear(3, 1)

        def parameters(self, lr):  # type: ignore[override]
            return [{"params": list(self.head.parameters()), "lr": lr}]

        def named_parameters(self, lr):  # type: ignore[override]
            return self.parameters(lr)

        def named_modules(self, lr):  # type: ignore[override]
            raise AssertionError

        def forward(self, x):
            return self.head(self.encoder(x))

    bystander, generator, critic = Own(), Own(), mlp(2, 1)
    optimizers = [torch.optim.SGD([*generator.parameters(0.1), *bystander.parameters(0.1)]), sgd(critic)]

    def train():
        (generator(torch.ones(3, 2)).sum() + critic(torch.ones(3, 2)).sum()).backward()

    found = discovered(train)
    assert found.models == {"generator": generator, "bystander": bystander}
    assert found.optimizers == (optimizers[0],)
    assert found.others == (optimizers[1],)


def test_a_fault_of_the_search_ends_it_and_nothing_else(monkeypatch):
    faults: list[Exception] = []
    own = torch.autograd.backward
    monkeypatch.setattr("gradtrace.runner.discovery.label_models", lambda *_, **__: 1 / 0)
    model = mlp(2, 1)
    optimizer = sgd(model)
    discovery = Discovery(lambda found: None, faults.append)
    for _ in range(3):
        model(torch.ones(3, 2)).sum().backward()
        assert torch.autograd.backward is own
        optimizer.step()
    discovery.remove()
    assert [type(fault) for fault in faults] == [ZeroDivisionError]


def test_gradients_set_by_hand(discovered):
    model = mlp(2, 1)
    optimizer = sgd(model)

    def train():
        parameters = list(model.parameters())
        for p, gradient in zip(parameters, torch.autograd.grad(model(torch.ones(3, 2)).sum(), parameters), strict=True):
            p.grad = gradient
        optimizer.step()

    assert discovered(train).models == {"": model}


def test_a_compiled_model_is_found_without_hooks_in_its_graph(discovered):
    model = mlp(2, 2, 1)
    optimizer = sgd(model)

    def train():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        compiled(torch.ones(3, 2)).sum().backward()
        optimizer.step()

    compiled = [found for found in discovered(train).models.values() if hasattr(found, "_orig_mod")]
    assert [found._orig_mod for found in compiled] == [model]


def test_data_parallel_is_unwrapped(discovered):
    model = mlp(2, 1)
    wrapped = nn.DataParallel(model)
    optimizer = sgd(model)

    def train():
        wrapped(torch.ones(3, 2)).sum().backward()
        optimizer.step()

    assert discovered(train).models == {"": model}


def test_without_an_optimizer_nothing_is_found_but_counted(discovered):
    model = mlp(2, 1)

    def train():
        model(torch.ones(3, 2)).sum().backward()

    assert discovered(train) is None


def test_where_nothing_is_found_it_is_seldom_looked_for(discovered, monkeypatch):
    looks: list[int] = []
    model = mlp(2, 1)

    def counted():
        looks.append(1)
        return [model], []  # whatever optimizers other tests left behind

    monkeypatch.setattr("gradtrace.runner.discovery.living", counted)

    def train():
        for _ in range(40):
            model(torch.ones(3, 2)).sum().backward()
        assert len(looks) == 7  # at powers of two, and at the beginning

    assert discovered(train) is None


def test_a_training_that_begins_late_is_found_at_its_first_step(discovered):
    model = mlp(2, 1)

    def train():
        for _ in range(5):
            model(torch.ones(3, 2)).sum().backward()
        optimizer = sgd(model)
        model(torch.ones(3, 2)).sum().backward()
        optimizer.step()

    assert discovered(train).models == {"": model}


def test_tensors_beside_a_module_have_the_script_s_names(discovered):
    model, image = mlp(2, 1), torch.ones(3, 2, requires_grad=True)
    optimizer = torch.optim.SGD([*model.parameters(), image], lr=0.1)

    def train():
        model(image).sum().backward()
        optimizer.step()

    assert discovered(train).models == {"": model, "image": image}


def test_tensors_without_any_module_are_found_when_their_optimizer_is_made(discovered):
    class Layer:
        def __init__(self):
            self.weight = torch.randn(2, 2, requires_grad=True)

    layers, C = [Layer(), Layer()], torch.randn(3, 2, requires_grad=True)

    def train():
        torch.optim.SGD([C, *[layer.weight for layer in layers]], lr=0.1)

    found = discovered(train)
    assert found.models == {"C": C, "layers[0].weight": layers[0].weight, "layers[1].weight": layers[1].weight}


def test_a_loop_s_variable_is_no_name(discovered):
    parameters = [torch.randn(2, 2) for _ in range(3)]
    for _, p in enumerate(parameters):
        p.requires_grad_()

    def train():
        (parameters[0] @ parameters[1] @ parameters[2]).sum().backward()
        torch.optim.SGD(parameters, lr=0.1).step()

    assert list(discovered(train).models) == ["parameters[0]", "parameters[1]", "parameters[2]"]


def test_a_loop_s_variable_is_the_name_of_what_has_no_other(discovered):
    for w in [torch.randn(2, 2, requires_grad=True)]:
        found = discovered(functools.partial(torch.optim.SGD, [w], lr=0.1))
    assert list(found.models) == ["w"]


def test_what_is_frozen_is_found_all_the_same(discovered):
    model = mlp(2, 2, 1).requires_grad_(False)
    optimizer = sgd(model[1])
    model[0].requires_grad_(True)

    def train():
        model(torch.ones(3, 2)).sum().backward()
        optimizer.step()

    assert discovered(train).models == {"": model}


def test_what_a_script_imported_by_name_still_reaches_a_later_watch():
    own, seen, interposed = torch.autograd.backward, [], []

    def look(own, *args, **kwargs):
        seen.append(args)
        return own(*args, **kwargs)

    discovery = Discovery(lambda found: interposed.append(interpose(torch.autograd, "backward", look)), fail)
    imported = torch.autograd.backward
    model = mlp(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    imported(loss for loss in [model(torch.ones(3, 2)).sum()])
    assert len(seen) == 1  # the pass that it was discovered at
    imported(model(torch.ones(3, 2)).sum())
    optimizer.step()
    assert len(seen) == 2
    interposed.pop().remove()
    assert torch.autograd.backward is own
    discovery.remove()


def test_hooks_come_and_go_while_torch_goes_through_its_own():
    """Found at an optimizer's step: torch iterates over its global hooks, of which none may be added or taken away."""
    model, others = mlp(2, 1), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found: list[Found] = []
    discovery = Discovery(found.append, fail)
    later = register_optimizer_step_pre_hook(lambda optimizer, args, kwargs: others.append(optimizer))
    try:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        optimizer.step()
        second = torch.optim.Adam(model.parameters())
        second.step()
        second.step()
    finally:
        later.remove()
        discovery.remove()
    assert others == [optimizer, optimizer, second, second]
    assert [one.optimizers for one in found] == [(optimizer,)]


def test_reached_leaves_are_those_that_backward_fills():
    w, v, x = (torch.ones(2, requires_grad=True) for _ in range(3))
    loss = (w * x.detach()).sum() + (w * v).sum()
    assert {id(leaf) for leaf in reached_leaves([loss])} == {id(w), id(v)}
    assert reached_leaves([torch.ones(2)]) == []


def test_all_of_a_gan_is_found_before_its_second_half_is_called():
    generator, critic = nn.Linear(2, 2), nn.Linear(2, 1)
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (generator, critic)]
    found = find_all()
    assert all(any(one is other for other in found.optimizers) for one in optimizers)
    assert all(any(model is other for other in found.models.values()) for model in (generator, critic))
    assert found.others == ()


class Wrapped(nn.Module):
    """As a solver's library puts around a model for the time of a call."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


_LIBRARY = compile("solve = lambda model, x: Wrapped(Wrapped(model))(x)", "site-packages/solver.py", "exec")
"""Its variables are not the script's."""


@pytest.mark.parametrize("num", [1, 2])
def test_what_a_library_puts_around_a_model_is_not_the_model(num, discovered):
    kept, library = [], {"Wrapped": Wrapped}
    exec(_LIBRARY, library)

    def train():
        field, head = mlp(3, 4, 3), mlp(3, 2)
        kept.extend([field, head])
        optimizer = sgd(*kept[:num])
        y = library["solve"](field, torch.ones(2, 3))
        (head(y) if num == 2 else y).sum().backward()
        optimizer.step()

    found = discovered(train)
    assert found.models == ({"": kept[0]} if num == 1 else {"field": kept[0], "head": kept[1]})


def test_self_is_no_name_of_a_model(discovered):
    class Encoder(nn.Linear):
        def forward(self, x):
            return super().forward(x)

        def encode(self, x):
            return self.last(self.forward(x))

    kept, library = [], {"Wrapped": Wrapped}
    exec(_LIBRARY, library)

    def train():
        encoder, decoder = Encoder(3, 3), mlp(3, 3)
        encoder.last = nn.Linear(3, 3)
        kept.extend([encoder, decoder])
        optimizer = sgd(encoder, decoder)
        decoder(encoder.encode(torch.ones(2, 3))).sum().backward()  # its own call is none of a module's
        optimizer.step()

    assert discovered(train).models == {"encoder": kept[0], "decoder": kept[1]}


def test_a_slice_of_a_model_that_is_called_is_part_of_it(discovered):
    net = mlp(2, 3, 3, 1)
    optimizer = sgd(net)

    def train():
        net[2:](torch.relu(net[:2](torch.ones(3, 2)))).sum().backward()
        optimizer.step()

    assert discovered(train).models == {"": net}


def test_parts_are_named_as_the_script_gets_at_them():
    kept = nn.ModuleDict({"a": nn.ModuleList([mlp(2, 2), mlp(2, 2)])})
    names = dict(contents(kept))
    assert names[".a"] is kept["a"]
    assert [name for name, _ in contents(kept["a"])][:2] == ["[0]", "[1]"]
    assert not [name for name in names if name.startswith("._")]


def test_of_threads_that_begin_to_train_at_once_one_is_found(monkeypatch):
    def slowly(leaves, called=None):
        time.sleep(0.05)
        return find(leaves, called)

    monkeypatch.setattr(gradtrace.runner.discovery, "find", slowly)
    nets = [mlp(2, 1) for _ in range(3)]
    optimizers = [sgd(net) for net in nets]
    start, found = threading.Barrier(len(nets)), list[Found]()

    def train(net, optimizer):
        start.wait()
        net(torch.ones(3, 2)).sum().backward()
        optimizer.step()

    discovery = Discovery(found.append, fail)
    try:
        threads = [threading.Thread(target=train, args=pair) for pair in zip(nets, optimizers, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        discovery.remove()
    assert len(found) == 1
