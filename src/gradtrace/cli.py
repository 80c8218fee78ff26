"""The command line: parse, call, print. The only place that prints; torch is imported when it is needed."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from gradtrace import cli_lesson, cli_run
from gradtrace.commandline import any_encoding_will_do, in_a_sentence, progress_bar, screen_width, seed_all, working
from gradtrace.errors import InputError
from gradtrace.records.vocabulary import Severity

if TYPE_CHECKING:
    from gradtrace.records.finding import Diagnosis
    from gradtrace.target import Target

_UNHEALTHY = 1


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="gradtrace", message="gradtrace %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Look inside the backward pass: where does the gradient vanish or explode, why, and what to change?

    Exit code 0: healthy; 1: a finding at or above --fail-on; 2: wrong usage or bad input.
    """
    if context.invoked_subcommand != "run":  # whose standard output is the script's own
        any_encoding_will_do()


@main.command()
@click.argument("target")
@click.option("--steps", type=click.IntRange(min=0), default=0, metavar="K",
              help="Train a copy for K optimizer steps and judge what appears then.")  # fmt: skip
@click.option("--accumulate", type=click.IntRange(min=1), default=1, metavar="N", help="Batches per optimizer step.")
@click.option("--json", "as_json", is_flag=True, help="The verdict as JSON, for programs.")
@click.option("--save-trace", type=click.Path(dir_okay=False), metavar="PATH", help="Keep the trace (gzipped JSON).")
@click.option("--save", type=click.Path(dir_okay=False), metavar="FILE", help="Keep the diagnosis (gzipped JSON).")
@click.option("--report", type=click.Path(dir_okay=False), metavar="FILE", help="Write the report (one HTML file).")
@click.option("--fail-on", type=click.Choice([severity.value for severity in Severity]), default="warning",
              show_default=True, help="Exit with 1 from this severity on.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of all random numbers.")
@click.option("--device", metavar="D", help="Move model and batches there, as 'cuda:0'.")
@in_a_sentence
def check(
    target: str,
    steps: int,
    accumulate: int,
    as_json: bool,
    save_trace: str | None,
    save: str | None,
    report: str | None,
    fail_on: str,
    seed: int,
    device: str | None,
) -> None:
    """Judge the network that TARGET makes: package.module:factory or path/to/file.py:factory.

    The factory returns (model, loss_fn, batches), and optionally an optimizer; loss_fn(model, batch) returns the loss.
    """
    with working() as say:
        seed_all(seed)
        from gradtrace.target import load_target

        loaded = load_target(target)
        if device is not None:
            from gradtrace.placement import place

            loaded = place(loaded, device)
        diagnosis = _check(loaded, steps=steps, accumulate=accumulate, progress=say)
    if save_trace is not None:
        _save_trace(diagnosis, save_trace)
    if save is not None:
        diagnosis.save(save)
        click.echo(f"Saved the diagnosis: gradtrace show {save}", err=True)
    if report is not None:
        diagnosis.report(report)
    if as_json:
        click.echo(diagnosis.to_json())
    else:
        diagnosis.show()
    if any(finding.severity.rank >= Severity(fail_on).rank for finding in diagnosis.findings):
        sys.exit(_UNHEALTHY)


@main.command("through-time")
@click.argument("target")
@click.option("--at", type=click.Choice(["state", "input"]), default="state", show_default=True,
              help="Gradient at the states, or at the positions of the input (attention, convolutions).")  # fmt: skip
@click.option("--time-axis", type=int, metavar="N", help="Which axis of the input is time, where it cannot be told.")
@click.option("--exponents", type=click.IntRange(min=0), default=8, show_default=True, metavar="K",
              help="The K largest Lyapunov exponents of each recurrence.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The record as JSON, for programs.")
@click.option("--save", type=click.Path(dir_okay=False), metavar="PATH", help="Keep the record (gzipped JSON).")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of all random numbers.")
@in_a_sentence
def through_time(
    target: str, at: str, time_axis: int | None, exponents: int, as_json: bool, save: str | None, seed: int
) -> None:
    """Follow the gradient step by step in time: heat map, horizon and Lyapunov exponents of TARGET's first batch.

    loss_fn may return one loss per time step: the heat map is then theirs.
    """
    with working() as say:
        seed_all(seed)
        import gradtrace
        from gradtrace.checkup.batches import take
        from gradtrace.target import load_target

        loaded = load_target(target)
        batch = take(loaded.batches, 1)[0]
        say("through time")
        record = gradtrace.through_time(loaded.model, loaded.loss_fn, batch, at=at, time_axis=time_axis, seed=seed)
        if exponents and any(chain.kind != "loop" for chain in record.chains):

            def told(frac: float) -> None:
                say(f"exponents {frac:.0%}")

            spectra = gradtrace.lyapunov(loaded.model, loaded.loss_fn, batch, k=exponents, progress=told)
            record = replace(record, spectra=spectra)
    record = replace(record, title=target)
    if save is not None:
        record.save(save)
    if as_json:
        click.echo(record.to_json())
    else:
        record.show()


@main.command()
@click.argument("file", type=click.Path())
@in_a_sentence
def show(file: str) -> None:
    """Draw a saved run, trace, diagnosis, prediction or record through time; needs neither the model nor torch."""
    from gradtrace.report.showing import show_file

    show_file(file)


@main.command()
@click.argument("file", type=click.Path())
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), metavar="PATH", help="Where to; by default beside FILE."
)
@in_a_sentence
def report(file: str, output: str | None) -> None:
    """Write the report of anything that gradtrace saved: one HTML file that needs no network."""
    from gradtrace.report.showing import report_file

    click.echo(report_file(file, output))


@main.command()
@click.argument("file", type=click.Path())
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="By default any free one.")
@in_a_sentence
def serve(file: str, port: int) -> None:
    """Show the report of FILE while it goes on, or all runs of a folder, in this machine's browsers until Ctrl-C."""
    from gradtrace.report.html.server import ReportServer

    try:
        server = ReportServer(file, port)
    except OSError as error:
        raise InputError(f"cannot listen on port {port}: {error.strerror or error}") from error
    with server:
        click.echo(server.url)
        server.serve_forever()


@main.command()
@click.argument("case", required=False)
@click.option("--list", "list_cases", is_flag=True, help="Name the cases.")
@in_a_sentence
def demo(case: str | None, list_cases: bool) -> None:
    """Twenty layers of sigmoids that do not learn, and their ReLU twin that does.

    `demo rnn`: the same RNN over longer and longer sequences, an LSTM and attention beside it. `demo CASE`: a case of
    known illness.
    """
    if list_cases:
        from gradtrace.casebook import CASES

        click.echo("\n".join(CASES))
    elif case == "rnn":
        _demo_in_time()
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
    with working() as say:
        seed_all(0)
        options = {"steps": case.steps, "accumulate": case.accumulate}
        diagnosis = _check(as_target(case.build(), name), progress=say, **options)
    diagnosis.show()


def _demo_lecture() -> None:
    from gradtrace.demo import NUM_STEPS, networks, train
    from gradtrace.report.trained import compare

    with working() as say:
        targets = networks()
        diagnoses = [_check(target, progress=say) for target in targets]
    for diagnosis in diagnoses:
        diagnosis.show()
        click.echo("\n" + "-" * 80)
    with progress_bar() as progress:
        task = progress.add_task(f"training both for {NUM_STEPS} steps", total=NUM_STEPS * len(targets))
        outcomes = [train(target, lambda: progress.advance(task)) for target in targets]
    click.echo(compare(outcomes, NUM_STEPS))


def _demo_in_time() -> None:
    from rich.console import Console

    from gradtrace.demo_in_time import fadings, verdicts
    from gradtrace.report.fading import compare_lags, compare_lengths

    with working() as say:
        told = list(verdicts(lambda target: _check(target, progress=lambda what: say(f"{target.name}: {what}"))))
        say("gradients by lag")
        curves = list(fadings())
    console = Console()
    click.echo("The label hangs on the first of T steps, the loss on the last.")
    click.echo("How much of the gradient at the last state reaches the first?\n")
    click.echo(compare_lengths(told, console.width, ascii_only=console.options.ascii_only))
    click.echo("\nreaches: steps until a gradient has fallen to 1e-3; nothing longer is learnt.")
    click.echo("\nAll over the same 300 steps: the gradient at the input, k steps back from t")
    click.echo("(a shade: a decade; on the right: decades left at the longest lag)\n")
    click.echo(compare_lags(curves, console.width))
    click.echo("\nYours: gradtrace check path/to/file.py:factory")
    click.echo("In Python: gradtrace.through_time, gradtrace.lyapunov")


@main.command()
@click.argument("target")
@click.option("--json", "as_json", is_flag=True, help="The prediction as JSON, for programs.")
@click.option("--diagram", is_flag=True, help="Draw the phase diagram of the activation, with the layers on it.")
@click.option("--no-measure", is_flag=True, help="Theory alone, without the backward passes.")
@click.option("--save", type=click.Path(dir_okay=False), metavar="PATH", help="Keep the prediction (gzipped JSON).")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of all random numbers.")
@in_a_sentence
def predict(target: str, as_json: bool, diagram: bool, no_measure: bool, save: str | None, seed: int) -> None:
    """Say before training how the gradient will grow through TARGET's network, and measure it beside.

    The factory returns (model, example_input), or what `gradtrace check` takes.
    """
    with working():
        seed_all(seed)
        import gradtrace

        model, example_input = _audited(target)
        prediction = gradtrace.predict(model, example_input, measured=not no_measure, seed=seed)
    if save is not None:
        prediction.save(save)
        click.echo(f"Saved the prediction: gradtrace show {save}", err=True)
    if as_json:
        click.echo(prediction.to_json())
    else:
        prediction.show()
    if diagram and not as_json:
        click.echo("\n" + prediction.diagram())


@main.command()
@click.argument("target")
@click.option("--method", type=click.Choice(["gaussian", "orthogonal", "delta_orthogonal", "lsuv"]), default="gaussian",
              show_default=True, help="How weights are drawn.")  # fmt: skip
@click.option("--save", type=click.Path(dir_okay=False), metavar="PATH", help="Keep the weights (a torch state_dict).")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of all random numbers.")
@in_a_sentence
def init(target: str, method: str, save: str | None, seed: int) -> None:
    """Initialise TARGET's network so that its gradient neither grows nor shrinks, and audit it before and after."""
    with working():
        seed_all(seed)
        import torch

        import gradtrace

        model, example_input = _audited(target)
        before = gradtrace.predict(model, example_input)
        done = gradtrace.init_critical_(
            model, example_input, method=method, generator=torch.Generator().manual_seed(seed)
        )
        after = gradtrace.predict(model, example_input)
        if save is not None:
            torch.save(model.state_dict(), save)
    click.echo(str(done))
    for when, audit in (("before", before), ("after", after)):
        told = (
            f"{audit.measured_decades:+.2f} decades from output to input, growth {audit.growth_per_layer:.3g} per layer"
        )
        click.echo(f"{when}: {told} ({audit.phase})")


@main.command()
@click.argument("names", nargs=-1)
@in_a_sentence
def activations(names: tuple[str, ...]) -> None:
    """The table of activation functions (or the NAMES among them): slopes, moments, gains, critical points."""
    from gradtrace.report.phases import activations_text
    from gradtrace.theory.table import activation_rows

    try:
        rows = activation_rows(names)
    except ValueError as error:
        raise InputError(str(error)) from error
    from torch.nn.init import calculate_gain

    known = ("sigmoid", "tanh", "relu", "leaky_relu", "selu")
    gains = {name: calculate_gain(name) for name in known}  # type: ignore[arg-type]
    click.echo(activations_text(rows, {"identity": 1.0} | gains, screen_width()))


# --------------------------------------------------------------------------------------------------------- the work


def _audited(text: str) -> tuple[Any, Any]:
    """The model and what it is called with: (model, example_input), or the first call that `loss_fn` makes."""
    from gradtrace.target import as_target, load_made

    made = load_made(text)
    if isinstance(made, tuple) and len(made) == 2:
        return made
    loaded = as_target(made, text)
    from gradtrace.audit.arguments import captured_input
    from gradtrace.checkup.batches import take

    return loaded.model, captured_input(loaded.model, loaded.loss_fn, take(loaded.batches, 1)[0])


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


for command in (*cli_run.COMMANDS, *cli_lesson.COMMANDS):
    main.add_command(command)
