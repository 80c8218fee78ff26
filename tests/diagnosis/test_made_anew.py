"""Layers that are made within the forward pass are told; those that are made once, early or late, are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradtrace
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.tape.made import Made

_G = torch.Generator().manual_seed(0)
X = torch.randn(32, 8, generator=_G)
LABELS = (X @ torch.randn(8, 4, generator=_G)).argmax(1)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inp, self.out = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(torch.relu(self.hidden(torch.relu(self.inp(x)))))
        return out

    def hidden(self, h: Tensor) -> Tensor:
        return h


class AtEachPass(Network):
    def hidden(self, h: Tensor) -> Tensor:
        out: Tensor = nn.Linear(16, 16)(h)
        return out


class OfComplexNumbers(Network):
    def hidden(self, h: Tensor) -> Tensor:
        out: Tensor = nn.Linear(16, 16, dtype=torch.complex64)(h.to(torch.complex64)).real
        return out


class Lazily(Network):
    """Registered at the first call, and kept."""

    def hidden(self, h: Tensor) -> Tensor:
        if not hasattr(self, "late"):
            self.late = nn.Linear(16, 16)
        out: Tensor = self.late(h)
        return out


class WithoutNumbers(Network):
    """What is made has no weights, or those of a norm, which are the same whenever they are made."""

    def hidden(self, h: Tensor) -> Tensor:
        out: Tensor = nn.LayerNorm(16)(nn.Softplus()(h))
        return out


class SecondNetwork(Network):
    """A layer that is no part of the model, and was there before."""

    def hidden(self, h: Tensor) -> Tensor:
        out: Tensor = OTHER(h)
        return out


OTHER = nn.Linear(16, 16)


class Written(Network):
    """The weights of one layer are made by another."""

    def __init__(self) -> None:
        super().__init__()
        self.writer, self.middle = nn.Linear(8, 256), nn.Linear(16, 16)

    def hidden(self, h: Tensor) -> Tensor:
        self.middle.weight = nn.Parameter(self.writer(X.mean(0)).view(16, 16))
        out: Tensor = self.middle(h)
        return out


class WrittenWell(Written):
    def hidden(self, h: Tensor) -> Tensor:
        return F.linear(h, self.writer(X.mean(0)).view(16, 16), self.middle.bias)


class TiedAtEachPass(Network):
    """A weight that was there before takes the place of another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)

    def hidden(self, h: Tensor) -> Tensor:
        self.second.weight = self.first.weight
        out: Tensor = self.second(torch.relu(self.first(h)))
        return out


def told(found: Any) -> list[Finding]:
    return [f for f in found if any(e.name == "made anew" for e in f.evidence)]


def loss(model: nn.Module, x: Tensor) -> Tensor:
    return F.cross_entropy(model(x), LABELS)


@pytest.mark.parametrize("kind", [AtEachPass, OfComplexNumbers])
def test_a_layer_made_where_it_is_used(kind: type[Network]) -> None:
    (found,) = told(gradtrace.check(kind(), loss, [X, X]).findings)
    assert (found.symptom, found.cause, found.severity) == (
        Symptom.DISCONNECTED,
        Cause.DETACHED_GRAPH,
        Severity.CRITICAL,
    )
    assert "Linear.weight" in found.message
    assert "test_made_anew.py:" in found.source
    assert "__init__" in found.remedies[0].title


def test_a_parameter_made_of_what_a_layer_computes() -> None:
    (found,) = told(gradtrace.check(Written(), loss, [X, X]).findings)
    assert (found.cause, found.severity, found.where) == (Cause.DETACHED_GRAPH, Severity.CRITICAL, ("middle",))
    assert "(middle.weight; " in found.message
    assert "holds the one that was there before" in found.message
    assert "functional.linear" in found.remedies[0].code


@pytest.mark.parametrize("kind", [Network, Lazily, WithoutNumbers, SecondNetwork, WrittenWell, TiedAtEachPass])
def test_what_is_made_once(kind: type[Network]) -> None:
    assert told(gradtrace.check(kind(), loss, [X, X]).findings) == []


@pytest.mark.parametrize("kind", [AtEachPass, Written, Network, WrittenWell, TiedAtEachPass])
def test_of_a_run(kind: type[Network]) -> None:
    model = kind()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(6):
            optimizer.zero_grad()
            loss(model, X).backward()
            optimizer.step()
    assert len(told(watch.diagnosis.findings)) == (kind in (AtEachPass, Written))


def test_a_layer_that_the_loop_makes_for_itself_is_its_own() -> None:
    """A copy for each task, as meta-learning trains it: made between the calls of modules."""
    model = Network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(6):
            optimizer.zero_grad()
            h = model(X)
            head = nn.Linear(4, 4)
            F.cross_entropy(head(h), LABELS).backward()
            optimizer.step()
    assert told(watch.diagnosis.findings) == []


def test_nothing_is_heard_after_the_end() -> None:
    made = Made()
    made.begin()
    made.end()
    made.end()
    assert made.name_of(nn.Linear(2, 2).weight) is None
    assert made.line_of(nn.Linear(2, 2).weight) == ""
