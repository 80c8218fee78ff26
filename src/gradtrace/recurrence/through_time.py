"""`through_time`: what each step of a recurrence does to the gradient, and how far back it reaches.

The forward pass runs with every recurrence unrolled; one backward pass of the loss gives |L'(h_t)| and the factors of
every step, and one more for each of a few t's gives |dL_t/dh_s| for all s <= t: the heat map, and with it the horizon.

Y. Bengio, P. Simard, P. Frasconi (1994), Learning long-term dependencies with gradient descent is difficult;
R. Pascanu, T. Mikolov, Y. Bengio (2013), On the difficulty of training recurrent neural networks, section 2.1.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from gradtrace.errors import InputError
from gradtrace.measure.session import check_loss, eager, explain_failure
from gradtrace.measure.trace import check_model
from gradtrace.measure.untouched import paused_collection, untouched
from gradtrace.records.time import ThroughTime
from gradtrace.recurrence.exponents import spectra
from gradtrace.recurrence.found import recurrences
from gradtrace.recurrence.norms import chains_of
from gradtrace.recurrence.positions import Inputs, measure_positions
from gradtrace.recurrence.reach import loss_reaches, random_reach
from gradtrace.recurrence.sentences import sentences
from gradtrace.recurrence.uses import Watched

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from gradtrace.recurrence.chain import Recurrence

NUM_TARGETS = 4
"""Random cotangents are put at so many t's, evenly spaced up to the last: the curve is their median."""


def through_time(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    batch: Any,
    *,
    cotangent: Tensor | None = None,
    at: str = "state",
    time_axis: int | None = None,
    num_targets: int = NUM_TARGETS,
    seed: int = 0,
) -> ThroughTime:
    """Measure the gradient through time of ``loss_fn(model, batch)``. The model comes back untouched.

    Args:
        model: any module; nn.RNN, nn.LSTM, nn.GRU, their cells, and loops that apply one weight again and again are
            found. Without any of them, or with ``at='input'``, the positions of the input are measured instead.
        loss_fn: takes (model, batch); returns a scalar, or a vector with one loss per time step (the heat map).
        batch: whatever `loss_fn` takes.
        cotangent: at h_t, broadcast to [batch, hidden]; by default standard normal.
        at: 'state' for |dL_t/dh_s|, 'input' for |dL_t/dx_s|.
        time_axis: of the input, where it cannot be told from the shapes.
        num_targets: number of t's from which random cotangents (or losses, of positions) are followed back.
        seed: of the random cotangents (a generator of their own).

    Returns:
        The record: chains step by step, heat maps, horizon, and sentences.

    Raises:
        InputError: see `gradtrace.trace`; also where there is neither a recurrence nor a position to look at.

    >>> import torch, gradtrace
    >>> rnn = torch.nn.RNN(2, 32, batch_first=True)
    >>> time = gradtrace.through_time(rnn, lambda rnn, x: rnn(x)[0][:, -1].square().mean(), torch.randn(8, 50, 2))
    >>> chain = time.chains[0]
    >>> chain.num_steps, time.horizon.steps < 20
    (50, True)
    """
    if at not in ("state", "input"):
        raise InputError(f"at must be 'state' or 'input', but it is {at!r}")
    notes: list[str] = []
    title = type(model).__name__
    model = check_model(model, notes)
    with untouched(model, loss_fn=loss_fn, batch=batch), eager(), paused_collection():
        watched, inputs = Watched(model), Inputs(model)
        result = _forward(model, loss_fn, batch, watched, inputs)
        loss, losses = _split(result, model)
        generator = torch.Generator().manual_seed(seed)
        found = [one for one in recurrences(watched, notes) if one.starts] if at == "state" else []
        if not found:
            return measure_positions(title, loss, losses, inputs, time_axis, max(num_targets, 8), generator, notes)
        return _record(title, model, loss, losses, found, cotangent, num_targets, generator, notes)


def recurrences_through_time(
    model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batch: Any, *, num_targets: int = NUM_TARGETS, k: int = 0
) -> ThroughTime | None:
    """`through_time` for the recurrences of a model alone, with the `k` largest exponents; None where it has none.

    With ``num_targets=0`` the loss gradient alone is measured.
    """
    notes: list[str] = []
    title = type(model).__name__
    model = check_model(model, notes)
    with untouched(model, loss_fn=loss_fn, batch=batch), eager(), paused_collection():
        watched = Watched(model)
        result = _forward(model, loss_fn, batch, watched)
        found = [one for one in recurrences(watched, notes) if one.starts]
        if not found:
            return None
        generator = torch.Generator().manual_seed(0)
        record = _record(title, model, *_split(result, model), found, None, num_targets, generator, notes)
        return replace(record, spectra=spectra(found, k)) if k else record


def _forward(model: nn.Module, loss_fn: Callable[[Any, Any], Any], batch: Any, *contexts: Any) -> Any:
    try:
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context)
            return loss_fn(model, batch)
    except InputError:
        raise
    except Exception as error:
        raise InputError(explain_failure(error, model, batch)) from error


def _record(
    title: str,
    model: nn.Module,
    loss: Tensor,
    losses: Tensor | None,
    found: Sequence[Recurrence],
    cotangent: Tensor | None,
    num_targets: int,
    generator: torch.Generator,
    notes: list[str],
) -> ThroughTime:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    chains, gradient_norm = chains_of(parameters, [loss], None, found)
    if num_targets:
        reaches = [random_reach(one, cotangent, num_targets, generator) for one in found]
        chains = [replace(chain, reach=reach) for chain, reach in zip(chains, reaches, strict=True)]
    maps = [] if losses is None else loss_reaches(found, losses, notes)
    record = ThroughTime(title, float(loss.detach()), gradient_norm, tuple(chains), tuple(maps))
    return replace(record, sentences=sentences(record), notes=tuple(notes))


def _split(result: Any, model: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The scalar loss, and the losses per step where there are any."""
    if isinstance(result, torch.Tensor) and result.dim() == 1 and result.numel() > 1 and result.requires_grad:
        check_loss(result.sum(), model)
        return result.sum(), result
    check_loss(result, model)
    return result.reshape(()), None
