"""The lecture's network: twenty layers of sigmoids on real digits do not learn, and their ReLU twin does. Why?

X. Glorot and Y. Bengio (2010), Understanding the difficulty of training deep feedforward neural networks; K. He et al.
(2015), Delving deep into rectifiers, equation 10: Var(w) = 2 / fan_in keeps a ReLU network's gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradtrace.commands.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.records.repair import Repair

NUM_HIDDEN = 20
WIDTH = 64
BATCH = 128
NUM_STEPS = 400
LEARNING_RATE = 0.005
PROOF_STEPS = 60
"""Steps of each training on trial: the changed network has fallen below half of its first loss by then."""
PROOF_TIME_S = 45.0
"""Seconds that the proof may take, so that the whole is told within a minute."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a moment of training did."""

    name: str
    first_loss: float
    last_loss: float
    accuracy_frac: float
    first_layer_change: float
    """|W - W at the start| / |W at the start| of the first layer."""
    last_layer_change: float


def networks() -> tuple[Target, Target]:
    """The network of sigmoids as PyTorch initialises it, and the same with ReLUs, He-initialised."""
    from torch import nn

    sigmoid = _target(f"{NUM_HIDDEN} layers of sigmoids", nn.Sigmoid)
    relu = _target(f"{NUM_HIDDEN} layers of ReLUs", nn.ReLU)
    for module in relu.model.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return sigmoid, relu


def _target(name: str, activation: Any) -> Target:
    import torch
    from torch import nn

    from gradtrace.data import digits

    pixels, labels = (torch.from_numpy(array) for array in digits())
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    batches = list(zip(pixels[order].split(BATCH), labels[order].split(BATCH), strict=True))
    torch.manual_seed(0)
    model = nn.Sequential()
    for layer in range(1, NUM_HIDDEN + 1):
        model.add_module(f"layer{layer}", nn.Linear(WIDTH if layer > 1 else pixels.shape[1], WIDTH))
        model.add_module(f"activation{layer}", activation())
    model.add_module("output", nn.Linear(WIDTH, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    return Target(name, model, _cross_entropy, batches, optimizer)


def _cross_entropy(model: Any, batch: Any) -> Any:
    from torch.nn import functional as F

    pixels, labels = batch
    return F.cross_entropy(model(pixels), labels)


def prove(target: Target, say: Callable[[str], None]) -> Repair:
    """What `gradtrace fix` says of it: nothing is changed."""
    import gradtrace

    return gradtrace.fix(
        target.model, target.loss_fn, target.batches, target.optimizer,
        steps=PROOF_STEPS, time_budget_s=PROOF_TIME_S, progress=say,
    )  # fmt: skip


def train(target: Target, advance: Callable[[], None] = lambda: None) -> Outcome:
    """A few hundred steps, in place; `advance` is called after each."""
    import torch

    weights = [parameter for parameter in target.model.parameters() if parameter.dim() > 1]
    before = [weight.detach().clone() for weight in weights]
    losses = []
    for step in range(NUM_STEPS):
        loss = target.loss_fn(target.model, target.batches[step % len(target.batches)])
        target.optimizer.zero_grad()
        loss.backward()
        target.optimizer.step()
        losses.append(loss.detach())
        advance()
    with torch.no_grad():
        hits = sum(int((target.model(pixels).argmax(1) == labels).sum()) for pixels, labels in target.batches)
        change = [float((weight - old).norm() / old.norm()) for weight, old in zip(weights, before, strict=True)]
    num_examples = sum(len(labels) for _, labels in target.batches)
    return Outcome(target.name, float(losses[0]), float(losses[-1]), hits / num_examples, change[0], change[-1])
