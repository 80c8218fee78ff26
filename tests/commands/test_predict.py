"""`gradtrace predict`, `init` and `activations`, as a user calls them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from gradtrace.commands.main import main

NET = """
import torch
from torch import nn

def pair():
    return nn.Sequential(*[l for _ in range(8) for l in (nn.Linear(64, 64), nn.GELU())]), torch.randn(32, 64)

def whole():
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    x = torch.randn(64, 8)
    return model, lambda m, b: nn.functional.mse_loss(m(b[0]), b[1]), [(x, x[:, :1])]

def evasive():
    model = nn.Sequential(nn.Linear(8, 1))
    return model, lambda m, b: m[0](b).mean(), [torch.randn(4, 8)]
"""


@pytest.fixture
def net(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, list(arguments))


def test_predict(net) -> None:
    result = net("predict", "net.py:pair", "--diagram")
    assert result.exit_code == 0, result.output
    assert "phase: ordered" in result.stdout
    assert "default Linear + GELU" in result.stdout
    assert "phase diagram of gelu" in result.stdout


def test_a_saved_prediction_is_shown_as_it_was(net) -> None:
    at_once = net("predict", "net.py:pair", "--save", "p.json.gz")
    assert at_once.exit_code == 0, at_once.output
    assert "gradtrace show p.json.gz" in at_once.stderr
    later = net("show", "p.json.gz")
    assert later.exit_code == 0, later.output
    assert later.stdout == at_once.stdout


def test_predict_takes_what_check_takes(net) -> None:
    result = net("predict", "net.py:whole", "--json", "--no-measure")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [layer["module"] for layer in document["layers"]] == ["0", "2"]
    assert document["measured_decades"] == "nan"


def test_a_loss_that_goes_around_the_model(net) -> None:
    result = net("predict", "net.py:evasive")
    assert result.exit_code == 2
    assert "does not call the model itself" in result.stderr


def test_init(net, tmp_path) -> None:
    result = net("init", "net.py:pair", "--method", "orthogonal", "--save", "w.pt")
    assert result.exit_code == 0, result.output
    assert "before: -" in result.stdout
    assert "(critical)" in result.stdout
    assert (tmp_path / "w.pt").exists()


def test_activations(net, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    lines = net("activations").stdout.splitlines()
    tanh = next(line for line in lines if line.startswith("tanh "))
    gelu = next(line for line in lines if line.startswith("gelu "))
    assert tanh.split()[-1] == "1.6667"
    assert gelu.split()[-1] == "-"
    assert gelu.split()[1:3] == ["1.1289", "1.4142"]
    assert len(net("activations", "relu", "silu").stdout.splitlines()) == 5
    unknown = net("activations", "nonesuch")
    assert unknown.exit_code == 2
