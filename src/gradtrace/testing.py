"""Does the gradient reach every layer, does it stay finite, does a step lower the loss? As assertions, for any test.

Each examines the network with `gradtrace.check`, which leaves it untouched, and fails with a sentence, the picture of
the gradient's way, and the findings. With pytest nothing needs to be imported: the fixture ``gradtrace`` has them too.
"""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING, Any

from gradtrace.checkup.check import check
from gradtrace.diagnosis.scene import is_finite, make_view
from gradtrace.diagnosis.thresholds import CLEAR_DECADES
from gradtrace.errors import InputError
from gradtrace.measure.names import Names
from gradtrace.project import thresholds_here
from gradtrace.records.shown import counted
from gradtrace.records.vocabulary import Severity, Symptom

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from gradtrace.records.finding import Diagnosis, Finding
    from gradtrace.records.trace import Trace

__all__ = ["GradientAssertionError", "assert_finite", "assert_gradients_flow", "assert_trains"]

_CUT = {Symptom.DISCONNECTED, Symptom.LOSS_SATURATED}
"""Symptoms of a gradient that does not come at all, which no ratio of two layers shows."""


class GradientAssertionError(AssertionError):
    """An assertion about gradients that does not hold; `diagnosis` is what was seen."""

    def __init__(self, claim: str, diagnosis: Diagnosis) -> None:
        super().__init__(f"{claim}\n\n{diagnosis}")
        self.diagnosis = diagnosis


def assert_finite(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    batches: Iterable[Any],
    *,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    steps: int = 0,
) -> None:
    """No NaN and no Inf in the loss, any gradient or any parameter, before training and in `steps` steps of it.

    Args:
        model: any ``torch.nn.Module``; it comes back untouched.
        loss_fn: takes (model, batch), returns a scalar tensor.
        batches: an iterable of batches; three are looked at.
        optimizer: one or several; their steps are made on a copy.
        steps: optimizer steps on the copy.

    Raises:
        GradientAssertionError: there is one; the message names where it was born.
        InputError: as `gradtrace.check`.

    >>> import torch
    >>> model = torch.nn.Linear(4, 1)
    >>> assert_finite(model, lambda model, x: model(x).exp().mean(), [torch.ones(2, 4)])
    >>> assert_finite(model, lambda model, x: (model(x) - 1e3).sqrt().mean(), [torch.ones(2, 4)])
    Traceback (most recent call last):
    gradtrace.testing.GradientAssertionError: a number is not finite: ...
    """
    __tracebackhide__ = True
    _hold_finite(check(model, loss_fn, batches, optimizer=optimizer, steps=steps))


def assert_gradients_flow(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    batches: Iterable[Any],
    *,
    max_decades: float | None = None,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
) -> None:
    """Every parameter gets a gradient, and early layers get as much as late ones, within `max_decades`.

    Early and late are compared as `gradtrace.check` does: along the path that carries most of the gradient, per unit
    and in norm, and only what both measures show counts.

    Args:
        model: any ``torch.nn.Module``; it comes back untouched.
        loss_fn: takes (model, batch), returns a scalar tensor.
        batches: an iterable of batches; the claim must hold on each of the first three.
        max_decades: powers of ten that may lie between an earliest layer and the one nearest to the loss, either way.
            By default 3; where the project has moved vanishing-decades or exploding-decades, these.
        optimizer: one or several; with it a parameter that none of them holds counts as cut off.

    Raises:
        GradientAssertionError: the gradient vanishes, explodes, is cut off or is not finite.
        InputError: as `gradtrace.check`; also for a `max_decades` that is not above 0.

    >>> import torch
    >>> layers = [layer for _ in range(12) for layer in (torch.nn.Linear(16, 16), torch.nn.Sigmoid())]
    >>> model = torch.nn.Sequential(*layers, torch.nn.Linear(16, 1))
    >>> def loss_fn(model, batch):
    ...     return model(batch).square().mean()
    >>> assert_gradients_flow(model, loss_fn, [torch.randn(32, 16)], max_decades=12)
    >>> assert_gradients_flow(model, loss_fn, [torch.randn(32, 16)])
    Traceback (most recent call last):
    gradtrace.testing.GradientAssertionError: the gradient vanishes: ...
    """
    __tracebackhide__ = True
    if max_decades is not None and not max_decades > 0.0:
        raise InputError(f"max_decades must be a number of powers of ten above 0, but it is {max_decades!r}")
    diagnosis = check(model, loss_fn, batches, optimizer=optimizer)
    _hold_finite(diagnosis)
    if cut := _at_fault(diagnosis, _CUT):
        raise GradientAssertionError(f"the gradient does not arrive: {cut[0].message}", diagnosis)
    traces = [trace for trace in diagnosis.traces if trace.probe == "loss"]
    allowed = _allowed(max_decades)
    for number, trace in enumerate(traces, start=1):
        if told := _beyond(trace, *allowed):
            raise GradientAssertionError(f"{told} (batch {number})", diagnosis)


def assert_trains(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    batches: Iterable[Any],
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    steps: int = 20,
    allow: Collection[Symptom | str] = (),
) -> None:
    """In `steps` optimizer steps on a copy the loss falls, and there is no finding above info.

    The loss falls where its mean over the last fifth of the steps is below that over the first fifth.

    Args:
        model: any ``torch.nn.Module``; it comes back untouched, and so does the optimizer.
        loss_fn: takes (model, batch), returns a scalar tensor.
        batches: an iterable of batches; as many as there are steps are used, over and over if need be.
        optimizer: one or several.
        steps: optimizer steps, 1 or more.
        allow: symptoms that are tolerated, as ``{"dead_units"}``.

    Raises:
        GradientAssertionError: the loss does not fall, or there is a finding.
        InputError: as `gradtrace.check`; also for fewer than one step, or a symptom that does not exist.

    >>> import torch
    >>> model = torch.nn.Linear(4, 1)
    >>> def loss_fn(model, batch):
    ...     return torch.nn.functional.mse_loss(model(batch), batch.sum(1, keepdim=True))
    >>> assert_trains(model, loss_fn, [torch.randn(32, 4)], torch.optim.SGD(model.parameters(), lr=0.1))
    >>> assert_trains(model, loss_fn, [torch.randn(32, 4)], torch.optim.SGD(model.parameters(), lr=10.0))
    Traceback (most recent call last):
    gradtrace.testing.GradientAssertionError: it does not train: ...
    """
    __tracebackhide__ = True
    if steps < 1:
        raise InputError(f"steps must be 1 or more, but it is {steps}")
    tolerated = _symptoms(allow)
    diagnosis = check(model, loss_fn, batches, optimizer=optimizer, steps=steps)
    if found := _at_fault(diagnosis, set(Symptom) - tolerated):
        raise GradientAssertionError(f"it does not train: {found[0].message}", diagnosis)
    if not diagnosis.losses:
        why = next(iter(diagnosis.refusals), "no step was made on a copy")
        raise GradientAssertionError(f"whether it trains was not seen: {why}", diagnosis)
    part = max(1, len(diagnosis.losses) // 5)
    first, last = fmean(diagnosis.losses[:part]), fmean(diagnosis.losses[-part:])
    if not last < first:
        told = f"the loss went from {first:.4g} to {last:.4g} in {counted(diagnosis.num_steps, 'step')}"
        raise GradientAssertionError(f"it does not train: {told}", diagnosis)


def _symptoms(allow: Collection[Symptom | str]) -> set[Symptom]:
    try:
        return {Symptom(each) for each in ([allow] if isinstance(allow, str) else allow)}
    except ValueError as error:
        known = ", ".join(symptom.value for symptom in Symptom if symptom is not Symptom.HEALTHY)
        raise InputError(f"{error}; allow takes some of {known}") from None


def _hold_finite(diagnosis: Diagnosis) -> None:
    __tracebackhide__ = True
    if found := [finding for finding in diagnosis.findings if finding.symptom is Symptom.NONFINITE]:
        raise GradientAssertionError(f"a number is not finite: {found[0].message}", diagnosis)


def _at_fault(diagnosis: Diagnosis, symptoms: Collection[Symptom]) -> list[Finding]:
    """The findings above info that show one of `symptoms`."""
    above = (finding for finding in diagnosis.findings if finding.severity is not Severity.INFO)
    return [finding for finding in above if finding.symptom in symptoms]


def _allowed(max_decades: float | None) -> tuple[float, float]:
    """[decades] That may be lost and gained; the project's where it has moved them."""
    if max_decades is not None:
        return max_decades, max_decades
    moved = {one.name: one.value for one in thresholds_here(None)}
    return moved.get("vanishing-decades", CLEAR_DECADES), moved.get("exploding-decades", CLEAR_DECADES)


def _beyond(trace: Trace, most_lost: float, most_gained: float) -> str:
    """What lies further apart than is allowed, the furthest beyond it; '' where nothing does."""
    if not is_finite(trace):
        return ""
    told, furthest = "", 0.0
    for profile in make_view(trace).profiles:
        for away, seen, which, allowed in (
            (-profile.lost, "vanishes", "less", most_lost),
            (profile.gained, "explodes", "more", most_gained),
        ):
            if away - allowed > furthest:
                names = Names(trace)
                first, late = (names.told(op.site.module or "") for op in (profile.first, profile.reference))
                much = "nothing" if math.isinf(away) else f"{away:.2f} decades {which} than {late}"
                told = f"the gradient {seen}: {first} gets {much}, allowed are {allowed:g}"
                furthest = away - allowed
    return told
