"""Planted faults are found where they are, and what only looks like one raises no alarm."""

from __future__ import annotations

import math

import pytest
import torch
from tests.audit.test_predict import Blocks, stack
from torch import nn

import gradtrace


class Lambda(nn.Module):
    def __init__(self, function, *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x):
        return self.function(x, *self.parts)


# ---------------------------------------------------------------------------------------------------- planted faults


def test_a_layer_of_another_gain_stands_out() -> None:
    model = stack(nn.ReLU, 8, 128, gain=math.sqrt(2))
    with torch.no_grad():
        model[6].weight.mul_(8)  # type: ignore[operator, union-attr]
    audit = gradtrace.predict(model, torch.randn(64, 128))
    assert audit.agrees
    told = " ".join(audit.sentences)
    assert "model[6] (Linear) stands out: its gain is 11.3, that of the other 6 like it 1.4" in told
    assert not any("stands out" in s for s in gradtrace.predict(stack(nn.ReLU, 8, 128), torch.randn(64, 128)).sentences)


def test_a_flush_in_half_precision_is_localised() -> None:
    """14 sigmoids above: 1e-12 of the gradient reaches the cast, the smallest number of float16 is 6e-8."""
    below, above = stack(nn.Sigmoid, 3, 64), stack(nn.Sigmoid, 14, 64)
    model = Lambda(lambda x, f, g: g(f(x).half().float()), below, above)
    audit = gradtrace.predict(model, torch.randn(32, 64))
    assert not audit.agrees
    assert audit.disagreements[0].measured_growth == 0.0
    assert "the number format rounds it to zero" in audit.disagreements[0].message


def test_a_detached_branch_is_named_with_its_line() -> None:
    audit = gradtrace.predict(Blocks(10, 128, cut=True), torch.randn(32, 128))
    assert any(note.startswith("gradient is cut at detach (tests/audit/test_predict.py:") for note in audit.notes)
    assert audit.notes[0].endswith("layers.4.weight get none")
    assert not gradtrace.predict(Blocks(10, 128), torch.randn(32, 128)).notes


def test_what_lies_behind_a_frozen_part_is_still_predicted() -> None:
    def forward(x, frozen, head):
        with torch.no_grad():
            y = frozen(x)
        return head(y)

    audit = gradtrace.predict(Lambda(forward, stack(nn.Tanh, 3, 64), stack(nn.Tanh, 4, 64)), torch.randn(32, 64))
    assert len(audit.layers) == 3  # the first layer above has no input to hand a gradient to
    assert audit.agrees
    assert any("gradient is cut at linear" in note for note in audit.notes)
    assert "parts.0.0.weight and 5 more parameters get none" in audit.notes[0]


def test_weights_looked_up_by_hand_are_an_embedding() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.above = nn.Parameter(torch.randn(50, 64)), stack(nn.Tanh, 4, 64)

        def forward(self, tokens):
            return self.above(self.table[tokens])

    audit = gradtrace.predict(Tokens(), torch.randint(50, (16, 8)))
    assert len(audit.layers) == 4
    assert audit.measured_decades == pytest.approx(audit.decades, abs=0.08)


def test_copies_of_one_layer_are_named() -> None:
    """nn.TransformerEncoder deep-copies its layer: all start alike, (I + A)^6 instead of a product of six."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
    audit = gradtrace.predict(encoder, torch.randn(8, 6, 32))
    assert audit.reference
    assert "layers.0.self_attn.in_proj_weight and 5 other weights hold the same numbers" in audit.notes[0]
    gradtrace.init_critical_(encoder, torch.randn(8, 6, 32))
    anew = gradtrace.predict(encoder, torch.randn(8, 6, 32))
    assert not anew.reference
    assert anew.measured_decades == pytest.approx(anew.decades, abs=0.05)


# -------------------------------------------------------------------------------------------------- and no false alarm


def test_an_output_that_is_used_again() -> None:
    """Mean and log variance are outputs of their own, beside the reconstruction."""
    encoder, decoder = stack(nn.ReLU, 2, 64), nn.Linear(32, 64)

    def forward(x, encoder, decoder):
        mean, log_variance = encoder(x).chunk(2, -1)
        return decoder(mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)), mean, log_variance

    audit = gradtrace.predict(Lambda(forward, encoder, decoder), torch.randn(32, 64))
    assert not audit.disagreements
    assert not audit.notes
    assert audit.measured_decades == pytest.approx(audit.decades, abs=0.08)


def test_an_activation_of_ones_own() -> None:
    """Of x and sigmoid(x) the product is measured; that its two gradients depend on each other is no fault."""
    blocks = [m for _ in range(6) for m in (nn.Linear(96, 96), Lambda(lambda x: x * torch.sigmoid(1.7 * x)))]
    audit = gradtrace.predict(nn.Sequential(*blocks), torch.randn(64, 96))
    assert not audit.disagreements
    assert any("mul: no rule, measured" in gap for gap in audit.gaps)
    assert audit.measured_decades == pytest.approx(audit.decades, abs=0.15)
    assert "and what follows (6 layers): this loses" in audit.sentences[0]


def test_channels_of_their_own_variance() -> None:
    """Depthwise kernels of nine weights: what batch norm gives a quiet channel more, its quiet kernel takes back."""
    blocks = [m for _ in range(4) for m in (nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.BatchNorm2d(32), nn.ReLU6(),
                                            nn.Conv2d(32, 32, 1), nn.BatchNorm2d(32))]  # fmt: skip
    audit = gradtrace.predict(nn.Sequential(nn.Conv2d(3, 32, 1), *blocks), torch.randn(8, 3, 16, 16))
    assert not audit.disagreements
    assert audit.agrees


@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU])
def test_norms_over_positions_take_out_what_global_pooling_hands_back(activation) -> None:
    """Of an even gradient a'(z) is left, less its mean and its slope along z: 18 % for ReLU, 34 % for SiLU."""
    block = lambda: (nn.Conv2d(32, 32, 3, padding=1), nn.InstanceNorm2d(32), activation())  # noqa: E731
    model = nn.Sequential(*block(), *block(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    audit = gradtrace.predict(model, torch.randn(16, 32, 12, 12))
    assert audit.measured_decades == pytest.approx(audit.decades, abs=0.08)


def test_attention_hands_on_what_all_tokens_share() -> None:
    """Twelve layers, each drawn anew, and a head on the mean over tokens."""
    layers = [nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=True, dropout=0.0) for _ in range(12)]
    model = Lambda(lambda x, stack, head: head(stack(x).mean(1)), nn.Sequential(*layers), nn.Linear(64, 10))
    audit = gradtrace.predict(model, torch.randn(16, 12, 64))
    assert not audit.disagreements
    assert audit.measured_decades == pytest.approx(audit.decades, abs=0.1)


def test_a_matrix_of_ones_own() -> None:
    model = Lambda(lambda x, f: torch.relu(x @ f.weight.t()), nn.Linear(96, 128, bias=False))
    audit = gradtrace.predict(model, torch.randn(64, 96))
    assert not audit.gaps
    assert audit.layers[0].fan_out == 128
    assert audit.measured_decades == pytest.approx(audit.decades, abs=0.05)


def test_a_recurrence_by_hand_is_no_residual_network() -> None:
    def forward(x, into, back):
        h = x.new_zeros(x.shape[0], 64)
        for t in range(x.shape[1]):
            h = torch.tanh(into(x[:, t]) + back(h))
        return h

    audit = gradtrace.predict(Lambda(forward, nn.Linear(16, 64), nn.Linear(64, 64)), torch.randn(16, 8, 16))
    assert audit.agrees
    assert "Residual" not in audit.sentences[0]
    done = gradtrace.init_critical_(Lambda(forward, nn.Linear(16, 64), nn.Linear(64, 64)), torch.randn(16, 8, 16))
    assert "residual" not in str(done)
