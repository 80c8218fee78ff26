"""Is anything of a backward pass not finite, and where was it born? At once where the host may look, else a step later.

`birthplace` knows how to find it, `delayed` holds what that takes on a device that is ahead.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from gradtrace.errors import NonfiniteError
from gradtrace.monitor.nonfinite.birthplace import BirthRecorder, explain, is_all_finite
from gradtrace.monitor.nonfinite.delayed import Delayed, is_ahead, verdict
from gradtrace.monitor.nonfinite.replay import NONE
from gradtrace.monitor.nonfinite.unseen import born_unseen
from gradtrace.monitor.statistics.gradients import total
from gradtrace.monitor.statistics.norms import plain
from gradtrace.records.run import EventKind
from gradtrace.records.vocabulary import Symptom

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from torch.optim import Optimizer

    from gradtrace.monitor.nonfinite.birthplace import Passage
    from gradtrace.monitor.nonfinite.forward_calls import Calls
    from gradtrace.monitor.recording.recording import Recording
    from gradtrace.monitor.watched import Watched


MOST_RESTED_BYTES = 2**20
"""Of trained weights, copied when a rest begins: beside the steps of larger models the watch has less need of rest."""


class Detector:
    """One run's; `on_nonfinite` is 'report', 'stop' or 'skip'."""

    def __init__(self, watched: Watched, recording: Recording, calls: Calls, on_nonfinite: str) -> None:
        self._watched, self._recording, self._calls, self._on_nonfinite = watched, recording, calls, on_nonfinite
        self._recorder = BirthRecorder(calls)
        self._delayed = Delayed(watched)
        self._roots: tuple[Tensor, ...] = ()
        """Of the pass at hand."""
        self._last_roots: tuple[Tensor, ...] = ()
        self._may_look = True
        self._has_moved = self._is_in_backward = False
        self.loss_value: float | None = None
        """Of the pass at hand, as soon as it may be known."""
        self.is_loss_bad = False
        self.is_replaying = False
        """The calls of a replay are none of the training's."""
        self.no_scale_helps = False
        """A scaler has come down to 1 and still finds overflows: they are no matter of its scale."""
        self.bad_step = -1
        """The latest in which a number was not finite."""
        self._rested_since: int | None = None
        self._rested_weights: dict[int, Tensor] = {}
        """Weights at the beginning of the latest rest, by the parameter's identity."""

    @property
    def looks_always(self) -> bool:
        """Whether every step must be looked at, whatever it costs."""
        return self._on_nonfinite != "report"

    def forget(self) -> None:
        """Nothing of any pass is held any longer."""
        self._recorder.forget()
        self._delayed.forget()

    # ----------------------------------------------------------------------------------------------------- one pass

    def before_backward(self, roots: Sequence[Tensor], scale: Tensor | None) -> None:
        """The loss is known, the gradients are not."""
        self._is_in_backward, self._has_moved, self._roots = True, False, tuple(roots)
        self.loss_value, self.is_loss_bad = None, False
        self._may_look = self.may_look_at(roots[0])
        if self._may_look and all(root.numel() == 1 for root in roots):
            self.loss_value = value = sum(abs(v) if isinstance(v := root.item(), complex) else v for root in roots)
            # a scaler lets go of its own infinities
            self.is_loss_bad = math.isnan(value) or (math.isinf(value) and scale is None)
        elif self._may_look and scale is None:
            self.is_loss_bad = not all(map(is_all_finite, roots))
        if not self._recording.judging.is_explained:
            self._recorder.before_backward(roots, is_finite=not self.is_loss_bad if self._may_look else None)

    def backward_failed(self, roots: Sequence[Tensor], step: int) -> None:
        """It raised, as anomaly mode does at a NaN: nothing of its tape is held on to."""
        self._is_in_backward, self._roots = False, ()
        if self.is_loss_bad:
            with contextlib.suppress(NonfiniteError):  # the user's own error is on its way
                self._explain(self._passage(roots, step))
        self._recorder.forget()

    def look_at_forward(self, roots: Sequence[Tensor], step: int) -> float | None:
        """A forward pass that no backward pass came after, in a run that was given up: was it what went wrong?

        `roots`: what the script made of it and still holds, the latest first. Returns the value that is not finite.
        """
        if self._recording.judging.is_explained:
            return None
        bad = [root for root in roots if not is_all_finite(root)]
        if bad:
            self.before_backward(bad[:1], None)
            self._is_in_backward, self._roots = False, ()
            self._explain(self._passage(bad[:1], step))
        self._recorder.forget()
        return self.loss_value if bad else None

    def of_another_model(self) -> None:
        """The pass brought the watched parameters nothing."""
        self._is_in_backward, self._roots = False, ()
        self._recorder.forget()

    def after_backward(self, roots: Sequence[Tensor], norms: Tensor | None, scale: Tensor | None, odd: bool) -> bool:
        """Whether anything of the pass is known not to be finite; `odd`: a gradient is not, its norm was not taken."""
        self._is_in_backward, self._roots = False, ()
        settled = scale is None or self.no_scale_helps
        return self.is_loss_bad or (settled and (odd or (norms is not None and self.is_bad(norms))))

    def judge(
        self, roots: Sequence[Tensor], step: int, norms: Tensor | None, scale: Tensor | None, *, is_bad: bool
    ) -> None:
        """What is known to be bad is explained; what may not be looked at yet is held until it may."""
        if is_bad:
            self._explain(self._passage(roots, step))
        elif not self._may_look and scale is None and not self._recording.judging.is_explained:
            passage = replace(self._passage([root.detach() for root in roots], step), world=self._delayed.world())
            self._look_back(self._delayed.add(passage, verdict(roots, self._watched.sentinel(), norms)))
        else:
            self._calls.went_well()
        self._recorder.forget()

    def remember(self, roots: Sequence[Tensor]) -> None:
        """A pass whose gradients nobody has looked at: more were to come."""
        self._last_roots = tuple(root.detach() for root in roots)

    # -------------------------------------------------------------------------------------------------- optimizers

    def before_step(self, optimizer: Optimizer, step: int, *, has_closure: bool) -> None:
        """Weights are about to move."""
        if self._is_in_backward and not self._has_moved:  # by an optimizer within the very pass
            if self.is_loss_bad and not self._recording.judging.is_explained:
                self._explain(self._passage(self._roots, step))
            self._has_moved = True
        if self._delayed.is_waiting:
            self._look_back(self._delayed.before_step(optimizer, has_closure))

    def judge_late(self, norms: Tensor, step: int) -> None:
        """Norms that were taken only now, as fewer passes came than usual."""
        if self.may_look_at(norms) and self.bad_step != step and self._last_roots and self.is_bad(norms):
            self._explain(self._passage(self._last_roots, step))

    def leave_out_if_spoilt(self, optimizer: Optimizer, step: int) -> None:
        """With 'skip': an optimizer that is given a NaN is given nothing."""
        if self._on_nonfinite == "skip" and self._watched.is_spoilt(optimizer):
            for parameter in [parameter for group in optimizer.param_groups for parameter in group["params"]]:
                parameter.grad = None
            self._recording.event(step, EventKind.SKIPPED, "this optimizer step was left out: not finite")

    # ------------------------------------------------------------------------------------------------------- rest

    @torch.no_grad()
    def rest(self, step: int, *, is_long: bool) -> None:
        """Nobody looks from `step` on: of a long rest, weights as they are may explain later what happens meanwhile."""
        self.settle()
        self.forget()
        trained = [p for p in self._watched.parameters if p.requires_grad]
        is_small = sum(p.nbytes for p in trained) <= MOST_RESTED_BYTES
        if not (is_long and is_small) or any(is_ahead(p.device) for p in trained):
            self._rested_since, self._rested_weights = step, {}
        elif self._are_weights_finite:  # or else those of the rest before are worth more
            self._rested_since, self._rested_weights = step, {id(p): p.detach().clone() for p in trained}

    def settle(self) -> None:
        """Wait for the verdict on every pass."""
        if self._delayed.is_waiting:
            self._look_back(self._delayed.at_last())

    # ------------------------------------------------------------------------------------------------------ inside

    def may_look_at(self, tensor: Tensor) -> bool:
        """Whether its numbers may be read now, or else have to be waited for."""
        ahead = is_ahead(tensor.device) and self._delayed.fits
        return not ahead or self.no_scale_helps or self.looks_always

    def is_bad(self, norms: Tensor) -> bool:
        """Whether any is not finite, as far as that may be known."""
        if not self.may_look_at(norms):
            return False
        whole = total(norms.detach().cpu().numpy())
        return whole is not None and not math.isfinite(whole)

    def sees_odd_gradient(self) -> bool:
        """Where norms are not taken: whether the gradient that all others flow into says that they should be."""
        sentinel = self._watched.sentinel()
        return sentinel is not None and not is_ahead(sentinel.device) and not math.isfinite(float(sentinel.sum()))

    def ends_spoilt(self, step: int) -> bool:
        """`step` was the last, in a rest: whether the weights went bad since anybody looked, which is told."""
        if self._recording.judging.is_explained or self._rested_since is None:
            return False
        is_bad = not self._are_weights_finite
        if is_bad:
            finding = born_unseen(step, self._rested_since, None, self._recording.latest_ops)
            self._recording.nonfinite(step, finding, None)
        return is_bad

    @property
    def _are_weights_finite(self) -> bool:
        """In this process: of a sharded one the part that lies here, since others may not be looking now."""
        return all(is_all_finite(plain(p.detach())) for p in self._watched.parameters if p.requires_grad)

    def _before_rest(self) -> Mapping[int, Tensor]:
        """Weights from before a rest that has just ended, if they are spoilt by now: the same batch may spoil those."""
        return NONE if self._rested_since is None or self._are_weights_finite else self._rested_weights

    def _passage(self, roots: Sequence[Tensor], step: int) -> Passage:
        return self._recorder.passage(roots, step, self.loss_value, has_moved=self._has_moved)

    def _look_back(self, found: tuple[Passage, Mapping[int, Tensor]] | None) -> None:
        if found is not None:
            self._explain(*found)
            self._delayed.forget()

    def _explain(self, passage: Passage, weights: Mapping[int, Tensor] = NONE) -> None:
        """The first time: where was it born? From then on it is only counted."""
        self.bad_step = max(self.bad_step, passage.step)
        if not self._recording.judging.is_explained:
            self.is_replaying = True
            try:
                before = NONE if weights else self._before_rest()
                since = self._rested_since if before else None
                finding, trace = explain(passage, self._recording.latest_ops, weights or before, since)
            finally:
                self.is_replaying = False
            self._recording.nonfinite(passage.step, finding, trace)
        if self._on_nonfinite == "stop":
            found = self._recording.findings()  # what led to it comes first
            raise NonfiniteError(next(f.message for f in found if f.symptom is Symptom.NONFINITE))
