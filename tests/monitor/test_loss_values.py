"""A loss that is no number although all that comes to it is one: what made it so is named, and a twin has nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradtrace
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom


def told(loss: Callable[[Tensor], Tensor]) -> list[Finding]:
    """Of eight rows of six numbers each."""
    torch.manual_seed(0)
    model = nn.Linear(4, 6)
    optimizer = torch.optim.Adam(model.parameters())
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(3):
            optimizer.zero_grad()
            loss(model(torch.randn(8, 4))).backward()
            optimizer.step()
    return [f for f in watch.diagnosis.findings if f.severity is not Severity.INFO]


LEGAL = torch.tensor([True, True, True, False, True, True])


def entropy(logits: Tensor, *, left_out: bool) -> Tensor:
    masked = logits.masked_fill(~LEGAL, -torch.inf)
    log_p = masked.log_softmax(-1)
    return (masked.softmax(-1) * (log_p.masked_fill(~LEGAL, 0.0) if left_out else log_p)).sum(-1).mean()


def weighted(logits: Tensor, *, counted: float) -> Tensor:
    weight = 8.0 / torch.tensor([3.0, 3.0, 3.0, 3.0, 3.0, counted])
    labels = (torch.arange(48).view(8, 6) % 5 == 0).float() * (counted > 0.0)
    return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight)


def aligned(logits: Tensor, *, labels: list[int], whole: bool = True) -> Tensor:
    """Four steps of two sequences: the first is to read `labels`, the second three that differ."""
    log_p = logits.view(4, 2, 6).log_softmax(-1)
    targets = torch.tensor([labels, [1, 2, 3][: len(labels)]])
    lengths = torch.tensor([len(labels)] * 2)
    return F.ctc_loss(log_p, targets if whole else targets.flatten(), torch.tensor([4, 4]), lengths)


def test_zero_times_infinity() -> None:
    (found,) = told(lambda logits: entropy(logits, left_out=False))
    assert (found.symptom, found.cause) == (Symptom.NONFINITE, Cause.UNSAFE_OP)
    assert "mul, a product of zero and an infinite number" in found.message
    assert "masked_fill(a == 0, 0.0)" in found.remedies[0].code
    assert not told(lambda logits: entropy(logits, left_out=True))


def test_a_weight_that_is_infinite() -> None:
    (found,) = told(lambda logits: weighted(logits, counted=0.0))
    assert (found.symptom, found.cause) == (Symptom.NONFINITE, Cause.UNSAFE_OP)
    assert "its pos_weight holds NaN or Inf (entry 5 of 6)" in found.message
    assert "clamp_min(1)" in found.remedies[0].code
    assert not told(lambda logits: weighted(logits, counted=1.0))


@pytest.mark.parametrize("whole", [True, False])
def test_sequences_without_room_for_their_labels(whole: bool) -> None:
    (found,) = told(lambda logits: aligned(logits, labels=[1, 1, 1], whole=whole))
    assert (found.symptom, found.cause) == (Symptom.NONFINITE, Cause.UNSAFE_OP)
    said = "1 of 2 sequences cannot be aligned: 3 labels with 2 blanks between equal ones do not fit into 4 steps"
    assert said in found.message
    assert "zero_infinity" in found.remedies[0].code
    assert not told(lambda logits: aligned(logits, labels=[1, 1, 2], whole=whole))
