"""`lyapunov`: does the recurrence expand or contract, direction by direction, on the data at hand?

The Jacobians of the steps are multiplied from the left, and the product is kept orthogonal by a QR decomposition:

    J_t Q_{t-1} = Q_t R_t,        lambda_i = 1/T sum_t ln |R_t[i, i]|        [nats per step]

(G. Benettin et al. 1980; for recurrent networks R. Engelken, F. Wolf, L. F. Abbott 2023, Lyapunov spectra of chaotic
recurrent neural networks). The gradient goes back through the same product transposed, which has the same exponents:
it grows like exp(lambda_1 T). The spectrum over all directions sums to the mean of ln |det J_t|, exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from gradtrace.errors import InputError
from gradtrace.measure.session import eager, explain_failure
from gradtrace.measure.trace import check_model
from gradtrace.measure.untouched import untouched
from gradtrace.recurrence.exponents import MAX_SEQUENCES, spectrum
from gradtrace.recurrence.found import recurrences
from gradtrace.recurrence.uses import Watched

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.records.lyapunov import LyapunovSpectrum


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
    with untouched(model, loss_fn=loss_fn, batch=batch), eager():
        watched = Watched(model)
        try:
            with watched, torch.no_grad():
                loss_fn(model, batch)
        except Exception as error:
            raise InputError(explain_failure(error, model, batch)) from error
        found = [one for one in recurrences(watched, []) if one.segments]
        if not found:
            raise InputError("there is no nn.RNN, nn.LSTM, nn.GRU or cell of these in what loss_fn ran")
        say = progress or (lambda _frac: None)
        measured = []
        for number, one in enumerate(found):

            def part(frac: float, number: int = number) -> None:
                say((number + frac) / len(found))

            measured.append(spectrum(one, k, max_sequences, warmup_frac, part, seed))
    return tuple(measured)
