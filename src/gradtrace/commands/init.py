"""`gradtrace init`: initialise so that the gradient neither grows nor shrinks."""

from __future__ import annotations

import math
import zipfile

import click

from gradtrace.commands.ending import in_a_sentence
from gradtrace.commands.outputs import WEIGHTS, check_weights
from gradtrace.commands.screen import working
from gradtrace.commands.seeds import seed_all


@click.command(short_help="Initialise so that the gradient neither grows nor shrinks.")
@click.argument("target")
@click.option("--method", type=click.Choice(["gaussian", "orthogonal", "delta_orthogonal", "lsuv"]), default="gaussian",
              show_default=True, help="How weights are drawn.")  # fmt: skip
@click.option("--save", type=click.Path(dir_okay=False), metavar="PATH", help="Keep the weights (a torch state_dict).")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of all random numbers.")
@in_a_sentence
def init(target: str, method: str, save: str | None, seed: int) -> None:
    """Initialise TARGET's network so that its gradient neither grows nor shrinks, and audit it before and after."""
    check_weights(save)
    with working():
        seed_all(seed)
        import torch

        import gradtrace
        from gradtrace.commands.target import load_audited

        model, example_input = load_audited(target)
        before = gradtrace.predict(model, example_input)
        done = gradtrace.init_critical_(
            model, example_input, method=method, generator=torch.Generator().manual_seed(seed)
        )
        after = gradtrace.predict(model, example_input)
        if save is not None:
            torch.save(model.state_dict(), save)
            with zipfile.ZipFile(save, "a") as archive:
                archive.comment = WEIGHTS
    click.echo(str(done))
    for when, audit in (("before", before), ("after", after)):
        growth = audit.growth_per_layer
        told = "" if math.isnan(growth) else f", growth {growth:.3g} per layer ({audit.phase})"
        click.echo(f"{when}: {audit.measured_decades:+.2f} decades from output to input{told}")
