"""Gradients below eps, layer norm over one entry, raw inputs behind a squashed output, layers that steps saturate."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradtrace
from gradtrace.records.finding import Diagnosis, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def loud(diagnosis: Diagnosis) -> list[Finding]:
    return [finding for finding in diagnosis.findings if finding.severity is not Severity.INFO]


def named(findings: list[Finding]) -> list[tuple[Symptom, Cause]]:
    return [(finding.symptom, finding.cause) for finding in findings]


def network(*inner: nn.Module, outputs: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, outputs), *inner)


def classes() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(64, 16), torch.randint(0, 4, (64,))) for _ in range(3)]


@pytest.mark.parametrize(
    ("scale", "eps", "expected"),
    [
        (1.0, 1e-8, []),
        (1e-10, 1e-8, [(Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT)]),
        (1e-10, 1e-18, []),
    ],
)
def test_a_loss_divided_once_too_often(scale: float, eps: float, expected: list[tuple[Symptom, Cause]]) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), eps=eps)

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return scale * F.cross_entropy(model(batch[0]), batch[1])

    assert named(loud(gradtrace.check(model, loss_fn, classes(), optimizer=optimizer))) == expected


def test_a_small_gradient_at_a_minimum_is_healthy() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    x, _ = classes()[0]
    batch = (x, model(x).detach() + 1e-3 * torch.randn(64, 4))

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return 1e-8 * F.mse_loss(model(batch[0]), batch[1])

    assert loud(gradtrace.check(model, loss_fn, [batch], optimizer=optimizer)) == []


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("features", "ill"), [(1, True), (8, False)])
def test_layer_norm_over_one_entry_cuts(features: int, affine: bool, ill: bool) -> None:
    model = network(nn.LayerNorm(features, elementwise_affine=affine), nn.Linear(features, 1), outputs=features)
    batches = [(torch.randn(64, 16), torch.randn(64, 1)) for _ in range(3)]
    found = loud(gradtrace.check(model, lambda m, b: F.mse_loss(m(b[0]), b[1]), batches))
    assert named(found) == ([(Symptom.DISCONNECTED, Cause.DETACHED_GRAPH)] if ill else [])
    assert not ill or found[0].where == ("3",)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("groups", "pixels", "ill"), [(8, 1, True), (4, 1, False), (8, 2, False), (1, 1, False)])
def test_group_norm_with_a_group_for_each_pixel_cuts(groups: int, pixels: int, affine: bool, ill: bool) -> None:
    pooled = (nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(pixels))
    model = nn.Sequential(
        *pooled, nn.GroupNorm(groups, 8, affine=affine), nn.Flatten(), nn.Linear(8 * pixels * pixels, 4)
    )
    batches = [(torch.randn(32, 1, 8, 8), torch.randint(0, 4, (32,))) for _ in range(3)]
    found = loud(gradtrace.check(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), batches))
    assert named(found) == ([(Symptom.DISCONNECTED, Cause.DETACHED_GRAPH)] if ill else [])
    assert not ill or found[0].where == ("3",)


@pytest.mark.parametrize(("p", "examples", "ill"), [(1.0, 64, True), (0.9, 64, False), (1.0, 1, False)])
def test_dropout_of_every_entry_cuts(p: float, examples: int, ill: bool) -> None:
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(p), nn.Linear(64, 4))
    batches = [(x[:examples], y[:examples]) for x, y in classes()]
    found = loud(gradtrace.check(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), batches))
    cuts = [f for f in found if f.symptom is Symptom.DISCONNECTED]
    assert [(f.cause, f.where) for f in cuts] == ([(Cause.DETACHED_GRAPH, ("2",))] if ill else [])


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("groups", "ill"), [(32, True), (8, False)])
def test_a_group_norm_with_a_group_for_each_feature_cuts(groups: int, affine: bool, ill: bool) -> None:
    def block(inputs: int) -> list[nn.Module]:
        return [nn.Linear(inputs, 32), nn.GroupNorm(groups, 32, affine=affine), nn.Tanh()]

    model = nn.Sequential(*block(16), *block(32), nn.Linear(32, 4))
    found = loud(gradtrace.check(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), classes()))
    assert named(found)[:1] == ([(Symptom.DISCONNECTED, Cause.DETACHED_GRAPH)] if ill else [])
    assert Symptom.VANISHING not in {finding.symptom for finding in found}


def test_a_group_norm_of_large_numbers_passes_little_and_learns() -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.GroupNorm(8, 32), nn.ReLU(), nn.Linear(32, 4))
    batches = [(1e4 * x, y) for x, y in classes()]
    found = gradtrace.check(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), batches).findings
    assert Symptom.DISCONNECTED not in {finding.symptom for finding in found}


def test_raw_inputs_behind_a_saturated_output_are_named() -> None:
    def verdict(scale: float, gain: float) -> list[Finding]:
        torch.manual_seed(0)
        model = network(nn.Tanh(), outputs=1)
        with torch.no_grad():
            model[2].weight *= gain
        batches = [(scale * (1 + torch.rand(64, 16)), 0.5 * torch.rand(64, 1) - 0.25) for _ in range(3)]
        return loud(gradtrace.check(model, lambda m, b: ((m(b[0]) - b[1]) ** 2).sum(1).mean(), batches))

    assert named(verdict(3000.0, 1.0))[:1] == [(Symptom.SATURATED, Cause.INPUT_SCALE)]
    assert named(verdict(1.0, 3000.0))[:1] == [(Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION)]
    assert verdict(1.0, 1.0) == []


@pytest.mark.parametrize(("rate", "ill"), [(1.0, True), (1e-3, False)])
def test_attention_that_the_steps_saturate_is_the_rate_s(rate: float, ill: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            rows = (self.q(x) @ self.k(x).mT / 4).softmax(-1)
            return self.out((rows @ self.v(x)).mean(1))

    model = Net()
    batches = [(torch.randn(16, 8, 16), torch.randint(0, 4, (16,))) for _ in range(3)]
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    loss_fn = lambda m, b: F.cross_entropy(m(b[0]), b[1])  # noqa: E731
    found = loud(gradtrace.check(model, loss_fn, batches, optimizer=optimizer, steps=12))
    flat = [f for f in found if f.symptom is Symptom.SATURATED]
    assert {f.cause for f in flat} == ({Cause.LEARNING_RATE} if ill else set())
    assert ill or found == []
