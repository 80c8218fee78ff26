"""Wrong usage of any command; whatever is printed fits any terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from tests.commands.calling import run
from tests.report.html.records import run as run_of
from tests.report.samples import chain, through_time
from torch import nn

import gradtrace
from gradtrace.commands.main import COMMANDS
from gradtrace.runs.writer import RunWriter

TWO = """
import torch
from torch import nn


def made(activation, depth):
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(16, 16), activation())]
    batch = torch.randn(32, 16), torch.randint(0, 4, (32,))
    return nn.Sequential(*layers, nn.Linear(16, 4)), lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]), [batch]


def well():
    return made(nn.ReLU, 1)


def ill():
    return made(nn.Sigmoid, 12)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.RNN(4, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


def recurrent():
    return Recurrent(), torch.randn(4, 20, 4)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["check"],
        ["check", "net.py:build", "--fail-on", "never"],
        ["check", "net.py:build", "--steps", "-1"],
        ["check", "net.py:build", "--seed", "x"],
        ["nonsense"],
        ["show"],
        ["show", "no.json.gz"],
        ["show", "net.py"],
        ["demo", "no_such_case"],
    ],
)
def test_wrong_usage_is_2(net, arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradtrace.casebook", type(sys)("gradtrace.casebook"))
    sys.modules["gradtrace.casebook"].CASES = {"real_case": None}  # type: ignore[attr-defined]
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize("make", ["trace", "prediction", "through_time", "run"])
def test_any_encoding_of_standard_output_will_do(make, tmp_path):
    """Names in any script, on a terminal that knows ASCII alone: question marks, and no error."""
    name = "编码器.{}.eine_ganz_besonders_lange_bezeichnung_für_eine_schicht_im_netz"
    path = tmp_path / "läuft.gz"
    if make == "run":
        recorded = run_of(4, 30, name=name)
        writer = RunWriter(path, recorded.header)
        for step in range(30):
            writer.append(step, 0.1 * step, recorded.steps.scalars_high[step], recorded.steps.series_high[step],
                          nonfinite=False)  # fmt: skip
        writer.findings(recorded.findings)
        writer.close()
    else:
        {
            "trace": lambda: chain(5, 0.2, 0.5, "sigmoid", name=name),
            "prediction": lambda: gradtrace.predict(
                nn.Sequential(OrderedDict([(name.replace(".", "·"), nn.Linear(4, 4)), ("σ", nn.Tanh())])),
                torch.ones(2, 4),
            ),
            "through_time": through_time,
        }[make]().save(path)
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "COLUMNS": "80"}
    command = [sys.executable, "-m", "gradtrace", "show", str(path)]
    result = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=120)
    assert (result.returncode, result.stderr) == (0, b"")
    lines = result.stdout.decode("ascii").splitlines()
    assert len(lines) > 3
    assert max(map(len, lines)) <= 80


def test_help_is_grouped_and_no_line_is_cut(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("--help").stdout.splitlines()
    assert [line for line in lines if line.startswith(("Judge", "Watch", "Look", "Learn")) and line.endswith(":")] == [
        "Judge a network:", "Watch a training:", "Look at what was kept:", "Learn:"
    ]  # fmt: skip
    assert not any("..." in line for line in lines[1:])
    assert max(map(len, lines)) <= 80
    told = {line.split()[0]: line for line in lines if line.startswith("  ") and len(line.split()) > 1}
    for names in COMMANDS.values():
        for name in names:
            assert told[name].endswith("."), name  # one line each, whole


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_last_line_on_several_targets_is_of_all(tmp_path, monkeypatch, order):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(TWO)
    asked = [("net.py:well", "net.py:ill")[place] for place in order]
    result = run("check", *asked)
    assert result.exit_code == 1
    assert (
        result.stdout.splitlines()[-1] == "Unhealthy: 1 of 2 targets, 1 finding, 1 critical (gradtrace explain GT101)."
    )
    assert run("check", "net.py:well", "net.py:well").stdout.splitlines()[-1] == "Healthy: 2 targets, no findings."


def test_a_folder_that_is_not_there_has_not_no_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("runs", "nowhere")
    assert (result.exit_code, "there is no folder nowhere" in result.stderr) == (2, True)
    assert run("runs").stdout == "There are no runs in gradtrace-runs.\n"
    assert run("runs", ".").stdout == "There are no runs in this folder.\n"


def test_what_is_not_known_of_a_recurrence_is_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(TWO)
    told = run("init", "net.py:recurrent").stdout
    assert "before: " in told
    assert "nan" not in told
