"""Operations where they are singular or overflow: a NaN on the way forward, or on the way back alone."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradtrace.casebook.case import Case, Setup, seeded
from gradtrace.casebook.networks import HE, conv_net, layer, mlp, scale_weights
from gradtrace.casebook.tasks import (
    cross_entropy,
    digit_batches,
    image_batches,
    number_batches,
)
from gradtrace.records.vocabulary import Cause, Symptom


def likelihood_by_hand(model: nn.Module, batch: Any) -> Tensor:
    """-sum y log softmax(z), written out."""
    inputs, labels = batch
    p = torch.softmax(model(inputs), dim=1)
    return -(F.one_hot(labels, 10) * torch.log(p)).sum(1).mean()


@seeded
def log_zero() -> Setup:
    """log(softmax) by hand with logits in the hundreds: a probability underflows to 0, and 0 log 0 is NaN."""
    model = mlp(2, nn.ReLU)
    scale_weights(model, HE)
    scale_weights(layer(model, "head"), 150.0)
    return Setup(model, likelihood_by_hand, digit_batches())


class Deviation(nn.Module):
    """Standard deviation over positions as a feature."""

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] -> [batch, channels]."""
        return torch.sqrt((x - x.mean((2, 3), keepdim=True)).square().mean((2, 3)))


@seeded
def sqrt_zero() -> Setup:
    """Standard deviation over a blank image: sqrt(0) is 0 and its slope infinite, 0 times infinity is NaN."""
    conv = nn.Conv2d(1, 8, 3, bias=False)
    model = nn.Sequential(OrderedDict(conv=conv, act=nn.Tanh(), deviation=Deviation(), head=nn.Linear(8, 10)))
    batches = image_batches()
    for images, _ in batches:
        images[7] = 0.0
    return Setup(model, cross_entropy, batches)


def contrastive(model: nn.Module, batch: Any) -> Tensor:
    """All distances within the batch, the diagonal included."""
    inputs, labels = batch
    z = model(inputs)
    distances = (z.unsqueeze(0) - z.unsqueeze(1)).square().sum(2).sqrt()
    same = labels.unsqueeze(0) == labels.unsqueeze(1)
    return torch.where(same, distances, F.relu(1.0 - distances)).mean()


@seeded
def self_distance() -> Setup:
    """Pairwise distances include each point to itself: the norm of a zero vector, NaN on the way back alone."""
    return Setup(mlp(2, nn.ReLU, outputs=8), contrastive, digit_batches(32))


class MaskedMean(nn.Module):
    """Mean over the tokens that are not padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(32, 16), nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        """[batch, length] -> [batch, 4]."""
        kept = (tokens != 0).unsqueeze(2)
        mean = (self.embedding(tokens) * kept).sum(1) / kept.sum(1)
        out: Tensor = self.head(mean)
        return out


@seeded
def zero_by_zero() -> Setup:
    """Mean over the tokens of an empty sentence: 0 / 0."""
    batches = [(torch.randint(1, 32, (16, 8)), torch.randint(4, (16,))) for _ in range(2)]
    for tokens, _ in batches:
        tokens[3] = 0
    return Setup(MaskedMean(), cross_entropy, batches)


def angle(model: nn.Module, batch: Any) -> Tensor:
    """Angle between the model's direction and a wanted one."""
    inputs, wanted = batch
    cosine = (F.normalize(model(inputs), dim=1) * wanted).sum(1)
    return torch.acos(cosine.clamp(-1.0, 1.0)).mean()


@seeded
def acos_one() -> Setup:
    """Angle between directions of one dimension: the cosine is 1, where the slope of acos is infinite."""
    model = mlp(2, nn.ReLU, inputs=16, outputs=1)
    return Setup(model, angle, [(x, torch.sign(y)) for x, y in number_batches()])


class RootFeature(nn.Module):
    """Square root of the positive values, 0 elsewhere, by ``torch.where``."""

    def forward(self, x: Tensor) -> Tensor:
        """[*] -> [*]."""
        return torch.where(x > 0, torch.sqrt(x), torch.zeros_like(x))


@seeded
def where_trap() -> Setup:
    """``torch.where`` hides the root of a negative number from the value, and not from the gradient: 0 / NaN."""
    parts = OrderedDict(body=mlp(1, nn.ReLU, outputs=32), feature=RootFeature(), head=nn.Linear(32, 10))
    return Setup(nn.Sequential(parts), cross_entropy, digit_batches())


class Softplus(nn.Module):
    """log(1 + exp(x)), written out."""

    def forward(self, x: Tensor) -> Tensor:
        """[*] -> [*]."""
        return torch.log(1.0 + torch.exp(x))


@seeded
def exp_overflow() -> Setup:
    """Softplus written out: exp overflows beyond 88.7 although the result would be x."""
    model = conv_net(2, Softplus)
    with torch.no_grad():
        layer(model, "features.conv2").weight.mul_(400.0)
    return Setup(model, cross_entropy, image_batches())


class PaddedAttention(nn.Module):
    """Attention that masks padding with -inf."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.embedding, self.score, self.head = nn.Embedding(32, dim), nn.Linear(dim, 1), nn.Linear(dim, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        """[batch, length] -> [batch, 4]."""
        x = self.embedding(tokens)
        scores = self.score(x).squeeze(2).masked_fill(tokens == 0, float("-inf"))
        out: Tensor = self.head((torch.softmax(scores, dim=1).unsqueeze(2) * x).sum(1))
        return out


@seeded
def masked_row() -> Setup:
    """A sentence of padding alone: softmax of a row of -inf is NaN."""
    batches = [(torch.randint(1, 32, (16, 8)), torch.randint(4, (16,))) for _ in range(2)]
    for tokens, _ in batches:
        tokens[5] = 0
    return Setup(PaddedAttention(), cross_entropy, batches)


_N, _UNSAFE = Symptom.NONFINITE, Cause.UNSAFE_OP
CASES = (
    Case("log_zero", log_zero, _N, _UNSAFE, (), "TFbugs (Zhang et al. 2018); stackoverflow.com/q/33712178"),
    Case("sqrt_zero", sqrt_zero, _N, _UNSAFE, ("deviation",), "pytorch issue 6394"),
    Case("self_distance", self_distance, _N, _UNSAFE, (), "pytorch issue 6394; jax issue 347"),
    Case("zero_by_zero", zero_by_zero, _N, _UNSAFE, ("", "embedding"), "TFbugs (Zhang et al. 2018)"),
    Case("acos_one", acos_one, _N, _UNSAFE, (), "pytorch issue 4605"),
    Case("where_trap", where_trap, _N, _UNSAFE, ("feature",), "pytorch issues 36923 and 187297"),
    Case("exp_overflow", exp_overflow, _N, _UNSAFE, ("features.act2",), "Goodfellow et al. 2016, section 4.1"),
    Case("masked_row", masked_row, _N, _UNSAFE, ("", "score"), "pytorch issues 41508 and 40932"),
)
