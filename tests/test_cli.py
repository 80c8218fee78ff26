"""Exit codes, sentences and streams; `gradtrace.check` is replaced where the verdict itself does not matter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import OrderedDict
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tests.report.html.records import run as run_of
from tests.report.samples import SAMPLES, chain, through_time
from torch import nn

import gradtrace
from gradtrace.cli import main
from gradtrace.errors import InputError
from gradtrace.records.finding import Diagnosis, Finding
from gradtrace.records.storage import load, save
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.runs.writer import RunWriter

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


def run(*arguments: str):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def finding_of(severity: Severity) -> Diagnosis:
    return Diagnosis((Finding(Symptom.VANISHING, Cause.SMALL_WEIGHTS, ("a",), severity, "It is small."),))


# ------------------------------------------------------------------------------------------------------------- check


def test_healthy_is_0_and_one_line(net, verdict):
    result = run("check", "net.py:build")
    assert result.exit_code == 0, result.output
    assert "Healthy: layers.0 gets" in result.stdout
    assert "building" not in result.stdout
    assert "building" in result.stderr


@pytest.mark.parametrize("fail_on", list(Severity))
@pytest.mark.parametrize("severity", list(Severity))
def test_findings_at_or_above_fail_on_are_1(net, verdict, severity, fail_on):
    verdict["diagnosis"] = finding_of(severity)
    assert run("check", "net.py:build", "--fail-on", fail_on.value).exit_code == int(severity.rank >= fail_on.rank)


def test_json_is_all_there_is_on_stdout(net, verdict):
    verdict["diagnosis"] = SAMPLES["vanishing"]()
    result = run("check", "net.py:build", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["findings"][0]["symptom"] == "vanishing"
    assert json.loads(result.stdout)["title"] == "net.py:build"


def test_options_reach_check(net, verdict):
    run("check", "net.py:with_optimizer", "--steps", "7", "--accumulate", "2")
    (_, _, batches, options) = verdict["calls"][0]
    assert len(batches) == 1
    assert (options["steps"], options["accumulate"]) == (7, 2)
    assert type(options["optimizer"]).__name__ == "SGD"


def test_the_seed_fixes_the_factory(net, verdict):
    for seed in ("1", "1", "2"):
        assert run("check", "net.py:build", "--seed", seed).exit_code == 0
    weights = [call[0].weight.sum().item() for call in verdict["calls"]]
    assert weights[0] == weights[1] != weights[2]


def test_the_trace_is_saved_and_shown(net, verdict, tmp_path):
    result = run("check", "net.py:build", "--save-trace", "trace.json.gz")
    assert result.exit_code == 0
    assert load("trace.json.gz") == SAMPLES["healthy"]().traces[0]
    shown = run("show", "trace.json.gz")
    assert shown.exit_code == 0
    assert "layers.0" in shown.stdout


def test_a_trace_that_cannot_be_saved_is_2(net, verdict):
    result = run("check", "net.py:build", "--save-trace", "nowhere/trace.json.gz")
    assert result.exit_code == 2
    assert "cannot write nowhere/trace.json.gz" in result.stderr
    verdict["diagnosis"] = Diagnosis(())
    assert "no trace to save" in run("check", "net.py:build", "--save-trace", "trace.json.gz").stderr


@pytest.mark.parametrize("factory", ["build", "with_optimizer", "as_dict"])
def test_factories_may_return_what_they_like(net, verdict, factory):
    assert run("check", f"net.py:{factory}").exit_code == 0
    assert run("check", f"net:{factory}").exit_code == 0
    assert run("check", f"{net}:{factory}").exit_code == 0


def test_models_and_batches_move(net, verdict):
    assert run("check", "net.py:build", "--device", "meta").exit_code == 0
    model, _, batches, _ = verdict["calls"][0]
    assert {model.weight.device.type, *(batch.device.type for batch in batches)} == {"meta"}
    assert len(list(batches)) == len(list(batches)) == len(batches) == 1


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("net.py", "TARGET must be package.module:factory or path/to/file.py:factory, but it is 'net.py'"),
        ("net.py:", "TARGET must be"),
        ("net.py:not valid", "TARGET must be"),
        ("other.py:build", "there is no file other.py"),
        ("no_such_module:build", "there is no module 'no_such_module'"),
        ("net.py:buidl", "net.py has no 'buidl'; did you mean 'build'?"),
        ("net.py:value", "must be a function without arguments, but it is int"),
        ("net.py:raises", "calling net.py:raises raised ValueError: too [red]small[/red] (net.py:19)"),
        ("net.py:leaves", "calling net.py:leaves raised SystemExit: 3 (net.py:22)"),
        ("net.py:needs", "raised TypeError: needs() missing 1 required positional argument"),
        ("net.py:two", "but it returned a tuple of 2"),
        ("net.py:nothing", "but it returned NoneType without model and loss_fn and batches"),
        ("broken.py:build", "importing broken.py raised SyntaxError: "),
        (
            "missing.py:build",
            "importing missing.py raised ModuleNotFoundError: No module named 'no_such' (missing.py:1)",
        ),
    ],
)
def test_a_bad_target_is_one_sentence_and_2(net, verdict, target, message):
    (net.parent / "broken.py").write_text("def build(:\n")
    (net.parent / "missing.py").write_text("import no_such\n")
    result = run("check", target)
    assert result.exit_code == 2
    told = result.stderr.replace("building\n", "")
    assert told.startswith("gradtrace: ")
    assert message in told
    assert told.count("\n") == 1
    assert result.stdout == ""
    assert "broken" not in sys.modules


def test_input_errors_of_check_are_2(net, verdict):
    verdict["diagnosis"] = InputError("the loss has no gradient")
    result = run("check", "net.py:build")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "gradtrace: the loss has no gradient\n" in result.stderr


def test_a_fault_of_ours_is_neither_0_nor_1_nor_2(net, verdict):
    verdict["diagnosis"] = KeyError("oops")
    result = run("check", "net.py:build")
    assert result.exit_code == 3
    assert "fault of gradtrace" in result.stderr


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_wrong_device_is_2(net, verdict, device):
    result = run("check", "net.py:build", "--device", device)
    assert result.exit_code == 2
    assert f"gradtrace: --device {device}: " in result.stderr


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


# -------------------------------------------------------------------------------------------------------------- show


def test_a_saved_diagnosis_shows(tmp_path):
    save(SAMPLES["vanishing"](), tmp_path / "diagnosis.json.gz")
    result = run("show", str(tmp_path / "diagnosis.json.gz"))
    assert result.exit_code == 0
    assert "CRITICAL  vanishing" in result.stdout


# -------------------------------------------------------------------------------------------------------------- demo


def test_the_demo_tells_the_lesson(verdict, monkeypatch):
    import gradtrace.demo

    monkeypatch.setattr(gradtrace.demo, "NUM_STEPS", 60)
    result = run("demo")
    assert result.exit_code == 0, result.output
    assert "20 layers of sigmoids" in result.stdout
    assert "20 layers of ReLUs" in result.stdout
    assert len(verdict["calls"]) == 2


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
    result = CliRunner().invoke(main, ["through-time", target, "--exponents", "2", "--save", kept])
    assert result.exit_code == 0, result.output
    assert "20 steps" in result.stdout
    assert "|dL_t/dh_s|" in result.stdout
    assert "largest Lyapunov exponent" in result.stdout
    record = load(kept)
    assert len(record.spectra[0].exponents) == 2
    assert len(record.losses[0].rows) == 20
    assert CliRunner().invoke(main, ["show", kept]).stdout == result.stdout
    as_json = CliRunner().invoke(main, ["through-time", target, "--json", "--at", "input", "--time-axis", "0"])
    assert json.loads(as_json.stdout)["positions"] == "the input"


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
