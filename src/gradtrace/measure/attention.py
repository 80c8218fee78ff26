"""How much does attention choose? Its logits, head by head, on a sample of the queries.

The gradient of a row p = softmax(z) is diag(p) - p p^T: it fades as the row becomes one-hot, and with it the entropy
H = -sum p log2 p, of log2(keys) bits at the most. The logits z = s q.k have, of independent entries, a root mean square
of s sqrt(d) rms(q) rms(k), which s = 1 / sqrt(d) keeps near one (Vaswani et al. 2017, sec. 3.2.1; Zhai et al. 2023).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from gradtrace.records.trace import AttentionStats
from gradtrace.tape.activations import row_measure
from gradtrace.tape.private import saved, shows_saved

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torch.autograd.graph import Node

QUERIES = 32
"""Per head and example, that are looked at; more are sampled evenly."""

_NUM_SCALES = 3

_UNDERFLOWS = 104.0
"""exp of less is zero in float32, whose smallest number is 2^-149 = exp(-103.3)."""

_AT_THE_BOTTOM, _FAR_ABOVE = 0.9, 0.5
"""[of the lowest logit] A constant that masks is told by the gap above it, where queries and keys make none."""


def fused_logits(node: Node) -> tuple[Tensor, Tensor] | None:
    """Logits [*, heads, queries, keys] of a sample of the queries of a fused op, and [rms(q), rms(k), s sqrt(d)]."""
    if not node.name().startswith("ScaledDotProduct") or not shows_saved():
        return None
    query, key = saved(node, "query"), saved(node, "key")
    scale = saved(node, "scale", None) or 1.0 / math.sqrt(query.shape[-1])
    step = max(1, math.ceil(query.shape[-2] / QUERIES))
    logits = query[..., ::step, :].float() @ key.float().mT * scale
    mask = saved(node, "attn_mask", None)
    if mask is None:
        mask = saved(node, "attn_bias", None)
    if mask is not None:
        mask = mask.expand(*query.shape[:-1], key.shape[-2])[..., ::step, :]
        logits = logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask
    logits = without_masked(logits, -1)
    if saved(node, "is_causal", False):
        positions = torch.arange(0, query.shape[-2], step, device=logits.device)
        later = torch.arange(key.shape[-2], device=logits.device) > positions[:, None]
        logits = logits.masked_fill(later, -math.inf)
    sizes = [part.float().square().mean().sqrt() for part in (query, key)]
    temperature = torch.full_like(sizes[0], scale * math.sqrt(query.shape[-1]))
    return logits, torch.stack((*sizes, temperature))


def without_masked(logits: Tensor, dim: int) -> Tensor:
    """`logits`, with -inf where a large negative constant (-1e4, -1e9, the lowest number) stands for it.

    >>> without_masked(torch.tensor([[1.0, 2.0, -1e9], [0.0, 3.0, 1.0]]), -1)
    tensor([[1., 2., -inf],
            [0., 3., 1.]])
    """
    finite = logits.masked_fill(~torch.isfinite(logits), 0.0)
    lowest = finite.amin()
    at_bottom = logits <= _AT_THE_BOTTOM * lowest
    between = ((logits <= _FAR_ABOVE * lowest) & ~at_bottom).any()
    is_constant = ~between & (lowest <= -_UNDERFLOWS)  # of whom logits of order one take all
    masked = at_bottom & is_constant & (logits <= logits.amax(dim, keepdim=True) - _UNDERFLOWS)
    return logits.masked_fill(masked, -math.inf)


def attention_rows(logits: Tensor) -> Tensor:
    """How far each row is from one-hot (`row_measure`); one with a single key that counts is so by construction."""
    rows = row_measure(torch.softmax(logits, dim=-1), -1)
    return rows[torch.isfinite(logits).sum(-1) > 1] if rows.device.type == "cpu" else rows.reshape(-1)


def heads(logits: Tensor, scales: Tensor | None, flat_below: float) -> Tensor | None:
    """[3 + 1 + 2 heads] scales (NaN where not known), number of keys, one-hot fractions, entropies; None: no heads.

    `logits` are [batch, heads, queries, keys], or [batch, queries, keys] of a single head.
    """
    if logits.dim() not in (3, 4) or not logits.is_floating_point():
        return None
    z = logits.detach() if logits.dim() == 4 else logits.detach()[:, None]
    z = z[..., :: max(1, math.ceil(z.shape[-2] / QUERIES)), :].float()
    p = torch.softmax(z, dim=-1)
    counts = (torch.isfinite(z).sum(-1) > 1).float()
    num = counts.sum((0, 2)).clamp_min(1.0)
    one_hot = ((row_measure(p, -1) < flat_below) * counts).sum((0, 2)) / num
    bits = (torch.special.entr(p).sum(-1) / math.log(2.0) * counts).sum((0, 2)) / num
    if scales is None:
        scales = torch.full((_NUM_SCALES,), math.nan, device=z.device)
    keys = torch.full((1,), float(z.shape[-1]), device=z.device)
    return torch.cat((scales, keys, one_hot, bits))


def attention_stats(numbers: np.ndarray) -> AttentionStats:
    """The record of `heads`, once it is on the host."""
    query, key, temperature, keys, *rest = (float(value) for value in numbers)
    half = len(rest) // 2
    return AttentionStats(tuple(rest[:half]), tuple(rest[half:]), int(keys), query, key, temperature)
