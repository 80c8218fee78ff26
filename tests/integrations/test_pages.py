"""What the pages on trainers tell their readers to copy is run, beside what a reader has already."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradtrace

PAGES = Path(__file__).parents[2] / "docs" / "howto"

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]


def blocks(page, sign):
    """Of a page's Python those that stand under titles with `sign`."""
    parts = re.split(r"^## ", (PAGES / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    (part,) = (part for part in parts if sign in part.partition("\n")[0])
    return "\n".join(map(textwrap.dedent, re.findall(r"^```python\n(.*?)^```$", part, re.M | re.S)))


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A network, its loss and data, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(32, 4)
    y = (x[:, 0] > 0).long()
    return {
        "gradtrace": gradtrace,
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), 0.01),
        "loader": DataLoader(TensorDataset(x, y), batch_size=8),
        "X": x.numpy(),
        "y": y.numpy(),
        "loss_fn": lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        "loggers": [],
    }


def seen(names, num_steps):
    watch = names["watching"].watch
    assert watch.diagnosis.healthy
    assert gradtrace.load("run.db").steps.num_steps == watch.run.steps.num_steps == num_steps


def test_lightning(reader):
    pytest.importorskip("lightning")
    from lightning.pytorch import LightningModule

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = reader["model"]

        def training_step(self, batch, _):
            return reader["loss_fn"](self.net, batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    names = {**reader, "module": Module()}
    exec(blocks("lightning.md", "As a callback"), names)
    seen(names, 12)
    exec(blocks("lightning.md", "Before the fit"), names)
    assert names["diagnosis"].healthy


def test_fabric(reader):
    pytest.importorskip("lightning")
    from lightning.fabric import Fabric

    exec(blocks("trainers.md", "Fabric"), names := {**reader, "Fabric": Fabric})
    seen(names, 4)


def test_ignite(reader):
    pytest.importorskip("ignite")
    from ignite.engine import create_supervised_trainer
    from ignite.handlers import ProgressBar

    trainer = create_supervised_trainer(reader["model"], reader["optimizer"], nn.CrossEntropyLoss())
    exec(blocks("trainers.md", "Ignite"), names := {**reader, "trainer": trainer, "progress_bar": ProgressBar()})
    seen(names, 12)
    assert trainer.state.metrics["gradtrace/gradient_norm"] > 0.0


def test_skorch(reader):
    skorch = pytest.importorskip("skorch")
    net = {
        "Net": lambda: nn.Sequential(reader["model"], nn.Softmax(dim=-1)),
        "NeuralNetClassifier": skorch.NeuralNetClassifier,
    }
    exec(blocks("trainers.md", "skorch"), names := {**reader, **net})
    (names["watching"],) = (one for _, one in names["net"].callbacks_ if type(one).__name__ == "GradTrace")
    seen(names, 10)


def test_transformers_and_accelerate(reader, tmp_path):
    pytest.importorskip("transformers")
    from accelerate import Accelerator
    from transformers import Trainer, TrainingArguments

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = reader["model"]

        def forward(self, x, labels):
            logits = self.net(x)
            return OutputLike(loss=nn.functional.cross_entropy(logits, labels), logits=logits)

    class OutputLike(dict):
        loss = property(lambda self: self["loss"])

    rows = [{"x": x, "labels": y} for x, y in zip(*reader["loader"].dataset.tensors, strict=True)]
    arguments = TrainingArguments(str(tmp_path), num_train_epochs=1, report_to=[], use_cpu=True, save_strategy="no")
    given = {**reader, "model": Net(), "Trainer": Trainer, "arguments": arguments, "dataset": rows}
    exec(blocks("transformers.md", "As a callback"), given)
    seen(given, 4)
    Path("run.db").unlink()
    given |= {"Accelerator": lambda **options: Accelerator(cpu=True, project_dir=".", **options)}
    given["optimizer"] = torch.optim.SGD(given["model"].parameters(), 0.01)
    given["loader"] = DataLoader(rows, batch_size=8)
    exec(blocks("transformers.md", "With accelerate"), given)
    seen({"watching": given["tracker"]}, 4)
    exec(blocks("transformers.md", "Before the training"), given)
    assert given["diagnosis"].healthy
