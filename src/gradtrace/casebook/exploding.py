"""Networks whose gradient grows on its way back, and networks whose training runs away."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradtrace.casebook.case import Case, Setup, seeded
from gradtrace.casebook.networks import HE, Attention, Block, Residual, TokenModel, conv_net, layer, mlp, scale_weights
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
def twice_he() -> Setup:
    """20 ReLU layers with twice He's standard deviation: 2^20 = 1e6."""
    model = mlp(20, nn.ReLU)
    scale_weights(layer(model, "hidden"), 2 * HE)
    return Setup(model, cross_entropy, digit_batches())


class RandnNet(nn.Module):
    """Parameters straight from ``torch.randn``, used as functions."""

    def __init__(self, depth: int = 8, width: int = 64) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(64, width) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 64] -> [batch, 10]."""
        for weight in self.weights:
            x = F.relu(x @ weight)
        out: Tensor = self.head(x)
        return out


@seeded
def randn_weights() -> Setup:
    """8 ReLU layers whose weights are ``torch.randn``: each multiplies by sqrt(64 / 2) = 5.7."""
    return Setup(RandnNet(), cross_entropy, digit_batches())


@seeded
def large_conv() -> Setup:
    """16 convolutions with 2.5 times He's standard deviation."""
    model = conv_net(16, nn.ReLU)
    scale_weights(layer(model, "features"), 2.5 * HE)
    return Setup(model, cross_entropy, image_batches())


@seeded
def one_large_layer() -> Setup:
    """A healthy ReLU network in which one layer alone was scaled by 1e5."""
    model = mlp(6, nn.ReLU)
    scale_weights(model, HE)
    with torch.no_grad():
        layer(model, "hidden.linear3").weight.mul_(1e5)
    return Setup(model, cross_entropy, digit_batches())


@seeded
def batchnorm_mlp() -> Setup:
    """60 layers of linear map, batch norm, ReLU, without skips: pi / (pi - 1) on E[g^2] for each."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, 61):
        layers[f"linear{number}"] = nn.Linear(64, 64, bias=False)
        layers[f"norm{number}"] = nn.BatchNorm1d(64)
        layers[f"act{number}"] = nn.ReLU()
    model = nn.Sequential(OrderedDict(hidden=nn.Sequential(layers), head=nn.Linear(64, 10)))
    scale_weights(model, HE)
    return Setup(model, cross_entropy, digit_batches(128))


@seeded
def batchnorm_conv() -> Setup:
    """80 convolutions with batch norm and without skips."""
    model = conv_net(80, nn.ReLU, norm=True)
    scale_weights(model, HE)
    return Setup(model, cross_entropy, image_batches(16))


def _residual_mlp(depth: int, width: int = 64) -> nn.Sequential:
    blocks = [
        Residual(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))) for _ in range(depth)
    ]
    model = nn.Sequential(
        OrderedDict(stem=nn.Linear(64, width), blocks=nn.Sequential(*blocks), head=nn.Linear(width, 10))
    )
    scale_weights(model, HE)
    for block in blocks:
        scale_weights(layer(block, "branch.2"), 1.0)
    return model


@seeded
def residual_growth() -> Setup:
    """60 blocks x + f(x), each branch as large as its input and unscaled: the sum doubles in energy, 60 times."""
    return Setup(_residual_mlp(60), cross_entropy, digit_batches())


@seeded
def residual_growth_conv() -> Setup:
    """40 residual blocks of two He-initialised convolutions with batch norm taken out, as one does by mistake."""
    blocks: list[nn.Module] = [
        Residual(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)))
        for _ in range(40)
    ]
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Conv2d(1, 16, 3, padding=1), blocks=nn.Sequential(*blocks))
    parts |= OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=nn.Linear(16, 10))
    model = nn.Sequential(parts)
    scale_weights(model, HE)
    return Setup(model, cross_entropy, image_batches(16))


@seeded
def rate_regression() -> Setup:
    """A sound regression with SGD at a learning rate of 10: every step overshoots by more."""
    model = mlp(2, nn.Tanh, inputs=16, outputs=1)
    return Setup(model, squared_error, number_batches(), torch.optim.SGD(model.parameters(), lr=10.0))


@seeded
def rate_conv() -> Setup:
    """A sound convolutional classifier with SGD at a learning rate of 100."""
    model = conv_net(3, nn.Tanh)
    scale_weights(model, 1.0)
    return Setup(model, cross_entropy, image_batches(), torch.optim.SGD(model.parameters(), lr=100.0, momentum=0.9))


@seeded
def rate_adam() -> Setup:
    """A sound transformer with Adam at a learning rate of 1: the first step replaces every weight."""
    model = TokenModel([Block(32, Attention(32)) for _ in range(2)], 32)
    return Setup(model, token_cross_entropy, token_batches(), torch.optim.Adam(model.parameters(), lr=1.0))


@seeded
def large_targets() -> Setup:
    """Squared error on targets of 1e6, in dollars as it were, with SGD: the gradient is 1e6 times what it should be."""
    model = mlp(2, nn.ReLU, inputs=16, outputs=1)
    batches = number_batches(targets=1e6)
    return Setup(model, squared_error, batches, torch.optim.SGD(model.parameters(), lr=0.01))


@seeded
def raw_features() -> Setup:
    """Pixels of 0 to 255 into a ReLU regression with SGD, for which a rate of 0.01 is right once they are scaled."""
    model = mlp(2, nn.ReLU, outputs=1)
    batches = [(pixels, labels.float().unsqueeze(1) / 9) for pixels, labels in raw_digit_batches()]
    return Setup(model, squared_error, batches, torch.optim.SGD(model.parameters(), lr=0.01))


def summed_square(model: nn.Module, batch: Any) -> Tensor:
    """Sum over the batch, where the learning rate was set for a mean."""
    inputs, targets = batch
    return F.mse_loss(model(inputs), targets, reduction="sum")


@seeded
def summed_loss() -> Setup:
    """reduction="sum" over 256 examples with a learning rate of 0.05, right for a mean: steps 256 times too long."""
    model = mlp(2, nn.ReLU, inputs=16, outputs=1)
    return Setup(model, summed_square, number_batches(256), torch.optim.SGD(model.parameters(), lr=0.05))


def summed_tokens(model: nn.Module, batch: Any) -> Tensor:
    """Sum over batch and positions."""
    tokens, labels = batch
    return F.cross_entropy(model(tokens).flatten(0, 1), labels.flatten(), reduction="sum")


@seeded
def summed_tokens_loss() -> Setup:
    """A sum over 32 sequences of 16 tokens with a learning rate of 0.1, right for a mean: steps 512 times too long."""
    model = TokenModel([Block(32, Attention(32)) for _ in range(2)], 32)
    return Setup(model, summed_tokens, token_batches(32), torch.optim.SGD(model.parameters(), lr=0.1))


def negated(model: nn.Module, batch: Any) -> Tensor:
    """A likelihood to be raised, as one may think: cross entropy is a negative one already."""
    return -cross_entropy(model, batch)


@seeded
def negated_loss() -> Setup:
    """The minus once more before the cross entropy: every step makes the error larger, and nothing bounds it."""
    model = mlp(2, nn.ReLU)
    return Setup(model, negated, digit_batches(), torch.optim.Adam(model.parameters(), lr=1e-3))


_E = Symptom.EXPLODING


def _diverges(name: str, build: Callable[[], Setup], cause: Cause, source: str) -> Case:
    # whether it has overflowed when the six steps are over is chance: both are right
    return Case(name, build, _E, cause, (), source, steps=6, also=((Symptom.NONFINITE, cause),))


CASES = (
    Case("twice_he", twice_he, _E, Cause.LARGE_WEIGHTS, ("hidden",), "He et al. 2015, section 2.2"),
    Case("randn_weights", randn_weights, _E, Cause.LARGE_WEIGHTS, ("weights",), "DeepLocalize (Wardat et al. 2021)"),
    Case("large_conv", large_conv, _E, Cause.LARGE_WEIGHTS, ("features",), "AUTOTRAINER (Zhang et al. 2021)"),
    Case("one_large_layer", one_large_layer, _E, Cause.LARGE_WEIGHTS, ("hidden.linear3",), "Humbatova et al. 2020"),
    Case("batchnorm_mlp", batchnorm_mlp, _E, Cause.BATCHNORM_EXPLOSION, ("hidden",), "Yang et al. 2019"),
    Case("batchnorm_conv", batchnorm_conv, _E, Cause.BATCHNORM_EXPLOSION, ("features",), "Yang et al. 2019"),
    Case("residual_growth", residual_growth, _E, Cause.RESIDUAL_GROWTH, ("blocks",), "Hanin and Rolnick 2018"),
    Case(
        "residual_growth_conv",
        residual_growth_conv,
        _E,
        Cause.RESIDUAL_GROWTH,
        ("blocks",),
        "Zhang et al. 2019 (Fixup)",
    ),
    _diverges("rate_regression", rate_regression, Cause.LEARNING_RATE, "AUTOTRAINER (Zhang et al. 2021)"),
    _diverges("rate_conv", rate_conv, Cause.LEARNING_RATE, "DeepFD (Cao et al. 2022)"),
    _diverges("rate_adam", rate_adam, Cause.LEARNING_RATE, "Defects4ML (Morovati et al. 2023)"),
    _diverges("large_targets", large_targets, Cause.INPUT_SCALE, "LeCun et al. 1998, section 4.3"),
    _diverges("raw_features", raw_features, Cause.INPUT_SCALE, "LeCun et al. 1998, section 4.3"),
    _diverges("summed_loss", summed_loss, Cause.REDUCTION_SCALE, "Goyal et al. 2017, section 3"),
    _diverges("summed_tokens_loss", summed_tokens_loss, Cause.REDUCTION_SCALE, "Goyal et al. 2017, section 3"),
    Case("negated_loss", negated_loss, _E, Cause.LOSS_FUNCTION, ("head",), "Goodfellow et al. 2016, section 6.2.1"),
)
