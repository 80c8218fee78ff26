"""A training on several ranks: what this one gives of its steps, and the rows that are made of what all of them gave.

At the steps that all ranks agree on, a row waits until the ranks' sum has come back, and rows after it wait behind it;
where the sum does not come in time, the row says what this rank knows by itself. Of a parameter of which a part lies
here, that is nothing: a part's norm is never called the norm.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gradtrace.distributed.agreement import Agreement
from gradtrace.distributed.apart import Apart
from gradtrace.distributed.bits import bit_sums
from gradtrace.distributed.correspondence import Correspondence
from gradtrace.distributed.placement import NOT_KNOWN, placement_of
from gradtrace.distributed.report import Decision, Given, Shares
from gradtrace.monitor.nonfinite.birthplace import is_placed
from gradtrace.records.codec import decode, encode
from gradtrace.records.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from gradtrace.distributed.report import Merged
    from gradtrace.distributed.world import World
    from gradtrace.monitor.recording.recording import Recording
    from gradtrace.monitor.statistics.transfer import Arrived
    from gradtrace.monitor.watched import Watched

MOST_HELD, FEW, HELD_S = 256, 4, 20.0
"""[rows, rows, seconds] A row waits for the other ranks while so few have come after it; or so long, if that is more
than a few steps."""

CLOSING_S, JOINING_S = 3.0, 1.0
"""[seconds] At the end the last reports are waited for; and ranks that have not come yet."""

USUAL_LAG, LAG_MARGIN, LAGS = 8, 2.0, 8
"""[steps, times, reports] How many steps a report is under way, before any has come back; a decision holds from so many
times the longest of the latest ones on."""

WORD, WORDS_S = "nonfinite", 1.0
"""Under which ranks leave word of where a NaN was born; [seconds] that it is waited for at the end."""


@dataclass(slots=True)
class Row:
    """As it was taken here."""

    step: int
    """In the run's own count."""
    seconds: float
    arrived: Arrived
    learning_rate: float
    counts: bool
    bad: bool
    since: float = math.nan
    """By the clock; NaN: nobody else is asked about it."""
    merged: Merged | None = None


class Ranks:
    """Those of one watch; called in the training's own thread, and waits for nobody before `close`."""

    def __init__(self, world: World, watched: Watched, recording: Recording, next_step: Callable[[], int]) -> None:
        self.world, self.agreement = world, Agreement()
        self._watched, self._recording, self._next_step = watched, recording, next_step
        self._held: deque[Row] = deque()
        self._step = 0
        """The next one, as of the latest look."""
        self._placements = [placement_of(parameter) for parameter in watched.parameters]
        """Of weights."""
        self._num = len(self._placements)
        """Columns that this rank takes part with: those it had when the ranks agreed on them."""
        self._flatten()
        self._of_gradients = list(self._placements)
        self._shares = self._shares_of_gradients = Shares.of(self._placements)
        self._is_part = self._shares.is_part
        self.wish: Callable[[], Decision] = lambda: Decision(0, 0)
        """Which steps rank 0 would report next."""
        self.looks_ahead = False
        """Whether stretches follow each other without a gap."""
        self.num_under_way: Callable[[], int] = lambda: 0
        """Rows that have not come from the device yet."""
        self._wish: Decision | None = None
        self._is_decided = False
        """Whether a decision is under way."""
        self._issued: deque[int] = deque()
        self._lags: deque[int] = deque(maxlen=LAGS)
        self._begun = time.perf_counter()
        self._forward_s = math.nan
        self._is_widened = self._is_fault_told = False
        self._apart = Apart()
        self._asks = False
        """Whether a NaN came whose birthplace is not known here, and perhaps elsewhere."""
        recording.on_nonfinite = self._of_nonfinite
        if self.is_spread:
            self._note("parameters are spread over several ranks (DTensor): no whole traces are taken")
        self._correspondence = Correspondence(world, watched.columns(), lambda: self._step, self._decide, self._note)
        self._correspondence.begin()

    @property
    def is_alone(self) -> bool:
        """Whether the others cannot be heard, now and in future."""
        return self._correspondence.fault is not None

    @property
    def reports(self) -> bool:
        """Whether this rank tells of all."""
        return self.world.reports

    @property
    def holds_parts(self) -> bool:
        """Whether of any parameter only a part lies here."""
        return any(one.is_part for one in self._placements)

    @property
    def is_spread(self) -> bool:
        """Whether ops on any parameter may speak to other ranks."""
        return any(one.is_spread for one in self._placements)

    def join(self) -> None:
        """More is watched than before: of what the ranks did not agree on, this one's own numbers are shown."""
        fresh = [placement_of(parameter) for parameter in self._watched.parameters[len(self._placements) :]]
        self._placements += fresh
        self._of_gradients += fresh
        self._is_part = Shares.of(self._placements).is_part

    # ------------------------------------------------------------------------------------------------ during a step

    def step_begins(self) -> None:
        """The optimizer is through with the last one."""
        self._begun, self._forward_s = time.perf_counter(), math.nan

    def loss_is_there(self) -> None:
        """The backward pass begins: until now nobody else was waited for, as a rule."""
        if math.isnan(self._forward_s):
            self._forward_s = time.perf_counter() - self._begun

    def look_at_gradients(self) -> None:
        """They are as the optimizer will see them: which part of each lies here?"""
        for i, placement in enumerate(self._of_gradients):
            if placement.is_spread and placement is not NOT_KNOWN:
                gradient = self._watched.parameters[i].grad
                found = placement if gradient is None else placement_of(gradient)
                if found != placement:
                    self._of_gradients[i] = found
                    self._shares_of_gradients = Shares.of(self._of_gradients[: self._num])

    def sums_of_weights(self) -> Tensor:
        """Of the bits of those that lie here as a whole, and so do on other ranks."""
        pairs = zip(self._watched.parameters, self._placements, strict=False)
        return bit_sums([None if placement.is_spread else parameter for parameter, placement in pairs])

    # ---------------------------------------------------------------------------------------------------- rows come

    def row(self, row: Row) -> None:
        """A step's numbers are on the host."""
        own = row.step - self._recording.first_step
        self._pass_over(own)
        if not self.is_alone and self.agreement.take(own):
            if self.reports:
                self._wish_for_more()
                row.since = time.perf_counter()
            self._correspondence.give(own, self._given(row))
        if self.reports:
            self._held.append(row)
            self._release()
        else:
            self._record(row)

    def poll(self) -> None:
        """What has come back by now?"""
        self._step = self._next_step()
        if not self.num_under_way():
            self._pass_over(self._step)
        if not self._is_widened and self._correspondence.layout is not None:
            self._is_widened = True
            if self.reports:
                self._recording.widen(self._correspondence.layout.columns, len(self._correspondence.layout.places))
        for own, merged in self._correspondence.arrived():
            self._arrive(own + self._recording.first_step, merged)
        if self.is_alone and not self._is_fault_told:
            self._is_fault_told = True
            self._tell_fault()
        if self._asks and self._correspondence.heard:
            self._hear()
        self._release()

    def close(self, *, waits: bool = True) -> None:
        """The training is over: what is under way is waited for, not for long."""
        self.poll()
        if waits:
            has_all = self._correspondence.layout is not None
            self._wait(CLOSING_S if has_all else JOINING_S, lambda: not self._correspondence.is_idle)
            self._wait(WORDS_S, lambda: self._asks and not self.is_alone)
        self._correspondence.abandon()
        self._release(is_last=True)

    def _wait(self, within_s: float, is_open: Callable[[], bool]) -> None:
        until = time.monotonic() + within_s
        while is_open() and time.monotonic() < until:
            time.sleep(0.005)
            self.poll()
        self.poll()

    def abandon(self) -> None:
        """Let go at once."""
        self._correspondence.abandon()

    def _pass_over(self, step: int) -> None:
        for _ in range(self.agreement.pass_over(step)):
            self._correspondence.give(step, None)

    def _given(self, row: Row) -> Given:
        loss, *vectors = row.arrived
        gradients, clipped, weights, moved, _, sums = (v if isinstance(v, np.ndarray) else None for v in vectors)
        return Given(
            float(loss.sum(dtype=np.float64)) if isinstance(loss, np.ndarray) else loss,
            gradients,
            clipped,
            weights,
            moved,
            sums,
            is_bad=row.bad,
            forward_s=self._forward_s,
            of_gradients=self._shares_of_gradients,
            of_weights=self._shares,
        )

    # ------------------------------------------------------------------------------------------------ what is agreed

    def _wish_for_more(self) -> None:
        """Rank 0: the known steps are coming to their end."""
        ahead = self.agreement.last - self._step
        if self._wish is None and not self._is_decided and ahead <= (self._margin if self.looks_ahead else 0):
            wish = self.wish()
            self._wish = wish if wish.num else None

    @property
    def _margin(self) -> int:
        return int(2 + LAG_MARGIN * max(self._lags, default=USUAL_LAG))

    def _decide(self) -> Decision | None:
        """A report sets off, in the thread of the correspondence."""
        if not self.reports:
            return None
        self._issued.append(self._step)
        wish, self._wish = self._wish, None
        if wish is None:
            return None
        self._is_decided = True
        return replace(wish, first=max(wish.first, self._step + self._margin))

    def _arrive(self, step: int, merged: Merged) -> None:
        if merged.decision is not None:
            self.agreement.learn(merged.decision)
            self._is_decided = False
        if not self.reports:
            return
        self._lags.append(self._step - self._issued.popleft())
        for row in self._held:
            if row.step == step:
                row.merged = merged
        if merged.num_bad and not self._recording.is_explained:
            self._ask()
        if merged.is_complete:
            self._compare(step, merged)

    # ------------------------------------------------------------------------------------------------- rows are kept

    def _release(self, *, is_last: bool = False) -> None:
        while self._held:
            row = self._held[0]
            waits = not math.isnan(row.since) and row.merged is None and not self.is_alone
            is_old = time.perf_counter() - row.since > HELD_S and len(self._held) > FEW
            is_late = is_old or len(self._held) > MOST_HELD
            if waits and not is_late and not is_last:
                return
            self._held.popleft()
            self._record(row)

    def _record(self, row: Row) -> None:
        merged = row.merged
        if merged is not None and merged.is_complete:
            arrived, is_whole, bad = self._of_all(row, merged), True, row.bad or merged.num_bad > 0
        else:
            arrived, is_whole = self._of_this(row.arrived)
            bad = row.bad
        self._recording.numbers(
            row.step, row.seconds, arrived, row.learning_rate, counts=row.counts, bad=bad, is_whole=is_whole
        )

    def _of_this(self, arrived: Arrived) -> tuple[Arrived, bool]:
        """What this rank may say by itself, and whether that is of all parameters."""
        found = [self._placed(_without(v, self._is_part)) if 1 <= i <= 4 else v for i, v in enumerate(arrived)]
        return found, not (self._is_part.any() or self._num_foreign)

    def _placed(self, vector: Any) -> Any:
        """Own columns among those of all ranks."""
        if not isinstance(vector, np.ndarray) or len(vector) <= self._num or not self._num_foreign:
            return vector
        return np.insert(vector, self._num, np.full(self._num_foreign, np.nan))

    @property
    def _num_foreign(self) -> int:
        layout = self._correspondence.layout
        return len(layout.columns) - len(layout.places) if layout is not None and self._is_widened else 0

    def _of_all(self, row: Row, merged: Merged) -> Arrived:
        own, alone = row.arrived, self._of_this(row.arrived)[0]
        found = [merged.gradients, merged.clipped, merged.weights, merged.moved]
        if not isinstance(own[3], np.ndarray):
            found[2:] = []
        mine = [alone[1], alone[2] if alone[2] is not None else alone[1], *alone[3:5]]
        whole = [self._completed(vector, one, merged.differ) for vector, one in zip(found, mine, strict=False)]
        return [own[0] if own[0] is None else merged.loss, *whole, *[None] * (4 - len(whole)), own[5]]

    @staticmethod
    def _completed(whole: NDArray[np.float32], own: Any, differ: NDArray[np.bool_]) -> NDArray[np.float32]:
        """This rank's own numbers where the ranks do not have the same, and of what they did not agree on."""
        if not isinstance(own, np.ndarray):
            return whole
        found, num = whole.copy(), min(len(whole), len(own))
        apart = differ[:num] & ~np.isnan(own[:num])
        found[:num][apart] = own[:num][apart]
        return np.concatenate([found, own[len(whole) :]])

    # --------------------------------------------------------------------------------------------- what stands apart

    def _compare(self, step: int, merged: Merged) -> None:
        for sentence in self._apart.look(step, merged, self._recording.names):
            self._recording.note(step, sentence)
        if merged.slots is not None:
            self._recording.ranks(step, merged.slots)

    def _of_nonfinite(self, finding: Finding) -> None:
        """The first NaN or Inf under this watch: who knows where it was born says so, who does not asks."""
        if is_placed(finding) and not self.reports:
            self._correspondence.leave_word(WORD, json.dumps(encode(finding)))
        elif not is_placed(finding):
            self._ask()

    def _ask(self) -> None:
        if self.reports and not self._asks and not self._correspondence.heard:
            self._asks = True
            self._correspondence.ask(WORD)

    def _hear(self) -> None:
        found: list[tuple[int, int, Finding]] = []
        for rank, text in self._correspondence.heard.items():
            finding: Finding = decode(Finding, json.loads(text))
            found.append((finding.step or 0, rank, finding))
        if found:
            _, rank, finding = min(found, key=lambda one: one[:2])
            self._asks = False
            self._recording.born_elsewhere(rank, finding)

    def _note(self, sentence: str) -> None:
        if self.reports:
            self._recording.note(self._step + self._recording.first_step, sentence)

    def _tell_fault(self) -> None:
        what = "norms of sharded parameters are not known" if self.holds_parts else "its own numbers are shown"
        self._note(f"{self._correspondence.fault}: rank 0 reports alone from here on, {what}")

    def _flatten(self) -> None:
        """Parameters in the care of FSDP's first version lie here in parts that do not say of what."""
        fsdp = getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)
        if fsdp is None:
            return
        flat = {
            id(parameter)
            for model in self._watched.models.values()
            for module in model.modules()
            if isinstance(module, fsdp)
            for parameter in module.parameters()
        }
        if flat:
            self._placements = [
                NOT_KNOWN if id(parameter) in flat else placement
                for parameter, placement in zip(self._watched.parameters, self._placements, strict=True)
            ]
            self._note(
                "FullyShardedDataParallel does not say which part lies where, so that norms are not known: "
                "fully_shard does"
            )


def _without(vector: Any, is_part: NDArray[np.bool_]) -> Any:
    if not isinstance(vector, np.ndarray) or not is_part.any():
        return vector
    found = vector.copy()
    found[is_part[: len(found)].nonzero()[0]] = np.nan
    return found
