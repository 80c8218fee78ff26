"""`gradtrace predict`: how will the gradient grow, before training?"""

from __future__ import annotations

import click

from gradtrace.commands.ending import in_a_sentence
from gradtrace.commands.outputs import check_outputs
from gradtrace.commands.screen import working
from gradtrace.commands.seeds import seed_all


@click.command(short_help="How the gradient will grow, before training; measured beside.")
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
    check_outputs(records=(save,))
    with working():
        seed_all(seed)
        import gradtrace
        from gradtrace.commands.target import load_audited

        model, example_input = load_audited(target)
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
