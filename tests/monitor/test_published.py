"""Trainings as people have published them because they did not work, in small, with their healthy twins."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradtrace
from gradtrace.monitor.watch import Watch
from gradtrace.records.vocabulary import Cause, Severity, Symptom


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[int], Tensor], num: int = 60) -> Watch:
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for step in range(num):
            optimizer.zero_grad()
            loss(step).backward()
            optimizer.step()
    return watch


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.Adamax])
def test_what_divides_by_a_maximum_has_squared_nothing(kind: Callable[..., torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(4, 1, bias=False), torch.randn(16, 4)
    watch = trained(model, kind(model.parameters(), lr=1e-3), lambda _: 1e22 * model(x).square().mean())
    told = [f for f in watch.diagnosis.findings if "no square in float32" in f.message]
    assert len(told) == (kind is torch.optim.Adam)


@pytest.mark.parametrize("scale", [255.0, 1.0])
def test_a_variance_whose_gradient_has_no_square(scale: float) -> None:
    """exp(log variance) of raw pixels: Adam divides by an infinite mean of squares for ever."""
    torch.manual_seed(0)
    x = scale * torch.rand(6, 64)[torch.randint(0, 6, (128,))]
    encoder, decoder = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 8)), nn.Linear(4, 64)
    if scale > 1.0:
        nn.init.constant_(encoder[2].bias[4:], 50.0)  # type: ignore[arg-type, index]
    model = nn.ModuleList([encoder, decoder])

    def loss(_: int) -> Tensor:
        mean, log_variance = encoder(x).chunk(2, dim=1)
        code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        prior = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum()
        return (decoder(code) - x).square().sum() + prior

    found = trained(model, torch.optim.Adam(model.parameters(), lr=1e-2), loss).diagnosis.findings
    told = [f for f in found if "never moves again" in f.message]
    if scale > 1.0:
        assert (told[0].symptom, told[0].severity) == (Symptom.EXPLODING, Severity.CRITICAL)
        assert told[0] == found[0]
    else:
        assert not told
        assert all(f.severity is Severity.INFO for f in found)


def test_the_weights_that_a_loss_without_a_minimum_makes_grow_follow_from_it() -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 6, (128,))
    x = torch.randn(6, 24)[labels] + torch.randn(128, 24)
    model = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 6))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found = trained(model, optimizer, lambda _: nn.functional.nll_loss(model(x), labels), 80).diagnosis.findings
    assert (found[0].cause, found[0].severity) == (Cause.LOSS_FUNCTION, Severity.CRITICAL)
    assert all(f.severity is Severity.INFO for f in found[1:])


def test_the_loss_in_front_of_a_gradient_that_is_not_finite_is_the_user_s_own() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    x = torch.randn(8, 3)

    class Angle(nn.Module):
        def forward(self, cosine: Tensor) -> Tensor:
            return cosine.clamp(-1.0, 1.0).acos()

    whole = nn.Sequential(model, Angle())
    nn.init.constant_(model.bias, 5.0)
    watch = trained(whole, torch.optim.SGD(whole.parameters(), lr=0.1), lambda _: whole(x).mean() + 3.0, 2)
    first = watch.diagnosis.findings[0]
    assert (first.symptom, first.cause) == (Symptom.NONFINITE, Cause.UNSAFE_OP)
    (told,) = [e.value for e in first.evidence if e.name == "loss"]
    assert told >= 3.0


def test_a_division_by_zero_in_the_loss_is_mended_at_its_divisor() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    x, mask = torch.randn(8, 4), torch.zeros(8, 6)
    mask[2:, :3] = 1.0

    def loss(_: int) -> Tensor:
        part = model(x) * mask
        return 1.0 - (2.0 * part.sum(1) / (part + mask).sum(1)).mean()

    watch = trained(model, torch.optim.SGD(model.parameters(), lr=0.1), loss, 2)
    first = watch.diagnosis.findings[0]
    assert (first.symptom, first.cause) == (Symptom.NONFINITE, Cause.UNSAFE_OP)
    assert "divisor" in first.remedies[0].title


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_attention_that_learns_to_look_at_one_place_and_one_that_starts_so(scale: float) -> None:
    """Each token is that of the place before it: attention of one row in all heads solves it, and both learn to."""
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.place = nn.Embedding(12, 32), nn.Embedding(8, 32)
            self.encoder = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
            self.head = nn.Linear(32, 12)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.encoder(scale * (self.token(tokens) + self.place(torch.arange(8)))))

    model = Model()

    def loss(_: int) -> Tensor:
        tokens = torch.randint(0, 12, (32, 8))
        return nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(1, 1).flatten())

    watch = trained(model, torch.optim.Adam(model.parameters(), lr=5e-3), loss, 300)
    found = [f for f in watch.diagnosis.findings if f.cause is Cause.ATTENTION_SATURATION]
    assert all(f.severity is Severity.INFO for f in found)
    assert any("this data is learnt so" in f.message for f in found) is (scale > 1.0)
    assert watch.diagnosis.healthy


@pytest.mark.parametrize("rate", [1e-3, 1.0])
def test_prices_are_far_off_although_the_output_has_grown(rate: float) -> None:
    """By the latest trace the output is within two orders of magnitude of them; a constant still does better."""
    torch.manual_seed(0)
    features = torch.rand(64, 3) * torch.tensor([200.0, 6.0, 1.0]) + torch.tensor([40.0, 1.0, 2000.0])
    price = 2000.0 * features[:, :1] + 1e4 * features[:, 1:2]
    model = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    watch = trained(model, optimizer, lambda _: nn.functional.mse_loss(model(features), price), 400)
    left = nn.functional.mse_loss(model(features), price).item() / price.var().item()
    of_targets = [f for f in watch.diagnosis.findings if "targets" in f.where]
    assert (left > 2.0) is (rate < 1.0)
    assert [(f.cause, f.severity, f.step) for f in of_targets] == (
        [(Cause.INPUT_SCALE, Severity.WARNING, 0)] if rate < 1.0 else []
    )
    assert all("After 399 steps the loss is" in f.message for f in of_targets)
