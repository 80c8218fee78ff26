"""Deep networks that are well, because somebody thought about their gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gradtrace.casebook.case import Setup, healthy, seeded
from gradtrace.casebook.networks import HE, Attention, Block, Residual, TokenModel, layer, mlp, scale_weights
from gradtrace.casebook.tasks import cross_entropy, digit_batches, token_batches, token_cross_entropy
from gradtrace.casebook.vanishing import DeepLinear


@seeded
def prenorm_transformer() -> Setup:
    """24 pre-norm blocks: the skip is never normalised."""
    return Setup(TokenModel([Block(32, Attention(32)) for _ in range(24)], 32), token_cross_entropy, token_batches())


@seeded
def selu_deep() -> Setup:
    """50 SELU layers with LeCun's weights: activations keep mean 0 and variance 1."""
    model = mlp(50, nn.SELU)
    scale_weights(model, 1.0)
    return Setup(model, cross_entropy, digit_batches())


@seeded
def orthogonal_linear() -> Setup:
    """100 linear layers, orthogonal: dynamical isometry, every singular value is 1."""
    return Setup(DeepLinear(100, 1.0), cross_entropy, digit_batches())


@seeded
def he_relu() -> Setup:
    """20 He-initialised ReLU layers of 128: half of all derivatives are zero, and that is what the 2 makes up for."""
    model = mlp(20, nn.ReLU, width=128)
    scale_weights(model, HE)
    return Setup(model, cross_entropy, digit_batches())


@seeded
def fixup() -> Setup:
    """20 residual blocks whose last layer starts at zero: no gradient at all inside the branches, for one step."""
    blocks = []
    for _ in range(20):
        last = nn.Linear(64, 64)
        nn.init.zeros_(last.weight)
        blocks.append(Residual(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), last)))
    model = nn.Sequential(nn.Linear(64, 64), *blocks, nn.Linear(64, 10))
    return Setup(model, cross_entropy, digit_batches(), torch.optim.SGD(model.parameters(), lr=0.05))


class ReZero(nn.Module):
    """x + alpha f(x), alpha learned from 0."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch, self.alpha = branch, nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """[*] -> [*]."""
        out: Tensor = x + self.alpha * self.branch(x)
        return out


@seeded
def rezero() -> Setup:
    """16 ReZero blocks: the branches get exactly zero until alpha has moved."""
    blocks = [ReZero(nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))) for _ in range(16)]
    return Setup(TokenModel([*blocks], 32), token_cross_entropy, token_batches())


@seeded
def zero_head() -> Setup:
    """The last layer starts at zero, as in Fixup and many policies: everything below waits one step for it."""
    model = mlp(3, nn.ReLU)
    nn.init.zeros_(layer(model, "head").weight)
    return Setup(model, cross_entropy, digit_batches(), torch.optim.SGD(model.parameters(), lr=0.1))


class LayerScale(nn.Module):
    """x + gamma * f(norm(x)), gamma a vector that starts at 1e-4."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.gamma = nn.LayerNorm(dim), nn.Parameter(torch.full((dim,), 1e-4))
        self.inner, self.outer = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[*, dim] -> the same."""
        out: Tensor = x + self.gamma * self.outer(F.gelu(self.inner(self.norm(x))))
        return out


@seeded
def layer_scale() -> Setup:
    """24 blocks with LayerScale: the branches' gradient is 1e-4 of the skip's, and AdamW does not mind."""
    model = nn.Sequential(nn.Linear(64, 32), *[LayerScale(32) for _ in range(24)], nn.LayerNorm(32), nn.Linear(32, 10))
    return Setup(model, cross_entropy, digit_batches(), torch.optim.AdamW(model.parameters(), lr=1e-3))


class Highway(nn.Module):
    """t * f(x) + (1 - t) * x, t a sigmoid gate that starts nearly closed."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map, self.gate = nn.Linear(dim, dim), nn.Linear(dim, dim)
        nn.init.constant_(self.gate.bias, -4.0)

    def forward(self, x: Tensor) -> Tensor:
        """[*, dim] -> the same."""
        t = torch.sigmoid(self.gate(x))
        return t * F.relu(self.map(x)) + (1.0 - t) * x


@seeded
def highway() -> Setup:
    """30 highway layers whose gates are biased by -4: nearly flat sigmoids, by design."""
    model = nn.Sequential(nn.Linear(64, 32), *[Highway(32) for _ in range(30)], nn.Linear(32, 10))
    return Setup(model, cross_entropy, digit_batches())


class Checkpointed(nn.Module):
    """Residual blocks under non-reentrant checkpointing."""

    def __init__(self, depth: int = 8, dim: int = 32) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, dim), nn.Linear(dim, 10)
        self.blocks = nn.ModuleList(LayerScale(dim) for _ in range(depth))
        for block in self.blocks:
            nn.init.constant_(block.get_parameter("gamma"), 1.0 / math.sqrt(depth))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 64] -> [batch, 10]."""
        x = self.stem(x)
        for block in self.blocks:
            x = _checkpoint(block, x)
        out: Tensor = self.head(x)
        return out


def _checkpoint(block: nn.Module, x: Tensor) -> Any:
    return checkpoint(block, x, use_reentrant=False)


@seeded
def checkpointing() -> Setup:
    """Gradient checkpointing runs every block twice and changes no gradient."""
    return Setup(Checkpointed(), cross_entropy, digit_batches())


CASES = (
    healthy("prenorm_transformer", prenorm_transformer, "Xiong et al. 2020; Wang et al. 2019"),
    healthy("selu_deep", selu_deep, "Klambauer et al. 2017"),
    healthy("orthogonal_linear", orthogonal_linear, "Saxe et al. 2014"),
    healthy("he_relu", he_relu, "He et al. 2015, equation 10"),
    healthy("fixup", fixup, "Zhang et al. 2019"),
    healthy("rezero", rezero, "Bachlechner et al. 2021"),
    healthy("zero_head", zero_head, "Zhang et al. 2019; Andrychowicz et al. 2021"),
    healthy("layer_scale", layer_scale, "Touvron et al. 2021"),
    healthy("highway", highway, "Srivastava et al. 2015"),
    healthy("checkpointing", checkpointing, "Chen et al. 2016"),
)
