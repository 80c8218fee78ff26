"""`gradtrace fix train.py`: the script itself is tried, its folder stays as it was, bad input is one sentence."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

import gradtrace
from gradtrace.commands.fix import is_factory
from gradtrace.commands.main import main
from gradtrace.records.repair import Role

DEEP = """import sys
import torch
from torch import nn

torch.manual_seed(1)
x = torch.randn(512, 16)
y = (x[:, 0] > 0).long()
layers = [layer for _ in range(int(sys.argv[1])) for layer in (nn.Linear(16, 16), getattr(nn, sys.argv[2])())]
net = nn.Sequential(*layers, nn.Linear(16, 2))
sgd = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
for step in range(1000):
    chosen = torch.randint(512, (64,))
    loss = nn.functional.cross_entropy(net(x[chosen]), y[chosen])
    sgd.zero_grad()
    loss.backward()
    sgd.step()
    open("log.txt", "a").write(f"{step} {loss.item()}\\n")
"""
SHORT = """import torch
m = torch.nn.Linear(2, 2)
o = torch.optim.SGD(m.parameters(), lr=0.1)
for _ in range(7):
    m(torch.ones(1, 2)).sum().backward()
    o.step()
"""
BAD = {
    "never.py": ("import torch\ntorch.nn.Linear(2, 2)(torch.ones(1, 2))\n", "never called backward"),
    "fails.py": ("import torch\nraise ValueError('no data')\n", r"ValueError: no data \(fails.py:2\)"),
    "short.py": (SHORT, "ended after 7 steps"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(DEEP)
    return tmp_path


def run(*words):
    return CliRunner().invoke(main, ["fix", *words])


@pytest.mark.parametrize(
    ("target", "is_one"),
    [("net.py:build", True), ("package.net:build", True), ("train.py", False), ("C:\\train.py", False), (":x", False)],
)
def test_a_factory_is_told_from_a_script(target, is_one):
    assert is_factory(target) is is_one


def test_a_script_that_is_not_there_is_one_sentence(folder):
    done = run("nothing.py", "--write", "--its-own", "x")
    assert done.exit_code == 2
    assert done.stderr.startswith("gradtrace: there is no file nothing.py")
    assert done.stderr.count("\n") == 1


def test_a_factory_takes_no_arguments(folder):
    done = run("train.py:build", "3")
    assert done.exit_code == 2
    assert "a factory takes no arguments, but got 3" in done.stderr


def test_a_script_moves_its_model_itself(folder):
    done = run("--device", "cpu", "train.py")
    assert done.exit_code == 2
    assert "a script moves its model itself" in done.stderr


@pytest.mark.long
def test_the_remedy_is_proven_and_the_patch_trains(folder, tmp_path_factory):
    pytest.importorskip("libcst")
    kept = tmp_path_factory.mktemp("kept") / "repair.json.gz"
    done = run("--steps", "120", "--time", "3600", "--save", str(kept), "train.py", "8", "Sigmoid")
    assert done.exit_code == 0, done.output
    assert "Recommended:" in done.stdout
    assert "the activation explains" in " ".join(done.stdout.split())
    repair = gradtrace.load(kept)
    assert repair.steps == 120
    assert repair.best.end < 0.7 * repair.original.end
    assert {t.verdict for t in repair.trials if t.role is Role.PLACEBO} == {"helps no more than chance"}
    assert len({outcome.start for outcome in repair.original.outcomes}) == 3  # another network for each seed
    assert any("the script sets its seeds itself (1)" in note for note in repair.notes)
    assert any(note.startswith("not looked at in a script: whether a held-out loss") for note in repair.notes)
    assert [path.name for path in folder.iterdir()] == ["train.py"]  # log.txt went elsewhere
    assert (folder / "train.py").read_text() == DEEP
    diff = done.stdout[done.stdout.index("--- a/train.py") :]
    subprocess.run(["patch", "-p1"], input=diff, text=True, check=True, capture_output=True)
    losses = []
    for source in ((folder / "train.py").read_text(), DEEP):
        (folder / "train.py").write_text(source.replace("range(1000)", "range(120)"))
        (folder / "log.txt").unlink(missing_ok=True)
        subprocess.run([sys.executable, "train.py", "8", "Sigmoid"], check=True)
        losses.append(float((folder / "log.txt").read_text().split()[-1]))
    assert losses[0] < 0.7 * losses[1]


SURE = """import torch
from torch import nn

torch.manual_seed(4)
centres = 2 * torch.randn(6, 10)
net = nn.Sequential(nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 6), nn.Softmax(dim=1))
net[2].bias.data[0] = 14.0
criterion = nn.MSELoss()
sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
for step in range(200):
    labels = torch.randint(0, 6, (96,))
    sgd.zero_grad()
    loss = criterion(net(centres[labels] + torch.randn(96, 10)), nn.functional.one_hot(labels, 6).float())
    loss.backward()
    sgd.step()
"""


@pytest.mark.long
def test_another_loss_is_tried_by_the_script_s_own_measure_and_patched(folder, tmp_path_factory):
    pytest.importorskip("libcst")
    (folder / "train.py").write_text(SURE)
    kept = tmp_path_factory.mktemp("kept") / "repair.json.gz"
    done = run("--steps", "60", "--time", "3600", "--save", str(kept), "train.py")
    assert done.exit_code == 0, done.output
    repair = gradtrace.load(kept)
    (trial,) = [t for t in repair.trials if t.title.startswith("Train the softmax") and len(t.changes) == 1]
    assert trial.proven
    assert trial.start == pytest.approx(repair.original.start, rel=1e-3)  # one measure for all
    assert "+criterion = nn.BCELoss()" in trial.diff.splitlines()


@pytest.mark.long
def test_what_ails_a_script_after_its_first_steps_only_is_found_by_a_second_look(folder):
    late = "    loss = loss + (net(x).relu() * 0.0).sqrt().sum() if step >= 100 else loss\n"
    (folder / "train.py").write_text(DEEP.replace("    sgd.zero_grad()", f"{late}    sgd.zero_grad()"))
    done = run("--steps", "140", "--time", "600", "train.py", "2", "ReLU")
    assert "CRITICAL  nonfinite, because of unsafe op" in done.stdout
    assert "At step 100 the loss is finite" in done.stdout
    assert "Trained on copies: 140 steps" in done.stdout  # losses end with step 100, and the script does not


@pytest.mark.long
def test_a_healthy_script_is_left_alone(folder):
    done = run("train.py", "2", "ReLU")
    assert done.exit_code == 0, done.output
    assert "there is nothing to prove" in " ".join(done.stdout.split())


@pytest.mark.long
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(folder, name):
    text, sentence = BAD[name]
    (folder / name).write_text(text)
    done = run(name)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert re.search(sentence, done.stderr)
