"""What is summed: neighbours, one map's steps, what two networks make; each an ill network and its healthy twin."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradtrace
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom

from .networks import batches, cross_entropy, mlp


class Graph(nn.Module):
    """Messages of 40 neighbours a node, summed or averaged, and the node's own, in six layers."""

    def __init__(self, *, mean: bool) -> None:
        super().__init__()
        self.own = nn.ModuleList(nn.Linear(16, 16) for _ in range(6))
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(6))
        for layer in self.own:
            nn.init.kaiming_normal_(layer.weight)  # type: ignore[arg-type]
        self.head = nn.Linear(16, 4)
        self.sources = torch.randint(0, 64, (64 * 40,))
        self.targets = torch.arange(64).repeat_interleave(40)
        self.count = 40 if mean else 1

    def forward(self, x: Tensor) -> Tensor:
        for own, layer in zip(self.own, self.layers, strict=True):
            summed = torch.zeros_like(x).index_add(0, self.targets, x[self.sources])
            x = torch.relu(own(x) + layer(summed / self.count))
        return self.head(x)


class Euler(nn.Module):
    """z' = f(z) over a time of one: in steps of 1/40, or of one by mistake."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.lift, self.read = nn.Linear(16, 16), nn.Linear(16, 4)
        self.field = nn.Sequential(nn.Linear(16, 32), nn.Softplus(), nn.Linear(32, 16))
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        z = self.lift(x)
        for _ in range(40):
            z = z + self.step * self.field(z)
        return self.read(z)


class Hyper(nn.Module):
    """A network writes the weights of another one, as large as those should be, or `scale` times as large."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(4, 8))
        self.writer = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32 * 32))
        nn.init.normal_(self.writer[2].weight, std=scale * (2 / 32) ** 0.5 / 32**0.5)  # type: ignore[arg-type]
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        for code in self.codes:
            h = torch.relu(h @ self.writer(code).view(32, 32))
        return self.last(h)


def checked(model: nn.Module) -> list[Finding]:
    found = gradtrace.check(model, cross_entropy, batches(1)).findings
    return [finding for finding in found if finding.severity is not Severity.INFO]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_sums_over_neighbours_are_blamed_and_not_the_weights() -> None:
    (found,) = checked(Graph(mean=False))
    assert (found.symptom, found.cause) == (Symptom.EXPLODING, Cause.REDUCTION_SCALE)
    assert "Sums over many entries" in found.message
    assert "count" in found.remedies[0].code
    assert checked(Graph(mean=True)) == []


def test_one_map_that_is_added_forty_times_is_told_as_forty_sums() -> None:
    (found,) = checked(Euler(1.0))
    assert (found.symptom, found.cause) == (Symptom.EXPLODING, Cause.RESIDUAL_GROWTH)
    assert "over 40 residual sums" in found.message
    assert "one and the same map" in found.message
    assert found.remedies[0].code.endswith("/ 40")
    assert checked(Euler(1 / 40)) == []


def test_who_writes_weights_that_are_too_large_is_named_first() -> None:
    found = checked(Hyper(10.0))[0]
    assert (found.symptom, found.cause, found.where[0]) == (Symptom.EXPLODING, Cause.LARGE_WEIGHTS, "writer.2")
    assert checked(Hyper(1.0)) == []


def test_growth_before_the_first_step_is_told_beside_the_nan_that_it_ends_in() -> None:
    def watched(step: float, num_steps: int) -> list[Finding]:
        torch.manual_seed(0)
        model, (inputs, _) = Euler(step), batches(1)[0]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        with gradtrace.watch(model, optimizer, budget=100.0) as watch:
            for _ in range(num_steps):
                optimizer.zero_grad()
                F.mse_loss(model(inputs), inputs[:, :4]).backward()
                optimizer.step()
        return [f for f in watch.diagnosis.findings if f.severity is not Severity.INFO]

    ill = watched(1.0, 3)
    assert (ill[0].symptom, ill[0].cause, ill[0].step) == (Symptom.EXPLODING, Cause.RESIDUAL_GROWTH, 0)
    assert Symptom.NONFINITE in [finding.symptom for finding in ill]
    assert watched(1 / 40, 1) == []


class Field(nn.Module):
    """A differential equation unrolled: no layer but the field's, and the state is the output."""

    def __init__(self, step: float, num_steps: int = 80) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(16, 32), nn.LeakyReLU(0.2), nn.Linear(32, 16))
        self.step, self.num_steps = step, num_steps
        for layer in (self.net[0], self.net[2]):
            nn.init.orthogonal_(layer.weight)

    def forward(self, y: Tensor) -> Tensor:
        states = [y]
        for _ in range(self.num_steps):
            y = y + self.step * self.net(y)
            states.append(y)
        return torch.stack(states)


@pytest.mark.parametrize("of_all_states", [True, False])
def test_a_stream_without_a_head_is_judged_from_its_last_sum(of_all_states: bool) -> None:
    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        states = model(batch[0])
        return (states if of_all_states else states[-1]).abs().mean()

    def told(step: float) -> list[Finding]:
        return [f for f in gradtrace.check(Field(step), loss_fn, batches()).findings if f.severity is not Severity.INFO]

    (found,) = told(0.5)
    assert (found.symptom, found.cause) == (Symptom.EXPLODING, Cause.RESIDUAL_GROWTH)
    assert "from the last residual sum" in found.message
    assert "one and the same map" in found.message
    assert told(1 / 80) == []


class Blocks(nn.Module):
    """Residual blocks between nothing: the stream is the input and the output; branches of any scale."""

    def __init__(self, scale: float, gain: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(12))
        self.scale, self.gain = scale, gain

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + self.scale * block(torch.tanh(self.gain * x))
        return x


@pytest.mark.parametrize("scale", [1e-6, 1.0])
def test_the_scale_of_branches_has_no_part_in_a_stream_s_growth(scale: float) -> None:
    assert checked(Blocks(scale)) == []


def test_a_penalty_of_second_derivatives_is_judged_by_the_network_s_own_depth() -> None:
    """The derivative is made of the same weights once more, in reverse: these uses are no layers."""

    def equation(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x = batch[0].clone().requires_grad_()
        u = model(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (curve,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        return (curve + slope).square().mean() + (u[:, 0] - x[:, 0].detach()).square().mean()

    def told(activation: type[nn.Module], gain: float | None) -> list[tuple[Symptom, Cause, str]]:
        model = mlp(8, activation, gain=gain)
        found = gradtrace.check(model, equation, batches(), optimizer=torch.optim.Adam(model.parameters(), lr=1e-3))
        return [(f.symptom, f.cause, f.where[-1]) for f in found.findings if f.severity is not Severity.INFO]

    ((symptom, cause, where),) = told(nn.Sigmoid, None)
    assert (symptom, cause, where) == (Symptom.VANISHING, Cause.ACTIVATION_DERIVATIVE, "1")
    assert told(nn.Tanh, 1.0) == []


class Written(nn.Module):
    """Six layers whose weights another network writes, `size` times He's."""

    def __init__(self, size: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.code = nn.Parameter(torch.randn(16))
        self.writers = nn.ModuleList(nn.Linear(16, 16 * 16) for _ in range(6))
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        for writer in self.writers:
            weight = writer(self.code).view(16, 16)
            weight = weight / weight.std().detach() * self.size * (2 / 16) ** 0.5
            x = F.linear(torch.relu(x), weight)
        return x


def test_steps_that_run_away_by_written_weights_blame_who_writes_them() -> None:
    def told(size: float) -> list[tuple[Symptom, Cause, str]]:
        model = Written(size)
        sgd = torch.optim.SGD(model.parameters(), lr=0.02)
        found = gradtrace.check(model, lambda m, b: F.mse_loss(m(b[0]), b[0]), batches(), optimizer=sgd).findings
        return [(f.symptom, f.cause, f.where[0]) for f in found if f.severity is not Severity.INFO]

    symptom, cause, where = told(3.0)[0]
    assert (symptom, cause) == (Symptom.EXPLODING, Cause.LARGE_WEIGHTS)
    assert where.startswith("writers.")
    assert told(0.9) == []


class Table(nn.Module):
    """Columns beside embeddings of a category."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kinds, self.net = nn.Embedding(4, 8), nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 1))
        with torch.no_grad():
            self.kinds.weight.mul_(scale)

    def forward(self, x: Tensor, kind: Tensor) -> Tensor:
        return self.net(torch.cat([F.dropout(self.kinds(kind), 0.1), x], 1)).squeeze(1)


@pytest.mark.parametrize(("of_columns", "of_table"), [(1000.0, 1.0), (1.0, 1.0), (1.0, 3000.0)])
def test_columns_that_nobody_scaled_are_to_blame_beside_embeddings_too(of_columns: float, of_table: float) -> None:
    model = Table(of_table)
    sgd = torch.optim.SGD(model.parameters(), lr=0.02)

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.mse_loss(model(batch[0] * of_columns, batch[1]), batch[0][:, 0])

    found = gradtrace.check(model, loss_fn, batches(), optimizer=sgd).findings
    loud = [f for f in found if f.severity is not Severity.INFO]
    assert bool(loud) is (of_columns > 1.0 or of_table > 1.0)
    assert all((f.cause is Cause.INPUT_SCALE) is (of_columns > 1.0) for f in loud[:1])


class Score(nn.Module):
    """The output is the derivative of an energy."""

    def __init__(self, activation: type[nn.Module], gain: float | None) -> None:
        super().__init__()
        self.energy = mlp(8, activation, width=16, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]


def test_a_network_of_which_only_the_derivative_is_trained_is_judged_by_that() -> None:
    def told(activation: type[nn.Module], gain: float | None) -> list[tuple[Symptom, Cause]]:
        found = gradtrace.check(Score(activation, gain), lambda m, b: F.mse_loss(m(b[0]), b[0]), batches()).findings
        return [(f.symptom, f.cause) for f in found if f.severity is not Severity.INFO]

    assert told(nn.Sigmoid, None) == [(Symptom.VANISHING, Cause.ACTIVATION_DERIVATIVE)]
    assert told(nn.Tanh, 1.0) == []


class Adapted(nn.Module):
    """Frozen residual blocks and a frozen head, of which adapters learn: no layer but those is on the way."""

    def __init__(self, *, both_zero: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.ModuleList(nn.Linear(16, 16).requires_grad_(False) for _ in range(3))
        self.down = nn.ModuleList(nn.Linear(16, 4, bias=False) for _ in range(2))
        self.up = nn.ModuleList(nn.Linear(4, 16, bias=False) for _ in range(2))
        for layer in (*self.up, *(self.down if both_zero else ())):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        for base, down, up in zip(self.frozen, self.down, self.up, strict=False):
            x = x + base(x) + up(down(x))
        return self.frozen[-1](x)[:, :4]


@pytest.mark.parametrize("both_zero", [True, False])
def test_adapters_both_of_whose_factors_are_zero_get_no_gradient(both_zero: bool) -> None:
    loud = checked(Adapted(both_zero=both_zero))
    assert bool(loud) is both_zero
