"""Losses that are large and flat: nothing tells the network where to go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradtrace.casebook.case import Case, Setup, seeded
from gradtrace.casebook.networks import HE, conv_net, layer, mlp, scale_weights
from gradtrace.casebook.tasks import cross_entropy, digit_batches, image_batches, number_batches
from gradtrace.records.vocabulary import Cause, Symptom


def sigmoid_square(model: nn.Module, batch: Any) -> Tensor:
    """Squared error of a sigmoid."""
    inputs, targets = batch
    return F.mse_loss(torch.sigmoid(model(inputs)), targets)


@seeded
def sigmoid_mse() -> Setup:
    """Squared error behind a sigmoid at -14, targets of 1: the loss is 1 and its gradient 1e-6."""
    model = mlp(2, nn.ReLU, inputs=16, outputs=1)
    nn.init.constant_(layer(model, "head").bias, -14.0)
    batches = [(x, torch.ones_like(y)) for x, y in number_batches()]
    return Setup(model, sigmoid_square, batches)


@seeded
def softmax_twice() -> Setup:
    """Softmax in the model, and again in the cross entropy: sure of the wrong class, it stays so at a loss of 2.3."""
    model = mlp(2, nn.ReLU)
    scale_weights(model, HE)
    scale_weights(layer(model, "head"), 400.0)
    model.append(nn.Softmax(dim=1))
    return Setup(model, cross_entropy, digit_batches())


def bce_with_logits(model: nn.Module, batch: Any) -> Tensor:
    """The loss that takes logits."""
    inputs, targets = batch
    return F.binary_cross_entropy_with_logits(model(inputs), targets)


@seeded
def sigmoid_twice() -> Setup:
    """Sigmoid in the model, and again in BCEWithLogits: outputs of 0 cost log 2 each and nothing pulls them away."""
    model = conv_net(3, nn.ReLU, outputs=1)
    scale_weights(model, HE)
    nn.init.constant_(layer(model, "head").bias, -16.0)
    model.append(nn.Sigmoid())
    batches = [(images, (labels > 4).float().unsqueeze(1)) for images, labels in image_batches()]
    return Setup(model, bce_with_logits, batches)


def clipped_square(model: nn.Module, batch: Any) -> Tensor:
    """Errors above 1 are cut off, against outliers."""
    inputs, targets = batch
    return F.mse_loss(model(inputs), targets, reduction="none").clamp(max=1.0).mean()


@seeded
def clamped_loss() -> Setup:
    """A loss clipped at 1 by ``clamp``, targets around 20: every example is an outlier, the gradient is zero."""
    model = mlp(2, nn.ReLU, inputs=16, outputs=1)
    return Setup(model, clipped_square, [(x, y + 20.0) for x, y in number_batches()])


def clipped_likelihood(model: nn.Module, batch: Any) -> Tensor:
    """Binary cross entropy written out, with probabilities clamped against log(0)."""
    inputs, targets = batch
    p = torch.sigmoid(model(inputs)).clamp(1e-6, 1 - 1e-6)
    likelihood: Tensor = targets * p.log() + (1 - targets) * (1 - p).log()
    return -likelihood.mean()


@seeded
def clamped_probability() -> Setup:
    """Probabilities clamped to 1e-6: examples beyond it cost 13.8 each, and the clamp passes no gradient."""
    model = mlp(2, nn.ReLU, inputs=16, outputs=1)
    nn.init.constant_(layer(model, "head").bias, -25.0)
    batches = [(x, torch.ones_like(y)) for x, y in number_batches()]
    return Setup(model, clipped_likelihood, batches)


def miscount(model: nn.Module, batch: Any) -> Tensor:
    """Squared error of rounded probabilities: the share of wrong answers, as a loss."""
    inputs, targets = batch
    return F.mse_loss(torch.round(torch.sigmoid(model(inputs))), targets)


@seeded
def rounded_loss() -> Setup:
    """Accuracy as a loss: rounding is flat wherever it is smooth, the gradient is exactly zero."""
    batches = [(x, (y > 0).float()) for x, y in number_batches()]
    return Setup(mlp(2, nn.ReLU, inputs=16, outputs=1), miscount, batches)


class OneClass(nn.Module):
    """Softmax over a single output."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(2, nn.ReLU, inputs=16, outputs=1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 16] -> [batch, 1], all ones."""
        return torch.softmax(self.body(x), dim=1)


def square_of_label(model: nn.Module, batch: Any) -> Tensor:
    """Squared error to a label of 0 or 1."""
    inputs, targets = batch
    return F.mse_loss(model(inputs), targets)


@seeded
def single_softmax() -> Setup:
    """Softmax over one unit is 1 whatever comes in: a constant output, an exactly zero gradient."""
    return Setup(OneClass(), square_of_label, [(x, (y > 0).float()) for x, y in number_batches()])


def _flat(name: str, build: Callable[[], Setup], source: str) -> Case:
    return Case(name, build, Symptom.LOSS_SATURATED, Cause.LOSS_FUNCTION, (), source)


CASES = (
    _flat("sigmoid_mse", sigmoid_mse, "Nielsen 2015, chapter 3; Golik et al. 2013"),
    _flat("softmax_twice", softmax_twice, "TFbugs (Zhang et al. 2018); pytorch documentation of CrossEntropyLoss"),
    _flat("sigmoid_twice", sigmoid_twice, "NeuraLint (Nikanjam et al. 2021)"),
    _flat("clamped_loss", clamped_loss, "OpenAI Baselines: DQN (2017), on clipping the error"),
    _flat("clamped_probability", clamped_probability, "binary_crossentropy of Keras, which clips at epsilon"),
    Case(
        "rounded_loss",
        rounded_loss,
        Symptom.LOSS_SATURATED,
        Cause.LOSS_FUNCTION,
        (),
        "Goodfellow et al. 2016, section 8.1.2",
        also=((Symptom.DISCONNECTED, Cause.DETACHED_GRAPH),),  # nothing learns: a slope of zero is as good as a cut
    ),
    _flat("single_softmax", single_softmax, "DeepLocalize (Wardat et al. 2021); NeuraLint (Nikanjam et al. 2021)"),
)
