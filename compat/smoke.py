"""The way of a first user: import, demo, check, predict, init, through-time, fix, run, report, lesson."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compat.environment import Environment

NETWORK = """
import torch
from gradtrace.commands.demo.lecture import networks

sigmoid, relu = networks()


def ill():
    return sigmoid.model, sigmoid.loss_fn, sigmoid.batches


def healthy():
    return relu.model, relu.loss_fn, relu.batches


def small():
    torch.manual_seed(0)
    layers = [layer for _ in range(12) for layer in (torch.nn.Linear(8, 8), torch.nn.Sigmoid())]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(8, 2))
    inputs = torch.randn(64, 8)
    batches = [(x, (x[:, 0] > 0).long()) for x in inputs.split(16)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, lambda model, batch: torch.nn.functional.cross_entropy(model(batch[0]), batch[1]), batches, optimizer


class Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = torch.nn.GRU(3, 8, batch_first=True), torch.nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.cell(x)[0])


def recurrent():
    torch.manual_seed(0)
    batch = torch.randn(4, 12, 3), torch.randn(4, 12, 2)
    return Recurrent(), lambda model, batch: (model(batch[0]) - batch[1]).square().mean(), [batch]
"""

TRAINING = """
import torch
from network import healthy

model, loss_fn, batches = healthy()
optimizer = torch.optim.SGD(model.parameters(), lr=0.005)
for step, batch in zip(range(12), [*batches] * 12):
    optimizer.zero_grad()
    loss_fn(model, batch).backward()
    optimizer.step()
"""

ILL, HEALTHY = 1, 0

COMMANDS: dict[str, tuple[int, str]] = {
    "demo": (HEALTHY, "-m gradtrace demo"),
    "check, ill": (ILL, "-m gradtrace check network.py:ill --save-trace ill.json.gz"),
    "check, healthy": (HEALTHY, "-m gradtrace check network.py:healthy"),
    "predict": (HEALTHY, "-m gradtrace predict network.py:healthy"),
    "init": (HEALTHY, "-m gradtrace init network.py:healthy --save weights.pt"),
    "through time": (HEALTHY, "-m gradtrace through-time network.py:recurrent --exponents 2"),
    "fix, how to": (HEALTHY, "-m gradtrace fix --help"),
    "fix": (HEALTHY, "-m gradtrace fix network.py:small --steps 20 --seeds 3 --time 300 -o fix.html"),
    "run": (HEALTHY, "-m gradtrace run --every 4 --path run.db train.py"),
    "report of a trace": (HEALTHY, "-m gradtrace report ill.json.gz -o ill.html"),
    "report of a run": (HEALTHY, "-m gradtrace report run.db -o run.html"),
    "lesson": (HEALTHY, "-m gradtrace lesson -o lesson.html"),
}
"""Name -> (exit code, arguments); the last ones read what the first ones wrote."""


def smoke(environment: Environment) -> list[str]:
    """What failed, as sentences; nothing where all is well."""
    (environment.folder / "network.py").write_text(NETWORK, encoding="utf-8")
    (environment.folder / "train.py").write_text(TRAINING, encoding="utf-8")
    failures = []
    for name, (expected, arguments) in COMMANDS.items():
        done = environment.run(*arguments.split(), patience_s=600)
        if done.returncode != expected:
            last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
            failures.append(f"{name}: exit code {done.returncode} and not {expected}: {last}")
    pages = [environment.folder / name for name in ("ill.html", "run.html", "lesson.html", "fix.html")]
    return failures + [f"{page.name} was not written" for page in pages if not page.is_file()]
