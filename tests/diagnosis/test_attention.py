"""Attention that is one-hot: which heads, how many bits are left, and what made the logits large."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradtrace
from gradtrace.measure.attention import attention_stats, fused_logits, heads, without_masked
from gradtrace.records.finding import Finding
from gradtrace.records.vocabulary import Cause, Symptom

Mask: TypeAlias = Callable[[Tensor, Tensor], Tensor]

EARLIER = torch.zeros(12, 12, dtype=torch.bool)
"""Which key a query sees: seven of twelve queries see themselves alone, the others all keys."""
EARLIER[torch.arange(7), torch.arange(7)] = EARLIER[7:] = True

MASKS: dict[str, Mask] = {
    "-inf": lambda z, mask: z.masked_fill(~mask, -math.inf),
    "-1e9 in place": lambda z, mask: z.masked_fill_(~mask, -1e9),
    "-1e4 added": lambda z, mask: z + (~mask) * -1e4,
    "lowest": lambda z, mask: torch.where(mask, z, torch.finfo(z.dtype).min),
    "-1e9 added": lambda z, mask: z + (~mask) * -1e9,
}


class Net(nn.Module):
    """Two heads of 16, written out or fused; the embedding and its positions have unit scale."""

    def __init__(self, *, fused: bool, scale: float = 0.25, masked: Mask | None = None) -> None:
        super().__init__()
        self.masked = masked
        self.q, self.k, self.v, self.out = (nn.Linear(32, 32, bias=False) for _ in range(4))
        self.fused, self.scale = fused, scale
        for one in (self.q, self.k):
            nn.init.normal_(one.weight, std=1 / math.sqrt(32))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, 16)).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.masked is not None:
            mixed = torch.softmax(self.masked(q @ k.mT * self.scale, EARLIER), -1) @ v
        elif self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        else:
            mixed = torch.softmax(q @ k.mT * self.scale, -1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2).mean(1))


def finding(model: Net) -> Finding | None:
    batches = [(torch.randn(16, 12, 32), torch.randint(0, 32, (16,))) for _ in range(2)]
    found = gradtrace.check(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), batches).findings
    return next((f for f in found if f.cause is Cause.ATTENTION_SATURATION), None)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("fused", [True, False])
def test_what_makes_the_logits_large_is_named(fused: bool) -> None:
    assert finding(Net(fused=fused)) is None
    expected = {
        "queries": "The queries make it",
        "keys": "The keys make it",
        "both": "The queries and the keys make it",
    }
    for which, words in expected.items():
        model = Net(fused=fused)
        with torch.no_grad():
            model.q.weight *= 60.0 if which == "queries" else 8.0 if which == "both" else 1.0
            model.k.weight *= 60.0 if which == "keys" else 8.0 if which == "both" else 1.0
        found = finding(model)
        assert found is not None
        assert found.symptom is Symptom.SATURATED
        assert words in found.message, found.message
    found = finding(Net(fused=fused, scale=16.0))
    assert found is not None
    assert "The scale makes it: 1 / sqrt(d) is usual" in found.message


@pytest.mark.parametrize("mask", list(MASKS))
def test_keys_that_a_constant_masks_are_none(mask: str) -> None:
    """A query that sees one key alone is one-hot by construction; and no mask makes the logits large."""
    assert finding(Net(fused=False, masked=MASKS[mask])) is None
    told = []
    for one in (MASKS[mask], MASKS["-inf"]):
        torch.manual_seed(0)
        model = Net(fused=False, masked=one)
        with torch.no_grad():
            model.q.weight *= 60.0
        found = finding(model)
        assert found is not None
        told.append(found)
    assert "The queries make it" in told[0].message
    assert told[0].message == told[1].message


@pytest.mark.parametrize("as_bias", [False, True])
def test_a_fused_mask_of_large_numbers_is_as_one_of_bits(as_bias: bool) -> None:
    q, k, v = (torch.randn(2, 2, 12, 16, requires_grad=True) for _ in range(3))
    mask = torch.where(EARLIER, 0.0, -1e9) if as_bias else EARLIER
    found = fused_logits(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).grad_fn)  # type: ignore[arg-type]
    assert found is not None
    assert torch.equal(torch.isfinite(found[0]), EARLIER.expand_as(found[0]))


def test_logits_that_are_large_by_themselves_are_not_masked() -> None:
    z = 300.0 * torch.randn(4, 2, 64, 64)
    assert torch.isfinite(without_masked(z, -1)).float().mean() > 0.999
    for large in (z.relu(), z.abs(), z.clamp_min(-1.0)):  # a lowest one that is no constant to mask with
        assert torch.isfinite(without_masked(large, -1)).all()


@pytest.mark.parametrize("fused", [True, False])
def test_a_missing_scale_is_told(fused: bool) -> None:
    model = Net(fused=fused, scale=1.0)
    with torch.no_grad():
        model.q.weight *= 1.9
        model.k.weight *= 1.9
    found = finding(model)
    assert found is not None
    assert "1 / sqrt(d) is missing" in found.message


@pytest.mark.parametrize("fused", [True, False])
def test_the_head_is_told(fused: bool) -> None:
    model = Net(fused=fused)
    with torch.no_grad():
        model.q.weight[16:] *= 1e4
        model.q.weight[:16] *= 5.0
    found = finding(model)
    assert found is not None
    assert "it is head 1 of 2" in found.message
    assert "of 3.6 bits" in found.message


def test_bits_and_rows_against_closed_forms() -> None:
    logits = torch.zeros(2, 3, 5, 8)
    logits[:, 1, :, 0] = 100.0
    logits[:, 2, :, 2:] = -math.inf
    numbers = heads(logits, None, 0.05)
    assert numbers is not None
    stats = attention_stats(numbers.numpy())
    assert stats.one_hot_fracs == (0.0, 1.0, 0.0)
    assert stats.entropies_bits == pytest.approx((3.0, 0.0, 1.0), abs=1e-6)
    assert (stats.num_keys, math.isnan(stats.query_rms)) == (8, True)
    logits[..., 1:] = -math.inf  # nothing to choose from: no row counts
    numbers = heads(logits, None, 0.05)
    assert numbers is not None
    assert attention_stats(numbers.numpy()).one_hot_fracs == (0.0, 0.0, 0.0)
    assert heads(torch.zeros(4, 3), None, 0.05) is None


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("tower", "ill"), [(1, False), (8, True)])
def test_what_only_makes_scores_is_no_depth_and_a_tower_that_makes_them_is(tower: int, ill: bool, fused: bool) -> None:
    """Values that are alike, as small embeddings are, give scores next to no gradient; the words have theirs."""

    class Relative(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.value, self.head = nn.Embedding(50, 32), nn.Linear(32, 32), nn.Linear(32, 50)
            self.query, self.positions = nn.Linear(32, 32), nn.Sequential(*(nn.Linear(32, 32) for _ in range(tower)))
            nn.init.normal_(self.words.weight, std=0.02)
            for layer in self.positions:
                nn.init.orthogonal_(layer.weight)
            self.register_buffer("places", torch.randn(16, 32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.words(x)
            q, k, v = self.query(h), self.positions(self.places).expand(len(x), -1, -1), self.value(h)
            if fused:
                return self.head(
                    h + nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
                )
            return self.head(h + (q @ k.transpose(1, 2) / 32**0.5).softmax(-1) @ v)

    def loss_fn(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch).flatten(0, 1), batch.flatten())

    torch.manual_seed(0)
    found = gradtrace.check(Relative(), loss_fn, [torch.randint(0, 50, (4, 16)) for _ in range(2)]).findings
    assert any(f.symptom is Symptom.VANISHING for f in found) is ill
