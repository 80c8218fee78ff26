"""The way of a first user, in a few seconds: import, demo, check, run, predict, init, report, lesson."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compat.environment import Environment

NETWORK = """
from gradtrace.commands.demo.lecture import networks

sigmoid, relu = networks()


def ill():
    return sigmoid.model, sigmoid.loss_fn, sigmoid.batches


def healthy():
    return relu.model, relu.loss_fn, relu.batches
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
    pages = [environment.folder / name for name in ("ill.html", "run.html", "lesson.html")]
    return failures + [f"{page.name} was not written" for page in pages if not page.is_file()]
