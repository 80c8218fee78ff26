"""What multiplies another value of the network keeps its function: a gate, and what it lets through."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradtrace
from gradtrace.repair.changes import activation
from gradtrace.repair.situation import Situation


class Stack(nn.Module):
    """Layers of eight units, each with `inner` of (the layer's pre-activation, its input)."""

    def __init__(self, inner):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(10))
        self.gamma = nn.Parameter(torch.ones(8))
        self.head = nn.Linear(8, 2)
        self.inner = inner

    def forward(self, x):
        for layer in self.layers:
            x = self.inner(self, layer(x), x)
        return self.head(x)


def hidden(_, z, x):
    return torch.sigmoid(z)


def gate(_, z, x):
    return torch.sigmoid(z) * x


def gate_of_a_channel(_, z, x):
    return torch.sigmoid(z.mean(1)).view(-1, 1).expand_as(x) * x


def leaky(_, z, x):
    return (1 - torch.sigmoid(z)) * x + 0.1 * torch.sigmoid(z)


def what_a_gate_lets_through(_, z, x):
    return torch.tanh(z) * x.roll(1, 1)


def swish(_, z, x):
    return z * torch.sigmoid(z)


def scaled_units(model, z, x):
    return model.gamma * torch.sigmoid(z)


def normalised_units(_, z, x):
    h = torch.sigmoid(z)
    return h * torch.rsqrt(h.square().mean(-1, keepdim=True))


def swapped(inner):
    """Functions that the change would replace in a network that is called ill for its activations."""
    torch.manual_seed(0)
    model = Stack(inner)
    batches = [(x, (x[:, 0] > 0).long()) for x in torch.randn(2, 32, 8)]

    def loss_fn(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    here = Situation(model, loss_fn, batches, [], gradtrace.check(model, loss_fn, batches))
    object.__setattr__(here, "causes", tuple(activation._CAUSES))
    return {change.word("function") for change in activation.KIND.propose(here)}


@pytest.mark.parametrize("inner", [gate, gate_of_a_channel, leaky, what_a_gate_lets_through, swish])
def test_a_gate_is_not_swapped(inner):
    assert swapped(inner) == set()


@pytest.mark.parametrize("inner", [hidden, scaled_units, normalised_units])
def test_units_are(inner):
    assert swapped(inner) == {"sigmoid"}
