"""`check`: examine a network, name what is wrong with its gradient and what to change."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gradtrace.checkup.again import look_again, look_at_unseen
from gradtrace.checkup.batches import summed_over, take, take_more
from gradtrace.checkup.copies import copied_units
from gradtrace.checkup.steps_in_time import is_recurrent, with_time
from gradtrace.checkup.trial import describe_optimizer, run_trial
from gradtrace.diagnosis.judge import judge
from gradtrace.diagnosis.moved import limits_of, weighed
from gradtrace.diagnosis.rules.disconnected import frozen
from gradtrace.diagnosis.scene import is_finite
from gradtrace.errors import InputError
from gradtrace.measure.slips import hint_of_batches
from gradtrace.measure.trace import check_is_module, check_model, trace
from gradtrace.measure.untouched import fixed_random_state
from gradtrace.project import thresholds_here
from gradtrace.records.exhibit import Exhibit, Training
from gradtrace.records.finding import Diagnosis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from gradtrace.diagnosis.moved import Moved
    from gradtrace.records.finding import Finding
    from gradtrace.records.trace import Trace

MAX_BATCHES = 3
"""Batches that are traced: a verdict must hold on each."""


def check(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    batches: Iterable[Any],
    *,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    steps: int = 0,
    accumulate: int = 1,
    progress: Callable[[str], None] | None = None,
    thresholds: Mapping[str, Any] | Iterable[Moved] | None = None,
) -> Diagnosis:
    """Trace a few batches of ``loss_fn(model, batch)`` and judge them. The model comes back untouched.

    Args:
        model: any ``torch.nn.Module``.
        loss_fn: takes (model, batch), returns a scalar tensor.
        batches: an iterable of batches; the first three are traced (and more are used by `steps`).
        optimizer: one or several; with it the size of a step is weighed too, on a copy.
        steps: train a deep copy for that many optimizer steps, and judge what appears only then.
        accumulate: batches per optimizer step.
        progress: called with a word before each part of the work.
        thresholds: those that are moved, as ``{"dead-fraction": {"value": 0.9, "reason": "sparse by design"}}``;
            by default what the project's ``[tool.gradtrace.thresholds]`` says.

    Returns:
        The diagnosis; its findings are ranked with the root cause first.

    Raises:
        InputError: see `gradtrace.trace`; also for no batches, `steps` without an optimizer, impossible thresholds.

    >>> import torch, gradtrace
    >>> layers = [layer for _ in range(12) for layer in (torch.nn.Linear(16, 16), torch.nn.Sigmoid())]
    >>> model = torch.nn.Sequential(*layers, torch.nn.Linear(16, 2))
    >>> batches = [(torch.randn(32, 16), torch.randint(0, 2, (32,))) for _ in range(2)]
    >>> def loss_fn(model, batch):
    ...     return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
    >>> finding = gradtrace.check(model, loss_fn, batches).findings[0]
    >>> finding.symptom.value, finding.cause.value
    ('vanishing', 'activation_derivative')
    """
    check_is_module(model)
    optimizers = _optimizers(optimizer)
    moved = thresholds_here(thresholds)
    limits = limits_of(moved)
    if steps < 0 or accumulate < 1:
        raise InputError(f"steps must be 0 or more and accumulate 1 or more, but they are {steps} and {accumulate}")
    if steps and not optimizers:
        raise InputError("steps needs an optimizer: pass optimizer=torch.optim.SGD(model.parameters(), lr=...)")
    say = progress or (lambda _: None)
    if (still := _frozen(model, optimizers)) is not None:
        return Diagnosis((still,), title=type(model).__name__)
    given, model = model, check_model(model, [])  # a compiled model is traced as it was given, and the trace says so
    with fixed_random_state():
        taken = take(batches, max(MAX_BATCHES, min(steps * accumulate, 256)))
    traces: list[Trace] = []
    unseen: tuple[str, ...] = ()
    for number, batch in enumerate(taken[:MAX_BATCHES]):
        say(f"tracing batch {number + 1}")
        found = _first(given, loss_fn, batch, batches) if number == 0 else _finite_or_explained(given, loss_fn, batch)
        if is_recurrent(model, found):
            say(f"through time in batch {number + 1}")
            found, missing = with_time(model, loss_fn, batch, found, first=number == 0)
            unseen += missing
        traces.append(found)
    say("probing with a random gradient")
    probe, refusals = _probe(model, loss_fn, taken[0])
    training = None
    if optimizers:
        say("trying steps on a copy")
        if all(is_finite(t) for t in traces):
            training = run_trial(model, loss_fn, taken, optimizers, steps=steps, accumulate=accumulate)
            training = replace(training, usual_loss=max(abs(t.loss) for t in traces))
            refusals += (f"no verdict on the steps: {training.failure}",) if training.failure else ()
    exhibit = Exhibit(
        traces=tuple(traces),
        probe=probe,
        optimizers=tuple(describe_optimizer(one, model) for one in optimizers),
        training=training,
        summed_over=summed_over(model, loss_fn, taken[0]) if _is_suspicious(training) else None,
        copies=tuple(name for name, moves in copied_units(model, loss_fn, taken[0]).items() if moves),
        refusals=(*dict.fromkeys(unseen), *refusals),
    )
    pool = taken

    def run(num_steps: int, rate: float, held_out: int = 0) -> Training:
        nonlocal pool
        seen, unseen = taken, None
        if held_out:  # of few batches a network remembers every example: as many as there are steps
            with fixed_random_state():
                pool = take_more(batches, pool, num_steps * accumulate + 1)
            *seen, unseen = pool
        moved_by = optimizers or [_usual_optimizer(model)]
        return run_trial(
            model, loss_fn, seen, moved_by, steps=num_steps, accumulate=accumulate, rate=rate, unseen=unseen
        )

    learns = any(p.requires_grad for p in model.parameters())
    if learns and len(taken) > 1 and not (training is not None and training.failure):
        with contextlib.suppress(InputError):  # of a batch that nobody has asked for: a last one of a single example
            exhibit = look_at_unseen(exhibit, run, say, limits)
    if training is not None and not training.failure:
        exhibit = look_again(exhibit, run, steps, say)
    return weighed(judge(exhibit, type(model).__name__, limits), moved)


def _optimizers(optimizer: Optimizer | Sequence[Optimizer] | None) -> list[Optimizer]:
    import torch

    if optimizer is None:
        return []
    given: list[Any] = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    for one in given:
        if not isinstance(one, torch.optim.Optimizer):
            what = f"the class {one.__name__}" if isinstance(one, type) else type(one).__name__
            raise InputError(f"optimizer must be a torch.optim.Optimizer or a list of them, but got {what}")
    return given


def _usual_optimizer(model: nn.Module) -> Optimizer:
    """For steps on a copy where none is given: Adam at its default rate (Kingma & Ba 2015, alg. 1)."""
    import torch

    return torch.optim.Adam(p for p in model.parameters() if p.requires_grad)


def _first(model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batch: Any, batches: Any) -> Trace:
    """The first batch's trace, or the sentence that says what was mistaken for a batch."""
    try:
        return _finite_or_explained(model, loss_fn, batch)
    except InputError as error:
        if hint := hint_of_batches(batches):
            raise InputError(f"{error}{hint}") from error
        raise


def _frozen(model: Any, optimizers: Sequence[Optimizer]) -> Finding | None:
    """The finding on a model that is frozen as a whole although an optimizer holds parameters of it."""
    named = dict(model.named_parameters()) if hasattr(model, "named_parameters") else {}
    if not optimizers or not named or any(p.requires_grad for p in named.values()):
        return None
    held = {name for one in optimizers for name in describe_optimizer(one, model).parameters}
    return frozen([name for name in named if name in held], type(optimizers[0]).__name__) if held else None


def _finite_or_explained(model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batch: Any) -> Trace:
    """A trace; if it is not finite, a second one that looks at every value to name the birthplace."""
    first = trace(model, loss_fn, batch)
    return first if is_finite(first) else trace(model, loss_fn, batch, values=True)


def _probe(model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batch: Any) -> tuple[Trace | None, tuple[str, ...]]:
    try:
        return trace(model, loss_fn, batch, probe="random"), ()
    except InputError as error:
        return None, (f"no second probe: {error}",)


def _is_suspicious(training: Training | None) -> bool:
    from gradtrace.diagnosis.trial import diverged, large_updates

    return training is not None and (
        diverged(training) or training.broke_at is not None or bool(large_updates(training))
    )
