"""Two networks of an object, tensors of a dict: what a script calls them has dots in it, and they are watched."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.records.parameter_name import module_in


def mlp(*widths: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(widths[0], widths[1]), nn.Tanh(), nn.Linear(widths[1], widths[2]))


def test_two_networks_of_one_object():
    generator, critic = mlp(4, 8, 2), mlp(2, 8, 1)
    optimizers = [torch.optim.Adam(net.parameters(), 1e-3) for net in (generator, critic)]
    with gradtrace.watch({"gan.G": generator, "gan.D": critic}, optimizers, every=1) as watch:
        for _ in range(4):
            loss = critic(generator(torch.randn(16, 4))).mean()
            for one in optimizers:
                one.zero_grad()
            loss.backward()
            for one in optimizers:
                one.step()
    owners = {op.site.module for op in watch.traces[0].ops if op.parameter is not None}
    assert owners == {"gan.G.0", "gan.G.2", "gan.D.0", "gan.D.2"}


def test_tensors_of_a_dict_whose_keys_have_dots():
    net = mlp(3, 4, 1)
    params = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    named = {f"params[{name!r}]": p for name, p in params.items()}
    optimizer = torch.optim.SGD(params.values(), 0.1)
    with gradtrace.watch(named, optimizer, every=1) as watch:
        for _ in range(4):
            x = torch.randn(8, 3)
            hidden = torch.tanh(F.linear(x, params["0.weight"], params["0.bias"]))
            loss = F.linear(hidden, params["2.weight"], params["2.bias"]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert {name for op in watch.traces[0].ops for name in op.weights} == {*named}
    assert {op.site.module for op in watch.traces[0].ops if op.parameter is not None} == {""}


@pytest.mark.parametrize(
    ("name", "module"),
    [("a.b.weight", "a.b"), ("w", ""), ("p['a.b']", ""), ("net.p['a.b'][0]", "net"), ("layers[0].w", "layers[0]")],
)
def test_the_module_in_a_name(name: str, module: str) -> None:
    assert module_in(name) == module
