"""`gradtrace activations`: the table of slopes, gains and critical points."""

from __future__ import annotations

import click

from gradtrace.commands.ending import in_a_sentence
from gradtrace.commands.screen import screen_width
from gradtrace.errors import InputError


@click.command(short_help="The table of activation functions: slopes and gains.")
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
