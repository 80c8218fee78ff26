"""The same in every loop: numbers equal to plain PyTorch's, silence on health, a planted NaN named with its line."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import gradtrace
from gradtrace.records.run import Scalar
from gradtrace.records.vocabulary import Severity, Symptom

from .table import LINE, LOOPS, Loop, Truth

# what torch 2.8's own LBFGS does with the loss that a closure returns
pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")


def watched(loop: Loop, num_turns: int, bad: int = -1, **options: Any) -> tuple[Any, Truth]:
    truth: Truth = []
    with gradtrace.watch(loop.models, loop.optimizers, budget=1.0, **options) as watch:
        for number in range(num_turns):
            loop.spoiled.is_bad = number == bad
            truth += loop.step(number)
            loop.after(watch)
    return watch, truth


@pytest.mark.parametrize("name", LOOPS)
def test_the_numbers_of_every_step_are_those_of_plain_torch(name: str) -> None:
    torch.manual_seed(0)
    watch, truth = watched(LOOPS[name](), 24)
    steps = watch.run.steps
    assert watch.run.notes == ()
    assert steps.first.tolist() == list(range(len(truth)))
    for scalar, expected in zip((Scalar.LOSS, Scalar.GRADIENT_NORM), zip(*truth, strict=True), strict=True):
        wanted = [math.nan if value is None else value for value in expected]
        np.testing.assert_allclose(steps.scalar(scalar)[1], wanted, rtol=2e-5, err_msg=scalar)
    assert not steps.nonfinite.any()
    assert not steps.nan_losses.any()


@pytest.mark.parametrize("name", LOOPS)
def test_healthy_stays_healthy(name: str) -> None:
    torch.manual_seed(0)
    watch, _ = watched(LOOPS[name](), 60)
    assert [f.message for f in watch.diagnosis.findings if f.severity is not Severity.INFO] == []


@pytest.mark.parametrize("name", LOOPS)
def test_training_is_bit_for_bit_the_same(name: str) -> None:
    results = []
    for is_watched in (False, True):
        torch.manual_seed(0)
        loop = LOOPS[name]()
        if is_watched:
            _, truth = watched(loop, 40, every=3)
        else:
            truth = [row for number in range(40) for row in loop.step(number)]
        results.append((truth, torch.get_rng_state().tolist()))
    assert results[0] == results[1]


@pytest.mark.parametrize("bad", [0, 1, 50])
@pytest.mark.parametrize("name", LOOPS)
def test_a_planted_nan_is_named_with_op_module_and_line(name: str, bad: int) -> None:
    torch.manual_seed(0)
    loop = LOOPS[name]()
    if name == "a_batch_is_left_out":
        bad += bad == 50 and bad % 5 == 4
    watch, truth = watched(loop, bad + 2, bad)
    finding = watch.diagnosis.findings[0]
    assert (finding.symptom, finding.severity, finding.step) == (Symptom.NONFINITE, Severity.CRITICAL, bad)
    if loop.is_called:
        assert "log" in finding.message
        assert finding.where[0] == loop.where
        assert finding.source.endswith(f"table.py:{LINE}")
    latest = watch.run.steps.latest(Scalar.LOSS)
    assert (latest is None and truth[-1][0] is None) or math.isnan(latest)
