"""What happens beside the script: torch is awaited, the model found, watched, and at the end told on stderr.

Nothing here may stop the script: whatever goes wrong is one sentence on stderr, and the script goes on unwatched.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import time
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradtrace.errors import GradtraceError, TraceFileError
from gradtrace.runner.ending import tell, why_nothing
from gradtrace.runner.imports import after_import
from gradtrace.runner.speech import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.amp.grad_scaler import GradScaler

    from gradtrace.diagnosis.moved import Moved
    from gradtrace.monitor.watch import Watch
    from gradtrace.runner.discovery import Discovery, Found
    from gradtrace.runner.script import Script, Watchable
    from gradtrace.runner.view import View

RUNS_FOLDER = "gradtrace-runs"
"""Where run files go unless told otherwise, under the folder that the run was started in."""


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How to watch, from the command line."""

    path: Path | None = None
    """The run's file, absolute: scripts change folders. None: it is kept in memory only."""
    report: Path | None = None
    """An HTML report to write at the end."""
    budget: float = 0.02
    on_nonfinite: str = "report"
    every: int | None = None
    sinks: tuple[str, ...] = ()
    """As on the command line: ``tensorboard:FOLDER``."""
    live: bool | None = None
    """None: if stderr is a terminal."""
    thresholds: tuple[Moved, ...] | None = None
    """Those that are moved; None: as the project says that the script is in by then."""


def default_path(script: Script) -> Path:
    """``gradtrace-runs/train-20261123-163512.db``, a new one for each run."""
    return unused(Path.cwd() / RUNS_FOLDER / f"{script.title}-{time.strftime('%Y%m%d-%H%M%S')}.db")


def unused(path: Path) -> Path:
    """`path`, or with a number behind where there is such a file."""
    found, number = path, 1
    while found.exists():
        number += 1
        found = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return found


def watched(script: Script, options: WatchOptions) -> Callable[[BaseException | None], None]:
    """Begin to watch in this process; returns what to call at the script's end."""
    watching = Watching(script, options)
    if os.environ.get("RANK", "0") not in ("", "0"):  # torchrun and accelerate started it beside the first
        watching = Watching(script, replace(options, path=None, report=None, sinks=(), live=False), _say_nothing)
    watching.begin()
    return watching.finish


def _say_nothing(_sentence: str) -> None:
    """The first process says it."""


def _import_what_draws() -> None:
    """Before the script's first line: rich takes numbers from Python's own `random` while it is imported.

    They are put back, for a ``sitecustomize`` may have seeded it.
    """
    state = random.getstate()
    for name in ("console", "live", "markup", "panel", "progress", "style", "syntax", "table", "text"):
        importlib.import_module(f"rich.{name}")
    random.setstate(state)


class Watching:
    """From before the script's first line to after its last; `speak` is how it is told what matters."""

    def __init__(self, script: Watchable, options: WatchOptions, speak: Callable[[str], None] = say) -> None:
        self._script, self._options, self._say = script, options, speak
        self._path = options.path
        self._discovery: Discovery | None = None
        self._watch: Watch | None = None
        self._view: View | None = None
        self._told_why_not = False
        self._is_first = True
        """Whether this is the process that tells of all of them."""
        self._stop_waiting: Callable[[], None] = lambda: None
        _WATCHINGS.add(self)

    @property
    def watch(self) -> Watch | None:
        """None: nothing was trained so far."""
        return self._watch

    def begin(self) -> None:
        """Nothing is imported that the script may want to set the environment for."""
        _import_what_draws()
        self._stop_waiting = after_import("torch", self._await_training)

    def _await_training(self) -> None:
        """Once torch is there."""
        with self._fail_open():
            from gradtrace.runner.discovery import Discovery, Newcomers

            self._newcomers = Newcomers()
            self._discovery = Discovery(self._start, self._fail)

    def finish(self, error: BaseException | None) -> None:
        """Close the run's file and tell what was seen; after Ctrl-C too. A second Ctrl-C ends that as well."""
        with self._fail_open():
            try:
                self._finish(error)
            except KeyboardInterrupt:
                self._say("interrupted again: the run's file can be read, no report is written")

    def _start(self, found: Found) -> None:
        with self._fail_open():
            self._is_first = _is_first_process()
            if not self._is_first and not _is_one_of_several():
                self._told_why_not = True
                return
            from gradtrace.monitor.recording.sinks.choice import as_sink
            from gradtrace.monitor.watch import Watch
            from gradtrace.runner.unheld import unheld

            options = self._options
            if not self._is_first:
                options = replace(options, path=None, report=None, sinks=(), live=False)
            self._path = _place_for(options.path, found, self._say) if options.path is not None else None
            watch = Watch(
                found.models,
                found.optimizers,
                path=self._path,
                budget=options.budget,
                on_nonfinite=options.on_nonfinite,
                every=options.every,
                sinks=[as_sink(text, (options.path or Path(self._script.title)).stem) for text in options.sinks],
                title=self._script.title,
                command=self._script.command,
                thresholds=options.thresholds,
                warn=self._say if self._is_first else _say_nothing,
                num_others=len(found.others),
                find=self._newcomers.find,
            )
            watch.start()
            if found.stepping is not None:
                watch.begins_within(found.stepping)
            watch.expect_scalers(living_scalers())
            watch.ask_of_strangers(unheld)
            self._watch = watch
            if self._is_first:
                self._show(watch)

    def _show(self, watch: Watch) -> None:
        from gradtrace.runner.view import open_view

        self._view = open_view(lambda: watch.run, live=self._options.live)

    def _tell(self, watch: Watch) -> None:
        tell(watch, self._script, self._path, self._options.report)

    def forget(self) -> None:
        """In a process that the script forked: it is not watched, and nothing of ours may speak there."""
        self._remove_hooks()
        if self._view is not None:
            self._view.forget()
        self._watch = self._view = None

    def _remove_hooks(self) -> None:
        self._stop_waiting()
        if self._discovery is not None:
            self._discovery.remove()

    def _finish(self, error: BaseException | None) -> None:
        self._remove_hooks()
        if self._view is not None:
            self._view.close()
        if self._watch is not None:
            from gradtrace.runner.leftovers import latest_tensors
            from gradtrace.runner.unheld import unheld

            succeeded = _is_success(error)
            last, why = ((), None) if succeeded else (latest_tensors(error), error)
            if strangers := self._watch.strangers:
                self._watch.unheld(unheld(strangers))
            self._watch.close(finished=succeeded, last=last, error=why)
            if self._is_first:
                self._tell(self._watch)
        elif not self._told_why_not:
            self._say(
                f"nothing was watched: {why_nothing(self._script, self._discovery, failed=not _is_success(error))}"
            )

    @contextlib.contextmanager
    def _fail_open(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._told_why_not = True
        if isinstance(error, GradtraceError):
            self._say(str(error))
            return
        from gradtrace.errors import describe

        self._say(f"watching failed, the script is not affected: {describe(error)}")


_WATCHINGS: weakref.WeakSet[Watching] = weakref.WeakSet()
"""All there are, for processes that are forked."""


def _forget() -> None:
    for one in list(_WATCHINGS):
        one.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _place_for(path: Path, found: Found, speak: Callable[[str], None]) -> Path:
    """Where the run is kept: `path`, unless what is there already is no run that this one could go on with."""
    from gradtrace.monitor.watched import Watched
    from gradtrace.records.run import RunHeader
    from gradtrace.runs.reader import is_same_model

    if not path.is_file() or not path.stat().st_size:
        return path
    try:
        parameters = Watched(found.models, found.optimizers).columns()
        if is_same_model(path, RunHeader("", 0.0, parameters=parameters)):
            return path
        why = f"{path} holds the run of another model"
    except TraceFileError as error:
        why = str(error)
    beside = unused(path)
    speak(f"{why}; this run is kept in {beside.name}")
    return beside


def living_scalers() -> list[GradScaler]:
    """Those that there are."""
    import gc

    from torch.amp.grad_scaler import GradScaler

    return [one for one in gc.get_objects() if issubclass(type(one), GradScaler) and one.is_enabled()]


def _is_first_process() -> bool:
    """Also where a script numbers its processes itself."""
    import torch.distributed as dist

    if _is_one_of_several():
        return dist.get_rank() == 0
    return os.environ.get("RANK", "0") in ("", "0")


def _is_one_of_several() -> bool:
    """Whether processes train together, as far as torch knows."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def _is_success(error: BaseException | None) -> bool:
    return error is None or (isinstance(error, SystemExit) and error.code in (None, 0))
