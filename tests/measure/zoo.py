"""Small networks, one for each thing that the trace has to see through: name -> (model, loss_fn, batch)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

Animal = tuple[nn.Module, Callable[[Any, Any], Tensor], Any]


class Net(nn.Module):
    """A model whose forward pass is `run(self, x)` over the given parts."""

    def __init__(self, run: Callable[[Any, Any], Any], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Any) -> Any:
        return self.run(self, x)


def square(model: nn.Module, x: Any) -> Tensor:
    """Mean square of the output, in float32 or wider."""
    y = model(x)
    return (y.abs() if y.is_complex() else y if y.dtype == torch.float64 else y.float()).square().mean()


def net(run: Callable[[Any, Any], Any], *shape: int, **parts: Any) -> Animal:
    """A `Net` on a random batch of `shape` with the squared loss."""
    return Net(run, **parts), square, torch.randn(shape or (6, 4))


def of(module: nn.Module, *shape: int) -> Animal:
    """A module between a linear layer and the squared loss."""
    model = Net(lambda net, x: net.module(net.first(x)), first=nn.Linear(shape[-1], shape[-1]), module=module)
    return model, square, torch.randn(shape)


# ------------------------------------------------------------------------------------------------ functions, in place


def functional(net: Any, x: Tensor) -> Tensor:
    h = F.relu(F.linear(x, net.w))
    h = torch.sigmoid(torch.einsum("bi,ji->bj", h, net.w))
    return torch.tanh(h @ net.w.t()) * net.scale + F.softplus(h).mean(1, keepdim=True)


def assign_column(net: Any, x: Tensor) -> Tensor:
    h = net.a(x)
    h[:, 0] = torch.sigmoid(h[:, 1])
    h += x
    h[:, 1:3].mul_(2.0)
    return net.b(h)


def add_in_place(net: Any, x: Tensor) -> Tensor:
    x = net.a(x)
    x += net.b(F.relu(x))
    x.sigmoid_()
    return net.b(x)


def views(net: Any, x: Tensor) -> Tensor:
    a, b = net.a(x).split(2, dim=1)
    c, d = net.a(x).unbind(0)[:2]
    e, _unused, f = net.b(x).chunk(3, dim=1)
    return a @ b.t() + (c * d).sum() + e.mean() * f.sum()


def several_branches(net: Any, x: Tensor) -> Tensor:
    h = net.a(x)
    return h + torch.relu(h) + torch.tanh(h) * torch.sigmoid(h) - net.a(h)


def caught(net: Any, x: Tensor) -> Tensor:
    try:
        net.b(net.a(x).repeat(1, 3))
    except RuntimeError:
        x = torch.relu(x)
    return net.a(net.a(x))


# ----------------------------------------------------------------------------------------- attention, recurrence


def attend(need_weights: bool) -> Animal:
    def run(net: Any, x: Tensor) -> Tensor:
        y, weights = net.attention(x, x, x, need_weights=need_weights)
        return y if weights is None else y + weights.mean()

    return net(run, 2, 5, 8, attention=nn.MultiheadAttention(8, 2, batch_first=True))


def sdpa(**options: Any) -> Animal:
    def run(net: Any, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in net.qkv(x).chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v, **options)

    return net(run, 2, 5, 8, qkv=nn.Linear(8, 24))


def by_hand(net: Any, x: Tensor) -> Tensor:
    q, k, v = net.qkv(x).chunk(3, -1)
    return net.out(torch.softmax(q @ k.transpose(1, 2) / 2, -1) @ v)


def transformer(norm_first: bool) -> Animal:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True, norm_first=norm_first)
    return net(lambda net, x: net.layers(x), 2, 5, 8, layers=nn.Sequential(layer, nn.LayerNorm(8)))


def recurrent(kind: type[nn.RNNBase], **options: Any) -> Animal:
    rnn = kind(4, 5, **options)  # type: ignore[arg-type]
    width = 10 if options.get("bidirectional") else 5
    first, head = nn.Linear(4, 4), nn.Linear(width, 2)
    return net(lambda net, x: net.head(net.rnn(net.first(x))[0]), 3, 6, 4, first=first, rnn=rnn, head=head)


def packed(net: Any, x: Tensor) -> Tensor:
    sequence = pack_padded_sequence(net.first(x), torch.tensor([6, 4, 2]), batch_first=True)
    return pad_packed_sequence(net.rnn(sequence)[0], batch_first=True)[0]


def cells(net: Any, x: Tensor) -> Tensor:
    state = None
    for step in x.unbind(1):
        state = net.cell(step, state)
    return state[0] if isinstance(state, tuple) else state  # type: ignore[return-value]


# ------------------------------------------------------------------------------------- custom functions, checkpoints


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


class Both(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, times: float) -> tuple[Tensor, Tensor]:
        ctx.times = times
        return x * times, y + x

    @staticmethod
    def backward(ctx: Any, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        return first * ctx.times + second, second, None


class Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


def many_outputs(net: Any, x: Tensor) -> Tensor:
    a, b = Both.apply(net.a(x), net.b(x), 2.0)
    return a * b


def rematerialised(use_reentrant: bool) -> Animal:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.last(checkpoint(net.middle, net.first(x), use_reentrant=use_reentrant))

    middle = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.2), nn.Linear(4, 4), nn.Sigmoid())
    return net(run, first=nn.Linear(4, 4), middle=middle, last=nn.Linear(4, 2))


# ---------------------------------------------------------------------------------------------- formats, outputs


def autocast(net: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return net.b(F.layer_norm(F.gelu(net.a(x)), (8,)))


def in_format(dtype: torch.dtype) -> Animal:
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)
    return model, square, torch.randn(6, 4).to(dtype)


def spectrum(net: Any, x: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(net.a(x)) * net.filter)


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor | None = None


def named_output(make: Callable[..., Any]) -> Animal:
    model = Net(lambda net, x: make(logits=net.a(x), hidden=net.b(x)), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    return model, lambda model, x: _logits(model(x)).square().mean(), torch.randn(6, 4)


def _logits(output: Any) -> Tensor:
    return output["logits"] if isinstance(output, dict) else output.logits  # type: ignore[no-any-return]


def several_losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, target = batch
    y = model(x)
    return F.cross_entropy(y, target) + 0.1 * F.mse_loss(y.sigmoid(), x) + 1e-3 * sum(
        p.square().sum() for p in model.parameters()
    )  # fmt: skip


def adversarial() -> Animal:
    critic = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 4))
    return model, lambda model, x: F.softplus(-critic(model(x))).mean(), torch.randn(6, 4)


def penalised(model: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    y = model(x)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    return y.square().mean() + (slope.norm(dim=1) - 1).square().mean()


def frozen() -> Animal:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    for index in (0, 2):
        model[index].requires_grad_(False)
    return model, square, torch.randn(6, 4)


def mapped(net: Any, x: Tensor) -> Tensor:
    return torch.func.vmap(lambda row: torch.tanh(net.w @ row))(net.a(x))  # type: ignore[no-any-return]


def compiled_whole() -> Animal:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2))
    return torch.compile(model, backend="eager"), square, torch.randn(6, 4)  # type: ignore[return-value]


def compiled_part() -> Animal:
    part = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()), backend="eager")
    return nn.Sequential(part, nn.Linear(4, 2)), square, torch.randn(6, 4)  # type: ignore[call-overload]
