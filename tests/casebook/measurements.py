"""Plain PyTorch, apart from gradtrace's own trace: what gradient does each layer's output get?"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

LAYERS = {F.linear, F.conv1d, F.conv2d, F.embedding, F.multi_head_attention_forward, torch.conv2d, torch.conv1d}
PRODUCTS = {torch.matmul, Tensor.matmul, Tensor.__matmul__}


def rms(x: Tensor) -> float:
    return float(x.detach().double().square().mean().sqrt())


class Layers(TorchFunctionMode):
    """Puts a hook on the output of every layer: a map with weights, or a product with a Parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []
        self.gradients: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        product = func in PRODUCTS and any(isinstance(a, nn.Parameter) for a in args)
        name = getattr(func, "__name__", "")
        if func in LAYERS or product or name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
            first = out[0] if isinstance(out, tuple) else out
            if first.requires_grad:
                index = len(self.outputs)
                self.outputs.append(first)
                first.register_hook(lambda g: self.gradients.__setitem__(index, g.detach().clone()))
        return out


def layer_gradients(setup: Any, batch: Any = None) -> list[Tensor | None]:
    """The gradient at each layer's output, in the order of the forward pass."""
    layers = Layers()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with layers:
            loss = setup.loss_fn(setup.model, setup.batches[0] if batch is None else batch)
        loss.backward()
    setup.model.zero_grad()
    return [layers.gradients.get(i) for i in range(len(layers.outputs))]


def layer_rms(setup: Any, batch: Any = None) -> list[float]:
    return [math.nan if g is None else rms(g) for g in layer_gradients(setup, batch)]
