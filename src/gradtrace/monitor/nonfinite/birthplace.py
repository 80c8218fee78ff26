"""Where was the first NaN or Inf born, in the step that has just brought it?

The calls of the step are gone through in their order. The first whose own numbers are not finite, although what it was
given is, is run again under the microscope (`replay`). Where all are finite, the loss's tape is read (`loss_tape`).
A gradient is followed the other way: from the loss, whose part is known by what reached the models' outputs, down.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from gradtrace.diagnosis.rules.nonfinite import finding_of
from gradtrace.diagnosis.thresholds import GROWN, HALF_FORMATS
from gradtrace.monitor.nonfinite.delayed import is_ahead
from gradtrace.monitor.nonfinite.loss_tape import Suspect, feeder_of, op_on, suspects
from gradtrace.monitor.nonfinite.replay import alone, are_others, replay, takes_others
from gradtrace.monitor.nonfinite.unseen import born_unseen
from gradtrace.records.finding import Evidence, Finding
from gradtrace.records.shown import loss_told
from gradtrace.records.trace import Site
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.remedies.catalogue import FINITE_INPUTS, remedies_for
from gradtrace.remedies.unsafe import remedy_of
from gradtrace.tape.private import node_sequence_nr
from gradtrace.tape.source import source_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from gradtrace.monitor.nonfinite.delayed import World
    from gradtrace.monitor.nonfinite.forward_calls import Call, Calls
    from gradtrace.records.trace import Op, Trace


MOST_LOSSES = 64
"""Of different make, that are remembered."""

MOST_FEATURES = 4
"""Entries that are told by number."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A backward pass, and what it takes to find out where its NaN was born, at once or some time later."""

    step: int
    loss: Tensor
    """As it was, or detached: then its tape is gone."""
    value: float
    """Of the loss; NaN where it is more than one number."""
    is_finite: bool
    """Whether the loss is."""
    calls: tuple[Call, ...]
    """Of the models, in their order."""
    suspects: tuple[Suspect, ...]
    """Of the loss's ops."""
    called_at: str
    """``file.py:12`` of the call of backward."""
    num_let_go: int = 0
    """Calls of the step that are not among them any more."""
    has_moved: bool = False
    """Whether an optimizer stepped within the pass: the weights that it began with are gone."""
    world: World | None = None
    """What may have changed by the time that it is looked at, where that is later."""

    @property
    def nbytes(self) -> int:
        """Of the inputs that are held."""
        return sum(call.nbytes for call in self.calls)


class BirthRecorder:
    """Explains a backward pass: `before_backward`, then, if it went wrong, `explain` its `passage`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._suspects: list[Suspect] = []
        self._unsuspected: set[tuple[str, int]] = set()
        """Losses without an op that has a singularity: name of the last op, number of ops behind the model."""

    def before_backward(self, roots: Sequence[Tensor], *, is_finite: bool | None) -> None:
        """Hold on to what the ops of the loss saved; of a loss that is not finite, to that of the whole tape.

        None: whether it is finite is not known.
        """
        if is_finite is False:
            self._suspects = [suspect for root in roots for suspect in suspects(root, -1, most=None, is_finite=False)]
            return
        self._suspects, last = [], self._calls.last_number
        for root in roots if last >= 0 else ():
            if root.grad_fn is None:
                continue
            key = root.grad_fn.name(), node_sequence_nr(root.grad_fn) - last
            if key in self._unsuspected:  # as a rule a loss is the same one at every step
                continue
            found = suspects(root, last, is_finite=is_finite)
            self._suspects += found
            if not found and len(self._unsuspected) < MOST_LOSSES:
                self._unsuspected.add(key)

    def forget(self) -> None:
        """The pass went well."""
        self._suspects = []

    def passage(self, roots: Sequence[Tensor], step: int, value: float | None, *, has_moved: bool) -> Passage:
        """The one at hand, with all that was seen of it; `value` None: nobody knows it yet."""
        bad = [] if value is None and is_ahead(roots[0].device) else [r for r in roots if not is_all_finite(r)]
        return Passage(
            step=step,
            loss=bad[0] if bad else roots[0],
            value=math.nan if value is None else value,
            is_finite=not bad,
            calls=tuple(self._calls.held),
            suspects=tuple(self._suspects),
            called_at=source_of(sys._getframe()),
            num_let_go=self._calls.num_let_go,
            has_moved=has_moved,
        )


def explain(
    passage: Passage, ops: Sequence[Op], weights: Mapping[int, Tensor], since: int | None = None
) -> tuple[Finding, Trace | None]:
    """The finding, and the trace of the replay, if there was one.

    Args:
        passage: A backward pass that was not finite.
        ops: Of the latest sample.
        weights: What weights were that have moved since, by the parameter's identity.
        since: The step that they are of, where those of the pass are spoilt already; None: those of the pass.
    """
    step = passage.step
    calls = [call for call in passage.calls if call.is_intact]
    for call in calls:
        if not all(map(_is_number, call.batch.values())):
            found = _of_the_batch(call)
            return replace(found, step=step, message=f"At step {step}: {found.message}"), None
    num_replayed = 0
    why, between = "an optimizer moved the weights within the backward pass" if passage.has_moved else "", ""
    with passage.world.restored() if passage.world is not None else contextlib.nullcontext():
        for call in () if why else calls if not passage.is_finite else calls[::-1]:
            is_seeded = passage.is_finite and all(map(is_all_finite, call.gradients.values()))
            # what a loss that is finite leaves out of an output, as of a target that it ignores, need not be
            if passage.is_finite and not call.gradients:
                continue
            if not is_seeded and not all(map(_is_number, call.inputs)):
                between = between or f"in front of {call.label or 'the model'}, which was given it"
                continue
            if not call.has_own_weights:
                why = f"{call.label or 'the model'} was called with other weights than its own (an inner loop's?)"
                continue
            replayed = _replayed(call, seeds=is_seeded, weights=weights)
            num_replayed += replayed is not None
            if replayed is None:
                why = "the model could not be run again"
            elif (replayed[0].nonfinite is not None) if is_seeded else replayed[1]:
                found = _labelled(finding_of(replayed[0], step), call.label, passage)
                return (found if is_seeded or not passage.is_finite else _left_out(found)), replayed[0]
    if since is not None and num_replayed:
        return born_unseen(step, since, passage.value, ops), None
    return _in_the_loss(passage, ops, why, between), None


def _in_the_loss(passage: Passage, ops: Sequence[Op], why: str, between: str) -> Finding:
    loss, value, forward = passage.loss, passage.value, not passage.is_finite
    arrived = [gradient for call in passage.calls for gradient in call.gradients.values()]
    if not passage.calls:
        why = "the model's inputs were not kept"
    elif not all(call.is_intact for call in passage.calls):
        why = "the model's inputs were changed in place since"
    elif not why and not forward and arrived and all(map(is_all_finite, arrived)):
        why = "run again, the model's own backward pass is finite"
    elif not why and forward and passage.num_let_go:
        why = f"of the model's calls only the latest {len(passage.calls)} were kept"
    guilty = [(suspect, guilt) for suspect in passage.suspects if (guilt := suspect.guilt) is not None]
    half = HALF_FORMATS.get(str(loss.dtype).removeprefix("torch."), (0, math.inf))[1] < GROWN
    if math.isinf(value) and half:
        words = f"larger than any number of {str(loss.dtype).removeprefix('torch.')}"
        return _of_the_loss(passage, words, Site(None), Cause.NUMERIC_FORMAT, is_behind=not why)
    if not guilty and between:
        return _unexplained(passage, f"it was born {between}")
    if not guilty:
        return _unexplained(passage, why) if why else _of_the_loss(passage, "", Site(None), Cause.UNSAFE_OP)
    suspect, guilt = guilty[-1 if forward else 0]
    op = op_on(loss, suspect, ops)
    site, fed_by = op.site if op is not None else Site(None), ""
    if op is not None and not guilt.shows:  # else it is the targets' fault, or there are none
        fed_by = feeder_of(op, ops)
    if why and site.module is None and not site.source and passage.calls:
        return _unexplained(passage, why)
    found = _of_the_loss(
        passage, f"{suspect.function}, {suspect.words}", site, guilt.cause, is_behind=not why, fed_by=fed_by
    )
    remedy = guilt.remedy or remedy_of(suspect.function)
    return replace(found, remedies=(remedy,)) if guilt.cause is Cause.UNSAFE_OP else found


def _replayed(call: Call, *, seeds: bool, weights: Mapping[int, Tensor]) -> tuple[Trace, bool] | None:
    """None where a call cannot be run again: others would have to take part, or it does not take to it."""
    if are_others() and takes_others(call.model):
        return None
    try:
        with alone():
            return replay(call, seeds=seeds, weights=weights)
    except Exception:  # the user's forward, in a situation that it was not written for
        return None


def is_placed(finding: Finding) -> bool:
    """Whether it says where the NaN was born."""
    return finding.where != ("",) or bool(finding.source) or finding.cause is not Cause.UNSAFE_OP


def is_all_finite(tensor: Tensor) -> bool:
    """Whether no entry is NaN or Inf; of a sharded tensor, none that lies here: others may not be looking now."""
    local = getattr(tensor, "to_local", None)
    tensor = local() if local is not None else tensor
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.detach()).all())


def _is_number(tensor: Tensor) -> bool:
    """Whether a tensor of the batch is finite, -inf apart: attention takes it as a mask, beside biases too."""
    return is_all_finite(tensor) or bool((tensor[~torch.isfinite(tensor)] == -math.inf).all())


def _labelled(finding: Finding, label: str, passage: Passage) -> Finding:
    """Module paths as the whole watch has them, and the loss as the user has it: a replay's is a sum of the outputs."""
    where = finding.where
    if label:
        where = tuple(path if path == "loss" else f"{label}.{path}" if path else label for path in where)
    among = f" (in {label})" if label else ""
    evidence = tuple(replace(e, value=passage.value) if e.name == "loss" else e for e in finding.evidence)
    return replace(finding, where=where, evidence=evidence, message=f"At step {passage.step}{among}: {finding.message}")


def _left_out(finding: Finding) -> Finding:
    """The loss of a replay is the sum of its outputs; the user's own is finite."""
    what = "The loss is finite, and a part of the output that it leaves out is not:"
    return replace(finding, message=re.sub(r"The loss is [^:]*:", what, finding.message, count=1))


def _of_the_batch(call: Call) -> Finding:
    which = [i for i, t in call.batch.items() if not _is_number(t)]
    name = call.label or "the model"
    return Finding(
        symptom=Symptom.NONFINITE,
        cause=Cause.INPUT_SCALE,
        where=(call.label,),
        severity=Severity.CRITICAL,
        message=f"The batch itself holds NaN or Inf: input {_listed(i + 1 for i in which)} of {name}"
        f"{_features(call.batch[which[0]])}.",
        evidence=(Evidence("inputs that are not finite", float(len(which)), "tensors"),),
        remedies=(FINITE_INPUTS,),
    )


def _features(batch: Tensor) -> str:
    """Which entries of the last axis are not finite on any sample, where others are; '' where it is not so."""
    bad = ~torch.isfinite(batch)
    if batch.dim() < 2 or not len(batch):
        return ""
    never, ever = (by(0) for by in (bad.flatten(0, -2).all, bad.flatten(0, -2).any))
    if not bool((never == ever).all()) or bool(never.all()):
        return ""
    listed = [str(i) for i in never.nonzero().flatten().tolist()]
    told = ", ".join(listed[:MOST_FEATURES]) + (", ..." if len(listed) > MOST_FEATURES else "")
    return f", in entry {told} of the last axis (of {batch.shape[-1]}) on every sample"


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _of_the_loss(
    passage: Passage, words: str, site: Site, cause: Cause, *, is_behind: bool = True, fed_by: str = ""
) -> Finding:
    """An op behind the models' outputs (no module), or of a model none of whose calls was seen.

    `is_behind`: the outputs were seen to be finite; those behind a loss that is finite are. `fed_by` is the module that
    made what the op stands on.
    Where its line is not known, that of the call of backward is told: the loss is made above it.
    """
    value, step, source, module = passage.value, passage.step, site.source, site.module
    called_at = passage.called_at if not source else ""
    forward = not passage.is_finite
    finite = "the loss is finite, the gradient that it sends back is not"
    what = f"the loss is {loss_told(value)}" if forward else finite
    output = ", the model's output is finite" if is_behind or not forward else ""
    place = f"in the loss{output}" if module is None else f"in {module or 'the model'}"
    at = f" ({source})" if source else f" (before the backward pass of {called_at})" if called_at else ""
    op = f": {words}{at}" if words else at
    op += f"; what it works on comes from {fed_by}" if fed_by and fed_by != module else ""
    here = "loss" if module is None else module
    return Finding(
        symptom=Symptom.NONFINITE,
        cause=cause,
        where=(here, fed_by) if fed_by and fed_by != module else (here,),
        severity=Severity.CRITICAL,
        message=f"At step {step} {what}; it was born in the {'forward' if forward else 'backward'} pass {place}{op}.",
        evidence=(Evidence("loss", value),),
        remedies=remedies_for(Symptom.NONFINITE, cause),
        source=source or called_at,
        step=step,
    )


def _unexplained(passage: Passage, why: str) -> Finding:
    value, step = passage.value, passage.step
    return Finding(
        symptom=Symptom.NONFINITE,
        cause=Cause.UNSAFE_OP,
        where=("",),
        severity=Severity.CRITICAL,
        message=f"At step {step} the loss or a gradient is not finite; where it was born cannot be told: {why}.",
        evidence=(Evidence("loss", value),),
        remedies=remedies_for(Symptom.NONFINITE, Cause.UNSAFE_OP),
        step=step,
    )
