"""What a number format cannot hold: float16 overflows, gradients and steps are rounded away."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

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
    squared_error,
    token_batches,
    token_cross_entropy,
)
from gradtrace.records.vocabulary import Cause, Symptom


@seeded
def half_overflow() -> Setup:
    """A float16 network on raw sensor counts: the second layer exceeds 65504."""
    model = mlp(3, nn.ReLU, inputs=16, outputs=1)
    scale_weights(model, HE)
    with torch.no_grad():
        layer(model, "hidden.linear2").weight.mul_(2000.0)
    batches = [((100.0 * x).half(), y.half()) for x, y in number_batches()]
    return Setup(model.half(), squared_error, batches)


def half_sum_of_squares(model: nn.Module, batch: Any) -> Tensor:
    """Squares summed in float16 before the division."""
    inputs, targets = batch
    total: Tensor = (model(inputs) - targets).square().sum()
    mean: Tensor = total / targets.numel()
    return mean


@seeded
def half_sum() -> Setup:
    """A sum of 4096 squares of about 36 in float16: 1.5e5 is beyond its range, though the mean is not."""
    model = mlp(2, nn.ReLU, inputs=16, outputs=1)
    batches = [(x.half(), (y + 6.0).half()) for x, y in number_batches(4096)]
    return Setup(model.half(), half_sum_of_squares, batches)


@seeded
def half_adam() -> Setup:
    """A float16 network and Adam: eps = 1e-8 rounds to 0 in its state, and 0 / 0 is NaN after one step."""
    model = mlp(2, nn.ReLU)
    batches = [(x.half(), y) for x, y in digit_batches()]
    model = model.half()
    return Setup(model, cross_entropy, batches, torch.optim.Adam(model.parameters(), lr=1e-3))


def auxiliary_cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """Cross entropy with a weight of 1e-3, taken in float32."""
    pixels, labels = batch
    return 1e-3 * F.cross_entropy(model(pixels).float(), labels)


@seeded
def half_underflow() -> Setup:
    """A float16 network, its head drawn with 0.01, a loss with weight 1e-3: below the head gradients are under 6e-8."""
    model = mlp(3, nn.Tanh)
    scale_weights(model, 1.0)
    nn.init.normal_(layer(model, "head").weight, std=0.01)
    batches = [(pixels.half(), labels) for pixels, labels in digit_batches(512)]
    return Setup(model.half(), auxiliary_cross_entropy, batches)


@seeded
def half_conv_underflow() -> Setup:
    """A float16 convolutional network with a loss in small units (1e-6), which float32 would not mind."""
    model = conv_net(3, nn.Tanh)
    scale_weights(model, 1.0)
    return Setup(model.half(), micro_cross_entropy, [(images.half(), labels) for images, labels in image_batches()])


def micro_cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """Cross entropy times 1e-6, the product taken in float32."""
    images, labels = batch
    return 1e-6 * F.cross_entropy(model(images).float(), labels)


@seeded
def bfloat16_steps() -> Setup:
    """bfloat16 weights and SGD at 1e-5: an update below 1/512 of a weight is rounded away."""
    model = mlp(2, nn.ReLU).to(torch.bfloat16)
    batches = [(x.to(torch.bfloat16), y) for x, y in digit_batches()]
    return Setup(model, cross_entropy, batches, torch.optim.SGD(model.parameters(), lr=1e-5))


@seeded
def bfloat16_adam() -> Setup:
    """A bfloat16 transformer and Adam at 1e-6: no weight of ordinary size moves."""
    model = TokenModel([Block(32, Attention(32)) for _ in range(2)], 32).to(torch.bfloat16)
    return Setup(model, token_cross_entropy, token_batches(), torch.optim.Adam(model.parameters(), lr=1e-6))


class Float8(nn.Module):
    """Round to float8 e4m3 on the way forward, and the gradient on the way back."""

    def forward(self, x: Tensor) -> Tensor:
        """[*] -> [*]."""
        return x.to(torch.float8_e4m3fn).to(torch.float32)


@seeded
def float8_underflow() -> Setup:
    """Gradients cast to e4m3 without scaling: all below 2^-10 become zero, and the mean over 256 puts them there."""
    parts = OrderedDict(body=mlp(2, nn.Tanh, outputs=64), cast=Float8(), head=nn.Linear(64, 10))
    return Setup(nn.Sequential(parts), cross_entropy, digit_batches(256))


_N, _U, _FORMAT = Symptom.NONFINITE, Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT
CASES = (
    Case("half_overflow", half_overflow, _N, _FORMAT, ("hidden.linear2",), "Micikevicius et al. 2018"),
    Case("half_sum", half_sum, _N, _FORMAT, (), "Micikevicius et al. 2018, section 3.3"),
    Case("half_adam", half_adam, _N, _FORMAT, (), "discuss.pytorch.org/t/1765", steps=2),
    Case("half_underflow", half_underflow, _U, _FORMAT, (), "Micikevicius et al. 2018, section 3.2"),
    Case("half_conv_underflow", half_conv_underflow, _U, _FORMAT, (), "Micikevicius et al. 2018, section 3.2"),
    Case("bfloat16_steps", bfloat16_steps, _U, _FORMAT, (), "Zamirai et al. 2020, section 3"),
    Case("bfloat16_adam", bfloat16_adam, _U, _FORMAT, (), "Zamirai et al. 2020, section 3"),
    Case("float8_underflow", float8_underflow, _U, _FORMAT, ("cast", "body"), "Micikevicius et al. 2022, FP8 formats"),
)
