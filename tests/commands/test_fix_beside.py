"""A network whose class lives in another file: the patch goes there, and every file is the one that was tried."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("libcst")

from gradtrace.commands.fix import _load
from gradtrace.commands.main import main
from gradtrace.commands.writing import write_patch
from gradtrace.errors import InputError
from gradtrace.records.change import Change, Edit, SourceEdit
from gradtrace.records.finding import Diagnosis
from gradtrace.records.repair import Repair, Role, Trial
from gradtrace.repair.patch import parts_of, shape_of, with_diffs

MODELS = """import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, depth=8):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(depth))
        self.act = nn.Sigmoid()  # everywhere
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        for layer in self.layers:
            x = self.act(layer(x))
        return self.head(torch.sigmoid(x))
"""
NET = """import torch
from torch.nn import functional as F

from {models} import Net


def loss_fn(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def build():
    torch.manual_seed(0)
    batches = [(x, (x[:, 0] > 0).long()) for x in torch.randn(2, 64, 16)]
    model = Net()
    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=0.05)
"""
TRAIN = """import torch
from torch import nn

from models import Net

torch.manual_seed(1)
x = torch.randn(512, 16)
y = (x[:, 0] > 0).long()
net = Net(8)
sgd = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
for step in range(1000):
    chosen = torch.randint(512, (64,))
    loss = nn.functional.cross_entropy(net(x[chosen]), y[chosen])
    sgd.zero_grad()
    loss.backward()
    sgd.step()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A git repository with both files committed; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "__init__.py").write_text("from nets.models import Net\n")
    (tmp_path / "nets" / "models.py").write_text(MODELS)
    (tmp_path / "net.py").write_text(NET.format(models="nets"))
    identity = ["-c", "user.name=n", "-c", "user.email=e@e"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "net"]):
        subprocess.run(["git", *words], check=True, capture_output=True)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("net", "nets")]:
        del sys.modules[name]


def renamed(*edits):
    code = "for path in ['act']:\n    model.set_submodule(path, torch.nn.ReLU())"
    return Change("activation", "Replace sigmoid by ReLU.", ("act",), code=code, edits=edits)


RENAME = SourceEdit(Edit.RENAME, "Sigmoid", "", "ReLU")
CALL = SourceEdit(Edit.RENAME, "sigmoid", "nets/models.py:15", "torch.nn.functional.relu")


def repaired(change):
    loaded, file = _load("net.py:build", 0)
    trial = Trial(change.title, Role.CANDIDATE, (change,), proven=True)

    def wanted(_trial):
        model = loaded.model
        model.act = torch.nn.ReLU()
        return shape_of(model, loaded.optimizer)

    return with_diffs(Repair(Diagnosis(()), None, (trial,)), file, wanted), file


def test_the_class_is_renamed_where_it_lives_and_the_call_where_it_stands(folder):
    repair, file = repaired(renamed(RENAME, CALL))
    assert repair.best.no_diff == ""
    assert list(parts_of(repair.best.diff)) == ["nets/models.py"]
    before = {path: path.read_text() for path in folder.rglob("*.py")}
    subprocess.run(["patch", "-p1"], input=repair.best.diff, text=True, check=True, capture_output=True)
    told = (folder / "nets" / "models.py").read_text()
    assert told == MODELS.replace("nn.Sigmoid()", "nn.ReLU()").replace("torch.sigmoid", "torch.nn.functional.relu")
    for path, text in before.items():
        path.write_text(text)
    write_patch(repair, file, None)
    assert (folder / "nets" / "models.py").read_text() == told
    assert (folder / "net.py").read_text() == before[folder / "net.py"]


def test_what_was_imported_before_is_there_again(folder):
    repair, _ = repaired(renamed(RENAME))
    assert type(import_module("nets.models").Net().act) is torch.nn.Sigmoid
    assert repair.best.diff
    assert not any(type(finder).__name__ == "_EditedFinder" for finder in sys.meta_path)
    assert "net_edited" not in sys.modules


def test_lines_go_to_the_factory_and_names_to_the_class_in_one_patch(folder):
    change = renamed(RENAME)
    change = replace(change, code=change.code + "\nwith torch.no_grad():\n    model.head.bias.fill_(0.0)")
    repair, _ = repaired(change)
    assert sorted(parts_of(repair.best.diff)) == ["net.py", "nets/models.py"]


@pytest.mark.parametrize(("place", "why"), [("models.py", "has edits that are not committed"), ("", "")])
def test_a_file_beside_it_that_was_edited_is_not_written(folder, place, why):
    repair, file = repaired(renamed(RENAME))
    text = MODELS + "# my work\n"
    (folder / "nets" / "models.py").write_text(text)
    with pytest.raises(InputError, match=why or "has changed since the change was tried"):
        write_patch(repair, file, None, force=not place)
    assert (folder / "nets" / "models.py").read_text() == text


def test_a_line_in_a_file_that_is_not_of_the_project_is_told(folder):
    repair, _ = repaired(renamed(replace(CALL, source="elsewhere/models.py:15")))
    assert repair.best.no_diff == "the line to edit is in another file: elsewhere/models.py:15"


@pytest.mark.long
def test_the_whole_way(folder):
    done = CliRunner().invoke(main, ["fix", "net.py:build", "--steps", "80", "--time", "3600", "--write"])
    assert done.exit_code == 0, f"{done.output}{done.exception}"
    assert "+++ b/nets/models.py" in done.stdout
    assert "Sigmoid" not in (folder / "nets" / "models.py").read_text()


@pytest.mark.long
def test_a_script_whose_network_is_imported(folder):
    Path("models.py").write_text(MODELS)
    Path("train.py").write_text(TRAIN)
    done = CliRunner().invoke(main, ["fix", "--steps", "100", "--time", "3600", "--write", "--force", "train.py"])
    assert done.exit_code == 0, done.output
    assert "+++ b/models.py" in done.stdout
    assert "Sigmoid" not in Path("models.py").read_text()
