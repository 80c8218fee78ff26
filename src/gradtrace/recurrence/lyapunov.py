"""`lyapunov`: does the recurrence expand or contract, direction by direction, on the data at hand?

The Jacobians of the steps are multiplied from the left, and the product is kept orthogonal by a QR decomposition:

    J_t Q_{t-1} = Q_t R_t,        lambda_i = 1/T sum_t ln |R_t[i, i]|        [nats per step]

(G. Benettin et al. 1980; for recurrent networks R. Engelken, F. Wolf, L. F. Abbott 2023, Lyapunov spectra of chaotic
recurrent neural networks). The gradient goes back through the same product transposed, which has the same exponents:
it grows like exp(lambda_1 T). The spectrum over all directions sums to the mean of ln |det J_t|, exactly.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from gradtrace.errors import InputError
from gradtrace.measure.session import eager, explain_failure
from gradtrace.measure.trace import check_model
from gradtrace.measure.untouched import untouched
from gradtrace.records.lyapunov import LyapunovSpectrum
from gradtrace.recurrence.cells import State, Weights, push
from gradtrace.recurrence.loops import Recurrence, Watched, recurrences
from gradtrace.recurrence.through_time import largest_singular_value

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

NUM_BLOCKS = 10
"""The sequence is cut into so many stretches of time: their means, over all sequences, give the standard error."""
MAX_SEQUENCES = 4


def lyapunov(
    model: torch.nn.Module,
    loss_fn: Callable[[Any, Any], Any],
    batch: Any,
    *,
    k: int | None = None,
    max_sequences: int = MAX_SEQUENCES,
    warmup_frac: float = 0.0,
    progress: Callable[[float], None] | None = None,
    seed: int = 0,
) -> tuple[LyapunovSpectrum, ...]:
    """The exponents of every nn.RNN, nn.LSTM, nn.GRU (or cell in a loop) of `model`, on the states that `batch` visits.

    Args:
        model: any module with such a recurrence; it comes back untouched.
        loss_fn: takes (model, batch) and runs the model; what it returns is not looked at.
        batch: whatever `loss_fn` takes.
        k: the largest k exponents; None: the whole spectrum.
        max_sequences: of the batch, at most so many sequences are followed; their spread enters the standard error.
        warmup_frac: steps at the beginning that do not count, as a fraction of all (while Q and state settle).
        progress: called with the fraction done.
        seed: of the first Q.

    Returns:
        One spectrum per module, layer and direction.

    Raises:
        InputError: there is no recurrence of these kinds, or its states are not finite.

    >>> import torch, gradtrace
    >>> rnn = torch.nn.RNN(2, 8)
    >>> spectrum = gradtrace.lyapunov(rnn, lambda rnn, x: rnn(x), torch.randn(100, 3, 2))[0]
    >>> len(spectrum.exponents), spectrum.exponents[0] < 0
    (8, True)
    """
    if k is not None and k < 1:
        raise InputError(f"k must be 1 or more, but it is {k}")
    model = check_model(model, [])
    with untouched(model), eager():
        watched = Watched(model)
        try:
            with watched, torch.no_grad():
                loss_fn(model, batch)
        except Exception as error:
            raise InputError(explain_failure(error, model, batch)) from error
        found = [one for one in recurrences(watched) if one.segments]
        if not found:
            raise InputError("there is no nn.RNN, nn.LSTM, nn.GRU or cell of these in what loss_fn ran")
        say = progress or (lambda _frac: None)
        spectra = []
        with torch.no_grad():
            for number, one in enumerate(found):

                def part(frac: float, number: int = number) -> None:
                    say((number + frac) / len(found))

                spectra.append(_spectrum(one, k, max_sequences, warmup_frac, part, seed))
    return tuple(spectra)


def _spectrum(
    one: Recurrence, k: int | None, most: int, warmup_frac: float, say: Callable[[float], None], seed: int
) -> LyapunovSpectrum:
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


def _log_diagonals(
    one: Recurrence, k: int | None, most: int, say: Callable[[float], None], seed: int
) -> tuple[Tensor, int]:
    """Ln |diag R_t| [time, sequence, k], and the dimension of the state."""
    jobs = [(segment, t) for segment in one.segments for t in range(len(segment.steps))]
    width = min(most, *(_rows(segment.states[t].h) for segment, t in jobs))  # packed sequences that end leave
    first = one.states[0]
    dim = first.h.shape[-1] + (0 if first.c is None else first.c.shape[-1])
    count = dim if k is None else min(k, dim)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(width, dim, count, generator=generator, dtype=torch.float64).to(first.h.device)
    Q = torch.linalg.qr(noise)[0]
    logs = []
    for done, (segment, t) in enumerate(jobs):
        state, step = segment.states[t], segment.steps[t]
        gates, linear = _doubles(step.gates, width), _doubles(step.linear, width)
        before = State(_doubles(state.h, width), None if state.c is None else _doubles(state.c, width))
        Q, R = torch.linalg.qr(push(segment.kind, gates, linear, before, _double(segment.weights), Q))
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
