"""Networks that get gradients and that no optimizer holds: forgotten, or meant to stay as they are."""

from __future__ import annotations

import textwrap

import pytest
from tests.runner.test_process import under_watch

from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.runs.reader import read_run

GAN = """
import torch
from torch import nn
torch.manual_seed(0)
G = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
D = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer_D = torch.optim.Adam(D.parameters(), lr=2e-3)
optimizer_G = torch.optim.Adam({held}.parameters(), lr=2e-3)
criterion = nn.BCEWithLogitsLoss()
for i in range(40):
    fake = G(torch.randn(32, 4))
    optimizer_D.zero_grad()
    real = criterion(D(torch.randn(32, 2) + 2), torch.ones(32, 1))
    (real + criterion(D(fake.detach()), torch.zeros(32, 1))).backward()
    optimizer_D.step()
    optimizer_G.zero_grad()
    criterion(D(fake), torch.ones(32, 1)).backward()
    optimizer_G.step()
"""
BESIDE = """
import copy, torch
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
other = {other}
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
for i in range(40):
    optimizer.zero_grad()
    x = torch.randn(32, 8)
    ({loss}).square().mean().backward()
    optimizer.step()
"""
OTHER = "nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 8))"


def told(source: str, folder) -> list:
    (folder / "script.py").write_text(source, encoding="utf-8")
    assert under_watch("--path", "run.db", "script.py", cwd=folder).returncode == 0
    found = read_run(folder / "run.db").findings
    return [f for f in found if (f.symptom, f.cause) == (Symptom.DISCONNECTED, Cause.DETACHED_GRAPH)]


@pytest.mark.parametrize(("held", "in_function"), [("G", False), ("D", False), ("D", True)])
def test_a_generator_whose_optimizer_was_given_the_discriminator(held: str, in_function: bool, tmp_path) -> None:
    source = GAN.replace("{held}", held)
    if in_function:  # at whose end nothing is left
        source = "def main():\n" + textwrap.indent(source, "    ") + "\nmain()"
    found = told(source, tmp_path)
    assert [f.severity for f in found] == ([Severity.CRITICAL] if held == "D" else [])
    if found:
        assert found[0].where == ("G",)
        assert "hold the very same parameters" in found[0].message


@pytest.mark.parametrize(
    ("other", "loss", "severities"),
    [
        (OTHER, "net(other(x)) - x", [Severity.INFO]),  # an encoder that was forgotten, or is meant to stay
        (f"{OTHER}.eval()", "other(net(x)) - other(x)", []),  # a perceptual loss
        (f"{OTHER}.requires_grad_(False)", "net(other(x)) - x", []),
        ("copy.deepcopy(net)", "net(x) - 0.9 * other(x)", []),  # a target network
        ("torch.randn(8, requires_grad=True)", "net(x + other) - x", []),  # an adversary's input
    ],
)
def test_networks_that_stay_as_they_are(other: str, loss: str, severities: list, tmp_path) -> None:
    found = told(BESIDE.replace("{other}", other).replace("{loss}", loss), tmp_path)
    assert [f.severity for f in found] == severities
