"""The process in which the script runs as a trial: seeded, watched, changed before its first step, and ended.

What it writes goes into its own folder and its own output; what we want to know goes into one file, with which the
process ends on the spot: no ``finally`` of the script's, no checkpoint, no exit handler.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradtrace.errors import InputError, describe
from gradtrace.repair.patch import Shape, shape_of
from gradtrace.runner.ending import why_nothing
from gradtrace.runner.fixing.exchange import Answer, Order, read, write
from gradtrace.runner.fixing.seeding import Seeds
from gradtrace.runner.imports import after_import
from gradtrace.runner.script import execute

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from gradtrace.monitor.watch import Watch
    from gradtrace.runner.discovery import Found
    from gradtrace.runner.fixing.making import PatientDiscovery
    from gradtrace.runner.fixing.probe import Probe

FEWEST = 5
"""Steps that a probe takes however long they take."""
EVERY_STEP = 0.5
"""[budget] With which the watch never rests."""
MOST_WRITES = 5


class Following:
    """One run of the script, from before its first line to the end of the process."""

    def __init__(self, order: Order, path: Path) -> None:
        self._order, self._path = order, path
        self._owner, self._began = os.getpid(), time.perf_counter()
        self._environment, self._may_divide = dict(os.environ), False
        self._seeds = Seeds(order.seed)
        self._writes: dict[str, None] = {}
        self._discovery: PatientDiscovery | None = None
        self._watch: Watch | None = None
        self._probe: Probe | None = None
        self._ends: list[float] = []
        """[seconds] When the training began, and when each step was over."""
        self._shape: Shape = ()

    def run(self) -> None:
        """To the end, which is the process's."""
        self._seeds.begin()
        if self._order.is_probe:
            sys.addaudithook(self._audit)
        after_import("torch", self._await_training)
        error: BaseException | None = None
        try:
            execute(self._order.script)
            for thread in threading.enumerate():
                if not thread.daemon and thread is not threading.current_thread():
                    thread.join()
        except BaseException as raised:
            error = raised
        if os.getpid() == self._owner:
            self._script_ended(error)
        os._exit(0)

    def _await_training(self) -> None:
        from gradtrace.runner.fixing.making import PatientDiscovery

        self._may_divide = dict(os.environ) == self._environment
        self._discovery = PatientDiscovery(self._start, self._fail)

    # ------------------------------------------------------------------------------------------------ beginning, steps

    def _start(self, found: Found) -> None:
        if os.getpid() != self._owner:
            return
        try:
            self._begin(found)
        except InputError as error:
            self._answer(Answer(refused=str(error)))
        except Exception as error:
            self._fail(error)

    def _begin(self, found: Found) -> None:
        from gradtrace.monitor.hooks.optimizer_steps import listen
        from gradtrace.monitor.watch import Watch
        from gradtrace.monitor.watched import Watched
        from gradtrace.runner.discovery import find_all
        from gradtrace.runner.fixing.living import change_in_place
        from gradtrace.runner.watching import living_scalers

        order, discovery = self._order, self._discovery
        assert discovery is not None
        stepping = found.stepping
        found = find_all() if found.others else found  # a GAN's second half is called, and changed, in the same step
        model = Watched(found.models, found.optimizers).whole
        too_late = bool(discovery.num_backwards or discovery.num_steps)
        if order.changes or (order.measured_by and not too_late):
            if too_late:
                raise InputError("the network is found after its first forward pass only: too late for a change")
            change_in_place(order.changes, model, found.optimizers, order.seed, order.measured_by)
        self._shape = shape_of(model)
        if order.is_shape_only:
            self._answer(Answer(shape=self._shape))
        if order.is_probe:
            from gradtrace.runner.fixing.probe import Probe

            self._probe = Probe(model, found.optimizers)
        watch = Watch(
            found.models,
            found.optimizers,
            budget=EVERY_STEP,
            every=None if order.is_probe else max(order.steps, 1),
            title=order.script.title,
            warn=_say,
        )
        watch.start()
        if stepping is not None:
            watch.begins_within(stepping)
        watch.expect_scalers(living_scalers())
        if self._probe is not None:
            self._probe.follow(watch)
        self._found, self._watch = found, watch
        self._ends.append(time.perf_counter())
        listen(after=self._after_step)

    def _after_step(self, _optimizer: Optimizer) -> None:
        watch = self._watch
        if watch is None or os.getpid() != self._owner or watch.num_steps < len(self._ends):
            return
        now = time.perf_counter()
        self._ends.append(now)
        num = watch.num_steps
        is_late = num >= FEWEST and now - self._ends[0] > self._order.seconds
        if num >= self._order.steps or is_late:
            self._finish()

    # --------------------------------------------------------------------------------------------------------- endings

    def _script_ended(self, error: BaseException | None) -> None:
        is_success = error is None or (isinstance(error, SystemExit) and error.code in (None, 0))
        told = "" if is_success else _told(error)
        if self._watch is None or not self._watch.num_steps:
            told = told or why_nothing(self._order.script, self._discovery, failed=not is_success)
            self._answer(Answer(failure=told, has_ended=True))
        self._finish(has_ended=True, failure=told)

    def _finish(self, *, has_ended: bool = False, failure: str = "") -> None:
        try:
            answer = self._measured(has_ended=has_ended, failure=failure)
        except Exception as error:
            self._fail(error)
        else:
            self._answer(answer)

    def _measured(self, *, has_ended: bool, failure: str) -> Answer:
        from gradtrace.runner.fixing.readings import along_the_depth, losses_of, ratio_of

        watch = self._watch
        assert watch is not None
        watch.close(finished=has_ended and not failure)
        run = watch.run
        levels, decades = along_the_depth(watch)
        steps = [after - before for before, after in zip(self._ends, self._ends[1:], strict=False)]
        making = self._discovery.makings.get(id(self._found.optimizers[0])) if self._discovery is not None else None
        return Answer(
            losses=losses_of(run),
            findings=watch.diagnosis.findings,
            levels=levels,
            decades=decades,
            first_layer_ratio=ratio_of(run, self._order.first_layer),
            start_s=self._ends[0] - self._began,
            step_s=statistics.median(steps) if steps else 0.0,
            has_ended=has_ended,
            failure=failure,
            may_divide=self._may_divide and not _is_on_accelerator(),
            shape=self._shape,
            probed=self._probe.told(making) if self._probe is not None else None,
        )

    def _fail(self, error: Exception) -> None:
        self._answer(Answer(failure=f"watching it failed: {describe(error)}"))

    def _answer(self, answer: Answer) -> None:
        from dataclasses import replace

        if os.getpid() == self._owner:
            own, writes = tuple(self._seeds.own), tuple(self._writes)[:MOST_WRITES]
            write(self._path, replace(answer, own_seeds=own, writes=writes))
        os._exit(0)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        """Every file that Python opens: is one written outside of the copy?"""
        if event == "open" and len(self._writes) < MOST_WRITES and isinstance(args[0], str | os.PathLike):
            mode, flags = args[1], args[2] if len(args) > 2 else 0
            is_write = (mode and any(c in str(mode) for c in "wax+")) or (
                isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
            )
            if is_write and _is_outside(str(args[0])):
                self._writes[str(args[0])] = None


_OWN = tuple(str(Path(place).resolve()) for place in (tempfile.gettempdir(), "/dev", "/proc", Path.home() / ".cache",
             Path.home() / ".config", sys.prefix, sys.base_prefix))  # fmt: skip


def _is_outside(name: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        path = str(Path(name).resolve())
        return "__pycache__" not in path and not path.startswith(_OWN)
    return False


def _is_on_accelerator() -> bool:
    """What a process has begun on one does not live on in its half."""
    import torch

    return torch.cuda.is_initialized() or torch.backends.mps.is_available()


def _told(error: BaseException | None) -> str:
    if isinstance(error, SystemExit):
        return f"it left with exit code {error.code}"
    return describe(error) if error is not None else ""


def _say(sentence: str) -> None:
    sys.stderr.write(f"gradtrace: {sentence}\n")


if __name__ == "__main__":
    order = read(Path(sys.argv[1]))
    assert isinstance(order, Order)
    Following(order, Path(sys.argv[1]).with_suffix(".answer")).run()
