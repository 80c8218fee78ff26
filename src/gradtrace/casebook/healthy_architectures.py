"""Architectures that are well: skips, gates, concatenations, recurrences, shared encoders."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradtrace.casebook.case import Setup, healthy, seeded
from gradtrace.casebook.networks import Attention, Block, mlp
from gradtrace.casebook.recurrent import LastStep
from gradtrace.casebook.tasks import (
    cross_entropy,
    digit_batches,
    image_batches,
    number_batches,
    series_batches,
    token_batches,
    token_cross_entropy,
)


class BasicBlock(nn.Module):
    """The residual block of ResNet-18, with its stride and its projection."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        project = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut: nn.Module = nn.Identity() if same else project

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, height, width] -> [batch, outputs, height / stride, width / stride]."""
        h = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(h)) + self.shortcut(x), inplace=True)


@seeded
def resnet() -> Setup:
    """A ResNet of 17 convolutions with batch norm, strides, in-place ReLUs and global average pooling."""
    blocks = [BasicBlock(8, 8), BasicBlock(8, 8), BasicBlock(8, 16, 2), BasicBlock(16, 16), BasicBlock(16, 32, 2)]
    stem = nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    model = nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    return Setup(model, cross_entropy, image_batches())


class Dense(nn.Module):
    """DenseNet: every layer sees all that came before."""

    def __init__(self, depth: int = 12, growth: int = 8) -> None:
        super().__init__()
        widths = [16 + growth * i for i in range(depth)]
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.convs = nn.ModuleList(nn.Conv2d(width, growth, 3, padding=1, bias=False) for width in widths)
        self.head = nn.Linear(16 + growth * depth, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 1, 8, 8] -> [batch, 10]."""
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], dim=1)
        out: Tensor = self.head(x.mean((2, 3)))
        return out


@seeded
def densenet() -> Setup:
    """12 densely connected layers, joined by concatenation."""
    return Setup(Dense(), cross_entropy, image_batches())


class UNet(nn.Module):
    """Down, down, up, up, with skips by concatenation."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down1, self.down2 = self._stage(1, width), self._stage(width, 2 * width)
        self.middle = self._stage(2 * width, 4 * width)
        self.up2, self.up1 = self._stage(6 * width, 2 * width), self._stage(3 * width, width)
        self.head = nn.Conv2d(width, 1, 1)

    @staticmethod
    def _stage(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            OrderedDict(conv=nn.Conv2d(inputs, outputs, 3, padding=1), norm=nn.GroupNorm(4, outputs), act=nn.SiLU())
        )

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 1, 8, 8] -> the same."""
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.middle(F.max_pool2d(b, 2))
        b = self.up2(torch.cat([F.interpolate(c, scale_factor=2), b], dim=1))
        out: Tensor = self.head(self.up1(torch.cat([F.interpolate(b, scale_factor=2), a], dim=1)))
        return out


def denoise(model: nn.Module, batch: Any) -> Tensor:
    """Squared error of the clean image."""
    noisy, clean = batch
    return F.mse_loss(model(noisy), clean)


@seeded
def unet() -> Setup:
    """A U-Net that denoises: most of the gradient goes along the skips, little through the bottom."""
    batches = [(images + 0.5 * torch.randn_like(images), images) for images, _ in image_batches()]
    return Setup(UNet(), denoise, batches)


@seeded
def lstm_moderate() -> Setup:
    """An LSTM over 24 steps with forget gates biased by 3: 0.95 of the cell survives each step."""
    rnn = nn.LSTM(8, 32, batch_first=True)
    nn.init.constant_(rnn.get_parameter("bias_ih_l0")[32:64], 3.0)
    nn.init.constant_(rnn.get_parameter("bias_hh_l0")[32:64], 0.0)
    return Setup(LastStep(rnn), cross_entropy, series_batches(24))


class Tagger(nn.Module):
    """A GRU and a label at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn, self.head = nn.Embedding(32, 32), nn.GRU(32, 32, batch_first=True), nn.Linear(32, 32)

    def forward(self, tokens: Tensor) -> Tensor:
        """[batch, length] -> [batch, length, vocabulary]."""
        out: Tensor = self.head(self.rnn(self.embedding(tokens))[0])
        return out


@seeded
def gru_every_step() -> Setup:
    """A GRU over 64 tokens with a loss at every step: each step gets its own gradient, however short its memory."""
    return Setup(Tagger(), token_cross_entropy, token_batches(8, 64))


class ViT(nn.Module):
    """Patches of 2 x 2, a class token, pre-norm blocks."""

    def __init__(self, dim: int = 32, depth: int = 6) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(1, dim, 2, 2), nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(17, dim))
        self.blocks = nn.Sequential(*[Block(dim, Attention(dim)) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 1, 8, 8] -> [batch, 10]."""
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        out: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return out


@seeded
def vit() -> Setup:
    """A small vision transformer that is read off at one token: the other positions get less, and enough."""
    model = ViT()
    return Setup(model, cross_entropy, image_batches(16), torch.optim.AdamW(model.parameters(), lr=1e-3))


class MixtureDensity(nn.Module):
    """Weights, means and scales of a mixture of Gaussians."""

    def __init__(self, parts: int = 5) -> None:
        super().__init__()
        self.body, self.parts = mlp(2, nn.Tanh, inputs=16, outputs=3 * parts), parts

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """[batch, 16] -> three of [batch, parts]."""
        out: tuple[Tensor, ...] = self.body(x).split(self.parts, dim=1)
        return out


def mixture_likelihood(model: nn.Module, batch: Any) -> Tensor:
    """-log sum_k pi_k N(y; mu_k, s_k), by logsumexp."""
    x, y = batch
    logits, means, log_scales = model(x)
    log_normal = -0.5 * ((y - means) * torch.exp(-log_scales)).square() - log_scales - 0.5 * math.log(2 * math.pi)
    return -torch.logsumexp(F.log_softmax(logits, dim=1) + log_normal, dim=1).mean()


@seeded
def mixture_density() -> Setup:
    """A mixture density network: exp and log with care, by logsumexp; the loss may pass through zero."""
    return Setup(MixtureDensity(), mixture_likelihood, number_batches())


class Inverted(nn.Module):
    """Inverted residual with a depthwise convolution and squeeze-excite gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width), nn.ReLU6())
        depthwise = nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width, bias=False)
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(4 * width), nn.ReLU6())
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4 * width, 4 * width, 1), nn.Sigmoid())
        self.project = nn.Sequential(nn.Conv2d(4 * width, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, width, height, width] -> the same."""
        h = self.depthwise(self.expand(x))
        out: Tensor = x + self.project(h * self.squeeze(h))
        return out


@seeded
def mobilenet() -> Setup:
    """Depthwise convolutions, ReLU6 and sigmoid gates between batch norms."""
    blocks = [Inverted(8) for _ in range(4)]
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    return Setup(model, cross_entropy, image_batches(), torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))


def siamese_loss(model: nn.Module, batch: Any) -> Tensor:
    """Contrastive, with squared distances."""
    one, other, same = batch
    gap = (model(one) - model(other)).square().mean(1)
    return torch.where(same, gap, F.relu(1.0 - gap)).mean()


@seeded
def siamese() -> Setup:
    """One encoder called twice in a forward pass: shared weights, and no recurrence."""
    first, second = digit_batches(count=2)
    pairs = [(first[0], second[0], first[1] == second[1]), (second[0], first[0], first[1] == second[1])]
    return Setup(mlp(3, nn.ReLU, outputs=16), siamese_loss, pairs)


CASES = (
    healthy("resnet", resnet, "He et al. 2016"),
    healthy("densenet", densenet, "Huang et al. 2017"),
    healthy("unet", unet, "Ronneberger et al. 2015"),
    healthy("lstm_moderate", lstm_moderate, "Gers et al. 2000; Jozefowicz et al. 2015"),
    healthy("gru_every_step", gru_every_step, "Cho et al. 2014"),
    healthy("vit", vit, "Dosovitskiy et al. 2021"),
    healthy("mixture_density", mixture_density, "Bishop 1994"),
    healthy("mobilenet", mobilenet, "Sandler et al. 2018; Howard et al. 2019"),
    healthy("siamese", siamese, "Bromley et al. 1994; Hadsell et al. 2006"),
)
