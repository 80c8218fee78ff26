"""`gradtrace through-time`: follow the gradient step by step."""

from __future__ import annotations

from dataclasses import replace

import click

from gradtrace.commands.ending import in_a_sentence
from gradtrace.commands.outputs import check_outputs
from gradtrace.commands.screen import working
from gradtrace.commands.seeds import seed_all


@click.command("through-time", short_help="The gradient step by step in time, horizon, exponents.")
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
    check_outputs(records=(save,))
    with working() as say:
        seed_all(seed)
        import gradtrace
        from gradtrace.checkup.batches import take
        from gradtrace.commands.target import load_target

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
