"""The healthy twins of `learning`: they look as odd, and they learn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradtrace.casebook.case import Setup, healthy, seeded
from gradtrace.casebook.learning import (
    HandLSTM,
    UNet,
    UnitWords,
    clamped_error,
    disc_batches,
    encoder,
    mask_cross_entropy,
    of_fakes,
    penalised,
    sure_discriminator,
    transitions,
)
from gradtrace.casebook.learning import absolute_error_of_classes as absolute_error
from gradtrace.casebook.networks import HE, layer, mlp, scale_weights
from gradtrace.casebook.tasks import (
    cross_entropy,
    digit_batches,
    number_batches,
    raw_digit_batches,
    series_batches,
    squared_error,
    token_batches,
    token_cross_entropy,
    train,
)


@seeded
def clamped_residual_near() -> Setup:
    """The same clamped errors, returns around 0: most lie within the clamp."""
    model = mlp(2, nn.ReLU, inputs=16, outputs=4)
    return Setup(model, clamped_error, transitions(0.5), torch.optim.Adam(model.parameters(), lr=1e-3))


@seeded
def softmax_absolute_trained() -> Setup:
    """Softmax and the absolute error, learnt from usual weights for a while: one-hot too, and right."""
    model = mlp(2, nn.ReLU).append(nn.Softmax(dim=1))
    batches = digit_batches()
    train(model, batches, absolute_error, 200, lr=3e-3)
    return Setup(model, absolute_error, batches, torch.optim.Adam(model.parameters(), lr=1e-3))


def hinge(model: nn.Module, batch: Any) -> Tensor:
    """Of the sign of a label of more than four."""
    inputs, labels = batch
    sign = 2.0 * (labels > 4).float() - 1.0
    return F.relu(1.0 - sign * model(inputs).squeeze(1)).mean()


@seeded
def hinge_half_satisfied() -> Setup:
    """A hinge loss in the middle of training: most examples are satisfied and get no gradient, as they should."""
    model = mlp(2, nn.ReLU, outputs=1)
    batches = digit_batches()
    train(model, batches, hinge, 25, lr=1e-3)
    return Setup(model, hinge, batches, torch.optim.Adam(model.parameters(), lr=1e-3))


@seeded
def penalised_relu() -> Setup:
    """The same penalty on three ReLU layers of He's gain: the data's part is as large."""
    model = mlp(3, nn.ReLU)
    scale_weights(model, HE)
    return Setup(model, penalised, digit_batches(), torch.optim.Adam(model.parameters(), lr=1e-3))


@seeded
def unet_with_skips() -> Setup:
    """The same U-Net of SiLU with skips."""
    model = UNet(F.silu, skips=True)
    return Setup(model, mask_cross_entropy, disc_batches(), torch.optim.Adam(model.parameters(), lr=1e-3))


@seeded
def default_relu_adam() -> Setup:
    """10 ReLU layers as torch initialises them, Adam: three decades are lost, and evened out within a hundred steps."""
    model = mlp(10, nn.ReLU)
    return Setup(model, cross_entropy, digit_batches(), torch.optim.Adam(model.parameters(), lr=1e-3))


@seeded
def constant_biases() -> Setup:
    """Biases of 0.1 and a head of zeros on random hidden weights: what is equal there is parted by the first step."""
    model = mlp(2, nn.ReLU)
    scale_weights(layer(model, "hidden"), HE)
    for part in layer(model, "hidden").children():
        if isinstance(part, nn.Linear):
            nn.init.constant_(part.bias, 0.1)
    for parameter in layer(model, "head").parameters():
        nn.init.zeros_(parameter)
    return Setup(model, cross_entropy, digit_batches(), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))


@seeded
def policy_head() -> Setup:
    """A last layer scaled by 0.01, as in policies: it holds the gradient back at first, and grows in a few steps."""
    model = mlp(2, nn.Tanh)
    scale_weights(model, 1.0)
    nn.init.orthogonal_(layer(model, "head").weight, 0.01)
    return Setup(model, cross_entropy, digit_batches(), torch.optim.SGD(model.parameters(), lr=0.1))


@seeded
def sigmoid_pixels() -> Setup:
    """An autoencoder whose sigmoid ends where its targets do."""
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 64), nn.Sigmoid())
    batches = [(pixels, pixels) for pixels, _ in raw_digit_batches(largest=1.0)]
    return Setup(model, squared_error, batches, torch.optim.Adam(model.parameters(), lr=1e-3))


@seeded
def raw_pixels_adam() -> Setup:
    """Numbers of 0 to 255 into a regression, with Adam: a loss far above a constant's at first, and not for long."""
    model = mlp(2, nn.ReLU, inputs=16, outputs=1)
    batches = [(255.0 * x, y) for x, y in number_batches(count=4)]
    return Setup(model, squared_error, batches, torch.optim.Adam(model.parameters(), lr=1e-3))


@seeded
def positive_output() -> Setup:
    """A regression of positive numbers through a ReLU: most outputs are zero at first, and the others lift them."""
    model = mlp(2, nn.ReLU, inputs=16, outputs=1).append(nn.ReLU())
    batches = [(x, y.abs() + 0.5) for x, y in number_batches(count=4)]
    return Setup(model, squared_error, batches, torch.optim.Adam(model.parameters(), lr=1e-3))


@seeded
def he_start() -> Setup:
    """He's weights at the rate that kills those of standard deviation 1."""
    model = mlp(4, nn.ReLU)
    scale_weights(model, HE)
    return Setup(model, cross_entropy, digit_batches(), torch.optim.SGD(model.parameters(), lr=0.1))


@seeded
def wide_tanh() -> Setup:
    """Inputs of +-10 into 128 tanhs: seven in ten are saturated, and the width carries the gradient past them."""
    model = mlp(2, nn.Tanh, width=128)
    return Setup(model, cross_entropy, digit_batches(scale=10.0), torch.optim.Adam(model.parameters(), lr=1e-3))


@seeded
def handwritten_lstm_short() -> Setup:
    """The same LSTM over 12 steps, its forget gates open."""
    model = HandLSTM(2.0)
    return Setup(model, cross_entropy, series_batches(12), torch.optim.Adam(model.parameters(), lr=1e-2))


@seeded
def pre_norm_in_training() -> Setup:
    """24 encoder layers with the norm in front."""
    model = encoder(24, pre=True)
    return Setup(model, token_cross_entropy, token_batches(8, 8), torch.optim.Adam(model.parameters(), lr=1e-3))


@seeded
def directions() -> Setup:
    """Words as directions, none of which is zero."""
    batches = [(tokens := torch.randint(0, 6, (16, 8)), tokens[:, 0] % 4) for _ in range(2)]
    model = UnitWords(None)
    return Setup(model, cross_entropy, batches, torch.optim.Adam(model.parameters(), lr=1e-2))


def not_saturating(model: nn.Module, batch: Any) -> Tensor:
    """The likelihood that fakes pass for real, to be raised."""
    return -torch.log(of_fakes(model, batch)).mean()


@seeded
def not_saturating_game() -> Setup:
    """The same fakes, told apart as surely: -log D has its full slope there."""
    model, noise, optimizer = sure_discriminator()
    return Setup(model, not_saturating, noise, optimizer)


CASES = (
    healthy("clamped_residual_near", clamped_residual_near, "OpenAI Baselines: DQN (2017)"),
    healthy("softmax_absolute_trained", softmax_absolute_trained, "Ghosh et al. 2017"),
    healthy("hinge_half_satisfied", hinge_half_satisfied, "Cortes and Vapnik 1995"),
    healthy("penalised_relu", penalised_relu, "Krogh and Hertz 1992"),
    healthy("unet_with_skips", unet_with_skips, "Ronneberger et al. 2015"),
    healthy("default_relu_adam", default_relu_adam, "Kingma and Ba 2015, section 2.1"),
    healthy("policy_head", policy_head, "Andrychowicz et al. 2021, on initialising the policy"),
    healthy("sigmoid_pixels", sigmoid_pixels, "Vincent et al. 2010"),
    healthy("raw_pixels_adam", raw_pixels_adam, "Kingma and Ba 2015"),
    healthy("positive_output", positive_output, "Glorot, Bordes and Bengio 2011"),
    healthy("he_start", he_start, "He et al. 2015", steps=20),
    healthy("wide_tanh", wide_tanh, "LeCun et al. 1998, section 4.4"),
    healthy("handwritten_lstm_short", handwritten_lstm_short, "Gers et al. 2000"),
    healthy("pre_norm_in_training", pre_norm_in_training, "Xiong et al. 2020", steps=24),
    healthy("not_saturating_game", not_saturating_game, "Goodfellow et al. 2014, section 3"),
    healthy("constant_biases", constant_biases, "Goodfellow et al. 2016, section 8.4"),
    healthy("directions", directions, "Salimans and Kingma 2016"),
)
