from __future__ import annotations

import json

from tests.commands.calling import run

from gradtrace.records.storage import load

RECURRENT = """
import torch
from torch import nn

def build():
    def loss_fn(model, batch):
        return model(batch)[0].square().mean((1, 2))

    return nn.GRU(3, 8), loss_fn, [torch.randn(20, 2, 3)]
"""


def test_through_time_measures_keeps_and_shows(tmp_path):
    (tmp_path / "net.py").write_text(RECURRENT)
    target, kept = f"{tmp_path}/net.py:build", str(tmp_path / "time.json.gz")
    result = run("through-time", target, "--exponents", "2", "--save", kept)
    assert result.exit_code == 0, result.output
    assert "20 steps" in result.stdout
    assert "|dL_t/dh_s|" in result.stdout
    assert "largest Lyapunov exponent" in result.stdout
    record = load(kept)
    assert len(record.spectra[0].exponents) == 2
    assert len(record.losses[0].rows) == 20
    assert run("show", kept).stdout == result.stdout
    as_json = run("through-time", target, "--json", "--at", "input", "--time-axis", "0")
    assert json.loads(as_json.stdout)["positions"] == "the input"
