"""What was there before the first step is told from what the rate did: trainings under watch, each with its twin."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradtrace
from gradtrace.errors import NonfiniteError
from gradtrace.records.finding import Diagnosis, Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def plain(depth: int, gain: float, width: int = 32) -> nn.Sequential:
    """ReLU layers whose weights are `gain` times as large as He's."""
    widths = [8, *[width] * depth, 1]
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        nn.init.normal_(layers[-2].weight, std=gain * (2 / fan_in) ** 0.5)  # type: ignore[arg-type]
    return nn.Sequential(*layers[:-1])


def watched(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any, num_steps: int, **kw: Any) -> Diagnosis:
    loss_of: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy if batch[1].dtype == torch.int64 else F.mse_loss
    with gradtrace.watch(model, optimizer, budget=100.0, **kw) as watch:
        for _ in range(num_steps):
            optimizer.zero_grad()
            loss_of(model(batch[0]).float(), batch[1]).backward()
            optimizer.step()
    return watch.diagnosis


def loud(diagnosis: Diagnosis) -> list[Finding]:
    return [finding for finding in diagnosis.findings if finding.severity is not Severity.INFO]


def named(finding: Finding) -> tuple[Symptom, Cause]:
    return finding.symptom, finding.cause


@pytest.mark.parametrize(("gain", "rate", "cause"), [(2.0, 1e-2, Cause.LARGE_WEIGHTS), (1.0, 1e4, Cause.LEARNING_RATE)])
def test_growth_that_was_there_is_to_blame_for_a_nan_and_else_the_rate(gain: float, rate: float, cause: Cause) -> None:
    model, batch = plain(24, gain), (torch.randn(64, 8), torch.randn(64, 1))
    found = loud(watched(model, torch.optim.SGD(model.parameters(), lr=rate), batch, 8))
    nan = next(f for f in found if f.symptom is Symptom.NONFINITE)
    assert nan.cause is cause
    if cause is Cause.LARGE_WEIGHTS:
        assert named(found[0]) == (Symptom.EXPLODING, cause)
        assert "without, it would have been" in found[0].message
        assert found[0].step == 0


def test_a_run_that_is_stopped_tells_of_the_nan() -> None:
    model, batch = plain(24, 2.0), (torch.randn(64, 8), torch.randn(64, 1))
    with pytest.raises(NonfiniteError, match="At step 1: The loss is"):
        watched(model, torch.optim.SGD(model.parameters(), lr=1e-2), batch, 8, on_nonfinite="stop")


def test_a_recurrence_grows_forward_as_it_does_back() -> None:
    class Net(nn.Module):
        def __init__(self, gain: float) -> None:
            super().__init__()
            self.rnn, self.head = nn.RNN(4, 32, nonlinearity="relu", batch_first=True), nn.Linear(32, 1)
            nn.init.normal_(self.rnn.weight_hh_l0, std=gain / 32**0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    batch = torch.randn(32, 40, 4), torch.randn(32, 1)
    for gain, rate, cause in ((2.2, 3e-2, Cause.RECURRENT_EXPANSION), (1.0, 1e6, Cause.LEARNING_RATE)):
        model = Net(gain)
        found = loud(watched(model, torch.optim.SGD(model.parameters(), lr=rate), batch, 6))
        assert next(f for f in found if f.symptom is Symptom.NONFINITE).cause is cause


@pytest.mark.parametrize(("scale", "rate", "cause"), [(1e4, 1e-2, Cause.INPUT_SCALE), (1.0, 1e5, Cause.LEARNING_RATE)])
def test_inputs_far_from_unit_scale_are_to_blame_for_what_the_first_step_did(
    scale: float, rate: float, cause: Cause
) -> None:
    model, batch = plain(2, 1.0), (scale * torch.randn(64, 8), torch.randn(64, 1))
    found = loud(watched(model, torch.optim.SGD(model.parameters(), lr=rate), batch, 10))
    nan = next(f for f in found if f.symptom is Symptom.NONFINITE)
    assert nan.cause is cause
    assert (nan.where[0] == "0") is (cause is Cause.INPUT_SCALE)


@pytest.mark.parametrize(("rate", "ill"), [(0.1, True), (1e-6, False)])
def test_what_the_first_step_did_is_remembered(rate: float, ill: bool) -> None:
    """Batch norm hides it afterwards: a weight a hundred times as large gets a hundredth of the gradient."""
    layers: list[nn.Module] = [nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU()]
    for _ in range(44):
        layers += [nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(32, 4))
    first = model[0].weight.detach().clone()
    batch = torch.randn(64, 8), torch.randint(0, 4, (64,))
    found = loud(watched(model, torch.optim.SGD(model.parameters(), lr=rate), batch, 24))
    moved = float((model[0].weight.detach() - first).norm() / first.norm())
    assert (moved > 1.0) is ill
    later = [f for f in found if f.cause is Cause.BATCHNORM_EXPLOSION and "has not got over it" in f.message]
    assert bool(later) is ill
    assert not ill or (later[0].step == 0 and named(found[0]) == (Symptom.EXPLODING, Cause.BATCHNORM_EXPLOSION))


def test_a_rate_that_replaces_the_weights_is_to_blame_for_the_units_that_it_kills() -> None:
    model = plain(3, 1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3.0)
    found = loud(watched(model, optimizer, (torch.randn(64, 8), torch.randn(64, 1)), 40))
    assert any(f.symptom is Symptom.DEAD_UNITS for f in found)
    assert {f.cause for f in found if f.symptom is Symptom.DEAD_UNITS} == {Cause.LEARNING_RATE}
    with torch.no_grad():
        model = plain(3, 1.0)
        model[2].bias.fill_(-20.0)
    found = loud(watched(model, torch.optim.Adam(model.parameters()), (torch.randn(64, 8), torch.randn(64, 1)), 40))
    assert {f.cause for f in found if f.symptom is Symptom.DEAD_UNITS} == {Cause.SATURATED_PREACTIVATION}


@pytest.mark.parametrize("learns", [True, False])
def test_a_layer_with_units_left_is_a_remark_while_the_loss_falls(learns: bool) -> None:
    model, x = plain(1, 1.0, width=64), torch.randn(64, 8)
    with torch.no_grad():
        model[0].bias[:56] = -20.0  # seven in eight
    y = x[:, :1].relu() if learns else torch.randn(64, 1)
    found = watched(model, torch.optim.Adam(model.parameters(), lr=2e-2 if learns else 1e-5), (x, y), 80).findings
    dead = next(f for f in found if f.symptom is Symptom.DEAD_UNITS)
    assert dead.severity is (Severity.INFO if learns else Severity.WARNING)


@pytest.mark.parametrize(("eps", "ill"), [(1e-8, True), (1e-4, False)])
def test_adam_whose_eps_is_zero_in_float16_is_a_matter_of_the_format(eps: float, ill: bool) -> None:
    model, x = plain(2, 1.0), torch.randn(64, 8)
    model, batch = model.half(), (x.half(), torch.randn(64, 1))
    found = loud(watched(model, torch.optim.Adam(model.parameters(), lr=1e-3, eps=eps), batch, 8))
    assert [named(f) for f in found[:1]] == ([(Symptom.NONFINITE, Cause.NUMERIC_FORMAT)] if ill else [])


@pytest.mark.parametrize("injects", [True, False])
def test_a_bias_is_no_input_that_is_given_anew(injects: bool) -> None:
    """z = tanh(W z + x) is a fixed-point iteration; h = tanh(W h + b) is a recurrence, whose b is its own."""

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w_rec = nn.Parameter(0.5 * torch.randn(32, 32) / 32**0.5)
            self.start, self.bias, self.out = nn.Linear(8, 32), nn.Parameter(torch.zeros(32)), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            given = self.start(x)
            h = given
            for _ in range(30):
                h = torch.tanh(h @ self.w_rec + (given if injects else self.bias))
            return self.out(h)

    batch = torch.randn(64, 8), torch.randint(0, 4, (64,))
    model = Loop()
    found = watched(model, torch.optim.Adam(model.parameters(), lr=1e-4), batch, 3).findings
    ill = [f for f in found if named(f) == (Symptom.VANISHING, Cause.RECURRENT_CONTRACTION)]
    assert {f.severity for f in ill} <= ({Severity.INFO} if injects else {Severity.CRITICAL})
    assert injects or ill


@pytest.mark.parametrize(
    ("dtype", "rate", "ill"), [("bfloat16", 3e-5, True), ("float32", 3e-5, False), ("bfloat16", 3e-3, False)]
)
def test_steps_that_bfloat16_rounds_away(dtype: str, rate: float, ill: bool) -> None:
    model, kind = plain(1, 1.0), getattr(torch, dtype)
    batch = torch.randn(64, 8).to(kind), torch.randn(64, 1)
    model = model.to(kind)
    found = loud(watched(model, torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0), batch, 60))
    assert [named(f) for f in found] == ([(Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT)] if ill else [])


@pytest.mark.parametrize(
    ("scale", "rate", "kind", "ill"),
    [
        (80.0, 1e-2, torch.optim.SGD, True),
        (1.0, 1e-2, torch.optim.SGD, False),
        (80.0, 1e-6, torch.optim.SGD, False),  # as much too small as the inputs are too large
        (80.0, 1e-3, torch.optim.Adam, False),  # as long for any gradient
    ],
)
def test_raw_pixels_that_the_first_step_is_a_lot_by(scale: float, rate: float, kind: Any, ill: bool) -> None:
    """The network goes on, from weights that the first step threw about."""
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    batch = scale * torch.randn(64, 8), torch.randint(0, 4, (64,))
    diagnosis = watched(model, kind(model.parameters(), lr=rate), batch, 120)
    found = [f for f in diagnosis.findings if f.cause is Cause.INPUT_SCALE]
    assert bool(found) is ill
    assert not ill or (found[0].where == ("0",) and "root mean square" in found[0].message)


@pytest.mark.parametrize(
    ("divided", "rate", "cause"),
    [(False, 0.05, Cause.REDUCTION_SCALE), (True, 0.05, None), (True, 30.0, Cause.LEARNING_RATE)],
)
def test_passes_that_are_added_up_and_not_divided_by_their_number(
    divided: bool, rate: float, cause: Cause | None
) -> None:
    model = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))
    target, optimizer = torch.randn(20, 1), torch.optim.SGD(model.parameters(), lr=rate)
    with gradtrace.watch(model, optimizer, budget=10.0) as watch:
        for _ in range(14):
            for _ in range(64):
                x = torch.randn(16, 20)
                loss = nn.functional.mse_loss(model(x), (x @ target).relu() / 4)
                (loss / 64 if divided else loss).backward()
            optimizer.step()
            optimizer.zero_grad()
    found = loud(watch.diagnosis)
    assert [*dict.fromkeys(f.cause for f in found)][:1] == ([] if cause is None else [cause])
    assert cause is not Cause.REDUCTION_SCALE or "loss / num_passes" in found[0].remedies[0].code


@pytest.mark.parametrize(
    ("draw", "rate", "cause"),
    [
        (nn.init.uniform_, 0.05, Cause.LARGE_WEIGHTS),
        (nn.init.uniform_, 1e-4, Cause.LARGE_WEIGHTS),
        (nn.init.kaiming_normal_, 1e3, Cause.LEARNING_RATE),
        (nn.init.kaiming_normal_, 0.05, None),
    ],
)
def test_weights_that_no_tenth_of_the_rate_is_small_enough_for(
    draw: Callable[[Tensor], Tensor], rate: float, cause: Cause | None
) -> None:
    """Drawn from 0 to 1, a hundred of them add up to fifty times what comes in."""
    model = nn.Sequential(nn.Linear(25, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 4))
    for layer in (model[0], model[2], model[4]):
        draw(layer.weight)  # type: ignore[arg-type]
    batch = torch.rand(64, 25), torch.randint(0, 4, (64,))
    found = loud(watched(model, torch.optim.SGD(model.parameters(), lr=rate), batch, 120))
    assert {f.cause for f in found} == ({cause} if cause is not None else set())
