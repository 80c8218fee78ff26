"""Scripts that once went wrong under watch: the same output as alone, no accusation, and what is ill named as it is."""

from __future__ import annotations

import math

import pytest
from tests.runner.test_process import python, under_watch
from tests.runner.test_training import the_run, write

from gradtrace.records.run import Scalar, Series
from gradtrace.records.vocabulary import Severity, Symptom

HEALTHY = {
    "a closure, whose first backward pass comes within the step": """
        model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(30):
            x = torch.randn(32, 16)
            def closure():
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), x[:, :3].argmax(1))
                loss.backward()
                return loss
            print(optimizer.step(closure).item())
    """,
    "a batch is left out, and its step is not": """
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for number in range(20):
            optimizer.zero_grad()
            if number != 5:
                nn.functional.cross_entropy(model(torch.randn(8, 4)), torch.arange(8) % 2).backward()
            optimizer.step()
        print(model.weight.sum().item())
    """,
    "python's own random numbers": """
        import random
        random.seed(0)
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (model(torch.randn(8, 4)) * random.random()).pow(2).mean().backward()
            optimizer.step()
            print(model.weight.sum().item(), random.random())
    """,
    "a GAN in the order of the official DCGAN": """
        G = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8))
        D = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
        oG, oD = torch.optim.Adam(G.parameters()), torch.optim.Adam(D.parameters())
        bce = nn.BCEWithLogitsLoss()
        for _ in range(30):
            D.zero_grad()
            bce(D(torch.randn(32, 8)), torch.ones(32, 1)).backward()
            fake = G(torch.randn(32, 4))
            bce(D(fake.detach()), torch.zeros(32, 1)).backward()
            oD.step()
            G.zero_grad()
            loss = bce(D(fake), torch.ones(32, 1))
            loss.backward()
            oG.step()
            print(loss.item())
    """,
    "several trainings one after the other": """
        for seed in range(3):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
            for _ in range(12):
                x = torch.randn(16, 4)
                optimizer.zero_grad()
                loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
                loss.backward()
                optimizer.step()
            print(loss.item())
    """,
    "tensors without a module": """
        W, b = torch.randn(4, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.SGD([W, b], lr=0.1)
        for _ in range(20):
            x = torch.randn(16, 4)
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(x @ W + b, (x[:, :1] > 0).float())
            loss.backward()
            optimizer.step()
            print(loss.item())
    """,
}

HEAD = "import torch\nfrom torch import nn\ntorch.manual_seed(0)\n"

PARAMETERS = {
    "a GAN in the order of the official DCGAN": ["D.0.bias", "D.0.weight", "G.0.bias", "G.0.weight"],
    "several trainings one after the other": ["model.0.bias", "model_2.0.bias", "model_3.2.weight"],
    "tensors without a module": ["W", "b"],
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_script_prints_the_same_and_is_not_accused(name: str, tmp_path) -> None:
    write(tmp_path, HEALTHY[name], HEAD)
    alone, watched = python("train.py", cwd=tmp_path), under_watch("train.py", cwd=tmp_path)
    assert (watched.stdout, watched.returncode) == (alone.stdout, alone.returncode) == (alone.stdout, 0)
    run = the_run(tmp_path)
    assert [f.message for f in run.findings if f.severity is not Severity.INFO] == []
    assert not run.steps.nonfinite.any()
    names = sorted(parameter.name for parameter in run.header.parameters)
    assert set(PARAMETERS.get(name, [])) <= set(names)


ILL = {
    "a NaN at step 0, in functional code": """
        model = nn.Linear(4, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.randn(8, 4) * 1e4
        for _ in range(3):
            p = torch.softmax(model(x), 1)
            loss = -(torch.log(p) * torch.eye(3)[torch.arange(8) % 3]).sum(1).mean()  # here
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    """,
    "a script that guards itself": """
        import math, sys
        model = nn.Linear(4, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for number in range(400):
            x = torch.randn(8, 4) * 10 ** (number / 40)
            p = torch.softmax(model(x), 1)
            loss = -(torch.log(p) * torch.eye(3)[torch.arange(8) % 3]).sum(1).mean()  # here
            if not math.isfinite(loss.item()):
                print("loss is", loss.item(), "stopping training")
                sys.exit(1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    """,
    "tensors without a module": """
        W, b = torch.zeros(2, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.SGD([W, b], lr=1.0)
        x = torch.randn(6, 2)
        y = (x[:, :1] > 0).float()
        for number in range(6):
            p = torch.sigmoid(x @ W * 1e3 ** number + b)
            loss = -(y * p.log() + (1 - y) * (1 - p).log()).mean()  # here
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    """,
}


@pytest.mark.parametrize("name", ILL)
def test_a_nan_is_named_with_its_op_and_the_user_s_line(name: str, tmp_path) -> None:
    write(tmp_path, ILL[name], HEAD)
    (line,) = [n for n, text in enumerate((tmp_path / "train.py").read_text().splitlines(), 1) if "# here" in text]
    alone, watched = python("train.py", cwd=tmp_path), under_watch("--budget", "1", "train.py", cwd=tmp_path)
    assert (watched.stdout, watched.returncode) == (alone.stdout, alone.returncode)
    run = the_run(tmp_path)
    finding = run.findings[0]
    assert (finding.symptom, finding.where[0]) == (Symptom.NONFINITE, "loss")
    assert "log" in finding.message
    assert finding.source == f"train.py:{line}"
    if alone.returncode == 0:
        assert math.isnan(run.steps.latest(Scalar.LOSS))


def test_an_optimizer_that_holds_only_what_is_frozen_is_told(tmp_path) -> None:
    body = """
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model[3].parameters(), lr=0.1)
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith("1")
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.randn(8, 4)), torch.arange(8) % 2).backward()
            optimizer.step()
    """
    write(tmp_path, body, HEAD)
    under_watch("train.py", cwd=tmp_path)
    assert the_run(tmp_path).findings[0].symptom is Symptom.DISCONNECTED


@pytest.mark.parametrize("kind", ["SGD(parameters, lr=0.1)", "LBFGS(parameters, lr=0.1, max_iter=3)"])
@pytest.mark.parametrize("num_steps", [1, 4])
def test_every_step_with_a_closure_counts_the_first_too(kind: str, num_steps: int, tmp_path) -> None:
    """The training is found within that step: loss and gradient are those that the script prints."""
    script = f"""
        model = nn.Linear(4, 1)
        parameters = model.parameters()
        optimizer = torch.optim.{kind}
        x = torch.randn(16, 4)
        for number in range({num_steps}):
            def closure():
                optimizer.zero_grad()
                loss = (model(x) - x[:, :1]).square().mean()
                loss.backward()
                return loss
            print(optimizer.step(closure).item(), model.weight.grad.norm().item())
    """
    write(tmp_path, script, HEAD)
    watched = under_watch("--budget", "10", "train.py", cwd=tmp_path)
    printed = [[float(number) for number in line.split()] for line in watched.stdout.splitlines()]
    run = the_run(tmp_path)
    assert len(run.steps.first) == num_steps == len(printed)
    if kind.startswith("SGD"):
        losses = run.steps.scalar(Scalar.LOSS)[0]
        assert losses == pytest.approx([loss for loss, _ in printed], rel=1e-6)
        norms = run.steps.series(Series.GRADIENT_NORM)[0][:, 0]
        assert norms == pytest.approx([norm for _, norm in printed], rel=1e-5)
