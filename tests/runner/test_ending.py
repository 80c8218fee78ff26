"""What is said at the end of a run: an ill one can be proven, by the very command that was watched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.runner.ending import tell
from gradtrace.runner.script import Script

SCRIPT = Script("train.py", ("--name", "a b"))
SENTENCE = "gradtrace: prove it: gradtrace fix train.py --name 'a b'\n"


def watched(activation, depth):
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(16, 16), activation())]
    model = nn.Sequential(*layers, nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with gradtrace.watch(model, optimizer) as watch:
        for _ in range(12):
            x = torch.randn(64, 16)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
            optimizer.step()
    return watch


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def test_an_ill_run_is_to_be_proven(capfd):
    tell(watched(nn.Sigmoid, 12), SCRIPT, Path("no-such-run.db"), None)
    assert SENTENCE in capfd.readouterr().err


def test_a_healthy_run_is_not(capfd):
    tell(watched(nn.ReLU, 1), SCRIPT, Path("no-such-run.db"), None)
    assert "prove it" not in capfd.readouterr().err


def test_nor_one_of_several_processes(capfd, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    tell(watched(nn.Sigmoid, 12), SCRIPT, Path("no-such-run.db"), None)
    assert "prove it" not in capfd.readouterr().err


def test_the_picture_says_of_which_step_it_is(capfd):
    watch = watched(nn.Sigmoid, 3)
    tell(watch, SCRIPT, Path("no-such-run.db"), None)
    first = watch.run.samples[0]
    assert len(watch.run.samples) > 1
    assert f"{watch.run.header.title}, whole trace of step {first}   loss " in capfd.readouterr().err


@pytest.mark.parametrize("has_masters", [True, False])
def test_what_was_not_looked_at_is_said_where_gradients_are_set_by_hand(has_masters, capfd):
    """Float32 masters of a model in bfloat16: the optimizer holds them alone, and no backward pass comes to them."""
    torch.manual_seed(0)
    model = nn.Linear(16, 2).to(torch.bfloat16)
    masters = [nn.Parameter(p.detach().float()) for p in model.parameters()]
    optimizer = torch.optim.SGD(masters if has_masters else model.parameters(), lr=0.05)
    watched = {f"masters[{i}]": master for i, master in enumerate(masters)} if has_masters else model
    with gradtrace.watch(watched, optimizer) as watch:
        for _ in range(12):
            x = torch.randn(64, 16)
            model.zero_grad()
            nn.functional.cross_entropy(model(x.bfloat16()).float(), (x[:, 0] > 0).long()).backward()
            if has_masters:
                for master, p in zip(masters, model.parameters(), strict=True):
                    master.grad = p.grad.float()
            optimizer.step()
            if has_masters:
                for master, p in zip(masters, model.parameters(), strict=True):
                    p.data.copy_(master.data)
    tell(watch, SCRIPT, Path("no-such-run.db"), None)
    assert ("gradients are set by hand" in capfd.readouterr().err) == has_masters
