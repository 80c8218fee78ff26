"""The QR method on the exact Jacobians of the steps; see `gradtrace.recurrence.lyapunov`."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import torch

from gradtrace.errors import InputError
from gradtrace.records.lyapunov import LyapunovSpectrum
from gradtrace.recurrence.norms import largest_singular_value
from gradtrace.tape.cells import State, Weights, push

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from gradtrace.recurrence.chain import Recurrence

NUM_BLOCKS = 10
"""The sequence is cut into so many stretches of time: their means, over all sequences, give the standard error."""
MAX_SEQUENCES = 4
MIN_STEPS = 4
"""Fewer steps than this have no exponents to speak of."""


def spectra(found: Sequence[Recurrence], k: int) -> tuple[LyapunovSpectrum, ...]:
    """The `k` largest exponents of each chain that has steps enough and finite states."""
    measured = []
    for one in found:
        if one.segments and one.num_steps >= MIN_STEPS:
            try:
                measured.append(spectrum(one, k, MAX_SEQUENCES, 0.0, lambda _frac: None, 0))
            except InputError:  # a state that is not finite: the chain's gradients say so
                continue
    return tuple(measured)


@torch.no_grad()
def spectrum(
    one: Recurrence, k: int | None, most: int, warmup_frac: float, say: Callable[[float], None], seed: int
) -> LyapunovSpectrum:
    """Of one chain; the first `warmup_frac` of its steps do not count."""
    with _one_thread():
        logs, dim = _log_diagonals(one, k, most, say, seed)
    warmup = min(int(warmup_frac * len(logs)), len(logs) - 1)
    kept = logs[warmup:]
    means = kept.mean(dim=(0, 1))
    order = torch.argsort(means, descending=True)
    matrix = one.weight
    assert matrix is not None
    return LyapunovSpectrum(
        module=one.module, kind=one.kind, layer=one.layer, direction="backward" if one.reverse else "forward",
        exponents=tuple(means[order].tolist()), errors=tuple(_standard_errors(kept)[order].tolist()),
        dim=dim, num_steps=len(kept), num_sequences=kept.shape[1], singular_value=largest_singular_value(matrix),
    )  # fmt: skip


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Small matrices are factorised twice as fast by one thread, and on a busy machine ten times."""
    num_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(num_threads)


def _log_diagonals(
    one: Recurrence, k: int | None, most: int, say: Callable[[float], None], seed: int
) -> tuple[Tensor, int]:
    """Ln |diag R_t| [time, sequence, k], and the dimension of the state."""
    jobs = [(segment, t) for segment in one.segments for t in range(len(segment.steps))]
    width = min(most, *(_rows(segment.steps[t].linear) for segment, t in jobs))  # packed sequences that end leave
    first = one.states[0]
    dim = first.h.shape[-1] + (0 if first.c is None else first.c.shape[-1])
    count = dim if k is None else min(k, dim)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(width, dim, count, generator=generator, dtype=torch.float64).to(first.h.device)
    Q = torch.linalg.qr(noise)[0]
    logs, weights = [], None
    for done, (segment, t) in enumerate(jobs):
        state, step = segment.states[t], segment.steps[t]
        gates, linear = _doubles(step.gates, width), _doubles(step.linear, width)
        before = State(_doubles(state.h, width), None if state.c is None else _doubles(state.c, width))
        if weights is None or segment.weights is not jobs[done - 1][0].weights:
            weights = _double(segment.weights)
        Q, R = torch.linalg.qr(push(segment.kind, gates, linear, before, weights, Q))
        logs.append(R.diagonal(dim1=-2, dim2=-1).abs().log())
        say((done + 1) / len(jobs))
    found = torch.stack(logs)
    if bool(torch.isnan(found).any()):
        raise InputError(f"the states of {one.module or 'the recurrence'} are not finite: it has no exponents")
    return found.cpu(), dim


def _rows(h: Tensor) -> int:
    return h.shape[0] if h.dim() > 1 else 1


def _doubles(x: Tensor, width: int) -> Tensor:
    return (x if x.dim() > 1 else x.unsqueeze(0))[:width].double()


def _double(weights: Weights) -> Weights:
    return Weights(weights.ih, weights.hh.double(), hr=None if weights.hr is None else weights.hr.double())


def _standard_errors(logs: Tensor) -> Tensor:
    """Of the mean over time and sequences, from the means of stretches of time (they are nearly independent)."""
    blocks = [block.mean(0) for block in logs.tensor_split(min(NUM_BLOCKS, len(logs)))]
    values = torch.cat(blocks)
    if len(values) < 2:
        return torch.full_like(values[0], math.nan)
    finite = torch.where(torch.isfinite(values), values, math.nan)
    return finite.std(0) / math.sqrt(len(values))
