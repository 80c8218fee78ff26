"""The pages that are looked at in a browser: name -> text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from tests.report.html.records import entries_of, four_ranks, run, through_time
from tests.report.html.repairs import repaired
from tests.report.samples import SAMPLES, chain, residual
from torch import nn

import gradtrace
from gradtrace.records.finding import Diagnosis
from gradtrace.records.prediction import Prediction
from gradtrace.records.run import Run
from gradtrace.report.html import render
from gradtrace.report.html.comparison import render_runs
from gradtrace.report.html.page import render_opened
from gradtrace.report.opened import Opened, opened

NASTY = "</script><img src=x onerror=alert(1)><script>alert(2)</script>"
"""A module's name."""


class Attention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x):
        y = self.norm(x)
        mixed = nn.functional.scaled_dot_product_attention(self.query(y), self.key(y), self.value(y))
        x = x + self.out(mixed)
        return x + self.mlp(x)


def checked(model: nn.Module, inputs: torch.Tensor, title: str, num_classes: int = 4) -> Diagnosis:
    labels = torch.arange(len(inputs)) % num_classes

    def loss_fn(model, inputs):
        outputs = model(inputs)
        return nn.functional.cross_entropy(outputs.flatten(1, -2).mean(1) if outputs.ndim > 2 else outputs, labels)

    return replace(gradtrace.check(model, loss_fn, [inputs]), title=title)


def transformer() -> Diagnosis:
    torch.manual_seed(0)
    model = nn.Sequential(*[Attention(16) for _ in range(3)], nn.Linear(16, 4))
    return checked(model, torch.randn(8, 5, 16), "net.py:transformer")


def sigmoids() -> Diagnosis:
    torch.manual_seed(0)
    layers = [layer for _ in range(12) for layer in (nn.Linear(16, 16), nn.Sigmoid())]
    return checked(nn.Sequential(*layers, nn.Linear(16, 4)), torch.randn(32, 16), "net.py:sigmoids")


def dead() -> Diagnosis:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    with torch.no_grad():
        model[2].bias[:28] = -100.0
    return checked(model, torch.randn(64, 16), "net.py:dead")


def broken() -> Diagnosis:
    """The loss is NaN, and so is every gradient."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    inputs = torch.randn(16, 8)
    return gradtrace.check(model, lambda model, x: (0 * model(x).relu().log()).mean(), [inputs])


def nasty() -> Diagnosis:
    """Everything that a name can carry, in the model, the run and the messages."""
    torch.manual_seed(0)
    model = nn.Sequential()
    for name in (
        "<script>alert(0)</script>",
        NASTY.replace(".", "·"),
        "</style>",
        "<!--",
        "' onclick='alert(3)",
        "&lt;",
    ):
        model.add_module(name, nn.Sequential(nn.Linear(8, 8), nn.Sigmoid()))
    model.add_module("head", nn.Linear(8, 4))
    return replace(SAMPLES["hostile"](), traces=checked(model, torch.randn(16, 8), NASTY).traces, title=NASTY)


def of_sample(name: str) -> Callable[[], str]:
    return lambda: render(SAMPLES[name]())


SAMPLED_STEPS = (0, 40, 220)


def broken_run() -> Run:
    """A run whose last steps are not finite, and whose loss was NaN in the end."""
    made = run()
    nonfinite, low, high = made.steps.nonfinite.copy(), made.steps.scalars_low.copy(), made.steps.scalars_high.copy()
    nonfinite[250:] = 1
    low[250:, 0] = high[250:, 0] = np.nan
    steps = replace(made.steps, nonfinite=nonfinite, nan_losses=nonfinite, scalars_low=low, scalars_high=high)
    return replace(made, steps=steps)


def sampled(*, live: bool = False) -> str:
    """A run with three whole traces, each steeper than the one before."""
    traces = [(step, chain(20, 0.3 - 0.1 * i, 0.5, "sigmoid")) for i, step in enumerate(SAMPLED_STEPS)]
    made = replace(broken_run(), ranks=four_ranks(), entries=entries_of(len(broken_run().header.parameters)))
    return render_opened(Opened(Diagnosis(made.findings, (traces[-1][1],)), made, sampled=tuple(traces)), live=live)


def comparison() -> str:
    made = run()
    higher = replace(made.steps, scalars_low=3 * made.steps.scalars_low, scalars_high=3 * made.steps.scalars_high)
    return render_runs([("adam", made), (NASTY, replace(made, steps=higher)), ("broken", broken_run())])


def predicted() -> Prediction:
    layers = [layer for _ in range(4) for layer in (nn.Linear(16, 16), nn.Sigmoid())]
    return gradtrace.predict(nn.Sequential(*layers, nn.Linear(16, 2)), torch.randn(16, 16))


PAGES: dict[str, Callable[[], str]] = {
    "sigmoids": lambda: render(sigmoids()),
    "transformer": lambda: render(transformer()),
    "broken": lambda: render(broken()),
    "dead": lambda: render(dead()),
    "run": lambda: render(sigmoids(), run(), through_time=(through_time(),)),
    "sampled": sampled,
    "comparison": comparison,
    "repair": lambda: render(repaired().diagnosis, repair=repaired()),
    "prediction": lambda: render_opened(opened(predicted())),
    "time": lambda: render_opened(opened(through_time())),
    "nasty": lambda: render(nasty(), run(9, 220, name=NASTY.replace(".", "·") + ".{}")),
    "thousand": lambda: render(SAMPLES["thousand"](), run(1000, 500)),
    "blocks": lambda: render(Diagnosis((), (residual(500),), title="five hundred blocks")),
    **{name: of_sample(name) for name in SAMPLES if name != "thousand"},
}
