"""Parameters that should learn and cannot: the graph, the registration or the optimizer's list is cut."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradtrace.casebook.case import Case, Setup, seeded
from gradtrace.casebook.networks import HE, Attention, Block, TokenModel, conv_net, mlp, scale_weights
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


def _encoder() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU())


class Detached(nn.Module):
    """``.detach()`` between encoder and head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = _encoder(), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 64] -> [batch, 10]."""
        out: Tensor = self.head(self.encoder(x).detach())
        return out


@seeded
def detach() -> Setup:
    """A detach left in the forward pass: the encoder gets no gradient."""
    return Setup(Detached(), cross_entropy, digit_batches())


class ThroughData(nn.Module):
    """``.data`` of a convolution's output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)
        scale_weights(self, HE)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 1, 8, 8] -> [batch, 10]."""
        h = F.relu(self.stem(x))
        h = F.relu(self.body(h.data)).mean((2, 3))
        out: Tensor = self.head(h)
        return out


@seeded
def data_attribute() -> Setup:
    """``.data`` cuts as detach does, and says so nowhere: the stem never learns."""
    return Setup(ThroughData(), cross_entropy, image_batches())


class NoGradTokens(nn.Module):
    """Embedding and first block under ``torch.no_grad()``, copied from an evaluation script."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lower = nn.Embedding(32, 32), Block(32, Attention(32))
        self.upper, self.head = Block(32, Attention(32)), nn.Linear(32, 32)

    def forward(self, tokens: Tensor) -> Tensor:
        """[batch, length] -> [batch, length, vocabulary]."""
        with torch.no_grad():
            x = self.lower(self.embedding(tokens))
        out: Tensor = self.head(self.upper(x))
        return out


@seeded
def no_grad() -> Setup:
    """Half a transformer runs under ``no_grad`` although it is to be trained."""
    return Setup(NoGradTokens(), token_cross_entropy, token_batches())


class Rebuilt(nn.Module):
    """A scalar taken out with ``.item()`` and put back with ``torch.tensor``."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature, self.body = nn.Linear(64, 1), mlp(2, nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 64] -> [batch, 10]."""
        scale = torch.tensor([F.softplus(value).item() for value in self.temperature(x)]).unsqueeze(1)
        out: Tensor = self.body(x) * scale
        return out


@seeded
def item() -> Setup:
    """A learned temperature passes through ``.item()``: a number has no history."""
    return Setup(Rebuilt(), cross_entropy, digit_batches())


class HardCodes(nn.Module):
    """argmax between encoder and decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.codes, self.head = nn.Linear(64, 16), nn.Embedding(16, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 64] -> [batch, 10]."""
        out: Tensor = self.head(self.codes(self.encoder(x).argmax(1)))
        return out


@seeded
def argmax() -> Setup:
    """Discrete codes by argmax without a straight-through estimator: the encoder gets no gradient."""
    return Setup(HardCodes(), cross_entropy, digit_batches())


class Rounding(nn.Module):
    """round() as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        """[*] -> [*]."""
        return torch.round(4.0 * x) / 4.0


@seeded
def rounding() -> Setup:
    """Activations rounded without a straight-through estimator: round's derivative is zero, exactly."""
    parts = OrderedDict(encoder=_encoder(), quantizer=Rounding(), head=nn.Linear(32, 10))
    return Setup(nn.Sequential(parts), cross_entropy, digit_batches())


class PlainList(nn.Module):
    """Hidden layers in a Python list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(64, 64) for _ in range(3)]
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 64] -> [batch, 10]."""
        for layer in self.layers:
            x = F.relu(layer(x))
        out: Tensor = self.head(x)
        return out


@seeded
def plain_list() -> Setup:
    """Layers in a list and not a ModuleList: ``model.parameters()`` does not know them, so SGD moves the head alone."""
    model = PlainList()
    return Setup(model, cross_entropy, digit_batches(), torch.optim.SGD(model.parameters(), lr=0.1))


class PlainTensor(nn.Module):
    """A weight that is a tensor with requires_grad and not a Parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.mixing = (torch.randn(16, 16) / 4.0).requires_grad_()
        self.head = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 16] -> [batch, 1]."""
        out: Tensor = self.head(torch.tanh(x @ self.mixing))
        return out


@seeded
def plain_tensor() -> Setup:
    """requires_grad=True makes no Parameter: the tensor gets a gradient and no optimizer ever sees it."""
    model = PlainTensor()
    return Setup(model, squared_error, number_batches(), torch.optim.SGD(model.parameters(), lr=0.1))


@seeded
def replaced_head() -> Setup:
    """The head is replaced for fine-tuning after the optimizer was built: the optimizer moves the one thrown away."""
    model = conv_net(3, nn.ReLU, outputs=100)
    scale_weights(model, HE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.head = nn.Linear(16, 10)
    return Setup(model, cross_entropy, image_batches(), optimizer)


@seeded
def partial_optimizer() -> Setup:
    """An optimizer over the head alone, while the blocks still ask for gradients: they cost and do not move."""
    model = TokenModel([Block(32, Attention(32)) for _ in range(2)], 32)
    optimizer = torch.optim.Adam([*model.norm.parameters(), *model.head.parameters()], lr=1e-3)
    return Setup(model, token_cross_entropy, token_batches(), optimizer)


def _cut(name: str, build: Callable[[], Setup], where: tuple[str, ...], source: str) -> Case:
    return Case(name, build, Symptom.DISCONNECTED, Cause.DETACHED_GRAPH, where, source)


CASES = (
    _cut("detach", detach, ("encoder",), "TFbugs (Zhang et al. 2018); pytorch forum"),
    _cut("data_attribute", data_attribute, ("stem",), "migration guide of pytorch 0.4, on .data"),
    _cut("no_grad", no_grad, ("embedding", "lower"), "Defects4ML (Morovati et al. 2023)"),
    _cut("item", item, ("temperature",), "TFbugs (Zhang et al. 2018); pytorch forum"),
    _cut("argmax", argmax, ("encoder",), "van den Oord et al. 2017, section 3.2"),
    Case(
        "rounding",
        rounding,
        Symptom.DISCONNECTED,
        Cause.DETACHED_GRAPH,
        ("quantizer", "encoder"),
        "Bengio, Leonard and Courville 2013",
        # zero is also the extreme of a flat derivative
        also=((Symptom.VANISHING, Cause.ACTIVATION_DERIVATIVE),),
    ),
    _cut("plain_list", plain_list, (), "pytorch documentation of ModuleList"),
    _cut("plain_tensor", plain_tensor, (), "pytorch documentation of Parameter"),
    _cut("replaced_head", replaced_head, ("head",), "Defects4ML (Morovati et al. 2023)"),
    _cut("partial_optimizer", partial_optimizer, ("embedding", "positions", "blocks"), "Humbatova et al. 2020"),
)
