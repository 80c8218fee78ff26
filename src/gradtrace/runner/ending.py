"""What is said when the script has ended: the diagnosis and where the run is kept, or why there is none."""

from __future__ import annotations

import contextlib
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradtrace.runner.speech import say

MOST_NAMES = 4
"""Tensors that are told by name."""

if TYPE_CHECKING:
    from gradtrace.monitor.watch import Watch
    from gradtrace.records.finding import Diagnosis
    from gradtrace.runner.discovery import Discovery
    from gradtrace.runner.script import Watchable


def tell(watch: Watch, script: Watchable, path: Path | None, report: Path | None) -> None:
    """Show the diagnosis on stderr, and write the report."""
    if not len(watch.run.steps.first):
        say(why_not_judged(script, watch.num_waiting))
        return
    from rich.console import Console

    from gradtrace.report.summary import facts
    from gradtrace.report.terminal import show
    from gradtrace.runs.writer import IN_MEMORY

    console = Console(stderr=True)
    console.print()
    for name, value in facts(watch.run):
        console.print(f"{name:<20}  {value}", highlight=False, markup=False, soft_wrap=True)
    show(_of_step(watch), console)
    if _has_gradients_by_hand(watch):
        say(
            "no backward pass came to what the optimizers hold, whose gradients are set by hand: norms and steps were "
            "judged, layers and the loss were not (gradtrace.check takes the model itself)"
        )
    if script.command and not watch.diagnosis.healthy and _may_be_run_again():
        say(f"prove it: gradtrace fix {shlex.join(script.command)}")
    if any(IN_MEMORY in note for note in watch.run.notes):
        say("the run's file could not be written to its end, as told above")
    elif path is not None and path.exists():
        say(f"the run: gradtrace show {_short(path)}")
    if report is not None:
        say(write_report(watch, report))


def _has_gradients_by_hand(watch: Watch) -> bool:
    """Whether no loss was seen, and no step could be traced: as of float32 masters, or of `autograd.grad`."""
    import numpy as np  # by now the script has set the environment for it

    from gradtrace.records.run import Scalar

    return not watch.traces and not np.isfinite(watch.run.steps.scalar(Scalar.LOSS)[1]).any()


def _of_step(watch: Watch) -> Diagnosis:
    """The diagnosis, called by the step of the whole trace that its picture is of: the first of its kind."""
    diagnosis = watch.diagnosis
    shown = diagnosis.traces[0] if diagnosis.traces else None
    steps = [step for step, trace in zip(watch.trace_steps, watch.traces, strict=False) if trace is shown]
    return replace(diagnosis, title=f"{diagnosis.title}, whole trace of step {steps[0]:,}") if steps else diagnosis


def write_report(watch: Watch, path: Path) -> str:
    """Returns the sentence that says where."""
    with contextlib.suppress(OSError):  # if it cannot be made, writing says so
        path.parent.mkdir(parents=True, exist_ok=True)
    watch.report(path)
    return f"the report: {_short(path)}"


def why_not_judged(script: Watchable, num_backwards: int) -> str:
    """Where a model and its optimizer were found, and no step: a loop may add up more batches than it has."""
    told = f"in {script.name} no step of an optimizer came after a backward pass: nothing is judged"
    if num_backwards < 2:
        return told
    return (
        f"{told}. Nothing learns: backward() was called {_times(num_backwards)}. Where gradients are added up over "
        "several batches before a step, does an epoch have as many?"
    )


def _may_be_run_again() -> bool:
    """By itself: not where torchrun or accelerate has started it as one of several."""
    return os.environ.get("WORLD_SIZE", "1") in ("", "1")


def why_nothing(script: Watchable, discovery: Discovery | None, *, failed: bool) -> str:
    """Half a sentence; `discovery` is None for a script that never imported torch."""
    if failed and (discovery is None or not discovery.num_backwards):
        return f"{script.name} ended before its first backward pass"
    if discovery is None:
        return f"{script.name} did not import torch"
    if not discovery.num_backwards and not discovery.num_steps:
        if not script.command:
            return f"{script.name} never called backward()"
        return (
            f"{script.name} never called backward() in this process; processes that it starts are not watched "
            "(those of torchrun are: torchrun ... -m gradtrace run ...)"
        )
    if not discovery.num_steps:
        return (
            f"{script.name} called backward() {_times(discovery.num_backwards)}, "
            f"but no optimizer of torch.optim ever made a step{_by_hand(discovery)}"
        )
    return (
        f"no torch.nn.Module was found that holds what the optimizers of {script.name} train"
        f"{_why_no_gradient(discovery)}"
    )


def _why_no_gradient(discovery: Discovery) -> str:
    """What is known of why optimizers step, and nothing that they hold is used; '' where nothing is."""
    has_gradients = discovery.unreached.has_gradients
    if (num := discovery.unreached.num_alike) and not has_gradients:
        return (
            f". Nothing learns: backward() brings gradients to {num} parameters of the same shapes as "
            "those that an optimizer holds, and none to these. A copy of the model (copy.deepcopy), or one made anew, "
            "stands in its place: no gradient goes through a copy to what it was copied from"
        )
    if not discovery.num_backwards and not has_gradients:
        return (
            ". Nothing learns: backward() was never called, and none of what they hold had a gradient (.grad) when "
            "they stepped. Gradients of torch.autograd.grad and torch.func.grad are returned, and no optimizer sees "
            "them until they are written there: parameter.grad = gradient"
        )
    if discovery.has_called_others:
        return "; those that are called hold other weights: were they replaced after the optimizers were made?"
    return ""


def _by_hand(discovery: Discovery) -> str:
    """What to write in place of ``w -= lr * w.grad``; '' where nothing is moved so."""
    if not (moved := discovery.moved_by_hand):
        return ""
    from gradtrace.runner.names import name_tensors

    names = list(name_tensors(moved))
    listed = ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
    return (
        f": it moves {listed} by hand. What an optimizer moves is watched: "
        f"torch.optim.SGD([{listed}], lr=...) makes the same steps"
    )


def _short(path: Path) -> str:
    """Relative where that is shorter to type."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"
