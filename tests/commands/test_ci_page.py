"""What the page on CI tells its readers to copy is run: the settings, the workflow's commands, the hook."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "ci.md").read_text(encoding="utf-8")

ILL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    layers = [m for _ in range(12) for m in (nn.Linear(8, 8), nn.Sigmoid())]
    model = nn.Sequential(*layers, nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return model, lambda model, x: model(x).square().mean(), [torch.randn(16, 8)], optimizer
"""
HEALTHY = ILL.replace("range(12)", "range(2)").replace("Sigmoid", "ReLU")

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]


def block(language, sign):
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    (text,) = [textwrap.dedent(one) for one in found if sign in one]
    return text


@pytest.fixture
def project(tmp_path):
    """The settings of the page, and what they name."""
    (tmp_path / "package").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "training.py").write_text(ILL)
    (tmp_path / "package" / "vision.py").write_text(HEALTHY)
    (tmp_path / "pyproject.toml").write_text(block("toml", "[tool.gradtrace]"))
    return tmp_path


def shell(command, folder):
    """As a shell would, with the gradtrace at hand."""
    command = re.sub(r"^gradtrace ", f"{sys.executable} -m gradtrace ", command)
    return subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=False)


def test_the_workflow_uploads_what_its_own_command_writes(project):
    write, check = [line for line in block("bash", "--write-baseline").splitlines() if line]
    workflow = yaml.safe_load(block("yaml", "upload-sarif"))
    steps = workflow["jobs"]["gradients"]["steps"]
    (run,) = [step["run"] for step in steps if step.get("run", "").startswith("gradtrace")]
    (upload,) = [step["with"]["sarif_file"] for step in steps if "upload-sarif" in step.get("uses", "")]

    result = shell(run, project)
    assert result.returncode == 2  # the baseline that the settings name is not written yet
    assert "--write-baseline" in result.stderr

    (project / "gradtrace-baseline.json").write_text('{"gradtrace_baseline": 1, "findings": []}')
    result = shell(run, project)
    assert result.returncode == 1, result.stderr
    (ran,) = json.loads((project / upload).read_text())["runs"]
    assert ran["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "package/training.py"
    assert {each["baselineState"] for each in ran["results"]} == {"new"}
    (flow,) = ran["results"][0]["codeFlows"][0]["threadFlows"]
    assert len(flow["locations"]) > 10

    assert shell(write, project).returncode == 0
    assert shell(check, project).returncode == 0
    assert shell(run, project).returncode == 0


def hook():
    (found,) = yaml.safe_load(block("yaml", "language: system"))["repos"][0]["hooks"]
    return found


@pytest.mark.parametrize(("text", "code"), [(ILL, 1), (HEALTHY, 0)])
def test_the_hook_fails_for_what_is_critical_and_passes_for_what_is_not(project, text, code):
    (project / "package" / "training.py").write_text(text)
    (project / "gradtrace-baseline.json").write_text('{"gradtrace_baseline": 1, "findings": []}')
    assert shell(hook()["entry"], project).returncode == code
    assert re.search(hook()["files"], "package/training.py")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize(("text", "code"), [(ILL, 1), (HEALTHY, 0)])
def test_pre_commit_itself_takes_the_hook(project, tmp_path_factory, monkeypatch, text, code):
    pytest.importorskip("pre_commit", reason="pre-commit is not installed")
    (project / ".git").rmdir()
    monkeypatch.setenv("PRE_COMMIT_HOME", str(tmp_path_factory.mktemp("home")))
    programs = tmp_path_factory.mktemp("bin")
    (programs / "gradtrace").write_text(f'#!/bin/sh\nexec {sys.executable} -m gradtrace "$@"\n')
    (programs / "gradtrace").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    (project / "package" / "training.py").write_text(text)
    (project / "gradtrace-baseline.json").write_text('{"gradtrace_baseline": 1, "findings": []}')
    (project / ".pre-commit-config.yaml").write_text(block("yaml", "language: system"))
    subprocess.run("git init -q && git add -A", shell=True, cwd=project, check=True)
    ran = [sys.executable, "-m", "pre_commit", "run", "--all-files", "--hook-stage", "pre-push"]
    result = subprocess.run(ran, cwd=project, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stdout
    assert ("Passed" if code == 0 else "GT101") in result.stdout
