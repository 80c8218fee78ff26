"""A custom function that hands back the negative of a derivative is told; what is meant to be another one is not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function

import gradtrace
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom

WIDTH = 32


class Swish(Function):
    """x sigmoid(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * (s + x * s * (1 - s))


class Turned(Swish):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * (-s - x * s * (1 - s))


class Late(Function):
    """Of two parts, as of torch 2.0."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.tanh(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return -gradient * (1 - y**2)


class Forgotten(Swish):
    """A term of the derivative is missing."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * s * (1 - s) * x


class Error(Function):
    """A squared error that is turned round on its way back."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(y - target)
        return (y - target).square().mean()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (apart,) = ctx.saved_tensors
        return -2.0 * apart / apart.numel() * gradient, None


class Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T + bias

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.T @ x, gradient.sum(0)


class TurnedWeight(Linear):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradient @ weight, -gradient.T @ x, gradient.sum(0)


class Feedback(Linear):
    """Lillicrap et al. 2016: the error goes back by random weights."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        draws = torch.Generator().manual_seed(1)
        return gradient @ torch.randn(weight.shape, generator=draws) / math.sqrt(WIDTH), gradient.T @ x, gradient.sum(0)


class Given(Function):
    """Hands back what it is given."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Sign(Given):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.sign(x)


class Turning(Given):
    """A gradient reversal, whose forward is as flat as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(8 * x) / 8

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class ByTheLargest(Given):
    """Eight bits, in units of the largest: through those, its forward has a derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        unit = x.abs().max() / 127
        return torch.round(x / unit) * unit

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class Binary(Given):
    """Rastegari et al. 2016: signs times the mean size, which has a derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.sign(x) * x.abs().mean()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class LearnedStep(Function):
    """Esser et al. 2020: the derivative by the step is that of a rounding that is none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor) -> Tensor:
        ctx.save_for_backward(x, step)
        return torch.round(x / step).clamp(-8, 7) * step

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, step = ctx.saved_tensors
        inside = (x / step).abs() < 8
        slope = torch.where(inside, torch.round(x / step) - x / step, torch.sign(x) * 8)
        return gradient * inside, (gradient * slope).sum().reshape(step.shape)


class Clamped(Given):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(-0.3, 0.3)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class Spike(Function):
    """Neftci et al. 2019: a step, and the derivative of a fast sigmoid."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient / (10 * x.abs() + 1) ** 2


class Reversal(Function):
    """Ganin et al. 2016."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None


class Scaled(Function):
    """A multiple of what it is given, whose gradient is turned round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class Guided(Function):
    """Springenberg et al. 2015: a ReLU that lets through what is above zero alone, on its way back too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return -gradient.abs() * (x > 0)


class Kinked(Function):
    """|x|, whose operand is zero in most entries."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.abs()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, gradient, -gradient)


class Soft(Function):
    """A maximum, and the derivative of a softmax."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.amax(1, keepdim=True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return -gradient * x.softmax(1)


class Cut(Function):
    """Nothing goes back on purpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.tanh()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.zeros_like(gradient)


class Net(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(8, WIDTH), nn.LazyLinear(4)
        self.step = nn.Parameter(torch.tensor([0.1]))
        self.second = nn.Linear(WIDTH, WIDTH)
        self.function = function
        self(torch.zeros(1, 8))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        if issubclass(self.function, Linear):
            return self.last(self.function.apply(hidden.tanh(), self.second.weight, self.second.bias).tanh())
        more = (self.step,) if self.function is LearnedStep else (0.5,) if self.function is Reversal else ()
        if self.function is Kinked:
            hidden = hidden * (hidden > 0.3)
        return self.last(self.function.apply(hidden, *more))


def told(function: Any) -> list[Finding]:
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 8, generator=draws), torch.randint(0, 4, (64,), generator=draws)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    found = gradtrace.check(Net(function), loss, [(x, y)]).findings
    return [f for f in found if "is not the derivative" in f.message]


@pytest.mark.parametrize("function", [Turned, Late, TurnedWeight])
def test_a_derivative_turned_round(function: Any) -> None:
    (found,) = told(function)
    assert (found.symptom, found.cause) == (Symptom.DISCONNECTED, Cause.DETACHED_GRAPH)
    assert found.severity is Severity.CRITICAL
    assert function.__name__ in found.message
    assert found.evidence[0].value == pytest.approx(-1.0, abs=0.02)
    line = function.backward.__code__.co_firstlineno
    assert found.source.endswith(f"test_derivative.py:{line}")


def test_the_operand_is_named() -> None:
    (found,) = told(TurnedWeight)
    assert "`weight`" in found.message


def test_a_loss_of_ones_own() -> None:
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 8, generator=draws), torch.randn(64, 4, generator=draws)
    found = gradtrace.check(nn.Linear(8, 4), lambda m, b: Error.apply(m(b[0]), b[1]), [(x, y)]).findings
    assert any("the backward of Error" in f.message and f.severity is Severity.CRITICAL for f in found)


class Domains(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.domains = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 4)


@pytest.mark.parametrize("alone", [True, False])
def test_a_term_of_the_loss_that_is_made_large(alone: bool) -> None:
    """Beside another it may be an adversary's; where a penalty is all there is besides, its sign is wrong."""
    draws = torch.Generator().manual_seed(0)
    batch = torch.randn(64, 8, generator=draws), torch.randn(64, 4, generator=draws)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        hidden = model.body(batch[0]).tanh()
        domain = Error.apply(model.domains(hidden), batch[1])
        penalty = sum(parameter.square().sum() for parameter in model.parameters())
        return domain + 1e-3 * penalty if alone else 0.1 * domain + (model.head(hidden) - batch[1]).square().mean()

    (found,) = [f for f in gradtrace.check(Domains(), loss, [batch]).findings if "backward of Error" in f.message]
    assert found.severity is (Severity.CRITICAL if alone else Severity.INFO)
    assert alone or "this term of the loss is made large" in found.message


def test_a_loss_that_is_handed_on_and_turned_round() -> None:
    """A reversal as Ganin et al. (2016) have it, of a number."""
    draws = torch.Generator().manual_seed(0)
    batch = torch.randn(64, 8, generator=draws), torch.randn(64, 4, generator=draws)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return Scaled.apply((model(batch[0]) - batch[1]).square().mean())

    found = gradtrace.check(nn.Linear(8, 4), loss, [batch]).findings
    assert not [f for f in found if "is not the derivative" in f.message]


@pytest.mark.parametrize("function", [Forgotten, Feedback])
def test_another_gradient_that_does_not_lead_uphill_is_a_remark(function: Any) -> None:
    (found,) = told(function)
    assert found.severity is Severity.INFO


@pytest.mark.parametrize("seed", range(8))
def test_random_feedback_is_not_said_to_lead_uphill_whatever_is_drawn(seed: int) -> None:
    class Drawn(Linear):
        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            x, weight = ctx.saved_tensors
            draws = torch.Generator().manual_seed(seed)
            return gradient @ torch.randn(weight.shape, generator=draws), gradient.T @ x, gradient.sum(0)

    assert all(found.severity is Severity.INFO for found in told(Drawn))


@pytest.mark.parametrize(
    "function",
    [
        Swish, Linear, Sign, Turning, ByTheLargest, Binary, LearnedStep, Clamped, Spike, Reversal, Scaled, Guided, Soft,
        Cut, Kinked,
    ],
)  # fmt: skip
def test_right_ones_and_those_made_for_their_backward(function: Any) -> None:
    assert not told(function)


class Noise(Function):
    """Draws at each call, and hands back the derivative for what was drawn."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        kept = (torch.rand_like(x) > 0.5).float()
        ctx.save_for_backward(kept, x)
        return x.tanh() * kept

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        kept, x = ctx.saved_tensors
        return gradient * kept * (1 - x.tanh() ** 2)


SEEN: list[float] = []
COUNTS = torch.zeros(1)


class Counter:
    num = 0.0


def note(x: Tensor) -> None:
    SEEN.append(float(x.detach().mean()))


def count_in_class(_x: Tensor) -> None:
    Counter.num += 1.0


def count_in_tensor(_x: Tensor) -> None:
    COUNTS[0] += 1.0


def show(_x: Tensor) -> None:
    print("called")  # noqa: T201


def with_effect(effect: Any) -> Any:
    """A custom function that, when it is called once more, leaves that behind."""

    class Leaving(Turned):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            effect(x)
            return x * torch.sigmoid(x)

    return Leaving


def trained(function: Any, *, watched: bool) -> list[float]:
    model, losses = Net(function), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(1)
    watch = gradtrace.watch(model, optimizer) if watched else None
    for _ in range(6):
        loss = model(torch.randn(16, 8)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if watch is not None:
        watch.close()
    return losses


def test_a_watched_training_is_the_same() -> None:
    assert trained(Noise, watched=True) == trained(Noise, watched=False)
    assert not told(Noise)


@pytest.mark.parametrize("effect", [note, count_in_class, count_in_tensor, show])
def test_what_leaves_anything_behind_is_not_called_again(effect: Any, capsys: pytest.CaptureFixture[str]) -> None:
    left = []
    for watched in (False, True):
        SEEN.clear()
        Counter.num = 0.0
        COUNTS.zero_()
        trained(with_effect(effect), watched=watched)
        left.append((list(SEEN), Counter.num, COUNTS.item(), capsys.readouterr().out))
    assert left[0] == left[1]
    assert left[0] != ([], 0.0, 0.0, "")


def test_a_watch_tells() -> None:
    model = Net(Turned)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradtrace.watch(model, optimizer) as watch:
        for _ in range(8):
            loss = model(torch.randn(16, 8)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert any("the backward of Turned" in f.message for f in watch.diagnosis.findings)
