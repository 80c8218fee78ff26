"""The heat map: |dL_t/ds_s| of one recurrence, from random cotangents at h_t or from the user's losses per step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from gradtrace.errors import InputError
from gradtrace.records.time import Reach
from gradtrace.recurrence.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gradtrace.recurrence.chain import Recurrence

MAX_LOSSES = 64
"""Of the user's losses per step, at most so many are followed back."""


def spread(last: int, count: int) -> list[int]:
    """At most `count` numbers up to `last`, evenly spaced, `last` among them.

    >>> spread(100, 4), spread(3, 8)
    ([25, 50, 75, 100], [1, 2, 3])
    """
    return sorted({max(1, round(last * (i + 1) / count)) for i in range(count)} if last > count else range(1, last + 1))


def random_reach(one: Recurrence, cotangent: Tensor | None, num_targets: int, generator: torch.Generator) -> Reach:
    """From the cotangent (by default standard normal) at h_t of a few t's, evenly spaced up to the last."""
    targets = [t for t in spread(one.num_steps, num_targets) if one.states[t].h.requires_grad]
    seeds = []
    for t in targets:
        h = one.states[t].h
        noise = torch.randn(tuple(h.shape), generator=generator, dtype=torch.float64)
        try:
            v = (noise if cotangent is None else cotangent).to(dtype=h.dtype, device=h.device).expand_as(h)
        except RuntimeError as error:
            assert cotangent is not None
            raise InputError(
                f"cotangent has shape {list(cotangent.shape)}, which does not broadcast to h_t, {list(h.shape)}"
            ) from error
        seeds.append((t, h, v))
    return _reach(one, seeds, "random" if cotangent is None else "cotangent")


def loss_reaches(found: Sequence[Recurrence], losses: Tensor, notes: list[str]) -> list[Reach]:
    """From every L_t (or `MAX_LOSSES` of them), for each recurrence with as many steps as there are losses."""
    reaches = []
    for one in found:
        num_steps = one.num_steps
        if num_steps != len(losses):
            notes.append(f"{len(losses)} losses, but {num_steps} steps of {one.module}: no heat map of them there")
            continue
        order = [num_steps + 1 - t if one.reverse else t for t in range(1, num_steps + 1)]
        targets = spread(num_steps, MAX_LOSSES)
        reaches.append(_reach(one, [(t, losses[order[t - 1] - 1], None) for t in targets], "loss"))
    return reaches


def _reach(one: Recurrence, seeds: Sequence[tuple[int, Tensor, Tensor | None]], source: str) -> Reach:
    cuts = sorted(one.cuts)
    states = [*one.states, *(one.cuts[t] for t in cuts)]  # behind a cut the gradient ends at the copy
    hidden, cells = [(state.h,) for state in states], [(state.c,) for state in states if state.c is not None]
    rows, starts = [], []
    with Tap([*hidden, *cells]) as tap:
        for t, output, cotangent in seeds:
            norms, _ = tap.norms([output], None if cotangent is None else [cotangent], one.starts)
            row = np.hypot(norms[: len(hidden)], norms[len(hidden) :]) if cells else norms
            start = max((cut for cut in cuts if cut < t), default=0)
            if start:
                row[start] = row[len(one.states) + cuts.index(start)]
            rows.append(tuple(float(x) for x in row[: t + 1]))
            starts.append(start)
    return Reach(source, tuple(t for t, _, _ in seeds), tuple(rows), tuple(starts) if cuts else ())
