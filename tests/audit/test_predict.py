"""The audit as a whole: prediction beside measurement, what it says, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.errors import InputError
from gradtrace.theory.growth import batch_norm_relu


def stack(activation: type[nn.Module], depth: int = 20, width: int = 256, gain: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), activation()]
        if gain:
            nn.init.normal_(layers[-2].weight, 0, gain / math.sqrt(width))  # type: ignore[arg-type]
            nn.init.zeros_(layers[-2].bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("activation", "growth"), [(nn.ReLU, 1 / 6), (nn.Tanh, 1 / 3), (nn.GELU, 1 / 12), (nn.Sigmoid, 0.02)]
)
def test_pytorchs_default_linear(activation, growth) -> None:
    """Growth per layer 1/6, 1/3, 1/12, 0.02 (n = 512, depth 20), predicted and measured."""
    audit = gradtrace.predict(stack(activation, 20, 512), torch.randn(64, 512))
    assert audit.growth_per_layer == pytest.approx(growth, rel=0.05)
    assert audit.phase == "ordered"
    assert audit.agrees
    assert audit.measured_decades == pytest.approx(audit.decades, abs=0.1)
    assert not audit.disagreements
    assert audit.sentences[0].startswith("default Linear + ")
    assert any("one vector" in sentence for sentence in audit.sentences)


def test_the_layers_multiply_to_the_total() -> None:
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 32), nn.Tanh())
    audit = gradtrace.predict(model, torch.randn(32, 64))
    total = math.prod(layer.split.growth for layer in audit.layers)
    assert 0.5 * math.log10(total) == pytest.approx(audit.decades, abs=0.02)
    assert audit.layers[0].split.dropout == pytest.approx(1 / 0.9)
    assert [layer.activation for layer in audit.layers] == ["relu", "tanh"]


class Blocks(nn.Module):
    def __init__(self, depth: int = 10, width: int = 256, *, cut: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        for layer in self.layers:
            nn.init.normal_(layer.get_parameter("weight"), 0, math.sqrt(2 / width))
        self.cut = cut

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            y = layer(torch.relu(x))
            x = x + (y.detach() if self.cut and i == 4 else y)
        return x


def test_residual_sums_double() -> None:
    """x + W relu(x) with He weights: 2^L."""
    audit = gradtrace.predict(Blocks(), torch.randn(32, 256))
    assert audit.decades == pytest.approx(0.5 * math.log10(2**10), abs=0.1)
    assert audit.agrees
    assert audit.phase == "chaotic"
    assert "scale each by 1 / sqrt" in audit.sentences[0]
    assert all(layer.split.residual == pytest.approx(2, rel=0.1) for layer in audit.layers)


def test_batch_norm_explodes() -> None:
    """pi / (pi - 1) = 1.467 per layer (Yang et al. 2019)."""
    blocks = [nn.Sequential(nn.Linear(256, 256), nn.BatchNorm1d(256), nn.ReLU()) for _ in range(12)]
    audit = gradtrace.predict(nn.Sequential(*blocks), torch.randn(128, 256))
    assert audit.growth_per_layer == pytest.approx(batch_norm_relu(), rel=0.04)
    assert "no gain of theirs" in audit.sentences[0]


def test_meta_device_is_predicted_and_not_measured() -> None:
    with torch.device("meta"):
        model, x = stack(nn.ReLU, 20, 512), torch.randn(8, 512)
    audit = gradtrace.predict(model, x)
    assert audit.growth_per_layer == pytest.approx(1 / 6, rel=0.02)
    assert math.isnan(audit.measured_decades)
    assert any("meta device" in note for note in audit.notes)
    with pytest.raises(InputError, match="example input there too"):
        gradtrace.predict(model, torch.randn(8, 512))


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(InputError, match="not initialised yet"):
        gradtrace.predict(nn.Sequential(nn.LazyLinear(4)), torch.randn(2, 3))
    with pytest.raises(InputError, match="holds NaN"):
        gradtrace.predict(nn.Linear(3, 3), torch.full((2, 3), math.nan))
    with pytest.raises(InputError, match="raised RuntimeError on the example input"):
        gradtrace.predict(nn.Linear(3, 3), torch.randn(2, 4))
    with pytest.raises(InputError, match="holds an empty tensor"):
        gradtrace.predict(nn.Linear(3, 3), torch.zeros(0, 3))
    with pytest.raises(InputError, match="must hold a tensor"):
        gradtrace.predict(nn.Linear(3, 3), 5)
    with pytest.raises(InputError, match="carries no gradient"):
        gradtrace.predict(nn.Sequential(nn.Linear(3, 3), Argmax()), torch.randn(2, 3))


class Argmax(nn.Module):
    def forward(self, x):
        return x.argmax(-1)


class Signs(nn.Module):
    def forward(self, x):
        return torch.sign(x)


def test_an_activation_of_zero_gain_passes_nothing() -> None:
    audit = gradtrace.predict(nn.Sequential(nn.Linear(8, 8), Signs(), nn.Linear(8, 8)), torch.randn(16, 8))
    assert audit.layers[0].decades == -math.inf
    assert any("sign" in gap for gap in audit.gaps)
    assert "passes no gradient" in audit.sentences[0]


class Logs(nn.Module):
    def forward(self, x):
        return torch.log(x)


class Zeroth(nn.Module):
    def forward(self, x):
        return x / 0.0


@pytest.mark.parametrize("function", [Logs(), Zeroth()])
def test_an_activation_that_is_not_finite_is_named(function) -> None:
    audit = gradtrace.predict(nn.Sequential(nn.Linear(8, 8), function, nn.Linear(8, 8)), torch.randn(16, 8))
    assert "makes values that are not finite" in audit.notes[0]


def test_a_dead_layer_is_localised() -> None:
    model = stack(nn.ReLU, 6, 128)
    nn.init.constant_(model[4].bias, -3.0)  # type: ignore[arg-type]
    audit = gradtrace.predict(model, torch.randn(64, 128))
    assert not audit.agrees
    assert audit.disagreements[0].where == "5"
    assert "every unit is dead" in audit.disagreements[0].message


def test_weights_with_a_mean_are_localised() -> None:
    model = stack(nn.ReLU, 6, 128, gain=math.sqrt(2))
    with torch.no_grad():
        model[6].weight.abs_()  # type: ignore[operator, union-attr]
    audit = gradtrace.predict(model, torch.randn(64, 128))
    assert audit.disagreements
    assert audit.disagreements[0].where in ("5", "6", "7")


def test_a_trained_model_is_a_reference() -> None:
    model = stack(nn.Tanh, 3, 64)
    with torch.no_grad():
        model[2].weight += torch.outer(torch.randn(64), torch.randn(64)) / 8  # type: ignore[operator, union-attr]
    audit = gradtrace.predict(model, torch.randn(32, 64))
    assert audit.reference
    assert "the measurement decides" in audit.notes[0]
    assert not gradtrace.predict(stack(nn.Tanh, 3, 64), torch.randn(32, 64)).reference


def test_attention_is_measured_and_named() -> None:
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2, enable_nested_tensor=False
    )
    audit = gradtrace.predict(encoder, torch.randn(8, 6, 32))
    assert [gap.split(":")[1].strip() for gap in audit.gaps] == ["multi_head_attention_forward"] * 2
    assert abs(audit.measured_decades - audit.decades) < 0.15


def test_named_and_several_arguments() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(10, 16), nn.Linear(16, 3)

        def forward(self, tokens, scale=None):
            return self.out(self.embed(tokens) + scale)

    tokens, scale = torch.randint(10, (8, 5)), torch.randn(8, 5, 16)
    by_name = gradtrace.predict(Two(), {"tokens": tokens, "scale": scale})
    by_place = gradtrace.predict(Two(), (tokens, scale))
    assert len(by_name.layers) == len(by_place.layers) == 1


def test_the_model_comes_back_untouched() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    gradtrace.predict(model, torch.randn(16, 8, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_json_and_text() -> None:
    audit = gradtrace.predict(stack(nn.GELU, 50, 32), torch.randn(16, 32))
    document = json.loads(audit.to_json())
    assert document["kind"] == "prediction"
    assert len(document["layers"]) == 50
    assert document["layers"][3]["growth"] == pytest.approx(audit.layers[3].split.growth)
    from gradtrace.report.prediction import to_text

    text = to_text(audit)
    assert "phase: ordered" in text
    assert "... 10 layers ..." in text
    assert "phase diagram of gelu" in audit.diagram()


def test_save_and_load(tmp_path) -> None:
    audit = gradtrace.predict(Blocks(4, 32), torch.randn(16, 32))
    audit.save(tmp_path / "prediction.json.gz")
    loaded = gradtrace.load(tmp_path / "prediction.json.gz")
    np.testing.assert_equal(asdict(loaded), asdict(audit))  # NaN is NaN, which == of Python 3.13 does not see


def test_depth_and_formats() -> None:
    audit = gradtrace.predict(stack(nn.ReLU, 20, 512), torch.randn(64, 512))
    assert audit.depth_of_loss == pytest.approx(7.7, abs=0.3)  # 2 ln 1000 / ln 6
    half, brain = audit.formats[:2]
    assert half.depth == pytest.approx(2 * math.log(2**25 / 64) / math.log(6), rel=0.05)
    assert half.loss_scale >= 2**10
    assert brain.loss_scale == 1.0
