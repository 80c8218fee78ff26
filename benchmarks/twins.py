"""Times twins of one loop side by side: the same weights and batches, each watched in its own way.

In one process, block by block in random order: whatever else the machine does falls on all alike, and what differs
from one process to the next (where memory lies, how the kernels were built) falls on none. Three things would make
that unfair, and are kept apart:

- Standing in for functions of torch is seen by every twin of the process, and so are hooks of every optimizer: what a
  watch puts there is taken away whenever another twin has its turn (`StandIns`), so that the bare twin is bare.
- A budget is earned by time: each watch's clock runs only while its own twin does (`ways.Clock`).
- Garbage of one twin would be collected in the turn of another: collected between turns, outside the timing.

Timers in seconds (a file is flushed every two) do run on: with n twins they strike n times as often per step.
"""

from __future__ import annotations

import contextlib
import gc
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmarks.loops import Loop, make
from benchmarks.ways import WAYS, Clock, Watcher
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import optimizer

from gradtrace.monitor.hooks import optimizer_steps

WARM_UP_STEPS = 5

SELDOM = {"bare again": 4}
"""Twins that take part in every so manieth round only: what they tell needs no more."""

_OWNERS = (torch.autograd, torch.Tensor, GradScaler, nn.Module, torch.optim.Optimizer)


@dataclass(slots=True)
class Turns:
    """One twin's blocks, in the order of the rounds; None where it sat out."""

    wall_s: list[float | None] = field(default_factory=list)
    cpu_s: list[float | None] = field(default_factory=list)
    interruptions: list[int | None] = field(default_factory=list)
    """Times that the kernel gave the core to somebody else."""
    begin_s: float = 0.0
    end_s: float = 0.0
    spent_frac: float | None = None
    measured_frac: float | None = None
    same_weights: bool = True
    """Whether the weights are bit for bit those of the bare twin."""
    block: int = 1
    """[steps] Of each block."""


Place = tuple[Any, str]
"""A module or class, and the name of a function in it."""

Table = Any
"""A dict or a list of hooks."""

_TABLES: list[Table] = [
    optimizer._global_optimizer_pre_hooks,
    optimizer._global_optimizer_post_hooks,
    optimizer_steps._TOLD,
    optimizer_steps._HANDLES,
]
"""Every optimizer's step of the process goes through them."""


class StandIns:
    """What a way put in the place of functions of torch and of `model`'s classes: there in its turn alone.

    So are its entries in the tables of hooks that every optimizer's step goes through.
    """

    def __init__(self, model: nn.Module) -> None:
        self._owners = dict.fromkeys([*_OWNERS, *(type(module) for module in model.modules())])
        self._own = self._functions()
        self._theirs: dict[Place, Any] = {}
        self._hooks = [copy(table) for table in _TABLES]

    @contextlib.contextmanager
    def there(self) -> Iterator[None]:
        for (owner, name), function in self._theirs.items():
            setattr(owner, name, function)
        others = _exchange(self._hooks)
        try:
            yield
        finally:
            self._hooks = _exchange(others)
            now = self._functions()
            self._theirs = {place: function for place, function in now.items() if self._own.get(place) is not function}
            for owner, name in self._theirs:
                if (owner, name) in self._own:
                    setattr(owner, name, self._own[owner, name])
                else:
                    delattr(owner, name)

    def _functions(self) -> dict[Place, Any]:
        functions = {(owner, name): one for owner in self._owners for name, one in vars(owner).items()}
        return {place: one for place, one in functions.items() if callable(one)}


def _exchange(hooks: list[Table]) -> list[Table]:
    """Fill the tables with these; what was in them."""
    before = [copy(table) for table in _TABLES]
    for table, content in zip(_TABLES, hooks, strict=True):
        table.clear()
        if isinstance(table, dict):
            table.update(content)
        else:
            table.extend(content)
    return before


class Twin:
    """One copy of the loop, and who watches it."""

    def __init__(self, loop: str, way: str, folder: Path, block: int) -> None:
        self.way, self.turns = way, Turns(block=block)
        self._loop: Loop = make(loop)
        self._clock, self._stand_ins = Clock(), StandIns(self._loop.whole)
        for _ in range(WARM_UP_STEPS):
            self._loop.step()
        self._stack = contextlib.ExitStack()
        begun = time.perf_counter()
        with self._stand_ins.there():
            self._watcher: Watcher = self._stack.enter_context(WAYS[way](self._loop, folder, self._clock))
        self.turns.begin_s = time.perf_counter() - begun

    def turn(self) -> None:
        """A block of steps."""
        gc.collect()
        step = self._watcher.step
        with self._stand_ins.there():
            interrupted, cpu = _interruptions(), time.process_time()
            self._clock.start()
            for _ in range(self.turns.block):
                step()
            self.turns.wall_s.append(self._clock.stop())
            self.turns.cpu_s.append(time.process_time() - cpu)
            self.turns.interruptions.append(_interruptions() - interrupted)

    def sit_out(self) -> None:
        """No steps in this round."""
        for times in (self.turns.wall_s, self.turns.cpu_s, self.turns.interruptions):
            times.append(None)

    def end(self) -> None:
        begun = time.perf_counter()
        with self._stand_ins.there():
            self._stack.close()
        self.turns.end_s = time.perf_counter() - begun
        self.turns.spent_frac = self._watcher.spent_frac()
        self.turns.measured_frac = self._watcher.measured_frac()

    def has_the_weights_of(self, other: Twin) -> bool:
        pairs = zip(self._loop.whole.parameters(), other._loop.whole.parameters(), strict=True)
        return all(torch.equal(mine, theirs) for mine, theirs in pairs)


def race(loop: str, ways: list[str], seconds: float, block_s: float) -> dict[str, Turns]:
    """Bare steps of `seconds`, for each twin; the first way is the one that the others are compared with."""
    order = random.Random(0)
    step_s = _step_s(loop)
    block = max(1, round(block_s / step_s))
    with tempfile.TemporaryDirectory() as folder:
        twins = [Twin(loop, way, Path(folder), block) for way in ways]
        gc.collect()
        gc.freeze()  # a full collection costs what the whole process holds, all twins and torch: nobody's doing
        try:
            for round_ in range(max(1, round(seconds / (block * step_s)))):
                for twin in order.sample(twins, len(twins)):
                    if round_ % SELDOM.get(twin.way, 1):
                        twin.sit_out()
                    else:
                        twin.turn()
            for twin in twins:
                twin.turns.same_weights = twin.way in SELDOM or twin.has_the_weights_of(twins[0])
        finally:
            gc.unfreeze()
            for twin in reversed(twins):
                twin.end()
    return dict(zip(ways, (twin.turns for twin in twins), strict=True))


def _step_s(loop: str, num_steps: int = 100) -> float:
    """Of a bare step, about."""
    one = make(loop)
    times = []
    for _ in range(WARM_UP_STEPS + num_steps):
        begun = time.perf_counter()
        one.step()
        times.append(time.perf_counter() - begun)
    return median(times[WARM_UP_STEPS:])


def _interruptions() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


if __name__ == "__main__":  # a process of its own for each loop: nothing is left over from the one before
    _, loop, ways, seconds, block_s, threads, path = sys.argv
    torch.set_flush_denormal(True)
    if int(threads):
        torch.set_num_threads(int(threads))
    turns = race(loop, json.loads(ways), float(seconds), float(block_s))
    fields = Turns.__dataclass_fields__
    record = {way: {name: getattr(one, name) for name in fields} for way, one in turns.items()}
    Path(path).write_text(json.dumps(record))
