"""`gradtrace explain`: what a code or a word means."""

from __future__ import annotations

import click

from gradtrace.commands.ending import in_a_sentence
from gradtrace.commands.screen import screen_width
from gradtrace.errors import InputError


def offered(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """What the shell completes `begun` to."""
    from gradtrace.report.explanation import known

    return [word for word in known() if word.lower().startswith(begun.lower())]


@click.command(short_help="What a code (GT101) or a word means, and what to change.")
@click.argument("word", nargs=-1, shell_complete=offered)
@in_a_sentence
def explain(word: tuple[str, ...]) -> None:
    """Say what a finding's code (GT101) or a word (merge, post_norm) means, and what to change.

    Without a WORD the codes are listed.
    """
    from gradtrace.records.codes import USUAL
    from gradtrace.report import explanation

    if not word:
        told = [explanation.explain(code) for code in USUAL]
        click.echo("\n".join(each.title for each in told if each is not None))
        return
    asked = " ".join(word)
    found = explanation.explain(asked)
    if found is None:
        near = explanation.near(asked)
        hint = f"did you mean {near!r}?" if near else "`gradtrace explain` lists the codes"
        raise InputError(f"there is no code or word {asked!r}; {hint}")
    click.echo(explanation.explanation_text(found, min(screen_width(), 100)))
