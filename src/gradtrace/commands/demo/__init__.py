"""`gradtrace demo`: the lecture's networks, looked into and trained; or a case of known illness."""

from __future__ import annotations

import click

from gradtrace.commands.ending import in_a_sentence
from gradtrace.commands.screen import progress_bar, working
from gradtrace.commands.seeds import seed_all
from gradtrace.errors import InputError


@click.command(short_help="Sigmoids that do not learn and their ReLU twin that does.")
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
    from gradtrace.commands.target import as_target

    if name not in CASES:
        near = difflib.get_close_matches(name, CASES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`gradtrace demo --list` names them"
        raise InputError(f"there is no case {name!r}; {hint}")
    case = CASES[name]
    with working() as say:
        seed_all(0)
        options = {"steps": case.steps, "accumulate": case.accumulate}
        diagnosis = as_target(case.build(), name).check(progress=say, **options)
    diagnosis.show()


def _demo_lecture() -> None:
    from gradtrace.commands.demo.lecture import NUM_STEPS, networks, prove, train
    from gradtrace.report.repair import curves
    from gradtrace.report.trained import compare

    with working() as say:
        targets = networks()
        diagnoses = [target.check(progress=say) for target in targets]
    for diagnosis in diagnoses:
        diagnosis.show()
        click.echo("\n" + "-" * 80)
    with working() as say:  # before the training below, which moves the network in place
        repair = prove(targets[0], say)
    with progress_bar() as progress:
        task = progress.add_task(f"training both for {NUM_STEPS} steps", total=NUM_STEPS * len(targets))
        outcomes = [train(target, lambda: progress.advance(task)) for target in targets]
    click.echo(compare(outcomes, NUM_STEPS))
    click.echo("\n" + "-" * 80 + "\nIs that the cause? Each change tried on copies of the sigmoid network:\n")
    repair.show()
    if drawn := curves(repair):
        click.echo(f"\nLoss, median of {repair.seeds} trainings:\n{drawn}")
    click.echo("\nYours: gradtrace fix path/to/file.py:factory")


def _demo_in_time() -> None:
    from rich.console import Console

    from gradtrace.commands.demo.in_time import fadings, verdicts
    from gradtrace.report.fading import compare_lags, compare_lengths

    with working() as say:
        told = list(verdicts(lambda target: target.check(progress=lambda what: say(f"{target.name}: {what}"))))
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
