"""After `init_critical_` the audit shows it flat, whatever the activation, the normalisation and the skips."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from tests.audit.test_predict import Blocks, stack
from torch import nn

import gradtrace
from gradtrace.errors import InputError


def flatten(model: nn.Module, x: torch.Tensor, **options):
    done = gradtrace.init_critical_(model, x, generator=torch.Generator().manual_seed(1234), **options)
    return done, gradtrace.predict(model, x)


@pytest.mark.parametrize(
    "activation", [nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.SELU, nn.Sigmoid, nn.Softplus, nn.LeakyReLU]
)
def test_twenty_layers_are_flat(activation) -> None:
    model, x = stack(activation, 20, 256), torch.randn(64, 256)
    assert gradtrace.predict(model, x).measured_decades < -2.0
    _, audit = flatten(model, x)
    assert audit.phase == "critical"
    assert audit.growth_per_layer == pytest.approx(1.0, abs=0.02)
    assert abs(audit.measured_decades) < 1.3  # of 2.2 to 16 before
    if activation is not nn.Softplus:  # its q* is unstable: dq' / dq = 1.55
        assert audit.agrees


@pytest.mark.parametrize("method", ["orthogonal", "lsuv"])
def test_other_methods_are_flat(method) -> None:
    model, x = stack(nn.Tanh, 20, 128), torch.randn(64, 128)
    _, audit = flatten(model, x, method=method)
    assert abs(audit.measured_decades) < 0.4
    W = model[4].weight.detach()  # type: ignore[union-attr, operator]
    values = torch.linalg.svdvals(W)
    assert float(values.max() / values.min()) == pytest.approx(1.0, abs=1e-3)


def test_lsuv_leaves_residual_branches_scaled_and_attention_alone() -> None:
    model, x = Blocks(16, 128), torch.randn(32, 128)
    _, audit = flatten(model, x, method="lsuv")
    assert 0 < audit.measured_decades < 0.5 * math.log10(math.e) + 0.1
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    done, audit = flatten(encoder, torch.randn(8, 6, 32), method="lsuv")
    assert audit.phase == "critical"
    assert any(p.name == "layers.2.self_attn.in_proj_weight" for p in done.parameters)


def test_residual_branches_are_scaled_by_depth() -> None:
    """(1 + 1/L)^L < e instead of 2^L."""
    model, x = Blocks(16, 128), torch.randn(32, 128)
    done, audit = flatten(model, x)
    assert audit.measured_decades < 0.5 * math.log10(math.e) + 0.1
    assert all("residual branch x 0.25" in p.reason for p in done.parameters)


@pytest.mark.parametrize("norm", [nn.Identity, nn.BatchNorm2d])
def test_convolutions(norm) -> None:
    layers = [m for _ in range(8) for m in (nn.Conv2d(32, 32, 3, padding=1), norm(32), nn.ReLU())]
    model, x = nn.Sequential(*layers), torch.randn(8, 32, 10, 10)
    _, audit = flatten(model, x)
    assert abs(audit.measured_decades) < (0.45 if norm is nn.Identity else 0.9)  # batch norm: 1.47 per layer, no cure


def test_delta_orthogonal() -> None:
    layers = [m for _ in range(8) for m in (nn.Conv2d(32, 32, 3, padding=1), nn.Tanh())]
    model, x = nn.Sequential(*layers), torch.randn(8, 32, 10, 10)
    _, audit = flatten(model, x, method="delta_orthogonal")
    W = model[4].weight.detach()  # type: ignore[union-attr, operator]
    assert float(W[..., 0, :].abs().max()) == 0.0
    middle = W[..., 1, 1]
    assert torch.allclose(middle @ middle.T, (middle @ middle.T)[0, 0] * torch.eye(32), atol=1e-5)
    assert abs(audit.measured_decades) < 0.4


def test_the_generator_decides() -> None:
    models = [stack(nn.ReLU, 3, 32) for _ in range(2)]
    x = torch.randn(8, 32)
    for model in models:
        gradtrace.init_critical_(model, x, generator=torch.Generator().manual_seed(7))
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


class Matrices(nn.Module):
    """x @ W by hand, [inputs, units]."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(a, b) for a, b in pairwise(sizes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight in self.weights:
            x = torch.relu(x @ weight)
        return x


@pytest.mark.parametrize("method", ["gaussian", "orthogonal"])
def test_bare_matrices_are_drawn_by_their_inputs(method) -> None:
    model, x = Matrices([64, *[256] * 10, 32]), torch.randn(64, 64)
    done, audit = flatten(model, x, method=method)
    assert [p.rows_are_inputs for p in done.parameters] == [True] * 11
    assert done.parameters[-1].gain == pytest.approx(math.sqrt(2))
    assert float(model.weights[-1].detach().std()) == pytest.approx(math.sqrt(2 / 256), rel=0.05)
    assert audit.phase == "critical"


def test_frozen_parameters_stay() -> None:
    model = stack(nn.ReLU, 3, 32)
    before = model[2].weight.requires_grad_(False).clone()  # type: ignore[union-attr, operator]
    done = gradtrace.init_critical_(model, torch.randn(8, 32))
    assert torch.equal(model[2].weight, before)  # type: ignore[arg-type]
    assert "2.weight" in done.untouched
    assert "frozen" in done.notes[0]


def test_without_an_example_input() -> None:
    done = gradtrace.init_critical_(stack(nn.GELU, 3, 32))
    assert "2.weight" in str(done)
    with pytest.raises(InputError, match="example_input is needed"):
        gradtrace.init_critical_(nn.PReLU())


def test_bad_input() -> None:
    with pytest.raises(InputError, match="method must be one of"):
        gradtrace.init_critical_(nn.Linear(2, 2), torch.randn(2, 2), method="magic")
