"""What holds training back from the first step: stuck gates, an output far too large, decay that outweighs the loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradtrace import check, watch
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom

from .networks import batches, cross_entropy, mlp
from .test_learning import findings, loud


class Forecast(nn.Module):
    """The next value of a series by an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(1, 16, batch_first=True), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


def squared_error(model: nn.Module, batch: Any) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


@pytest.mark.parametrize(("offset", "scale", "ill"), [(0.0, 1.0, False), (3000.0, 400.0, True)])
def test_raw_prices_hold_the_gates_of_an_lstm(offset: float, scale: float, ill: bool) -> None:
    torch.manual_seed(0)
    series = torch.sin(torch.arange(13.0) * 0.5 + 6.28 * torch.rand(64, 1))
    data = [(offset + scale * part[:, :12, None], part[:, 12:]) for part in series.split(32)]
    found = loud(findings(Forecast(), squared_error, data))
    assert ((Symptom.SATURATED, Cause.INPUT_SCALE) in found) is ill


@pytest.mark.parametrize(("std", "ill"), [(0.1, False), (80.0, True)])
def test_an_output_that_starts_far_too_large(std: float, ill: bool) -> None:
    torch.manual_seed(0)
    model = mlp(1, nn.Tanh)
    nn.init.normal_(model[-1].weight, std=std)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    found = loud(findings(model, data=batches(4), optimizer=optimizer))
    assert found == ([(Symptom.EXPLODING, Cause.LARGE_WEIGHTS)] if ill else [])


class Policy(nn.Module):
    """Probabilities of two actions for one state at a time."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body, self.dim = nn.Linear(16, 2), dim

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).softmax(self.dim)


def rewarded(model: nn.Module, batch: Any) -> Tensor:
    state, reward = batch
    return -reward * model(state)[0, 0].log()


@pytest.mark.parametrize(("dim", "ill"), [(1, False), (0, True)])
def test_softmax_over_a_batch_of_one(dim: int, ill: bool) -> None:
    """Rewards of zero ask for no gradient: one state that is rewarded shows that none would go through."""
    torch.manual_seed(0)
    data = [(torch.randn(1, 16), reward) for reward in (0.0, 1.0, 0.0)]
    found = loud(findings(Policy(dim), rewarded, data))
    assert found == ([(Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION)] if ill else [])


def decaying(weight_decay: float, kind: type[torch.optim.Optimizer] = torch.optim.Adam) -> tuple[nn.Module, Any, Any]:
    """Four classes that the features tell apart."""
    torch.manual_seed(0)
    data = [(x, 2 * (x[:, 0] > 0).long() + (x[:, 1] > 0).long()) for x, _ in batches(4)]
    model = mlp(3, nn.ReLU)
    return model, data, kind(model.parameters(), lr=2e-3, weight_decay=weight_decay)  # type: ignore[call-arg]


ADAM, ADAMW, SGD = torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD


@pytest.mark.parametrize(
    ("decay", "kind", "ill"),
    [(1e-3, ADAM, False), (1.0, ADAMW, False), (1.0, ADAM, True), (1e-3, SGD, False), (20.0, SGD, True)],
)
def test_decay_that_outweighs_the_loss(decay: float, kind: type[torch.optim.Optimizer], ill: bool) -> None:
    model, data, optimizer = decaying(decay, kind)
    found = loud(list(check(model, cross_entropy, data, optimizer=optimizer).findings))
    assert found == ([(Symptom.VANISHING, Cause.SMALL_WEIGHTS)] if ill else [])


def trained(
    model: nn.Module,
    data: Any,
    optimizer: Any,
    num_steps: int,
    loss_fn: Any = cross_entropy,
    every: int | None = None,
) -> list[Finding]:
    with watch(model, optimizer, budget=1.0, every=every) as seen:
        for step in range(num_steps):
            optimizer.zero_grad()
            loss_fn(model, data[step % len(data)]).backward()
            optimizer.step()
    return list(seen.diagnosis.findings)


@pytest.mark.parametrize(
    ("decay", "kind", "ill"),
    [(1e-3, ADAM, False), (1.0, ADAM, True), (1e-2, SGD, False), (20.0, SGD, True), (200.0, SGD, True)],
)
def test_decay_that_outweighs_the_loss_of_a_run(decay: float, kind: type[torch.optim.Optimizer], ill: bool) -> None:
    model, data, optimizer = decaying(decay, kind)
    found = loud(trained(model, data, optimizer, 200))
    assert ((Symptom.VANISHING, Cause.SMALL_WEIGHTS) in found) is ill
    assert bool(found) is ill


@pytest.mark.parametrize("ill", [False, True])
def test_a_run_without_any_gradient(ill: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return cross_entropy(model, batch) * (0.0 if ill else 1.0) + 1.0

    found = loud(trained(model, batches(), optimizer, 40, loss))
    assert ((Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION) in found) is ill


@pytest.mark.parametrize(("momentum", "ill"), [(0.0, True), (0.5, True), (0.9, False)])
def test_small_first_steps_count_for_what_momentum_makes_of_them(momentum: float, ill: bool) -> None:
    """A hundred steps of 3e-6 of the weights are less than one usual one; with momentum 0.9 they are three of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5))
    nn.init.normal_(model[2].weight, std=0.3)
    centres, labels = torch.randn(5, 20), torch.randint(0, 5, (256,))
    data = list(zip((centres[labels] + 0.5 * torch.randn(256, 20)).split(32), labels.split(32), strict=True))

    def loss(model: Any, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    optimizer = torch.optim.SGD(model.parameters(), lr=5e-6, momentum=momentum)
    diagnosis = check(model, loss, data, optimizer=optimizer)
    ratio = max(update.ratio for update in diagnosis.updates)
    assert 1e-6 < ratio < 5e-6
    assert loud(diagnosis.findings) == ([(Symptom.UNDERFLOW, Cause.LEARNING_RATE)] if ill else [])


@pytest.mark.parametrize(("rate", "ill"), [(1e-3, False), (1e-10, True)])
def test_steps_that_move_nothing_on_batches_that_differ(rate: float, ill: bool) -> None:
    """Losses that differ by batch are no fall."""
    torch.manual_seed(0)
    model = mlp(1, nn.ReLU)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    data = batches(7, size=16)
    found = loud(trained(model, data, optimizer, 60))
    assert found == ([(Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT)] if ill else [])


@pytest.mark.parametrize(("first", "ill"), [(False, False), (True, True)])
def test_a_short_horizon_matters_where_the_data_asks_for_more(first: bool, ill: bool) -> None:
    """An LSTM over 24 steps: the next value of a sine needs the last few alone, the first value is out of reach."""
    torch.manual_seed(0)
    series = torch.sin(torch.arange(25.0) * 0.5 + 6.28 * torch.rand(64, 1))
    noise = torch.randn(64, 24, 1)
    inputs, targets = (noise, noise[:, 0]) if first else (series[:, :24, None], series[:, 24:])
    data = list(zip(inputs.split(16), targets.split(16), strict=True))
    model = Forecast()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    found = findings(model, squared_error, data, optimizer=optimizer)
    assert (found[0].symptom, found[0].cause) == (Symptom.VANISHING, Cause.RECURRENT_CONTRACTION)
    assert ((Symptom.VANISHING, Cause.RECURRENT_CONTRACTION) in loud(found)) is ill


@pytest.mark.long
@pytest.mark.parametrize(("once", "has_optimizer"), [(False, True), (True, True), (False, False)])
@pytest.mark.parametrize(("step", "ill"), [(-1, False), (0, True)])
def test_as_many_batches_as_there_are_tell_whether_a_horizon_matters(
    step: int, ill: bool, once: bool, has_optimizer: bool
) -> None:
    """An LSTM over 24 steps, whose class the last step tells, or the first; of two batches it remembers all."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(8, 48, batch_first=True), nn.Linear(48, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    torch.manual_seed(0)
    inputs = torch.randn(300, 32, 24, 8)
    data: Any = [(x, x[:, step, :3].argmax(1)) for x in inputs]
    model = Reader()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3) if has_optimizer else None
    found = loud(findings(model, cross_entropy, iter(data) if once else data, optimizer=optimizer))
    assert ((Symptom.VANISHING, Cause.RECURRENT_CONTRACTION) in found) is ill


@pytest.mark.long
@pytest.mark.parametrize(("watched", "traces"), [(False, None), (True, None), (True, 1000)])
@pytest.mark.parametrize(("first", "ill"), [(False, False), (True, True)])
def test_what_a_gru_passes_back_in_time_is_no_depth(first: bool, ill: bool, watched: bool, traces: int | None) -> None:
    """After steps, or where a trace is all there is: a GRU is a loop in time, and may forget what is of no use."""
    model = Forecast()
    torch.manual_seed(0)
    model.rnn, model.head = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1)
    if first:  # never the same twice, so that nothing is learnt by heart
        inputs = torch.randn(32 * 150, 60, 1)
        targets = inputs[:, 0]
    else:
        phase, pace = 6.28 * torch.rand(256, 1), 0.3 + 0.3 * torch.rand(256, 1)
        series = torch.sin(phase + pace * torch.arange(21.0))
        inputs, targets = 0.1 * series[:, :20, None], series[:, 20:]
    data = list(zip(inputs.split(32), targets.split(32), strict=True))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    if watched:
        found = trained(model, data, optimizer, 150, squared_error, every=traces)
    else:
        found = list(check(model, squared_error, data, optimizer=optimizer, steps=20).findings)
    assert ((Symptom.VANISHING, Cause.RECURRENT_CONTRACTION) in loud(found)) is ill


@pytest.mark.parametrize(("rate", "momentum", "ill"), [(0.1, 0.0, False), (1e-2, 0.9, False), (1e-3, 0.0, True)])
def test_rounding_takes_what_it_takes_of_the_gradients_square(rate: float, momentum: float, ill: bool) -> None:
    """More than half of the entries stand still in each; those that move hold most of the gradient, or next to none."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()).bfloat16()
    whole = nn.Sequential(model, nn.Linear(64, 5))
    centres, labels = torch.randn(5, 20), torch.randint(0, 5, (256,))
    data = list(zip((centres[labels] + 0.5 * torch.randn(256, 20)).split(32), labels.split(32), strict=True))

    def loss(model: Any, batch: Any) -> Tensor:
        body, head = model[0], model[1]
        return F.cross_entropy(head(body(batch[0].bfloat16()).float()), batch[1])

    optimizer = torch.optim.SGD(whole.parameters(), lr=rate, momentum=momentum)
    found = loud(check(whole, loss, data, optimizer=optimizer, steps=20).findings)
    assert found == ([(Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT)] if ill else [])


def test_what_zeros_hold_back_is_not_said_to_stay() -> None:
    """An output layer that starts at zero: after steps nothing is lost, and nothing else is told."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    nn.init.zeros_(model[2].weight)
    data = [(torch.randn(32, 8), torch.randint(0, 4, (32,))) for _ in range(3)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    found = check(model, cross_entropy, data, optimizer=optimizer).findings
    assert [f.severity for f in found] == [Severity.INFO]
    assert "not even this out" not in found[0].message
    assert "start at zero" in found[0].message


@pytest.mark.parametrize(("std", "ill"), [(0.1, False), (80.0, True)])
def test_an_output_that_started_far_too_large_and_is_no_better_than_a_constant_yet(std: float, ill: bool) -> None:
    torch.manual_seed(0)
    model = mlp(1, nn.Tanh)
    nn.init.normal_(model[-1].weight, std=std)
    found = trained(model, batches(4), torch.optim.Adam(model.parameters(), lr=1e-3), 60)
    assert loud(found) == ([(Symptom.EXPLODING, Cause.LARGE_WEIGHTS)] if ill else [])
    assert not ill or "steps still" in found[0].message


@pytest.mark.parametrize(
    ("dtype", "size", "ill"),
    [(torch.float16, 2e-3, True), (torch.float32, 2e-3, False), (torch.bfloat16, 2e-3, False)],
)
def test_a_first_step_of_adam_beyond_its_own_bound(dtype: torch.dtype, size: float, ill: bool) -> None:
    """|update| <= lr sqrt(n); where g^2 underflows in float16 and g does not, it is g / eps instead."""
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    nn.init.normal_(model[-1].weight, std=0.3 * size)
    nn.init.zeros_(model[-1].bias)
    model.to(dtype)
    data = [(x.to(dtype), (size * x[:, :1]).to(dtype))]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-7)
    found = trained(model, data, optimizer, 20, squared_error, every=10**9)
    over = [f for f in found if any("Adam's largest" in evidence.name for evidence in f.evidence)]
    assert [(f.symptom, f.cause, f.step) for f in over] == ([(Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT, 0)] * ill)


@pytest.mark.parametrize(("rate", "ill"), [(5e-2, False), (1e-4, True)])
def test_targets_far_away_that_the_steps_are_seen_to_reach(rate: float, ill: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 16)
    data = list(zip(x.split(32), (150.0 + 30.0 * x[:, :1]).split(32), strict=True))
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    found = [f for f in findings(model, squared_error, data, optimizer=optimizer, steps=20) if "targets" in f.where]
    assert [f.severity for f in found] == [Severity.WARNING if ill else Severity.INFO]
    assert ("At the pace of the steps" in found[0].message) is not ill


@pytest.mark.long
def test_what_is_undecided_after_a_hundred_steps_is_followed_on() -> None:
    """The sum of a sequence's last four values: a GRU of short horizon stands at a constant's loss, and learns then."""
    torch.manual_seed(0)
    model = Forecast()
    model.rnn, model.head = nn.GRU(2, 24, batch_first=True), nn.Linear(24, 1)
    x = torch.rand(512, 15, 2)
    data = list(zip(x.split(64), x[:, -4:, 0].sum(1, keepdim=True).split(64), strict=True))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    found = findings(model, squared_error, data, optimizer=optimizer, steps=20)
    assert any(f.cause is Cause.RECURRENT_CONTRACTION for f in found)
    assert loud(found) == []


@pytest.mark.parametrize(("gain", "ill"), [(1.0, False), (8.0, True)])
def test_a_square_that_overflows_because_the_signal_grew_is_no_unsafe_op(gain: float, ill: bool) -> None:
    """h + W h, thirty times: (1 + gain / sqrt(3))^30 = 3e22 at gain 8, whose square float32 does not hold."""
    torch.manual_seed(0)

    class Euler(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.o = nn.Linear(16, 16), nn.Linear(16, 1)
            self.f.weight.data *= gain

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(30):
                x = x + self.f(x)
            out: Tensor = self.o(x)
            return out

    found = findings(Euler(), squared_error, [(x, x[:, :1]) for x, _ in batches()])
    assert ([(f.symptom, f.cause) for f in found][:1] == [(Symptom.NONFINITE, Cause.LARGE_WEIGHTS)]) is ill
    assert all(f.cause is not Cause.UNSAFE_OP for f in found)
