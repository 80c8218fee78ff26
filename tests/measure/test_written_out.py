"""Losses that are written out are known as what they are equal to; what only looks like one is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import gradtrace
from gradtrace.records.trace import ObjectiveStats

N = 16
_G = torch.Generator().manual_seed(0)
X, Y = torch.randn(N, 5, generator=_G), torch.randn(N, 3, generator=_G)
LABELS = torch.randint(0, 4, (N,), generator=_G)
ONE_HOT = F.one_hot(LABELS, 4).float()
SOFT = torch.softmax(torch.randn(N, 4, generator=_G), 1)
BITS = (torch.rand(N, 3, generator=_G) > 0.5).float()
MASK = (torch.rand(N, 3, generator=_G) > 0.3).float()
WEIGHTS = torch.rand(N, 3, generator=_G)


def known(loss: Callable[[Tensor], Tensor], outputs: int = 3, module: type[nn.Module] | None = None) -> Any:
    """The objectives of `loss(output)`, output a linear function of X."""
    torch.manual_seed(0)
    model = nn.Linear(5, outputs)
    trace = gradtrace.trace(model, lambda m, x: loss(m(x)), X)
    assert not [note for note in trace.coverage.notes if "could not" in note]
    return [op.objective for op in trace.ops if op.objective is not None]


def same(found: list[ObjectiveStats], expected: list[ObjectiveStats]) -> bool:
    numbers = [[(o.value, o.constant, o.floor, o.beyond, o.held_against) for o in each] for each in (found, expected)]
    return len(found) == len(expected) == 1 and numbers[0][0] == pytest.approx(numbers[1][0], rel=1e-4, abs=1e-6)


def log_softmax(o: Tensor) -> Tensor:
    return F.log_softmax(o, 1)


SQUARED: dict[str, Callable[[Tensor], Tensor]] = {
    "power": lambda o: ((o - Y) ** 2).mean(),
    "target first, summed": lambda o: (Y - o).pow(2).sum(),
    "by hand over the batch": lambda o: (o - Y).square().sum() / N,
    "half": lambda o: 0.5 * ((o - Y) ** 2).mean(),
    "sum of features": lambda o: ((o - Y) ** 2).sum(1).mean(),
    "twice reduced": lambda o: ((o - Y) ** 2).mean(-1, keepdim=True).sum(dim=0)[0] * 0.1,
    "product": lambda o: (lambda d: (d * d).mean())(o - Y),
    "one difference times another": lambda o: ((o - Y) * (o - Y)).mean(),
    "times the one turned round": lambda o: -((o - Y) * (Y - o)).mean(),
    "times a scaled one": lambda o: ((o - Y) * (0.5 * (o - Y))).sum(1).mean(),
    "flattened": lambda o: (o - Y).view(-1).pow(2).mean(),
    "scaled error": lambda o: ((o - Y) / 2).pow(2).mean(),
    "a constant beside": lambda o: ((o - Y) ** 2).mean() + 3.0,
    "another term beside each": lambda o: (((o - Y) ** 2).sum(1) + o.exp().sum(1)).mean(),
    "root": lambda o: ((o - Y) ** 2).mean().sqrt(),
    "wide": lambda o: ((o - Y).double() ** 2).mean(),
}


@pytest.mark.parametrize("name", SQUARED)
def test_squared_errors(name: str) -> None:
    found = known(SQUARED[name])
    assert same(found, known(lambda o: F.mse_loss(o, Y)))
    assert found[0].function == "mse_loss"


def test_absolute_errors() -> None:
    assert same(known(lambda o: (o - Y).abs().mean()), known(lambda o: F.l1_loss(o, Y)))
    assert same(known(lambda o: torch.abs(Y - o).sum()), known(lambda o: F.l1_loss(o, Y)))


LIKELIHOODS: dict[str, Callable[[Tensor], Tensor]] = {
    "picked by range": lambda o: -log_softmax(o)[range(N), LABELS].mean(),
    "picked by arange, summed": lambda o: -torch.log_softmax(o, 1)[torch.arange(N), LABELS].sum(),
    "probabilities picked": lambda o: -o.softmax(1)[range(N), LABELS].log().mean(),
    "gathered": lambda o: -log_softmax(o).gather(1, LABELS[:, None]).mean(),
    "gathered and squeezed": lambda o: -torch.log(torch.softmax(o, 1)).gather(1, LABELS.view(-1, 1)).squeeze(1).mean(),
    "gathered and sliced": lambda o: (-log_softmax(o).gather(1, LABELS[:, None])[:, 0]).sum() / N,
    "logits less their log sum exp": lambda o: -(o - o.logsumexp(1, keepdim=True))[torch.arange(N), LABELS].mean(),
    "one-hot": lambda o: -(ONE_HOT * log_softmax(o)).sum(1).mean(),
    "one-hot, negative first": lambda o: (-ONE_HOT * log_softmax(o)).sum(-1).mean(),
    "one-hot, all at once": lambda o: -(log_softmax(o) * ONE_HOT).sum() / N,
    "one-hot integers": lambda o: -(F.one_hot(LABELS, 4) * log_softmax(o)).sum(1).mean(),
    "a little added": lambda o: -(ONE_HOT * torch.log(torch.softmax(o, 1) + 1e-9)).sum(1).mean(),
    "negative logarithms picked": lambda o: (-log_softmax(o))[range(N), LABELS].mean(),
    "negative logarithms gathered": lambda o: (-log_softmax(o)).gather(1, LABELS[:, None]).mean(),
    "mean of all entries": lambda o: -(ONE_HOT * log_softmax(o)).mean(),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_cross_entropies(name: str) -> None:
    found = known(LIKELIHOODS[name], 4)
    assert same(found, known(lambda o: F.cross_entropy(o, LABELS), 4))
    assert found[0].function == "cross_entropy"


def test_cross_entropy_of_probabilities() -> None:
    found = known(lambda o: -(SOFT * log_softmax(o)).sum(1).mean(), 4)
    assert same(found, known(lambda o: F.cross_entropy(o, SOFT), 4))


def test_cross_entropy_of_each_position() -> None:
    """[batch, time, classes], as a language model has it."""
    labels = torch.stack([LABELS, LABELS.flip(0)], 1)
    found = known(lambda o: -F.log_softmax(o.view(N, 2, 4), -1).gather(-1, labels[..., None]).squeeze(-1).mean(), 8)
    assert same(found, known(lambda o: F.cross_entropy(o.view(-1, 4), labels.view(-1)), 8))


BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "usual": lambda o, p: -(BITS * p.log() + (1 - BITS) * (1 - p).log()).mean(),
    "signs within": lambda o, p: (-BITS * p.log() - (1 - BITS) * (1 - p).log()).mean(),
    "log sigmoid": lambda o, p: -(BITS * F.logsigmoid(o) + (1 - BITS) * F.logsigmoid(-o)).mean(),
    "a little added": lambda o, p: -torch.mean(BITS * torch.log(p + 1e-8) + (1 - BITS) * torch.log(1 - p + 1e-8)),
    "clamped": lambda o, p: -(lambda p: BITS * p.log() + (1 - BITS) * torch.log1p(-p))(p.clamp(1e-6, 1 - 1e-6)).mean(),
    "negative logarithms": lambda o, p: (BITS * -F.logsigmoid(o) + (1 - BITS) * -F.logsigmoid(-o)).mean(),
    "softplus": lambda o, p: (F.softplus(o) - BITS * o).mean(),
    "softplus, product first": lambda o, p: -(o * BITS - F.softplus(o)).mean(),
    "softplus, added": lambda o, p: (-BITS * o + F.softplus(o)).sum(1).mean(),
    "softplus of the negative": lambda o, p: (F.softplus(-o) + (1 - BITS) * o).mean(),
    "softplus of both": lambda o, p: (BITS * F.softplus(-o) + (1 - BITS) * F.softplus(o)).mean(),
    "log sigmoid of the negative": lambda o, p: -(F.logsigmoid(-o) + BITS * o).mean(),
    "logarithm of one more": lambda o, p: (torch.log1p(o.exp()) - BITS * o).mean(),
    "stable": lambda o, p: (o.clamp(min=0) - o * BITS + torch.log1p(torch.exp(-o.abs()))).mean(),
    "stable, logarithm first": lambda o, p: (torch.log(1 + torch.exp(-o.abs())) + F.relu(o) - BITS * o).mean(),
    "summed": lambda o, p: -(BITS * p.log() + (1 - BITS) * torch.log1p(-p)).sum(1).mean(),
}


@pytest.mark.parametrize("name", BINARY)
def test_binary_cross_entropies(name: str) -> None:
    found = known(lambda o: BINARY[name](o, torch.sigmoid(o)))
    assert same(found, known(lambda o: F.binary_cross_entropy_with_logits(o, BITS)))
    assert found[0].function.startswith("binary_cross_entropy")


def test_weights_are_those_of_the_weighted_variance() -> None:
    def expected(w: Tensor, o: Tensor) -> list[float]:
        centre = (w * Y).sum(0) / w.sum(0)
        return [((w * (e) ** 2).sum() / w.sum()).item() for e in (o - Y, centre - Y)]

    torch.manual_seed(0)
    output = nn.Linear(5, 3)(X).detach()
    for loss, weights in (
        (lambda o: (WEIGHTS * (o - Y) ** 2).mean(), WEIGHTS),
        (lambda o: (WEIGHTS * (o - Y)).pow(2).sum(), WEIGHTS**2),
        (lambda o: (MASK * (o - Y) ** 2).sum() / MASK.sum(), MASK),
        (lambda o: (WEIGHTS[:, 0] * ((o - Y) ** 2).sum(1)).mean(), WEIGHTS[:, :1].expand(N, 3)),
        (lambda o: (((o - Y) ** 2).view(-1) * WEIGHTS.view(-1)).mean(), WEIGHTS),
    ):
        (one,) = known(loss)
        assert [one.value, one.constant] == pytest.approx(expected(weights, output), rel=1e-4)


def test_a_mask_leaves_out_what_it_masks() -> None:
    """Half of the batch: the same as the other half alone."""
    half = torch.arange(N) < N // 2
    for loss, alone in (
        (lambda o: ((o - Y).abs() * half[:, None]).sum(), lambda o: F.l1_loss(o[: N // 2], Y[: N // 2])),
        (lambda o: (-log_softmax(o)[range(N), LABELS[:N] % 3] * half).sum() / half.sum(),
         lambda o: F.cross_entropy(o[: N // 2], LABELS[: N // 2] % 3)),
        (lambda o: -(half[:, None] * (BITS * F.logsigmoid(o) + (1 - BITS) * F.logsigmoid(-o))).sum(),
         lambda o: F.binary_cross_entropy_with_logits(o[: N // 2], BITS[: N // 2])),
    ):  # fmt: skip
        found, expected = known(loss), known(alone)
        assert found[0].value == pytest.approx(expected[0].value, rel=1e-4)
        if found[0].function != "l1_loss":  # (of a median of an even number of targets there are two)
            assert found[0].constant == pytest.approx(expected[0].constant, rel=1e-4)


ROWS = torch.rand(N, generator=_G) > 0.4
ENTRIES = MASK > 0
ORDER = torch.tensor([3, 0, 7, 5])
CHOSEN: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "entries": (lambda o: ((o - Y) ** 2)[ENTRIES].mean(), lambda o: (MASK * (o - Y) ** 2).sum()),
    "entries, before the square": (lambda o: (o - Y)[ENTRIES].pow(2).mean(), lambda o: (MASK * (o - Y) ** 2).sum()),
    "rows": (lambda o: ((o - Y) ** 2)[ROWS].sum(), lambda o: F.mse_loss(o[ROWS], Y[ROWS])),
    "rows of sums": (lambda o: ((o - Y) ** 2).sum(1)[ROWS].mean(), lambda o: F.mse_loss(o[ROWS], Y[ROWS])),
    "rows by number": (lambda o: ((o - Y) ** 2)[ORDER].mean(), lambda o: F.mse_loss(o[ORDER], Y[ORDER])),
    "a slice": (lambda o: ((o - Y) ** 2)[:5, 1:].mean(), lambda o: F.mse_loss(o[:5, 1:], Y[:5, 1:])),
    "masked_select": (
        lambda o: torch.masked_select((o - Y) ** 2, ENTRIES).mean(), lambda o: (MASK * (o - Y) ** 2).sum(),
    ),
    "masked_fill": (
        lambda o: ((o - Y) ** 2).masked_fill(~ENTRIES, 0.0).sum(), lambda o: (MASK * (o - Y) ** 2).sum(),
    ),
    "where": (lambda o: torch.where(ENTRIES, (o - Y) ** 2, 0.0).sum(), lambda o: (MASK * (o - Y) ** 2).sum()),
    "likelihoods": (
        lambda o: (-log_softmax(o)[range(N), LABELS % 3])[ROWS].mean(),
        lambda o: F.cross_entropy(o[ROWS], LABELS[ROWS] % 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHOSEN)
def test_errors_of_which_some_are_picked(name: str) -> None:
    """As if the others were weighed with nothing."""
    loss, alone = CHOSEN[name]
    assert same(known(loss), known(alone))


CLASS_WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 0.5])


@pytest.mark.parametrize("loss", [
    lambda o: -(CLASS_WEIGHTS[LABELS] * log_softmax(o)[range(N), LABELS]).mean(),
    lambda o: -(log_softmax(o).gather(1, LABELS[:, None]).squeeze(1) * CLASS_WEIGHTS[LABELS]).sum(),
    lambda o: F.cross_entropy(o, LABELS, weight=CLASS_WEIGHTS),
    lambda o: F.nll_loss(log_softmax(o), LABELS, CLASS_WEIGHTS),
])  # fmt: skip
def test_class_weights_are_those_of_the_counts(loss: Callable[[Tensor], Tensor]) -> None:
    """No constant is better than the weighted shares of the classes."""
    torch.manual_seed(0)
    output = nn.Linear(5, 4)(X).detach()
    shares = torch.bincount(LABELS, CLASS_WEIGHTS[LABELS], 4)
    constant = (shares / shares.sum()).log().expand(N, 4)
    expected = [F.cross_entropy(o, LABELS, weight=CLASS_WEIGHTS).item() for o in (output, constant)]
    (one,) = known(loss, 4)
    assert [one.value, one.constant] == pytest.approx(expected, rel=1e-4)


def test_a_column_against_a_row() -> None:
    found = known(lambda o: ((o - Y[:, 0]) ** 2).mean(), 1)
    assert found[0].held_against == N
    assert found[0].floor == pytest.approx(found[0].constant)


def test_each_of_two_terms_counts_by_itself() -> None:
    other = Y.flip(0)
    one, two = known(lambda o: ((o - Y) ** 2 + 2.0 * (o - other) ** 2).mean())
    assert {round(o.value, 4) for o in (one, two)} == {
        round(known(lambda o, t=t: F.mse_loss(o, t))[0].value, 4) for t in (Y, other)
    }


UNKNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "an error that is to grow": lambda o: -((o - Y) ** 2).mean(),
    "a likelihood that is to fall": lambda o: log_softmax(o)[range(N), LABELS % 3].mean(),
    "negative weights": lambda o: ((WEIGHTS - 0.5) * (o - Y) ** 2).mean(),
    "rows out of order": lambda o: -log_softmax(o)[torch.arange(N).flip(0), LABELS % 3].mean(),
    "no probabilities": lambda o: -torch.log(o.abs() + 1.0)[range(N), LABELS % 3].mean(),
    "a policy's advantages": lambda o: -(log_softmax(o)[range(N), LABELS % 3] * WEIGHTS[:, 0]).mean(),
    "weights of which one row has another": lambda o: (
        -(log_softmax(o)[range(N), LABELS % 3] * (CLASS_WEIGHTS[LABELS % 3] + (torch.arange(N) == 3))).mean()
    ),
    "rewards of actions of which each came once": lambda o: (
        -(log_softmax(o)[:3][range(3), torch.arange(3)] * torch.tensor([0.5, 2.0, 1.0])).mean()
    ),
    "one difference times that of other outputs": lambda o: ((o - Y) * (o.roll(1, 0) - Y)).mean(),
    "softplus less something else": lambda o: (F.softplus(o) - BITS * o.roll(1, 0)).mean(),
    "softplus less no probabilities": lambda o: (F.softplus(o) - 3 * WEIGHTS * o).mean(),
    "a hinge and a product": lambda o: (F.relu(o) - BITS * o).mean(),
    "twice of a softplus": lambda o: (2 * F.softplus(o) - BITS * o).mean(),
    "one number as the target": lambda o: ((o - 1.0) ** 2).mean(),
    "two sides that learn": lambda o: ((o - o.roll(1, 0)) ** 2).mean(),
    "a ratio of likelihoods": lambda o: (
        -((log_softmax(o)[range(N), LABELS % 3] - torch.full((N,), -1.0)).exp() * WEIGHTS[:, 0]).mean()
    ),
    "a positive weight": lambda o: -(3 * BITS * F.logsigmoid(o) + (1 - BITS) * F.logsigmoid(-o)).mean(),
    "one half of a binary cross entropy": lambda o: -(BITS * F.logsigmoid(o)).mean(),
    "changed in place": lambda o: (lambda d: d.mul_(o).square().mean())((o - Y).clone()),
    "distances that are compared": lambda o: ((o[:, None] - Y) ** 2).sum(-1).amin(1).mean(),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_equal_to_no_known_one(name: str) -> None:
    assert known(UNKNOWN[name]) == []


def test_squares_within_the_network_are_no_loss() -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3)
            self.register_buffer("centre", Y[0].clone())

        def forward(self, x: Tensor) -> Tensor:
            h = self.layer(x)
            return h / ((h - self.centre) ** 2).mean().sqrt()

    trace = gradtrace.trace(Normalised(), lambda m, x: m(x).exp().mean(), X)
    assert [op for op in trace.ops if op.objective is not None] == []


@given(st.floats(1e-3, 1e3), st.sampled_from(["sum", "mean", "rows", "columns"]), st.booleans())
def test_no_factor_and_no_order_of_sums_matters(factor: float, reduction: str, first: bool) -> None:
    def loss(o: Tensor) -> Tensor:
        d = (o - Y) * factor if first else o - Y
        e = d.square() if first else d.square() * factor
        ways = {"sum": e.sum(), "mean": e.mean(), "rows": e.mean(1).sum(), "columns": e.sum(0).mean()}
        return ways[reduction]

    assert same(known(loss), known(lambda o: F.mse_loss(o, Y)))
