"""A file with factories of every kind; and `gradtrace.check` replaced where the verdict does not matter."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from tests.report.samples import SAMPLES

import gradtrace

NET = """
import torch
from torch import nn

def build():
    print("building")
    model = nn.Linear(3, 1)
    return model, lambda model, batch: model(batch).mean(), [torch.ones(2, 3)]

def with_optimizer():
    model, loss_fn, batches = build()
    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=0.1)

def as_dict():
    return dict(zip(("model", "loss_fn", "batches"), build()))

def raises():
    number = 1
    raise ValueError("too [red]small[/red]")

def leaves():
    raise SystemExit(3)

def two():
    return 1, 2

def nothing():
    return None

def needs(argument):
    return argument

value = 3
again = with_optimizer
"""


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    yield tmp_path / "net.py"
    sys.modules.pop("net", None)


@pytest.fixture
def verdict(monkeypatch):
    """What `gradtrace.check` answers, and what it was called with."""
    state: dict[str, Any] = {"diagnosis": SAMPLES["healthy"](), "calls": []}

    def check(model, loss_fn, batches, **options):
        state["calls"].append((model, loss_fn, batches, options))
        if isinstance(state["diagnosis"], Exception):
            raise state["diagnosis"]
        return state["diagnosis"]

    monkeypatch.setattr(gradtrace, "check", check, raising=False)
    return state
