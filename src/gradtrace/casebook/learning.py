"""Networks that do not learn, for reasons that lie between the last layer and the loss, or that only steps show."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradtrace.casebook.case import Case, Setup, seeded
from gradtrace.casebook.networks import HE, layer, mlp, scale_weights
from gradtrace.casebook.tasks import (
    cross_entropy,
    digit_batches,
    number_batches,
    series_batches,
    squared_error,
    token_batches,
    token_cross_entropy,
)
from gradtrace.records.vocabulary import Cause, Symptom


@seeded
def one_class() -> Setup:
    """Cross entropy over a single output: the loss is 0, and so is every gradient, whatever the network does."""
    model = mlp(2, nn.ReLU, inputs=16, outputs=1)
    batches = [(x, torch.zeros(len(x), dtype=torch.long)) for x, _ in number_batches()]
    return Setup(model, cross_entropy, batches, torch.optim.Adam(model.parameters(), lr=1e-3))


def clamped_error(model: nn.Module, batch: Any) -> Tensor:
    """Square of a temporal difference that is clamped to [-1, 1], where its gradient was to be clamped."""
    states, actions, returns = batch
    difference = returns - model(states).gather(1, actions)
    clamped: Tensor = difference.clamp(-1.0, 1.0).square().mean()
    return clamped


def transitions(mean: float) -> list[tuple[Tensor, Tensor, Tensor]]:
    """States, actions, and returns around `mean`."""
    return [
        (x, torch.randint(0, 4, (len(x), 1)), mean + 0.3 * torch.randn(len(x), 1)) for x, _ in number_batches(count=4)
    ]


@seeded
def clamped_residual() -> Setup:
    """A Q-network whose errors are clamped instead of their gradients: returns of 10 lie beyond, all of them."""
    model = mlp(2, nn.ReLU, inputs=16, outputs=4)
    return Setup(model, clamped_error, transitions(10.0), torch.optim.Adam(model.parameters(), lr=1e-3))


def absolute_error_of_classes(model: nn.Module, batch: Any) -> Tensor:
    """Mean absolute error to one-hot labels."""
    inputs, labels = batch
    return F.l1_loss(model(inputs), F.one_hot(labels, 10).float())


@seeded
def softmax_absolute() -> Setup:
    """Softmax, then the absolute error, logits in the thousands: one-hot and wrong, but for a few."""
    model = mlp(3, nn.ReLU)
    scale_weights(model, HE)
    scale_weights(layer(model, "head"), 400.0)
    model.append(nn.Softmax(dim=1))
    return Setup(model, absolute_error_of_classes, digit_batches(), torch.optim.SGD(model.parameters(), lr=0.1))


def penalised(model: nn.Module, batch: Any) -> Tensor:
    """Cross entropy and 0.01 times the sum of all squared weights, in the loss."""
    penalty = sum((p.square().sum() for p in model.parameters()), torch.zeros(()))
    return cross_entropy(model, batch) + 1e-2 * penalty


@seeded
def penalised_sigmoid() -> Setup:
    """12 sigmoid layers with a penalty in the loss, Adam: the early gradient is above eps, and all the penalty's."""
    model = mlp(12, nn.Sigmoid)
    return Setup(model, penalised, digit_batches(), torch.optim.Adam(model.parameters(), lr=1e-3))


class UNet(nn.Module):
    """Down twice and up twice by convolutions; `skips` hands what was found at each size across."""

    def __init__(self, activation: Any, *, skips: bool, width: int = 8) -> None:
        super().__init__()
        sizes = [(1, width), (width, width), (width, 2 * width), (2 * width, 2 * width), (2 * width, 2 * width)]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in sizes)
        ups = [(2 * width, 2 * width), (2 * width, width), (width, width)]
        self.up = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in ups)
        self.head, self.activation, self.skips = nn.Conv2d(width, 1, 1), activation, skips

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 1, 16, 16] -> the same, logits."""
        a = self.activation
        large = a(self.down[1](a(self.down[0](x))))
        small = a(self.down[3](a(self.down[2](F.max_pool2d(large, 2)))))
        x = F.interpolate(a(self.down[4](F.max_pool2d(small, 2))), scale_factor=2)
        x = a(self.up[0](x)) + (small if self.skips else 0.0)
        x = a(self.up[1](F.interpolate(x, scale_factor=2))) + (large if self.skips else 0.0)
        out: Tensor = self.head(a(self.up[2](x)))
        return out


def disc_batches(size: int = 16, count: int = 2) -> list[tuple[Tensor, Tensor]]:
    """Noisy images of one disc each [size, 1, 16, 16], and the disc."""
    batches = []
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    for _ in range(count):
        centre, radius = 16.0 * torch.rand(size, 2, 1, 1), 2.0 + 4.0 * torch.rand(size, 1, 1)
        disc = ((columns - centre[:, 0]).square() + (rows - centre[:, 1]).square() < radius.square()).float()[:, None]
        batches.append((disc + 0.3 * torch.randn_like(disc), disc))
    return batches


def mask_cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """Of each pixel."""
    images, masks = batch
    return F.binary_cross_entropy_with_logits(model(images), masks)


@seeded
def unet_of_sigmoids() -> Setup:
    """A U-Net of sigmoids without skips, Adam: the gradient of the first layers tells nothing of the image."""
    model = UNet(torch.sigmoid, skips=False)
    return Setup(model, mask_cross_entropy, disc_batches(), torch.optim.Adam(model.parameters(), lr=1e-3))


@seeded
def targets_out_of_range() -> Setup:
    """Digits from 0 to 9 as numbers, behind a sigmoid that ends at 1."""
    model = mlp(2, nn.ReLU, outputs=1).append(nn.Sigmoid())
    batches = [(x, y.float().unsqueeze(1)) for x, y in digit_batches()]
    return Setup(model, squared_error, batches, torch.optim.Adam(model.parameters(), lr=1e-3))


@seeded
def counts_as_probabilities() -> Setup:
    """Labels 0, 1 and 2 under binary cross entropy with logits: the loss falls below zero, without end."""
    model = mlp(2, nn.ReLU, outputs=1)
    batches = [(x, (y % 3).float().unsqueeze(1)) for x, y in digit_batches()]
    return Setup(model, mask_cross_entropy, batches, torch.optim.Adam(model.parameters(), lr=1e-3))


@seeded
def raw_features_adam() -> Setup:
    """Features of the order of 6e4 into a regression, with Adam: 1e7 times a constant's loss comes down too slowly."""
    model = mlp(2, nn.ReLU, inputs=16, outputs=1)
    batches = [(6e4 * x, y) for x, y in number_batches(count=4)]
    return Setup(model, squared_error, batches, torch.optim.Adam(model.parameters(), lr=1e-3))


def clipped_shares(model: nn.Module, batch: Any) -> Tensor:
    """Cross entropy of outputs divided by their sum and clipped against log(0), as Keras writes it."""
    inputs, labels = batch
    p = model(inputs)
    p = (p / (p.sum(1, keepdim=True) + 1e-7)).clamp(1e-7, 1 - 1e-7)
    likelihood: Tensor = p.log().gather(1, labels.unsqueeze(1)).mean()
    return -likelihood


@seeded
def clipped_relu_output() -> Setup:
    """ReLU as the output of a classifier, the cross entropy clipped: a label's unit that is off is never lifted."""
    model = mlp(2, nn.ReLU).append(nn.ReLU())
    return Setup(model, clipped_shares, digit_batches(count=4), torch.optim.Adam(model.parameters(), lr=1e-3))


@seeded
def large_start() -> Setup:
    """Weights of standard deviation 1, SGD: whatever the rate, the first steps kill every unit."""
    model = mlp(4, nn.ReLU)
    scale_weights(model, 8.0)
    return Setup(model, cross_entropy, digit_batches(), torch.optim.SGD(model.parameters(), lr=0.1))


class HandLSTM(nn.Module):
    """An LSTM written out over four linear maps, one time step at a time; the last state is read."""

    def __init__(self, forget_bias: float, hidden: int = 16) -> None:
        super().__init__()
        self.gates = nn.ModuleDict({name: nn.Linear(8 + hidden, hidden) for name in ("i", "f", "g", "o")})
        self.head, self.hidden = nn.Linear(hidden, 4), hidden
        nn.init.constant_(layer(self, "gates.f").bias, forget_bias)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, 8] -> [batch, 4]."""
        h = c = x.new_zeros(len(x), self.hidden)
        for step in x.unbind(1):
            both = torch.cat([step, h], dim=1)
            i, f, g, o = (gate(both) for gate in self.gates.values())
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        out: Tensor = self.head(h)
        return out


@seeded
def handwritten_lstm() -> Setup:
    """An LSTM written by hand over 64 steps: a forget gate of 1/2 leaves nothing of the first."""
    return Setup(HandLSTM(0.0), cross_entropy, series_batches(64))


@seeded
def faded_signal() -> Setup:
    """Weights of 0.01 and biases just below zero: the signal fades until the biases alone decide, and no unit is on."""
    model = mlp(6, nn.ReLU)
    scale_weights(model, 0.16)
    for part in layer(model, "hidden").children():
        if isinstance(part, nn.Linear):
            nn.init.constant_(part.bias, -0.01)
    return Setup(model, cross_entropy, digit_batches(), torch.optim.SGD(model.parameters(), lr=0.1))


def encoder(depth: int, *, pre: bool, dim: int = 32, vocabulary: int = 32) -> nn.Module:
    """Embedding, positions, ``nn.TransformerEncoder``, logits; Xavier weights."""
    part = nn.TransformerEncoderLayer(dim, 2, 64, dropout=0.0, batch_first=True, norm_first=pre)
    model = nn.Sequential(
        nn.Embedding(vocabulary, dim),
        nn.TransformerEncoder(part, depth, enable_nested_tensor=False),
        nn.Linear(dim, vocabulary),
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    return model


@seeded
def post_norm_in_training() -> Setup:
    """24 encoder layers with the norm behind the sum, Adam at 5e-3 without warm-up: even at first, lost in 20 steps."""
    model = encoder(24, pre=False)
    return Setup(model, token_cross_entropy, token_batches(8, 8), torch.optim.Adam(model.parameters(), lr=5e-3))


@seeded
def frozen_model() -> Setup:
    """A model that is frozen as a whole, in the hands of an optimizer."""
    model = mlp(2, nn.ReLU)
    model.requires_grad_(False)
    return Setup(model, cross_entropy, digit_batches(), torch.optim.Adam(model.parameters(), lr=1e-3))


class UnitWords(nn.Module):
    """Words as directions: each embedding divided by its length."""

    def __init__(self, padding: int | None) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(32, 16, padding_idx=padding), nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        """[batch, length] -> [batch, 4]."""
        words = self.embed(tokens)
        out: Tensor = self.head((words / words.norm(dim=-1, keepdim=True)).mean(1))
        return out


@seeded
def padded_directions() -> Setup:
    """The row of the padding is zero, and is divided by its length: 0 / 0, in the model's own code."""
    batches = [(torch.randint(0, 6, (16, 8)), torch.randint(0, 4, (16,))) for _ in range(2)]
    return Setup(UnitWords(0), cross_entropy, batches)


_L, _V = Symptom.LOSS_SATURATED, Symptom.VANISHING
_F, _A = Cause.LOSS_FUNCTION, Cause.ACTIVATION_DERIVATIVE


def sure_discriminator() -> tuple[nn.ModuleDict, list[Tensor], torch.optim.Optimizer]:
    """A generator, what tells all of its fakes from what is real (probabilities of about 1e-4), and noise."""
    model = nn.ModuleDict({"generator": mlp(1, nn.ReLU, inputs=16, outputs=16)})
    model["discriminator"] = mlp(1, lambda: nn.LeakyReLU(0.2), inputs=16, outputs=1).append(nn.Sigmoid())
    scale_weights(model, HE)
    nn.init.constant_(layer(model, "discriminator.head").bias, -9.0)
    model["discriminator"].requires_grad_(False)
    optimizer = torch.optim.SGD(layer(model, "generator").parameters(), lr=0.3)
    return model, [torch.randn(64, 16) for _ in range(2)], optimizer


def of_fakes(model: nn.Module, noise: Tensor) -> Tensor:
    """What the discriminator says of them, [batch, 1]."""
    said: Tensor = layer(model, "discriminator")(layer(model, "generator")(noise))
    return said


def minimax(model: nn.Module, batch: Any) -> Tensor:
    """The generator's side of the game of two, to be lowered."""
    return torch.log(1.0 - of_fakes(model, batch)).mean()


@seeded
def minimax_game() -> Setup:
    """A generator that lowers log(1 - D) where D is 1e-4: the loss is near its largest, and its gradient is D."""
    model, noise, optimizer = sure_discriminator()
    return Setup(model, minimax, noise, optimizer)


CASES = (
    Case("one_class", one_class, _L, _F, ("head",), "DeepLocalize (Wardat et al. 2021); NeuraLint, rule on softmax"),
    Case("clamped_residual", clamped_residual, _L, _F, ("head",), "OpenAI Baselines: DQN (2017)"),
    Case("softmax_absolute", softmax_absolute, _L, _F, ("head",), "Ghosh et al. 2017; Zhang and Sabuncu 2018"),
    Case("penalised_sigmoid", penalised_sigmoid, _V, _A, ("hidden",), "Loshchilov and Hutter 2019, section 2"),
    Case("unet_of_sigmoids", unet_of_sigmoids, _V, _A, ("down", "up"), "Ronneberger et al. 2015; Glorot 2010"),
    Case(
        "targets_out_of_range",
        targets_out_of_range,
        _L,
        _F,
        ("head",),
        "DeepFD (Cao et al. 2022), on the last activation",
        also=((_L, Cause.INPUT_SCALE),),
    ),
    Case(
        "counts_as_probabilities",
        counts_as_probabilities,
        Symptom.EXPLODING,
        _F,
        ("head",),
        "pytorch documentation of BCEWithLogitsLoss; NeuraLint (Nikanjam et al. 2021)",
        also=((_L, _F),),
    ),
    Case(
        "raw_features_adam", raw_features_adam, Symptom.EXPLODING, Cause.INPUT_SCALE, ("hidden",), "LeCun et al. 1998"
    ),
    Case("minimax_game", minimax_game, _L, _F, ("discriminator",), "Goodfellow et al. 2014, section 3"),
    Case("clipped_relu_output", clipped_relu_output, _L, _F, (), "binary_crossentropy of Keras; Douglas and Yu 2018"),
    Case(
        "large_start",
        large_start,
        Symptom.DEAD_UNITS,
        Cause.LARGE_WEIGHTS,
        ("hidden",),
        "He et al. 2015; AUTOTRAINER (Zhang et al. 2021)",
        steps=20,
        also=((Symptom.EXPLODING, Cause.LARGE_WEIGHTS),),
    ),
    Case(
        "handwritten_lstm", handwritten_lstm, _V, Cause.RECURRENT_CONTRACTION, ("gates",), "Jozefowicz et al. 2015, 2.1"
    ),
    Case(
        "faded_signal",
        faded_signal,
        Symptom.DEAD_UNITS,
        Cause.SMALL_WEIGHTS,
        ("hidden",),
        "Lu et al. 2020; He et al. 2015",
        also=((_V, Cause.SMALL_WEIGHTS),),
    ),
    Case(
        "post_norm_in_training",
        post_norm_in_training,
        _V,
        Cause.POST_NORM,
        (),
        "Xiong et al. 2020, section 3; Liu et al. 2020",
        steps=24,
    ),
    Case(
        "frozen_model", frozen_model, Symptom.DISCONNECTED, Cause.DETACHED_GRAPH, (), "pytorch forum: frozen by mistake"
    ),
    Case(
        "padded_directions",
        padded_directions,
        Symptom.NONFINITE,
        Cause.UNSAFE_OP,
        ("",),
        "pytorch documentation of Embedding, padding_idx, and of normalize, eps",
    ),
)
