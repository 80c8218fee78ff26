"""One copy is trained: the same steps, the same order of the data and the same seeds for every copy.

What is measured is the unchanged loss function's value over the same batches before, between and after the steps, so
that a change of the loss itself is judged by what the user wanted to make small.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradtrace.measure.session import eager
from gradtrace.measure.untouched import fixed_random_state, untouched
from gradtrace.records.repair import Outcome

if TYPE_CHECKING:
    from gradtrace.repair.twin import Twin

SCORED_BATCHES = 4
"""Batches over which the loss is measured."""
NUM_POINTS = 8
"""Measurements along a training, the first aside."""
FEWEST_BETWEEN = 10
"""Steps between two of them: four forward passes are one and a third of a step."""
RATIO_STEPS = 20
"""Steps of which the update at the first layer is measured."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What every copy goes through."""

    batches: Sequence[Any]
    steps: int
    held_out: Sequence[Any] = ()
    first_layer: str = ""
    """Parameter whose updates are measured."""
    deadline: float = math.inf
    """On `time.perf_counter`'s clock; checked between steps."""
    advance: Callable[[], None] = lambda: None


class OutOfTime(Exception):  # noqa: N818 - it is no error
    """The budget is used up."""


def train(twin: Twin, plan: Plan, seed: int) -> Outcome:
    """Train the twin in place; global random numbers are put back. Raises `OutOfTime`."""
    with fixed_random_state(), eager():
        _seed_all(seed)
        order = order_of(len(plan.batches), plan.steps, seed)
        return _train(twin, plan, order, seed)


def order_of(num_batches: int, steps: int, seed: int) -> list[int]:
    """Which batch each step takes: epoch by epoch, shuffled; seed 0 keeps the order that was given."""
    generator = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < steps:
        order += list(range(num_batches)) if seed == 0 else [int(i) for i in generator.permutation(num_batches)]
    return order[:steps]


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _train(twin: Twin, plan: Plan, order: list[int], seed: int) -> Outcome:
    every = max(1, plan.steps // NUM_POINTS, min(FEWEST_BETWEEN, plan.steps))
    curve = [(0, score(twin, plan.batches))]
    ratios: list[float] = []
    spent, bad, done = 0.0, 0, 0
    first = dict(twin.model.named_parameters()).get(plan.first_layer)
    loss_fn = twin.training_loss_fn
    for step, index in enumerate(order):
        if time.perf_counter() > plan.deadline:
            raise OutOfTime
        before = first.detach().clone() if first is not None and step < RATIO_STEPS else None
        began = time.perf_counter()
        finite = _step(twin, loss_fn, plan.batches[index])
        spent += time.perf_counter() - began
        done += 1
        plan.advance()
        if not finite:
            bad += 1
            break  # what follows a NaN is NaN
        if before is not None and first is not None:
            ratios.append(_ratio(before, first.detach()))
        if done % every == 0 or done == plan.steps:
            curve.append((done, score(twin, plan.batches)))
            if not math.isfinite(curve[-1][1]):
                break
    if bad:
        curve.append((done, math.inf))
    held_out = score(twin, plan.held_out) if plan.held_out and math.isfinite(curve[-1][1]) else None
    ratio = statistics.median(ratios) if ratios else None
    return Outcome(seed, tuple(curve), held_out, ratio, bad, spent / max(done, 1))


def _step(twin: Twin, loss_fn: Callable[[Any, Any], Any], batch: Any) -> bool:
    """One optimizer step; whether loss and gradients were finite."""

    def closure() -> Any:
        twin.model.zero_grad(set_to_none=True)
        for optimizer in twin.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = loss_fn(twin.model, batch)
        loss.backward()
        return loss

    loss = closure()
    if not bool(torch.isfinite(loss.detach())):
        return False
    for optimizer in twin.optimizers:
        optimizer.step(closure if isinstance(optimizer, torch.optim.LBFGS) else None)
    return True


def _ratio(before: torch.Tensor, now: torch.Tensor) -> float:
    size = float(before.double().norm()) if not before.is_complex() else float(before.abs().double().norm())
    moved = float((now - before).abs().double().norm())
    return moved / size if size else math.inf if moved else 0.0


def score(twin: Twin, batches: Sequence[Any]) -> float:
    """Mean of the unchanged loss over the first batches; inf where one is not finite."""
    losses = []
    with untouched(twin.model):
        torch.manual_seed(0)
        for batch in batches[:SCORED_BATCHES]:
            try:
                with torch.no_grad():
                    value = twin.score(batch)
            except RuntimeError:  # a loss that takes gradients itself
                with torch.enable_grad():
                    value = twin.score(batch)
            losses.append(float(value.detach()))
    mean = sum(losses) / len(losses)
    return mean if math.isfinite(mean) else math.inf
