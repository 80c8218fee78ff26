"""`gradtrace fix`: prints the patch, writes it where asked, and touches nothing else."""

from __future__ import annotations

import json
import subprocess

import pytest
from click.testing import CliRunner

from gradtrace.commands.main import main

pytest.importorskip("libcst")

NET = """import torch
from torch import nn
from torch.nn import functional as F


def loss_fn(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def build():
    torch.manual_seed(0)
    layers = [layer for _ in range(10) for layer in (nn.Linear(16, 16), nn.Sigmoid())]   # deep
    model = nn.Sequential(*layers, nn.Linear(16, 2))
    batches = [(x, (x[:, 0] > 0).long()) for x in torch.randn(2, 64, 16)]
    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=0.05)


def well():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2))
    batches = [(x, (x[:, 0] > 0).long()) for x in torch.randn(2, 64, 16)]
    return model, loss_fn, batches
"""
OPTIONS = ["--steps", "40", "--time", "3600"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A git repository with the file committed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    identity = ["-c", "user.name=n", "-c", "user.email=e@e"]
    for words in (["init", "-q"], ["add", "net.py"], [*identity, "commit", "-qm", "net"]):
        subprocess.run(["git", *words], check=True, capture_output=True)
    return tmp_path


def run(*words):
    return CliRunner().invoke(main, ["fix", *words])


@pytest.mark.long
def test_printed_saved_written_and_checked_again(folder):
    done = run("net.py:build", *OPTIONS, "--write", "--save", "repair.json.gz", "-o", "repair.html")
    assert done.exit_code == 0, done.output
    assert "Recommended:" in done.stdout
    text = (folder / "net.py").read_text()
    assert text != NET
    assert "# deep" in text
    (folder / "net.py").write_text(NET)
    diff = done.stdout[done.stdout.index("--- a/net.py") :]
    subprocess.run(["patch", "-p1"], input=diff, text=True, check=True, capture_output=True)
    assert (folder / "net.py").read_text() == text
    assert "What was tried on copies" in (folder / "repair.html").read_text()
    assert "Recommended:" in CliRunner().invoke(main, ["show", "repair.json.gz"]).stdout
    again = CliRunner().invoke(main, ["check", "net.py:build", "--format", "json"])
    assert "vanishing" not in [f["symptom"] for f in json.loads(again.stdout)["findings"] if f["severity"] != "info"]


def test_a_dirty_file_is_not_written(folder):
    (folder / "net.py").write_text(NET + "\n# my work\n")
    done = run("net.py:build", *OPTIONS, "--write")
    assert done.exit_code == 2
    assert "has edits that are not committed" in done.stderr
    assert (folder / "net.py").read_text() == NET + "\n# my work\n"


def test_a_healthy_network_is_left_alone(folder):
    done = run("net.py:well")
    assert done.exit_code == 0, done.output
    assert "Nothing was changed." in done.stdout
    assert "there is nothing to prove" in done.stdout


def test_where_all_is_well_nothing_is_written(folder):
    before = (folder / "net.py").read_bytes()
    done = run("net.py:well", "--write")
    assert done.exit_code == 0, done.output
    assert "there is nothing to prove" in done.stdout
    assert (folder / "net.py").read_bytes() == before


def test_a_file_that_changed_meanwhile_is_not_written(folder, monkeypatch):
    from gradtrace.commands.writing import write_patch
    from gradtrace.errors import InputError
    from gradtrace.records.finding import Diagnosis
    from gradtrace.records.repair import Repair, Role, Trial
    from gradtrace.repair.patch import UserFile

    trial = Trial("t", Role.CANDIDATE, proven=True, diff="--- a/net.py\n+++ b/net.py\n")
    repair = Repair(Diagnosis(()), None, (trial,))
    file = UserFile(folder / "net.py", NET + "# as it was tried\n", "build", lambda _: ())
    with pytest.raises(InputError, match="has changed since the change was tried"):
        write_patch(repair, file, "net.py:build")


def test_check_says_how_to_prove_it(folder):
    done = CliRunner().invoke(main, ["check", "net.py:build"])
    *_, hint, verdict = done.stdout.splitlines()
    assert hint == "Prove it: gradtrace fix net.py:build"
    assert verdict.startswith("Unhealthy: ")


def test_as_sarif_the_patch_is_a_fix_of_a_result(folder, monkeypatch):
    from gradtrace.commands import fix as command
    from gradtrace.records.finding import Diagnosis, Finding
    from gradtrace.records.repair import Repair, Role, Trial
    from gradtrace.records.vocabulary import Cause, Severity, Symptom
    from gradtrace.repair.patch import UserFile, diff_of

    file = UserFile(folder / "net.py", NET, "build", lambda _: ())
    trial = Trial(
        "Use ReLU", Role.CANDIDATE, proven=True, diff=diff_of(file, {file.path: NET.replace("Sigmoid", "ReLU")})
    )
    found = Finding(Symptom.VANISHING, Cause.ACTIVATION_DERIVATIVE, ("1",), Severity.CRITICAL, "It is small.")
    repair = Repair(Diagnosis((found,)), None, (trial,))
    monkeypatch.setattr(command, "_fix_factory", lambda *_: (repair, file))
    (ran,) = json.loads(run("net.py:build", "--format", "sarif").stdout)["runs"]
    (result,) = ran["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "net.py"
    (change,) = result["fixes"][0]["artifactChanges"]
    assert [one["insertedContent"]["text"].count("ReLU") for one in change["replacements"]] == [1]
    assert json.loads(run("net.py:build", "--format", "json").stdout)["best"] == "Use ReLU"
