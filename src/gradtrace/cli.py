"""The command line: parse, call, print. The only place that prints; torch is imported when it is needed."""

from __future__ import annotations

import contextlib
import functools
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from gradtrace.errors import GradtraceError, InputError
from gradtrace.records.vocabulary import Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gradtrace.records.finding import Diagnosis
    from gradtrace.target import Target

_UNHEALTHY, _BAD_INPUT, _OUR_FAULT, _INTERRUPTED = 1, 2, 3, 130


def _in_a_sentence(command: Callable[..., None]) -> Callable[..., None]:
    """What goes wrong is said in one sentence on stderr, with exit code 2."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except GradtraceError as error:
            click.echo(f"gradtrace: {error}", err=True)
            sys.exit(_BAD_INPUT)
        except KeyboardInterrupt:
            sys.exit(_INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            import traceback

            from gradtrace.target import describe

            traceback.print_exc()
            click.echo(f"gradtrace: this is a fault of gradtrace, please report it: {describe(error)}", err=True)
            sys.exit(_OUR_FAULT)

    return run


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="gradtrace", message="gradtrace %(version)s")
def main() -> None:
    """Look inside the backward pass: where does the gradient vanish or explode, why, and what to change?

    Exit code 0: healthy; 1: a finding at or above --fail-on; 2: wrong usage or bad input.
    """


@main.command()
@click.argument("target")
@click.option("--steps", type=click.IntRange(min=0), default=0, metavar="K",
              help="Train a copy for K optimizer steps and judge what appears then.")  # fmt: skip
@click.option("--accumulate", type=click.IntRange(min=1), default=1, metavar="N", help="Batches per optimizer step.")
@click.option("--json", "as_json", is_flag=True, help="The verdict as JSON, for programs.")
@click.option("--save-trace", type=click.Path(dir_okay=False), metavar="PATH", help="Keep the trace (gzipped JSON).")
@click.option("--fail-on", type=click.Choice([severity.value for severity in Severity]), default="warning",
              show_default=True, help="Exit with 1 from this severity on.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of all random numbers.")
@click.option("--device", metavar="D", help="Move model and batches there, as 'cuda:0'.")
@_in_a_sentence
def check(
    target: str,
    steps: int,
    accumulate: int,
    as_json: bool,
    save_trace: str | None,
    fail_on: str,
    seed: int,
    device: str | None,
) -> None:
    """Judge the network that TARGET makes: package.module:factory or path/to/file.py:factory.

    The factory returns (model, loss_fn, batches), and optionally an optimizer; loss_fn(model, batch) returns the loss.
    """
    with _working() as say:
        _seed(seed)
        from gradtrace.target import load_target

        loaded = load_target(target)
        if device is not None:
            from gradtrace.placement import place

            loaded = place(loaded, device)
        diagnosis = _check(loaded, steps=steps, accumulate=accumulate, progress=say)
    if save_trace is not None:
        _save_trace(diagnosis, save_trace)
    if as_json:
        click.echo(diagnosis.to_json())
    else:
        diagnosis.show()
    if any(finding.severity.rank >= Severity(fail_on).rank for finding in diagnosis.findings):
        sys.exit(_UNHEALTHY)


@main.command()
@click.argument("file", type=click.Path())
@_in_a_sentence
def show(file: str) -> None:
    """Draw a saved trace or diagnosis; needs neither the model nor torch."""
    from gradtrace.diagnosis.judge import judge_trace
    from gradtrace.records.storage import load
    from gradtrace.records.trace import Trace

    record = load(file)
    (judge_trace(record) if isinstance(record, Trace) else record).show()


@main.command()
@click.argument("case", required=False)
@click.option("--list", "list_cases", is_flag=True, help="Name the cases.")
@_in_a_sentence
def demo(case: str | None, list_cases: bool) -> None:
    """Twenty layers of sigmoids that do not learn, and their ReLU twin that does; or a CASE of known illness."""
    if list_cases:
        from gradtrace.casebook import CASES

        click.echo("\n".join(CASES))
    elif case is not None:
        _demo_case(case)
    else:
        _demo_lecture()


def _demo_case(name: str) -> None:
    import difflib

    from gradtrace.casebook import CASES
    from gradtrace.target import as_target

    if name not in CASES:
        near = difflib.get_close_matches(name, CASES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`gradtrace demo --list` names them"
        raise InputError(f"there is no case {name!r}; {hint}")
    case = CASES[name]
    with _working() as say:
        _seed(0)
        options = {"steps": case.steps, "accumulate": case.accumulate}
        diagnosis = _check(as_target(case.build(), name), progress=say, **options)
    diagnosis.show()


def _demo_lecture() -> None:
    from gradtrace.demo import NUM_STEPS, networks, train
    from gradtrace.report.lesson import compare

    with _working() as say:
        targets = networks()
        diagnoses = [_check(target, progress=say) for target in targets]
    for diagnosis in diagnoses:
        diagnosis.show()
        click.echo("\n" + "-" * 80)
    with _progress() as progress:
        task = progress.add_task(f"training both for {NUM_STEPS} steps", total=NUM_STEPS * len(targets))
        lessons = [train(target, lambda: progress.advance(task)) for target in targets]
    click.echo(compare(lessons, NUM_STEPS))


# --------------------------------------------------------------------------------------------------------- the work


def _check(target: Target, **options: Any) -> Diagnosis:
    import gradtrace

    diagnosis = gradtrace.check(target.model, target.loss_fn, target.batches, optimizer=target.optimizer, **options)
    return replace(diagnosis, title=target.name)


def _save_trace(diagnosis: Diagnosis, path: str) -> None:
    from gradtrace.report.tables import main_trace

    trace = main_trace(diagnosis)
    if trace is None:
        raise InputError("there is no trace to save: no backward pass was measured")
    trace.save(path)
    click.echo(f"Saved the trace: gradtrace show {path}", err=True)


def _seed(seed: int) -> None:
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _progress() -> Any:
    """A bar on stderr, and nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)


@contextlib.contextmanager
def _working() -> Iterator[Callable[[str], None]]:
    """A bar that moves while work goes on, and says which; what the user's code prints goes to stderr."""
    with _progress() as progress, contextlib.redirect_stdout(sys.stderr):
        task = progress.add_task("loading", total=None)
        yield lambda what: progress.update(task, description=what)
