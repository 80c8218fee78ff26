"""What happens beside the script: torch is awaited, the model found, watched, and at the end told on stderr.

Nothing here may stop the script: whatever goes wrong is one sentence on stderr, and the script goes on unwatched.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gradtrace.runner.imports import after_import
from gradtrace.runner.speech import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gradtrace.monitor.watch import Watch
    from gradtrace.runner.discovery import Discovery, Found
    from gradtrace.runner.script import Script
    from gradtrace.runner.view import View

RUNS_FOLDER = "gradtrace-runs"
"""Where run files go unless told otherwise, under the folder that the run was started in."""


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How to watch, from the command line."""

    path: Path
    """The run's file, absolute: scripts change folders."""
    report: Path | None = None
    """An HTML report to write at the end."""
    budget: float = 0.02
    on_nonfinite: str = "report"
    every: int | None = None
    sinks: tuple[str, ...] = ()
    """As on the command line: ``tensorboard:FOLDER``."""
    live: bool | None = None
    """None: if stderr is a terminal."""


def default_path(script: Script) -> Path:
    """``gradtrace-runs/train-20261123-163512.db``, a new one for each run."""
    folder, stem = Path.cwd() / RUNS_FOLDER, f"{script.title}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = folder / f"{stem}.db", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.db"
    return path


def is_reporting_rank() -> bool:
    """Of the processes that torchrun or accelerate started, the first one reports."""
    return os.environ.get("RANK", "0") in ("", "0")


class Watching:
    """From before the script's first line to after its last."""

    def __init__(self, script: Script, options: WatchOptions) -> None:
        self._script, self._options = script, options
        self._discovery: Discovery | None = None
        self._watch: Watch | None = None
        self._view: View | None = None
        self._failed = False
        os.register_at_fork(after_in_child=self._forget)

    def begin(self) -> None:
        """Wait for torch."""
        after_import("torch", self._await_training)

    def finish(self, error: BaseException | None) -> None:
        """Close the run's file and tell what was seen; after Ctrl-C too. A second Ctrl-C ends that as well."""
        with self._fail_open():
            try:
                self._finish(error)
            except KeyboardInterrupt:
                say("interrupted again: the run's file can be read, the report is not written")

    # -------------------------------------------------------------------------------------------------- on the way

    def _await_training(self) -> None:
        with self._fail_open():
            from gradtrace.runner.discovery import Discovery

            self._discovery = Discovery(self._start)

    def _start(self, found: Found) -> None:
        with self._fail_open():
            if not _is_first_process():
                return
            from gradtrace.monitor.sinks.choice import as_sink
            from gradtrace.monitor.watch import Watch

            options = self._options
            watch = Watch(
                found.models,
                found.optimizers,
                path=options.path,
                budget=options.budget,
                on_nonfinite=options.on_nonfinite,
                every=options.every,
                sinks=[as_sink(text, options.path.stem) for text in options.sinks],
                title=self._script.title,
                command=self._script.command,
                notes=found.notes,
            )
            watch.start()
            self._watch = watch
            self._show(watch)

    def _show(self, watch: Watch) -> None:
        from gradtrace.runner.view import open_view

        self._view = open_view(lambda: watch.run, live=self._options.live)

    def _forget(self) -> None:
        """In a process that the script forked: it is not watched, and nothing of ours may speak there."""
        if self._discovery is not None:
            self._discovery.remove()
        if self._view is not None:
            self._view.forget()
        self._discovery = self._watch = self._view = None

    # --------------------------------------------------------------------------------------------------- at the end

    def _finish(self, error: BaseException | None) -> None:
        if self._discovery is not None:
            self._discovery.remove()
        if self._view is not None:
            self._view.close()
        if self._watch is None:
            if not self._failed and is_reporting_rank():
                say(f"nothing was watched: {self._why_nothing(error)}")
            return
        self._watch.close(finished=error is None or _is_success(error))
        self._tell(self._watch)

    def _why_nothing(self, error: BaseException | None) -> str:
        name = self._script.name
        if error is not None and not _is_success(error) and (not self._discovery or not self._discovery.num_backwards):
            return f"{name} ended before its first backward pass"
        if self._discovery is None:
            return f"{name} did not import torch"
        if self._discovery.num_backwards == 0:
            return (
                f"{name} never called backward() in this process; processes that it starts are not watched "
                "(torchrun's are: torchrun ... -m gradtrace run ...)"
            )
        if self._discovery.num_steps == 0:
            times = self._discovery.num_backwards
            return f"{name} called backward() {times} times, but no optimizer of torch.optim ever made a step"
        return f"no torch.nn.Module was found that holds what the optimizers of {name} train"

    def _tell(self, watch: Watch) -> None:
        from rich.console import Console

        from gradtrace.report.terminal import show

        if not len(watch.run.steps.first):
            say(f"{self._script.name} called backward(), but its optimizers never made a step")
        if self._options.report is not None:
            watch.report(self._options.report)
        console = Console(stderr=True)
        console.print()
        show(watch.diagnosis, console)
        say(f"the run: gradtrace show {_short(self._options.path)}")
        if self._options.report is not None:
            say(f"the report: {_short(self._options.report)}")

    @contextlib.contextmanager
    def _fail_open(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._failed = True
            from gradtrace.target import describe

            say(f"watching failed, and the script goes on without: {describe(error)}")


def _is_first_process() -> bool:
    """Also where a script numbers its processes itself."""
    import torch.distributed as dist

    return not (dist.is_available() and dist.is_initialized() and dist.get_rank() > 0)


def _is_success(error: BaseException) -> bool:
    return isinstance(error, SystemExit) and error.code in (None, 0)


def _short(path: Path) -> str:
    """Relative where that is shorter to type."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def watched(script: Script, options: WatchOptions) -> Callable[[BaseException | None], None]:
    """Begin to watch in this process, if it is the one that reports; returns what to call at the script's end."""
    if not is_reporting_rank():
        return lambda error: None
    watching = Watching(script, options)
    watching.begin()
    return watching.finish
