"""`gradtrace check`: judge a network, or all that the project names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradtrace.commands.baseline import Baseline, shown
from gradtrace.commands.baseline import write_baseline as write
from gradtrace.commands.ending import UNHEALTHY, in_a_sentence
from gradtrace.commands.outputs import check_baseline, check_outputs
from gradtrace.commands.screen import working
from gradtrace.commands.seeds import seed_all
from gradtrace.commands.verdicts import FORMATS, told
from gradtrace.errors import InputError
from gradtrace.project import find_settings
from gradtrace.records.shown import counted
from gradtrace.records.vocabulary import Severity

if TYPE_CHECKING:
    from gradtrace.project import Settings
    from gradtrace.records.finding import Diagnosis
    from gradtrace.report.checked import Checked


@click.command(short_help="What is wrong with a network, why, and what to change.")
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option("--steps", type=click.IntRange(min=0), metavar="K",
              help="Train a copy for K optimizer steps and judge what appears then.")  # fmt: skip
@click.option("--accumulate", type=click.IntRange(min=1), default=1, metavar="N", help="Batches per optimizer step.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True,
              help="Of the verdict: to read, for programs, or as CI takes it.")  # fmt: skip
@click.option("--save-trace", type=click.Path(dir_okay=False), metavar="PATH", help="Keep the trace (gzipped JSON).")
@click.option("--save", type=click.Path(dir_okay=False), metavar="FILE", help="Keep the diagnosis (gzipped JSON).")
@click.option("--report", type=click.Path(dir_okay=False), metavar="FILE", help="Write the report (one HTML file).")
@click.option("--fail-on", type=click.Choice([severity.value for severity in Severity]),
              help="Exit with 1 from this severity on.  [default: warning]")  # fmt: skip
@click.option("--baseline", type=click.Path(dir_okay=False), metavar="FILE",
              help="Findings that FILE lists do not count.")  # fmt: skip
@click.option("--write-baseline", is_flag=True, help="List the findings there are in the baseline, and exit with 0.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Of all random numbers.  [default: 0]")
@click.option("--device", metavar="D", help="Move model and batches there, as 'cuda:0'.")
@in_a_sentence
def check(
    targets: tuple[str, ...],
    form: str,
    save_trace: str | None,
    save: str | None,
    report: str | None,
    fail_on: str | None,
    baseline: str | None,
    write_baseline: bool,
    **how: Any,
) -> None:
    """Judge the network that each TARGET makes: package.module:factory or path/to/file.py:factory.

    The factory returns (model, loss_fn, batches), and optionally an optimizer; loss_fn(model, batch) returns the loss.
    Without a TARGET those are judged that [tool.gradtrace] of pyproject.toml, or gradtrace.toml, names.
    """
    project = find_settings()
    targets = targets or _configured(project)
    kept = {"--save-trace": save_trace, "--save": save, "--report": report}
    if len(targets) > 1 and any(kept.values()):
        name = next(name for name, path in kept.items() if path is not None)
        raise InputError(f"{name} takes one target, and there are {len(targets)}")
    severity = Severity(fail_on) if fail_on is not None else project.fail_on or Severity.WARNING
    listed = Path(baseline) if baseline is not None else project.baseline
    if write_baseline and listed is None:
        raise InputError("--write-baseline needs to know where: --baseline FILE, or baseline in [tool.gradtrace]")
    known = Baseline(listed) if listed is not None and not write_baseline else None
    check_outputs(records=(save_trace, save), pages=(report,))
    if write_baseline and listed is not None:
        check_baseline(listed)
    checked = [_checked(target, project, known, **how) for target in targets]
    _keep(checked[0].diagnosis, save_trace, save, report)
    if text := told(checked, form, severity, known):
        click.echo(text)
    if write_baseline and listed is not None:
        click.echo(f"Listed in {shown(listed)}: {counted(write(listed, checked), 'finding')}", err=True)
    elif any(finding.severity.rank >= severity.rank for each in checked for finding in each.new):
        sys.exit(UNHEALTHY)


def _configured(project: Settings) -> tuple[str, ...]:
    if project.file is None or not project.targets:
        raise click.UsageError("Missing argument 'TARGET': no targets in [tool.gradtrace] of pyproject.toml either")
    if str(project.file.parent) not in sys.path:  # where package.module is found
        sys.path.insert(0, str(project.file.parent))
    from gradtrace.commands.target import seen_from

    return tuple(seen_from(target, Path.cwd(), of=project.file.parent) for target in project.targets)


def _checked(
    target: str,
    project: Settings,
    known: Baseline | None,
    *,
    steps: int | None,
    accumulate: int,
    seed: int | None,
    device: str | None,
) -> Checked:
    """One target, as if it were the only one."""
    with working() as say:
        seed_all(seed if seed is not None else project.seed or 0)
        from gradtrace.commands.target import file_of, load_target
        from gradtrace.report.checked import Checked

        loaded = load_target(target)
        if device is not None:
            from gradtrace.commands.placement import place

            loaded = place(loaded, device)
        steps = steps if steps is not None else project.steps or 0
        if steps and loaded.optimizer is None:
            raise InputError(f"--steps needs an optimizer: {target} must return it as the fourth, after the batches")
        diagnosis = loaded.check(steps=steps, accumulate=accumulate, progress=say, thresholds=project.thresholds)
    found = known.known(target, diagnosis) if known is not None else ()
    return Checked(target, diagnosis, found, file_of(target))


def _keep(diagnosis: Diagnosis, save_trace: str | None, save: str | None, report: str | None) -> None:
    if save_trace is not None:
        _save_trace(diagnosis, save_trace)
    if save is not None:
        diagnosis.save(save)
        click.echo(f"Saved the diagnosis: gradtrace show {save}", err=True)
    if report is not None:
        diagnosis.report(report)


def _save_trace(diagnosis: Diagnosis, path: str) -> None:
    from gradtrace.report.tables import main_trace

    trace = main_trace(diagnosis)
    if trace is None:
        raise InputError("there is no trace to save: no backward pass was measured")
    trace.save(path)
    click.echo(f"Saved the trace: gradtrace show {path}", err=True)
