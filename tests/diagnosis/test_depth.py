"""Vanishing and exploding: an ill network, its healthy twin, the scale of the loss, and both sides of the threshold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gradtrace
from gradtrace.records.vocabulary import Cause, Severity, Symptom

from .networks import Residual, batches, cross_entropy, mlp

HE = 2.0**0.5


def first(model: nn.Module, **options: object) -> tuple[Symptom, Cause] | None:
    """Symptom and cause of the first finding of warning or above; None for a healthy verdict."""
    diagnosis = gradtrace.check(model, cross_entropy, batches(), **options)  # type: ignore[arg-type]
    found = [f for f in diagnosis.findings if f.severity is not Severity.INFO]
    assert diagnosis.healthy == (not found)
    return (found[0].symptom, found[0].cause) if found else None


@pytest.mark.parametrize(
    ("model", "verdict"),
    [
        pytest.param(lambda: mlp(20, nn.Sigmoid), (Symptom.VANISHING, Cause.ACTIVATION_DERIVATIVE), id="sigmoid"),
        pytest.param(lambda: mlp(20, nn.ReLU, gain=HE), None, id="relu, He"),
        pytest.param(lambda: mlp(20, nn.ReLU, gain=0.5), (Symptom.VANISHING, Cause.SMALL_WEIGHTS), id="relu, small"),
        pytest.param(lambda: mlp(20, nn.ReLU, gain=3.0), (Symptom.EXPLODING, Cause.LARGE_WEIGHTS), id="relu, large"),
        pytest.param(lambda: mlp(10, nn.Tanh, gain=1.0), None, id="tanh, Xavier"),
        pytest.param(lambda: mlp(12, nn.Tanh, gain=12.0, width=16),
                     (Symptom.SATURATED, Cause.SATURATED_PREACTIVATION), id="tanh, flat"),
        pytest.param(lambda: Residual(60), (Symptom.EXPLODING, Cause.RESIDUAL_GROWTH), id="residual sum"),
        pytest.param(lambda: Residual(60, scale=0.1), None, id="residual, scaled"),
    ],
)  # fmt: skip
def test_first_finding(model: object, verdict: object) -> None:
    torch.manual_seed(0)
    assert first(model()) == verdict  # type: ignore[operator]


def test_batch_norm_without_skips_explodes_and_with_a_few_layers_does_not() -> None:
    """Yang et al. 2019: E[g^2] grows by pi/(pi-1) = 1.467 per layer."""

    def stack(depth: int) -> nn.Sequential:
        torch.manual_seed(0)
        layers = [layer for _ in range(depth) for layer in (nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU())]
        return nn.Sequential(nn.Linear(16, 32), *layers, nn.Linear(32, 4))

    assert first(stack(50)) == (Symptom.EXPLODING, Cause.BATCHNORM_EXPLOSION)
    assert first(stack(8)) is None


@pytest.mark.parametrize(("exponent", "ill"), [(-1.5, False), (-2.5, True), (-3.5, True)])
def test_one_constant_on_both_sides_of_the_threshold(exponent: float, ill: bool) -> None:
    """A product with 10^k between two layers shifts early against late by k decades, and nothing else."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 4)
            for layer in (self.a, self.b, self.c):
                nn.init.orthogonal_(layer.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.b(self.a(x) * 10.0**exponent))

    torch.manual_seed(0)
    diagnosis = gradtrace.check(Scaled(), cross_entropy, batches())
    assert diagnosis.healthy is not ill
    if ill:
        severity = Severity.CRITICAL if exponent < -3 else Severity.WARNING
        assert (diagnosis.findings[0].cause, diagnosis.findings[0].severity) == (Cause.SMALL_WEIGHTS, severity)


@settings(max_examples=6)
@given(
    scale=st.sampled_from([1e-6, 1e-3, 1e3, 1e6]), depth=st.integers(6, 16), kind=st.sampled_from(["sigmoid", "relu"])
)
def test_the_scale_of_the_loss_changes_no_finding(scale: float, depth: int, kind: str) -> None:
    torch.manual_seed(depth)
    model = mlp(depth, {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}[kind])

    def scaled(model: nn.Module, batch: object) -> torch.Tensor:
        return scale * cross_entropy(model, batch)

    plain, other = (gradtrace.check(model, loss_fn, batches()) for loss_fn in (cross_entropy, scaled))
    assert [(f.symptom, f.cause, f.where, f.severity) for f in plain.findings] == [
        (f.symptom, f.cause, f.where, f.severity) for f in other.findings
    ]


def test_adam_evens_out_a_small_gradient_but_not_one_below_its_eps() -> None:
    torch.manual_seed(0)
    mild, grave = mlp(9, nn.ReLU), mlp(20, nn.Sigmoid)
    for model, healthy in ((mild, True), (grave, False)):
        assert not gradtrace.check(model, cross_entropy, batches()).healthy
        adam = torch.optim.Adam(model.parameters(), lr=1e-4)
        assert gradtrace.check(model, cross_entropy, batches(), optimizer=adam).healthy is healthy


def test_a_head_or_adapter_that_starts_at_zero_is_no_fault_and_a_network_of_zeros_is() -> None:
    torch.manual_seed(0)
    model = mlp(3, nn.ReLU, gain=HE)
    nn.init.zeros_(model[-1].weight)  # type: ignore[arg-type]
    assert first(model) is None
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert first(model) is not None


def test_the_same_block_applied_again_and_again_is_a_recurrence() -> None:
    class Tied(nn.Module):
        def __init__(self, gain: float) -> None:
            super().__init__()
            self.stem, self.block, self.head = nn.Linear(16, 32), nn.Linear(32, 32, bias=False), nn.Linear(32, 4)
            nn.init.orthogonal_(self.block.weight, gain)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            for _ in range(30):
                x = self.block(x)
            return self.head(x)

    torch.manual_seed(0)
    assert first(Tied(0.7)) == (Symptom.VANISHING, Cause.RECURRENT_CONTRACTION)
    assert first(Tied(1.4)) == (Symptom.EXPLODING, Cause.RECURRENT_EXPANSION)
    assert first(Tied(1.0)) is None


def test_a_block_of_several_layers_is_named_as_a_whole() -> None:
    class Looped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(16, 32), nn.Linear(32, 4)
            self.block = nn.Sequential(*(layer for _ in range(3) for layer in (nn.Linear(32, 32), nn.Tanh())))
            for layer in self.block[::2]:
                nn.init.orthogonal_(layer.weight, 0.6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            for _ in range(8):
                x = self.block(x)
            return self.head(x)

    torch.manual_seed(0)
    found = gradtrace.check(Looped(), cross_entropy, batches()).findings[0]
    assert (found.cause, found.where) == (Cause.RECURRENT_CONTRACTION, ("block",))
    assert "applied 8 times" in found.message


@pytest.mark.parametrize(
    ("kind", "cause"), [(nn.Sigmoid, Cause.ACTIVATION_DERIVATIVE), (nn.PReLU, Cause.SMALL_WEIGHTS)]
)
def test_one_activation_between_many_layers_is_no_recurrence(kind: type[nn.Module], cause: Cause) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(16))
            self.act, self.head = kind(), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = self.act(layer(x))
            return self.head(x)

    torch.manual_seed(0)
    assert first(Shared()) == (Symptom.VANISHING, cause)


@pytest.mark.parametrize("whole", [False, True])
def test_parts_of_one_parameter_are_layers_and_the_whole_of_it_again_and_again_is_a_recurrence(whole: bool) -> None:
    class Stacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights, self.head = nn.Parameter(torch.randn(1 if whole else 14, 16, 16) / 4), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for i in range(14):
                x = torch.einsum("bi,oi->bo", x, self.weights[0 if whole else i]).sigmoid()
            return self.head(x)

    torch.manual_seed(0)
    cause = Cause.RECURRENT_CONTRACTION if whole else Cause.ACTIVATION_DERIVATIVE
    assert first(Stacked()) == (Symptom.VANISHING, cause)


class Scaled(nn.Module):
    """The first layer reaches the output only through a branch that is multiplied by a scale per feature."""

    def __init__(self, scale: float, learned: bool) -> None:
        super().__init__()
        self.stem, self.inner, self.head = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 4)
        self.scale = nn.Parameter(torch.full((32,), scale), requires_grad=learned)
        self.query = nn.Parameter(torch.ones(32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.query + self.scale * self.inner(self.stem(x).relu()))


@pytest.mark.parametrize("optimizer", [None, torch.optim.SGD, torch.optim.Adam])
def test_a_layer_scale_that_starts_near_zero_opens_by_itself_and_a_fixed_one_does_not(optimizer: Any) -> None:
    for learned in (True, False):
        torch.manual_seed(0)
        model = Scaled(1e-6, learned)
        options = {} if optimizer is None else {"optimizer": optimizer(model.parameters(), lr=1e-3)}
        found = [f for f in gradtrace.check(model, cross_entropy, batches(), **options).findings
                 if f.symptom is Symptom.VANISHING]  # fmt: skip
        assert [f.severity is Severity.INFO for f in found] == [learned]


@pytest.mark.parametrize(("norm", "healthy"), [(nn.LayerNorm, True), (None, False)])
def test_a_tiny_embedding_in_front_of_a_norm_is_no_explosion(norm: Any, healthy: bool) -> None:
    torch.manual_seed(0)
    model = mlp(4, nn.ReLU, gain=HE)
    with torch.no_grad():
        model[0].weight *= 1e-4  # type: ignore[operator]
        if norm is None:  # the same amplification by weights
            model[2].weight *= 1e4  # type: ignore[operator]
        else:
            model.insert(1, norm(32))
    exploding = [f for f in gradtrace.check(model, cross_entropy, batches()).findings if f.symptom is Symptom.EXPLODING]
    assert bool(exploding) is not healthy


class Spread(nn.Module):
    """A mean and exp(log variance) of noise, as in a variational autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.mu, self.logvar, self.dec = (
            nn.Linear(16, 32),
            nn.Linear(32, 8),
            nn.Linear(32, 8),
            nn.Linear(8, 4),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.enc(x))
        return self.dec(self.mu(h) + torch.exp(0.5 * self.logvar(h)))


@pytest.mark.parametrize(("scale", "ill"), [(100.0, True), (1.0, False)])
def test_an_exponential_that_is_steep_by_the_inputs_is_theirs(scale: float, ill: bool) -> None:
    torch.manual_seed(0)
    scaled = [(scale * inputs, labels) for inputs, labels in batches()]
    found = [f for f in gradtrace.check(Spread(), cross_entropy, scaled).findings if f.severity is not Severity.INFO]
    seen = [(f.symptom, f.cause, f.where[:2]) for f in found[:1]]
    assert seen == ([(Symptom.EXPLODING, Cause.INPUT_SCALE, ("enc", "logvar"))] if ill else [])
