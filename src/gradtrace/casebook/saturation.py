"""Units that sit where their derivative is next to nothing: flat sigmoids and tanhs, dead ReLUs, one-hot attention."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradtrace.casebook.case import Case, Setup, seeded
from gradtrace.casebook.networks import HE, Attention, Block, TokenModel, conv_net, layer, mlp, scale_weights
from gradtrace.casebook.tasks import (
    cross_entropy,
    digit_batches,
    image_batches,
    number_batches,
    raw_digit_batches,
    squared_error,
    token_batches,
    token_cross_entropy,
)
from gradtrace.records.vocabulary import Cause, Symptom


@seeded
def tanh_large_weights() -> Setup:
    """4 tanh layers with weights ten times Xavier's: pre-activations of +-10, where tanh' is 1e-8."""
    model = mlp(4, nn.Tanh)
    scale_weights(layer(model, "hidden"), 10.0)
    return Setup(model, cross_entropy, digit_batches())


@seeded
def sigmoid_bias() -> Setup:
    """One layer of sigmoids behind one of ReLUs, biased by 5: its derivative is 0.0066, 3 % of the maximum."""
    model = mlp(2, nn.ReLU)
    scale_weights(model, HE)
    layer(model, "hidden").act2 = nn.Sigmoid()
    nn.init.constant_(layer(model, "hidden.linear2").bias, 5.0)
    with torch.no_grad():
        layer(model, "hidden.linear2").weight.mul_(0.5)
    return Setup(model, cross_entropy, digit_batches())


@seeded
def hardtanh_conv() -> Setup:
    """A convolutional network with hardtanh whose weights push most of its units beyond +-1, where it is constant."""
    model = conv_net(3, nn.Hardtanh)
    scale_weights(layer(model, "features"), 6.0)
    return Setup(model, cross_entropy, image_batches())


@seeded
def tanh_vanishing() -> Setup:
    """12 tanh layers with biases of +-5: every layer is flat, tanh' is about 1e-3, and nothing arrives."""
    model = mlp(12, nn.Tanh)
    scale_weights(model, 1.0)
    for part in layer(model, "hidden").children():
        if isinstance(part, nn.Linear):
            nn.init.uniform_(part.bias, 4.0, 6.0)
    return Setup(model, cross_entropy, digit_batches())


@seeded
def raw_pixels_tanh() -> Setup:
    """Pixels of 0 to 255 into a tanh network of default weights: its first layer is flat, the others are well."""
    return Setup(mlp(3, nn.Tanh), cross_entropy, raw_digit_batches())


class SigmoidRegressor(nn.Module):
    """Functional sigmoids."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 16] -> [batch, 1]."""
        out: Tensor = self.head(torch.sigmoid(self.second(torch.sigmoid(self.first(x)))))
        return out


@seeded
def raw_measurements() -> Setup:
    """Features in the hundreds (ages, pounds) into a sigmoid network: its first layer is flat."""
    batches = [(100.0 * x, y) for x, y in number_batches()]
    return Setup(SigmoidRegressor(), squared_error, batches)


@seeded
def dead_layer() -> Setup:
    """A ReLU network whose middle layer has biases of -10: no unit of it is ever on."""
    model = mlp(4, nn.ReLU)
    scale_weights(model, HE)
    nn.init.constant_(layer(model, "hidden.linear3").bias, -10.0)
    return Setup(model, cross_entropy, digit_batches())


@seeded
def dead_channels() -> Setup:
    """A convolutional network in which batch norm's shift of -8 silences 14 of 16 channels of the second layer."""
    model = conv_net(3, nn.ReLU, norm=True)
    scale_weights(model, HE)
    with torch.no_grad():
        layer(model, "features.norm2").bias[:14] = -8.0
    return Setup(model, cross_entropy, image_batches())


class DeadFeed(nn.Module):
    """A functional ReLU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[*, dim] -> the same."""
        out: Tensor = x + self.outer(F.relu(self.inner(x)))
        return out


@seeded
def dead_feed() -> Setup:
    """A residual network: the hidden units of one branch are dead, which the skip hides from the gradient's norm."""
    blocks = OrderedDict((f"block{i}", DeadFeed(32)) for i in range(1, 5))
    nn.init.constant_(blocks["block3"].inner.bias, -20.0)
    model = nn.Sequential(OrderedDict(stem=nn.Linear(64, 32), **blocks, head=nn.Linear(32, 10)))
    return Setup(model, cross_entropy, digit_batches())


@seeded
def dying_units() -> Setup:
    """A ReLU network is well; one step of SGD that is far too long throws all its hidden units below zero for good."""
    model = mlp(2, nn.ReLU, inputs=16, outputs=1)
    batches = [(x.abs(), y.abs()) for x, y in number_batches()]
    nn.init.constant_(layer(model, "head").bias, 3.0)
    nn.init.uniform_(layer(model, "head").weight, 0.0, 0.25)
    return Setup(model, squared_error, batches, torch.optim.SGD(model.parameters(), lr=0.5))


@seeded
def unscaled_attention() -> Setup:
    """Dot products of 64 dimensions without 1 / sqrt(d), queries and keys of twice the usual size: one-hot rows."""
    model = TokenModel([Block(64, Attention(64, 1, temperature=8.0)) for _ in range(3)], 64)
    for block in layer(model, "blocks"):
        scale_weights(block.attention.query, 2.5)
        scale_weights(block.attention.key, 2.5)
    return Setup(model, token_cross_entropy, token_batches())


@seeded
def attention_entropy_collapse() -> Setup:
    """``nn.MultiheadAttention`` whose query and key weights have grown tenfold: entropy collapse."""
    layers: list[nn.Module] = [
        nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True, norm_first=True) for _ in range(3)
    ]
    with torch.no_grad():
        for one in layers:
            layer(one, "self_attn").in_proj_weight[:64].mul_(12.0)
    return Setup(TokenModel(layers, 32), token_cross_entropy, token_batches())


_S, _D, _FLAT = Symptom.SATURATED, Symptom.DEAD_UNITS, Cause.SATURATED_PREACTIVATION
_BOTH = ((Symptom.VANISHING, _FLAT),)  # flat units lose the gradient: here both symptoms are clear-cut
CASES = (
    Case("tanh_large_weights", tanh_large_weights, _S, _FLAT, ("hidden",), "Glorot and Bengio 2010, section 3"),
    Case("sigmoid_bias", sigmoid_bias, _S, _FLAT, ("hidden.linear2", "hidden.act2"), "Xu et al. 2016"),
    Case("hardtanh_conv", hardtanh_conv, _S, _FLAT, ("features",), "Rakitianskaia and Engelbrecht 2015"),
    Case("tanh_vanishing", tanh_vanishing, _S, _FLAT, ("hidden",), "Glorot and Bengio 2010", also=_BOTH),
    Case(
        "raw_pixels_tanh",
        raw_pixels_tanh,
        _S,
        Cause.INPUT_SCALE,
        ("hidden.linear1", "hidden.act1"),
        "LeCun et al. 1998",
    ),
    Case("raw_measurements", raw_measurements, _S, Cause.INPUT_SCALE, ("first",), "DeepFD (Cao et al. 2022)"),
    Case("dead_layer", dead_layer, _D, _FLAT, ("hidden.linear3", "hidden.act3"), "Lu et al. 2020; Maas et al. 2013"),
    Case(
        "dead_channels",
        dead_channels,
        _D,
        _FLAT,
        ("features.norm2", "features.act2", "features.conv2"),
        "Mehta et al. 2019",
    ),
    Case("dead_feed", dead_feed, _D, _FLAT, ("block3",), "Lu et al. 2020"),
    Case(
        "dying_units",
        dying_units,
        _D,
        Cause.LEARNING_RATE,
        (),
        "CS231n notes; AUTOTRAINER (Zhang et al. 2021)",
        steps=6,
    ),
    Case(
        "unscaled_attention",
        unscaled_attention,
        _S,
        Cause.ATTENTION_SATURATION,
        ("blocks",),
        "Vaswani et al. 2017, 3.2.1",
    ),
    Case(
        "attention_entropy_collapse",
        attention_entropy_collapse,
        _S,
        Cause.ATTENTION_SATURATION,
        ("blocks",),
        "Zhai et al. 2023",
    ),
)
