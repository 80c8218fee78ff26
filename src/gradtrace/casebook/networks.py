"""What are the networks of the casebook made of? Plain stacks, residual blocks and attention, with their gain in hand.

A layer's *gain* here is g in Var(w) = g^2 / fan_in: 1 keeps a linear network (Glorot 2010), sqrt(2) a ReLU one (He
2015, equation 10).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HE = math.sqrt(2.0)


def mlp(
    depth: int, activation: Callable[[], nn.Module], width: int = 64, inputs: int = 64, outputs: int = 10
) -> nn.Sequential:
    """``hidden.linear1``, ``hidden.act1``, ..., then ``head``; initialised as torch does."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, depth + 1):
        layers[f"linear{number}"] = nn.Linear(inputs if number == 1 else width, width)
        layers[f"act{number}"] = activation()
    return nn.Sequential(OrderedDict(hidden=nn.Sequential(layers), head=nn.Linear(width, outputs)))


def conv_net(
    depth: int, activation: Callable[[], nn.Module], width: int = 16, outputs: int = 10, norm: bool = False
) -> nn.Sequential:
    """``features.conv1``, [``features.norm1``,] ``features.act1``, ..., then mean over positions and ``head``."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, depth + 1):
        layers[f"conv{number}"] = nn.Conv2d(1 if number == 1 else width, width, 3, padding=1, bias=not norm)
        if norm:
            layers[f"norm{number}"] = nn.BatchNorm2d(width)
        layers[f"act{number}"] = activation()
    parts = OrderedDict(features=nn.Sequential(layers), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten())
    return nn.Sequential(OrderedDict(parts, head=nn.Linear(width, outputs)))


def layer(model: nn.Module, path: str) -> Any:
    """The submodule at `path`."""
    return model.get_submodule(path)


@torch.no_grad()
def scale_weights(module: nn.Module, gain: float) -> None:
    """Var(w) = gain^2 / fan_in, Gaussian, and biases of zero, for every linear map and convolution in `module`."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d):
            nn.init.normal_(part.weight, std=gain / math.sqrt(part.weight[0].numel()))
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class Residual(nn.Module):
    """x + scale * branch(x)."""

    def __init__(self, branch: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.branch = branch
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """[*] -> [*]."""
        out: Tensor = x + self.scale * self.branch(x)
        return out


class Attention(nn.Module):
    """Self-attention of several heads, written out; `temperature` multiplies the usual 1 / sqrt(d)."""

    def __init__(self, dim: int, num_heads: int = 4, *, causal: bool = False, temperature: float = 1.0) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.num_heads, self.causal = num_heads, causal
        self.factor = temperature / math.sqrt(dim // num_heads)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, dim] -> the same."""
        size, length, _ = x.shape
        q, k, v = (
            f(x).view(size, length, self.num_heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value)
        )
        logits = q @ k.transpose(-2, -1) * self.factor
        if self.causal:
            future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
            logits = logits.masked_fill(future, float("-inf"))
        mixed = torch.softmax(logits, dim=-1) @ v
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention and a two-layer map, each with a skip; layer norm before (`pre`) or after the sum."""

    def __init__(self, dim: int, attention: nn.Module, *, pre: bool = True, hidden: int | None = None) -> None:
        super().__init__()
        self.attention = attention
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.inner, self.outer = nn.Linear(dim, hidden or 2 * dim), nn.Linear(hidden or 2 * dim, dim)
        self.pre = pre

    def forward(self, x: Tensor) -> Tensor:
        """[batch, length, dim] -> the same."""
        if self.pre:
            x = x + self.attention(self.norm1(x))
            return x + self.feed(self.norm2(x))
        x = self.norm1(x + self.attention(x))
        out: Tensor = self.norm2(x + self.feed(x))
        return out

    def feed(self, x: Tensor) -> Tensor:
        """The two-layer map."""
        out: Tensor = self.outer(F.relu(self.inner(x)))
        return out


class TokenModel(nn.Module):
    """Embedding with positions, blocks, a norm, logits for each position."""

    def __init__(self, blocks: list[nn.Module], dim: int, vocabulary: int = 32, length: int = 16) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(vocabulary, dim), nn.Parameter(torch.randn(length, dim))
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """[batch, length] -> [batch, length, vocabulary]."""
        x = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x))
        return out
