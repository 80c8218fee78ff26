"""Units that are copies of one another are told; equal weights that part by themselves are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradtrace
from gradtrace.checkup.copies import copied_units
from gradtrace.diagnosis.wording import COPIES
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.repair.applying import apply_changes
from gradtrace.repair.changes import symmetry
from gradtrace.repair.situation import Situation


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def classes(*shape: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(32, *shape), torch.randint(0, 3, (32,))) for _ in range(3)]


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def mean_of_output(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(batch[0]).square().mean()


def told(model: nn.Module, shape: tuple[int, ...] = (16,), loss: Callable = cross_entropy) -> list[Finding]:
    found = gradtrace.check(model, loss, classes(*shape)).findings
    return [finding for finding in found if any(evidence.name == COPIES for evidence in finding.evidence)]


def mlp(*inner: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 8), nn.Tanh(), *inner, nn.Linear(8, 3))


def weight_of(layer: nn.Module) -> Tensor:
    """To be written to."""
    (weight,) = (parameter for name, parameter in layer.named_parameters() if name == "weight")
    return weight.data


def constant(*layers: nn.Module, value: float = 0.1) -> None:
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.constant_(parameter, value)


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.RNN(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def test_a_constant_layer_is_told_with_its_units_and_what_to_do() -> None:
    model = mlp()
    constant(model[0])
    constant(model[2], value=0.3)
    nn.init.normal_(model[2].bias)  # so that the classes do not cancel
    weight_of(model[2])[1] += 0.1  # rows of the head differ, its columns do not
    weight_of(model[2])[2] -= 0.2
    (finding,) = told(model)
    assert (finding.symptom, finding.cause) == (Symptom.VANISHING, Cause.SMALL_WEIGHTS)
    assert finding.severity is Severity.CRITICAL
    assert finding.where == ("0",)
    assert "The 8 units of model[0] (Linear" in finding.message
    assert finding.evidence[0].value == 8
    assert "Draw the weights at random" in finding.remedies[0].title
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for batch in classes(16):
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        optimizer.step()
    trained = weight_of(model[0])
    assert (trained - trained[:1]).abs().max() < 1e-5  # no step parts them
    nn.init.xavier_normal_(model[0].weight)
    assert told(model) == []


def with_equal_columns(layer: nn.Module) -> None:
    weight = weight_of(layer)
    weight[:] = weight[:, :1].clone()


@pytest.mark.parametrize("value", [1.0, 1e-3])
def test_convolutions_recurrences_and_any_constant(value: float) -> None:
    convolution, recurrent = Convolution(), Recurrent()
    for layer, head in ((convolution.conv, convolution.head), (recurrent.rnn, recurrent.head)):
        constant(layer, value=value / 10)
        with_equal_columns(head)
    (finding,) = told(convolution, (2, 8, 8))
    assert finding.where == ("conv",)
    assert finding.evidence[0].value == 6
    assert set(copied_units(recurrent, cross_entropy, classes(5, 4)[0])) == {"rnn.weight_ih_l0", "rnn.weight_hh_l0"}


class Gated(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class Stacked(nn.Module):
    """An LSTM by hand, its four gates in one map."""

    def __init__(self) -> None:
        super().__init__()
        self.of_input, self.of_state, self.head = nn.Linear(4, 24), nn.Linear(6, 24), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 6)
        for step in x.unbind(1):
            i, f, g, o = (self.of_input(step) + self.of_state(h)).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.head(h)


class Bare(nn.Module):
    """Parameters in no layer, one row an input or one row a unit."""

    def __init__(self, product: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.product = product
        self.w, self.head = nn.Parameter(torch.randn(*shape) / 4), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.product(x, self.w)))


class Upwards(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.head = nn.ConvTranspose2d(2, 6, 3, stride=2), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.up(x)).mean((2, 3)))


LAYOUTS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]] = {
    "LSTM": (lambda: Gated(nn.LSTM(4, 6, batch_first=True)), (5, 4), ("cell",)),
    "GRU": (lambda: Gated(nn.GRU(4, 6, batch_first=True)), (5, 4), ("cell",)),
    "LSTM by hand": (Stacked, (5, 4), ("of_input", "of_state")),
    "x @ W": (lambda: Bare(torch.matmul, 16, 6), (16,), ("w",)),
    "addmm": (lambda: Bare(lambda x, w: torch.addmm(torch.zeros(6), x, w), 16, 6), (16,), ("w",)),
    "F.linear of a bare parameter": (lambda: Bare(F.linear, 6, 16), (16,), ("w",)),
    "transposed convolution": (Upwards, (2, 5, 5), ("up",)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_units_are_found_where_the_layout_has_them(name: str) -> None:
    build, shape, where = LAYOUTS[name]
    model = build()
    assert told(model, shape) == []
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    nn.init.normal_(model.head.bias)
    (finding,) = told(model, shape)
    assert finding.where == where


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_draw_that_parts_them_has_unit_gain_and_so_have_its_lines(name: str) -> None:
    build, shape, _ = LAYOUTS[name]
    model = build()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    nn.init.normal_(model.head.bias)
    batches = classes(*shape)
    here = Situation(model, cross_entropy, batches, [], gradtrace.check(model, cross_entropy, batches))
    change = symmetry.KIND.propose(here)[0]
    twin = here.twin()
    apply_changes([change], twin)
    assert copied_units(twin.model, cross_entropy, batches[0]) == {}
    written = here.twin().model
    exec(change.code, {"torch": torch, "model": written})
    for draw in change.draws:
        tried, lines = (net.get_parameter(draw.name).square().mean().sqrt().item() for net in (twin.model, written))
        assert lines == pytest.approx(tried, rel=0.35)


def test_a_network_of_one_output_that_is_constant_throughout() -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    constant(model, value=0.05)
    (finding,) = told(model, loss=mean_of_output)
    assert finding.where == ("0", "2")
    assert "So are those of 2." in finding.message


class Branch(nn.Module):
    def __init__(self, layer_scale: float | None = None) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8)
        self.gamma = nn.Parameter(torch.full((8,), 1.0 if layer_scale is None else layer_scale))
        if layer_scale is None:
            nn.init.zeros_(self.two.weight)
            nn.init.zeros_(self.two.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.two(F.gelu(self.one(self.norm(x))))


class Lora(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(8, 8).requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.zeros(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.a.T @ self.b.T


class Modulated(nn.Module):
    """AdaLN-Zero: scale, shift and gate from a layer at zero (Peebles & Xie 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.modulation, self.inner = nn.Linear(8, 24), nn.Linear(8, 8)
        constant(self.modulation, value=0.0)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift, gate = self.modulation(F.silu(x)).chunk(3, -1)
        return x + gate * self.inner(F.layer_norm(x, (8,)) * (1 + scale) + shift)


def zero_head(model: nn.Sequential) -> nn.Sequential:
    constant(model[-1], value=0.0)
    return model


def averaging(model: Convolution) -> Convolution:
    constant(model.conv, value=1 / 9)
    return model


def frozen(model: nn.Sequential) -> nn.Sequential:
    constant(model[0])
    with_equal_columns(model[-1])
    model[0].requires_grad_(False)
    return model


def dropped(model: nn.Sequential) -> nn.Sequential:
    constant(model[0])
    with_equal_columns(model[-1])
    return model


HEALTHY: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual branches at zero": (lambda: mlp(Branch(), Branch()), (16,)),
    "LayerScale": (lambda: mlp(Branch(1e-5), Branch(1e-5)), (16,)),
    "LoRA's B at zero": (lambda: mlp(Lora(), nn.Tanh()), (16,)),
    "AdaLN-Zero": (lambda: mlp(Modulated(), Modulated()), (16,)),
    "AdaLN-Zero and a head at zero": (lambda: zero_head(mlp(Modulated(), Modulated())), (16,)),
    "a head at zero": (lambda: zero_head(mlp()), (16,)),
    "branches and a head at zero": (lambda: zero_head(mlp(Branch(), Branch())), (16,)),
    "an average that parts": (lambda: averaging(Convolution()), (2, 8, 8)),
    "norms of ones, biases of zeros": (lambda: mlp(nn.LayerNorm((8,)), nn.BatchNorm1d(8)), (16,)),
    "a norm over two axes": (lambda: nn.Sequential(nn.LayerNorm((4, 4)), nn.Flatten(), *mlp()), (4, 4)),
    "a frozen layer": (lambda: frozen(mlp()), (16,)),
    "dropout parts them": (lambda: dropped(mlp(nn.Dropout(0.5))), (16,)),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_equal_weights_that_are_no_fault_are_not_told(name: str) -> None:
    build, shape = HEALTHY[name]
    assert told(build(), shape) == []


def test_outputs_that_are_meant_to_be_equal_are_not_told() -> None:
    model = zero_head(mlp())
    nn.init.constant_(model[-1].bias, 1.0)
    assert copied_units(model, mean_of_output, classes(16)[0]) == {"2.weight": True}
    assert told(model, loss=mean_of_output) == []


def test_one_bit_apart_is_apart() -> None:
    model = mlp()
    constant(model[0])
    with_equal_columns(model[-1])
    batch = classes(16)[0]
    assert copied_units(model, cross_entropy, batch) == {"0.weight": True}
    weight = weight_of(model[0])
    weight[3, 5] = torch.nextafter(weight[3, 5], torch.tensor(1.0))
    assert copied_units(model, cross_entropy, batch) == {}


def test_few_bits_do_not_make_rows_equal() -> None:
    model = mlp(Branch()).to(torch.bfloat16)
    batch = classes(16)[0]
    assert copied_units(model, cross_entropy, (batch[0].bfloat16(), batch[1])) == {}


def test_nothing_is_touched() -> None:
    model = mlp(nn.BatchNorm1d(8), nn.Dropout())
    constant(model[0])
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = classes(16)[0]
    state = torch.get_rng_state()
    copied_units(model, cross_entropy, batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
